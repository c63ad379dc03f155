"""What the paper's noiseless and blind entries say of its settings, and what follows for its NEM entries.

Logs of test errors are taken as normal over seeds. Their deviation is pooled over settings, per cell and condition, so
that two repetitions of a setting give its mean and all settings give the spread. The paper's entries count as single
runs.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from scipy import special, stats

from nem.cells import GATES
from nem.conditions import MODES, PLACES
from pipeline.evaluation.statistics import LEVEL, Floats
from pipeline.tasks.fx import TASK
from pipeline.why import table
from pipeline.why.table import Regime, Strength

DISCREPANCY = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Log deviations that an entry of the paper may have beyond a single run's: fitted on blind entries."""
KINDS, SCALINGS = ("nem", "reversed-nem"), ("min-max", "z-score")
SETTING = [field.name for field in fields(Regime)]
STRENGTH = [field.name for field in fields(Strength)]


def paper(cell: str, condition: str, quantity: str = "squared_error") -> float:
    """Return the paper's entry of Tables 5-8; of a reversed condition that of the NEM one.

    Raises:
        ValueError: the paper has none.
    """
    for one in TASK.tables:
        value = one.value(condition.removeprefix("reversed-"))
        if (one.cell, one.quantity) == (cell, quantity) and value is not None:
            return value
    raise ValueError(f"expected an entry of Tables 5-8, found none for {cell} {condition} {quantity}; correct the name")


@dataclass(frozen=True)
class Predictive:
    """Student's t of one new run's log error: ``(S,)`` means and scales over settings, and degrees of freedom."""

    mean: Floats
    scale: Floats
    df: float

    def log_density(self, value: float, discrepancy: float = 0.0) -> Floats:
        """Return log densities ``(S,)`` of an error, with respect to its log."""
        scale = np.hypot(self.scale, discrepancy)
        density: Floats = stats.t.logpdf((np.log(value) - self.mean) / scale, self.df) - np.log(scale)
        return density

    def quantiles(self, weights: Floats, levels: Iterable[float], discrepancy: float = 0.0) -> list[float]:
        """Return quantiles of errors under a mixture over settings with ``weights`` ``(S,)``."""
        grid = np.linspace(self.mean.min() - 4, self.mean.max() + 4, 4001)
        scale = np.hypot(self.scale, discrepancy)
        below = (weights * stats.t.cdf((grid[:, None] - self.mean) / scale, self.df)).sum(1)
        return [float(np.exp(np.interp(level, below, grid))) for level in levels]


def predictive(rows: pd.DataFrame, by: list[str], settings: pd.DataFrame) -> Predictive:
    """Return what rows of one cell and condition predict at ``settings``, rows of the columns ``by``.

    Scales are NaN where no setting was repeated, since the spread over seeds is not known then.
    """
    alive = rows[rows.test_mse > 0]
    groups = np.log(alive.test_mse).groupby([alive[name] for name in by])
    mean, count = groups.mean(), groups.count()
    df = int((count - 1).sum())
    spread = np.sqrt(((count - 1) * groups.var().fillna(0)).sum() / df) if df else np.nan
    wanted = pd.MultiIndex.from_frame(settings[by]) if len(by) > 1 else pd.Index(settings[by[0]])
    n = count.reindex(wanted).to_numpy(float)
    return Predictive(mean.reindex(wanted).to_numpy(float), spread * np.sqrt(1 + 1 / n), df)


def search(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every regime with its noiseless errors, whether both fit the paper's, and their log likelihood.

    Both fit if neither of the paper's errors lies outside of the central 1 - 0.05/2 of what a new run would give: a
    setting without a fit is refuted at 5 %, and no other tolerance is chosen. Most likely ones come first.
    """
    plain = rows[(rows.condition == "none") & (rows.variant == "") & rows.data.isin(SCALINGS)]
    both = plain.groupby(SETTING, sort=False).cell.nunique() == len(GATES)
    found = both[both].index.to_frame(index=False)
    if not len(found):
        return found.assign(fits=False)
    found["log_likelihood"], found["fits"] = 0.0, True
    for cell in GATES:
        own, goal = predictive(plain[plain.cell == cell], SETTING, found), paper(cell, "none")
        found[cell] = np.exp(own.mean)
        within = np.abs(np.log(goal) - own.mean) <= own.scale * stats.t.ppf(1 - LEVEL / len(GATES) / 2, own.df)
        found["fits"] &= within
        found["log_likelihood"] += own.log_density(goal)
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


def _predictives(rows: pd.DataFrame, conditions: list[str], settings: pd.DataFrame) -> list[Predictive]:
    return [predictive(rows[rows.condition == name], _of_place(name), settings) for name in conditions]


def calibrate(rows: pd.DataFrame, regime: Regime, cell: str, mode: str) -> Calibration | None:
    """Weigh all strengths at which the main regime has blind noise in all three places; ``None``: none is repeated.

    The prior is uniform over the strengths that were tried; the likelihood is that of the three blind entries.
    """
    own = table.of(rows, regime)
    own, blind = own[own.cell == cell], _conditions("blind", mode)
    settings = own.loc[own.condition == blind[-1], STRENGTH].drop_duplicates(ignore_index=True)
    if not len(settings):
        return None
    parts, best = _predictives(own, blind, settings), None
    for discrepancy in DISCREPANCY:
        each = [part.log_density(paper(cell, name), discrepancy) for part, name in zip(parts, blind, strict=True)]
        total = np.sum(each, 0)
        total[np.isnan(total)] = -np.inf
        if np.isneginf(total).all():
            continue
        fit = float(special.logsumexp(total) - np.log(len(total)))
        if best is None or fit > best.fit:
            best = Calibration(settings, total - special.logsumexp(total), discrepancy, fit)
    return best


def most_likely(rows: pd.DataFrame, regime: Regime, cell: str, mode: str) -> Strength | None:
    """Return the strength of greatest weight, of those that every mode and repetition was tried at."""
    found = calibrate(rows, regime, cell, mode)
    return Strength(*found.settings.iloc[int(np.argmax(found.log_weights))]) if found else None


def predictions(rows: pd.DataFrame, regime: Regime) -> pd.DataFrame:
    """Return a row per cell, condition with noise and kind: the paper's entry against what the calibration predicts.

    Columns: cell, mode, condition, paper, low, median, high (95 % of new runs), log_density, and ``joint``, the log
    density of all three entries of the kind, cell and mode together, in which places share one strength.
    """
    lines = []
    for cell, mode in itertools.product(GATES, MODES):
        if (found := calibrate(rows, regime, cell, mode)) is None:
            continue
        own = table.of(rows, regime)
        own = own[own.cell == cell]
        for kind in ("blind", *KINDS):
            names = _conditions(kind, mode)
            parts = _predictives(own, names, found.settings)
            each = [part.log_density(paper(cell, n), found.discrepancy) for part, n in zip(parts, names, strict=True)]
            total = np.sum(each, 0)
            usable = np.isfinite(total)
            if not usable.any():
                continue
            log_weights = found.log_weights[usable] - special.logsumexp(found.log_weights[usable])
            joint = special.logsumexp(log_weights + total[usable])
            for name, part, density in zip(names, parts, each, strict=True):
                kept = Predictive(part.mean[usable], part.scale[usable], part.df)
                low, median, high = kept.quantiles(np.exp(log_weights), (0.025, 0.5, 0.975), found.discrepancy)
                own_density = special.logsumexp(log_weights + density[usable])
                line = {"cell": cell, "mode": mode, "kind": kind, "condition": name, "paper": paper(cell, name)}
                line |= {"low": low, "median": median, "high": high, "log_density": own_density, "joint": joint}
                lines.append(line)
    return pd.DataFrame(lines)
