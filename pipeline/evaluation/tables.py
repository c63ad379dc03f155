"""Tables in the form of the paper's Tables 1-8: our numbers with intervals, beside the paper's where it has any."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common import paths, records
from pipeline.evaluation.paper import COLUMNS, ROWS, PaperTable
from pipeline.evaluation.task import Outcome

PARTS = ("", "_ci_low", "_ci_high", "_paper")  # endings of a column's name: value, interval, the paper's number
Entry = dict[str, float | str | None]  # one cell of a table: part → number, or text where that is censored


def number(value: float | str | None, digits: int = 6) -> str:
    """Return a number with so many significant digits, empty for none; text stays as it is."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.{digits}g}" if np.isfinite(value) else ""


def entry(table: PaperTable, outcome: Outcome, condition: str) -> Entry:
    """Return one cell of a table: value and interval, and the paper's number on its own data; ``< -50``: censored."""
    values: list[float | str | None] = [None, None, None]
    if condition in outcome.summary and table.quantity == "speed_up":
        speed = outcome.summary[condition]["speed_up_percent"]
        # A quantile that is missing though there are repetitions is censored; of one there is no interval.
        for place, name in enumerate(("median", "median_ci_low", "median_ci_high")[: 1 if speed["n"] == 1 else 3]):
            values[place] = f"< {speed['censored_below']:.0f}" if speed["n"] and speed[name] is None else speed[name]
    elif condition in outcome.summary:
        measure = outcome.task.measure
        shown = (outcome.summary[condition][measure.name][name] for name in ("mean", "ci_low", "ci_high"))
        values = [None if value is None else value * measure.scale for value in shown]
    return dict(zip(PARTS, (*values, table.value(condition) if outcome.paper else None), strict=True))


def write_frame(frame: pd.DataFrame, destination: Path) -> None:
    """Write a frame as CSV with nine significant digits."""
    records.write_text(destination, frame.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame as a Markdown table, numbers with four significant digits."""
    shown = frame.map(lambda value: number(value, 4) if isinstance(value, float) else str(value))
    rows = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_stack(outcomes: Sequence[Outcome], frames: Iterable[pd.DataFrame], name: str) -> None:
    """Write the rows of all runs' frames as one table, task and cell first."""
    parts = {(o.name, o.run.cell): frame for o, frame in zip(outcomes, frames, strict=True)}
    filled = {key: frame for key, frame in parts.items() if len(frame)}  # empty columns have no type
    stack = pd.concat(filled or parts, names=["task", "cell"]).reset_index(["task", "cell"])
    write_frame(stack, paths.TABLES / f"{name}.csv")


def write(outcomes: Sequence[Outcome]) -> None:
    """Write the tables of all outcomes, their paired differences, and mean learning curves for DVC's plots."""
    for outcome in outcomes:
        parts = PARTS if outcome.paper else PARTS[:-1]
        for table in outcome.tables:
            rows = []
            for label, kind in ROWS:  # that without noise, which the paper gives in captions, repeats one value
                own = {c: entry(table, outcome, "none" if kind == "none" else f"{kind}-{c}") for c in COLUMNS}
                texts = {c.replace("-", "_") + part: number(own[c][part]) for part in parts for c in COLUMNS}
                rows.append({"training_algorithm": label, **texts})
            write_frame(pd.DataFrame(rows), paths.TABLES / f"{outcome.prefix}{table.name}.csv")
        columns = list(dict.fromkeys(("train_loss", "test_loss", outcome.task.measure.curve)))
        mean = outcome.run.curves.groupby(["condition", "epoch"], sort=False)[columns].mean().reset_index()
        mean["run"] = f"{outcome.name} {outcome.run.cell}"
        write_frame(mean, paths.PLOTS / f"{outcome.name}_{outcome.run.cell}.csv")
    write_stack(outcomes, [outcome.differences for outcome in outcomes], "paired_differences")
