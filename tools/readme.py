"""Put the present results into README and the pages of results, study and speed as facts: ``make facts``.

A task whose marks ``<!-- NAME:start -->`` and ``<!-- NAME:end -->`` a page holds gets one table of its cells and splits
between them, if its data are published ones; what has no results stays. ``docs/study.md`` gets the study's
summary. Pictures that either shows are copied from the present ones.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import tasks
from pipeline.common import paths, records, sequences
from pipeline.evaluation.tables import markdown
from pipeline.evaluation.task import Task
from pipeline.why import table
from pipeline.why.page import finding

README, RESULTS, STUDY, SPEED, IMAGES = map(
    Path, ("README.md", "docs/results.md", "docs/study.md", "docs/performance.md", "docs/images")
)
BENCH = paths.RESULTS / "bench.json"  # of `make bench`
PUBLISHED = ("paper", "ucf11", "ucf101")  # sources whose results are facts for these pages
ROWS = Path("docs/why/rows.csv")
SUMMARY = paths.DATA / "study/tables/summary.md"  # of pipeline/study/report.py


def section(task: Task, metrics: dict[str, Any]) -> str:
    """Return what a task's results are: a table with a row per condition, and what the columns and baselines mean."""
    measure, digits = task.measure, 1 if task.head == "softmax" else 3
    present = sequences.splits(paths.sequences(task.name))
    names = [paths.run_name(task.name, split if number else None) for number, split in enumerate(present)]
    splits = [task.splits.get(split, "") for split in present]
    cells = sorted(metrics[task.name], key=["lstm", "gru"].index)
    run = records.read_json(paths.run_folder(task.name, cells[0]) / "run.json")

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value * measure.scale:.{digits}f}"

    def row(condition: str) -> list[str]:
        columns = [f"`{condition}`"]
        for cell in cells:
            paper = {table.quantity: table.value(condition) for table in task.tables if table.cell == cell}
            speeds = []
            for name in names:
                own = metrics[name][cell][condition]
                value, speed, failed = own[measure.name], own["speed_up_percent"], own["failed"]["mean"]
                columns.append(f"{shown(value['mean'])} [{shown(value['ci_low'])}, {shown(value['ci_high'])}]"
                               + f", {failed:g} failed" * bool(failed))  # fmt: skip
                below = f"< {speed['censored_below']:.0f}" if speed["censored"] else "–"
                speeds.append(below if speed["median"] is None else f"{speed['median']:.0f}")
            theirs = ["–" if v is None else f"{v:g}" for v in map(paper.get, (measure.quantity, "speed_up"))]
            columns += [theirs[0], "; ".join(speeds), theirs[1]]
        return columns

    heads = ["condition"]
    for cell in cells:
        heads += [f"{cell.upper()}{f', {split}' if split else ''}" for split in splits]
        heads += ["paper", "speed-up", "paper"]
    lines = pd.DataFrame(map(row, run["settings"]["conditions"]), columns=heads)
    known = [metrics["baselines"][name] for name in names]
    told = (", ".join(f"{task.called(key)} {shown(value)}" for key, value in own.items()) for own in known)
    naive = [f"{split}: {words}" if split else words for split, words in zip(splits, told, strict=True)]
    return (
        f"{measure.label(run['unit']).capitalize()}: mean of {run['repetitions']} paired repetitions and bootstrap "
        f"interval. Speed-ups [%] are medians{', in the order of the splits' * (len(names) > 1)}; the noiseless one "
        "need not be 0, since its own loss may pass its last value early. Without a recurrent network: "
        f"{'; '.join(naive)}.\n\n{markdown(lines)}"
    )


def speeds(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return a table of each part of the benchmark, called ``bench-<part>``."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    found = {}
    for path, own in rows.items():
        lines = pd.DataFrame([
            {"what: against what": name, "ours": f"{number(row['ours'])} {row['unit']}",
             "peer": number(row["peer"]),
             "ratio": "" if row["ratio"] is None else f"{row['ratio']:.2f}",
             "of the floor": "" if row["share_of_floor"] is None else f"{row['share_of_floor']:.0%}",
             "note": row.get("note", "")}
            for name, row in own.items()
        ])  # fmt: skip
        machines = "; ".join(sorted({row["machine"] for row in own.values()}))
        found[f"bench-{path}"] = f"{markdown(lines.loc[:, (lines != '').any()])}\n\nMeasured on: {machines}."
    return found


def fill(file: Path, sections: dict[str, str], pictures: Path) -> None:
    """Write sections between their marks in a file, and copy the pictures that it shows if there are any."""
    text = file.read_text(encoding="utf-8")
    names = [name for name in sections if f"<!-- {name}:start -->" in text]
    for name in names:
        start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}{sections[name].strip()}\n{end}{rest.partition(end)[2]}"
    for picture in re.findall(r"images/([\w.]+\.png)\)", text):
        if names and (pictures / picture).is_file():
            shutil.copyfile(pictures / picture, IMAGES / picture)
    records.write_text(file, text)
    print(f"docs: {file}: wrote {', '.join(names) or 'nothing, for it has no marks for the present results'}")


def main() -> int:
    """Write what README and study have room for; return the exit status."""
    metrics = records.read_json(paths.METRICS) if paths.METRICS.is_file() else {}
    present = [task for name, task in tasks.TASKS.items() if name in metrics]
    real = [task for task in present if records.read_json(paths.source_record(task.name))["source"] in PUBLISHED]
    sections = {task.name: section(task, metrics) for task in real}
    if ROWS.is_file():
        sections["why"] = finding(table.load(ROWS))
    for page in (README, RESULTS):
        fill(page, sections, paths.FIGURES if real else Path())
    if BENCH.is_file():
        fill(SPEED, speeds(records.read_json(BENCH)), Path())
    text = SUMMARY.read_text(encoding="utf-8") if SUMMARY.is_file() else ""
    fill(STUDY, {"study": text.replace("](study_", "](images/study_")} if text else {}, SUMMARY.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
