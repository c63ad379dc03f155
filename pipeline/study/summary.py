"""Numbers from rows: effects with intervals, and the tables that the study reports.

An *effect* compares two sides over paired repetitions and is positive where the first is better:

- ``error``: by how much its test loss is smaller [%], 100 (1 - ratio), from the mean of log ratios: losses span
  decades, and a mean of differences would be that of the worst repetition alone;
- ``accuracy`` and ``calibration``: difference [points], of test accuracy, and of calibration error turned round;
- ``speed``: how many epochs sooner it reaches the noiseless loss at R [% of R]; a side that never does counts as if
  it did one epoch after the last, which understates how bad it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.conditions import Condition
from pipeline.evaluation.statistics import Interval, holm, mean_interval, sign_flip_p_value
from pipeline.study.plan import EVERY, NEM, SAME_RATE, SINGLE, VARIANTS, Study, Task

Floats = npt.NDArray[np.float64]
Measure = Literal["error", "accuracy", "calibration", "speed"]
UNITS: dict[Measure, str] = {
    "error": "% smaller test loss",
    "accuracy": "points of accuracy",
    "calibration": "points less calibration error",
    "speed": "% of R sooner at the noiseless loss",
}
SETTING = [
    "purpose",
    "task",
    "cell",
    "split",
    "optimiser",
    "rate",
    "sigma",
    "decay",
    "granularity",
    "injection",
    "latent",
]
REFERENCES = ("none", "blind", "matched", "expected-nem")


@dataclass(frozen=True)
class Side:
    """One condition's results over repetitions 0, 1, … in order.

    Attributes:
        loss: ``(n,)`` test loss at R; NaN where the network had failed.
        accuracy: ``(n,)`` test accuracy; NaN for values.
        calibration: ``(n,)`` calibration error; NaN for values.
        reached: ``(n,)`` first epoch at the noiseless loss, the last epoch + 1 where it never came.
        epochs: R.
    """

    loss: Floats
    accuracy: Floats
    calibration: Floats
    reached: Floats
    epochs: int


@dataclass(frozen=True)
class Effect:
    """A paired comparison.

    Attributes:
        value: in the measure's unit, positive where the first side is better; ``None`` without pairs.
        low: lower end of the interval.
        high: upper end.
        p: exact sign-flip p-value.
        n: pairs.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int


def reached(curve: Floats, goal: float) -> float:
    """Return the first epoch from 1 on at which a test loss is ``goal`` or less; one past the last if there is none."""
    found = np.flatnonzero(curve[1:] <= goal)
    return float(found[0] + 1 if len(found) else len(curve))


def side(rows: pd.DataFrame, baseline: pd.DataFrame, epochs: int) -> Side:
    """Return a condition's side.

    Args:
        rows: its rows, one per repetition.
        baseline: the noiseless rows whose losses at R are to be reached.
        epochs: R.

    Raises:
        ValueError: repetitions of both differ.
    """
    mine, noiseless = (each.sort_values("repetition") for each in (rows, baseline))
    if mine.repetition.tolist() != noiseless.repetition.tolist():
        raise ValueError(
            f"expected equal repetitions, found {mine.repetition.tolist()} and {noiseless.repetition.tolist()}; "
            "run `make study` again"
        )
    firsts = [reached(curve, goal[epochs]) for curve, goal in zip(mine.curve, noiseless.curve, strict=True)]
    return Side(
        mine.test_loss.to_numpy(float), mine.test_accuracy.to_numpy(float), mine.calibration_error.to_numpy(float),
        np.array(firsts), epochs,
    )  # fmt: skip


def raw(first: Side, second: Side, measure: Measure) -> Floats:
    """Return the effect per repetition, before :func:`shown`; NaN where either failed."""
    if measure == "error":
        return np.log(np.maximum(second.loss, 1e-12)) - np.log(np.maximum(first.loss, 1e-12))
    if measure == "accuracy":
        return 100 * (first.accuracy - second.accuracy)
    if measure == "calibration":
        return 100 * (second.calibration - first.calibration)
    return 100 * (second.reached - first.reached) / first.epochs


def shown(value: float, measure: Measure) -> float:
    """Return a mean of raw effects in the measure's unit; a log ratio becomes a percentage."""
    return 100 * float(-np.expm1(-value)) if measure == "error" else value


def interval(values: Floats, study: Study) -> Interval:
    """Return the mean of the finite values with its percentile bootstrap interval."""
    return mean_interval(values[np.isfinite(values)], study.confidence, study.bootstrap, study.seed)


def effect(first: Side, second: Side, measure: Measure, study: Study) -> Effect:
    """Compare two sides over the repetitions in which neither failed."""
    values = raw(first, second, measure)
    found = interval(values, study)
    mean, low, high = (None if each is None else shown(each, measure) for each in (found.mean, found.low, found.high))
    return Effect(mean, low, high, sign_flip_p_value(values[np.isfinite(values)]), found.n)


def group(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield each setting with its rows, in order."""
    for key, part in rows.groupby(SETTING, sort=False):
        yield dict(zip(SETTING, key, strict=True)), part


def regimes(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return one row per setting and condition: means with intervals, speed-ups, and effects against no noise.

    Where a setting's own noiseless nets are not among its rows (chosen settings), those of the same purpose are.
    """
    found = []
    for key, part in group(rows):
        epochs = study.grid(key["task"]).epochs
        last = study.grid(key["task"]).max_epochs
        noiseless = part[part.condition == "none"]
        if not len(noiseless):
            same = (rows[name] == key[name] for name in ("purpose", "task", "cell", "split"))
            noiseless = rows[np.logical_and.reduce([*same, rows.condition == "none"])]
        block = []
        for condition, mine in part.groupby("condition", sort=False):
            row: dict[str, Any] = {**key, "condition": condition, "n": len(mine), "failed": int(mine.failed.sum())}
            for name in ("validation_loss", "train_loss", "test_loss", "test_accuracy", "calibration_error"):
                spread = interval(mine[name].to_numpy(float), study)
                row |= {name: spread.mean, f"{name}_low": spread.low, f"{name}_high": spread.high}
            for name in ("acceptance_output", "acceptance_hidden"):
                row[name] = float(mine[name].mean()) if mine[name].notna().any() else None
            if len(noiseless) == len(mine):
                ours, base = side(mine, noiseless, epochs), side(noiseless, noiseless, epochs)
                row["speed_up"] = float(np.median(100 * (epochs - ours.reached) / epochs))
                row["censored"] = int((ours.reached > last).sum())
                gain = effect(ours, base, "error", study)
                row |= {"error_reduction": gain.value, "error_low": gain.low, "error_high": gain.high, "p": gain.p}
            block.append(row)
        for row, p in zip(block, holm([row.get("p") for row in block]), strict=True):
            row["p_holm"] = p
        found += block
    return pd.DataFrame(found)


@dataclass(frozen=True)
class Context:
    """Where conditions are compared: a task and split in one regime, both cells."""

    task: str
    split: str
    regime: str

    @property
    def name(self) -> str:
        """Short name."""
        return f"{self.split}, {self.regime}" if self.task == "clips" else self.regime


def contexts(rows: pd.DataFrame, regimes_: tuple[str, ...]) -> list[Context]:
    """Return the contexts among rows, in order."""
    part = rows[rows.purpose.isin(regimes_)]
    return [Context(*key) for key in dict.fromkeys(zip(part.task, part.split, part.purpose, strict=True))]


class Sides:
    """All sides of the finals, by context, cell and condition."""

    def __init__(self, rows: pd.DataFrame, study: Study) -> None:
        self._parts = dict(iter(rows.groupby(["task", "split", "purpose", "cell", "condition"], sort=False)))
        self._study = study
        self._made: dict[tuple[str, ...], Side] = {}

    def get(self, context: Context, cell: str, condition: str) -> Side | None:
        """Return a side; ``None`` if it was not trained."""
        place = (context.task, context.split, context.regime, cell)
        mine, noiseless = (*place, condition), (*place, "none")
        if mine not in self._parts or noiseless not in self._parts:
            return None
        if mine not in self._made:
            epochs = self._study.grid(context.task).epochs  # type: ignore[arg-type]
            self._made[mine] = side(self._parts[mine], self._parts[noiseless], epochs)
        return self._made[mine]

    def same_rate(self, context: Context, cell: str, condition: str) -> Side | None:
        """Return the noiseless side at the learning rate that was chosen for a condition (regime ``tuned``)."""
        place = (context.task, context.split)
        mine = self._parts.get((*place, context.regime, cell, condition))
        rows, none = (self._parts.get((*place, p, cell, "none")) for p in (SAME_RATE, context.regime))
        if mine is None or rows is None or none is None or context.regime != "tuned":
            return None
        same = rows[(rows.rate == mine.rate.iloc[0]) & (rows.optimiser == mine.optimiser.iloc[0])]
        return side(same, none, self._study.grid(context.task).epochs) if len(same) else None  # type: ignore[arg-type]


def _reference(condition: str, kind: str) -> str | None:
    """Return the condition of another kind in the same mode and layer, if the study has it."""
    parsed = Condition.parse(condition)
    name = "none" if kind == "none" else f"{kind}-{parsed.mode}-{parsed.place}"
    return name if name in EVERY else None


def comparisons(rows: pd.DataFrame, study: Study, purposes: tuple[str, ...]) -> pd.DataFrame:
    """Return NEM and expected NEM against no noise, and NEM against blind, matched blind and expected NEM.

    p-values are Holm-adjusted over the conditions of one context, cell, reference and measure.
    """
    sides, found = Sides(rows, study), []
    for context in contexts(rows, purposes):
        measures: tuple[Measure, ...] = (
            ("error", "speed") if context.task == "fx" else ("error", "accuracy", "calibration", "speed")
        )
        for cell in dict.fromkeys(rows[rows.task == context.task].cell):
            for kind in (*REFERENCES, SAME_RATE):
                names = EVERY[1:] if kind in ("none", SAME_RATE) else NEM
                for measure in measures:
                    block = []
                    for condition in names:
                        first = sides.get(context, cell, condition)
                        other: str | None
                        if kind == SAME_RATE:
                            other, second = f"none, {kind}", sides.same_rate(context, cell, condition)
                        else:
                            other = _reference(condition, kind)
                            second = None if other is None else sides.get(context, cell, other)
                        if first is None or second is None:
                            continue
                        gain = effect(first, second, measure, study)
                        block.append(
                            {
                                "task": context.task, "split": context.split, "regime": context.regime, "cell": cell,
                                "condition": condition, "reference": other, "measure": measure, "effect": gain.value,
                                "low": gain.low, "high": gain.high, "n": gain.n, "p": gain.p,
                            }
                        )  # fmt: skip
                    for row, p in zip(block, holm([row["p"] for row in block]), strict=True):
                        row["p_holm"] = p
                    found += block
    return pd.DataFrame(found)


def _gain(first: pd.DataFrame, second: pd.DataFrame, study: Study, task: Task) -> Effect | None:
    """Compare the test losses of rows of two conditions; ``None`` if one was not trained."""
    if not len(first) or len(first) != len(second):
        return None
    epochs = study.grid(task).epochs
    return effect(side(first, second, epochs), side(second, second, epochs), "error", study)


def _named(part: pd.DataFrame, condition: str) -> pd.DataFrame:
    return part[part.condition == condition]


def theory(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return what the closed forms predict beside what noise did, per setting, mode and layer.

    ``nem``, ``expected`` and ``matched`` are effects on the test loss against no noise [%]; ``remainder`` is NEM
    against expected NEM; for multiplicative noise in a classifier's output ``rescaled`` is the noiseless net whose
    learning rate is smaller by 1 - σ/√(2π), against no noise, and ``nem_rescaled`` NEM against that net.
    """
    found = []
    part = rows[rows.purpose.isin(["theory"])]
    smaller = rows[rows.purpose == "rescaled"]
    for key, mine in group(part):
        for rest in SINGLE:
            row: dict[str, Any] = {name: key[name] for name in ("task", "cell", "rate", "sigma")} | {"noise": rest}
            tests = {
                "nem": (f"nem-{rest}", "none"), "expected": (f"expected-nem-{rest}", "none"),
                "matched": (f"matched-{rest}", "none"),
                "remainder": (f"nem-{rest}", f"expected-nem-{rest}"),
            }  # fmt: skip
            for name, (first, second) in tests.items():
                gain = _gain(_named(mine, first), _named(mine, second), study, key["task"])
                if gain is not None:
                    row |= {name: gain.value, f"{name}_low": gain.low, f"{name}_high": gain.high, f"{name}_p": gain.p}
            if rest == "multiplicative-output" and key["task"] == "clips":
                wanted = key["rate"] * (1 - key["sigma"] / np.sqrt(2 * np.pi))
                same = smaller[
                    (smaller.cell == key["cell"]) & (smaller.sigma == key["sigma"]) & np.isclose(smaller.rate, wanted)
                ]
                none, nem = _named(mine, "none"), _named(mine, f"nem-{rest}")
                for name, left, right in (("rescaled", same, none), ("nem_rescaled", nem, same)):
                    gain = _gain(left, right, study, key["task"])
                    if gain is not None:
                        row |= {name: gain.value, f"{name}_low": gain.low, f"{name}_high": gain.high}
                        row[f"{name}_p"] = gain.p
            found.append(row)
    return pd.DataFrame(found)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Return how well expected NEM tells what NEM does, over all settings of one task, mode and layer.

    Both as log ratios of test losses to no noise. ``slope``, ``correlation``: of NEM's on expected NEM's;
    ``spread``, ``error``: root mean square of NEM's log ratio, and of its distance to expected NEM's.
    """
    found = []
    for key, part in table.groupby(["task", "noise"], sort=False):
        x, y = (np.log1p(-part[name].to_numpy(float) / 100) for name in ("expected", "nem"))
        kept = np.isfinite(x) & np.isfinite(y)
        x, y = x[kept], y[kept]
        if len(x) < 2:
            continue
        varies = float(np.std(x)) > 0 and float(np.std(y)) > 0
        found.append(
            {
                "task": key[0],
                "noise": key[1],
                "settings": len(x),
                "spread": float(np.sqrt(np.mean(y**2))),
                "error": float(np.sqrt(np.mean((y - x) ** 2))),
                "correlation": float(np.corrcoef(x, y)[0, 1]) if varies else None,
                "slope": float((x @ y) / (x @ x)) if varies else None,
            }
        )
    return pd.DataFrame(found)


def variants(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return each variant's effect against no noise, and against the base variant."""
    found = []
    for (task, cell), part in rows[rows.purpose.str.startswith("variant-")].groupby(["task", "cell"], sort=False):
        for name in VARIANTS:
            mine, base = part[part.purpose == f"variant-{name}"], part[part.purpose == "variant-base"]
            for condition in dict.fromkeys(mine.condition):
                if condition == "none":
                    continue
                epochs = study.grid(task).epochs
                ours, none, usual = _named(mine, condition), _named(mine, "none"), _named(base, condition)
                row: dict[str, Any] = {"task": task, "cell": cell, "variant": name, "condition": condition}
                row["acceptance_hidden"] = float(ours.acceptance_hidden.mean())
                for what, other in (("none", none), ("base", usual)):
                    gain = effect(side(ours, other, epochs), side(other, other, epochs), "error", study)
                    row |= {f"vs_{what}": gain.value, f"vs_{what}_low": gain.low, f"vs_{what}_high": gain.high}
                    row[f"vs_{what}_p"] = gain.p
                found.append(row)
    return pd.DataFrame(found)
