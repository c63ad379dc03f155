"""NEM conditions as log-likelihood gains: Theorems 2-5, Corollaries 1-4, and those of logistic outputs.

Each function returns log p(noisy) - log p(clean) of the signal, per sample and time slice; in nats for classifiers and
gates, in squared units of the target for regressors. The NEM condition holds where it is not negative. One pair of
functions serves every sigmoid gate of LSTM and GRU: gates are independent given the past, so the sums of (79), (81),
(87) and (89) have one term per gate, and Algorithm 1 tests each by itself.

Shapes: every argument is ``(..., K)`` outputs or ``(..., J)`` hidden units, every gain ``(...)``. Additive noise n is
added to the target y or the gate g, multiplicative noise multiplies it. A classifier's a are probabilities, y 1-in-K;
of logistic outputs each a_k is a label's probability, y_k 0 or 1.
"""

import torch
from torch import Tensor


def _weighted_sum(weight: Tensor, value: Tensor) -> Tensor:
    """Return Σ weight·value over the last axis, where 0·(±inf) counts as 0."""
    product = weight * value
    return torch.where(weight == 0, torch.zeros_like(product), product).sum(-1)


def classifier_additive_gain(noise: Tensor, activation: Tensor) -> Tensor:
    """Return Σ_k n_k log a_k of softmax outputs (Theorem 2 (40))."""
    return _weighted_sum(noise, activation.log())


def classifier_multiplicative_gain(noise: Tensor, target: Tensor, activation: Tensor) -> Tensor:
    """Return Σ_k (n_k - 1) y_k log a_k of softmax outputs (Corollary 1 (41))."""
    return _weighted_sum((noise - 1) * target, activation.log())


def regressor_additive_gain(noise: Tensor, target: Tensor, activation: Tensor) -> Tensor:
    """Return ‖y - a‖² - ‖y + n - a‖² of identity outputs (Theorem 3 (48)).

    Twice the log-likelihood ratio of the normal density with identity covariance (45).
    """
    return (target - activation).square().sum(-1) - (target + noise - activation).square().sum(-1)


def regressor_multiplicative_gain(noise: Tensor, target: Tensor, activation: Tensor) -> Tensor:
    """Return ‖y - a‖² - ‖y∘n - a‖² of identity outputs (Corollary 2).

    This is what the corollary's proof asks for; (49) as printed is not (see ``docs/errata.md``): at n = 1, which
    changes nothing, it does not vanish.
    """
    return (target - activation).square().sum(-1) - (target * noise - activation).square().sum(-1)


def logistic_additive_gain(noise: Tensor, activation: Tensor) -> Tensor:
    """Return Σ_k n_k logit a_k of logistic outputs: y has the likelihood Π a^y (1 - a)^(1 - y), continued to y + n."""
    return _weighted_sum(noise, torch.logit(activation))


def logistic_multiplicative_gain(noise: Tensor, target: Tensor, activation: Tensor) -> Tensor:
    """Return Σ_k (n_k - 1) y_k logit a_k of logistic outputs: labels that are 0 receive nothing."""
    return _weighted_sum((noise - 1) * target, torch.logit(activation))


def gate_additive_gain_from_logit(noise: Tensor, logit: Tensor) -> Tensor:
    """Return Σ_j n_j logit g_j, given what the gates receive, which is exactly logit g (Theorems 4, 5)."""
    return _weighted_sum(noise, logit)


def gate_additive_gain(noise: Tensor, gate: Tensor) -> Tensor:
    """Return Σ_j n_j log(g_j / (1 - g_j)) (Theorems 4 (79), 5 (87)); gates of 0 and 1 give infinite gains."""
    return gate_additive_gain_from_logit(noise, torch.logit(gate))


def gate_multiplicative_gain(noise: Tensor, latent: Tensor, gate: Tensor) -> Tensor:
    """Return Σ_j (z_j n_j - z_j) log(g_j / (1 - g_j)) (Corollaries 3 (81), 4 (89)).

    The latent z is the gate's Bernoulli variable, or its mean g (mean field); gates of 0 and 1 give infinite gains.
    """
    return _weighted_sum(latent * noise - latent, torch.logit(gate))
