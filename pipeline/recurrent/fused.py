"""The kernels' fast form on a CPU: one compiled pass per network and slice instead of one pass per operation.

:mod:`pipeline.recurrent.kernels` holds the general definition: every device, precision and kind of noise. There each
operation reads and writes whole stacks, and memory traffic costs more than arithmetic. Here a network's slice is
worked on while it is in the cache: the recurrent product (BLAS), then one loop over its neurons for gates, Algorithm
1's test, noise and state; backward likewise. numba compiles it on first use and keeps the result beside this file.

Of fast-math only the contraction of a product and a sum into one operation is allowed: sums keep their order, so that
a network's bits do not depend on its neighbours in a stack. Networks without noise run the same arithmetic with an
acceptance of 0, hence σ = 0, a network without noise and a pass without draws agree bit for bit.

The noise served here is Algorithm 1 as the paper runs it: forward injection, one test per layer and slice, mean-field
z, kinds blind, NEM and matched. :func:`serves` tells; everything else goes through the general kernels, and tests hold
the two together. Shapes and names are those of :mod:`pipeline.recurrent.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.recurrent.kernels import BLOCKS, GATES, CellName, GateDraws, Workspace

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
_Function = TypeVar("_Function", bound=Callable[..., Any])

FEW = 64
"""Up to so many inputs a network's products with them are made while its slice is in the cache; those of more are
shared by all networks of a group, as one product."""

NONE, BLIND, NEM, MATCHED = range(4)
"""Codes of the kinds of noise; from NEM on a kind has a test."""
_KINDS = {"blind": BLIND, "nem": NEM, "matched": MATCHED}


def _compiled(function: _Function) -> _Function:
    """Compile ``function`` on first use.

    Division follows IEEE 754: a test for zero in every division would end vectors.
    """
    return cast(_Function, numba.njit(cache=True, error_model="numpy", fastmath={"contract"})(function))


def _inlined(function: _Function) -> _Function:
    return cast(_Function, numba.njit(inline="always", error_model="numpy", fastmath={"contract"})(function))


# tanh x = x·P(x²)/Q(x²) for |x| <= 8, fitted by iteratively reweighted least squares to a relative error of 8e-9
# before rounding; beyond 8, where tanh is 1 to within 2.3e-7, x is taken as 8.
END = np.float32(8.0)
P0, P1, P2, P3, P4 = (
    np.float32(value)
    for value in (
        0.9999999935791667,
        0.13444508304471825,
        0.0035716103016213197,
        2.1894865322358294e-05,
        1.5230703898076232e-08,
    )
)
Q1, Q2, Q3, Q4 = (
    np.float32(value)
    for value in (0.4677783562781135, 0.026164489597678916, 0.00034113121426211515, 8.522562714518606e-07)
)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@_inlined
def _tanh(x: Any) -> Any:  # noqa: ANN401 - a float32 that numba types
    """Return tanh x to within 4e-7, never beyond 1; NaN stays NaN."""
    x = END if x > END else x
    x = -END if x < -END else x
    u = x * x
    p = (((P4 * u + P3) * u + P2) * u + P1) * u + P0
    q = (((Q4 * u + Q3) * u + Q2) * u + Q1) * u + ONE
    return x * p / q


@_inlined
def _sigmoid(x: Any) -> Any:  # noqa: ANN401
    """Return σ(x) = (1 + tanh(x/2))/2 to within 2e-7."""
    return HALF + HALF * _tanh(HALF * x)


@_compiled
def _gates(
    pre: Floats,
    recurrent: Floats,
    J: int,
    kind: int,
    multiplicative: Any,  # noqa: ANN401
    normal: Floats,
    test: Floats,
    accepted: Floats,
) -> None:
    """Turn pre-activations into gates in place, and decide which draws are injected (Algorithm 1).

    The gain of additive noise is Σ_j ε_j logit g_j (79), (87); of multiplicative noise with z := g it is
    Σ_j ε_j g_j logit g_j (81), (89), each up to the factor σ, which leaves the sign alone.

    Args:
        pre: ``(n·J, B)`` the inputs' part of the pre-activations; becomes the gates.
        recurrent: ``(n·J, B)`` the recurrent part.
        J: neurons.
        kind: code of the kind of noise.
        multiplicative: 1 for multiplicative noise, 0 for additive.
        normal: ``(n, J, B)`` draws to inject.
        test: ``(n, J, B)`` draws that matched noise tests instead.
        accepted: ``(n, B)`` overwritten: 1 where the draws are injected, else 0.
    """
    rows, B = pre.shape
    tested = kind >= NEM
    draws = test if kind == MATCHED else normal
    additive = ONE - multiplicative
    accepted[:] = ONE if kind == BLIND else ZERO
    for row in range(rows):
        gate, j = row // J, row % J
        if tested:
            for b in range(B):
                logit = pre[row, b] + recurrent[row, b]
                g = _sigmoid(logit)
                pre[row, b] = g
                accepted[gate, b] += (additive + multiplicative * g) * logit * draws[gate, j, b]
        else:
            for b in range(B):
                pre[row, b] = _sigmoid(pre[row, b] + recurrent[row, b])
    if tested:
        for gate in range(accepted.shape[0]):
            for b in range(B):
                accepted[gate, b] = ONE if accepted[gate, b] >= ZERO else ZERO


@_inlined
def _noisy(gate: Any, increment: Any, additive: Any, multiplicative: Any) -> Any:  # noqa: ANN401
    """Return g + δ (additive) or g∘(1 + δ) (multiplicative)."""
    return gate + increment * (additive + multiplicative * gate)


@_inlined
def _gate_derivative(gate: Any, increment: Any, multiplicative: Any) -> Any:  # noqa: ANN401
    """Return the noisy gate's derivative in its pre-activation: g(1 - g), times 1 + δ for multiplicative noise."""
    return (ONE + multiplicative * increment) * gate * (ONE - gate)


@_compiled
def _lstm_state(
    act: Floats,
    recurrent: Floats,
    coefficient: Floats,
    normal: Floats,
    multiplicative: Any,  # noqa: ANN401
    before: Floats,
    s: Floats,
    tanh_s: Floats,
    h: Floats,
) -> None:
    """Compute the candidate and a slice's states (B.8)-(B.11) from its clean gates, with noise.

    Args:
        act: ``(4J, B)`` clean gates, and the inputs' part of the candidate's pre-activation, which becomes c.
        recurrent: ``(4J, B)`` recurrent parts.
        coefficient: ``(3, B)`` what the draws are multiplied by.
        normal: ``(3, J, B)`` draws.
        multiplicative: 1 for multiplicative noise, 0 for additive.
        before: ``(J, B)`` the last slice's cell state.
        s: ``(J, B)`` overwritten: the cell state.
        tanh_s: ``(J, B)`` overwritten: its tanh.
        h: ``(J, B)`` overwritten: the hidden state.
    """
    J, B = h.shape
    additive = ONE - multiplicative
    for j in range(J):
        for b in range(B):
            i = _noisy(act[j, b], coefficient[0, b] * normal[0, j, b], additive, multiplicative)
            f = _noisy(act[J + j, b], coefficient[1, b] * normal[1, j, b], additive, multiplicative)
            o = _noisy(act[2 * J + j, b], coefficient[2, b] * normal[2, j, b], additive, multiplicative)
            c = _tanh(act[3 * J + j, b] + recurrent[3 * J + j, b])
            state = i * c + f * before[j, b]
            squashed = _tanh(state)
            act[3 * J + j, b] = c
            s[j, b] = state
            tanh_s[j, b] = squashed
            h[j, b] = o * squashed


@_compiled
def _lstm_slice_gradient(
    act: Floats,
    coefficient: Floats,
    normal: Floats,
    multiplicative: Any,  # noqa: ANN401
    before: Floats,
    tanh_s: Floats,
    dh: Floats,
    ds: Floats,
) -> None:
    """Replace a slice's activations by the gradients of their pre-activations (Appendix B.2).

    Args:
        act: ``(4J, B)`` clean gates and candidate; becomes the gradients.
        coefficient: as in the forward pass.
        normal: as in the forward pass.
        multiplicative: as in the forward pass.
        before: ``(J, B)`` the cell state of the slice before.
        tanh_s: ``(J, B)``.
        dh: ``(J, B)`` gradient of the hidden state.
        ds: ``(J, B)`` gradient of the cell state from the slice after; becomes that for the slice before.
    """
    J, B = dh.shape
    additive = ONE - multiplicative
    for j in range(J):
        for b in range(B):
            i, f, o, c = act[j, b], act[J + j, b], act[2 * J + j, b], act[3 * J + j, b]
            noise_i = coefficient[0, b] * normal[0, j, b]
            noise_f = coefficient[1, b] * normal[1, j, b]
            noise_o = coefficient[2, b] * normal[2, j, b]
            squashed = tanh_s[j, b]
            error = dh[j, b]
            total = ds[j, b] + error * _noisy(o, noise_o, additive, multiplicative) * (ONE - squashed * squashed)
            act[j, b] = total * c * _gate_derivative(i, noise_i, multiplicative)
            act[J + j, b] = total * before[j, b] * _gate_derivative(f, noise_f, multiplicative)
            act[2 * J + j, b] = error * squashed * _gate_derivative(o, noise_o, multiplicative)
            act[3 * J + j, b] = total * _noisy(i, noise_i, additive, multiplicative) * (ONE - c * c)
            ds[j, b] = total * _noisy(f, noise_f, additive, multiplicative)


@_compiled
def _scaled(accepted: Floats, sigma: Any, coefficient: Floats) -> None:  # noqa: ANN401
    """Write σ where draws are injected, and 0 elsewhere."""
    for gate in range(accepted.shape[0]):
        for b in range(accepted.shape[1]):
            coefficient[gate, b] = accepted[gate, b] * sigma


@_compiled
def _collect(total: Floats, part: Floats, first: bool) -> None:
    """Add a part to a total; the first one overwrites it."""
    for row in range(total.shape[0]):
        for column in range(total.shape[1]):
            total[row, column] = part[row, column] + (ZERO if first else total[row, column])


@_compiled
def _lstm_forward(
    x: Floats,
    W: Floats,
    V: Floats,
    act: Floats,
    h: Floats,
    s: Floats,
    tanh_s: Floats,
    kinds: Codes,
    modes: Floats,
    sigma: Floats,
    normal: Floats,
    test: Floats,
    accepted: Floats,
    shared: bool,
) -> None:
    """Run all networks, one after another: see :func:`forward`.

    Args:
        x: ``(T, G, I + 1, B)``, or with ``shared`` no rows.
        W: ``(G, I + 1, C, 4J)``.
        V: ``(G, C, 4J, J)``.
        act: ``(T, G, C, 4J, B)`` overwritten: clean activations; with ``shared`` it comes as x's part of them.
        h: ``(T, G, C, J, B)`` overwritten.
        s: ``(T, G, C, J, B)`` overwritten, or with two slots instead of T, used in turn.
        tanh_s: the same.
        kinds: ``(C,)`` codes.
        modes: ``(C,)`` 1 for multiplicative noise, else 0.
        sigma: ``(C,)`` standard deviations.
        normal: ``(T, G, 3, J, B)`` draws.
        test: ``(T, G, 3, J, B)`` draws that matched noise tests instead.
        accepted: ``(T, G, C, 3, B)`` overwritten.
        shared: whether x's products were made for all networks at once.
    """
    T, G, C, rows, B = act.shape
    J, slots = V.shape[3], s.shape[0]
    recurrent = np.empty((rows, B), np.float32)
    coefficient = np.empty((3, B), np.float32)
    start = np.zeros((J, B), np.float32)
    for g in range(G):
        for c in range(C):
            weights = W[g, : 0 if shared else W.shape[1], c].copy()
            for t in range(T):
                if not shared:
                    np.dot(weights.T, x[t, g], act[t, g, c])
                if t:
                    np.dot(V[g, c], h[t - 1, g, c], recurrent)
                else:
                    recurrent[:] = ZERO
                a, taken, draws, probe = act[t, g, c], accepted[t, g, c], normal[t, g], test[t, g]
                _gates(a[: 3 * J], recurrent, J, kinds[c], modes[c], draws, probe, taken)
                _scaled(taken, sigma[c], coefficient)
                before, now = s[(t - 1) % slots, g, c] if t else start, t % slots
                _lstm_state(
                    a, recurrent, coefficient, draws, modes[c], before, s[now, g, c], tanh_s[now, g, c], h[t, g, c]
                )


@_compiled
def _lstm_backward(
    x: Floats,
    V: Floats,
    act: Floats,
    h: Floats,
    s: Floats,
    tanh_s: Floats,
    modes: Floats,
    sigma: Floats,
    normal: Floats,
    accepted: Floats,
    grad_h: Floats,
    grad_W: Floats,
    grad_V: Floats,
    shared: bool,
) -> None:
    """Run all networks back in time, one after another: see :func:`backward`; ``act`` becomes gradients."""
    T, G, C, rows, B = act.shape
    J = V.shape[3]
    first = T - grad_h.shape[0]
    coefficient = np.empty((3, B), np.float32)
    part = np.empty((rows, J), np.float32)
    part_W = np.empty((0 if shared else x.shape[2], rows), np.float32)
    start = np.zeros((J, B), np.float32)
    dh, ds = np.empty((J, B), np.float32), np.empty((J, B), np.float32)
    for g in range(G):
        for c in range(C):
            ds[:] = ZERO
            for t in range(T - 1, -1, -1):
                if t >= first:
                    _collect(dh, grad_h[t - first, g, c], t == T - 1)
                a = act[t, g, c]
                _scaled(accepted[t, g, c], sigma[c], coefficient)
                before = s[t - 1, g, c] if t else start
                _lstm_slice_gradient(a, coefficient, normal[t, g], modes[c], before, tanh_s[t, g, c], dh, ds)
                if not shared:
                    np.dot(x[t, g], a.T, part_W)
                    _collect(grad_W[g, :, c], part_W, t == T - 1)
                if t:
                    np.dot(a, h[t - 1, g, c].T, part)
                    _collect(grad_V[g, c], part, t == T - 1)
                    np.dot(V[g, c].T, a, dh)
            if T == 1:
                grad_V[g, c] = ZERO


@_compiled
def _gru_state(
    act: Floats,
    recurrent: Floats,
    coefficient: Floats,
    normal: Floats,
    multiplicative: Any,  # noqa: ANN401
    before: Floats,
    product: Floats,
    h: Floats,
) -> None:
    """Compute the candidate and a slice's state (C.5), (C.7) from its clean gates, with noise.

    Args:
        act: ``(3J, B)`` the inputs' part of the candidate's pre-activation, which becomes c, and clean gates z, r.
        recurrent: ``(3J, B)`` recurrent parts, rows update, reset, candidate.
        coefficient: ``(2, B)`` what the draws are multiplied by.
        normal: ``(2, J, B)`` draws.
        multiplicative: 1 for multiplicative noise, 0 for additive.
        before: ``(J, B)`` the last slice's hidden state.
        product: ``(J, B)`` overwritten: the candidate's recurrent product.
        h: ``(J, B)`` overwritten: the hidden state.
    """
    J, B = h.shape
    additive = ONE - multiplicative
    for j in range(J):
        for b in range(B):
            z = _noisy(act[J + j, b], coefficient[0, b] * normal[0, j, b], additive, multiplicative)
            r = _noisy(act[2 * J + j, b], coefficient[1, b] * normal[1, j, b], additive, multiplicative)
            a = recurrent[2 * J + j, b]
            c = _tanh(act[j, b] + r * a)
            act[j, b] = c
            product[j, b] = a
            h[j, b] = z * c + (ONE - z) * before[j, b]


@_compiled
def _gru_slice_gradient(
    act: Floats,
    coefficient: Floats,
    normal: Floats,
    multiplicative: Any,  # noqa: ANN401
    before: Floats,
    product: Floats,
    dh: Floats,
    recurrent: Floats,
) -> None:
    """Replace a slice's activations by the gradients of what W adds to (Appendix C.2).

    Args:
        act: ``(3J, B)`` candidate and clean gates; becomes the gradients.
        coefficient: as in the forward pass.
        normal: as in the forward pass.
        multiplicative: as in the forward pass.
        before: ``(J, B)`` the hidden state of the slice before.
        product: ``(J, B)`` the candidate's recurrent product.
        dh: ``(J, B)`` gradient of the hidden state; becomes that of the slice before, but for what passes through V.
        recurrent: ``(3J, B)`` overwritten: gradients of the recurrent products, rows update, reset, candidate.
    """
    J, B = dh.shape
    additive = ONE - multiplicative
    for j in range(J):
        for b in range(B):
            c, z, r = act[j, b], act[J + j, b], act[2 * J + j, b]
            noise_z = coefficient[0, b] * normal[0, j, b]
            noise_r = coefficient[1, b] * normal[1, j, b]
            update = _noisy(z, noise_z, additive, multiplicative)
            error = dh[j, b]
            candidate = error * update * (ONE - c * c)
            for_z = error * (c - before[j, b]) * _gate_derivative(z, noise_z, multiplicative)
            for_r = candidate * product[j, b] * _gate_derivative(r, noise_r, multiplicative)
            act[j, b] = candidate
            act[J + j, b] = for_z
            act[2 * J + j, b] = for_r
            recurrent[j, b] = for_z
            recurrent[J + j, b] = for_r
            recurrent[2 * J + j, b] = candidate * _noisy(r, noise_r, additive, multiplicative)
            dh[j, b] = error * (ONE - update)


@_compiled
def _gru_forward(
    x: Floats,
    W: Floats,
    V: Floats,
    act: Floats,
    h: Floats,
    product: Floats,
    kinds: Codes,
    modes: Floats,
    sigma: Floats,
    normal: Floats,
    test: Floats,
    accepted: Floats,
    shared: bool,
) -> None:
    """Run all networks, one after another: shapes as in :func:`_lstm_forward`, 3J rows and two gates.

    ``product`` is ``(T, G, C, J, B)``, overwritten: the candidate's recurrent products.
    """
    T, G, C, rows, B = act.shape
    J = V.shape[3]
    recurrent = np.empty((rows, B), np.float32)
    coefficient = np.empty((2, B), np.float32)
    start = np.zeros((J, B), np.float32)
    for g in range(G):
        for c in range(C):
            weights = W[g, : 0 if shared else W.shape[1], c].copy()
            for t in range(T):
                if not shared:
                    np.dot(weights.T, x[t, g], act[t, g, c])
                if t:
                    np.dot(V[g, c], h[t - 1, g, c], recurrent)
                else:
                    recurrent[:] = ZERO
                a, taken, draws, probe = act[t, g, c], accepted[t, g, c], normal[t, g], test[t, g]
                _gates(a[J:], recurrent, J, kinds[c], modes[c], draws, probe, taken)
                _scaled(taken, sigma[c], coefficient)
                before = h[t - 1, g, c] if t else start
                _gru_state(a, recurrent, coefficient, draws, modes[c], before, product[t, g, c], h[t, g, c])


@_compiled
def _gru_backward(
    x: Floats,
    V: Floats,
    act: Floats,
    h: Floats,
    product: Floats,
    modes: Floats,
    sigma: Floats,
    normal: Floats,
    accepted: Floats,
    grad_h: Floats,
    grad_W: Floats,
    grad_V: Floats,
    shared: bool,
) -> None:
    """Run all networks back in time, one after another; ``act`` becomes gradients."""
    T, G, C, rows, B = act.shape
    J = V.shape[3]
    first = T - grad_h.shape[0]
    coefficient = np.empty((2, B), np.float32)
    recurrent = np.empty((rows, B), np.float32)
    part = np.empty((rows, J), np.float32)
    part_W = np.empty((0 if shared else x.shape[2], rows), np.float32)
    start = np.zeros((J, B), np.float32)
    dh, through = np.empty((J, B), np.float32), np.empty((J, B), np.float32)
    for g in range(G):
        for c in range(C):
            for t in range(T - 1, -1, -1):
                if t >= first:
                    _collect(dh, grad_h[t - first, g, c], t == T - 1)
                a = act[t, g, c]
                _scaled(accepted[t, g, c], sigma[c], coefficient)
                before = h[t - 1, g, c] if t else start
                _gru_slice_gradient(a, coefficient, normal[t, g], modes[c], before, product[t, g, c], dh, recurrent)
                if not shared:
                    np.dot(x[t, g], a.T, part_W)
                    _collect(grad_W[g, :, c], part_W, t == T - 1)
                if t:
                    np.dot(recurrent, h[t - 1, g, c].T, part)
                    _collect(grad_V[g, c], part, t == T - 1)
                    np.dot(V[g, c].T, recurrent, through)
                    _collect(dh, through, False)
            if T == 1:
                grad_V[g, c] = ZERO


@dataclass
class Run:
    """What a fused forward pass leaves for the backward pass.

    Attributes:
        few: ``(T, G, I + 1, B)`` inputs, or no rows of them where their products are shared.
        h: ``(T, G, C, J, B)`` hidden states.
        act: ``(T, G, C, blocks·J, B)`` clean activations; the backward pass turns them into gradients.
        states: further states of the cell, for the backward pass.
        noise: modes, standard deviations, draws and the mask of injected draws ``(T, G, C, n, B)``.
        acceptance: ``(G, C')`` mean of the mask over slices, gates and sequences; ``None`` without gate noise.
        shared: ``(G, I + 1, T·B)`` inputs of all slices, and a buffer ``(G, C·blocks·J, T·B)`` for their products with
            the weights of all networks; ``None`` with few inputs.
    """

    few: Floats
    h: Tensor
    act: Tensor
    states: tuple[Floats, ...]
    noise: tuple[Floats, Floats, Floats, Floats]
    acceptance: Tensor | None
    shared: tuple[Floats, Tensor] | None


def serves(x: Tensor, draws: GateDraws | None) -> bool:
    """Tell whether the fused form has what a pass needs: float32 on a CPU, and no noise or Algorithm 1's own."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if draws is None:
        return True
    stack = draws.stack
    return (
        set(stack.kinds) <= set(_KINDS)
        and stack.granularity == "slice"
        and stack.injection == "forward"
        and not stack.clamp
        and (stack.latent == "mean-field" or "multiplicative" not in stack.modes)
    )


def _noise(
    cell: CellName, shape: tuple[int, ...], draws: GateDraws | None, space: Workspace, like: Tensor
) -> tuple[Codes, Floats, Floats, Floats, Floats, Floats]:
    """Return kinds, modes and σ ``(C,)``, both sets of draws ``(T, G, n, J, B)``, and a buffer for the mask."""
    T, G, C, J, B = shape
    n = GATES[cell]
    kinds, modes, sigma = np.zeros(C, np.int64), np.zeros(C, np.float32), np.zeros(C, np.float32)
    accepted = space.take("accepted", (T, G, C, n, B), like).numpy()
    if draws is None:
        zeros = space.once(("zeros", T, G, n, J, B), lambda: np.zeros((T, G, n, J, B), np.float32))
        return kinds, modes, sigma, zeros, zeros, accepted
    if draws.normal is None:
        raise ValueError("expected standard normal draws, found None")
    count = len(draws.stack)
    kinds[:count] = [_KINDS[kind] for kind in draws.stack.kinds]
    modes[:count] = [mode == "multiplicative" for mode in draws.stack.modes]
    sigma[:count] = draws.sigma.numpy()
    normal = draws.normal.squeeze(2).numpy()
    test = normal if draws.test_normal is None else draws.test_normal.squeeze(2).numpy()
    return kinds, modes, sigma, normal, test, accepted


def forward(
    cell: CellName,
    x: Tensor,
    W: Tensor,
    V: Tensor,
    *,
    draws: GateDraws | None = None,
    workspace: Workspace | None = None,
    keep: bool = True,
) -> Run:
    """Run G·C networks over T slices from a zero state: (B.1)-(B.11) or (C.1)-(C.7).

    Args:
        cell: ``lstm`` or ``gru``.
        x: ``(T, G, I + 1, B)`` float32 inputs with a last row of ones.
        W: ``(G, I + 1, C, blocks·J)`` input weights and biases.
        V: ``(G, C, blocks·J, J)`` recurrent weights.
        draws: gate noise that :func:`serves` admits; ``None`` for a noiseless pass.
        workspace: buffers to reuse; the returned run is valid until the next call with the same workspace.
        keep: whether a backward pass follows.
    """
    T, G, inputs, B = x.shape
    C, J = V.shape[1], V.shape[3]
    space = workspace or Workspace()
    act = space.take("act", (T, G, C, BLOCKS[cell] * J, B), x)
    h = space.take("h", (T, G, C, J, B), x)
    shared = None
    if inputs > FEW:
        # One product over all slices: W, which may be larger than any cache, is read once.
        rows = W.detach().numpy().reshape(G, inputs, -1).transpose(0, 2, 1)
        joined = x.permute(1, 2, 0, 3).reshape(G, inputs, T * B).numpy()
        products = space.take("products", (G, rows.shape[1], T * B), x)
        np.matmul(rows, joined, out=products.numpy())
        act.copy_(products.view(G, C, -1, T, B).permute(3, 0, 1, 2, 4))
        shared = (joined, products)
    few = x[:, :, : 0 if shared else inputs].contiguous().numpy()
    kinds, modes, sigma, normal, test, accepted = _noise(cell, (T, G, C, J, B), draws, space, x)
    if cell == "lstm":
        slots = T if keep else min(T, 2)
        states = tuple(space.take(name, (slots, G, C, J, B), x).numpy() for name in ("s", "tanh_s"))
    else:
        states = (space.take("product", (T, G, C, J, B), x).numpy(),)
    run: Callable[..., None] = _lstm_forward if cell == "lstm" else _gru_forward
    noise = (kinds, modes, sigma, normal, test, accepted)
    run(few, W.detach().numpy(), V.detach().numpy(), act.numpy(), h.numpy(), *states, *noise, shared is not None)
    acceptance = None
    if draws is not None:
        taken = accepted[:, :, : len(draws.stack), :, : draws.columns]
        acceptance = torch.from_numpy(taken.mean((0, 3, 4), dtype=np.float64).astype(np.float32))
    return Run(few, h, act, states, (modes, sigma, normal, accepted), acceptance, shared)


def backward(cell: CellName, run: Run, V: Tensor, grad_h: Tensor, grad_W: Tensor, grad_V: Tensor) -> None:
    """Propagate gradients back through :func:`forward`, with increments held constant; once per run.

    Args:
        cell: as in the forward pass.
        run: the forward pass, made with ``keep``; its activations become gradients.
        V: as in the forward pass.
        grad_h: ``(T - first, G, C, J, B)`` gradients of the last hidden states, those that the error sees.
        grad_W: ``(G, I + 1, C, blocks·J)``, overwritten.
        grad_V: ``(G, C, blocks·J, J)``, overwritten.
    """
    back: Callable[..., None] = _lstm_backward if cell == "lstm" else _gru_backward
    states, noise, grads = run.states, run.noise, (grad_h.numpy(), grad_W.numpy(), grad_V.numpy())
    given = (run.few, V.detach().numpy(), run.act.numpy(), run.h.numpy(), *states, *noise, *grads)
    back(*given, run.shared is not None)
    if run.shared is not None:
        joined, products = run.shared
        T, G, _, _, B = run.act.shape
        products.view(G, -1, T, B).copy_(run.act.flatten(2, 3).permute(1, 2, 0, 3))
        np.matmul(joined, products.numpy().transpose(0, 2, 1), out=grad_W.numpy().reshape(G, joined.shape[1], -1))
