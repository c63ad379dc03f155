"""The gradients of recurrent backpropagation as recursions *forward* in time: Appendices B.2 (LSTM) and C.2 (GRU).

The paper writes one pair of recursions per parameter. They are one recursion with different *sources*. For the
weights θ of a block g (the candidate c, or a gate) the pre-activation of unit l moves by

    ∂o^g_l/∂θ_ji = δ_jl u_i + Σ_m v^g_lm ∂a^h_m(t-1)/∂θ_ji,        u = x (W), a^h(t-1) (V) or 1 (b),

and every other block has the sum alone. The printed ones for W, b and V are, of the LSTM, (B.33)-(B.47) of the input
gate γ, (B.48)-(B.60) of the forget gate φ, (B.61)-(B.76) of the output gate ω and (B.77)-(B.93) of the candidate; of
the GRU, (C.11)-(C.24) of the candidate, (C.25)-(C.33) of the reset gate r and (C.34)-(C.43) of the update gate z.

Many of them are misprinted, most often by a missing δ_jl: ``docs/errata.md`` lists each with what is right, and
``tests/nem/theory/test_recursions.py`` puts each printed equation in place of the right one. Memory grows as B·J·J·(I
+ J + 1), which is why training goes backward in time instead; this is a reference. The cells are those of
:mod:`nem.cells`, here with the paper's parameters and one network.

Shapes: T slices, B batch, I inputs, J hidden units, K outputs; a sensitivity ∂a_l/∂θ_ji is ``(B, J, J, N)`` with axes
(batch, l, j, i) and N = I, J or 1.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from nem import cells
from nem.conditions import Mode
from nem.names import Head

GATES = ("gamma", "phi", "omega", "z", "r")
"""The LSTM's input, forget and output gate; the GRU's update and reset gate."""
Parameters = SimpleNamespace
"""Of the candidate ``W_x`` ``(J, I)``, ``V_h`` ``(J, J)``, ``b_x`` ``(J,)``; of each gate the same (``W_gamma``,
``V_gamma``, ``b_gamma``), whose names tell the cell; of the output neurons ``U_y`` ``(K, J)`` and ``b_y`` ``(K,)``.
"""


def blocks(p: Parameters) -> dict[str, tuple[str, str, str]]:
    """Return the names of W, V and b of each block of the cell, the candidate ``c`` last."""
    gates = [gate for gate in GATES if hasattr(p, f"W_{gate}")]
    return {gate: (f"W_{gate}", f"V_{gate}", f"b_{gate}") for gate in gates} | {"c": ("W_x", "V_h", "b_x")}


def step(p: Parameters, x: Tensor, h: Tensor, s: Tensor, gates: cells.Gates = cells.clean) -> dict[str, Tensor]:
    """Advance a cell by one slice, from x ``(B, I)``, a^h(t-1) ``(B, J)`` and, for an LSTM, s(t-1) ``(B, J)``.

    ``gates`` is what pre-activations ``(n, J, B)`` become, as in :mod:`nem.cells`; it may add leading axes. Returns
    every quantity of (B.1)-(B.12) or (C.1)-(C.7) by its name, ``(..., B, J)``, and ``o_y``, ``(..., B, K)``.
    """
    W, V, b = (torch.cat([getattr(p, name) for name in names]) for names in zip(*blocks(p).values(), strict=True))
    u, v = W @ x.T + b[:, None], V @ h.T
    lstm = hasattr(p, "W_gamma")  # of a GRU's inputs, the candidate's come first
    now = cells.lstm_step(u, v, s.T, gates) if lstm else cells.gru_step(u.roll(h.shape[-1], 0), v, h.T, gates)
    quantities = {name: value.mT for name, value in vars(now).items()}
    return quantities | {"o_y": quantities["a_h"] @ p.U_y.T + p.b_y}  # (B.12)


def forward(x: Tensor, p: Parameters, increments: Sequence[Sequence[Tensor]] | None = None, mode: Mode = "additive"
            ) -> list[dict[str, Tensor]]:  # fmt: skip
    """Run a cell over ``x`` ``(T, B, I)`` from zero states; return the quantities of each slice (:func:`step`).

    ``increments`` is gate noise decided elsewhere, per slice and gate δ ``(B, J)``: g + δ (additive) or g∘(1 + δ).
    """
    h = s = x.new_zeros(x.shape[1], len(p.V_h))
    steps = []
    for t, now in enumerate(x):
        gates = cells.clean if increments is None else partial(_noisy, increments[t], mode)
        steps.append(step(p, now, h, s, gates))
        h, s = steps[-1]["a_h"], steps[-1].get("s", s)
    return steps


def _noisy(increments: Sequence[Tensor], mode: Mode, logit: Tensor) -> Sequence[Tensor]:
    """Return the gates that pre-activations become, with increments."""
    pairs = zip(torch.sigmoid(logit).unbind(-3), increments, strict=True)
    return [g + delta.T if mode == "additive" else g * (1 + delta.T) for g, delta in pairs]


class Slice(NamedTuple):
    """What one recursion step sees of slice t."""

    now: Mapping[str, Tensor]  # quantities, see :func:`step`
    x: Tensor  # (B, I) input
    h: Tensor  # (B, J) a^h(t-1)
    s: Tensor  # (B, J) s(t-1), zeros for a GRU
    slope: Mapping[str, Tensor]  # each gate's derivative by its pre-activation (B.30)-(B.32), (C.9)-(C.10)


Step = Callable[[Slice, Parameters, Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(slice, parameters, source, ∂a^h(t-1)/∂θ, ∂s(t-1)/∂θ) -> (∂a^h(t)/∂θ, ∂s(t)/∂θ)``, all ``(B, J, J, N)``.

The source of a block is δ_jl u_i, 0 for all blocks but the parameter's own.
"""


def output_error(score: Tensor, target: Tensor, head: Head) -> Tensor:
    """Return ∂E(t)/∂o^y(t), ``(B, K)``: a Σ_k y_k - y for softmax (39), 2 (a - y) for identity (43).

    Of logistic outputs it is a - y. The paper goes on with Σ_k y_k = 1 in (B.21); noisy targets do not sum to 1, so
    (B.20) is what holds.
    """
    if head == "softmax":
        return torch.softmax(score, -1) * target.sum(-1, keepdim=True) - target
    if head == "logistic":
        return torch.sigmoid(score) - target
    return 2 * (score - target)


def lstm_sensitivity(at: Slice, p: Parameters, source: Mapping[str, Tensor], dh: Tensor, ds: Tensor
                     ) -> tuple[Tensor, Tensor]:  # fmt: skip
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


def gru_sensitivity(at: Slice, p: Parameters, source: Mapping[str, Tensor], dh: Tensor, ds: Tensor
                    ) -> tuple[Tensor, Tensor]:  # fmt: skip
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


def sensitivity_gradient(slices: Sequence[Slice], errors: Sequence[Tensor], p: Parameters, name: str, advance: Step
                         ) -> Tensor:  # fmt: skip
    """Return ∂E/∂θ of one parameter by its forward recursion: Σ_t Σ_l ∂E(t)/∂a^h_l(t) ∂a^h_l(t)/∂θ (B.38), (C.15).

    ``errors`` are ∂E(t)/∂a^h(t) ``(B, J)`` (B.26) of the slices 1 … T; ``name`` is that of the parameter, no output
    weight's, ``advance`` the recursion. The gradient has the parameter's shape.
    """
    weight: Tensor = getattr(p, name)
    delta = torch.eye(len(weight), dtype=weight.dtype)
    # a^h(0) = s(0) = 0 whatever the parameters: (B.37) and its kin.
    dh = ds = weight.new_zeros(len(slices[0].x), *delta.shape, weight[0].numel())
    total = torch.zeros_like(dh[0, 0])
    for at, error in zip(slices, errors, strict=True):
        u = {"W": at.x, "V": at.h, "b": torch.ones_like(at.x[:, :1])}[name[0]]
        own = torch.einsum("lj,bi->blji", delta, u)
        if name == "V_h" and "a_r" in at.now:
            own = _scale(at.now["a_r"], own)
        source = {block: own if name in names else torch.zeros_like(own) for block, names in blocks(p).items()}
        dh, ds = advance(at, p, source, dh, ds)
        total = total + torch.einsum("bl,blji->ji", error, dh)
    return total.view_as(weight)


def slices_of(steps: Sequence[Mapping[str, Tensor]], x: Tensor, mode: Mode = "additive") -> list[Slice]:
    """Return what each recursion step sees of :func:`forward` over ``x``, with noise of this mode in the gates."""
    zero = torch.zeros_like(steps[0]["a_h"])
    slices = []
    for now, before, u in zip(steps, [{"a_h": zero}, *steps], x, strict=False):
        clean = {name: torch.sigmoid(now[f"o_{name}"]) for name in GATES if f"o_{name}" in now}
        # Multiplicative noise scales the slope as it scales the gate, g∘(1 + δ)/g; additive noise leaves it alone.
        noisy = {name: now[f"a_{name}"] if mode == "multiplicative" else g for name, g in clean.items()}
        slope = {name: noisy[name] * (1 - g) for name, g in clean.items()}
        slices.append(Slice(now, u, before["a_h"], before.get("s", zero), slope))
    return slices


def gradients(x: Tensor, target: Tensor, p: Parameters, head: Head, t0: int,
              increments: Sequence[Sequence[Tensor]] | None = None, mode: Mode = "additive") -> Parameters:  # fmt: skip
    """Return ∂E/∂θ of every parameter by the recursions of Appendix B.2 or C.2, forward in time.

    E is the cross entropy (39) of a ``softmax`` head, the squared error (43) of an ``identity`` one or the double cross
    entropy of a ``logistic`` one, summed over the batch and slices t0 … T, 1-based; a ValueError if t0 is no slice.
    ``x`` is ``(T, B, I)``, ``target`` ``(T, B, K)``, noisy ones are welcome. Gate noise is that of :func:`forward`,
    constant for the gradient. Use double precision.
    """
    if not 1 <= t0 <= len(x):
        raise ValueError(f"expected t0 between 1 and {len(x)} (the number of slices), found {t0}")
    steps = forward(x, p, increments, mode)
    errors = output_error(torch.stack([now["o_y"] for now in steps]), target, head)
    errors[: t0 - 1] = 0
    hidden, slices = list(errors @ p.U_y), slices_of(steps, x, mode)  # (B.26)
    advance = lstm_sensitivity if hasattr(p, "W_gamma") else gru_sensitivity
    names = [name for block in blocks(p).values() for name in block]
    gradient = {name: sensitivity_gradient(slices, hidden, p, name, advance) for name in names}
    output = torch.einsum("tbk,tbj->kj", errors, torch.stack([now["a_h"] for now in steps]))  # (B.22)
    return Parameters(**gradient, U_y=output, b_y=errors.sum((0, 1)))  # (B.23)
