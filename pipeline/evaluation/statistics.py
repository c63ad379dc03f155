"""Summaries over paired repetitions: intervals, paired tests, speed-ups with censoring.

The evaluation calls these tens of times and the study thousands, so they are written for arrays; the tests hold them
to scipy's bootstrap and permutation test, and to statsmodels' Holm.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import seeds

Floats = npt.NDArray[np.float64]
EXACT_PAIRS = 40
"""Up to so many pairs every sign pattern is counted: 2²⁰ sums of each half, 0.2 s."""
DRAWS = 100_000
"""Sign patterns that are drawn where there are more pairs."""
TIED = 1e-12
"""Sums of differences that are nearer than this share of Σ|difference| are tied: accuracies and epochs tie often, and
the round-off of their differences is up to 1e-13 of them."""


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval.

    Attributes:
        mean: the mean; ``None`` without values.
        low: lower end; ``None`` with fewer than two values.
        high: upper end.
        n: number of values.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the mapping that ``metrics.json`` holds."""
        return {"mean": self.mean, "ci_low": self.low, "ci_high": self.high, "n": self.n}


def _sample(values: Sequence[float] | Floats) -> Floats:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not np.isfinite(data).all():
        bad = f"{np.count_nonzero(~np.isfinite(data))} of {data.size} not finite" if data.ndim == 1 else data.shape
        raise ValueError(f"expected (n,) finite values, found {bad}; leave failed repetitions out")
    return data


@functools.lru_cache(maxsize=2)
def _resamples(n: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return ``(count, n)`` places, drawn with replacement."""
    drawn = seeds.numpy_generator(seed, "bootstrap", n).integers(0, n, (count, n))
    drawn.flags.writeable = False
    return drawn


def _quantile(ordered: Floats, level: float) -> float:
    """Return a quantile of sorted values, interpolated linearly (Hyndman & Fan 1996, type 7)."""
    place = level * len(ordered) + (1 - level)
    below, share = int(place) - 1, place % 1
    return float((1 - share) * ordered[below] + share * ordered[min(below + 1, len(ordered) - 1)])


def mean_interval(values: Sequence[float] | Floats, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the mean with its percentile bootstrap interval over repetitions (Efron 1979), in the values' unit.

    The percentile interval is used since the bias-corrected one is undefined for equal or few values. All calls
    with one seed and n use the same resamples, so intervals of paired conditions move together.

    Args:
        values: ``(n,)``, one per repetition.
        confidence: level in (0, 1), such as 0.95.
        resamples: bootstrap resamples.
        seed: root of the seed tree.

    Raises:
        ValueError: values that are not finite or not in one row, a level outside (0, 1), or no resamples.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"expected a confidence level in (0, 1) and at least 1 resample, found {confidence} and {resamples}; "
            "set both as params.yaml describes them"
        )
    data = _sample(values)
    n = len(data)
    if not n:
        return Interval(None, None, None, 0)
    if n < 2:
        return Interval(float(data[0]), None, None, n)
    if np.ptp(data) == 0:
        return Interval(float(data[0]), float(data[0]), float(data[0]), n)
    means = np.sort(data[_resamples(n, resamples, seed)].mean(1))
    tail = (1 - confidence) / 2
    return Interval(float(data.mean()), _quantile(means, tail), _quantile(means, 1 - tail), n)


def _signed_sums(values: Floats) -> Floats:
    """Return the ``(2ⁿ,)`` sums of ``(n,)`` values under every pattern of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def sign_flip_p_value(differences: Sequence[float] | Floats) -> float | None:
    """Return the two-sided sign-flip p-value of paired differences (Fisher 1935); ``None`` with fewer than two.

    The paired test that assumes nothing but symmetry under the null: with n pairs it has 2ⁿ equally likely sign
    patterns, so with 10 repetitions the smallest p-value is 0.00195 and with 3 it is 0.25. It is exact up to
    ``EXACT_PAIRS`` pairs: sums of one half are sought among the sorted sums of the other (Horowitz & Sahni 1974).
    With more, ``DRAWS`` patterns are drawn from a fixed stream, and the observed one counts as one of them (Phipson &
    Smyth 2010), so no p-value is below 1 / (``DRAWS`` + 1).

    Args:
        differences: ``(n,)`` condition minus noiseless, one per repetition, in any unit.

    Raises:
        ValueError: differences that are not finite or not in one row.
    """
    data = _sample(differences)
    n = len(data)
    if n < 2:
        return None
    largest = np.abs(data).max()
    if largest == 0:
        return 1.0
    data = data / largest  # sums of huge or tiny differences stay in range
    least = abs(data.sum()) - TIED * np.abs(data).sum()
    if least <= 0:
        return 1.0
    if n > EXACT_PAIRS:
        random, sums = seeds.numpy_generator(0, "sign-flip", n), np.zeros(DRAWS)
        for value in data:
            sums += np.where(random.integers(0, 2, DRAWS, dtype=np.bool_), value, -value)
        return (1 + int(np.count_nonzero(np.abs(sums) >= least))) / (1 + DRAWS)
    left, right = _signed_sums(data[: n // 2]), np.sort(_signed_sums(data[n // 2 :]))
    # Sums come in pairs of opposite sign: those at or above the observed one are half of those as far from 0.
    patterns = len(left) * len(right)
    return 2 * (patterns - int(np.searchsorted(right, least - left).sum())) / patterns


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm-adjusted p-values (Holm 1979), in place of those that exist.

    Args:
        p_values: one per comparison of a family; ``None`` where there was no test.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    places = [k for k, p in enumerate(p_values) if p is not None]
    known = np.array([p_values[k] for k in places], dtype=np.float64)
    if not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"expected p-values in [0, 1], found {known.tolist()}; use None where there was no test")
    order = np.argsort(known, kind="stable")
    raised = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    adjusted: list[float | None] = [None] * len(p_values)
    for k, p in zip(order.tolist(), np.minimum(raised, 1).tolist(), strict=True):
        adjusted[places[k]] = p
    return adjusted


@dataclass(frozen=True)
class SpeedUp:
    """A condition's speed-up over the noiseless run, over paired repetitions.

    Attributes:
        percent: ``(n,)`` (R - r)/R in per cent per repetition; -inf where the run never got there.
        bound: the value below which a censored speed-up lies, -100 (max_epochs - R)/R.
    """

    percent: Floats
    bound: float

    @property
    def censored(self) -> int:
        """Repetitions that never reached the noiseless loss."""
        return int(np.isneginf(self.percent).sum())

    @property
    def median(self) -> float | None:
        """Median with censored repetitions ordered last; -inf if the median itself is censored."""
        if not len(self.percent):
            return None
        ordered = np.sort(self.percent)
        middle = len(ordered) // 2
        pair = ordered[middle - 1 : middle + 1] if len(ordered) % 2 == 0 else ordered[middle : middle + 1]
        return float(-np.inf if np.isneginf(pair).any() else pair.mean())

    def median_interval(self, confidence: float, resamples: int, seed: int) -> tuple[float, float] | None:
        """Return a percentile bootstrap interval of the median; ``None`` with fewer than two repetitions.

        A mean does not exist once a repetition is censored, but the order of repetitions does: a resample's median is
        -inf where it is censored, and so is an end of the interval. Ends are medians of resamples, never interpolated.

        Args:
            confidence: level, such as 0.95.
            resamples: bootstrap resamples.
            seed: root of the seed tree.
        """
        n = len(self.percent)
        if n < 2:
            return None
        random = seeds.numpy_generator(seed, "bootstrap-median", n)
        drawn = np.sort(self.percent[random.integers(0, n, (resamples, n))], 1)
        below, above = drawn[:, (n - 1) // 2], drawn[:, n // 2]
        medians = np.sort(np.where(np.isneginf(below), -np.inf, (below + above) / 2))
        outside = int((1 - confidence) / 2 * resamples)
        return float(medians[outside]), float(medians[resamples - 1 - outside])

    def text(self) -> str:
        """Return the median as text: ``12 %`` or ``< -50 %``."""
        if self.median is None:
            return "-"
        return f"< {self.bound:.0f} %" if np.isneginf(self.median) else f"{self.median:.0f} %"


def speed_up(loss: Sequence[Floats], baseline: Sequence[Floats], epochs: int, max_epochs: int) -> SpeedUp:
    """Return (R - r)/R, where r is the first epoch at which a run's test loss reaches the noiseless run's at R.

    Args:
        loss: per repetition, the condition's test losses of epochs 0, 1, …; shorter where it failed.
        baseline: per repetition, the noiseless run's.
        epochs: R.
        max_epochs: last epoch that was trained.
    """
    percent = []
    for mine, noiseless in zip(loss, baseline, strict=True):
        if len(noiseless) <= epochs:
            continue
        reached = np.flatnonzero(mine[1:] <= noiseless[epochs])
        percent.append(100 * (epochs - (reached[0] + 1)) / epochs if len(reached) else -np.inf)
    return SpeedUp(np.asarray(percent, dtype=np.float64), -100 * (max_epochs - epochs) / epochs)
