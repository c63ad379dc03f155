"""One kernel per cell for a whole stack of networks, forward and backward, gate noise included.

This is the project's inner loop. It trains G·C networks at once as batched matrix products, with the batch *last*,
so that each gate of each network is one contiguous block and every elementwise pass runs over whole blocks. The
same two functions serve the training engine (G groups of C noise conditions) and, through
:class:`RecurrentFunction`, the drop-in modules (G = C = 1). The plain cells of :mod:`pipeline.theory.cells`, one
equation a line, are the reference that tests hold these kernels to.

Shapes: T time slices, G groups with their own inputs, C networks per group, I inputs, J hidden units, B batch.
Inputs carry a last row of ones, so the last row of W is the bias. W is stored input-major, which makes the products
of the few inputs with all networks of a group one matrix product, forward and backward.

- LSTM (B.1)-(B.12): W ``(G, I + 1, C, 4J)``, V ``(G, C, 4J, J)``; blocks input, forget, output gate, candidate.
- GRU (C.1)-(C.7): W ``(G, I + 1, C, 3J)``, blocks candidate, update, reset; V ``(G, C, 3J, J)``, blocks update, reset,
  candidate; optional ``bias`` ``(G, C, J, 1)`` of the candidate's recurrent product (torch's ``b_hn``; (C.5) has none).

Noise enters the first ``len(stack)`` networks of each group. With *forward* injection the noisy gate replaces the
gate, and the gradient is that of the noisy function with increments held constant. With *backward* injection
(Algorithm 1, read literally) the forward pass is clean and every occurrence of a gate's activation in the backward
recursions is the noisy one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.noise.inject import (
    GateStack,
    apply_gate_increment,
    gate_acceptance,
    gate_coefficient,
    gate_increment,
)

CellName = Literal["lstm", "gru"]

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_MINUS_ONE = torch.tensor(-1.0)
"""A tensor, since only tensor operands take ``alpha``."""


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write the batched product left·right to ``out``: ``(M, r, k)``, ``(M, k, c)``, ``(M, r, c)``.

    On a CPU through numpy, whose BLAS uses the widest vectors on every make of processor; torch's is up to twice
    slower on some. Both sum in a fixed order.
    """
    if out.device.type == "cpu":
        np.matmul(left.detach().numpy(), right.detach().numpy(), out=out.detach().numpy())
    else:
        torch.bmm(left, right, out=out)


def _tanh(source: Tensor, out: Tensor) -> None:
    """Write tanh(source) = 2σ(2·source) - 1 to ``out``: torch's vectorised σ takes a fourth of its tanh's time."""
    torch.mul(source, 2, out=out)
    torch.sigmoid(out, out=out)
    _from_double_sigmoid(out)


def _from_double_sigmoid(out: Tensor) -> None:
    """Turn σ(2u) into tanh u, in place."""
    torch.add(_MINUS_ONE, out, alpha=2, out=out)


GATES: dict[CellName, int] = {"lstm": 3, "gru": 2}
"""Sigmoid gates per cell: input, forget, output; update, reset."""
BLOCKS: dict[CellName, int] = {"lstm": 4, "gru": 3}
"""Row blocks of W and V per cell."""


@dataclass(frozen=True)
class GateDraws:
    """Everything random (or scheduled) about gate noise in one pass.

    Attributes:
        stack: kinds and modes of the first ``len(stack)`` networks of every group.
        sigma: ``(len(stack),)`` standard deviations now.
        normal: ``(T, G, 1, n, J, B)`` standard normal draws, ``None`` if nothing is random.
        test_normal: independent draws for ``matched`` noise.
        uniform: uniform draws for sampled latents.
        columns: batch columns that count for the acceptance rate; ``None`` is all.
    """

    stack: GateStack
    sigma: Tensor
    normal: Tensor | None
    test_normal: Tensor | None = None
    uniform: Tensor | None = None
    columns: int | None = None

    def at(self, t: int) -> dict[str, Tensor | None]:
        """Return the draws of slice ``t`` as keyword arguments."""
        pick = {"normal": self.normal, "test_normal": self.test_normal, "uniform": self.uniform}
        return {name: None if draws is None else draws[t] for name, draws in pick.items()}


@dataclass
class Workspace:
    """Buffers that live from one pass to the next: fresh ones would cost a page fault per page and pass."""

    buffers: dict[tuple[str, tuple[int, ...], torch.dtype, torch.device], Tensor] = field(default_factory=dict)
    prepared: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised buffer, the same one for the same name and shape."""
        key = (name, shape, like.dtype, like.device)
        found = self.buffers.get(key)
        if found is None:
            found = self.buffers[key] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return found

    def once(self, key: tuple[object, ...], build: Callable[[], Any]) -> Any:  # noqa: ANN401 - what build returns
        """Return ``build()``, built once per key: making views anew would cost as much as small operations do."""
        if key not in self.prepared:
            self.prepared[key] = build()
        return self.prepared[key]


@dataclass
class Pass:
    """What the forward pass leaves for the backward pass.

    Attributes:
        x: ``(T, G, I + 1, B)`` inputs.
        h: ``(T, G, C, J, B)`` hidden states.
        act: ``(T, G, C, blocks·J, B)`` activations that the forward pass used.
        clean: forward injection: per slice, gates before noise ``(G, C', n, J, B)``; else ``None``.
        noisy: backward injection: per slice, noisy gates ``(G, C', n, J, B)``; else ``None``.
        extra: further states of the cell.
        increments: per slice, gate increments ``(G, C', n, J, B)``, kept where no coefficient gives them again.
        accepted: per slice, mask of injected draws ``(G, C', n, 1 or J, B)``; empty without gate noise.
        acceptance: ``(G, C')`` mean of ``accepted``, ``None`` without gate noise.
    """

    x: Tensor
    h: Tensor
    act: Tensor
    h0: Tensor | None
    draws: GateDraws | None = None
    clean: list[Tensor] | None = None
    noisy: list[Tensor] | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    increments: list[Tensor] | None = None
    accepted: list[Tensor] = field(default_factory=list)
    acceptance: Tensor | None = None


def _flat(tensor: Tensor) -> Tensor:
    """Merge the group and network axes, for batched products."""
    return tensor.flatten(0, 1)


class _Noise:
    """Gate noise of one forward pass, on the gate block ``[first, first + n·J)`` of the activations' rows.

    Increments are a small coefficient (σ or 0) times the draws, so the backward pass makes them again instead of
    reading them from memory. Only expected increments, which are no such product, are kept.
    """

    def __init__(self, draws: GateDraws, run: Pass, pre: Tensor, first: int, space: Workspace) -> None:
        T, G, _, J, B = run.h.shape
        self.draws, self.run = draws, run
        self.count, self.gates = len(draws.stack), GATES["lstm" if first == 0 else "gru"]
        self.backward = draws.stack.injection == "backward"
        block, shape = slice(first, first + self.gates * J), (G, self.count, self.gates, J, B)
        keep = draws.stack.rows.has("expected-nem")

        def build() -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
            kept = space.take("noisy" if self.backward else "clean", (T, *shape), run.h)
            delta = [space.take(f"increment {t if keep else 0}", shape, run.h) for t in range(T)]
            views = [each[:, : self.count, block].unflatten(2, (self.gates, J)) for each in (pre, *run.act)]
            return views[0], views[1:], list(kept), delta

        key = ("noise", self.backward, keep, run.act.data_ptr(), pre.data_ptr(), T, shape, first)
        self.logit, self.act, self.kept, self.delta = space.once(key, build)
        self.total: Tensor | None = None
        self.fixed: Tensor | None = None
        if self.backward:
            run.noisy = self.kept
        else:
            run.clean = self.kept
        run.increments = self.delta if keep else None

    def apply(self, t: int) -> None:
        """Replace the gates of slice ``t`` by noisy ones, or (backward injection) keep noisy ones aside."""
        stack, act, kept = self.draws.stack, self.act[t], self.kept[t]
        increment, accepted = gate_increment(
            stack, self.logit, act, self.draws.sigma, accepted=self.fixed, out=self.delta[t], **self.draws.at(t)
        )
        kept.copy_(act)
        apply_gate_increment(stack, kept if self.backward else act, increment)
        self.run.accepted.append(accepted)

    def finish(self) -> None:
        """Record the mean acceptance over the slices."""
        accepted = torch.stack(self.run.accepted)[..., : self.draws.columns]
        self.run.acceptance = accepted.mean((0, 3, 4, 5))


def _multiplicative_increment(run: Pass, t: int) -> Tensor:
    """Return the increments ``(G, C'', n·J, B)`` of the multiplicative networks at slice ``t``."""
    if run.draws is None:
        raise ValueError("expected a pass with gate noise, found a noiseless one")
    rows = run.draws.stack.rows.multiplicative
    if run.increments is not None:
        return run.increments[t][:, rows].flatten(2, 3)
    if run.draws.normal is None:
        raise ValueError("expected standard normal draws, found None")
    coefficient = gate_coefficient(run.draws.stack, run.accepted[t], run.draws.sigma)[:, rows]
    return (coefficient * run.draws.normal[t]).flatten(2, 3)


def _used(run: Pass, t: int, first: int, space: Workspace) -> Tensor:
    """Return the activations ``(G, C, blocks·J, B)`` that the backward pass of slice ``t`` uses.

    They are the forward pass's own, but for backward injection, where noisy gates replace clean ones.
    """
    if run.noisy is None:
        return run.act[t]
    used = space.take("used", tuple(run.act.shape[1:]), run.act)
    used.copy_(run.act[t])
    noisy = run.noisy[t].flatten(2, 3)
    used[:, : noisy.shape[1], first : first + noisy.shape[2]] = noisy
    return used


def _gate_gradient(run: Pass, t: int, used: Tensor, grad: Tensor, first: int, rows: int) -> None:
    """Turn gradients of the gates, rows ``[first, first + rows)`` of ``grad``, into those of pre-activations.

    With forward noise, the noisy gate is g + δ or g∘(1 + δ), so the chain factor is 1 or 1 + δ and the sigmoid's
    derivative takes the clean g. With backward noise every activation, the derivative's included, is the noisy one.
    """
    block = slice(first, first + rows)
    if run.clean is None or run.draws is None:
        gates = grad[:, :, block]
        _sigmoid_backward(gates, used[:, :, block], grad_input=gates)
        return
    stack, count = run.draws.stack, len(run.draws.stack)
    noisy, rest = grad[:, :count, block], grad[:, count:, block]
    if stack.clamp:
        inside = used[:, :count, block]
        noisy.mul_((inside > 0) & (inside < 1))
    mul = stack.rows.multiplicative
    if mul.stop > mul.start:
        part = grad[:, mul, block]
        part.addcmul_(part, _multiplicative_increment(run, t))
    _sigmoid_backward(noisy, run.clean[t].flatten(2, 3), grad_input=noisy)
    _sigmoid_backward(rest, used[:, count:, block], grad_input=rest)


def _time_acceptance(noise: _Noise, clean: Callable[[list[Tensor]], Any]) -> Tensor:
    """Decide granularity ``time``: sum each network's gains over all slices of a noiseless pass.

    Args:
        noise: what to decide on.
        clean: runs that pass, and puts each slice's gate pre-activations ``(G, C, n·J, B)`` into a list.
    """
    draws, logits = noise.draws, []  # type: ignore[var-annotated]
    clean(logits)
    if draws.normal is None:
        raise ValueError("expected draws for granularity 'time', found none; expected noise has one test per slice")

    def joined(per_slice: Tensor | None) -> Tensor | None:
        return None if per_slice is None else torch.cat(list(per_slice), dim=-2)

    each = [logit[:, : noise.count].unflatten(2, (noise.gates, -1)) for logit in logits]
    logit = torch.cat(each, dim=-2)
    normal = torch.cat(list(draws.normal), dim=-2)
    return gate_acceptance(
        draws.stack, logit, torch.sigmoid(logit), normal, joined(draws.test_normal), joined(draws.uniform)
    )


def lstm_forward(
    x: Tensor,
    W: Tensor,
    V: Tensor,
    *,
    h0: Tensor | None = None,
    s0: Tensor | None = None,
    draws: GateDraws | None = None,
    workspace: Workspace | None = None,
    logits: list[Tensor] | None = None,
) -> Pass:
    """Run G·C LSTM networks over T slices: (B.1)-(B.11).

    Args:
        x: ``(T, G, I + 1, B)`` inputs with a last row of ones.
        W: ``(G, I + 1, C, 4J)`` input weights and biases, columns input, forget, output gate, candidate.
        V: ``(G, C, 4J, J)`` recurrent weights.
        h0: ``(G, C, J, B)`` initial hidden state; ``None`` is zero.
        s0: ``(G, C, J, B)`` initial cell state; ``None`` is zero.
        draws: gate noise, ``None`` for a noiseless pass.
        workspace: buffers to reuse; the returned pass is valid until the next call with the same workspace.
        logits: if given, receives each slice's pre-activations ``(G, C, 4J, B)``.

    Returns:
        The pass; ``extra`` holds ``s`` and ``tanh_s``, both ``(T, G, C, J, B)``.
    """
    T, G, _, B = x.shape
    C, J = V.shape[1], V.shape[3]
    space = workspace or Workspace()
    act = space.take("act", (T, G, C, 4 * J, B), x)
    # Without noise pre-activations become activations in place; with noise the test needs both.
    pre = None if draws is None else space.take("pre", (G, C, 4 * J, B), x)
    h, s, tanh_s = (space.take(name, (T, G, C, J, B), x) for name in ("h", "s", "tanh_s"))
    run = Pass(x, h, act, h0, draws, extra={"s": s, "tanh_s": tanh_s} | ({} if s0 is None else {"s0": s0}))
    noise = None if draws is None or pre is None else _Noise(draws, run, pre, 0, space)
    if noise is not None and noise.draws.stack.granularity == "time":
        noise.fixed = _time_acceptance(noise, lambda out: lstm_forward(x, W, V, h0=h0, s0=s0, logits=out))

    def build() -> list[tuple[Tensor, ...]]:
        return [
            (
                p.flatten(1, 2),
                _flat(p),
                p,
                p[:, :, 3 * J :],
                a,
                *a.split(J, dim=2),
                cell,
                tanh_cell,
                hidden,
                _flat(hidden),
            )
            for p, a, cell, tanh_cell, hidden in zip(act if pre is None else [pre] * T, act, s, tanh_s, h, strict=True)
        ]

    slices = space.once(("lstm", act.data_ptr(), pre is None, act.shape), build)
    rows, V_flat = W.flatten(2, 3).transpose(1, 2), _flat(V)
    h_prev, s_prev = None if h0 is None else _flat(h0), s0
    for t, (pre_rows, pre_flat, pre_t, pre_c, act_t, i, f, o, c, s_t, tanh_t, h_t, h_flat) in enumerate(slices):
        if h_prev is None:
            torch.bmm(rows, x[t], out=pre_rows)
        else:
            _product(V_flat, h_prev, pre_flat)
            pre_rows.baddbmm_(rows, x[t])
        if logits is not None:
            logits.append(pre_t[:, :, : 3 * J].clone())
        pre_c.mul_(2)
        torch.sigmoid(pre_t, out=act_t)
        _from_double_sigmoid(c)
        if noise is not None:
            noise.apply(t)
        torch.mul(c, i, out=s_t)
        if s_prev is not None:
            s_t.addcmul_(s_prev, f)
        _tanh(s_t, tanh_t)
        torch.mul(tanh_t, o, out=h_t)
        h_prev, s_prev = h_flat, s_t
    if noise is not None:
        noise.finish()
    return run


def lstm_backward(
    run: Pass,
    W: Tensor,
    V: Tensor,
    grad_h: Tensor,
    first: int,
    grad_W: Tensor,
    grad_V: Tensor,
    *,
    grad_last: dict[str, Tensor] | None = None,
    workspace: Workspace | None = None,
    inputs: bool = False,
) -> dict[str, Tensor]:
    """Propagate gradients back through :func:`lstm_forward` (Appendix B.2, as one backward recursion in time).

    Args:
        run: the forward pass.
        W: as in the forward pass.
        V: as in the forward pass.
        grad_h: ``(T - first, G, C, J, B)`` gradients of the hidden states from slice ``first`` on.
        first: first slice (0-based) whose hidden state the error sees.
        grad_W: ``(G, I + 1, C, 4J)``, overwritten.
        grad_V: ``(G, C, 4J, J)``, overwritten.
        grad_last: gradient ``s`` of the last cell state, if the error sees it.
        workspace: buffers to reuse.
        inputs: also return gradients of the inputs and initial states.

    Returns:
        ``{}``, or with ``inputs`` the gradients ``x`` ``(T, G, I + 1, B)``, ``h0`` and ``s0`` ``(G, C, J, B)``.
    """
    T, G, C, J, B = run.h.shape
    space = workspace or Workspace()
    part = space.take("part", (G * C, 4 * J, J), run.h)
    s, tanh_s, s0 = run.extra["s"], run.extra["tanh_s"], run.extra.get("s0")
    grad = space.take("grad", (G, C, 4 * J, B), run.h)
    scratch, ds, dh = (space.take(name, (G, C, J, B), run.h) for name in ("scratch", "ds", "dh"))
    di, df, do, dc = grad.split(J, dim=2)
    grad_rows, grad_flat, dh_flat, V_t = grad.flatten(1, 2), _flat(grad), _flat(dh), _flat(V).transpose(1, 2)
    W_out, V_out = grad_W.flatten(2, 3), _flat(grad_V)
    out = {"x": torch.empty_like(run.x)} if inputs else {}
    ds_known = grad_last is not None
    if grad_last is not None:
        ds.copy_(grad_last["s"])
    for t in range(T - 1, -1, -1):
        used = _used(run, t, 0, space)
        i, f, o, c = used.split(J, dim=2)
        h_prev, s_prev = (run.h[t - 1], s[t - 1]) if t else (run.h0, s0)
        latest = t == T - 1
        if t < first:
            error = dh
        elif latest:
            error = grad_h[t - first]
        else:
            error = dh.add_(grad_h[t - first])
        torch.mul(error, o, out=scratch)
        if ds_known:
            _tanh_backward(scratch, tanh_s[t], grad_input=scratch)
            ds.add_(scratch)
        else:
            _tanh_backward(scratch, tanh_s[t], grad_input=ds)
        ds_known = True
        torch.mul(error, tanh_s[t], out=do)
        torch.mul(ds, c, out=di)
        torch.mul(ds, i, out=dc)
        if s_prev is None:
            df.zero_()
        else:
            torch.mul(ds, s_prev, out=df)
        if t or inputs:
            ds.mul_(f)
        _gate_gradient(run, t, used, grad, 0, 3 * J)
        _tanh_backward(dc, c, grad_input=dc)
        _accumulate(W_out, run.x[t], grad_rows, latest)
        if h_prev is not None:
            _product(grad_flat, _flat(h_prev).transpose(1, 2), V_out if latest else part)
            if not latest:
                V_out.add_(part)
        if t or inputs:
            _product(V_t, grad_flat, dh_flat)
        if inputs:
            torch.bmm(W.flatten(2, 3), grad_rows, out=out["x"][t])
    if T == 1 and run.h0 is None:
        grad_V.zero_()
    if inputs:
        out |= {"h0": dh.clone(), "s0": ds.clone()}
    return out


def _accumulate(total: Tensor, left: Tensor, right: Tensor, overwrite: bool) -> None:
    """Add one slice's part, left·rightᵀ, to a weight's gradient; the slice visited first overwrites it."""
    if overwrite:
        torch.bmm(left, right.transpose(1, 2), out=total)
    else:
        total.baddbmm_(left, right.transpose(1, 2))


def gru_forward(
    x: Tensor,
    W: Tensor,
    V: Tensor,
    *,
    bias: Tensor | None = None,
    h0: Tensor | None = None,
    draws: GateDraws | None = None,
    workspace: Workspace | None = None,
    logits: list[Tensor] | None = None,
) -> Pass:
    """Run G·C GRU networks over T slices: (C.1)-(C.7), with h = z∘c + (1 - z)∘h_prev.

    Args:
        x: ``(T, G, I + 1, B)`` inputs with a last row of ones.
        W: ``(G, I + 1, C, 3J)`` input weights and biases, columns candidate, update, reset.
        V: ``(G, C, 3J, J)`` recurrent weights, rows update, reset, candidate.
        bias: ``(G, C, J, 1)`` bias of the candidate's recurrent product; ``None`` is none, as in the paper.
        h0: ``(G, C, J, B)`` initial hidden state; ``None`` is zero.
        draws: gate noise (update, reset), ``None`` for a noiseless pass.
        workspace: buffers to reuse; the returned pass is valid until the next call with the same workspace.
        logits: if given, receives each slice's pre-activations ``(G, C, 3J, B)`` (the candidate's part incomplete).

    Returns:
        The pass; ``extra`` holds the candidate's recurrent product ``a`` ``(T, G, C, J, B)``.
    """
    T, G, _, B = x.shape
    C, J = V.shape[1], V.shape[3]
    space = workspace or Workspace()
    act = space.take("act", (T, G, C, 3 * J, B), x)
    pre = None if draws is None else space.take("pre", (G, C, 3 * J, B), x)
    h, a = (space.take(name, (T, G, C, J, B), x) for name in ("h", "a"))
    run = Pass(x, h, act, h0, draws, extra={"a": a})
    noise = None if draws is None or pre is None else _Noise(draws, run, pre, J, space)
    if noise is not None and noise.draws.stack.granularity == "time":
        noise.fixed = _time_acceptance(noise, lambda out: gru_forward(x, W, V, bias=bias, h0=h0, logits=out))

    def build() -> list[tuple[Tensor, ...]]:
        return [
            (
                p.flatten(1, 2),
                _flat(p)[:, J:],
                p[:, :, J:],
                p[:, :, :J],
                each[:, :, J:],
                *each.split(J, dim=2),
                product,
                _flat(product),
                hidden,
            )
            for p, each, product, hidden in zip(act if pre is None else [pre] * T, act, a, h, strict=True)
        ]

    slices = space.once(("gru", act.data_ptr(), pre is None, act.shape), build)
    rows = W.flatten(2, 3).transpose(1, 2)
    V_gates, V_candidate = _flat(V[:, :, : 2 * J]), _flat(V[:, :, 2 * J :])
    h_prev = h0
    for t, (pre_rows, pre_flat, pre_g, pre_c, gates, c, z, r, a_t, a_flat, h_t) in enumerate(slices):
        torch.bmm(rows, x[t], out=pre_rows)
        if h_prev is not None:
            h_flat = _flat(h_prev)
            pre_flat.baddbmm_(V_gates, h_flat)
            torch.bmm(V_candidate, h_flat, out=a_flat)
            if bias is not None:
                a_t.add_(bias)
        elif bias is not None:
            a_t.copy_(bias.expand_as(a_t))
        if logits is not None:
            logits.append(pre_g.clone())
        torch.sigmoid(pre_g, out=gates)
        if noise is not None:
            noise.apply(t)
        if h_prev is not None or bias is not None:
            pre_c.addcmul_(r, a_t)
        _tanh(pre_c, c)
        if h_prev is None:
            torch.mul(z, c, out=h_t)
        else:
            torch.lerp(h_prev, c, z, out=h_t)
        h_prev = h_t
    if noise is not None:
        noise.finish()
    return run


def gru_backward(
    run: Pass,
    W: Tensor,
    V: Tensor,
    grad_h: Tensor,
    first: int,
    grad_W: Tensor,
    grad_V: Tensor,
    *,
    bias: Tensor | None = None,
    workspace: Workspace | None = None,
    inputs: bool = False,
) -> dict[str, Tensor]:
    """Propagate gradients back through :func:`gru_forward` (Appendix C.2, as one backward recursion in time).

    Args:
        run: the forward pass.
        W: as in the forward pass.
        V: as in the forward pass.
        grad_h: ``(T - first, G, C, J, B)`` gradients of the hidden states from slice ``first`` on.
        first: first slice (0-based) whose hidden state the error sees.
        grad_W: ``(G, I + 1, C, 3J)``, overwritten.
        grad_V: ``(G, C, 3J, J)``, overwritten.
        bias: as in the forward pass.
        workspace: buffers to reuse.
        inputs: also return gradients of the inputs, the initial state and ``bias``.

    Returns:
        ``{}``, or with ``inputs`` the gradients ``x``, ``h0`` and, where there is a bias, ``bias``.
    """
    T, G, C, J, B = run.h.shape
    space, a = workspace or Workspace(), run.extra["a"]
    # Rows candidate, update, reset meet W; rows update, reset, recurrent product meet V. The first three are one
    # block over all networks, so that W's gradient is one product.
    grad = space.take("grad", (G, C, 3 * J, B), run.h)
    for_V = space.take("grad_recurrent", (G, C, 3 * J, B), run.h)
    dc, dz, dr = grad.split(J, dim=2)
    da = for_V[:, :, 2 * J :]
    scratch, dh = (space.take(name, (G, C, J, B), run.h) for name in ("scratch", "dh"))
    grad_rows, for_V_flat, dh_flat, V_t = grad.flatten(1, 2), _flat(for_V), _flat(dh), _flat(V).transpose(1, 2)
    W_out, V_out = grad_W.flatten(2, 3), _flat(grad_V)
    out = {"x": torch.empty_like(run.x)} if inputs else {}
    if inputs and bias is not None:
        out["bias"] = torch.zeros_like(bias)
    for t in range(T - 1, -1, -1):
        used = _used(run, t, J, space)
        c, z, r = used.split(J, dim=2)
        h_prev, latest = run.h[t - 1] if t else run.h0, t == T - 1
        if t >= first:
            if latest:
                dh.copy_(grad_h[t - first])
            else:
                dh.add_(grad_h[t - first])
        torch.mul(dh, z, out=scratch)
        _tanh_backward(scratch, c, grad_input=dc)
        if h_prev is None:
            torch.mul(dh, c, out=dz)
        else:
            torch.sub(c, h_prev, out=dz)
            dz.mul_(dh)
        if h_prev is None and bias is None:
            dr.zero_()
            da.zero_()
        else:
            torch.mul(dc, a[t], out=dr)
            torch.mul(dc, r, out=da)
        _gate_gradient(run, t, used, grad, J, 2 * J)
        for_V[:, :, : 2 * J] = grad[:, :, J:]
        _accumulate(W_out, run.x[t], grad_rows, latest)
        if h_prev is not None:
            _accumulate(V_out, for_V_flat, _flat(h_prev), latest)
        if t or inputs:
            dh.sub_(scratch)
            dh_flat.baddbmm_(V_t, for_V_flat)
        if inputs:
            torch.bmm(W.flatten(2, 3), grad_rows, out=out["x"][t])
            if bias is not None:
                out["bias"] += da.sum(-1, keepdim=True)
    if T == 1 and run.h0 is None:
        grad_V.zero_()
    if inputs:
        out["h0"] = dh.clone()
    return out


class RecurrentFunction(torch.autograd.Function):
    """The kernels as an autograd function, for one network (G = C = 1) inside anybody's training loop.

    Inputs ``x (T, 1, I + 1, B)``, ``W``, ``V``, ``bias`` (GRU, may be ``None``), ``h0``, ``s0`` (LSTM, may be
    ``None``), the cell's name and the gate noise; outputs ``h (T, 1, 1, J, B)``, the last cell state
    ``(1, 1, J, B)`` (LSTM; zero-size for GRU), and the mean acceptance ``(1, 1)`` (not differentiable).
    """

    @staticmethod
    def forward(  # noqa: D102 - the class says it
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        W: Tensor,
        V: Tensor,
        bias: Tensor | None,
        h0: Tensor | None,
        s0: Tensor | None,
        cell: CellName,
        draws: GateDraws | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if cell == "lstm":
            run = lstm_forward(x, W, V, h0=h0, s0=s0, draws=draws)
            last = run.extra["s"][-1]
        else:
            run = gru_forward(x, W, V, bias=bias, h0=h0, draws=draws)
            last = x.new_zeros(0)
        accepted = run.acceptance if run.acceptance is not None else x.new_ones(1, 1)
        ctx.run, ctx.cell = run, cell
        ctx.save_for_backward(W, V, bias)
        ctx.mark_non_differentiable(accepted)
        return run.h.clone(), last.clone(), accepted

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        W, V, bias = ctx.saved_tensors
        grad_W, grad_V = torch.empty_like(W), torch.zeros_like(V)
        grad_h, grad_s = grads[0], grads[1]
        if ctx.cell == "lstm":
            out = lstm_backward(ctx.run, W, V, grad_h, 0, grad_W, grad_V, grad_last={"s": grad_s}, inputs=True)
        else:
            out = gru_backward(ctx.run, W, V, grad_h, 0, grad_W, grad_V, bias=bias, inputs=True)
        wanted = ctx.needs_input_grad
        return (
            out["x"],
            grad_W,
            grad_V,
            out.get("bias"),
            out["h0"] if wanted[4] else None,
            out["s0"] if wanted[5] else None,
            None,
            None,
        )
