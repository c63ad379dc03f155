"""What NEM noise does on average: the mean of Gaussian noise kept where it passes the NEM test, 0 elsewhere.

Derivations: ``docs/theory.md``, "Expected NEM noise". Every σ is a number or a tensor that broadcasts against the
vectors ``(..., K)``; a negative one raises a ``ValueError``.
"""

import math

import torch
from torch import Tensor

LARGEST_RATIO = 1e6
"""λ beyond which a ball's boundary counts as a plane; the series of the noncentral χ² would overflow there."""


def _check_sigma(sigma: Tensor | float) -> None:
    """Raise a ``ValueError`` unless no σ is negative."""
    lowest = sigma.min().item() if isinstance(sigma, Tensor) else sigma
    if not lowest >= 0:
        raise ValueError(f"expected sigma that is not negative, found {lowest}")


def expected_halfspace_noise(normal: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the mean of N(0, σ²I) noise kept where normal·n >= 0 and set to 0 elsewhere: (σ/√2π) v/‖v‖.

    The mean effect of Theorem 2 (normal = log a), Theorems 4, 5 (logit g) and, with n - 1 for n, of Corollary 1
    (y∘log a) and Corollaries 3, 4 (z∘logit g). ``normal`` is v ``(..., K)``; where it is 0 every draw is kept and the
    mean is 0. The mean is ``(..., K)`` in units of σ.
    """
    _check_sigma(sigma)
    # Two steps, since squares of very small or very large entries leave the range of floating point.
    largest = normal.abs().amax(-1, keepdim=True)
    scaled = torch.where(largest > 0, normal / largest.where(largest > 0, torch.ones_like(largest)), normal)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    direction = torch.where(largest > 0, scaled / length.clamp_min(1), torch.zeros_like(scaled))
    return direction * (sigma / math.sqrt(2 * math.pi))


def expected_ball_noise(residual: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the mean of N(0, σ²I) noise kept where ‖n + r‖ <= ‖r‖ and set to 0 elsewhere (Theorem 3).

    It is r (F_{K+2}(λ; λ) - F_K(λ; λ)) with λ = ‖r‖²/σ² and F the noncentral χ² distribution function; for K = 1,
    -sign(r) (σ/√2π)(1 - exp(-2r²/σ²)). The target always moves toward the prediction, and the mean vanishes with r.
    ``residual`` is r = y - a ``(..., K)``, and so is the mean, in units of r.
    """
    _check_sigma(sigma)
    sigma, K = torch.as_tensor(sigma, dtype=residual.dtype, device=residual.device), residual.shape[-1]
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    if K == 1:  # in closed form, since training takes this path in every step
        mean = residual.sign() * safe / math.sqrt(2 * math.pi) * torch.expm1(-2 * (residual / safe).square())
        return torch.where(sigma > 0, mean, torch.zeros_like(mean))
    from scipy import stats  # half a second, which every worker would pay

    lam = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).div(safe).square()
    at = lam.clamp_max(LARGEST_RATIO).double().cpu().numpy()  # scipy's is of the CPU, in double precision
    outer, inner = (torch.as_tensor(stats.ncx2.cdf(at, degrees, at)).to(lam) for degrees in (K + 2, K))
    # Beyond the cap the ball is a half-space in the direction -r.
    far = -1 / (lam.clamp_min(1e-30).sqrt() * math.sqrt(2 * math.pi))
    mean = residual * torch.where(lam > LARGEST_RATIO, far, outer - inner)
    return torch.where((sigma > 0) & (lam > 0), mean, torch.zeros_like(mean))
