"""One layer of a recurrent network in one direction, over sequences of equal or unequal length, with gate noise.

What :mod:`nem.layers` stacks. Sequences of unequal length run as torch's packed ones do: sorted, longest first, in
*spans* of slices over which as many of them are left. So nothing is ever computed, drawn, tested or counted beyond a
sequence's end.

Shapes: T slices, B sequences, I features, J hidden units, n gates.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nem import cells, fast
from nem.cells import Start
from nem.names import CellName
from nem.noise import Draws, GateNoise

threadpoolctl: Any = None  # of the same optional extra as numba
with suppress(ImportError):
    import threadpoolctl  # type: ignore[no-redef]

States = tuple[Tensor, ...]
"""``(h,)`` of a GRU, ``(h, s)`` of an LSTM, each ``(B, J)``."""
Noisy = tuple[GateNoise, Draws]


@dataclass(frozen=True)
class Direction:
    """Torch's parameters of one layer and direction: weights ``(blocks·J, I)``, ``(blocks·J, J)``, maybe biases."""

    cell: CellName
    parameters: Sequence[Tensor]


class Done(NamedTuple):
    """What a pass gives."""

    output: Tensor  # (T, B, J) hidden states, 0 beyond a sequence's end
    last: States  # of each sequence's last slice
    acceptance: Tensor | None  # share of injected draws, a scalar, if there is noise


def run(layer: Direction, x: Tensor, start: States, noise: Noisy | None, sizes: Sequence[int]) -> Done:
    """Run over ``x`` ``(T, B, I)`` from ``start``, which may be empty; without ``noise`` by torch's own kernel.

    ``sizes`` are T numbers of sequences that have a slice, none larger than the one before. Draws are
    ``(T, 1, 1, n, J, B)``.
    """
    if sizes[-1] == sizes[0]:
        return _pass(layer, x, start, noise)
    if noise is not None and noise[0].granularity == "time":
        noise = noise[0], _decided(layer, x, start, noise, sizes)
    outputs, ended, accepted = [], [], torch.zeros((), device=x.device)
    h: States = tuple(start)
    for begin, end, count, left in _spans(sizes):
        own = noise and (noise[0], noise[1].map(lambda d, s=slice(begin, end), b=count: d[s, ..., :b]))  # type: ignore[misc]
        done = _pass(layer, x[begin:end, :count], tuple(state[:count] for state in h), own)
        outputs.append(functional.pad(done.output, (0, 0, 0, x.shape[1] - count)))
        ended.append(tuple(state[left:] for state in done.last))
        h = tuple(state[:left] for state in done.last)
        if done.acceptance is not None:
            accepted = accepted + done.acceptance * (end - begin) * count
    last = tuple(torch.cat(parts[::-1]) for parts in zip(*ended, strict=True))
    return Done(torch.cat(outputs), last, None if noise is None else accepted / sum(sizes))


def _spans(sizes: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield first slice, the one after the last, sequences, and how many of these go on after."""
    groups = [(count, len(list(same))) for count, same in groupby(sizes)]
    begin = 0
    for (count, length), after in zip(groups, [*groups[1:], (0, 0)], strict=True):
        yield begin, begin + length, count, after[0]
        begin += length


def _decided(layer: Direction, x: Tensor, start: States, noise: Noisy, sizes: Sequence[int]) -> Draws:
    """Return draws with one decision for all slices of each sequence (granularity ``time``), of a clean pass."""
    W, V, bias = stacked(layer.cell, *layer.parameters)
    decided = []
    with torch.no_grad():
        for _, end, count, left in _spans(sizes):  # sequences from ``left`` to ``count`` end here
            u = cells.project(_with_ones(x[:end, left:count]), W)
            begin = _start(tuple(state[left:count] for state in start), bias)
            logits = cells.forward(layer.cell, u, V, start=begin, keep_logits=True).logits
            if logits is None:
                raise ValueError("expected pre-activations, found none")
            own = noise[1].map(lambda draws, e=end, s=slice(left, count): draws[:e, ..., s])  # type: ignore[misc]
            accepted = noise[0].increments(logits, torch.sigmoid(logits), own)[1]
            decided.append(accepted[:1].expand(len(sizes), *accepted.shape[1:]))
    return replace(noise[1], accepted=torch.cat(decided[::-1], -1))


def _pass(layer: Direction, x: Tensor, start: States, noise: Noisy | None) -> Done:
    """Run over sequences of equal length."""
    if noise is None:
        return _torchs(layer, x, start)
    W, V, bias = stacked(layer.cell, *layer.parameters)
    begin, x = _start(start, bias), _with_ones(x)
    # Numba cannot be traced, so that `torch.compile` gets the cells.
    if not torch.compiler.is_compiling() and fast.serves(x, noise[0]) and V.dtype == torch.float32:
        output, s, accepted = _Compiled.apply(layer.cell, noise, x, W, V, begin.h, begin.s, begin.bias)
    else:
        if begin.h is None and len(x) == 1:  # then V has no effect, and is to have a gradient of 0 as of torch's layer
            begin = begin._replace(h=V.new_zeros(1, 1, V.shape[-1], x.shape[-1]))
        done = cells.forward(layer.cell, cells.project(x, W), V, start=begin, noise=noise)
        output, s, accepted = done.h[:, 0, 0].transpose(1, 2).contiguous(), done.s, done.acceptance
    last = (output[-1],) if layer.cell == "gru" else (output[-1], s[0, 0].t())
    return Done(output, last, accepted[0, 0])


def _torchs(layer: Direction, x: Tensor, start: States) -> Done:
    parameters = list(layer.parameters)
    zero = x.new_zeros(x.shape[1], parameters[1].shape[1])
    h = [state.unsqueeze(0) for state in start or ((zero,) if layer.cell == "gru" else (zero, zero))]
    options = len(parameters) > 2, 1, 0.0, torch.is_grad_enabled(), False, False
    if layer.cell == "gru":
        output, *last = torch.gru(x, h[0], parameters, *options)
    else:
        output, *last = torch.lstm(x, h, parameters, *options)
    return Done(output, tuple(state[0] for state in last), None)


def _with_ones(x: Tensor) -> Tensor:
    """Return ``(T, B, I)`` as the cells take it: ``(T, 1, I + 1, B)``, the last row ones."""
    x = x.transpose(1, 2)
    return torch.cat([x, torch.ones_like(x[:, :1])], 1).unsqueeze(1)


def _start(states: States, bias: Tensor | None) -> Start:
    h, s = (*(state.t()[None, None] for state in states), None, None)[:2]
    return Start(h, s, bias)


def stacked(cell: CellName, w_ih: Tensor, w_hh: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return torch's parameters as a stack of one network: W ``(1, I + 1, 1, rows)``, V ``(1, 1, rows, J)``, b_hn.

    The paper's update gate is z = 1 - z_torch, so its rows change sign.
    """
    b_ih, b_hh = biases or (w_ih.new_zeros(len(w_ih)), None)
    if cell == "lstm":
        w_ih = torch.cat([w_ih, (b_ih if b_hh is None else b_ih + b_hh).unsqueeze(1)], 1)
        W, V = (torch.cat([i, f, o, c]) for i, f, c, o in (w_ih.chunk(4), w_hh.chunk(4)))
        return W.t()[None, :, None], V[None, None], None
    second = None
    if b_hh is not None:
        *gates, second = b_hh.chunk(3)
        b_ih = b_ih + torch.cat([*gates, torch.zeros_like(second)])
        second = second.view(1, 1, -1, 1)
    r, z, c = torch.cat([w_ih, b_ih.unsqueeze(1)], 1).chunk(3)
    W = torch.cat([c, -z, r])
    r, z, c = w_hh.chunk(3)
    return W.t()[None, :, None], torch.cat([-z, r, c])[None, None], second


@lru_cache(1)
def _threads() -> Any:  # noqa: ANN401 - threadpoolctl has no types
    return threadpoolctl.ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Hold BLAS to one thread: on products this small more of them gain little, and on a busy machine lose a lot."""
    return _threads().limit(limits=1, user_api="blas") if threadpoolctl else nullcontext()


class _Compiled(torch.autograd.Function):
    """:mod:`nem.fast` for one network; inputs x, W, V, and the fields of :class:`nem.cells.Start`."""

    @staticmethod
    def forward(ctx: Any, cell: CellName, noise: Noisy, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.given = cell, noise
        ctx.save_for_backward(*tensors)
        ctx.done = done = _Compiled.run(ctx, *tensors)
        accepted = done.h.new_ones(1, 1) if done.acceptance is None else done.acceptance
        ctx.mark_non_differentiable(accepted)
        s = torch.from_numpy(done.states.first[-1]).clone()
        return done.h[:, 0, 0].transpose(1, 2).contiguous(), s, accepted

    @staticmethod
    def run(ctx: Any, x: Tensor, W: Tensor, V: Tensor, *start: Tensor) -> fast.Pass:  # noqa: ANN401
        with one_thread():
            return fast.forward(ctx.given[0], x, (W, V), start=Start(*start), noise=ctx.given[1])

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_s: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        wanted, (_, W, V, *_) = ctx.needs_input_grad, ctx.saved_tensors
        # A backward pass uses up its forward pass: a second one, over a retained graph, runs it again.
        done, ctx.done = ctx.done or _Compiled.run(ctx, *ctx.saved_tensors), None
        if torch.is_grad_enabled():
            return _Compiled.differentiable(ctx, done, grad_h, grad_s)
        weights = torch.empty(W.shape), torch.empty(V.shape)
        grad_h = grad_h.transpose(1, 2)[:, None, None]
        lstm = ctx.given[0] == "lstm"
        choices = {"grad_s": grad_s if lstm else None, "inputs": wanted[2], "states": any(wanted[5:7])}
        with one_thread():
            grad = fast.backward(ctx.given[0], done, grad_h, weights, **choices)
        x, h0, s0, bias = (torch.from_numpy(array) for array in (grad.x, grad.h0, grad.s0, grad.bias))
        gradients = (None, None, x, *weights, h0, s0, bias.unsqueeze(-1))
        return tuple(gradient if want else None for gradient, want in zip(gradients, wanted, strict=True))

    @staticmethod
    def differentiable(ctx: Any, done: fast.Pass, grad_h: Tensor, grad_s: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return gradients with a graph of their own, by the cells, with what the compiled pass decided."""
        cell, (layer, draws) = ctx.given
        accepted = torch.from_numpy(done.noise.accepted.copy()).bool().unsqueeze(-2)
        x, W, V, *start = given = ctx.saved_tensors
        same = layer, replace(draws, accepted=accepted)
        again = cells.forward(cell, cells.project(x, W), V, start=Start(*start), noise=same)
        outputs, slopes = [again.h[:, 0, 0].transpose(1, 2)], [grad_h]
        if again.s is not None:
            outputs, slopes = [*outputs, again.s], [*slopes, grad_s]
        places = [place for place, want in enumerate(ctx.needs_input_grad[2:]) if want]
        own = torch.autograd.grad(
            outputs, [given[place] for place in places], slopes, create_graph=True, allow_unused=True
        )
        gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for place, gradient in zip(places, own, strict=True):
            # Recurrent weights have no effect in one slice without a state to start from.
            gradients[place + 2] = torch.zeros_like(given[place]) if gradient is None else gradient
        return tuple(gradients)
