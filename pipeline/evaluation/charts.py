"""The report's charts as numbers: curves with intervals, conditions side by side, and where on a panel they lie.

A panel is 1000 units wide and high. The page stretches it to any size and writes its words beside it as text, so that
these keep theirs; ``charts.html.j2`` draws it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from nem.conditions import MODES, PLACES, Condition
from pipeline.evaluation import style
from pipeline.evaluation.statistics import Bootstrap, Floats, Interval
from pipeline.evaluation.task import Outcome

SIDE, POINTS, TICKS = 1000, 60, 6  # of a panel [units]; most points of a curve, most ticks of an axis
MARGIN = 0.03  # of the range of values, on each side


@dataclass(frozen=True)
class Scale:
    """An axis: the values at its ends, and whether it is logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float | None], log: bool = False) -> "Scale":
        """Return an axis that holds all finite values with a margin; a logarithmic one only those above 0."""
        data = np.array([v for v in values if v is not None and np.isfinite(v) and (v > 0 or not log)], np.float64)
        data = np.log10(data) if log else data
        low, high = (float(data.min()), float(data.max())) if len(data) else (0.0, 1.0)
        margin = MARGIN * (high - low) or 0.05 * abs(high) or 0.5
        low, high = low - margin, high + margin
        return cls(10**low, 10**high, log) if log else cls(low, high)

    def place(self, values: npt.ArrayLike) -> Floats:
        """Return places in [0, SIDE], rounded to a tenth; NaN where a logarithmic axis has none."""
        data, ends = np.asarray(values, np.float64), np.array([self.low, self.high])
        if self.log:
            data, ends = np.log10(np.where(data > 0, data, np.nan)), np.log10(ends)
        return np.asarray(np.round(SIDE * (data - ends[0]) / (ends[1] - ends[0]), 1))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and label of each tick: 1, 2, 5 of every decade or the decades alone; else numbers at equal steps."""
        found: Iterable[float] = MaxNLocator(TICKS - 1, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        if self.log:
            powers = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                inside = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
                if len(inside) <= TICKS:
                    break
            found = inside[:: -(-len(inside) // TICKS)] if len(inside) > 2 else found
        kept = [value for value in found if self.low <= value <= self.high]
        return [(float(self.place(value)), f"{value:.4g}") for value in kept]


def _path(x: Floats, y: Floats) -> str:
    """Return an SVG path through points, interrupted where one is missing."""
    parts, pen = [], "M"
    for across, down in zip(x.tolist(), (SIDE - y).tolist(), strict=True):
        parts.append(f"{pen}{across:g} {down:.1f}" if np.isfinite(down) else "")
        pen = "L" if parts[-1] else "M"
    return "".join(parts)


def curves(outcome: Outcome, bootstrap: Bootstrap, metric: str, label: str) -> dict[str, Any]:
    """Return every condition's mean of a metric with its interval, at epochs 1 to R: paths of lines and bands, axes.

    Losses have logarithmic axes, and at most ``POINTS`` epochs are drawn. Networks that failed before R are left out.
    """
    run, measure = outcome.run, outcome.task.measure
    loss = metric != measure.curve or measure.gain < 0
    scale = measure.scale if metric == measure.curve else 1.0
    spaced = (np.geomspace if loss else np.linspace)(1, run.epochs, min(POINTS, run.epochs))
    epochs, shown = np.unique(spaced.round().astype(int)), {}
    for condition in run.conditions:
        alive = [c[epochs] for c in run.curve(condition, metric) if len(c) > run.epochs]
        if alive and np.isfinite(alive).all():
            means = [bootstrap.mean(column) for column in scale * np.stack(alive, 1)]
            shown[condition] = np.array([[m.mean, m.low, m.high] for m in means], np.float64)
    across = Scale(1, max(run.epochs, 2), loss)
    upward = Scale.over((v for band in shown.values() for v in band.ravel()), loss)
    x, lines = across.place(epochs), {}
    for condition, values in shown.items():
        mean, low, high = upward.place(values).T
        known = np.isfinite(low) & np.isfinite(high)
        around = np.concatenate([x[known], x[known][::-1]]), np.concatenate([low[known], high[known][::-1]])
        lines[condition] = {"line": _path(x, mean), "band": _path(*around) + "Z" if known.any() else ""}
    return {"x": across, "y": upward, "lines": lines, "label": label, "metric": metric}


def legend(conditions: Iterable[str]) -> dict[str, list[str | None]]:
    """Return conditions by kind and mode, each row in the order of places; ``None`` for one that was not run."""
    there = set(conditions)
    kinds = dict.fromkeys(Condition.parse(name).kind for name in conditions)
    rows = {style.words(f"{kind}-{mode}-output").partition(",")[0]: [f"{kind}-{mode}-{place}" for place in PLACES]
            for kind in kinds if kind != "none" for mode in MODES}  # fmt: skip
    return {words: [n if n in there else None for n in names] for words, names in rows.items() if there & {*names}}


def forest(outcome: Outcome, paper: dict[str, float | None]) -> dict[str, Any]:
    """Return all conditions side by side: repetitions, mean, interval, the paper's number, and the baseline to beat."""
    measure, rows = outcome.task.measure, []
    rival = baseline(outcome)
    values: list[float | None] = [outcome.references[rival] * measure.scale, *paper.values()]
    for condition in outcome.run.conditions:
        mean = Interval(*outcome.summary[condition][measure.name].values())  # type: ignore[arg-type]
        own = measure.scale * outcome.values[condition][measure.name]
        middle = [None if v is None else v * measure.scale for v in (mean.mean, mean.low, mean.high)]
        rows.append((condition, own[np.isfinite(own)], middle))
        values += [*own, *middle]
    axis = Scale.over(values, measure.gain < 0)

    def at(value: float | None) -> float | None:
        place = np.nan if value is None else float(axis.place(value))
        return place if np.isfinite(place) else None

    drawn = [
        {"condition": name, "dots": [at(v) for v in own.tolist()], "mean": at(middle[0]), "value": middle[0],
         "ends": [at(v) for v in middle[1:]], "paper": at(paper.get(name))}
        for name, own, middle in rows
    ]  # fmt: skip
    words, level = outcome.task.called(rival), outcome.references[rival] * measure.scale
    return {"axis": axis, "rows": drawn, "baseline": (words, at(level), level)}


def baseline(outcome: Outcome) -> str:
    """Return the name of the naive baseline to beat: the task's own, else the one that is best on the test data."""
    gain = outcome.task.measure.gain
    return outcome.task.rival or max(outcome.references, key=lambda name: gain * outcome.references[name])
