"""What stands at the end of ``make repro``: each run in a line, how long each stage took, and what to do next."""

from ruamel.yaml import YAML

from pipeline.common import paths, records
from pipeline.evaluation import summary


def main() -> None:
    """Print it, from the files that the stages left."""
    content = records.read_json(paths.SUMMARY)
    sources = {name: paths.source_record(name) for name in content}
    known = {name: records.read_json(file).get("source", "") for name, file in sources.items() if file.is_file()}
    print(summary.generated(known) + summary.printed(content))
    runs = [run for run in map(records.read_json, paths.RUNS.rglob("run.json")) if run["task"] in content]
    print(f"Networks, each a run in MLflow: {sum(len(r['settings']['conditions']) * r['repetitions'] for r in runs)}")
    if paths.TIMES.is_file():
        times = records.read_json(paths.TIMES)
        stages = YAML(typ="safe").load(paths.PIPELINE.read_text("utf-8"))["stages"]
        own = [f"{name} {times[name]:g}" for stage in stages for name in times if name.split()[0] == stage]
        print(f"Seconds of each stage when it last ran: {', '.join(own)}")
    print(f"Open {paths.REPORT}, or run `make ui` to compare all runs in MLflow.")


if __name__ == "__main__":
    main()
