"""The compiled form on a CPU (:mod:`nem.kernels`): what it serves, and how tensors become what it reads.

It serves float32 networks and Algorithm 1 as the paper runs it: one test per layer and slice, all kinds with draws, in
gates forward injection and mean-field z. :func:`serves` and :func:`serves_targets` tell. Other noise in gates, and
everything without numba, goes through :mod:`nem.cells`; other noise in targets leaves the recurrent layer compiled.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nem import kernels
from nem.cells import BLOCKS, GATES, Start
from nem.conditions import Kind
from nem.kernels import (
    BLIND,
    FEW,
    IDENTITY,
    LOGISTIC,
    MATCHED,
    NEM,
    NONE,
    REVERSED,
    SOFTMAX,
    Codes,
    Drawn,
    Floats,
    Injected,
    Layer,
    Outputs,
    Scores,
    States,
)
from nem.names import CellName, Head, OutputDelta
from nem.noise import Draws, GateNoise, LayerNoise, OutputNoise

_KINDS = {"none": NONE, "blind": BLIND, "nem": NEM, "matched": MATCHED, "reversed-nem": REVERSED}
_HEADS = {"identity": IDENTITY, "softmax": SOFTMAX, "logistic": LOGISTIC}


@dataclass
class Workspace:
    """Buffers that live from one pass to the next: fresh ones would cost a page fault per page and pass."""

    buffers: dict[tuple[str, tuple[int, ...], torch.dtype, torch.device], Tensor] = field(default_factory=dict)

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return a buffer, the same one for the same name and shape: zero at first, then as it was left."""
        key = (name, shape, like.dtype, like.device)
        if key not in self.buffers:
            self.buffers[key] = torch.zeros(shape, dtype=like.dtype, device=like.device)
        return self.buffers[key]


@dataclass
class Pass:
    """A compiled forward pass; all but the first two attributes are for :func:`backward`."""

    h: Tensor  # (T, G, C, J, B) hidden states
    acceptance: Tensor | None  # (G, C') share of injected draws over slices, gates, sequences, if there is gate noise
    layer: Layer
    states: States
    noise: Injected


class Goal(NamedTuple):
    """What the output neurons of a stack are to give."""

    head: Head
    target: Tensor  # (1, G, 1, K, B)
    columns: int  # sequences that are no padding
    first: int  # first slice with a target, 0-based
    delta: OutputDelta  # :func:`nem.stack.error_gradient`
    noise: tuple[OutputNoise, Draws] | None


def serves(x: Tensor, noise: GateNoise | None) -> bool:
    """Tell whether the compiled form has what a pass needs: float32 on a CPU, and no noise or Algorithm 1's own."""
    if kernels.numba is None or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if noise is None:
        return True
    plain = noise.injection == "forward" and not (noise.clamp or noise.needs_uniform)
    return plain and _drawn(noise)


def serves_targets(noise: tuple[OutputNoise, Draws] | None) -> bool:
    """Tell whether :func:`train` has the noise in the targets, and its draws are there."""
    if noise is None:
        return True
    layer, draws = noise
    given = draws.normal is not None and (draws.test is not None or "matched" not in layer.kinds)
    return layer.test == "likelihood" and given and _drawn(layer)


def _drawn(noise: LayerNoise) -> bool:
    return noise.granularity == "slice" and set(noise.kinds) <= set(_KINDS) and not noise.combinations


def extent(x: Tensor, place: Tensor | None) -> tuple[int, int]:
    """Return T and B of inputs, which are as in :class:`nem.stack.Batch`."""
    return (len(x), x.shape[3]) if place is None else (place.shape[1], place.shape[2])


def _array(tensor: Tensor | None, axes: int = 4) -> Floats:
    """Return a contiguous array; without a tensor, one with so many axes and no elements."""
    return np.empty((0,) * axes, np.float32) if tensor is None else tensor.detach().contiguous().numpy()


@lru_cache(64)
def _codes(kinds: tuple[Kind, ...], modes: tuple[object, ...], own: int, G: int, C: int) -> tuple[Codes, Floats]:
    """Return codes of kinds, and 1 for multiplicative noise, for the first networks of each group; for others 0."""
    codes, growing = np.zeros((G, C), np.int64), np.zeros((G, C), np.float32)
    codes[:, :own] = np.reshape([_KINDS[kind] for kind in kinds], (-1, own))
    growing[:, :own] = np.reshape([mode == "multiplicative" for mode in modes], (-1, own))
    return codes, growing


def _noise(noise: tuple[LayerNoise, Draws] | None, like: Tensor, space: Workspace, C: int, *shape: int) -> Drawn:
    """Return the noise of C networks per group, with draws of ``shape`` ``(T, G, …)``; others are a RuntimeError."""
    G, (layer, draws) = shape[1], noise or (None, None)
    sigma = np.zeros((G, C), np.float32)
    if layer is None or draws is None or draws.normal is None:
        nothing = space.take("nothing", (G, shape[0], *shape[2:]), like).numpy()
        return Drawn(*_codes(("none",), (None,), 1, G, C), sigma, nothing, nothing)
    sigma[:, : layer.columns] = draws.sigma.numpy().reshape(-1, layer.columns)
    normal = _array(draws.normal.squeeze(2).expand(shape).transpose(0, 1))
    tested = normal if draws.test is None else _array(draws.test.squeeze(2).expand(shape).transpose(0, 1))
    return Drawn(*_codes(layer.kinds, layer.modes, layer.columns, G, C), sigma, normal, tested)


def _laid_out(
    cell: CellName,
    given: tuple[Tensor, Tensor | None],
    weights: tuple[Tensor, Tensor],
    start: Start,
    noise: tuple[GateNoise, Draws] | None,
    space: Workspace,
    slots: tuple[tuple[int, int, int], tuple[int, int, int]],
) -> tuple[Layer, States, Injected]:
    """Return what a pass reads and writes; ``slots`` are the first axes of hidden states and of all other states."""
    (x, place), (W, V), (all_h, others) = given, weights, slots
    (T, B), (G, C), J, n = extent(x, place), V.shape[:2], V.shape[3], GATES[cell]
    rows = BLOCKS[cell] * J
    h, accepted = (space.take(name, (*all_h, count, B), x).numpy() for name, count in (("h", J), ("accepted", n)))
    act, first = (space.take(name, (*others, count, B), x).numpy() for name, count in (("act", rows), ("first", J)))
    second = space.take("second", (*others, J, B), x).numpy() if cell == "lstm" else _array(None, 5)
    zero = None if start.h is None and start.s is None else x.new_zeros(G, C, J, B)
    h0, s0 = (_array(zero if state is None else state) for state in (start.h, start.s))
    bias = _array(None if start.bias is None else start.bias.squeeze(-1), 3)
    whole, at = x.new_empty(0, 0), np.empty((0, 0, 0), np.int64)
    if place is None and x.shape[2] > FEW:
        x, place = x.permute(1, 2, 0, 3).flatten(2).unsqueeze(0), torch.arange(T * B).view(1, T, B)
    if place is not None:  # how many of the slices are distinct differs from batch to batch; the buffer stays
        whole, at = space.take("whole", (rows * T * B,), x), place.contiguous().numpy()
        whole = whole[: rows * x.shape[3]].view(rows, -1)
    layer = Layer(_array(x), _array(W), _array(V), h0, s0, bias, at)
    injected = Injected(_noise(noise, x, space, C, T, G, n, J, B), accepted, np.empty((G, C), np.float32))
    return layer, States(h, act, first, second, whole.numpy()), injected


def forward(cell: CellName, x: Tensor, weights: tuple[Tensor, Tensor], *, start: Start | None = None,
            noise: tuple[GateNoise, Draws] | None = None, space: Workspace | None = None, keep: bool = True,
            place: Tensor | None = None) -> Pass:  # fmt: skip
    """Run G·C networks over T slices: :func:`nem.cells.project` and :func:`nem.cells.forward` in one.

    ``weights`` are W ``(G, I + 1, C, blocks·J)`` and V ``(G, C, blocks·J, J)``; ``x`` may be the same for all groups,
    and slices at a ``place``, as in :class:`nem.stack.Batch`. The returned pass is valid until the next call with the
    same buffers ``space``; ``keep`` says whether a backward pass follows.
    """
    (T, _), (G, C) = extent(x, place), weights[1].shape[:2]
    slots = (T, G, C), (T, G, C) if keep else (min(T, 2), 1, 1)
    given = x, place
    layer, states, injected = _laid_out(cell, given, weights, start or Start(), noise, space or Workspace(), slots)
    kernels.forward(cell == "lstm", layer, states, injected)
    return Pass(torch.from_numpy(states.h), _acceptance(noise, injected), layer, states, injected)


def _acceptance(noise: tuple[GateNoise, Draws] | None, injected: Injected) -> Tensor | None:
    return None if noise is None else torch.from_numpy(injected.share[:, : noise[0].columns])


def backward(cell: CellName, done: Pass, grad_h: Tensor, gradients: tuple[Tensor, Tensor], *,
             grad_s: Tensor | None = None, inputs: bool = False, states: bool = False) -> Layer:  # fmt: skip
    """Propagate gradients back through :func:`forward`, with increments held constant; once per pass.

    ``grad_h`` ``(S, G, C, J, B)`` and ``grad_s`` ``(G, C, J, B)`` are those of the last hidden states and of the last
    cell state, ``None`` for zero. The gradients of W and V are overwritten; those of x (if C = 1) and of the initial
    states are returned if asked for, as ``inputs`` and ``states``.
    """
    layer, (T, G, _, _, B) = done.layer, done.h.shape
    count, full = layer.W.shape[1], (done.h.shape[1:] if states else (0, 0, 0, 0))
    W, V = (tensor.numpy() for tensor in gradients)
    x = np.empty(layer.x.shape if inputs else (0, 0, 0, 0), np.float32)
    h0, s0 = np.empty(full, np.float32), np.empty(full, np.float32)
    grad = Layer(x, W, V, h0, s0, np.zeros_like(layer.bias), layer.place)
    slices = _array(grad_h.permute(1, 2, 0, 3, 4), 5)
    kernels.backward(cell == "lstm", layer, done.states, done.noise, slices, _array(grad_s), grad)
    if inputs and len(x) != T:
        grad = grad._replace(x=x.reshape(G, count, T, B).transpose(2, 0, 1, 3))
    return grad


def train(
    cell: CellName,
    x: Tensor,
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    goal: Goal,
    *,
    noise: tuple[GateNoise, Draws] | None = None,
    space: Workspace | None = None,
    place: Tensor | None = None,
) -> dict[str, Tensor]:
    """Run one forward and backward pass, output neurons included; what :func:`nem.stack.gradients` does.

    ``parameters`` are W, V, U and b of :class:`nem.stack.Networks`; their ``gradients`` are overwritten.
    """
    (T, _), (G, C), space = extent(x, place), parameters["V"].shape[:2], space or Workspace()
    given, slopes = ({name: _array(part) for name, part in parts.items()} for parts in (parameters, gradients))
    weights, one = (parameters["W"], parameters["V"]), (T, 1, 1)
    layer, states, injected = _laid_out(cell, (x, place), weights, Start(), noise, space, (one, one))
    target = goal.target[0, :, 0]
    drawn = _noise(goal.noise, target, space, C, T - goal.first, *target.shape)
    literal = goal.delta == "literal"
    out = Outputs(_HEADS[goal.head], literal, goal.columns, given["U"], given["b"], _array(target), drawn)
    loss, share = np.empty((G, C), np.float32), np.empty((G, C), np.float32)
    nothing = _array(None)
    grad = Layer(nothing, slopes["W"], slopes["V"], nothing, nothing, _array(None, 3), layer.place)
    scores = Scores(slopes["U"], slopes["b"], loss, share)
    kernels.train(cell == "lstm", layer, states, injected, out, grad, scores, T - goal.first)
    means = {} if goal.noise is None else {"output": torch.from_numpy(share)}
    acceptance = _acceptance(noise, injected)
    means |= {} if acceptance is None else {"hidden": acceptance}
    return means | {"loss": torch.from_numpy(loss)}
