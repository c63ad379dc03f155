"""Recurrent layers, output neurons and their gradients in compiled code for a CPU: one network after another.

:mod:`nem.cells` is the definition: every device, precision and kind of noise. There each operation reads and writes
whole stacks, and memory traffic costs more than arithmetic. Here a network's slice is worked on while it is in the
cache: the matrix products, then one loop over its neurons for gates, Algorithm 1's test, noise and state; backward
likewise. numba compiles it on first use; :mod:`nem.fast` lays out what it reads and writes.

Of fast-math only the contraction of a product and a sum into one operation is allowed, and products sum in one order:
a network's bits do not depend on its neighbours in a stack. Networks without noise run the same arithmetic with
increments of 0, hence σ = 0, a network without noise and a pass without draws agree bit for bit.

Shapes: T slices, S of them with a target (the last ones), G groups, C networks per group, I inputs, J hidden units, n
noisy gates, K outputs, B sequences of a batch, padded. Row blocks are those of :mod:`nem.cells`. All of it is in this
file, since numba's cache on disk does not see changes of another.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

numba: Any = None  # an optional extra
with suppress(ImportError):
    import numba
    import numba.core.codegen
    import numba.extending
    import numba.np.linalg
    import scipy.linalg  # noqa: F401 - numba's products go through its BLAS: once loaded, limits of threads reach it

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
_Function = TypeVar("_Function", bound=Callable[..., Any])

FEW = 256
"""Up to so many inputs, the ones of biases included, a network multiplies them slice by slice; of more, all at once by
BLAS, which is faster."""

LANES = 32
"""Batches are padded to a multiple of this: vectorised loops finish what is left over with scalar code that rounds
otherwise. Without leftovers equal networks of a stack stay equal bit for bit."""

NONE, BLIND, NEM, MATCHED, REVERSED = range(5)
"""Codes of the kinds of noise; from NEM on a kind has a test."""

IDENTITY, SOFTMAX, LOGISTIC = range(3)
"""Codes of the output neurons."""


class Layer(NamedTuple):
    """What a pass reads, as arrays, or their gradients; those that there is no need of have no elements."""

    x: Floats  # (T, G, I + 1, B) inputs with a last row of ones; of many (1, G, I + 1, D), distinct ones; or 1 for all
    W: Floats  # (G, I + 1, C, blocks·J)
    V: Floats  # (G, C, blocks·J, J)
    h0: Floats  # (G, C, J, B) initial hidden states; empty is zero, and then s0 is empty too
    s0: Floats  # (G, C, J, B) initial cell states
    bias: Floats  # (G, C, J) of the GRU's recurrent product
    place: Codes  # (G, T, B) of many inputs, or G is 1: which of the distinct ones are a sequence's in a slice


class States(NamedTuple):
    """What a forward pass writes and a backward pass reads; axes that are shorter are written over in turn."""

    h: Floats  # (T, G, C, J, B) hidden states
    act: Floats  # (T, G, C, blocks·J, B) clean activations; the backward pass turns them into gradients
    first: Floats  # (T, G, C, J, B) LSTM: cell states, GRU: recurrent products
    second: Floats  # (T, G, C, J, B) LSTM: tanh of the cell states, GRU: empty
    whole: Floats  # (blocks·J, D) of many inputs, a network's products with distinct ones, then their gradients


class Drawn(NamedTuple):
    """Noise of a layer: what of each network's draws may be injected."""

    kinds: Codes  # (G, C)
    modes: Floats  # (G, C) 1 for multiplicative noise, else 0
    sigma: Floats  # (G, C)
    normal: Floats  # gates: (G, T, n, J, B) draws, outputs: (G, S, K, B)
    test: Floats  # alike: draws that matched noise tests instead


class Injected(NamedTuple):
    """Noise in gates, and what the forward pass injects of it."""

    noise: Drawn
    accepted: Floats  # (T, G, C, n, B) 1 where draws are injected, else 0; shorter axes as in :class:`States`
    share: Floats  # (G, C) the mean of ``accepted`` over slices, gates and real sequences


class Outputs(NamedTuple):
    """Output neurons, their targets and the noise in these."""

    head: int
    literal: bool  # whether softmax neurons' gradient is a - y, :func:`nem.stack.error_gradient`
    columns: int  # sequences that are no padding
    U: Floats  # (G, C, K, J)
    b: Floats  # (G, C, K, 1)
    target: Floats  # (G, K, B)
    noise: Drawn


class Scores(NamedTuple):
    """What a pass writes of the output neurons."""

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


def compiled(function: _Function, **options: Any) -> _Function:  # noqa: ANN401 - numba's options
    """Compile on first use. Division follows IEEE 754: a test for zero in every division would end vectors."""
    if numba is None:
        return function
    options = options or {"cache": True}
    return cast(_Function, numba.njit(error_model="numpy", fastmath={"contract"}, **options)(function))


inlined = partial(compiled, inline="always")


# tanh x = x·P(x²)/Q(x²) for |x| <= 8, fitted by iteratively reweighted least squares to a relative error of 8e-9
# before rounding; beyond 8, where tanh is 1 to within 2.3e-7, x is taken as 8.
END = np.float32(8.0)
P0, P1, P2 = np.float32(0.9999999935791667), np.float32(0.13444508304471825), np.float32(0.0035716103016213197)
P3, P4, Q1 = np.float32(2.1894865322358294e-05), np.float32(1.5230703898076232e-08), np.float32(0.4677783562781135)
Q2, Q3, Q4 = np.float32(0.026164489597678916), np.float32(0.00034113121426211515), np.float32(8.522562714518606e-07)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@inlined
def _tanh(x: np.float32) -> np.float32:
    """Return tanh x to within 4e-7, never beyond 1; NaN stays NaN."""
    x = END if x > END else x
    x = -END if x < -END else x
    u = x * x
    p = (((P4 * u + P3) * u + P2) * u + P1) * u + P0
    q = (((Q4 * u + Q3) * u + Q2) * u + Q1) * u + ONE
    return x * p / q


@inlined
def _sigmoid(x: np.float32) -> np.float32:
    """Return σ(x) = (1 + tanh(x/2))/2 to within 2e-7."""
    return HALF + HALF * _tanh(HALF * x)


@inlined
def _increment(noise: SliceNoise, gate: int, j: int, b: int) -> np.float32:
    """Return δ = σ ε where the draw is injected, else 0."""
    increment: np.float32 = noise.accepted[gate, b] * noise.sigma * noise.normal[gate, j, b]
    return increment


@inlined
def _noisy(gate: np.float32, increment: np.float32, multiplicative: np.float32) -> np.float32:
    """Return g + δ (additive) or g∘(1 + δ) (multiplicative)."""
    return gate + increment * ((ONE - multiplicative) + multiplicative * gate)


@inlined
def _slope(gate: np.float32, increment: np.float32, multiplicative: np.float32) -> np.float32:
    """Return the noisy gate's derivative in its pre-activation: g(1 - g), times 1 + δ for multiplicative noise."""
    return (ONE + multiplicative * increment) * gate * (ONE - gate)


DEPTH = 64
"""So many terms of a product's sums are added up in registers, and then to what is there: long sums err less, and these
rows of the second factor, of up to 128 columns, stay in the first cache while all rows of the first one meet them."""

WIDTH, MOST = 16, 6
if numba is not None and "+avx512f" in numba.core.codegen.get_host_cpu_features():
    WIDTH, MOST = 32, 12
"""So many columns and rows of a product are summed at once; bits do not depend on it."""


def _tile(rows: int) -> Any:  # noqa: ANN401 - numba is not typed
    """Return what sums up ``rows`` rows and ``WIDTH`` columns of AB in registers, where numba's loops do not keep sums.

    Its arguments: the address of A and how far its rows and columns lie apart, those of B and of the product and how
    far their rows do, the length of the sums, and whether the product is added to what is there.
    """

    def instructions(context: Any, builder: Any, _: object, arguments: Any) -> object:  # noqa: ANN401
        a, down, along, b, next_b, out, next_out, depth, adding = arguments
        cgutils, ir = numba.core.cgutils, numba.core.cgutils.ir
        number, word = ir.FloatType(), ir.IntType(64)
        several = ir.VectorType(number, WIDTH)
        nothing, all_first = ir.Constant(several, None), ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None)
        three = ir.FunctionType(several, [several] * 3)
        fused = cgutils.get_or_insert_function(builder.module, three, f"llvm.fmuladd.v{WIDTH}f32")

        def at(begin: object, offset: object, kind: Any) -> object:  # noqa: ANN401
            first = builder.inttoptr(begin, number.as_pointer())
            return builder.bitcast(builder.gep(first, [offset]), kind.as_pointer())

        sums = [cgutils.alloca_once_value(builder, nothing) for _ in range(rows)]
        places = [at(out, builder.mul(word(row), next_out), several) for row in range(rows)]
        with cgutils.for_range(builder, depth) as loop:
            second = builder.load(at(b, builder.mul(loop.index, next_b), several), align=4)
            for row, total in enumerate(sums):
                offset = builder.add(builder.mul(word(row), down), builder.mul(loop.index, along))
                factor = builder.insert_element(nothing, builder.load(at(a, offset, number)), ir.IntType(32)(0))
                factor = builder.shuffle_vector(factor, nothing, all_first)
                builder.store(builder.call(fused, [factor, second, builder.load(total)]), total)
        with builder.if_then(adding):
            for total, place in zip(sums, places, strict=True):
                builder.store(builder.fadd(builder.load(place, align=4), builder.load(total)), total)
        for total, place in zip(sums, places, strict=True):
            builder.store(builder.load(total), place, align=4)
        return context.get_dummy_value()

    def tile(_, a, down, along, b, next_b, out, next_out, depth, adding):  # type: ignore # noqa: ANN001, ANN202
        return numba.void(*(numba.intp,) * 8, numba.boolean), instructions

    return None if numba is None else numba.extending.intrinsic(tile)


_most_rows, _some_rows, _one_row = _tile(MOST), _tile(MOST // 3), _tile(1)


@compiled
def _wide_product(a: Floats, turn_a: bool, b: Floats, out: Floats, adding: bool) -> None:
    """Make a :func:`product` of columns that are a multiple of ``WIDTH``."""
    if not (len(b) or adding):
        out[:] = ZERO
    (rows, columns), a_row, b_row, out_row = out.shape, a.strides[0] // 4, b.strides[0] // 4, out.strides[0] // 4
    down, along = (1, a_row) if turn_a else (a_row, 1)
    for begin in range(0, len(b), DEPTH):
        depth, more, row = min(DEPTH, len(b) - begin), adding or begin > 0, 0
        while row < rows:
            take = MOST if rows - row >= MOST else MOST // 3 if rows - row >= MOST // 3 else 1
            from_a = a.ctypes.data + 4 * (row * down + begin * along)
            for column in range(0, columns, WIDTH):
                from_b = b.ctypes.data + 4 * (begin * b_row + column)
                to = out.ctypes.data + 4 * (row * out_row + column)
                if take == MOST:
                    _most_rows(from_a, down, along, from_b, b_row, to, out_row, depth, more)
                elif take > 1:
                    _some_rows(from_a, down, along, from_b, b_row, to, out_row, depth, more)
                else:
                    _one_row(from_a, down, along, from_b, b_row, to, out_row, depth, more)
            row += take


@compiled
def product(a: Floats, turn_a: bool, b: Floats, out: Floats, adding: bool) -> None:
    """Write AB to ``out``, or add it; A is ``a`` or its transpose. Each row lies in one piece, ``out`` apart from both.

    Each number is a sum in the order of B's rows, interrupted after ``DEPTH`` terms, with one rounding per term (two on
    processors that do not fuse product and sum): its bits do not depend on the product's size or on its place in it. At
    the sizes of one network in one slice OpenBLAS and MKL are slower.
    """
    (rows, columns), left = out.shape, out.shape[1] % WIDTH
    whole = columns - left
    _wide_product(a, turn_a, b[:, :whole], out[:, :whole], adding)
    if left:
        last_b, last = np.zeros((len(b), WIDTH), np.float32), np.zeros((rows, WIDTH), np.float32)
        last_b[:, :left] = b[:, whole:]
        last[:, :left] = out[:, whole:]
        _wide_product(a, turn_a, last_b, last, adding)
        out[:, whole:] = last[:, :left]


# C := αAB + βC, columns first, of the BLAS that numba's own products call
_gemm: Any = None if numba is None else numba.np.linalg._BLAS.numba_xxgemm(numba.float32)
SINGLE, PLAIN, TURNED = ord("s"), ord("n"), ord("t")


@compiled
def _large(a: Floats, turn_a: bool, b: Floats, turn_b: bool, out: Floats) -> None:
    """Write AB to ``out`` by BLAS, which copies large factors into blocks; A is ``a`` or its transpose, B likewise.

    How it sums may depend on the size of ``out``, and on where in it a number is: networks do not share a product.
    """
    (rows, columns), inner, factors = out.shape, a.shape[0] if turn_a else a.shape[1], np.array([ONE, ZERO])
    ld = max(a.strides[0] // 4, a.shape[1]), max(b.strides[0] // 4, b.shape[1]), max(out.strides[0] // 4, columns)
    _gemm(SINGLE, TURNED if turn_b else PLAIN, TURNED if turn_a else PLAIN, columns, rows, inner,
          factors[:1].ctypes, b.ctypes, ld[1], a.ctypes, ld[0], factors[1:].ctypes, out.ctypes, ld[2])  # fmt: skip


@inlined
def _padded(count: int) -> int:
    """Return so many columns or more, whole multiples of ``WIDTH``."""
    return (count + WIDTH - 1) // WIDTH * WIDTH


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
def _distinct(layer: Layer, g: int) -> int:
    """Return how many columns of a group's many inputs are used, whole vectors: whatever other groups have."""
    columns: int = layer.place[g % len(layer.place)].max() + 1
    return (columns + LANES - 1) // LANES * LANES


@compiled
def _run(lstm: bool, layer: Layer, states: States, gates: Injected, g: int, c: int) -> None:
    """Run one network."""
    x, V, (h, act, first, second, whole) = layer.x, layer.V, states
    (times, groups, networks, rows, B), (T, _, _, J, _), noise = act.shape, h.shape, gates.noise
    many, started, begin, at, to = whole.size > 0, layer.h0.size > 0, 0 if lstm else J, g % groups, c % networks
    zero, injected, real = np.zeros((J, B), np.float32), 0.0, 0.0
    kind, mode, sigma, weights = noise.kinds[g, c], noise.modes[g, c], noise.sigma[g, c], layer.W[g, :, c]
    n, own_g, own_c, own_x = noise.normal.shape[2], g % h.shape[1], c % h.shape[2], g % x.shape[1]
    if many:
        D = _distinct(layer, g)
        _large(weights, True, x[0, own_x][:, :D], False, whole[:, :D])
    for t in range(T):
        slot = t % times, at, to
        a, ones = act[slot], np.empty(B, np.float32)
        if many:
            place = layer.place[g % len(layer.place), t]
            for b in range(B):
                ones[b] = x[0, own_x, -1, place[b]]
            for row in range(rows):
                for b in range(B):
                    a[row, b] = whole[row, place[b]]
        else:
            ones[:] = x[t, own_x, -1]
            product(weights, True, x[t, own_x], a, False)
        before = h[t - 1, own_g, own_c] if t else layer.h0[g, c] if started else zero
        if lstm and (t or started):
            product(V[g, c], False, before, a, True)
        elif t or started:
            product(V[g, c, : 2 * J], False, before, a[J:], True)
            product(V[g, c, 2 * J :], False, before, first[slot], False)
        elif not lstm:
            first[slot][:] = ZERO
        draws, accepted = noise.normal[g, t], gates.accepted[t, own_g, own_c]
        tested = noise.test[g, t] if kind == MATCHED else draws
        _gates(a[begin : begin + n * J], kind, mode, tested, accepted)
        own = SliceNoise(accepted, sigma, draws, mode)
        if lstm:
            cell = first[(t - 1) % times, at, to] if t else layer.s0[g, c] if started else zero
            _lstm_state(a, own, cell, first[slot], second[slot], h[t, own_g, own_c])
        else:
            if layer.bias.size:
                first[slot] += layer.bias[g, c].reshape(J, 1)
            _gru_state(a, own, before, first[slot], h[t, own_g, own_c])
        for b in range(B):
            real += ones[b]
            for gate in range(n):
                injected += accepted[gate, b] * ones[b]  # whole numbers
    gates.share[g, c] = injected / (n * real)


@compiled
def _turned_inputs(layer: Layer, states: States, g: int) -> Floats:
    """Return a group's inputs sequence by sequence, ``(T, B, I + 1)`` and zeros; of many inputs, nothing."""
    T, B = states.act.shape[0], states.act.shape[4]
    inputs = 0 if states.whole.size else layer.x.shape[2]
    turned = np.zeros((T, B, _padded(inputs)), np.float32)
    for t in range(T if inputs else 0):
        turned[t, :, :inputs] = layer.x[t, g % layer.x.shape[1]].T
    return turned


@compiled
def _back(lstm: bool, layer: Layer, turned_x: Floats, states: States, gates: Injected, scored: tuple[Floats, Floats],
          grad: Layer, g: int, c: int) -> None:  # fmt: skip
    """Run one network back in time; its ``states.act`` become gradients.

    ``turned_x`` are its group's :func:`_turned_inputs`; ``scored`` are the gradients of the last hidden states ``(T -
    first, J, B)``, those that the error sees, and of the last cell state ``(J, B)``, empty for zero.
    """
    V, (h, act, first, second, whole) = layer.V, states
    (T, groups, networks, rows, B), J, (grad_h, grad_s) = act.shape, V.shape[3], scored
    many, started, wanted = whole.size > 0, layer.h0.size > 0, grad.h0.size > 0
    seen, at, to = T - grad_h.shape[0], g % groups, c % networks
    zero, recurrent = np.zeros((J, B), np.float32), np.empty((rows, B), np.float32)
    dh, ds = np.empty((J, B), np.float32), np.empty((J, B), np.float32)
    turned, ones = np.zeros((B, _padded(J)), np.float32), np.ones((B, WIDTH), np.float32)
    sum_W, sum_V = np.empty((rows, turned_x.shape[2]), np.float32), np.empty((rows, _padded(J)), np.float32)
    sum_bias = np.zeros((J, WIDTH), np.float32)
    noise, mode, sigma = gates.noise, gates.noise.modes[g, c], gates.noise.sigma[g, c]
    inputs, apart = layer.W.shape[1], 0 if lstm else J  # apart: the candidate's gradients, other for W than for V
    joined = not many and _padded(J + inputs) == _padded(J)  # the others' product for V has room for W's columns
    ds[:] = grad_s if grad_s.size else zero
    if many:
        whole[:] = ZERO
    for t in range(T - 1, -1, -1):
        last = t == T - 1
        if last:
            dh[:] = grad_h[t - seen]
        elif t >= seen:
            dh += grad_h[t - seen]
        a, own = act[t, at, to], SliceNoise(gates.accepted[t, at, to], sigma, noise.normal[g, t], mode)
        before = h[t - 1, at, to] if t else layer.h0[g, c] if started else zero
        if lstm:
            cell = first[t - 1, at, to] if t else layer.s0[g, c] if started else zero
            _lstm_gradient(a, own, cell, second[t, at, to], dh, ds)
        else:
            _gru_gradient(a, own, before, first[t, at, to], dh, recurrent)
            if grad.bias.size:
                product(recurrent[2 * J :], False, ones, sum_bias, True)
        delta_V = a if lstm else recurrent
        if many:
            place = layer.place[g % len(layer.place), t]
            for row in range(rows):
                for b in range(B):
                    whole[row, place[b]] += a[row, b]
        elif joined and (t or started):
            turned[:, J : J + inputs] = turned_x[t, :, :inputs]
            product(a[:apart], False, turned_x[t], sum_W[:apart], not last)
        else:
            if joined and not last:
                sum_W[apart:, :inputs] = sum_V[: rows - apart, J : J + inputs]
            product(a, False, turned_x[t], sum_W, not last)
        if grad.x.size and not many:
            product(layer.W[g, :, c], False, a, grad.x[t, g], False)
        if t or started:
            turned[:, :J] = before.T
            product(delta_V, False, turned, sum_V, not last)
        if t or wanted:
            product(V[g, c], True, delta_V, dh, not lstm)
    if T == 1 and not started:
        sum_V[:] = ZERO
    grad.V[g, c] = sum_V[:, :J]
    if joined and started:
        sum_W[apart:, :inputs] = sum_V[: rows - apart, J : J + inputs]
    if many:
        D = _distinct(layer, g)
        _large(layer.x[0, g % layer.x.shape[1]][:, :D], False, whole[:, :D], True, grad.W[g, :, c])
        if grad.x.size:
            _large(layer.W[g, :, c], False, whole[:, :D], False, grad.x[0, g][:, :D])
    else:
        grad.W[g, :, c] = sum_W[:, :inputs].T
    if grad.bias.size:
        grad.bias[g, c] = sum_bias[:, 0]
    if wanted:
        grad.h0[g, c] = dh
        grad.s0[g, c] = ds


@compiled
def _log_softmax(o: Floats, a: Floats) -> None:
    """Turn inputs of softmax neurons ``(K, B)`` into log a, and write a (38)."""
    K, B = o.shape
    for b in range(B):
        most, total = o[0, b], ZERO
        for k in range(1, K):
            most = max(most, o[k, b])
        for k in range(K):
            o[k, b] -= most
            a[k, b] = math.exp(o[k, b])
            total += a[k, b]
        rest = np.float32(math.log(total))
        for k in range(K):
            o[k, b] -= rest
            a[k, b] /= total


@compiled
def _logistic(o: Floats, a: Floats) -> None:
    """Write logistic neurons' activations a of their inputs ``(K, B)``, down to the smallest."""
    K, B = o.shape
    for k in range(K):
        for b in range(B):
            e = np.float32(math.exp(-abs(o[k, b])))
            a[k, b] = (ONE if o[k, b] >= ZERO else e) / (ONE + e)


@compiled
def _gains(head: int, y: Floats, activation: Floats, delta: Floats, gains: Floats) -> None:
    """Write the log-likelihood gains of increments δ ``(K, B)`` to ``(B,)``, up to a positive factor.

    Those are Σ_k δ_k log a_k (Theorem 2), of identity neurons ‖y - a‖² - ‖y + δ - a‖² (Theorem 3), of logistic ones
    Σ_k δ_k logit a_k; ``activation`` is as in :func:`nem.stack.activations`.
    """
    K, B = y.shape
    gains[:] = ZERO
    for k in range(K):
        for b in range(B):
            if head == IDENTITY:
                residual = y[k, b] - activation[k, b]
                gains[b] -= delta[k, b] * (residual + residual + delta[k, b])  # 0 if δ is, whatever is contracted
            else:
                gains[b] += delta[k, b] * activation[k, b]


@compiled
def _score(out: Outputs, h: Floats, scores: Scores, grad_h: Floats, g: int, c: int) -> None:
    """Compare a network's outputs with noisy targets: write its scores, and the gradients of h ``(S, J, B)``.

    Inputs of output neurons (B.12); Algorithm 1 in their targets; errors (39), (43) and gradients as
    :func:`nem.stack.errors` and :func:`nem.stack.error_gradient` say.
    """
    noise, y, U = out.noise, out.target[g], out.U[g, c]
    (K, B), J, S, own_g, own_c = y.shape, h.shape[3], len(grad_h), g % h.shape[1], c % h.shape[2]
    kind, mode, sigma = noise.kinds[g, c], noise.modes[g, c], noise.sigma[g, c]
    o, a, delta, noisy, lever = (np.empty_like(y), np.empty_like(y), np.empty_like(y), np.empty_like(y),
                                 sigma * ((ONE - mode) + mode * y))  # fmt: skip
    turned, sum_U = np.zeros((B, _padded(J)), np.float32), np.zeros((K, _padded(J)), np.float32)
    gains, mass, scale = np.empty(B, np.float32), np.ones(B, np.float32), ONE / np.float32(out.columns)
    total, injected, sign = 0.0, 0, -ONE if kind == REVERSED else ONE
    scores.b[g, c] = ZERO
    for s in range(S):
        now, normal = h[len(h) - S + s, own_g, own_c], noise.normal[g, s]
        o[:] = out.b[g, c]
        product(U, False, now, o, True)
        if out.head == SOFTMAX:
            _log_softmax(o, a)
        elif out.head == LOGISTIC:
            _logistic(o, a)
        gains[:] = ZERO
        if kind >= NEM:
            draws = noise.test[g, s] if kind == MATCHED else normal
            delta[:] = lever * draws
            _gains(out.head, y, o, delta, gains)
        for b in range(out.columns):
            injected += 1 if sign * gains[b] >= ZERO else 0
        for k in range(K):
            for b in range(B):
                noisy[k, b] = y[k, b] + (lever[k, b] * normal[k, b] if sign * gains[b] >= ZERO else ZERO)
        for k in range(K):
            for b in range(out.columns):
                if out.head == IDENTITY:
                    total += (noisy[k, b] - o[k, b]) * (noisy[k, b] - o[k, b])
                else:
                    total -= noisy[k, b] * o[k, b]
                if out.head == LOGISTIC:
                    total += max(o[k, b], ZERO) + math.log1p(math.exp(-abs(o[k, b])))
        if out.head == SOFTMAX and not out.literal:
            mass[:] = ZERO
            for k in range(K):
                for b in range(B):
                    mass[b] += noisy[k, b]
        for k in range(K):
            for b in range(B):
                if out.head == IDENTITY:
                    a[k, b] = (ONE + ONE) * (o[k, b] - noisy[k, b]) * scale
                else:
                    a[k, b] = (a[k, b] * mass[b] - noisy[k, b]) * scale
            for b in range(out.columns):
                scores.b[g, c, k, 0] += a[k, b]
        a[:, out.columns :] = ZERO
        turned[:, :J] = now.T
        product(a, False, turned, sum_U, True)
        product(U, True, a, grad_h[s], False)
    scores.U[g, c] = sum_U[:, :J]
    scores.loss[g, c] = total / out.columns
    scores.share[g, c] = injected / (S * out.columns)


@compiled
def forward(lstm: bool, layer: Layer, states: States, gates: Injected) -> None:
    """Run all networks, one after another."""
    for g in range(layer.V.shape[0]):
        for c in range(layer.V.shape[1]):
            _run(lstm, layer, states, gates, g, c)


@compiled
def backward(
    lstm: bool, layer: Layer, states: States, gates: Injected, grad_h: Floats, grad_s: Floats, grad: Layer
) -> None:
    """Run all networks back in time, one after another; ``states.act`` becomes gradients.

    ``grad_h`` ``(G, C, T - first, J, B)`` are the gradients of the last hidden states, those that the error sees;
    ``grad_s`` ``(G, C, J, B)`` that of the last cell state, empty for zero.
    """
    nothing = np.empty((0, 0), np.float32)
    for g in range(layer.V.shape[0]):
        turned_x = _turned_inputs(layer, states, g)
        for c in range(layer.V.shape[1]):
            scored = grad_h[g, c], grad_s[g, c] if grad_s.size else nothing
            _back(lstm, layer, turned_x, states, gates, scored, grad, g, c)


@compiled
def train(lstm: bool, layer: Layer, states: States, gates: Injected, out: Outputs, grad: Layer, scores: Scores,
          seen: int) -> None:  # fmt: skip
    """Take each network forward, through its output neurons and back while its states are in the cache.

    The error sees the last ``seen`` slices.
    """
    J, B = states.h.shape[3:]
    grad_h, nothing = np.empty((seen, J, B), np.float32), np.empty((0, 0), np.float32)
    for g in range(layer.V.shape[0]):
        turned_x = _turned_inputs(layer, states, g)
        for c in range(layer.V.shape[1]):
            _run(lstm, layer, states, gates, g, c)
            _score(out, states.h, scores, grad_h, g, c)
            _back(lstm, layer, turned_x, states, gates, (grad_h, nothing), grad, g, c)
