"""How strong noise is, and how that fades.

The paper leaves annealing open. The schedule here, σ_e = σ / (1 + e)^decay with e = 0 in the first epoch, contains
constant noise (decay 0) and the earlier NEM experiments of the same group (variance falling as 1/epoch², decay 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.conditions import Kind, Mode


def annealed(sigma: float, decay: float, epoch: int) -> float:
    """Return the standard deviation in ``epoch``: σ / (1 + epoch)^decay.

    Args:
        sigma: standard deviation in epoch 0, not negative.
        decay: exponent, not negative.
        epoch: epochs finished so far, not negative.

    Raises:
        ValueError: a negative or non-finite argument.
    """
    for name, value in (("sigma", sigma), ("decay", decay), ("epoch", epoch)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"expected {name} to be finite and not negative, found {value}")
    return float(sigma / (1.0 + epoch) ** decay)


@dataclass(frozen=True)
class Noise:
    """A source of noise for one layer of one network.

    Attributes:
        kind: ``blind``, ``nem``, ``matched`` or ``expected-nem`` (see :mod:`pipeline.conditions`).
        mode: ``additive`` N(0, σ²I) or ``multiplicative`` N(1, σ²I).
        sigma: standard deviation in epoch 0, in units of the signal.
        decay: annealing exponent, see :func:`annealed`.

    Raises:
        ValueError: an unknown kind or mode, or a negative sigma or decay.
    """

    kind: Kind
    mode: Mode
    sigma: float
    decay: float = 0.0

    def __post_init__(self) -> None:
        """Check every attribute."""
        if self.kind not in ("blind", "nem", "matched", "expected-nem"):
            raise ValueError(f"expected kind blind, nem, matched or expected-nem, found {self.kind!r}")
        if self.mode not in ("additive", "multiplicative"):
            raise ValueError(f"expected mode additive or multiplicative, found {self.mode!r}")
        annealed(self.sigma, self.decay, 0)

    def at(self, epoch: int) -> float:
        """Return the standard deviation in ``epoch``."""
        return annealed(self.sigma, self.decay, epoch)

    @property
    def needs_draws(self) -> bool:
        """Whether the noise is random at all: the mean effect of NEM noise is not."""
        return self.kind != "expected-nem"
