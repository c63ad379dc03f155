"""What NEM noise does on average: the mean of Gaussian noise kept where it passes the NEM test, 0 elsewhere.

Derivations: ``docs/theory.md``, "Expected NEM noise".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _check_sigma(sigma: Tensor | float) -> None:
    lowest = sigma.min().item() if isinstance(sigma, Tensor) else sigma
    if not lowest >= 0:
        raise ValueError(f"expected sigma that is not negative, found {lowest}")


def halfspace_acceptance(normal: Tensor) -> Tensor:
    """Return P(normal·n >= 0) for n ~ N(0, σ²I): 1/2, or 1 where the normal is 0 (every draw is kept).

    Args:
        normal: ``(..., K)``.

    Returns:
        ``(...)`` probabilities.
    """
    return torch.where((normal == 0).all(-1), 1.0, 0.5).to(normal.dtype)


def expected_halfspace_noise(normal: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the mean of N(0, σ²I) noise kept where normal·n >= 0 and set to 0 elsewhere: (σ/√2π) v/‖v‖.

    The mean effect of Theorem 2 (normal = log a), Theorems 4, 5 (logit g) and, with n - 1 for n, of Corollary 1
    (y∘log a) and Corollaries 3, 4 (z∘logit g).

    Args:
        normal: ``(..., K)`` v; where it is 0 every draw is kept and the mean is 0.
        sigma: σ >= 0, a number or a tensor that broadcasts against ``normal``.

    Returns:
        ``(..., K)`` in units of σ.

    Raises:
        ValueError: a negative sigma.
    """
    _check_sigma(sigma)
    # Two steps, since squares of very small or very large entries leave the range of floating point.
    largest = normal.abs().amax(-1, keepdim=True)
    scaled = torch.where(largest > 0, normal / largest.where(largest > 0, torch.ones_like(largest)), normal)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    direction = torch.where(largest > 0, scaled / length.clamp_min(1), torch.zeros_like(scaled))
    return direction * (sigma / math.sqrt(2 * math.pi))


def _noncentral_chi2_cdf(at: Tensor, degrees: int, noncentrality: Tensor) -> Tensor:
    """Return F_degrees(at; noncentrality), from scipy, on the CPU in double precision."""
    from scipy import stats  # half a second, which every worker would pay

    values = stats.ncx2.cdf(at.double().cpu().numpy(), degrees, noncentrality.double().cpu().numpy())
    return torch.as_tensor(values).to(at)


def ball_acceptance(residual: Tensor, sigma: Tensor | float) -> Tensor:
    """Return P(‖n + r‖ <= ‖r‖) for n ~ N(0, σ²I): F_K(λ; λ) with λ = ‖r‖²/σ² (Theorem 3).

    Args:
        residual: ``(..., K)`` r = y - a.
        sigma: σ >= 0; at σ = 0 every draw is kept.

    Returns:
        ``(...)`` probabilities; for K = 1 that is Φ(2|r|/σ) - 1/2.

    Raises:
        ValueError: a negative sigma.
    """
    _check_sigma(sigma)
    sigma = torch.as_tensor(sigma, dtype=residual.dtype, device=residual.device)
    length = torch.linalg.vector_norm(residual, dim=-1)
    sigma = sigma[..., 0] if sigma.dim() == residual.dim() else sigma
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    ratio = length / safe
    if residual.shape[-1] == 1:
        found = 0.5 * torch.special.erf(2 * ratio / math.sqrt(2))
    else:
        # Far outside, the sphere is a plane; the series of the noncentral χ² would overflow there.
        lam = ratio.square()
        found = torch.where(
            lam > 1e6, 0.5, _noncentral_chi2_cdf(lam.clamp_max(1e6), residual.shape[-1], lam.clamp_max(1e6))
        )
        found = torch.where(length > 0, found, 0.0)
    return torch.where(sigma > 0, found, torch.ones_like(found))


def expected_ball_noise(residual: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the mean of N(0, σ²I) noise kept where ‖n + r‖ <= ‖r‖ and set to 0 elsewhere (Theorem 3).

    It is r (F_{K+2}(λ; λ) - F_K(λ; λ)) with λ = ‖r‖²/σ² and F the noncentral χ² distribution function; for K = 1,
    -sign(r) (σ/√2π)(1 - exp(-2r²/σ²)). The target always moves toward the prediction, and the mean vanishes with r.

    Args:
        residual: ``(..., K)`` r = y - a.
        sigma: σ >= 0, a number or a tensor that broadcasts against ``residual``.

    Returns:
        ``(..., K)`` in units of r.

    Raises:
        ValueError: a negative sigma.
    """
    _check_sigma(sigma)
    sigma = torch.as_tensor(sigma, dtype=residual.dtype, device=residual.device)
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    K = residual.shape[-1]
    if K == 1:
        mean = residual.sign() * safe / math.sqrt(2 * math.pi) * torch.expm1(-2 * (residual / safe).square())
        return torch.where(sigma > 0, mean, torch.zeros_like(mean))
    lam = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).div(safe).square()
    capped = lam.clamp_max(1e6)
    factor = _noncentral_chi2_cdf(capped, K + 2, capped) - _noncentral_chi2_cdf(capped, K, capped)
    # Beyond the cap the ball is a half-space in the direction -r.
    far = -1 / (lam.clamp_min(1e-30).sqrt() * math.sqrt(2 * math.pi))
    mean = residual * torch.where(lam > 1e6, far, factor)
    return torch.where((sigma > 0) & (lam > 0), mean, torch.zeros_like(mean))
