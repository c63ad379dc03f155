"""The recurrent cells, one equation a line: LSTM (B.1)-(B.11) and GRU (C.1)-(C.7), differentiable by autograd.

This is the definition: it serves every device, precision and variant of noise, and tests hold the compiled form
(:mod:`nem.fast`) to it. Letters are the paper's: γ, φ, ω are the LSTM's input, forget and output gate, z and r the
GRU's update and reset gate. With the GRU's h = z∘c + (1 - z)∘h_prev, its update gate is 1 minus torch's.

Any leading axes stack networks, which share nothing but code. The batch comes last, so that a step is ``V @ h`` and
blocks are row blocks:

- LSTM: rows of W and V are γ, φ, ω, candidate.
- GRU: rows of W are candidate, z, r; rows of V are z, r, candidate, since the reset gate meets V h alone (C.5).

Shapes: T slices, ``…`` stack axes (G, C), I inputs, J hidden units, n gates, B batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nem.names import CellName
from nem.noise import Draws, GateNoise

GATES: dict[CellName, int] = {"lstm": 3, "gru": 2}
"""Sigmoid gates per cell: γ, φ, ω; z, r."""
BLOCKS: dict[CellName, int] = {"lstm": 4, "gru": 3}
"""Row blocks of W and V per cell."""


class BackwardGate(NamedTuple):
    """A gate of a clean forward pass whose every occurrence in the backward recursions is noisy."""

    logit: Tensor  # (…, J, B) pre-activation o
    clean: Tensor  # (…, J, B) g = σ(o), which the forward pass uses
    noisy: Tensor  # (…, J, B) n, which the backward pass uses, its derivative n(1 - n) included

    def __mul__(self, other: Tensor) -> Tensor:  # type: ignore[override]
        """Return g∘other; its gradients are n for ``other`` and n(1 - n)∘other for o."""
        product: Tensor = _BackwardProduct.apply(*self, other)
        return product


class _BackwardProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logit: Tensor, clean: Tensor, noisy: Tensor, other: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(noisy, other)
        return clean * other

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, Tensor]:  # noqa: ANN401
        noisy, other = ctx.saved_tensors
        return grad * other * noisy * (1 - noisy), None, None, grad * noisy


Gate = Tensor | BackwardGate
Gates = Callable[[Tensor], Sequence[Gate]]
"""Turns pre-activations ``(…, n, J, B)`` into the n gates ``(…, J, B)`` that downstream sees."""


def clean(logit: Tensor) -> Sequence[Tensor]:
    """Return gates without noise."""
    return torch.sigmoid(logit).unbind(-3)


def lstm_step(u: Tensor, v: Tensor, s: Tensor, gates: Gates = clean) -> SimpleNamespace:
    """Advance an LSTM by one slice: ``u`` is W x + b, ``v`` is V a^h(t-1), both ``(…, 4J, B)``, ``s`` is s(t-1).

    Returns every quantity of (B.1)-(B.11) by its name, ``(…, J, B)``, and ``logits`` ``(…, 3, J, B)``.
    """
    q, o = SimpleNamespace(), (u + v).unflatten(-2, (4, -1))
    q.o_gamma, q.o_phi, q.o_omega, q.o_c = o.unbind(-3)  # (B.3), (B.5), (B.7), (B.1)
    q.logits = o[..., :3, :, :]
    q.a_gamma, q.a_phi, q.a_omega = gates(q.logits)  # (B.4), (B.6), (B.8)
    q.a_c = torch.tanh(q.o_c)  # (B.2)
    q.s = q.a_gamma * q.a_c + q.a_phi * s  # (B.9)
    q.a_s = torch.tanh(q.s)  # (B.10)
    q.a_h = q.a_omega * q.a_s  # (B.11)
    return q


def gru_step(u: Tensor, v: Tensor, h: Tensor, gates: Gates = clean) -> SimpleNamespace:
    """Advance a GRU by one slice: ``u`` is W x + b, ``v`` is V a^h(t-1), both ``(…, 3J, B)``, ``h`` is a^h(t-1).

    Returns every quantity of (C.1)-(C.7), as above, and ``v``, the V a^h of (C.5).
    """
    q, J = SimpleNamespace(), h.shape[-2]
    q.logits = (u[..., J:, :] + v[..., : 2 * J, :]).unflatten(-2, (2, -1))
    q.o_z, q.o_r = q.logits.unbind(-3)  # (C.1), (C.3)
    q.a_z, q.a_r = gates(q.logits)  # (C.2), (C.4)
    q.v = v[..., 2 * J :, :]
    q.o_c = u[..., :J, :] + q.a_r * q.v  # (C.5)
    q.a_c = torch.tanh(q.o_c)  # (C.6)
    q.a_h = q.a_z * (q.a_c - h) + h  # (C.7): z∘c + (1 - z)∘h
    return q


def project(x: Tensor, W: Tensor) -> Tensor:
    """Return u = W x + b ``(T, G, C, rows, B)`` of all slices and networks, in one product per group.

    ``x`` is ``(T, G, I + 1, B)``, its last row ones; ``W`` is ``(G, I + 1, C, rows)``, its last input the biases.
    """
    T, G, inputs, B = x.shape
    product = torch.bmm(W.flatten(2, 3).transpose(1, 2), x.permute(1, 2, 0, 3).reshape(G, inputs, T * B))
    return product.view(G, *W.shape[2:], T, B).permute(3, 0, 1, 2, 4)


class Pass(NamedTuple):
    """What a pass over T slices gives."""

    h: Tensor  # (T, …, J, B) hidden states
    s: Tensor | None  # (…, J, B) the LSTM's last internal cell
    logits: Tensor | None  # (T, …, n, J, B) gate pre-activations, if asked for
    acceptance: Tensor | None  # (G, C') share of injected draws over slices, gates, sequences, if there is gate noise


class Start(NamedTuple):
    """What a pass starts from; ``None`` is zero."""

    h: Tensor | None = None  # (…, J, B) hidden state
    s: Tensor | None = None  # (…, J, B) the LSTM's internal cell
    bias: Tensor | None = None  # (…, J, 1) torch's second bias of the GRU's candidate, which (C.5) does not have


def forward(
    cell: CellName,
    u: Tensor,
    V: Tensor,
    *,
    start: Start | None = None,
    noise: tuple[GateNoise, Draws] | None = None,
    real: Tensor | None = None,
    keep_logits: bool = False,
    shift: Tensor | None = None,
) -> Pass:
    """Run networks with inputs ``u`` (of :func:`project`) and weights ``V`` ``(…, rows, J)`` over T slices.

    ``noise`` enters the gates of the first C' networks of each group, and needs stack axes ``(G, C)``; what is 1 in
    ``real`` ``(T, G, B)``, and not 0, counts for its acceptance (all with ``None``). ``shift`` ``(T, G, C', n, J, B)``
    is added to its increments, and may be differentiated through.
    """
    start, J = start or Start(), V.shape[-1]
    zero = u.new_zeros(*u.shape[1:-2], J, u.shape[-1])
    h, s = (zero if state is None else state for state in (start.h, start.s))
    bias = None
    if start.bias is not None:
        bias = torch.cat([start.bias.new_zeros(*start.bias.shape[:-2], 2 * J, 1), start.bias], -2)
    masks: list[Tensor] = []
    if noise is not None and noise[0].granularity == "time" and noise[1].accepted is None:
        with torch.no_grad():
            clean_pass = forward(cell, u, V, start=start, keep_logits=True)
            if clean_pass.logits is not None:
                logits = clean_pass.logits[:, :, : noise[0].columns]
                accepted = noise[0].increments(logits, torch.sigmoid(logits), noise[1])[1]
                noise = noise[0], replace(noise[1], accepted=accepted)
    states, kept = [], []
    for t, now in enumerate(u.unbind(0)):
        v = torch.zeros_like(now) if t == 0 and start.h is None else V @ h
        v = v if bias is None else v + bias
        gates = clean if noise is None else _noisy_gates(noise, t, masks, None if shift is None else shift[t])
        q = lstm_step(now, v, s, gates) if cell == "lstm" else gru_step(now, v, h, gates)
        h, s = q.a_h, q.s if cell == "lstm" else s
        states.append(h)
        kept += [q.logits] if keep_logits else []
    acceptance = _share(torch.stack(masks).to(u.dtype), real) if masks else None
    return Pass(torch.stack(states), s if cell == "lstm" else None, torch.stack(kept) if kept else None, acceptance)


def _share(accepted: Tensor, real: Tensor | None) -> Tensor:
    """Return the share of what is 1 in ``accepted`` ``(T, G, C', n, K, B)``, among slices that are 1 in ``real``."""
    if real is None:
        return accepted.mean((0, 3, 4, 5))
    n, K = accepted.shape[3:5]
    return torch.einsum("tgcnkb,tgb->gc", accepted, real) / (n * K * real.sum((0, 2))[:, None])


def _noisy_gates(noise: tuple[GateNoise, Draws], t: int, masks: list[Tensor], shift: Tensor | None) -> Gates:
    """Return what turns pre-activations ``(G, C, n, J, B)`` of slice ``t`` into gates, noisy in the first C'."""
    layer, draws, own = noise[0], noise[1].at(t), noise[0].columns

    def gates(logit: Tensor) -> Sequence[Gate]:
        activation = torch.sigmoid(logit)
        noisy, rest = activation[:, :own], activation[:, own:]
        with torch.no_grad():
            increment, accepted = layer.increments(logit[:, :own], noisy, draws)
        masks.append(accepted)
        increment = increment if shift is None else increment + shift
        used = torch.cat([layer.moved(logit[:, :own], noisy, increment, accepted), rest], 1)
        if layer.injection != "backward":
            return used.unbind(-3)
        parts = (logit.unbind(-3), activation.detach().unbind(-3), used.detach().unbind(-3))
        return [BackwardGate(o, g, n) for o, g, n in zip(*parts, strict=True)]

    return gates
