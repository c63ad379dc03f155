"""The cells' compiled form on a CPU: one pass per network and slice instead of one pass per operation.

:mod:`nem.cells` is the definition: every device, precision and kind of noise. There each operation reads and writes
whole stacks, and memory traffic costs more than arithmetic. Here a network's slice is worked on while it is in the
cache: the recurrent product (BLAS), then one loop over its neurons for gates, Algorithm 1's test, noise and state;
backward likewise. numba compiles it on first use; without numba everything goes through the cells.

Of fast-math only the contraction of a product and a sum into one operation is allowed: sums keep their order, so that
a network's bits do not depend on its neighbours in a stack. Networks without noise run the same arithmetic with an
acceptance of 0 and increments of 0, hence σ = 0, a network without noise and a pass without draws agree bit for bit.

The noise served here is Algorithm 1 as the paper runs it: forward injection, one test per layer and slice, mean-field
z, all kinds with draws. :func:`serves` tells. Row blocks are those of :mod:`nem.cells`.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nem.cells import BLOCKS, GATES, Start
from nem.conditions import Kind
from nem.names import CellName
from nem.noise import Draws, GateNoise

numba: Any = None  # an optional extra
with suppress(ImportError):
    import numba
    import numba.np.linalg
    import scipy.linalg  # noqa: F401 - numba's products go through its BLAS: once loaded, limits of threads reach it

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
_Function = TypeVar("_Function", bound=Callable[..., Any])

FEW = 256
"""Up to so many inputs each network makes its own product with a slice's; of more, one for a whole group is faster."""

SMALL, UNBROKEN = 10**6, 320
"""OpenBLAS makes products of at most so many multiplications without copying their factors into blocks, which is
faster; those of up to eight times as many pay to be cut into such ones, and sums of so few terms stay as they are."""

TURN = 33, 128
"""From so few to so many hidden units V's gradient takes states that are turned over: OpenBLAS then copies nothing,
vectors are whole, and the sums have the same bits."""

LANES = 32
"""Batches are padded to a multiple of this: vectorised loops finish what is left over with scalar code that rounds
otherwise. Without leftovers equal networks of a stack stay equal bit for bit."""

NONE, BLIND, NEM, MATCHED, REVERSED = range(5)
"""Codes of the kinds of noise; from NEM on a kind has a test."""
_KINDS = {"none": NONE, "blind": BLIND, "nem": NEM, "matched": MATCHED, "reversed-nem": REVERSED}


def _compiled(function: _Function, **options: Any) -> _Function:  # noqa: ANN401 - numba's options
    """Compile on first use. Division follows IEEE 754: a test for zero in every division would end vectors."""
    if numba is None:
        return function
    options = options or {"cache": True}
    return cast(_Function, numba.njit(error_model="numpy", fastmath={"contract"}, **options)(function))


_inlined = partial(_compiled, inline="always")


# tanh x = x·P(x²)/Q(x²) for |x| <= 8, fitted by iteratively reweighted least squares to a relative error of 8e-9
# before rounding; beyond 8, where tanh is 1 to within 2.3e-7, x is taken as 8.
END = np.float32(8.0)
P0, P1, P2 = np.float32(0.9999999935791667), np.float32(0.13444508304471825), np.float32(0.0035716103016213197)
P3, P4, Q1 = np.float32(2.1894865322358294e-05), np.float32(1.5230703898076232e-08), np.float32(0.4677783562781135)
Q2, Q3, Q4 = np.float32(0.026164489597678916), np.float32(0.00034113121426211515), np.float32(8.522562714518606e-07)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@_inlined
def _tanh(x: np.float32) -> np.float32:
    """Return tanh x to within 4e-7, never beyond 1; NaN stays NaN."""
    x = END if x > END else x
    x = -END if x < -END else x
    u = x * x
    p = (((P4 * u + P3) * u + P2) * u + P1) * u + P0
    q = (((Q4 * u + Q3) * u + Q2) * u + Q1) * u + ONE
    return x * p / q


@_inlined
def _sigmoid(x: np.float32) -> np.float32:
    """Return σ(x) = (1 + tanh(x/2))/2 to within 2e-7."""
    return HALF + HALF * _tanh(HALF * x)


class SliceNoise(NamedTuple):
    """Gate noise of one network in one slice."""

    accepted: Floats  # (n, B) 1 where draws are injected, else 0
    sigma: np.float32
    normal: Floats  # (n, J, B) draws
    mode: np.float32  # 1 for multiplicative noise, else 0


@_inlined
def _increment(noise: SliceNoise, gate: int, j: int, b: int) -> np.float32:
    """Return δ = σ ε where the draw is injected, else 0."""
    increment: np.float32 = noise.accepted[gate, b] * noise.sigma * noise.normal[gate, j, b]
    return increment


@_inlined
def _noisy(gate: np.float32, increment: np.float32, multiplicative: np.float32) -> np.float32:
    """Return g + δ (additive) or g∘(1 + δ) (multiplicative)."""
    return gate + increment * ((ONE - multiplicative) + multiplicative * gate)


@_inlined
def _slope(gate: np.float32, increment: np.float32, multiplicative: np.float32) -> np.float32:
    """Return the noisy gate's derivative in its pre-activation: g(1 - g), times 1 + δ for multiplicative noise."""
    return (ONE + multiplicative * increment) * gate * (ONE - gate)


class Layer(NamedTuple):
    """What a pass reads, as arrays, or their gradients; those that there is no need of have no elements."""

    x: Floats  # (T, G, I + 1, B) inputs with a last row of ones; of many (1, G, I + 1, T·B), slices side by side
    W: Floats  # (G, I + 1, C, blocks·J)
    V: Floats  # (G, C, blocks·J, J)
    h0: Floats  # (G, C, J, B) initial hidden states; empty is zero, and then s0 is empty too
    s0: Floats  # (G, C, J, B) initial cell states
    bias: Floats  # (G, C, J) of the GRU's recurrent product


class States(NamedTuple):
    """What a forward pass writes and a backward pass reads; without one, two slices of one network take turns."""

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


# C := αAB + βC, columns first, of the BLAS that numba's own products call
_gemm: Any = None if numba is None else numba.np.linalg._BLAS.numba_xxgemm(numba.float32)
SINGLE, PLAIN, TURNED = ord("s"), ord("n"), ord("t")


@_compiled
def _product(a: Floats, turn_a: bool, b: Floats, turn_b: bool, out: Floats, factors: Floats) -> None:
    """Write AB + β·out to ``out``; A is ``a`` or its transpose, B likewise; ``factors`` are 1 and β.

    Rows may lie apart in memory (a single one has any stride), and do not depend on how many are made at once.
    """
    rows, columns = out.shape
    inner = a.shape[0] if turn_a else a.shape[1]
    work, parts = rows * columns * inner, 1
    if SMALL < work <= 8 * SMALL and inner <= UNBROKEN and not turn_b:
        parts = (work + SMALL - 1) // SMALL
    for part in range(parts):
        begin, end = rows * part // parts, rows * (part + 1) // parts
        own, to = a[:, begin:end] if turn_a else a[begin:end], out[begin:end]
        ld = max(a.strides[0] // 4, a.shape[1]), max(b.strides[0] // 4, b.shape[1]), max(out.strides[0] // 4, columns)
        _gemm(SINGLE, TURNED if turn_b else PLAIN, TURNED if turn_a else PLAIN, columns, end - begin, inner,
              factors[:1].ctypes, b.ctypes, ld[1], own.ctypes, ld[0], factors[1:].ctypes, to.ctypes, ld[2])  # fmt: skip


@_compiled
def _gates(pre: Floats, kind: int, mode: np.float32, draws: Floats, accepted: Floats) -> None:
    """Turn pre-activations into gates in place, and decide which draws are injected (Algorithm 1).

    The gain of additive noise is Σ_j ε_j logit g_j (79), (87); of multiplicative noise with z := g it is
    Σ_j ε_j g_j logit g_j (81), (89), each up to the factor σ, which leaves the sign alone. ``pre`` is ``(n·J, B)``;
    ``draws`` ``(n, J, B)`` are those to test; ``accepted`` ``(n, B)`` becomes 1 where noise is injected, else 0.
    """
    rows, B = pre.shape
    J, additive, sign = draws.shape[1], ONE - mode, -ONE if kind == REVERSED else ONE
    accepted[:] = ONE if kind == BLIND else ZERO
    for row in range(rows):
        gate, j = row // J, row % J
        if kind >= NEM:
            for b in range(B):
                logit = pre[row, b]
                g = _sigmoid(logit)
                pre[row, b] = g
                accepted[gate, b] += (additive + mode * g) * logit * draws[gate, j, b]
        else:
            for b in range(B):
                pre[row, b] = _sigmoid(pre[row, b])
    if kind >= NEM:
        for gate in range(accepted.shape[0]):
            for b in range(B):
                accepted[gate, b] = ONE if sign * accepted[gate, b] >= ZERO else ZERO


@_compiled
def _lstm_state(act: Floats, noise: SliceNoise, before: Floats, now: Floats, a_s: Floats, h: Floats) -> None:
    """Compute the candidate and a slice's states (B.8)-(B.11) from its clean gates and their increments."""
    J, B = h.shape
    for j in range(J):
        for b in range(B):
            i = _noisy(act[j, b], _increment(noise, 0, j, b), noise.mode)
            f = _noisy(act[J + j, b], _increment(noise, 1, j, b), noise.mode)
            o = _noisy(act[2 * J + j, b], _increment(noise, 2, j, b), noise.mode)
            c = _tanh(act[3 * J + j, b])
            s = i * c + f * before[j, b]
            a = _tanh(s)
            act[3 * J + j, b] = c
            now[j, b] = s
            a_s[j, b] = a
            h[j, b] = o * a


@_compiled
def _lstm_gradient(act: Floats, noise: SliceNoise, before: Floats, squashed: Floats, dh: Floats, ds: Floats) -> None:
    """Replace activations by the gradients of their pre-activations (Appendix B.2); ``ds`` goes one slice back."""
    J, B = dh.shape
    for j in range(J):
        for b in range(B):
            i, f, o, c = act[j, b], act[J + j, b], act[2 * J + j, b], act[3 * J + j, b]
            d_i, d_f, d_o = _increment(noise, 0, j, b), _increment(noise, 1, j, b), _increment(noise, 2, j, b)
            a, error = squashed[j, b], dh[j, b]
            total = ds[j, b] + error * _noisy(o, d_o, noise.mode) * (ONE - a * a)
            act[j, b] = total * c * _slope(i, d_i, noise.mode)
            act[J + j, b] = total * before[j, b] * _slope(f, d_f, noise.mode)
            act[2 * J + j, b] = error * a * _slope(o, d_o, noise.mode)
            act[3 * J + j, b] = total * _noisy(i, d_i, noise.mode) * (ONE - c * c)
            ds[j, b] = total * _noisy(f, d_f, noise.mode)


@_compiled
def _gru_state(act: Floats, noise: SliceNoise, before: Floats, product: Floats, h: Floats) -> None:
    """Compute the candidate and a slice's state (C.5)-(C.7) from its clean gates and their increments."""
    J, B = h.shape
    for j in range(J):
        for b in range(B):
            z = _noisy(act[J + j, b], _increment(noise, 0, j, b), noise.mode)
            r = _noisy(act[2 * J + j, b], _increment(noise, 1, j, b), noise.mode)
            c = _tanh(act[j, b] + r * product[j, b])
            act[j, b] = c
            h[j, b] = z * c + (ONE - z) * before[j, b]


@_compiled
def _gru_gradient(
    act: Floats, noise: SliceNoise, before: Floats, product: Floats, dh: Floats, recurrent: Floats
) -> None:
    """Replace activations by the gradients of what W adds to (Appendix C.2), ``recurrent`` by those of V's products.

    ``dh`` becomes the gradient of the slice before, but for what passes through V.
    """
    J, B = dh.shape
    for j in range(J):
        for b in range(B):
            c, z, r = act[j, b], act[J + j, b], act[2 * J + j, b]
            update, error = _noisy(z, _increment(noise, 0, j, b), noise.mode), dh[j, b]
            candidate = error * update * (ONE - c * c)
            for_z = error * (c - before[j, b]) * _slope(z, _increment(noise, 0, j, b), noise.mode)
            for_r = candidate * product[j, b] * _slope(r, _increment(noise, 1, j, b), noise.mode)
            act[j, b] = candidate
            act[J + j, b] = for_z
            act[2 * J + j, b] = for_r
            recurrent[j, b] = for_z
            recurrent[J + j, b] = for_r
            recurrent[2 * J + j, b] = candidate * _noisy(r, _increment(noise, 1, j, b), noise.mode)
            dh[j, b] = error * (ONE - update)


@_compiled
def _forward(lstm: bool, layer: Layer, states: States, noise: Injected) -> None:
    """Run all networks, one after another."""
    x, V, (h, act, first, second, whole) = layer.x, layer.V, states
    (T, G, C, J, B), (slots, groups, networks, rows, _), n = h.shape, act.shape, noise.normal.shape[2]
    many, started, gates = x.shape[0] != T, layer.h0.size > 0, 0 if lstm else J
    zero, fresh, more = np.zeros((J, B), np.float32), np.array([1.0, 0.0], np.float32), np.array([1.0, 1.0], np.float32)
    for g in range(G):
        if many:  # W, which may be larger than any cache, is read once, and as it lies in memory
            _product(layer.W[g].reshape(-1, C * rows), True, x[0, g], False, whole, fresh)
        for c in range(C):
            kind, mode, sigma, weights = noise.kinds[g, c], noise.modes[g, c], noise.sigma[g, c], layer.W[g, :, c]
            for t in range(T):
                slot = t % slots, g % groups, c % networks
                a = act[slot]
                if many:
                    a[:] = whole[c * rows : (c + 1) * rows, t * B : (t + 1) * B]
                else:
                    _product(weights, True, x[t, g], False, a, fresh)
                before = h[t - 1, g, c] if t else layer.h0[g, c] if started else zero
                if lstm and (t or started):
                    _product(V[g, c], False, before, False, a, more)
                elif t or started:
                    _product(V[g, c, : 2 * J], False, before, False, a[J:], more)
                    _product(V[g, c, 2 * J :], False, before, False, first[slot], fresh)
                elif not lstm:
                    first[slot][:] = ZERO
                draws, accepted = noise.normal[t, g], noise.accepted[t, g, c]
                tested = noise.test[t, g] if kind == MATCHED else draws
                _gates(a[gates : gates + n * J], kind, mode, tested, accepted)
                own = SliceNoise(accepted, sigma, draws, mode)
                if lstm:
                    cell = first[(t - 1) % slots, slot[1], slot[2]] if t else layer.s0[g, c] if started else zero
                    _lstm_state(a, own, cell, first[slot], second[slot], h[t, g, c])
                else:
                    if layer.bias.size:
                        first[slot] += layer.bias[g, c].reshape(J, 1)
                    _gru_state(a, own, before, first[slot], h[t, g, c])


@_compiled
def _backward(
    lstm: bool, layer: Layer, states: States, noise: Injected, grad_h: Floats, grad_s: Floats, grad: Layer
) -> None:
    """Run all networks back in time, one after another; ``states.act`` becomes gradients.

    ``grad_h`` ``(T - first, G, C, J, B)`` are the gradients of the last hidden states, those that the error sees;
    ``grad_s`` ``(G, C, J, B)`` that of the last cell state, empty for zero.
    """
    x, V, (h, act, first, second, whole) = layer.x, layer.V, states
    (T, G, C, rows, B), J = act.shape, V.shape[3]
    seen, many, started, wanted = T - grad_h.shape[0], x.shape[0] != T, layer.h0.size > 0, grad.h0.size > 0
    zero, ones = np.zeros((J, B), np.float32), np.ones(B, np.float32)
    recurrent, dh, ds = np.empty((rows, B), np.float32), np.empty((J, B), np.float32), np.empty((J, B), np.float32)
    turning, whole_J = TURN[0] <= J <= TURN[1], (J + 15) // 16 * 16
    turned, sum_V = np.zeros((B, whole_J), np.float32), np.zeros((rows, whole_J), np.float32)
    fresh, more = np.array([1.0, 0.0], np.float32), np.array([1.0, 1.0], np.float32)
    for g in range(G):
        for c in range(C):
            mode, sigma = noise.modes[g, c], noise.sigma[g, c]
            ds[:] = grad_s[g, c] if grad_s.size else zero
            for t in range(T - 1, -1, -1):
                last = t == T - 1
                if last:
                    dh[:] = grad_h[t - seen, g, c]
                elif t >= seen:
                    dh += grad_h[t - seen, g, c]
                a, own = act[t, g, c], SliceNoise(noise.accepted[t, g, c], sigma, noise.normal[t, g], mode)
                before = h[t - 1, g, c] if t else layer.h0[g, c] if started else zero
                if lstm:
                    cell = first[t - 1, g, c] if t else layer.s0[g, c] if started else zero
                    _lstm_gradient(a, own, cell, second[t, g, c], dh, ds)
                else:
                    _gru_gradient(a, own, before, first[t, g, c], dh, recurrent)
                    if grad.bias.size:
                        grad.bias[g, c] = np.dot(recurrent[2 * J :], ones) + (ZERO if last else ONE) * grad.bias[g, c]
                product, sums = a if lstm else recurrent, fresh if last else more
                if many:
                    whole[c * rows : (c + 1) * rows, t * B : (t + 1) * B] = a
                else:
                    _product(x[t, g], False, a, True, grad.W[g, :, c], sums)
                    if grad.x.size:
                        _product(layer.W[g, :, c], False, a, False, grad.x[t, g], fresh)
                if (t or started) and turning:
                    turned[:, :J] = before.T
                    _product(product, False, turned, False, sum_V, sums)
                elif t or started:
                    _product(product, False, before, True, grad.V[g, c], sums)
                if t or wanted:
                    _product(V[g, c], True, product, False, dh, fresh if lstm else more)
            if turning or (T == 1 and not started):
                grad.V[g, c] = sum_V[:, :J]
            if wanted:
                grad.h0[g, c] = dh
                grad.s0[g, c] = ds
        if many:
            _product(x[0, g], False, whole, True, grad.W[g].reshape(-1, C * rows), fresh)
            if grad.x.size:
                _product(layer.W[g].reshape(-1, C * rows), False, whole, False, grad.x[0, g], fresh)


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


def serves(x: Tensor, noise: GateNoise | None) -> bool:
    """Tell whether the compiled form has what a pass needs: float32 on a CPU, and no noise or Algorithm 1's own."""
    if numba is None or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if noise is None:
        return True
    plain = noise.granularity == "slice" and noise.injection == "forward" and not (noise.clamp or noise.needs_uniform)
    return plain and set(noise.kinds) <= set(_KINDS) and not noise.combinations


def _array(tensor: Tensor | None, axes: int = 4) -> Floats:
    """Return a contiguous array; without a tensor, one with so many axes and no elements."""
    return np.empty((0,) * axes, np.float32) if tensor is None else tensor.detach().contiguous().numpy()


def _injected(noise: tuple[GateNoise, Draws] | None, n: int, h: Tensor, space: Workspace) -> Injected:
    """Return the noise in n gates of the networks with hidden states ``h`` ``(T, G, C, J, B)``."""
    T, G, C, J, B = h.shape
    accepted, sigma = space.take("accepted", (T, G, C, n, B), h).numpy(), np.zeros((G, C), np.float32)
    if noise is None or noise[1].normal is None:
        nothing = space.take("nothing", (T, G, n, J, B), h).numpy()
        return Injected(*_codes(("none",), (None,), 1, G, C), sigma, nothing, nothing, accepted)
    layer, draws = noise
    sigma[:, : layer.columns] = draws.sigma.numpy().reshape(-1, layer.columns)
    normal = noise[1].normal.squeeze(2).numpy()
    tested = normal if draws.test is None else draws.test.squeeze(2).numpy()
    return Injected(*_codes(layer.kinds, layer.modes, layer.columns, G, C), sigma, normal, tested, accepted)


@lru_cache(64)
def _codes(kinds: tuple[Kind, ...], modes: tuple[object, ...], own: int, G: int, C: int) -> tuple[Codes, Floats]:
    """Return codes of kinds, and 1 for multiplicative noise, for the first networks of each group; for others 0."""
    codes, growing = np.zeros((G, C), np.int64), np.zeros((G, C), np.float32)
    codes[:, :own] = np.reshape([_KINDS[kind] for kind in kinds], (-1, own))
    growing[:, :own] = np.reshape([mode == "multiplicative" for mode in modes], (-1, own))
    return codes, growing


def forward(cell: CellName, x: Tensor, weights: tuple[Tensor, Tensor], *, start: Start | None = None,
            noise: tuple[GateNoise, Draws] | None = None, space: Workspace | None = None, keep: bool = True
            ) -> Pass:  # fmt: skip
    """Run G·C networks over T slices: :func:`nem.cells.project` and :func:`nem.cells.forward` in one.

    ``weights`` are W ``(G, I + 1, C, blocks·J)`` and V ``(G, C, blocks·J, J)``. The returned pass is valid until the
    next call with the same buffers ``space``; ``keep`` says whether a backward pass follows.
    """
    (T, G, inputs, B), (W, V) = x.shape, weights
    C, J, rows = V.shape[1], V.shape[3], BLOCKS[cell] * V.shape[3]
    space, start = space or Workspace(), start or Start()
    h, slots = space.take("h", (T, G, C, J, B), x), (T, G, C) if keep else (min(T, 2), 1, 1)
    act, first = (space.take(name, (*slots, count, B), x).numpy() for name, count in (("act", rows), ("first", J)))
    second = space.take("second", (*slots, J, B), x).numpy() if cell == "lstm" else _array(None, 5)
    zero = None if start.h is None and start.s is None else x.new_zeros(G, C, J, B)
    h0, s0 = (_array(zero if state is None else state) for state in (start.h, start.s))
    bias = _array(None if start.bias is None else start.bias.squeeze(-1), 3)
    given, whole = x, x.new_empty(0, 0)
    if inputs > FEW:
        given, whole = x.permute(1, 2, 0, 3).reshape(1, G, inputs, T * B), space.take("whole", (C * rows, T * B), x)
    layer = Layer(_array(given), _array(W), _array(V), h0, s0, bias)
    states = States(h.numpy(), act, first, second, whole.numpy())
    injected = _injected(noise, GATES[cell], h, space)
    _forward(cell == "lstm", layer, states, injected)
    acceptance = None
    if noise is not None:
        taken, real = injected.accepted[:, :, : noise[0].columns], x[:, :, -1].detach().numpy()  # ones
        counts = (taken.reshape(T, G, -1, B) @ real[..., None]).reshape(*taken.shape[:-1])  # whole numbers
        share = counts.sum((0, 3), dtype=np.float64) / (taken.shape[3] * real.sum((0, 2)))[:, None]
        acceptance = torch.from_numpy(share.astype(np.float32))
    return Pass(h, acceptance, layer, states, injected)


def backward(cell: CellName, done: Pass, grad_h: Tensor, gradients: tuple[Tensor, Tensor], *,
             grad_s: Tensor | None = None, inputs: bool = False, states: bool = False) -> Layer:  # fmt: skip
    """Propagate gradients back through :func:`forward`, with increments held constant; once per pass.

    ``grad_h`` and ``grad_s`` are those of :func:`_backward`. The gradients of W and V are overwritten; those of x (if
    C = 1) and of the initial states are returned if asked for, as ``inputs`` and ``states``.
    """
    layer, (T, G, _, _, B) = done.layer, done.h.shape
    count, full = layer.W.shape[1], (done.h.shape[1:] if states else (0, 0, 0, 0))
    W, V = (tensor.numpy() for tensor in gradients)
    x = np.empty(layer.x.shape if inputs else (0, 0, 0, 0), np.float32)
    h0, s0 = np.empty(full, np.float32), np.empty(full, np.float32)
    grad = Layer(x, W, V, h0, s0, np.zeros_like(layer.bias))
    _backward(cell == "lstm", layer, done.states, done.noise, _array(grad_h), _array(grad_s), grad)
    if inputs and len(x) != T:
        grad = grad._replace(x=x.reshape(G, count, T, B).transpose(2, 0, 1, 3))
    return grad
