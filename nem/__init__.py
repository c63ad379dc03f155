"""Noise-boosted recurrent networks: LSTM and GRU layers and losses with noise that passes a likelihood test.

For your own network: :class:`NoisyLSTM` or :class:`NoisyGRU` in place of ``nn.LSTM`` or ``nn.GRU``, and
:func:`nem_cross_entropy`, :func:`nem_binary_cross_entropy` or :func:`nem_mse_loss` in place of the loss. Many networks
at once: :class:`Stack`. The theorems as functions: :mod:`nem.theory`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from nem.conditions import CONDITIONS

if TYPE_CHECKING:
    from nem import theory
    from nem.layers import NoisyGRU, NoisyLSTM
    from nem.losses import nem_binary_cross_entropy, nem_cross_entropy, nem_mse_loss
    from nem.many import Member, Stack
    from nem.noise import Noise
else:
    _MODULES = {"NoisyGRU": "layers", "NoisyLSTM": "layers", "nem_binary_cross_entropy": "losses",
                "nem_cross_entropy": "losses", "nem_mse_loss": "losses", "Member": "many", "Stack": "many",
                "Noise": "noise"}  # fmt: skip

    def __getattr__(name: str) -> object:
        """Import what is asked for, and PyTorch with it: whoever needs the names of conditions alone does not wait."""
        if name in _MODULES:
            return getattr(import_module(f"nem.{_MODULES[name]}"), name)
        if name.startswith("_") or find_spec(f"nem.{name}") is None:
            raise AttributeError(f"module 'nem' has no attribute {name!r}")
        return import_module(f"nem.{name}")


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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
