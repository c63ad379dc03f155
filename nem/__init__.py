"""Noise-boosted recurrent networks: LSTM and GRU layers and losses with noise that passes a likelihood test.

For your own network: :class:`NoisyLSTM` or :class:`NoisyGRU` in place of ``nn.LSTM`` or ``nn.GRU``, and
:func:`nem_cross_entropy`, :func:`nem_binary_cross_entropy` or :func:`nem_mse_loss` in place of the loss. Many networks
at once: :class:`Stack`. The theorems as functions: :mod:`nem.theory`.
"""

from nem import theory
from nem.conditions import CONDITIONS
from nem.layers import NoisyGRU, NoisyLSTM
from nem.losses import nem_binary_cross_entropy, nem_cross_entropy, nem_mse_loss
from nem.many import Member, Stack
from nem.noise import Noise

__all__ = [
    "CONDITIONS",
    "Member",
    "Noise",
    "NoisyGRU",
    "NoisyLSTM",
    "Stack",
    "nem_binary_cross_entropy",
    "nem_cross_entropy",
    "nem_mse_loss",
    "theory",
]
