"""What runs at several settings predict of one new run at each, or at a weighted mixture of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, special  # not stats, whose laws take 0.2 ms for each call

from pipeline.evaluation.statistics import Floats


@dataclass(frozen=True)
class Predictive:
    """Student's t of one new run's value: ``(S,)`` means and scales over settings, and degrees of freedom."""

    mean: Floats
    scale: Floats
    df: float

    def log_density(self, value: float) -> Floats:
        """Return log densities ``(S,)``."""
        power = (self.df + 1) / 2 * np.log1p(((value - self.mean) / self.scale) ** 2 / self.df)
        density: Floats = -special.betaln(0.5, self.df / 2) - power - np.log(np.sqrt(self.df) * self.scale)
        return density

    def below(self, value: float) -> Floats:
        """Return the probabilities ``(S,)`` of less than a value."""
        below: Floats = special.stdtr(self.df, (value - self.mean) / self.scale)
        return below

    def at(self, chosen: npt.NDArray[np.bool_]) -> "Predictive":
        """Return the same at some settings."""
        return replace(self, mean=self.mean[chosen], scale=self.scale[chosen])

    def quantiles(self, weights: Floats, levels: Iterable[float]) -> list[float]:
        """Return quantiles under a mixture over settings with ``weights`` ``(S,)``."""
        ends = float((self.mean - 99 * self.scale).min()), float((self.mean + 99 * self.scale).max())
        return [_crossing(lambda value: float(weights @ self.below(value)), level, *ends) for level in levels]


def _crossing(below: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Return where a distribution function crosses a level; an end if it does not in between."""
    if not below(low) < level < below(high):
        return low if level <= below(low) else high
    return float(optimize.brentq(lambda value: below(value) - level, low, high, xtol=1e-6))


@dataclass(frozen=True)
class Passage:
    """One new run's speed-up [% of R]: with a probability at most ``bound``, else Student's t from there to 100.

    Training ended at the bound, so that nothing else is known below it, of a run or of the paper's entry.
    """

    late: Floats  # (S,) probabilities
    bound: float
    own: Predictive  # of the speed-ups that are known

    def log_density(self, value: float) -> Floats:
        """Return log densities ``(S,)``; log probabilities of a value at most the bound."""
        if value <= self.bound:
            return np.log(self.late)
        start = self.own.below(self.bound)
        return np.log1p(-self.late) + self.own.log_density(value) - np.log(self.own.below(100) - start)

    def at(self, chosen: npt.NDArray[np.bool_]) -> "Passage":
        """Return the same at some settings."""
        return replace(self, late=self.late[chosen], own=self.own.at(chosen))

    def quantiles(self, weights: Floats, levels: Iterable[float]) -> list[float]:
        """Return quantiles under a mixture over settings; -inf is at most the bound."""
        start, late = self.own.below(self.bound), float(weights @ self.late)
        rest = weights * (1 - self.late) / (self.own.below(100) - start)

        def below(value: float) -> float:
            return late + float(rest @ (self.own.below(value) - start))

        return [_crossing(below, level, self.bound, 100) if level > late else -np.inf for level in levels]


def pooled(values: pd.Series, by: list[pd.Series], settings: pd.DataFrame) -> tuple[Predictive, Floats]:
    """Return what values, grouped ``by`` columns, predict at settings, rows of these, and how many there are of each.

    Their deviation is pooled over all settings. Means and numbers are NaN where there is no value, and all scales where
    no setting has two.
    """
    groups = values.groupby(by)
    mean, count = groups.mean(), groups.count()
    df = int((count - 1).clip(lower=0).sum())
    spread = np.sqrt(((count - 1) * groups.var().fillna(0)).sum() / df) if df else 0.0
    spread = spread or np.nan  # of accuracies a few may be equal, which says nothing
    wanted = pd.MultiIndex.from_frame(settings) if len(by) > 1 else pd.Index(settings.iloc[:, 0])
    n = count.reindex(wanted).to_numpy(float)
    return Predictive(mean.reindex(wanted).to_numpy(float), spread * np.sqrt(1 + 1 / n), df), n
