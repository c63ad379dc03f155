"""The plain recurrent cells, one equation a line: LSTM (B.1)-(B.12) and GRU (C.1)-(C.7).

This is the reference to which tests hold the fast kernels of :mod:`pipeline.recurrent.kernels`. Letters are the
paper's: superscripts γ, φ, ω name the LSTM's input, forget and output gate; the GRU's gates are update z and reset r.

Gate noise enters as an *increment* δ per gate and slice, decided elsewhere: the noisy gate is g + δ (additive) or
g∘(1 + δ) (multiplicative), and everything downstream sees it.

Shapes: T slices, B batch, I inputs, J hidden units, K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["additive", "multiplicative"]


@dataclass(frozen=True)
class LSTMParameters:
    """Appendix B's parameters: W ``(J, I)``, V ``(J, J)``, b ``(J,)`` per block, and U ``(K, J)``, b_y ``(K,)``."""

    W_x: Tensor
    V_h: Tensor
    b_x: Tensor
    W_gamma: Tensor
    V_gamma: Tensor
    b_gamma: Tensor
    W_phi: Tensor
    V_phi: Tensor
    b_phi: Tensor
    W_omega: Tensor
    V_omega: Tensor
    b_omega: Tensor
    U_y: Tensor
    b_y: Tensor


@dataclass(frozen=True)
class GRUParameters:
    """Appendix C's parameters: W ``(J, I)``, V ``(J, J)``, b ``(J,)`` per block, and U ``(K, J)``, b_y ``(K,)``."""

    W_x: Tensor
    V_h: Tensor
    b_x: Tensor
    W_z: Tensor
    V_z: Tensor
    b_z: Tensor
    W_r: Tensor
    V_r: Tensor
    b_r: Tensor
    U_y: Tensor
    b_y: Tensor


def noisy(gate: Tensor, increment: Tensor | None, mode: Mode) -> Tensor:
    """Return the gate with its increment: g + δ, or g∘(1 + δ); without one, the gate itself.

    Args:
        gate: ``(B, J)`` g.
        increment: ``(B, J)`` δ, or ``None``.
        mode: how it enters.
    """
    if increment is None:
        return gate
    return gate + increment if mode == "additive" else gate * (1 + increment)


def lstm_step(
    x: Tensor,
    a_h: Tensor,
    s: Tensor,
    p: LSTMParameters,
    increments: tuple[Tensor, Tensor, Tensor] | None = None,
    mode: Mode = "additive",
) -> dict[str, Tensor]:
    """Advance an LSTM by one slice.

    Args:
        x: ``(B, I)`` input.
        a_h: ``(B, J)`` hidden state of the slice before.
        s: ``(B, J)`` internal cell of the slice before.
        p: parameters.
        increments: δ of the input, forget and output gate, ``(B, J)`` each.
        mode: how increments enter.

    Returns:
        Every quantity of (B.1)-(B.12) by its name; gates as ``a_…`` are what downstream sees.
    """
    d_gamma, d_phi, d_omega = increments or (None, None, None)
    o_c = x @ p.W_x.T + a_h @ p.V_h.T + p.b_x  # (B.1)
    a_c = torch.tanh(o_c)  # (B.2)
    o_gamma = x @ p.W_gamma.T + a_h @ p.V_gamma.T + p.b_gamma  # (B.3)
    a_gamma = noisy(torch.sigmoid(o_gamma), d_gamma, mode)  # (B.4)
    o_phi = x @ p.W_phi.T + a_h @ p.V_phi.T + p.b_phi  # (B.5)
    a_phi = noisy(torch.sigmoid(o_phi), d_phi, mode)  # (B.6)
    o_omega = x @ p.W_omega.T + a_h @ p.V_omega.T + p.b_omega  # (B.7)
    a_omega = noisy(torch.sigmoid(o_omega), d_omega, mode)  # (B.8)
    s_new = a_c * a_gamma + s * a_phi  # (B.9)
    a_s = torch.tanh(s_new)  # (B.10)
    a_h_new = a_s * a_omega  # (B.11)
    o_y = a_h_new @ p.U_y.T + p.b_y  # (B.12)
    return {
        "a_c": a_c, "o_gamma": o_gamma, "a_gamma": a_gamma, "o_phi": o_phi, "a_phi": a_phi, "o_omega": o_omega,
        "a_omega": a_omega, "s": s_new, "a_s": a_s, "a_h": a_h_new, "o_y": o_y,
    }  # fmt: skip


def gru_step(
    x: Tensor,
    a_h: Tensor,
    p: GRUParameters,
    increments: tuple[Tensor, Tensor] | None = None,
    mode: Mode = "additive",
) -> dict[str, Tensor]:
    """Advance a GRU by one slice.

    Args:
        x: ``(B, I)`` input.
        a_h: ``(B, J)`` hidden state of the slice before.
        p: parameters.
        increments: δ of the update and reset gate, ``(B, J)`` each.
        mode: how increments enter.

    Returns:
        Every quantity of (C.1)-(C.7) by its name.
    """
    d_z, d_r = increments or (None, None)
    o_z = x @ p.W_z.T + a_h @ p.V_z.T + p.b_z  # (C.1)
    a_z = noisy(torch.sigmoid(o_z), d_z, mode)  # (C.2)
    o_r = x @ p.W_r.T + a_h @ p.V_r.T + p.b_r  # (C.3)
    a_r = noisy(torch.sigmoid(o_r), d_r, mode)  # (C.4)
    v = a_h @ p.V_h.T
    o_c = x @ p.W_x.T + a_r * v + p.b_x  # (C.5)
    a_c = torch.tanh(o_c)  # (C.6)
    a_h_new = a_z * a_c + (1 - a_z) * a_h  # (C.7)
    o_y = a_h_new @ p.U_y.T + p.b_y
    return {"o_z": o_z, "a_z": a_z, "o_r": o_r, "a_r": a_r, "v": v, "a_c": a_c, "a_h": a_h_new, "o_y": o_y}


def forward(
    x: Tensor,
    p: LSTMParameters | GRUParameters,
    increments: list[tuple[Tensor, ...]] | None = None,
    mode: Mode = "additive",
) -> list[dict[str, Tensor]]:
    """Run a cell over T slices from zero states; one dictionary of quantities per slice.

    Args:
        x: ``(T, B, I)``.
        p: parameters, which also choose the cell.
        increments: per slice, δ per gate.
        mode: how increments enter.
    """
    zero = x.new_zeros(x.shape[1], len(p.V_h))
    a_h, s, out = zero, zero, []
    for t, each in enumerate(x):
        delta = None if increments is None else increments[t]
        if isinstance(p, LSTMParameters):
            step = lstm_step(each, a_h, s, p, delta, mode)  # type: ignore[arg-type]
            s = step["s"]
        else:
            step = gru_step(each, a_h, p, delta, mode)  # type: ignore[arg-type]
        a_h = step["a_h"]
        out.append(step)
    return out


def error(steps: list[dict[str, Tensor]], target: Tensor, head: Literal["softmax", "identity"], t0: int) -> Tensor:
    """Return E(Θ), summed over slices t0 … T, outputs and batch: cross entropy (39) or squared error (43).

    Args:
        steps: from :func:`forward`.
        target: ``(T, B, K)``.
        head: softmax (38) or identity (42) output neurons.
        t0: first slice with a target, 1-based.
    """
    total = target.new_zeros(())
    for t in range(t0 - 1, len(steps)):
        if head == "softmax":
            total = total - (target[t] * torch.log_softmax(steps[t]["o_y"], -1)).sum()  # (39)
        else:
            total = total + (target[t] - steps[t]["o_y"]).square().sum()  # (43)
    return total
