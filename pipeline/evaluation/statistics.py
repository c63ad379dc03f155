"""Summaries over paired repetitions: intervals, paired tests, speed-ups with censoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline import seeds

Floats = npt.NDArray[np.float64]


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


def mean_interval(values: Sequence[float] | Floats, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the mean with its percentile bootstrap interval over repetitions.

    The percentile interval is used since the bias-corrected one is undefined for equal or few values. All calls
    with one seed and n use the same resamples, so intervals of paired conditions move together.

    Args:
        values: one per repetition.
        confidence: level, such as 0.95.
        resamples: bootstrap resamples.
        seed: root of the seed tree.
    """
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        return Interval(None, None, None, 0)
    if len(data) < 2:
        return Interval(float(data.mean()), None, None, len(data))
    if np.ptp(data) == 0:
        return Interval(float(data[0]), float(data[0]), float(data[0]), len(data))
    random = seeds.numpy_generator(seed, "bootstrap", len(data))
    found = stats.bootstrap(
        (data,), np.mean, confidence_level=confidence, n_resamples=resamples, method="percentile", rng=random
    ) if _has_rng() else stats.bootstrap(
        (data,), np.mean, confidence_level=confidence, n_resamples=resamples, method="percentile", random_state=random
    )  # fmt: skip
    interval = found.confidence_interval
    return Interval(float(data.mean()), float(interval.low), float(interval.high), len(data))


def _has_rng() -> bool:
    """Whether scipy's bootstrap takes ``rng`` (from 1.15) instead of ``random_state``."""
    import inspect

    return "rng" in inspect.signature(stats.bootstrap).parameters


def sign_flip_p_value(differences: Sequence[float] | Floats) -> float | None:
    """Return the exact two-sided sign-flip p-value of paired differences; ``None`` with fewer than two.

    The paired test that assumes nothing but symmetry under the null: with n pairs it has 2ⁿ equally likely sign
    patterns, so with 10 repetitions the smallest p-value is 0.00195 and with 3 it is 0.25.

    Args:
        differences: condition minus noiseless, one per repetition.
    """
    data = np.asarray(differences, dtype=np.float64)
    if len(data) < 2:
        return None
    if np.all(data == 0):
        return 1.0
    found = stats.permutation_test(
        (data,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=100_000 if len(data) > 16 else np.inf, alternative="two-sided",
    )  # fmt: skip
    return float(found.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm-adjusted p-values, in place of those that exist."""
    known = [p for p in p_values if p is not None]
    if not known:
        return list(p_values)
    adjusted = iter(float(p) for p in multipletests(known, method="holm")[1])
    return [None if p is None else next(adjusted) for p in p_values]


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
