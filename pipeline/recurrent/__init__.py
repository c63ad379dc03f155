"""LSTM and GRU networks whose gates and outputs can be noise-boosted.

For your own network: :class:`NoisyLSTM` or :class:`NoisyGRU` in place of ``nn.LSTM`` or ``nn.GRU``, and
:func:`nem_cross_entropy` or :func:`nem_mse_loss` in place of the loss.
"""

from pipeline.recurrent.losses import nem_cross_entropy, nem_mse_loss
from pipeline.recurrent.modules import NoisyGRU, NoisyLSTM

__all__ = ["NoisyGRU", "NoisyLSTM", "nem_cross_entropy", "nem_mse_loss"]
