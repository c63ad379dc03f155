"""The paper's Tables 1-8, rebuilt: our numbers with intervals, beside the paper's."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import paths, records
from pipeline.evaluation import paper
from pipeline.evaluation.metrics import Outcome

ROWS = (("RBP without noise", "none"), ("RBP with blind noise", "blind"), ("RBP with NEM noise", "nem"))


def number(value: float | None, digits: int = 6) -> str:
    """Return a number for CSV: fixed significant digits, empty for none."""
    return "" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def build(table: paper.Table, outcome: Outcome) -> list[dict[str, str]]:
    """Return the rows of one table.

    Columns are those of the paper (training algorithm; additive and multiplicative noise in output, hidden, both),
    each with its interval and the paper's number. The noiseless row, which the paper gives in captions, repeats one
    value. Accuracies are in per cent; a speed-up is the median over repetitions, ``< -50`` where that is censored.

    Args:
        table: which.
        outcome: the run's statistics.
    """
    out = []
    for label, kind in ROWS:
        row: dict[str, str] = {"training_algorithm": label}
        cells: dict[str, dict[str, str]] = {}
        for column in paper.COLUMNS:
            condition = "none" if kind == "none" else f"{kind}-{column}"
            cells[column] = entry(table, outcome, condition)
        for part in ("", "_ci_low", "_ci_high", "_paper"):
            for column in paper.COLUMNS:
                row[column.replace("-", "_") + part] = cells[column][part]
        out.append(row)
    return out


def entry(table: paper.Table, outcome: Outcome, condition: str) -> dict[str, str]:
    """Return one cell of a table: value, interval and the paper's number, as text."""
    printed = table.value(condition)
    if condition not in outcome.summary:
        return {"": "", "_ci_low": "", "_ci_high": "", "_paper": number(printed)}
    if table.quantity == "speed_up":
        speed = outcome.speed_ups[condition]
        found = outcome.summary[condition]["speed_up_percent"]

        def placed(name: str) -> str:
            """Return a quantile as text; one that is missing though there are repetitions is censored."""
            if not len(speed.percent) or (name != "median" and len(speed.percent) < 2):
                return ""
            return f"< {speed.bound:.0f}" if found[name] is None else number(found[name])

        value, low, high = (placed(name) for name in ("median", "median_ci_low", "median_ci_high"))
    else:
        scale = 100.0 if table.quantity == "accuracy" else 1.0
        found = outcome.summary[condition][outcome.metric]
        value, low, high = (
            number(None if found[name] is None else found[name] * scale)  # type: ignore[operator]
            for name in ("mean", "ci_low", "ci_high")
        )
    return {"": value, "_ci_low": low, "_ci_high": high, "_paper": number(printed)}


def write_rows(rows: Iterable[dict[str, Any]], destination: Path) -> None:
    """Write rows as CSV."""
    rows = list(rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    records.write_text(destination, stream.getvalue())


def write_frame(frame: pd.DataFrame, destination: Path) -> None:
    """Write a frame as CSV with nine significant digits."""
    records.write_text(destination, frame.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def write(outcomes: list[Outcome]) -> None:
    """Write the tables of all outcomes, and their paired differences."""
    for outcome in outcomes:
        prefix = "" if outcome.run.task != "video_groups" else "groups_"
        for table in paper.tables_of(outcome.run.task, outcome.run.cell):
            write_rows(build(table, outcome), paths.TABLES / f"{prefix}table_{table.number}.csv")
    write_frame(pd.concat([each.differences for each in outcomes]), paths.TABLES / "paired_differences.csv")
