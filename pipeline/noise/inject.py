"""The one place where noise meets a signal: Algorithm 1 of the paper, for one network or for a stack of them.

Both modes are one thing, an *increment*: additive noise moves a signal ``s`` to ``s + n`` and multiplicative noise
to ``s∘n = s + s∘(n - 1)``. Written for increments, Theorem 2 and Corollary 1 are one gain (:math:`Σ_k Δ_k log a_k`),
as are Theorem 3 and Corollary 2 (:math:`‖y - a‖² - ‖y + Δ - a‖²`), and Theorems 4, 5 and Corollaries 3, 4
(:math:`Σ_j Δz_j logit g_j`). NEM noise is noise whose gain is not negative: draw once; where the test passes inject
it, elsewhere inject nothing (no second draw).

The stacked functions treat all noise conditions of a training run at once, with a leading condition axis ``C``.
All of them receive the *same* standard normal draws, which a condition only scales, tests and masks: differences
between conditions are then paired, and one condition's result does not depend on which others run beside it.

Shapes: G groups (repetitions), C conditions, n gates, J hidden units, K outputs, S target slices, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pipeline import theory
from pipeline.conditions import Kind, Mode

Granularity = Literal["slice", "neuron", "time"]
Head = Literal["softmax", "identity"]

_ORDER: dict[Kind, int] = {"nem": 0, "matched": 1, "blind": 2, "expected-nem": 3}


def inject(signal: Tensor, increment: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Add ``increment`` where its log-likelihood gain is not negative (Algorithm 1).

    Args:
        signal: ``(..., K)``.
        increment: ``(..., K)``, noise ``n`` (additive) or ``signal∘(n - 1)`` (multiplicative).
        gain: ``(...)``, one per layer and time slice, from :mod:`pipeline.theory`.

    Returns:
        The noisy signal ``(..., K)`` and the acceptance mask ``(...)``.
    """
    accepted = gain >= 0
    return torch.where(accepted.unsqueeze(-1), signal + increment, signal), accepted


@dataclass(frozen=True)
class _Rows:
    """Slices of the condition axis, by mode and kind; rows must be sorted by :meth:`key`."""

    kinds: tuple[Kind, ...]
    modes: tuple[Mode, ...]
    additive: slice = field(init=False)
    multiplicative: slice = field(init=False)
    groups: dict[tuple[Kind, Mode], slice] = field(init=False)

    @staticmethod
    def key(kind: Kind, mode: Mode) -> tuple[int, int]:
        """Sort key: additive first, then by kind, so that each group is one contiguous slice."""
        return (0 if mode == "additive" else 1, _ORDER[kind])

    def __post_init__(self) -> None:
        """Find the slices.

        Raises:
            ValueError: the rows are not sorted.
        """
        keys = [self.key(k, m) for k, m in zip(self.kinds, self.modes, strict=True)]
        if keys != sorted(keys):
            raise ValueError("expected rows sorted by mode and kind, found another order; sort them with key()")
        count = sum(mode == "additive" for mode in self.modes)
        object.__setattr__(self, "additive", slice(0, count))
        object.__setattr__(self, "multiplicative", slice(count, len(self.modes)))
        groups: dict[tuple[Kind, Mode], slice] = {}
        for row, axis in enumerate(zip(self.kinds, self.modes, strict=True)):
            start = groups[axis].start if axis in groups else row
            groups[axis] = slice(start, row + 1)
        object.__setattr__(self, "groups", groups)

    def has(self, kind: Kind) -> bool:
        """Whether any row is of this kind."""
        return kind in self.kinds


@dataclass(frozen=True)
class GateStack:
    """The gate noise of ``C`` networks that train side by side.

    Attributes:
        kinds: kind per network, sorted with :meth:`sort_key`.
        modes: mode per network.
        latent: ``mean-field`` (z := g) or ``sampled`` (z ~ Bernoulli(g)), for the multiplicative gain.
        granularity: ``slice`` (Algorithm 1), ``neuron``, or ``time`` (the sums over t of (79)-(89) as printed).
        injection: ``forward`` or ``backward``, see DESIGN in ``docs/theory.md``.
        clamp: clip noisy gates to [0, 1].
    """

    kinds: tuple[Kind, ...]
    modes: tuple[Mode, ...]
    latent: Literal["mean-field", "sampled"] = "mean-field"
    granularity: Granularity = "slice"
    injection: Literal["forward", "backward"] = "forward"
    clamp: bool = False
    rows: _Rows = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the slices of each kind and mode."""
        object.__setattr__(self, "rows", _Rows(self.kinds, self.modes))

    def __len__(self) -> int:
        """Number of networks with gate noise."""
        return len(self.kinds)

    sort_key = staticmethod(_Rows.key)

    @property
    def needs_test_draw(self) -> bool:
        """Whether matched noise needs an independent draw to test."""
        return self.rows.has("matched")

    @property
    def needs_uniform(self) -> bool:
        """Whether sampled latents need uniform draws."""
        return self.latent == "sampled" and "multiplicative" in self.modes


def _score_direction(stack: GateStack, mode: Mode, logit: Tensor, gate: Tensor, uniform: Tensor | None) -> Tensor:
    """Return v with gain = Σ_j ε_j v_j up to the factor σ: logit g (79), or z∘logit g (81)."""
    if mode == "additive":
        return logit
    if stack.latent == "mean-field":
        return gate * logit
    if uniform is None:
        raise ValueError("expected uniform draws for latent 'sampled', found None; pass uniform=torch.rand(...)")
    return torch.where(uniform < gate, logit, torch.zeros((), dtype=logit.dtype, device=logit.device))


def gate_acceptance(
    stack: GateStack,
    logit: Tensor,
    gate: Tensor,
    normal: Tensor,
    test_normal: Tensor | None = None,
    uniform: Tensor | None = None,
    *,
    scratch: Tensor | None = None,
) -> Tensor:
    """Return which draws are injected: 1 or 0, of shape ``(G, C, n, 1, B)`` (``(G, C, n, J, B)`` for ``neuron``).

    A gain's sign does not depend on σ > 0, so the standard normal draws are tested themselves.

    Args:
        stack: the networks.
        logit: ``(G, C, n, J, B)`` gate pre-activations.
        gate: ``(G, C, n, J, B)`` gate activations.
        normal: ``(G, 1, n, J, B)`` standard normal draws.
        test_normal: the same, independent, for ``matched`` noise.
        uniform: ``(G, 1, n, J, B)`` uniform draws for sampled latents.
        scratch: ``(G, C, n, J, B)`` buffer to work in; ``None`` takes a new one.
    """
    scratch = torch.empty_like(logit) if scratch is None else scratch
    per_neuron = stack.granularity == "neuron"
    shape = list(logit.shape)
    if not per_neuron:
        shape[-2] = 1
    accepted = logit.new_ones(shape)
    for (kind, mode), rows in stack.rows.groups.items():
        if kind not in ("nem", "matched"):
            continue
        draw = normal if kind == "nem" else test_normal
        if draw is None:
            raise ValueError("expected an independent draw for matched noise, found None; pass test_normal")
        score = scratch[:, rows]
        if mode == "multiplicative" and stack.latent == "mean-field":
            torch.mul(gate[:, rows], logit[:, rows], out=score).mul_(draw)
        else:
            torch.mul(_score_direction(stack, mode, logit[:, rows], gate[:, rows], uniform), draw, out=score)
        if not per_neuron:
            score = score.sum(-2, keepdim=True)
        accepted[:, rows] = (score >= 0).to(accepted.dtype)
    return accepted


def gate_coefficient(stack: GateStack, accepted: Tensor, sigma: Tensor) -> Tensor:
    """Return what the standard normal draws are multiplied by: σ where a draw is injected, 0 elsewhere.

    Args:
        stack: the networks.
        accepted: mask from :func:`gate_acceptance`.
        sigma: ``(C,)`` standard deviations.
    """
    return accepted * sigma.view(1, -1, 1, 1, 1)


def gate_increment(
    stack: GateStack,
    logit: Tensor,
    gate: Tensor,
    sigma: Tensor,
    normal: Tensor | None,
    *,
    test_normal: Tensor | None = None,
    uniform: Tensor | None = None,
    accepted: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the increments of all gates of all networks at one time slice (Theorems 4, 5; Corollaries 3, 4).

    Args:
        stack: the networks' kinds and modes.
        logit: ``(G, C, n, J, B)`` gate pre-activations.
        gate: ``(G, C, n, J, B)`` gate activations, sigmoid(logit).
        sigma: ``(C,)`` standard deviations.
        normal: ``(G, 1, n, J, B)`` standard normal draws; ``None`` is fine where all is ``expected-nem``.
        test_normal: independent draws for ``matched`` noise.
        uniform: uniform draws for sampled latents.
        accepted: a mask decided elsewhere (granularity ``time``); ``None`` tests here.
        out: ``(G, C, n, J, B)`` buffer for the increments; ``None`` takes a new one.

    Returns:
        ``(G, C, n, J, B)`` increments δ: the noisy gate is g + δ (additive) or g∘(1 + δ) (multiplicative); and
        the mask of injected draws.

    Raises:
        ValueError: draws that the stack needs are missing.
    """
    increment = torch.empty_like(logit) if out is None else out
    if normal is None:
        if any(kind != "expected-nem" for kind in stack.kinds):
            raise ValueError(
                "expected standard normal draws for random noise, found None; pass normal=torch.randn(...)"
            )
        accepted = logit.new_ones((*logit.shape[:-2], 1, logit.shape[-1]))
    else:
        if accepted is None:
            accepted = gate_acceptance(stack, logit, gate, normal, test_normal, uniform, scratch=increment)
        torch.mul(gate_coefficient(stack, accepted, sigma), normal, out=increment)
    for (kind, mode), rows in stack.rows.groups.items():
        if kind == "expected-nem":
            direction = _score_direction(stack, mode, logit[:, rows], gate[:, rows], uniform)
            axis = -1 if stack.granularity == "neuron" else -2
            vectors = direction.unsqueeze(-1) if axis == -1 else direction.transpose(-1, -2)
            mean = theory.expected_halfspace_noise(vectors, 1.0)
            mean = mean.squeeze(-1) if axis == -1 else mean.transpose(-1, -2)
            increment[:, rows] = mean * sigma.view(1, -1, 1, 1, 1)[:, rows]
    return increment, accepted


def apply_gate_increment(stack: GateStack, gate: Tensor, increment: Tensor) -> None:
    """Make gates noisy in place: g + δ (additive rows), g∘(1 + δ) (multiplicative rows), clipped where asked.

    Args:
        stack: the networks.
        gate: ``(G, C, n, J, B)``, overwritten.
        increment: ``(G, C, n, J, B)`` from :func:`gate_increment`.
    """
    additive, multiplicative = gate[:, stack.rows.additive], gate[:, stack.rows.multiplicative]
    additive.add_(increment[:, stack.rows.additive])
    multiplicative.addcmul_(multiplicative, increment[:, stack.rows.multiplicative])
    if stack.clamp:
        gate.clamp_(0, 1)


def inject_gate(
    gate: Tensor,
    logit: Tensor,
    normal: Tensor,
    *,
    kind: Kind,
    mode: Mode,
    sigma: float,
    latent: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Inject noise into the gates of one network (Algorithm 1 with the test of Theorem 4 or 5, Corollary 3 or 4).

    Args:
        gate: ``(..., J)`` activations g.
        logit: ``(..., J)`` pre-activations, logit g.
        normal: ``(..., J)`` standard normal draws.
        kind: ``blind`` or ``nem``.
        mode: ``additive`` or ``multiplicative``.
        sigma: standard deviation of the noise.
        latent: ``(..., J)`` z for the multiplicative gain; ``None`` means mean field, z := g.

    Returns:
        The noisy gate ``(..., J)`` and the acceptance mask ``(...)``.

    Raises:
        ValueError: a kind that is not decided draw by draw.
    """
    if kind not in ("blind", "nem"):
        raise ValueError(f"expected kind blind or nem, found {kind!r}; use gate_increment for the others")
    noise = sigma * normal
    increment = noise if mode == "additive" else gate * noise
    if kind == "blind":
        return gate + increment, torch.ones_like(gate[..., 0], dtype=torch.bool)
    weight = noise if mode == "additive" else (gate if latent is None else latent) * noise
    return inject(gate, increment, theory.gate_additive_gain_from_logit(weight, logit))


@dataclass(frozen=True)
class OutputStack:
    """The output noise of ``C`` networks that train side by side, noiseless ones included.

    Attributes:
        kinds: kind per network; ``none`` where the output receives no noise.
        modes: mode per network; ``None`` with kind ``none``.
        granularity: ``slice``, ``neuron`` or ``time``.
    """

    kinds: tuple[Kind, ...]
    modes: tuple[Mode | None, ...]
    granularity: Granularity = "slice"

    @property
    def needs_test_draw(self) -> bool:
        """Whether matched noise needs an independent draw to test."""
        return "matched" in self.kinds

    @property
    def active(self) -> bool:
        """Whether any network receives output noise."""
        return any(kind != "none" for kind in self.kinds)

    def rows(self, kind: Kind, mode: Mode | None = None) -> list[int]:
        """Return the networks of a kind (and mode)."""
        return [
            row
            for row, axis in enumerate(zip(self.kinds, self.modes, strict=True))
            if axis[0] == kind and mode in (None, axis[1])
        ]

    def column(self, values: Sequence[bool], like: Tensor) -> Tensor:
        """Return 0/1 per network, shaped to broadcast over ``(S, G, C, K, B)``."""
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 1, -1, 1, 1)


def output_gain(head: Head, target: Tensor, activation: Tensor, increment: Tensor) -> Tensor:
    """Return each neuron's part of the gain of moving ``target`` by ``increment``; it sums over K to the gain.

    Args:
        head: ``softmax`` (40)-(41) or ``identity`` (48)-(49).
        target: ``(..., K, B)`` clean targets.
        activation: ``(..., K, B)``: log a for ``softmax``, a for ``identity``.
        increment: ``(..., K, B)``.
    """
    if head == "softmax":
        return increment * activation
    residual = target - activation
    return residual.square() - (residual + increment).square()


def output_increment(
    stack: OutputStack,
    head: Head,
    target: Tensor,
    activation: Tensor,
    sigma: Tensor,
    normal: Tensor,
    test_normal: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the increments of all targets of all networks (Theorems 2, 3; Corollaries 1, 2).

    Args:
        stack: the networks' kinds and modes.
        head: ``softmax`` or ``identity``.
        target: ``(S, G, 1, K, B)`` clean targets.
        activation: ``(S, G, C, K, B)``: log a for ``softmax``, a for ``identity``.
        sigma: ``(C,)`` standard deviations, 0 where the output receives no noise.
        normal: ``(S, G, 1, K, B)`` standard normal draws.
        test_normal: independent draws for ``matched`` noise.

    Returns:
        ``(S, G, C, K, B)`` increments and ``(S, G, C, 1 or K, B)`` mask.

    Raises:
        ValueError: draws that the stack needs are missing, or expected noise has no closed form here.
    """
    scale = sigma.view(1, 1, -1, 1, 1)
    multiplicative = stack.column([mode == "multiplicative" for mode in stack.modes], activation)
    # Additive noise scales 1, multiplicative noise scales the target.
    lever = scale * torch.lerp(torch.ones_like(target), target, multiplicative)
    increment = lever * normal

    def test(candidate: Tensor) -> Tensor:
        gain = output_gain(head, target, activation, candidate)
        if stack.granularity != "neuron":
            gain = gain.sum(-2, keepdim=True)
        if stack.granularity == "time":
            gain = gain.sum(0, keepdim=True).expand_as(gain)
        return gain >= 0

    tested = stack.column([kind == "nem" for kind in stack.kinds], activation) > 0
    accepted = test(increment) | ~tested
    if stack.needs_test_draw:
        if test_normal is None:
            raise ValueError("expected an independent draw for matched noise, found None; pass test_normal")
        matched = stack.column([kind == "matched" for kind in stack.kinds], activation) > 0
        accepted = torch.where(matched, test(lever * test_normal), accepted)
    increment = increment * accepted
    for mode in ("additive", "multiplicative"):
        rows = stack.rows("expected-nem", mode)
        if rows:
            increment[:, :, rows] = _expected(head, mode, target, activation[:, :, rows], scale[:, :, rows])
    return increment, accepted


def _expected(head: Head, mode: Mode, target: Tensor, activation: Tensor, scale: Tensor) -> Tensor:
    """Return the mean increment of NEM noise: shapes as in :func:`output_increment`."""
    if head == "softmax":
        normal = activation if mode == "additive" else target * activation
        mean = theory.expected_halfspace_noise(normal.transpose(-1, -2), 1.0).transpose(-1, -2) * scale
        return mean if mode == "additive" else target * mean
    residual = (target - activation).transpose(-1, -2)
    if mode == "multiplicative" and residual.shape[-1] != 1:
        raise ValueError(
            "expected one output for expected-nem-multiplicative noise in a regressor, found "
            f"{residual.shape[-1]}; the mean over an ellipsoid has no closed form"
        )
    width = scale if mode == "additive" else scale * target.abs()
    return theory.expected_ball_noise(residual, width.transpose(-1, -2)).transpose(-1, -2)


def inject_output(
    target: Tensor,
    activation: Tensor,
    normal: Tensor,
    *,
    head: Head,
    kind: Kind,
    mode: Mode,
    sigma: float,
) -> tuple[Tensor, Tensor]:
    """Inject noise into the targets of one network (Algorithm 1 with the test of Theorem 2 or 3, Corollary 1 or 2).

    Args:
        target: ``(..., K)`` clean targets.
        activation: ``(..., K)``: log a for head ``softmax``, a for ``identity``.
        normal: ``(..., K)`` standard normal draws.
        head: output layer.
        kind: ``blind`` or ``nem``.
        mode: ``additive`` or ``multiplicative``.
        sigma: standard deviation of the noise.

    Returns:
        The noisy target ``(..., K)`` and the acceptance mask ``(...)``.

    Raises:
        ValueError: a kind that is not decided draw by draw.
    """
    if kind not in ("blind", "nem"):
        raise ValueError(f"expected kind blind or nem, found {kind!r}; use output_increment for the others")
    noise = sigma * normal
    increment = noise if mode == "additive" else target * noise
    if kind == "blind":
        return target + increment, torch.ones_like(target[..., 0], dtype=torch.bool)
    gain = output_gain(head, target.unsqueeze(-1), activation.unsqueeze(-1), increment.unsqueeze(-1)).sum((-2, -1))
    return inject(target, increment, gain)
