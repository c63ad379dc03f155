"""The gradients of recurrent backpropagation as recursions *forward* in time: Appendices B.2 (LSTM) and C.2 (GRU).

The paper writes one pair of recursions per parameter. They are one recursion with different *sources*. For the
weights θ of a block g (the candidate c, or a gate) the pre-activation of unit l moves by

    ∂o^g_l/∂θ_ji = δ_jl u_i + Σ_m v^g_lm ∂a^h_m(t-1)/∂θ_ji,        u = x (W), a^h(t-1) (V) or 1 (b),

and every other block has the sum alone. Which printed equation is which:

==========  ============================  ============================
block       LSTM: W, b, V                 GRU: W, b, V
==========  ============================  ============================
candidate   (B.77)-(B.93)                 (C.11)-(C.24)
input γ     (B.33)-(B.47)
forget φ    (B.48)-(B.60)
output ω    (B.61)-(B.76)
reset r                                   (C.25)-(C.33)
update z                                  (C.34)-(C.43)
==========  ============================  ============================

Many of them are misprinted, most often by a missing δ_jl: ``docs/errata.md`` lists each with what is right, and
``tests/theory/test_recursions.py`` puts each printed equation in place of the right one. Memory grows as B·J·J·(I + J
+ 1), which is why training uses the backward recursion instead (:mod:`pipeline.recurrent.kernels`); this is a
reference.

Shapes: T slices, B batch, I inputs, J hidden units, K outputs; a sensitivity ∂a_l/∂θ_ji is ``(B, J, J, N)`` with axes
(batch, l, j, i) and N = I, J or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeVar

import torch
from torch import Tensor

from pipeline.theory import cells

P = TypeVar("P", cells.LSTMParameters, cells.GRUParameters)
Head = Literal["softmax", "identity"]

LSTM_BLOCKS = {"c": ("W_x", "V_h", "b_x"), **{g: (f"W_{g}", f"V_{g}", f"b_{g}") for g in ("gamma", "phi", "omega")}}
"""Parameters W, V, b of each block of an LSTM."""
GRU_BLOCKS = {"c": ("W_x", "V_h", "b_x"), **{g: (f"W_{g}", f"V_{g}", f"b_{g}") for g in ("z", "r")}}
"""Parameters W, V, b of each block of a GRU."""


@dataclass(frozen=True)
class Slice:
    """What one recursion step sees.

    Attributes:
        now: the quantities of slice t, from :func:`pipeline.theory.cells.forward`.
        x: ``(B, I)`` input of slice t.
        h: ``(B, J)`` hidden state a^h(t-1).
        s: ``(B, J)`` internal cell s(t-1); zeros for a GRU.
        slope: per gate, ``(B, J)`` derivative of the (noisy) gate by its pre-activation (B.30)-(B.32), (C.9)-(C.10).
    """

    now: Mapping[str, Tensor]
    x: Tensor
    h: Tensor
    s: Tensor
    slope: Mapping[str, Tensor]


Step = Callable[[Slice, "P", Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(slice, parameters, source per block, ∂a^h(t-1), ∂s(t-1)) -> (∂a^h(t), ∂s(t))``; a source is ``(B, J, J, N)``."""


def output_error(score: Tensor, target: Tensor, head: Head) -> Tensor:
    """Return ∂E(t)/∂o^y(t): a Σ_k y_k - y for softmax with cross entropy (B.20), 2 (a - y) for identity with (43).

    The paper goes on with Σ_k y_k = 1 in (B.21); noisy targets do not sum to 1, so (B.20) is what holds.

    Args:
        score: ``(B, K)`` o^y.
        target: ``(B, K)`` y.
        head: output neurons.

    Returns:
        ``(B, K)``.
    """
    if head == "softmax":
        return torch.softmax(score, -1) * target.sum(-1, keepdim=True) - target
    return 2 * (score - target)


def lstm_sensitivity(
    at: Slice, p: cells.LSTMParameters, source: Mapping[str, Tensor], dh: Tensor, ds: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance ∂a^h/∂θ and ∂s/∂θ of an LSTM by one slice: (B.34) and (B.36), for any parameter.

    Args:
        at: the slice.
        p: parameters.
        source: δ_jl u_i of each block, 0 for all blocks but the parameter's own.
        dh: ``(B, J, J, N)`` ∂a^h(t-1)/∂θ.
        ds: ``(B, J, J, N)`` ∂s(t-1)/∂θ.

    Returns:
        ∂a^h(t)/∂θ and ∂s(t)/∂θ.
    """
    q, slope = at.now, at.slope
    d_c = source["c"] + _through(p.V_h, dh)
    d_gamma = source["gamma"] + _through(p.V_gamma, dh)
    d_phi = source["phi"] + _through(p.V_phi, dh)
    d_omega = source["omega"] + _through(p.V_omega, dh)
    ds_new = (
        _scale(q["a_c"] * slope["gamma"], d_gamma)
        + _scale(q["a_gamma"] * (1 - q["a_c"].square()), d_c)  # (B.28)
        + _scale(q["a_phi"], ds)
        + _scale(at.s * slope["phi"], d_phi)
    )  # (B.36)
    # (B.34), with the slope of tanh (B.29)
    dh_new = _scale(q["a_omega"] * (1 - q["a_s"].square()), ds_new) + _scale(q["a_s"] * slope["omega"], d_omega)
    return dh_new, ds_new


def gru_sensitivity(
    at: Slice, p: cells.GRUParameters, source: Mapping[str, Tensor], dh: Tensor, ds: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance ∂a^h/∂θ of a GRU by one slice: (C.12), for any parameter.

    Args:
        at: the slice.
        p: parameters.
        source: δ_jl u_i of each block, 0 for all blocks but the parameter's own. The candidate's V^h meets the reset
            gate (C.5), so its source arrives multiplied by a^r.
        dh: ``(B, J, J, N)`` ∂a^h(t-1)/∂θ.
        ds: passed through; a GRU has no internal cell.

    Returns:
        ∂a^h(t)/∂θ and ``ds``.
    """
    q, slope = at.now, at.slope
    d_z = source["z"] + _through(p.V_z, dh)
    d_r = source["r"] + _through(p.V_r, dh)
    d_c = source["c"] + _scale(q["a_r"], _through(p.V_h, dh)) + _scale(q["v"] * slope["r"], d_r)  # of (C.5)
    dh_new = (
        _scale(1 - q["a_z"], dh)
        - _scale((at.h - q["a_c"]) * slope["z"], d_z)
        + _scale(q["a_z"] * (1 - q["a_c"].square()), d_c)
    )  # (C.12)
    return dh_new, ds


def _through(V: Tensor, dh: Tensor) -> Tensor:
    """Return Σ_m v_lm ∂a^h_m."""
    return torch.einsum("lm,bmji->blji", V, dh)


def _scale(by: Tensor, sensitivity: Tensor) -> Tensor:
    """Multiply unit l's sensitivity by ``by`` ``(B, J)``."""
    return by[:, :, None, None] * sensitivity


def _slope(name: str, now: Mapping[str, Tensor], increment: Tensor | None, mode: cells.Mode) -> Tensor:
    """Return the derivative of a gate, noisy or not, by its pre-activation."""
    g = torch.sigmoid(now[f"o_{name}"])
    slope = g * (1 - g)
    return slope if increment is None or mode == "additive" else slope * (1 + increment)


def sensitivity_gradient(
    slices: Sequence[Slice],
    errors: Sequence[Tensor],
    p: P,
    block: str,
    inputs: Callable[[Slice], Tensor],
    step: Step[P],
) -> Tensor:
    """Return ∂E/∂θ of one parameter by its forward recursion: Σ_t Σ_l ∂E(t)/∂a^h_l(t) ∂a^h_l(t)/∂θ (B.38), (C.15).

    Args:
        slices: t = 1 … T.
        errors: ``(B, J)`` per slice, ∂E(t)/∂a^h(t) (B.26).
        p: all parameters.
        block: the parameter's block.
        inputs: slice → ``(B, N)`` u, what the parameter multiplies.
        step: the recursion.

    Returns:
        ``(J, N)``.
    """
    blocks = LSTM_BLOCKS if isinstance(p, cells.LSTMParameters) else GRU_BLOCKS
    delta = torch.eye(len(p.V_h), dtype=p.V_h.dtype)
    dh = ds = p.V_h.new_zeros(())
    total = p.V_h.new_zeros(())
    for at, error in zip(slices, errors, strict=True):
        own = torch.einsum("lj,bi->blji", delta, inputs(at))
        if block == "c" and isinstance(p, cells.GRUParameters) and inputs is _state:
            own = _scale(at.now["a_r"], own)
        source = {name: own if name == block else torch.zeros_like(own) for name in blocks}
        # Initial conditions: a^h(0) = s(0) = 0 whatever the parameters, (B.37) and its kin.
        dh, ds = (dh, ds) if dh.dim() else (torch.zeros_like(own), torch.zeros_like(own))
        dh, ds = step(at, p, source, dh, ds)
        total = total + torch.einsum("bl,blji->ji", error, dh)
    return total


def _input(at: Slice) -> Tensor:
    return at.x


def _state(at: Slice) -> Tensor:
    return at.h


def _one(at: Slice) -> Tensor:
    return torch.ones_like(at.x[:, :1])


def slices_and_errors(
    x: Tensor,
    target: Tensor,
    p: P,
    head: Head,
    t0: int,
    increments: list[tuple[Tensor, ...]] | None = None,
    mode: cells.Mode = "additive",
) -> tuple[list[Slice], list[Tensor]]:
    """Run the forward pass and return every slice with its ∂E(t)/∂o^y(t), 0 before t0.

    Args:
        x: ``(T, B, I)``.
        target: ``(T, B, K)``.
        p: parameters.
        head: output neurons.
        t0: first slice with a target, 1-based.
        increments: per slice, δ per gate, in the order of :mod:`pipeline.theory.cells`.
        mode: how increments enter.

    Returns:
        T slices and T tensors ``(B, K)``.
    """
    gates = ("gamma", "phi", "omega") if isinstance(p, cells.LSTMParameters) else ("z", "r")
    steps = cells.forward(x, p, increments, mode)
    zero = x.new_zeros(x.shape[1], len(p.V_h))
    slices, errors = [], []
    for t, now in enumerate(steps):
        before: Mapping[str, Tensor] = steps[t - 1] if t else {"a_h": zero, "s": zero}
        delta = (None,) * len(gates) if increments is None else increments[t]
        slope = {name: _slope(name, now, each, mode) for name, each in zip(gates, delta, strict=True)}
        slices.append(Slice(now, x[t], before["a_h"], before.get("s", zero), slope))
        error = output_error(now["o_y"], target[t], head)
        errors.append(error if t + 1 >= t0 else torch.zeros_like(error))
    return slices, errors


def gradients(
    x: Tensor,
    target: Tensor,
    p: P,
    head: Head,
    t0: int,
    increments: list[tuple[Tensor, ...]] | None = None,
    mode: cells.Mode = "additive",
) -> P:
    """Return ∂E/∂θ of every parameter by the recursions of Appendix B.2 or C.2, forward in time.

    E is that of :func:`pipeline.theory.cells.error`: cross entropy (39) or squared error (43), summed over slices
    t0 … T and the batch. Use double precision.

    Args:
        x: ``(T, B, I)``.
        target: ``(T, B, K)``; noisy targets are welcome.
        p: parameters, which also choose the cell.
        head: ``softmax`` (39) or ``identity`` (43).
        t0: first slice with a target, 1-based.
        increments: gate noise, constant for the gradient: per slice, δ per gate.
        mode: how increments enter.

    Returns:
        The gradients, in the parameters' own type and shapes.

    Raises:
        ValueError: ``t0`` is no slice.
    """
    if not 1 <= t0 <= len(x):
        raise ValueError(f"expected t0 between 1 and {len(x)} (the number of slices), found {t0}")
    slices, errors = slices_and_errors(x, target, p, head, t0, increments, mode)
    found = {
        "U_y": sum((e.T @ at.now["a_h"] for at, e in zip(slices, errors, strict=True)), torch.zeros_like(p.U_y)),
        "b_y": sum((e.sum(0) for e in errors), torch.zeros_like(p.b_y)),
    }  # (B.22), (B.23)
    hidden = [e @ p.U_y for e in errors]  # (B.26)
    lstm = isinstance(p, cells.LSTMParameters)
    step: Step[P] = lstm_sensitivity if lstm else gru_sensitivity  # type: ignore[assignment]
    for block, names in (LSTM_BLOCKS if lstm else GRU_BLOCKS).items():
        for name, inputs in zip(names, (_input, _state, _one), strict=True):
            gradient = sensitivity_gradient(slices, hidden, p, block, inputs, step)
            found[name] = gradient[:, 0] if name.startswith("b_") else gradient
    return type(p)(**{field.name: found[field.name] for field in fields(p)})
