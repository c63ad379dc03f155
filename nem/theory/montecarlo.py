"""Q and Q_N by importance sampling (63)-(70), and the noise benefit Q_N - Q.

Latents z¹ … z^M are drawn from the prior p(z | x, Θⁿ) and weighted by how well they explain y (66). Who calls draws
them: theory draws nothing. Everything stays in logarithms, so a thousand nats more or less do not matter.

Shapes: M samples of the latents come first, then any batch axes, written ``...``; ``likelihood_n`` is always
``(M, ...)`` log p(y | z^m, x, Θⁿ), of the parameters that z was drawn with. Results are in nats. Every function raises
a ``ValueError`` without samples.
"""

import torch
from torch import Tensor

from nem.theory.gains import gate_additive_gain_from_logit
from nem.theory.gem import log_prior


def log_weights(likelihood_n: Tensor) -> Tensor:
    """Return log γ^m, ``(M, ...)``, the relative importance of each sample (66); Σ_m γ^m = 1."""
    if likelihood_n.dim() == 0 or likelihood_n.shape[0] == 0:
        shape = tuple(likelihood_n.shape)
        raise ValueError(f"expected at least one sample along the first axis, found shape {shape}")
    return torch.log_softmax(likelihood_n, 0)


def effective_sample_size(likelihood_n: Tensor) -> Tensor:
    """Return 1 / Σ_m (γ^m)²: M where all samples explain y equally well, 1 where one does all the work."""
    return torch.exp(-torch.logsumexp(2 * log_weights(likelihood_n), 0))


def surrogate(likelihood_n: Tensor, latent: Tensor, logit: Tensor, likelihood: Tensor) -> Tensor:
    """Return the estimate of Q(Θ | Θⁿ) (68), or of Q_N (70), whose error falls as 1/√M.

    ``latent`` is ``(M, ..., J)`` z^m for Q, z^m + n or z^m∘n for Q_N, whose noise enters the prior alone; ``logit``
    is ``(..., J)`` logit g at Θ, and ``likelihood`` ``(M, ...)`` log p(y | z^m, x, Θ), without noise.
    """
    return (log_weights(likelihood_n).exp() * (log_prior(latent, logit) + likelihood)).sum(0)


def noise_benefit(likelihood_n: Tensor, latent: Tensor, logit: Tensor, increment: Tensor) -> Tensor:
    """Return the noise benefit Q_N - Q, (70) less (68).

    The likelihoods cancel and so do the normalisers of the prior: what is left is Σ_m γ^m Δ^m·logit g. For additive
    noise Δ = n, whatever the samples, it is the very gain of Theorems 4 and 5; for multiplicative noise Δ = z∘(n - 1),
    it is that of Corollaries 3 and 4 with the posterior mean of z as the latent. Rejected noise has Δ = 0.

    ``latent`` is ``(M, ..., J)`` z^m, ``logit`` ``(..., J)``, ``increment`` ``(M or 1, ..., J)`` Δ, what the noise adds
    to z^m; a ValueError if it does not fit the latents.
    """
    weight = log_weights(likelihood_n).exp()
    if increment.dim() != latent.dim():
        raise ValueError(
            f"expected increments shaped like the latents {tuple(latent.shape)} or with 1 along the first axis, found "
            f"{tuple(increment.shape)}"
        )
    return (weight * gate_additive_gain_from_logit(increment, logit)).sum(0)
