"""NEM conditions at the sigmoid gates: Theorems 4, 5 and Corollaries 3, 4.

One pair of functions serves every gate of LSTM (input, forget, output) and GRU (update, reset): the gates are
independent, so the sums of (79), (81), (87) and (89) have one term per gate, and Algorithm 1 tests each by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.theory.output import weighted_sum


def gate_additive_gain_from_logit(noise: Tensor, logit: Tensor) -> Tensor:
    """Return Σ_j n_j logit g_j given the gate's pre-activations, which are exactly logit g (Theorems 4, 5).

    Args:
        noise: ``(..., J)`` n.
        logit: ``(..., J)`` pre-activations.

    Returns:
        ``(...)`` gains in nats.
    """
    return weighted_sum(noise, logit)


def gate_additive_gain(noise: Tensor, gate: Tensor) -> Tensor:
    """Return the gain Σ_j n_j log(g_j / (1 - g_j)) of additive noise in a gate (Theorems 4 (79) and 5 (87)).

    Args:
        noise: ``(..., J)`` n, added to the gate.
        gate: ``(..., J)`` g in [0, 1]; 0 and 1 give infinite gains by definition.

    Returns:
        ``(...)`` gains in nats.
    """
    return gate_additive_gain_from_logit(noise, torch.logit(gate))


def gate_multiplicative_gain_from_logit(noise: Tensor, latent: Tensor, logit: Tensor) -> Tensor:
    """Return Σ_j (z_j n_j - z_j) logit g_j given the gate's pre-activations (Corollaries 3, 4).

    Args:
        noise: ``(..., J)`` n.
        latent: ``(..., J)`` z.
        logit: ``(..., J)`` pre-activations.

    Returns:
        ``(...)`` gains in nats.
    """
    return weighted_sum(latent * noise - latent, logit)


def gate_multiplicative_gain(noise: Tensor, latent: Tensor, gate: Tensor) -> Tensor:
    """Return the gain Σ_j (z_j n_j - z_j) log(g_j / (1 - g_j)) of multiplicative noise (Corollaries 3 (81), 4 (89)).

    Args:
        noise: ``(..., J)`` n, which multiplies the gate.
        latent: ``(..., J)`` z, the gate's Bernoulli latent, or its mean g (mean field).
        gate: ``(..., J)`` g in [0, 1]; 0 and 1 give infinite gains by definition.

    Returns:
        ``(...)`` gains in nats.
    """
    return gate_multiplicative_gain_from_logit(noise, latent, torch.logit(gate))
