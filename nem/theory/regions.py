"""The NEM regions of the output layer as shapes: half-spaces for classifiers, ellipsoids for regressors.

The noise that passes the test of Theorem 2, Corollary 1, Theorem 3 or Corollary 2 at one sample and slice fills a
region of K-dimensional space, which Figures 1(a), 4, 5 and 6 draw for K = 3. The noise that leaves the signal alone (0
if additive, 1 if multiplicative) lies on the boundary of each region. Targets y and activations a are ``(K,)``.
"""

import math
from typing import NamedTuple

from scipy import integrate, special
from torch import Tensor


class HalfSpace(NamedTuple):
    """All n with normal·n >= offset."""

    normal: Tensor  # (K,), not 0
    offset: float

    def contains(self, noise: Tensor) -> Tensor:
        """Return whether each ``(..., K)`` noise lies inside or on the boundary: ``(...)``."""
        return noise @ self.normal >= self.offset

    def acceptance(self, mean: Tensor, sigma: float) -> float:
        """Return P(normal·n >= offset) for n ~ N(mean, σ²I): Φ((normal·mean - offset) / (σ ‖normal‖))."""
        distance = (self.normal @ mean - self.offset) / self.normal.norm()
        return float(special.ndtr(distance.item() / sigma))


class Ellipsoid(NamedTuple):
    """All n with Σ_k ((n_k - centre_k) / axis_k)² <= 1."""

    centre: Tensor  # (K,)
    axes: Tensor  # (K,) half-lengths, inf where the region is unbounded

    def contains(self, noise: Tensor) -> Tensor:
        """As of :meth:`HalfSpace.contains`."""
        return ((noise - self.centre) / self.axes).square().sum(-1) <= 1

    def acceptance(self, mean: Tensor, sigma: float) -> float:
        """Return P(n inside) for n ~ N(mean, σ²I), by quadrature of Imhof's integral.

        The squared distance is Σ_k w_k χ²_1(δ_k²) with w = (σ/axis)² and δ = (mean - centre)/σ, a weighted sum of
        noncentral χ² variables (J. P. Imhof, Biometrika 48, 1961). Accurate to about 1e-8.
        """
        weight = (sigma / self.axes).square()
        shift = ((mean - self.centre) / sigma).square()
        pairs = [(w, d) for w, d in zip(weight.tolist(), shift.tolist(), strict=True) if w > 0]
        if not pairs:
            return 1.0
        if len(pairs) == 1:  # an interval; the integral would decay too slowly
            half, at = 1 / math.sqrt(pairs[0][0]), math.sqrt(pairs[0][1])
            return float(special.ndtr(half - at) - special.ndtr(-half - at))

        def integrand(u: float) -> float:
            angle, damping = -0.5 * u, 0.0
            for w, d in pairs:
                wu = w * u
                angle += 0.5 * (math.atan(wu) + d * wu / (1 + wu * wu))
                damping += 0.25 * math.log1p(wu * wu) + 0.5 * d * wu * wu / (1 + wu * wu)
            return math.sin(angle) / u * math.exp(-damping) if u else 0.5 * sum(w * (1 + d) for w, d in pairs) - 0.5

        # In pieces of a few periods: the integrand oscillates, and decays faster the more dimensions there are. A small
        # region (large weights) bends it close to 0, so the first pieces are short and grow.
        total, left, width = 0.0, 0.0, 0.01 / max(w * (1 + d) for w, d in pairs)
        for _ in range(4000):
            width = min(width, 4 * math.pi)
            piece, _ = integrate.quad(integrand, left, left + width, limit=200, epsabs=1e-12, epsrel=1e-10)
            total, left = total + piece, left + width
            if width == 4 * math.pi and abs(piece) < 1e-11:
                break
            width = 3 * left
        return 0.5 - total / math.pi


def classifier_additive_region(activation: Tensor) -> HalfSpace:
    """Return the region of Theorem 2: n·log a >= 0 (40), Figure 1(a)."""
    return HalfSpace(activation.log(), 0.0)


def classifier_multiplicative_region(target: Tensor, activation: Tensor) -> HalfSpace:
    """Return the region of Corollary 1: (y∘log a)·n >= (y∘log a)·1 (41), Figure 4.

    For a 1-in-K target this is n_k <= 1 at the true class k, whatever the other neurons receive.
    """
    normal = target * activation.log()
    return HalfSpace(normal, normal.sum().item())


def regressor_additive_region(target: Tensor, activation: Tensor) -> Ellipsoid:
    """Return the region of Theorem 3: the ball around a - y through 0 (48), Figure 5."""
    residual = target - activation
    return Ellipsoid(-residual, residual.norm().expand_as(residual))


def regressor_multiplicative_region(target: Tensor, activation: Tensor) -> Ellipsoid:
    """Return the region of Corollary 2: the ellipsoid around a/y through 1, half-axes ‖y - a‖/|y_k|, Figure 6.

    From ‖y∘n - a‖² <= ‖y - a‖²; (49) as printed is another region, a ball (see ``docs/errata.md``). A target of 0,
    where noise of that neuron does not matter and the region is unbounded, is a ValueError.
    """
    if (target == 0).any():
        raise ValueError(f"expected targets that are not 0, found {target.tolist()}; the region is unbounded there")
    return Ellipsoid(activation / target, (target - activation).norm() / target.abs())
