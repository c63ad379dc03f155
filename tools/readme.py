"""Put the present results and pictures into the README: ``make docs`` after ``make repro``.

A run (a task, or a further split of one) goes between its marks ``<!-- NAME:start -->`` and ``<!-- NAME:end -->``.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from pipeline import tasks
from pipeline.common import paths, records
from pipeline.evaluation.task import Task

README, IMAGES = Path("README.md"), Path("docs/images")


def cells(task: Task, cell: str, condition: str, summary: dict[str, Any]) -> list[str]:
    """Return a condition's row: our headline with its interval and our median speed-up, the paper's beside each."""
    paper = {table.quantity: table.value(condition) for table in task.tables if table.cell == cell}
    headline, middle = summary[task.measure.name], summary["speed_up_percent"]
    digits = 1 if task.head == "softmax" else 3
    values = (headline[name] for name in ("mean", "ci_low", "ci_high"))
    mean, low, high = ("–" if v is None else f"{v * task.measure.scale:.{digits}f}" for v in values)
    below = f"< {middle['censored_below']:.0f} %" if middle["median"] is None else f"{middle['median']:.0f} %"
    printed = [paper.get(quantity) for quantity in (task.measure.quantity, "speed_up")]
    shown = ["–" if value is None else f"{value:g}" for value in printed]
    return [f"`{condition}`", f"{mean} [{low}, {high}]", shown[0], below, shown[1]]


def section(name: str, content: dict[str, dict[str, Any]]) -> str:
    """Return the tables of a run, one per cell, as Markdown."""
    task, parts = tasks.of(name.partition("_")[0]), []
    heads = ["condition", task.measure.label(""), "paper", "speed-up", "paper [%]"]
    for cell, conditions in content.items():
        rows = [heads, ["---"] * len(heads), *(cells(task, cell, *item) for item in conditions.items())]
        parts.append(f"**{cell.upper()}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    metrics, text = records.read_json(paths.METRICS), README.read_text(encoding="utf-8")
    for run, content in metrics.items():
        begin, separator, rest = text.partition(f"<!-- {run}:start -->\n")
        if separator:
            text = f"{begin}{separator}{section(run, content)}\n{rest[rest.index(f'<!-- {run}:end -->') :]}"
    for picture in re.findall(r"\(docs/images/([\w.]+\.png)\)", text):
        if (paths.FIGURES / picture).is_file():
            shutil.copyfile(paths.FIGURES / picture, IMAGES / picture)
    records.write_text(README, text)
