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
``tests/nem/theory/test_recursions.py`` puts each printed equation in place of the right one. Memory grows as B·J·J·(I
+ J + 1), which is why training goes backward in time instead; this is a reference. The cells are those of
:mod:`nem.cells`, here with the paper's parameters and one network.

Shapes: T slices, B batch, I inputs, J hidden units, K outputs; a sensitivity ∂a_l/∂θ_ji is ``(B, J, J, N)`` with axes
(batch, l, j, i) and N = I, J or 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from nem import cells

Mode = Literal["additive", "multiplicative"]
Head = Literal["softmax", "identity"]
GATES = ("gamma", "phi", "omega", "z", "r")
"""The LSTM's input, forget and output gate; the GRU's update and reset gate."""


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


Parameters = LSTMParameters | GRUParameters
P = TypeVar("P", LSTMParameters, GRUParameters)

BLOCKS = {
    kind: {"c": ("W_x", "V_h", "b_x"), **{g: (f"W_{g}", f"V_{g}", f"b_{g}") for g in gates}}
    for kind, gates in ((LSTMParameters, GATES[:3]), (GRUParameters, GATES[3:]))
}
"""Parameters W, V, b of each block of a cell."""


def step(p: Parameters, x: Tensor, h: Tensor, s: Tensor, gates: cells.Gates = cells.clean) -> dict[str, Tensor]:
    """Advance a cell by one slice.

    Args:
        p: parameters, which also choose the cell.
        x: ``(B, I)`` input.
        h: ``(B, J)`` hidden state a^h(t-1).
        s: ``(B, J)`` internal cell s(t-1); not used by a GRU.
        gates: what pre-activations ``(n, J, B)`` become, as in :mod:`nem.cells`; may add leading axes.

    Returns:
        Every quantity of (B.1)-(B.12) or (C.1)-(C.7) by its name, ``(..., B, J)``, and ``o_y``, ``(..., B, K)``.
    """
    lstm = isinstance(p, LSTMParameters)
    rows, recurrent = (("gamma", "phi", "omega", "c"),) * 2 if lstm else (("c", "z", "r"), ("z", "r", "c"))
    names = BLOCKS[type(p)]
    W, b = (torch.cat([getattr(p, names[block][k]) for block in rows]) for k in (0, 2))
    V = torch.cat([getattr(p, names[block][1]) for block in recurrent])
    u, v = W @ x.T + b[:, None], V @ h.T
    now = cells.lstm_step(u, v, s.T, gates) if lstm else cells.gru_step(u, v, h.T, gates)
    quantities = {name: value.mT for name, value in now._asdict().items()}
    return quantities | {"o_y": quantities["a_h"] @ p.U_y.T + p.b_y}  # (B.12)


def forward(
    x: Tensor, p: Parameters, increments: Sequence[Sequence[Tensor]] | None = None, mode: Mode = "additive"
) -> list[dict[str, Tensor]]:
    """Run a cell over T slices from zero states; one dictionary of quantities (:func:`step`) per slice.

    Args:
        x: ``(T, B, I)``.
        p: parameters, which also choose the cell.
        increments: gate noise decided elsewhere: per slice, ``(B, J)`` δ per gate (γ, φ, ω or z, r).
        mode: how it enters: g + δ (additive) or g∘(1 + δ).
    """
    h = s = x.new_zeros(x.shape[1], len(p.V_h))
    steps = []
    for t, now in enumerate(x):
        gates = cells.clean if increments is None else _noisy(increments[t], mode)
        steps.append(step(p, now, h, s, gates))
        h, s = steps[-1]["a_h"], steps[-1].get("s", s)
    return steps


def _noisy(increments: Sequence[Tensor], mode: Mode) -> cells.Gates:
    """Return what makes gates of pre-activations and adds or multiplies the increments."""

    def gates(logit: Tensor) -> Sequence[Tensor]:
        pairs = zip(torch.sigmoid(logit).unbind(-3), increments, strict=True)
        return [g + delta.T if mode == "additive" else g * (1 + delta.T) for g, delta in pairs]

    return gates


@dataclass(frozen=True)
class Slice:
    """What one recursion step sees of slice t."""

    now: Mapping[str, Tensor]  # quantities, see :func:`step`
    x: Tensor  # (B, I) input
    h: Tensor  # (B, J) a^h(t-1)
    s: Tensor  # (B, J) s(t-1), zeros for a GRU
    slope: Mapping[str, Tensor]  # each gate's derivative by its pre-activation (B.30)-(B.32), (C.9)-(C.10)


Step = Callable[[Slice, P, Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(slice, parameters, source, ∂a^h(t-1)/∂θ, ∂s(t-1)/∂θ) -> (∂a^h(t)/∂θ, ∂s(t)/∂θ)``, all ``(B, J, J, N)``.

The source of a block is δ_jl u_i, 0 for all blocks but the parameter's own.
"""


def output_error(score: Tensor, target: Tensor, head: Head) -> Tensor:
    """Return ∂E(t)/∂o^y(t), ``(B, K)``: a Σ_k y_k - y for softmax (39), 2 (a - y) for identity (43).

    The paper goes on with Σ_k y_k = 1 in (B.21); noisy targets do not sum to 1, so (B.20) is what holds.
    """
    if head == "softmax":
        return torch.softmax(score, -1) * target.sum(-1, keepdim=True) - target
    return 2 * (score - target)


def lstm_sensitivity(
    at: Slice, p: LSTMParameters, source: Mapping[str, Tensor], dh: Tensor, ds: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance ∂a^h/∂θ and ∂s/∂θ of an LSTM by one slice: (B.34) and (B.36), as a :data:`Step`."""
    q, slope = at.now, at.slope
    ds_new = (
        _scale(q["a_c"] * slope["gamma"], source["gamma"] + _through(p.V_gamma, dh))
        + _scale(q["a_gamma"] * (1 - q["a_c"].square()), source["c"] + _through(p.V_h, dh))  # (B.28)
        + _scale(q["a_phi"], ds)
        + _scale(at.s * slope["phi"], source["phi"] + _through(p.V_phi, dh))
    )  # (B.36)
    d_omega = source["omega"] + _through(p.V_omega, dh)
    # (B.34), with the slope of tanh (B.29)
    dh_new = _scale(q["a_omega"] * (1 - q["a_s"].square()), ds_new) + _scale(q["a_s"] * slope["omega"], d_omega)
    return dh_new, ds_new


def gru_sensitivity(
    at: Slice, p: GRUParameters, source: Mapping[str, Tensor], dh: Tensor, ds: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance ∂a^h/∂θ of a GRU by one slice: (C.12), as a :data:`Step`.

    The candidate's V^h meets the reset gate (C.5), so its source arrives multiplied by a^r. A GRU has no internal
    cell: ``ds`` is passed through.
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
    """Return Σ_m v_lm ∂a_m/∂θ."""
    return torch.einsum("lm,bmji->blji", V, dh)


def _scale(by: Tensor, sensitivity: Tensor) -> Tensor:
    """Return a sensitivity times one number per unit, ``(B, J)``."""
    return by[:, :, None, None] * sensitivity


def sensitivity_gradient(
    slices: Sequence[Slice], errors: Sequence[Tensor], p: P, name: str, advance: Step[P]
) -> Tensor:
    """Return ∂E/∂θ of one parameter by its forward recursion: Σ_t Σ_l ∂E(t)/∂a^h_l(t) ∂a^h_l(t)/∂θ (B.38), (C.15).

    Args:
        slices: t = 1 … T.
        errors: ``(B, J)`` per slice, ∂E(t)/∂a^h(t) (B.26).
        p: all parameters.
        name: the parameter's name, no output weight's.
        advance: the recursion.

    Returns:
        ``(J, N)``, or ``(J,)`` of a bias.
    """
    blocks, weight = BLOCKS[type(p)], getattr(p, name)
    block = next(block for block, names in blocks.items() if name in names)
    delta = torch.eye(len(weight), dtype=weight.dtype)
    # a^h(0) = s(0) = 0 whatever the parameters: (B.37) and its kin.
    dh = ds = weight.new_zeros(len(slices[0].x), *delta.shape, weight[0].numel())
    total = torch.zeros_like(dh[0, 0])
    for at, error in zip(slices, errors, strict=True):
        u = {"W": at.x, "V": at.h, "b": torch.ones_like(at.x[:, :1])}[name[0]]
        own = torch.einsum("lj,bi->blji", delta, u)
        if name == "V_h" and isinstance(p, GRUParameters):
            own = _scale(at.now["a_r"], own)
        source = {other: own if other == block else torch.zeros_like(own) for other in blocks}
        dh, ds = advance(at, p, source, dh, ds)
        total = total + torch.einsum("bl,blji->ji", error, dh)
    return total.view_as(weight)


def slices_of(steps: Sequence[Mapping[str, Tensor]], x: Tensor, mode: Mode = "additive") -> list[Slice]:
    """Return what each recursion step sees.

    Args:
        steps: from :func:`forward`.
        x: ``(T, B, I)``.
        mode: how noise entered the gates.
    """
    zero = torch.zeros_like(steps[0]["a_h"])
    slices = []
    for now, before, u in zip(steps, [{"a_h": zero}, *steps], x, strict=False):
        clean = {name: torch.sigmoid(now[f"o_{name}"]) for name in GATES if f"o_{name}" in now}
        # Multiplicative noise scales the slope as it scales the gate, g∘(1 + δ)/g; additive noise leaves it alone.
        noisy = {name: now[f"a_{name}"] if mode == "multiplicative" else g for name, g in clean.items()}
        slope = {name: noisy[name] * (1 - g) for name, g in clean.items()}
        slices.append(Slice(now, u, before["a_h"], before.get("s", zero), slope))
    return slices


def gradients(
    x: Tensor,
    target: Tensor,
    p: P,
    head: Head,
    t0: int,
    increments: Sequence[Sequence[Tensor]] | None = None,
    mode: Mode = "additive",
) -> P:
    """Return ∂E/∂θ of every parameter by the recursions of Appendix B.2 or C.2, forward in time.

    E is the cross entropy (39) or the squared error (43), summed over slices t0 … T and the batch. Use double
    precision.

    Args:
        x: ``(T, B, I)``.
        target: ``(T, B, K)``; noisy targets are welcome.
        p: parameters, which also choose the cell.
        head: ``softmax`` (39) or ``identity`` (43).
        t0: first slice with a target, 1-based.
        increments: gate noise, as in :func:`forward`; constant for the gradient.
        mode: how it enters.

    Returns:
        The gradients, in the parameters' own type and shapes.

    Raises:
        ValueError: ``t0`` is no slice.
    """
    if not 1 <= t0 <= len(x):
        raise ValueError(f"expected t0 between 1 and {len(x)} (the number of slices), found {t0}")
    steps = forward(x, p, increments, mode)
    errors = output_error(torch.stack([now["o_y"] for now in steps]), target, head)
    errors[: t0 - 1] = 0
    hidden = errors @ p.U_y  # (B.26)
    slices = slices_of(steps, x, mode)
    advance: Step[P] = lstm_sensitivity if isinstance(p, LSTMParameters) else gru_sensitivity  # type: ignore[assignment]
    gradient = {
        name: sensitivity_gradient(slices, list(hidden), p, name, advance)
        for names in BLOCKS[type(p)].values()
        for name in names
    }
    output = torch.einsum("tbk,tbj->kj", errors, torch.stack([now["a_h"] for now in steps]))  # (B.22)
    return type(p)(**gradient, U_y=output, b_y=errors.sum((0, 1)))  # (B.23)
