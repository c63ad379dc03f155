"""What compiled code (:mod:`nem.kernels`) reads and writes.

Shapes: T slices, S of them with a target (the last ones), G groups, C networks per group, I inputs, J hidden units, n
noisy gates, K outputs, B sequences of a batch, padded.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


class Layer(NamedTuple):
    """What a pass reads, as arrays, or their gradients; those that there is no need of have no elements."""

    x: Floats  # (T, G, I + 1, B) inputs with a last row of ones; of many (1, G, I + 1, T·B), slices side by side
    W: Floats  # (G, I + 1, C, blocks·J)
    V: Floats  # (G, C, blocks·J, J)
    h0: Floats  # (G, C, J, B) initial hidden states; empty is zero, and then s0 is empty too
    s0: Floats  # (G, C, J, B) initial cell states
    bias: Floats  # (G, C, J) of the GRU's recurrent product


class States(NamedTuple):
    """What a forward pass writes and a backward pass reads; axes that are shorter are written over in turn."""

    h: Floats  # (T, G, C, J, B) hidden states
    act: Floats  # (T, G, C, blocks·J, B) clean activations; the backward pass turns them into gradients
    first: Floats  # (T, G, C, J, B) LSTM: cell states, GRU: recurrent products
    second: Floats  # (T, G, C, J, B) LSTM: tanh of the cell states, GRU: empty
    whole: Floats  # (C·blocks·J, T·B) of many inputs, a group's products with all slices, then their gradients


class Injected(NamedTuple):
    """Gate noise."""

    kinds: Codes  # (G, C)
    modes: Floats  # (G, C) 1 for multiplicative noise, else 0
    sigma: Floats  # (G, C)
    normal: Floats  # (T, G, n, J, B) draws
    test: Floats  # (T, G, n, J, B) draws that matched noise tests instead
    accepted: Floats  # (T, G, C, n, B) written by the forward pass: 1 where draws are injected, else 0
    share: Floats  # (G, C) written by the forward pass: the mean of ``accepted`` over real sequences


class Outputs(NamedTuple):
    """Output neurons, their targets and the noise in these."""

    head: int
    literal: bool  # whether softmax neurons' gradient is a - y, :func:`nem.stack.error_gradient`
    columns: int  # sequences that are no padding
    U: Floats  # (G, C, K, J)
    b: Floats  # (G, C, K, 1)
    target: Floats  # (G, K, B)
    kinds: Codes  # this and the next four: as those of :class:`Injected`
    modes: Floats
    sigma: Floats
    normal: Floats  # (S, G, K, B)
    test: Floats


class Scores(NamedTuple):
    """What :func:`train` writes of the output neurons."""

    U: Floats  # (G, C, K, J) gradients of U
    b: Floats  # (G, C, K, 1) and of b
    loss: Floats  # (G, C) the error of noisy targets
    share: Floats  # (G, C) share of injected draws


class SliceNoise(NamedTuple):
    """Gate noise of one network in one slice."""

    accepted: Floats  # (n, B) 1 where draws are injected, else 0
    sigma: np.float32
    normal: Floats  # (n, J, B) draws
    mode: np.float32  # 1 for multiplicative noise, else 0
