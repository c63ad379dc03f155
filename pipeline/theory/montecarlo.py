"""Q and Q_N by importance sampling (63)-(70), and the noise benefit Q_N - Q.

Latents z¹ … z^M are drawn from the prior p(z | x, Θⁿ) and weighted by how well they explain y (66). Who calls draws
them: theory draws nothing. Everything stays in logarithms, so a thousand nats more or less do not matter.

Shapes: M samples of the latents come first, then any batch axes, written ``...``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.theory.gates import gate_additive_gain_from_logit
from pipeline.theory.gem import log_prior


def _check(log_weight: Tensor) -> None:
    if log_weight.dim() == 0 or log_weight.shape[0] == 0:
        raise ValueError(f"expected at least one sample along the first axis, found shape {tuple(log_weight.shape)}")


def log_weights(likelihood_n: Tensor) -> Tensor:
    """Return log γ^m, the relative importance of each sample (66).

    Args:
        likelihood_n: ``(M, ...)`` log p(y | z^m, x, Θⁿ).

    Returns:
        ``(M, ...)``; their exponentials sum to 1 over M.

    Raises:
        ValueError: no samples.
    """
    _check(likelihood_n)
    return torch.log_softmax(likelihood_n, 0)


def effective_sample_size(likelihood_n: Tensor) -> Tensor:
    """Return 1 / Σ_m (γ^m)²: M where all samples explain y equally well, 1 where one does all the work.

    Args:
        likelihood_n: ``(M, ...)`` log p(y | z^m, x, Θⁿ).

    Returns:
        ``(...)``.

    Raises:
        ValueError: no samples.
    """
    return torch.exp(-torch.logsumexp(2 * log_weights(likelihood_n), 0))


def log_evidence(likelihood_n: Tensor) -> Tensor:
    """Return the estimate log (1/M) Σ_m p(y | z^m, x, Θⁿ) of log p(y | x, Θⁿ), whose sum stands below (64).

    Args:
        likelihood_n: ``(M, ...)`` log p(y | z^m, x, Θⁿ).

    Returns:
        ``(...)`` in nats.

    Raises:
        ValueError: no samples.
    """
    _check(likelihood_n)
    return torch.logsumexp(likelihood_n, 0) - math.log(len(likelihood_n))


def surrogate(likelihood_n: Tensor, latent: Tensor, logit: Tensor, likelihood: Tensor) -> Tensor:
    """Return the estimate of Q(Θ | Θⁿ) (68).

    Args:
        likelihood_n: ``(M, ...)`` log p(y | z^m, x, Θⁿ), of the parameters that z was drawn with.
        latent: ``(M, ..., J)`` z^m.
        logit: ``(..., J)`` logit g at Θ.
        likelihood: ``(M, ...)`` log p(y | z^m, x, Θ).

    Returns:
        ``(...)`` in nats; its error falls as 1/√M.

    Raises:
        ValueError: no samples.
    """
    return (log_weights(likelihood_n).exp() * (log_prior(latent, logit) + likelihood)).sum(0)


def noisy_surrogate(likelihood_n: Tensor, noisy_latent: Tensor, logit: Tensor, likelihood: Tensor) -> Tensor:
    """Return the estimate of Q_N(Θ | Θⁿ) (70): as Q, with z + n (or z∘n) in the prior, and y explained by z.

    Args:
        likelihood_n: ``(M, ...)`` log p(y | z^m, x, Θⁿ).
        noisy_latent: ``(M, ..., J)`` z^m + n or z^m∘n.
        logit: ``(..., J)`` logit g at Θ.
        likelihood: ``(M, ...)`` log p(y | z^m, x, Θ).

    Returns:
        ``(...)`` in nats.

    Raises:
        ValueError: no samples.
    """
    return surrogate(likelihood_n, noisy_latent, logit, likelihood)


def noise_benefit(likelihood_n: Tensor, latent: Tensor, logit: Tensor, increment: Tensor) -> Tensor:
    """Return the noise benefit Q_N - Q, (70) less (68).

    The likelihoods cancel and so do the normalisers of the prior: what is left is Σ_m γ^m Δ^m·logit g. For additive
    noise Δ = n, whatever the samples, it is the very gain of Theorems 4 and 5; for multiplicative noise Δ = z∘(n - 1),
    it is that of Corollaries 3 and 4 with the posterior mean of z as the latent. Rejected noise has Δ = 0.

    Args:
        likelihood_n: ``(M, ...)`` log p(y | z^m, x, Θⁿ).
        latent: ``(M, ..., J)`` z^m.
        logit: ``(..., J)`` logit g.
        increment: ``(M or 1, ..., J)`` what the noise adds to z^m: n, or z^m∘(n - 1).

    Returns:
        ``(...)`` in nats.

    Raises:
        ValueError: no samples, or increments that do not fit the latents.
    """
    weight = log_weights(likelihood_n).exp()
    if increment.dim() != latent.dim():
        raise ValueError(
            f"expected increments shaped like the latents {tuple(latent.shape)} or with 1 along the first axis, found "
            f"{tuple(increment.shape)}"
        )
    return (weight * gate_additive_gain_from_logit(increment, logit)).sum(0)
