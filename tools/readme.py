"""Put the present results into the README as facts: ``make docs`` after ``make repro``.

Every run (a task, or a further split of one) whose marks ``<!-- NAME:start -->`` and ``<!-- NAME:end -->`` the README
holds gets its table between them; pictures that the README shows are copied from the present figures.
"""

import re
import shutil
import sys
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
    values = [headline[name] for name in ("mean", "ci_low", "ci_high")]
    digits = 1 if task.head == "softmax" else 3
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


def main() -> int:
    """Write what the README has room for; return the exit status."""
    metrics, text = records.read_json(paths.METRICS), README.read_text(encoding="utf-8")
    names = [name for name in metrics if name != "baselines" and f"<!-- {name}:start -->" in text]
    for name in names:
        between = re.compile(rf"(<!-- {name}:start -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text = between.sub(lambda m, n=name: f"{m[1]}{section(n, metrics[n])}\n{m[2]}", text)  # type: ignore[misc]
    pictures = [paths.FIGURES / file for file in re.findall(r"\(docs/images/([\w.]+\.png)\)", text)]
    for picture in (picture for picture in pictures if picture.is_file()):
        shutil.copyfile(picture, IMAGES / picture.name)
    records.write_text(README, text)
    print(f"readme: wrote {', '.join(names) or 'nothing: README.md has no marks for these results'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
