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
from pipeline.evaluation.statistics import Bootstrap, Floats
from pipeline.evaluation.task import Outcome

SIDE, POINTS, TICKS = 1000, 60, 6  # of a panel [units]; most points of a curve, ticks of an axis
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

    def ticks(self, most: int = TICKS) -> list[tuple[float, str]]:
        """Return place and label of about so many ticks: 1, 2, 5 of every decade or fewer; else equal steps."""
        found: Iterable[float] = MaxNLocator(most - 1, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        if self.log:
            powers = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                inside = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
                if len(inside) <= most:
                    break
            found = inside[:: -(-len(inside) // most)] if len(inside) > 1 else found
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
        if alive:
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


def legend(conditions: Iterable[str]) -> dict[str, list[str]]:
    """Return the conditions of every kind among these, by kind and mode, each row in the order of places."""
    kinds = dict.fromkeys(Condition.parse(name).kind for name in conditions if name != "none")
    return {style.words(f"{kind}-{mode}-both").partition(",")[0]: [f"{kind}-{mode}-{place}" for place in PLACES]
            for kind in kinds for mode in MODES}  # fmt: skip


def forest(outcome: Outcome, paper: dict[str, float | None]) -> dict[str, Any]:
    """Return all conditions side by side: repetitions, mean, interval, the paper's number, and the baseline to beat."""
    measure, rival, rows = outcome.task.measure, baseline(outcome), []
    level = outcome.references[rival] * measure.scale
    values: list[float | None] = [level, *paper.values()]
    for condition in outcome.run.conditions:
        summary, own = outcome.summary[condition][measure.name], outcome.values[condition][measure.name]
        middle = [None if (v := summary[n]) is None else v * measure.scale for n in ("mean", "ci_low", "ci_high")]
        rows.append((condition, (measure.scale * own[np.isfinite(own)]).tolist(), middle))
        values += [*rows[-1][1], *middle]
    axis = Scale.over(values, measure.gain < 0)

    def at(value: float | None) -> float | None:
        return place if np.isfinite(place := float(axis.place(np.nan if value is None else value))) else None

    drawn = [{"condition": name, "value": middle[0], "dots": [at(v) for v in own], "mean": at(middle[0]),
              "ends": [at(v) for v in middle[1:]], "paper": at(paper.get(name))}
             for name, own, middle in rows]  # fmt: skip
    return {"axis": axis, "rows": drawn, "baseline": (outcome.task.called(rival), at(level), level)}


def baseline(outcome: Outcome) -> str:
    """Return the name of the naive baseline to beat: the task's own, else the one that is best on the test data."""
    gain = outcome.task.measure.gain
    return outcome.task.rival or max(outcome.references, key=lambda name: gain * outcome.references[name])
