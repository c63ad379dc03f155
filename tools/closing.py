"""What stands at the end of ``make repro``: each run in a line, how long each stage took, and what to do next."""

from pipeline.common import paths, records
from pipeline.evaluation import summary


def main() -> None:
    """Print it, from the files that the stages left."""
    print(summary.printed(records.read_json(paths.SUMMARY)))
    if paths.TIMES.is_file():
        times = records.read_json(paths.TIMES)
        print("Seconds of each stage when it last ran: " + ", ".join(f"{name} {times[name]:g}" for name in times))
    print(f"Open {paths.REPORT}, or run `make ui` to compare all runs in MLflow.")


if __name__ == "__main__":
    main()
