"""Numbers from rows: effects with intervals, and the tables that the study leaves behind.

An *effect* compares two sides over paired repetitions and is positive where the first is better. A repetition in which
a side failed has no effect in any measure. It is counted, since leaving out what failed flatters.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.evaluation.statistics import Bootstrap, holm, sign_flip_p_value, speed_up
from pipeline.study.grid import BY_GROUPS, BY_ORDER, CHOSEN, EVERY, NEM, REGIMES, SAME_RATE

Measure = Literal["error", "accuracy", "calibration", "speed"]
Side = dict[Measure, npt.NDArray[np.float64]]
UNITS: dict[Measure, str] = {
    "error": "% smaller test loss",  # from the mean of log ratios, since losses span decades
    "accuracy": "points of accuracy",
    "calibration": "points less calibration error",
    "speed": "% of R sooner at the noiseless loss",
}
MEASURES: dict[str, tuple[Measure, ...]] = {"identity": ("error", "speed"), "softmax": tuple(UNITS)}  # by head
MEANS = ("validation_loss", "test_loss", "test_accuracy", "acceptance_output", "acceptance_hidden")
PLACE = ["task", "split", "head", "cell"]
RESCALED = "rescaled"  # the noiseless network whose learning rate is smaller by 1 - σ/√(2π)


@dataclass(frozen=True)
class Effect:
    """A paired comparison with its exact sign-flip p-value; in ``failed`` repetitions the first side alone failed."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    failed: int = 0


class Context(NamedTuple):
    """Where conditions are compared."""

    purpose: str
    task: str
    split: str
    head: str
    cell: str
    setting: tuple[Any, ...] = ()  # CHOSEN; empty where each condition has its own


def side(rows: pd.DataFrame, noiseless: pd.DataFrame) -> Side:
    """Return a condition's results ``(n,)`` by repetition; more is better, NaN is undefined or failed.

    Other repetitions than those of the noiseless rows, whose losses at R are to be reached, are a ValueError.
    """
    own, goal = rows.sort_values("repetition"), noiseless.sort_values("repetition")
    numbers = own.repetition.tolist(), goal.repetition.tolist()
    if numbers[0] != numbers[1]:
        raise ValueError(f"expected equal repetitions, found {numbers[0]} and {numbers[1]}; run `make study` again")
    alive, epochs = ~(own.failed.to_numpy(bool) | goal.failed.to_numpy(bool)), int(own.epochs.iloc[0])
    reached, goals = (list(itertools.compress(part.curve, alive)) for part in (own, goal))
    speeds, speed = speed_up(reached, goals, epochs, int(own.max_epochs.iloc[0])), np.full(len(own), np.nan)
    # Never there counts as there one epoch after the last, which understates how bad it is.
    speed[alive] = np.maximum(speeds.percent, speeds.bound - 100 / epochs)
    loss, accuracy, ece = (own[name].to_numpy(float) for name in ("test_loss", "test_accuracy", "calibration_error"))
    error = -np.log(np.maximum(loss, 1e-12))
    return {"error": error, "accuracy": 100 * accuracy, "calibration": -100 * ece, "speed": speed}


def effect(first: Side, second: Side, measure: Measure, bootstrap: Bootstrap) -> Effect:
    """Compare two sides over the repetitions in which neither failed."""
    values = first[measure] - second[measure]
    known = values[np.isfinite(values)]
    interval = bootstrap.studentised(known) if len(known) >= 5 else bootstrap.mean(known)  # of fewer it has no ends
    mean, low, high = (
        None if end is None else 100 * float(-np.expm1(-end)) if measure == "error" else end
        for end in (interval.mean, interval.low, interval.high)
    )
    failed = int((np.isnan(first["error"]) & ~np.isnan(second["error"])).sum())
    return Effect(mean, low, high, sign_flip_p_value(known), interval.n, failed)


def contexts(rows: pd.DataFrame) -> Iterator[tuple[Context, dict[str, pd.DataFrame]]]:
    """Yield every context that has a noiseless network, with its rows by condition."""
    for values, part in rows.groupby(["purpose", *PLACE], sort=False):
        chosen = values[0] in REGIMES or values[0].startswith((BY_GROUPS, BY_ORDER))
        for setting, own in [((), part)] if chosen else part.groupby(CHOSEN, sort=False):
            by_name = dict(iter(own.groupby("condition", sort=False)))
            if "none" in by_name:
                yield Context._make((*values, setting)), by_name


def _references(context: Context, condition: str, by_name: Mapping[str, pd.DataFrame], alike: pd.DataFrame
                ) -> Iterator[tuple[str, pd.DataFrame]]:  # fmt: skip
    """Yield what a condition is compared with: heading and rows; ``alike`` are all rows of the place."""
    yield "none", by_name["none"]
    own, rest = by_name[condition], condition.removeprefix("nem-")
    for kind in ("blind", "matched", "expected-nem") if condition in NEM else ():
        if f"{kind}-{rest}" in by_name:
            yield kind, by_name[f"{kind}-{rest}"]
    if context.purpose == "tuned":
        same = (alike.learning_rate == own.learning_rate.iloc[0]) & (alike.optimiser == own.optimiser.iloc[0])
        yield SAME_RATE, alike[same & (alike.purpose == SAME_RATE)]
    if context.purpose.startswith("variant-"):
        yield "base", alike[(alike.purpose == "variant-base") & (alike.condition == condition)]
    if RESCALED in by_name and condition == "nem-multiplicative-output":
        yield RESCALED, by_name[RESCALED]


def comparisons(rows: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return every comparison in every context as a row; in a regime with the setting that was chosen.

    p-values are Holm-adjusted over the conditions of one context, reference and measure.
    """
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for context, trained in contexts(rows):
        alike = rows[(rows[PLACE] == list(context[1:-1])).all(axis=1)]
        by_name = dict(trained)
        if context.purpose == "theory":
            _, rate, sigma, _ = context.setting
            smaller = alike[(alike.purpose == RESCALED) & (alike.sigma_output == sigma)]
            smaller = smaller[np.isclose(smaller.learning_rate, rate * (1 - sigma / np.sqrt(2 * np.pi)))]
            by_name |= {RESCALED: smaller} if len(smaller) else {}
        for condition in (name for name in (*EVERY[1:], RESCALED) if name in by_name):
            own = by_name[condition]
            first, setting = side(own, by_name["none"]), context.setting or tuple(own[CHOSEN].iloc[0])
            about = dict(zip(("purpose", *PLACE, *CHOSEN), (*context[:-1], *setting), strict=True))
            about |= {"condition": condition, **own[list(MEANS)].mean()}
            for reference, other in _references(context, condition, by_name, alike):
                second = side(other, by_name["none"])
                for measure in MEASURES[context.head]:
                    row = {**about, "reference": reference, "measure": measure}
                    row |= asdict(effect(first, second, measure, bootstrap))
                    families.setdefault((context, reference, measure), []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
    table = pd.DataFrame([row for family in families.values() for row in family])
    return table.astype(dict.fromkeys(("value", "low", "high", "p", "p_holm"), float))


def log_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return log ratios of test losses to the noiseless network's in the checks of the theory, from comparisons.

    A row per task, cell, rate, σ and mode-layer ``noise``; a column per kind of noise; negative is a smaller loss.
    """
    part = table[(table.purpose == "theory") & (table.measure == "error") & (table.reference == "none")]
    kinds = part.condition.str.extract(r"^(expected-nem|nem|matched)-(.+)$")
    part = part.assign(kind=kinds[0].fillna(RESCALED), noise=kinds[1].fillna("multiplicative-output"))
    part = part.assign(ratio=np.log1p(-part.value / 100))
    places = ["task", "cell", "learning_rate", "sigma_output", "noise"]
    wide: pd.DataFrame = part.pivot_table("ratio", places, "kind", sort=False).reset_index()
    return wide.reindex(columns=[*places, "nem", "expected-nem", "matched", RESCALED])
