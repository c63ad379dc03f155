"""NEM conditions at the output layer: Theorems 2, 3 and Corollaries 1, 2.

Each function returns the log-likelihood gain of the noisy signal over the clean one, log p(noisy) - log p(clean),
per sample and time slice. The NEM condition holds where it is not negative.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_sum(weight: Tensor, value: Tensor) -> Tensor:
    """Return Σ weight·value over the last axis, where 0·(±inf) counts as 0.

    Args:
        weight: ``(..., K)``.
        value: ``(..., K)``, possibly infinite.
    """
    product = weight * value
    return torch.where(weight == 0, torch.zeros_like(product), product).sum(-1)


def classifier_additive_gain(noise: Tensor, activation: Tensor) -> Tensor:
    """Return the gain Σ_k n_k log a_k of additive noise in softmax outputs (Theorem 2, (40)).

    Args:
        noise: ``(..., K)`` n, added to the target.
        activation: ``(..., K)`` a, class probabilities.

    Returns:
        ``(...)`` gains in nats; a hyperplane through the origin bounds the NEM region.
    """
    return weighted_sum(noise, activation.log())


def classifier_multiplicative_gain(noise: Tensor, target: Tensor, activation: Tensor) -> Tensor:
    """Return the gain Σ_k (n_k - 1) y_k log a_k of multiplicative noise in softmax outputs (Corollary 1, (41)).

    Args:
        noise: ``(..., K)`` n, which multiplies the target.
        target: ``(..., K)`` y, a 1-in-K code.
        activation: ``(..., K)`` a, class probabilities.

    Returns:
        ``(...)`` gains in nats.
    """
    return weighted_sum((noise - 1) * target, activation.log())


def regressor_additive_gain(noise: Tensor, target: Tensor, activation: Tensor) -> Tensor:
    """Return the gain ‖y - a‖² - ‖y + n - a‖² of additive noise in identity outputs (Theorem 3, (48)).

    Twice the log-likelihood ratio of the unit-variance normal density (45).

    Args:
        noise: ``(..., K)`` n, added to the target.
        target: ``(..., K)`` y.
        activation: ``(..., K)`` a.

    Returns:
        ``(...)`` gains in squared units of the target; a sphere around a - y bounds the NEM region.
    """
    return (target - activation).square().sum(-1) - (target + noise - activation).square().sum(-1)


def regressor_multiplicative_gain(noise: Tensor, target: Tensor, activation: Tensor) -> Tensor:
    """Return the gain ‖y - a‖² - ‖y∘n - a‖² of multiplicative noise in identity outputs (Corollary 2).

    This is what the corollary's proof asks for; (49) as printed is not (see ``docs/errata.md``): at n = 1, which
    changes nothing, it does not vanish.

    Args:
        noise: ``(..., K)`` n, which multiplies the target.
        target: ``(..., K)`` y.
        activation: ``(..., K)`` a.

    Returns:
        ``(...)`` gains in squared units of the target; an ellipsoid bounds the NEM region.
    """
    return (target - activation).square().sum(-1) - (target * noise - activation).square().sum(-1)
