"""What the paper's noiseless and blind entries say of its settings, and what follows for its NEM entries.

Logs of test errors are taken as normal over seeds. Their deviation is pooled over settings, per cell and condition, so
that two repetitions of a setting give its mean and all settings give the spread. The paper's entries count as single
runs. Speed-ups are predicted from the weights that errors give, with nothing fitted to them: a mixture of "later than
was trained" and a distribution over the rest.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from nem.cells import GATES
from nem.conditions import MODES, PLACES
from pipeline.evaluation.paper import PaperTable, Quantity
from pipeline.evaluation.predictive import Passage, Predictive, pooled
from pipeline.evaluation.statistics import LEVEL, Floats
from pipeline.tasks import fx, video
from pipeline.why import table
from pipeline.why.table import Regime, Strength

DISCREPANCY = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Log deviations that an entry of the paper may have beyond a single run's: fitted on blind entries."""
KINDS, SCALINGS = ("nem", "reversed-nem"), ("min-max", "z-score")
SETTING = [field.name for field in fields(Regime)]
STRENGTH = [field.name for field in fields(Strength)]


@dataclass(frozen=True)
class Entries:
    """Entries of the paper, and the column of rows that they are compared with: errors, whose logs are normal."""

    tables: tuple[PaperTable, ...]
    quantity: Quantity
    measure: str

    def value(self, cell: str, condition: str, quantity: Quantity | None = None) -> float:
        """Return an entry, of a reversed condition that of the NEM one; of accuracies the error in per cent.

        Raises:
            ValueError: the paper has none.
        """
        for one in self.tables:
            value = one.value(condition.removeprefix("reversed-"))
            if (one.cell, one.quantity) == (cell, quantity or self.quantity) and value is not None:
                return 100 - value if one.quantity == "accuracy" else value
        raise ValueError(f"expected an entry of the paper, found none for {cell} {condition}; correct the name")


RATES = Entries(fx.TASK.tables, "squared_error", "test_mse")
CLASSES = Entries(video.TASK.tables, "accuracy", "test_error")


def paper(cell: str, condition: str, quantity: Quantity | None = None) -> float:
    """Return the paper's entry of Tables 5-8; errors are those of :meth:`Entries.value`."""
    return RATES.value(cell, condition, quantity)


def predictive(rows: pd.DataFrame, by: list[str], settings: pd.DataFrame, measure: str = RATES.measure) -> Predictive:
    """Return what rows of one cell and condition predict of a log error at ``settings``, rows of the columns ``by``.

    Scales are NaN where no setting was repeated, since the spread over seeds is not known then.
    """
    alive = rows[rows[measure] > 0]
    return pooled(np.log(alive[measure]), [alive[name] for name in by], settings[by])[0]


def passage(rows: pd.DataFrame, by: list[str], settings: pd.DataFrame, bound: float) -> Passage:
    """Return the same of the speed-ups in rows' column ``speed_up``, of which those at most ``bound`` are late.

    Of n runs of which c were late a new one is so with probability (c + ½)/(n + 1), so that few runs make nothing sure.
    Where all were, the rest is taken as uniform.
    """
    late = rows.speed_up <= bound
    own, known = pooled(rows.speed_up.where(~late).dropna(), [rows[name][~late] for name in by], settings[by])
    _, n = pooled(rows.speed_up.where(~late, bound), [rows[name] for name in by], settings[by])
    known = np.where(np.isnan(known), 0, known)
    uniform = Predictive(np.where(known > 0, own.mean, 0.0), np.where(known > 0, own.scale, 1e6), max(own.df, 1))
    return Passage((n - known + 0.5) / (n + 1), bound, uniform)


def speed_ups(rows: pd.DataFrame, *, own: bool) -> tuple[pd.DataFrame, float]:
    """Return the finished rows of one cell and regime with their speed-ups [% of R], and the bound of late ones.

    ``own`` takes off the speed-up that the noiseless network of the repetition has over itself. A run that was not
    there by its last epoch has the least of what that leaves open, so the bound is the largest of these.
    """
    alive = rows[rows.failed == 0]
    R = alive.get("epochs", 100.0)
    speed, bound = 100 * (R - alive.reached) / R, 100 * (R - alive["last"]) / R
    if own:
        none = speed[alive.condition == "none"].groupby(alive.repetition).first()
        speed, bound = (part - alive.repetition.map(none) for part in (speed, bound))
    return alive.assign(speed_up=speed.fillna(-np.inf)), float(bound.max())


def search(rows: pd.DataFrame, entries: Entries = RATES, setting: Sequence[str] = SETTING) -> pd.DataFrame:
    """Return every regime with its noiseless errors, whether both fit the paper's, and their log likelihood.

    Both fit if neither of the paper's errors lies outside of the central 1 - 0.05/2 of what a new run would give: a
    setting without a fit is refuted at 5 %, and no other tolerance is chosen. Most likely ones come first.
    """
    plain, setting = rows[rows.condition == "none"], [*setting]
    if entries is RATES:
        plain = plain[(plain.variant == "") & plain.data.isin(SCALINGS)]
    both = plain.groupby(setting, sort=False).cell.nunique() == len(GATES)
    found = both[both].index.to_frame(index=False)
    if not len(found):
        return found.assign(fits=False)
    found["log_likelihood"], found["fits"] = 0.0, True
    for cell in GATES:
        own, goal = predictive(plain[plain.cell == cell], setting, found, entries.measure), entries.value(cell, "none")
        found[cell] = np.exp(own.mean)
        within = np.abs(np.log(goal) - own.mean) <= own.scale * special.stdtrit(own.df, 1 - LEVEL / len(GATES) / 2)
        found["fits"] &= within
        found["log_likelihood"] += own.log_density(np.log(goal))
    return found.sort_values("log_likelihood", ascending=False, ignore_index=True)


def matched(rows: pd.DataFrame) -> list[Regime]:
    """Return the regimes whose noiseless errors both fit the paper's, the most likely first."""
    found = search(rows)
    if not len(found):
        return []
    values = found.loc[found.fits, SETTING].astype({"batch_size": int}).itertuples(index=False, name=None)
    return [Regime(*own) for own in values]


@dataclass(frozen=True)
class Calibration:
    """What blind entries of one cell and mode say of the strength of the noise."""

    settings: pd.DataFrame  # (S, 4) columns of a strength
    log_weights: Floats  # (S,) of settings, normalised
    discrepancy: float  # of :data:`DISCREPANCY`, the most likely one
    fit: float  # log likelihood of the blind entries


def _conditions(kind: str, mode: str) -> list[str]:
    return [f"{kind}-{mode}-{place}" for place in PLACES]


def _of_place(condition: str) -> list[str]:
    """Return the columns of the strength that concern a condition."""
    place = condition.rpartition("-")[2]
    return [name for name in STRENGTH if place == "both" or name.endswith(place)]


def _errors(rows: pd.DataFrame, conditions: list[str], settings: pd.DataFrame, measure: str) -> list[Predictive]:
    return [predictive(rows[rows.condition == n], _of_place(n), settings, measure) for n in conditions]


def _wider(parts: list[Predictive], discrepancy: float) -> list[Predictive]:
    return [replace(one, scale=np.hypot(one.scale, discrepancy)) for one in parts]


def calibrate(rows: pd.DataFrame, cell: str, mode: str, entries: Entries = RATES) -> Calibration | None:
    """Weigh all strengths at which rows of one regime have blind noise in all three places; ``None``: none is repeated.

    The prior is uniform over the strengths that were tried; the likelihood is that of the three blind entries.
    """
    own, blind, best = rows[rows.cell == cell], _conditions("blind", mode), None
    settings = own.loc[own.condition == blind[-1], STRENGTH].drop_duplicates(ignore_index=True)
    found = _errors(own, blind, settings, entries.measure) if len(settings) else []
    for discrepancy in DISCREPANCY if found else ():
        parts = zip(_wider(found, discrepancy), blind, strict=True)
        total = np.sum([part.log_density(np.log(entries.value(cell, name))) for part, name in parts], 0)
        total[np.isnan(total)] = -np.inf
        if np.isneginf(total).all():
            continue
        fit = float(special.logsumexp(total) - np.log(len(total)))
        if best is None or fit > best.fit:
            best = Calibration(settings, total - special.logsumexp(total), discrepancy, fit)
    return best


def most_likely(rows: pd.DataFrame, regime: Regime, cell: str, mode: str) -> Strength | None:
    """Return the strength of greatest weight, of those that every mode and repetition was tried at."""
    found = calibrate(table.of(rows, regime), cell, mode)
    return Strength(*found.settings.iloc[int(np.argmax(found.log_weights))]) if found else None


Predicted = Literal["errors", "speed-ups", "speed-ups less own"]


def predictions(rows: pd.DataFrame, entries: Entries = RATES, what: Predicted = "errors") -> pd.DataFrame:
    """Return a row per cell, condition with noise and kind: the paper's entry against what the calibration predicts.

    Rows are of one regime. Columns: cell, mode, condition, paper, low, median, high (95 % of new runs), outside,
    log_density (of errors with respect to their logs), and ``joint``, the log density of all three entries of the kind,
    cell and mode together, in which places share one strength.
    """
    lines: list[dict[str, Any]] = []
    for cell, mode in itertools.product(GATES, MODES):
        if (found := calibrate(rows, cell, mode, entries)) is None:
            continue
        own, quantity = rows[rows.cell == cell], entries.quantity if what == "errors" else "speed_up"
        timed, bound = speed_ups(own, own=what == "speed-ups less own")
        for kind in ("blind", *KINDS):
            names, parts = _conditions(kind, mode), list[Predictive | Passage]()
            if what == "errors":
                parts += _wider(_errors(own, names, found.settings, entries.measure), found.discrepancy)
            else:
                parts += [passage(timed[timed.condition == n], _of_place(n), found.settings, bound) for n in names]
            printed = [entries.value(cell, name, quantity) for name in names]
            values = np.log(printed) if what == "errors" else np.array(printed)
            each = [part.log_density(value) for part, value in zip(parts, values, strict=True)]
            total = np.sum(each, 0)
            usable = np.isfinite(total)
            if not usable.any():
                continue
            log_weights = found.log_weights[usable] - special.logsumexp(found.log_weights[usable])
            joint = special.logsumexp(log_weights + total[usable])
            for name, part, value, density in zip(names, parts, values, each, strict=True):
                ends = part.at(usable).quantiles(np.exp(log_weights), (0.025, 0.5, 0.975))
                line: dict[str, Any] = {"cell": cell, "mode": mode, "kind": kind, "condition": name}
                shown = [float(np.exp(end)) for end in ends] if what == "errors" else ends
                line |= dict(zip(("low", "median", "high"), shown, strict=True))
                line |= {"paper": entries.value(cell, name, quantity), "outside": not ends[0] <= value <= ends[2]}
                density_of_one = special.logsumexp(log_weights + density[usable])
                lines.append(line | {"log_density": density_of_one, "joint": joint})
    return pd.DataFrame(lines)
