"""Summaries over paired repetitions: intervals, paired tests, speed-ups with censoring; fast, for the study."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pipeline.common import seeds

Floats = npt.NDArray[np.float64]
LEVEL = 0.05
EXACT_PAIRS, DRAWS = 40, 100_000  # up to so many pairs every sign pattern is counted: 2²⁰ sums of each half, 0.2 s
TIED = 1e-12  # sums nearer than this share of Σ|difference| are tied: accuracies tie often, up to a round-off of 1e-13


@dataclass(frozen=True)
class Interval:
    """A mean or median of n values and its interval; ``None`` without values, and for an interval of one."""

    mean: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the mapping that ``metrics.json`` holds."""
        return {"mean": self.mean, "ci_low": self.low, "ci_high": self.high, "n": self.n}


@functools.lru_cache(maxsize=2)
def _resamples(n: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return ``(count, n)`` places, drawn with replacement."""
    drawn = seeds.numpy_generator(seed, "bootstrap", n).integers(0, n, (count, n))
    drawn.flags.writeable = False
    return drawn


@dataclass(frozen=True)
class Bootstrap:
    """How percentile intervals (Efron 1979) are made; all means of n values use the same resamples."""

    confidence: float  # in (0, 1)
    resamples: int  # at least 1
    seed: int  # root of the seed tree

    def mean(self, values: Sequence[float] | Floats) -> Interval:
        """Return the mean of those of the ``(n,)`` values that are finite; a failed network has none."""
        data = np.asarray(values, np.float64)
        data = data[np.isfinite(data)]
        if (n := len(data)) < 2 or np.ptp(data) == 0:
            mean, end = float(data[0]) if n else None, float(data[0]) if n > 1 else None
            return Interval(mean, end, end, n)
        means = data[_resamples(n, self.resamples, self.seed)].mean(1)
        low, high = np.quantile(means, self._ends)
        return Interval(float(data.mean()), float(low), float(high), n)

    def studentised(self, values: Sequence[float] | Floats) -> Interval:
        """Return the mean of ``(n,)`` finite values with its bootstrap-t interval (Efron & Tibshirani 1993, 12.5).

        It covers skewed and few values better than the percentile interval. Resamples of equal values have no standard
        error: with less than five values an end is infinite.
        """
        data = np.asarray(values, np.float64)
        n = len(data)
        if n < 2 or np.ptp(data) == 0:
            return self.mean(data)
        drawn, mean, error = data[_resamples(n, self.resamples, self.seed)], data.mean(), data.std(ddof=1) / np.sqrt(n)
        gap, spread = drawn.mean(1) - mean, drawn.std(1, ddof=1) / np.sqrt(n)
        t = np.divide(gap, spread, out=np.copysign(np.inf, gap), where=np.ptp(drawn, axis=1) > 0)
        left, right = np.quantile(t, self._ends, method="inverted_cdf")
        return Interval(float(mean), float(mean - right * error), float(mean - left * error), n)

    def difference(self, first: Floats, second: Floats) -> Interval:
        """Return mean(first) - mean(second), independent samples, with its interval."""
        first, second = first[np.isfinite(first)], second[np.isfinite(second)]
        count = min(len(first), len(second))
        gap = float(first.mean() - second.mean()) if count else None
        if count < 2:
            return Interval(gap, None, None, count)
        random = seeds.numpy_generator(self.seed, "bootstrap-difference", len(first), len(second))
        ours, theirs = (v[random.integers(0, len(v), (self.resamples, len(v)))].mean(1) for v in (first, second))
        low, high = np.quantile(ours - theirs, self._ends)
        return Interval(gap, float(low), float(high), count)

    def median(self, values: Floats) -> Interval:
        """Return the median of ``(n,)`` values, of which any may be -inf: censored, in order before all others.

        So may an end of the interval: ends are medians of resamples, never interpolated.
        """
        n = len(values)
        if n < 2:
            return Interval(float(values[0]) if n else None, None, None, n)
        random = seeds.numpy_generator(self.seed, "bootstrap-median", n)
        medians = np.sort(np.median(values[random.integers(0, n, (self.resamples, n))], axis=1))
        outside = int((1 - self.confidence) / 2 * self.resamples)
        low, high = medians[[outside, self.resamples - 1 - outside]].tolist()
        return Interval(float(np.median(values)), low, high, n)

    @property
    def _ends(self) -> tuple[float, float]:
        """Levels of an interval's ends."""
        tail = (1 - self.confidence) / 2
        return tail, 1 - tail


def sign_flip_p_value(differences: Sequence[float] | Floats) -> float | None:
    """Return the two-sided sign-flip p-value of ``(n,)`` paired differences (Fisher 1935); ``None`` with less than two.

    All 2ⁿ sign patterns are equally likely. It is exact up to ``EXACT_PAIRS`` pairs: sums of one half are sought among
    the sorted sums of the other (Horowitz & Sahni 1974). With more, ``DRAWS`` patterns are drawn from a fixed stream,
    and the observed one is one of them (Phipson & Smyth 2010). A ``ValueError`` refuses what is not finite or no row.
    """
    data = np.asarray(differences, np.float64)
    if data.ndim != 1 or not np.isfinite(data).all():
        raise ValueError(f"expected (n,) finite differences, found {data}; leave failed repetitions out")
    n = len(data)
    if n < 2:
        return None
    data = data / (np.abs(data).max() or 1)  # sums of huge or tiny differences stay in range
    least = abs(data.sum()) - TIED * np.abs(data).sum()
    if least <= 0:
        return 1.0
    if n > EXACT_PAIRS:
        random, sums = seeds.numpy_generator(0, "sign-flip", n), np.zeros(DRAWS)
        for value in data:
            sums += np.where(random.integers(0, 2, DRAWS, dtype=np.bool_), value, -value)
        return (1 + int(np.count_nonzero(np.abs(sums) >= least))) / (1 + DRAWS)
    left, right = (  # the sums of each half under every pattern of signs
        functools.reduce(lambda sums, value: np.concatenate([sums + value, sums - value]), half, np.zeros(1))
        for half in np.split(data, [n // 2])
    )
    right.sort()
    # Sums come in pairs of opposite sign: those at or above the observed one are half of those as far from 0.
    patterns = len(left) * len(right)
    return 2 * (patterns - int(np.searchsorted(right, least - left).sum())) / patterns


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm-adjusted p-values (Holm 1979); ``None`` was not tested. ValueError: one is outside [0, 1]."""
    known = np.array([p for p in p_values if p is not None], np.float64)
    if not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"expected p-values in [0, 1], found {known.tolist()}; use None where there was no test")
    order = np.argsort(known, kind="stable")
    adjusted = np.empty_like(known)
    adjusted[order] = np.minimum(np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)), 1)
    values = iter(adjusted.tolist())
    return [None if p is None else next(values) for p in p_values]


def step_down(differences: Floats) -> list[float]:
    """Return two-sided p-values of k columns of ``(n, k)`` paired differences, adjusted for all of them.

    The step-down max-T procedure (Westfall & Young 1993, Algorithm 2.8) over sign flips of whole repetitions, so that
    correlated columns cost less than Holm's bound. Under a flip a column's Σd² stays, and its t grows with |Σd|. All
    patterns of up to 16 repetitions are counted; of more, ``DRAWS`` and the observed one. A ``ValueError`` refuses
    differences that are not finite, or not in rows and columns.
    """
    data = np.asarray(differences, np.float64)
    if data.ndim != 2 or not data.size or not np.isfinite(data).all():
        raise ValueError(f"expected (n, k) finite differences, found {data}; leave failed repetitions out")
    n, random = len(data), seeds.numpy_generator(0, "step-down", len(data))
    norm = np.sqrt((data**2).sum(0))
    scaled = np.divide(data, norm, out=np.zeros_like(data), where=norm > 0)
    order = np.argsort(-np.abs(scaled.sum(0)), kind="stable")
    scaled = scaled[:, order]
    # The first pattern is the observed one.
    bits = np.arange(2**n)[:, None] >> np.arange(n) & 1 if n <= 16 else random.integers(0, 2, (DRAWS + 1, n))
    bits[0] = 0
    sums = np.abs((1.0 - 2.0 * bits) @ scaled)
    largest = np.maximum.accumulate(sums[:, ::-1], axis=1)[:, ::-1]
    p_values = np.empty(len(order))
    p_values[order] = np.maximum.accumulate((largest >= sums[0] - n * TIED).mean(0))
    return [float(p) for p in p_values]


def equivalence(differences: Floats, margin: float) -> float:
    """Return the p-value of "the mean of ``(n,)`` differences lies outside ±margin" (TOST, Schuirmann 1987), n >= 2."""
    if np.ptp(differences) == 0:
        return float(abs(differences[0]) >= margin)
    n, gap = len(differences), abs(np.mean(differences)) - margin  # of both tests the nearer margin's p is the larger
    return float(special.stdtr(n - 1, gap / np.std(differences, ddof=1) * np.sqrt(n)))


def detectable(differences: Floats, level: float, power: float = 0.8) -> float:
    """Return the mean that a paired t test of n differences of this spread finds with this power (Cohen 1988)."""
    from statsmodels.stats.power import TTestPower  # takes seconds to import

    size = TTestPower().solve_power(nobs=len(differences), alpha=level, power=power)
    return float(size * np.std(differences, ddof=1))


def verdict(gain: float, p: float, equivalent: float) -> str:
    """Return what an effect is, by tests of difference (adjusted) and equivalence: shown to be small, it is none."""
    if equivalent < LEVEL:
        return "practically none"
    return "undecided" if p >= LEVEL else "supported" if gain > 0 else "opposite"


@dataclass(frozen=True)
class SpeedUp:
    """A condition's speed-ups over the noiseless run."""

    percent: Floats  # (n,): 100 (R - r)/R of each repetition; -inf where the run never got there
    bound: float  # below which such a censored speed-up lies: -100 (max_epochs - R)/R

    def summary(self, bootstrap: Bootstrap) -> dict[str, float | int | None]:
        """Return what ``metrics.json`` holds: the mean exists only where nothing is censored, the median always.

        A quantile that is missing though there are repetitions lies below ``censored_below``.
        """
        censored, median = int(np.isneginf(self.percent).sum()), bootstrap.median(self.percent)
        mean = Interval(None, None, None, len(self.percent)) if censored else bootstrap.mean(self.percent)
        quantiles = {"median": median.mean, "median_ci_low": median.low, "median_ci_high": median.high}
        shown = {name: None if value == -np.inf else value for name, value in quantiles.items()}
        return {**mean.as_dict(), **shown, "censored": censored, "censored_below": self.bound}


def speed_up(loss: Sequence[Floats], baseline: Sequence[Floats], epochs: int, max_epochs: int) -> SpeedUp:
    """Return (R - r)/R, where r is the first epoch at which a run's test loss reaches the noiseless run's at R.

    Both give per repetition the test losses of epochs 0, 1, … up to the last; they are shorter where it failed.
    """
    percent = []
    for mine, noiseless in zip(loss, baseline, strict=True):
        if len(noiseless) <= epochs:
            continue
        reached = np.flatnonzero(mine[1:] <= noiseless[epochs])
        percent.append(100 * (epochs - (reached[0] + 1)) / epochs if len(reached) else -np.inf)
    return SpeedUp(np.array(percent, np.float64), -100 * (max_epochs - epochs) / epochs)
