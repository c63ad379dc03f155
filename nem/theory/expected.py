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
    (y∘log a) and Corollaries 3, 4 (z∘logit g).

    Args:
        normal: ``(..., K)`` v; where it is 0 every draw is kept and the mean is 0.
        sigma: σ >= 0.

    Returns:
        ``(..., K)`` in units of σ.
    """
    _check_sigma(sigma)
    # Two steps, since squares of very small or very large entries leave the range of floating point.
    largest = normal.abs().amax(-1, keepdim=True)
    scaled = torch.where(largest > 0, normal / largest.where(largest > 0, torch.ones_like(largest)), normal)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    direction = torch.where(largest > 0, scaled / length.clamp_min(1), torch.zeros_like(scaled))
    return direction * (sigma / math.sqrt(2 * math.pi))


def _noncentral_chi2_cdf(degrees: int, at: Tensor) -> Tensor:
    """Return F_degrees(λ; λ) at λ = ``at``, from scipy, on the CPU in double precision."""
    from scipy import stats  # half a second, which every worker would pay

    values = at.double().cpu().numpy()
    return torch.as_tensor(stats.ncx2.cdf(values, degrees, values)).to(at)


def _widths(residual: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Return σ as a tensor, σ with 1 for 0, and λ = ‖r‖²/σ², ``(..., 1)``."""
    _check_sigma(sigma)
    sigma = torch.as_tensor(sigma, dtype=residual.dtype, device=residual.device)
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    return sigma, safe, torch.linalg.vector_norm(residual, dim=-1, keepdim=True).div(safe).square()


def ball_acceptance(residual: Tensor, sigma: Tensor | float) -> Tensor:
    """Return P(‖n + r‖ <= ‖r‖) for n ~ N(0, σ²I): F_K(λ; λ) with λ = ‖r‖²/σ² (Theorem 3).

    Args:
        residual: ``(..., K)`` r = y - a.
        sigma: σ >= 0, alike for all K; at σ = 0 every draw is kept.

    Returns:
        ``(...)`` probabilities; for K = 1 that is Φ(2|r|/σ) - 1/2.
    """
    sigma, _, lam = _widths(residual, sigma)
    inside = _noncentral_chi2_cdf(residual.shape[-1], lam.clamp_max(LARGEST_RATIO))
    inside = torch.where(lam > LARGEST_RATIO, 0.5, inside).where(lam > 0, torch.zeros_like(inside))
    return torch.where(sigma > 0, inside, torch.ones_like(inside))[..., 0]


def expected_ball_noise(residual: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the mean of N(0, σ²I) noise kept where ‖n + r‖ <= ‖r‖ and set to 0 elsewhere (Theorem 3).

    It is r (F_{K+2}(λ; λ) - F_K(λ; λ)) with λ = ‖r‖²/σ² and F the noncentral χ² distribution function; for K = 1,
    -sign(r) (σ/√2π)(1 - exp(-2r²/σ²)). The target always moves toward the prediction, and the mean vanishes with r.

    Args:
        residual: ``(..., K)`` r = y - a.
        sigma: σ >= 0.

    Returns:
        ``(..., K)`` in units of r.
    """
    sigma, safe, lam = _widths(residual, sigma)
    K = residual.shape[-1]
    if K == 1:  # in closed form, since training takes this path in every step
        mean = residual.sign() * safe / math.sqrt(2 * math.pi) * torch.expm1(-2 * (residual / safe).square())
        return torch.where(sigma > 0, mean, torch.zeros_like(mean))
    capped = lam.clamp_max(LARGEST_RATIO)
    factor = _noncentral_chi2_cdf(K + 2, capped) - _noncentral_chi2_cdf(K, capped)
    # Beyond the cap the ball is a half-space in the direction -r.
    far = -1 / (lam.clamp_min(1e-30).sqrt() * math.sqrt(2 * math.pi))
    mean = residual * torch.where(lam > LARGEST_RATIO, far, factor)
    return torch.where((sigma > 0) & (lam > 0), mean, torch.zeros_like(mean))
