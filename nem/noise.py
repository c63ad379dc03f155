"""Noise, how it fades, and the one place where it meets a signal: Algorithm 1 of the paper.

Notation of Section 5: ``y`` is a target, ``a`` an output activation, ``g`` a gate's activation, ``z`` its Bernoulli
latent. Additive noise n ~ N(0, σ²I) moves a signal s to s + n, multiplicative noise n ~ N(1, σ²I) to s∘n. Written as
*increments*, with standard normal draws ε:

- output neurons: Δ = σ ε (additive) or σ y∘ε (multiplicative). The gain is Σ_k Δ_k log a_k for softmax (Theorem 2,
  Corollary 1), ‖y - a‖² - ‖y + Δ - a‖² for identity neurons (Theorem 3, Corollary 2) and Σ_k Δ_k logit a_k for
  logistic neurons, which are independent Bernoulli variables.
  With any other combination φ of signal and noise, Δ = φ(y, σ ε) - y.
- gates: g + δ or g∘(1 + δ) with δ = σ ε. The gain is Σ_j δ_j logit g_j (Theorems 4, 5) or Σ_j z_j δ_j logit g_j
  (Corollaries 3, 4). With noise in what a gate receives, o + δ or o∘(1 + δ), the gate moves from g to g′, and the gain
  is Σ_j (g′_j - g_j) logit g_j. With any other φ the gate moves to φ(g, δ), and the gain is
  Σ_j (φ(z_j, δ_j) - z_j) logit g_j.

:func:`decide` is Algorithm 1: draw once, inject where the gain is not negative, elsewhere inject nothing. The two
signals, :class:`OutputNoise` and :class:`GateNoise`, decide nothing. Both treat all networks of a stack at once, along
an axis C. These receive the *same* draws, which a network only scales, tests and masks: differences between networks
are paired, and none depends on which others run beside it.

Shapes: G groups, C networks per group, n gates, J hidden units, K outputs, S target slices, B batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from nem.conditions import MODES, Kind, Mode
from nem.densities import Density, checked
from nem.names import Granularity, Head, Injection, Latent, OutputTest
from nem.theory import expected_ball_noise, expected_halfspace_noise

Stream = Literal["normal", "test", "uniform"]
Combination = Callable[[Tensor, Tensor], Tensor]
"""φ(signal, noise), noise centred and scaled by σ: a mode besides the paper's two, which are s + n and s∘(1 + n)."""


def combined(mode: Combination, signal: Tensor, noise: Tensor) -> Tensor:
    """Return φ(signal, noise); a ValueError says that it has not their shape."""
    found, right = mode(signal, noise), torch.broadcast_shapes(signal.shape, noise.shape)
    if not isinstance(found, Tensor) or found.shape != right:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"expected the mode, a function, to return a tensor of shape {tuple(right)}, as it is given, "
                         f"found {shape}; let it treat each element by itself")  # fmt: skip
    return found


def annealed(sigma: float, decay: float, epoch: int) -> float:
    """Return the standard deviation after ``epoch`` finished epochs: σ / (1 + epoch)^decay.

    The paper leaves annealing open. This schedule contains constant noise (decay 0) and the earlier NEM experiments
    of the same group (variance falling as 1/epoch², decay 1). A ValueError refuses negative and non-finite arguments.
    """
    for name, value in (("sigma", sigma), ("decay", decay), ("epoch", epoch)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"expected {name} to be finite and not negative, found {value}")
    return float(sigma / (1.0 + epoch) ** decay)


EXPECTED: dict[Kind, int] = {"expected-nem": 1, "expected-reversed-nem": -1}
"""Kinds without draws, as multiples of NEM noise's mean: draws have mean 0, so what NEM refuses has minus its mean."""


@dataclass(frozen=True)
class Noise:
    """A source of noise for one layer of one network.

    Its mode is ``additive``, ``multiplicative`` or a function φ(signal, noise) of tensors of one shape, differentiable
    where it is to enter gates; the NEM test is then log p(φ) - log p(signal) >= 0. Unknown names, negative numbers, and
    expected noise without a closed form are a ValueError: there is one for the Gaussian density alone.
    """

    kind: Kind
    mode: Mode | Combination
    sigma: float  # scale in epoch 0, in units of the signal: the standard deviation, but see :mod:`nem.densities`
    decay: float = 0.0  # exponent of :func:`annealed`
    density: Density = "gaussian"

    def __post_init__(self) -> None:
        kinds = [kind for kind in get_args(Kind)[1:] if kind != "expected-blind"]  # a penalty, no noise
        for value, known in ((self.kind, kinds), (self.mode, MODES)):
            if value not in known and not (known is MODES and callable(value)):
                raise ValueError(f"expected {', '.join(known[:-1])} or {known[-1]}, found {value!r}")
        annealed(self.sigma, self.decay, 0)
        _closed_form(self.kind, self.mode, checked(self.density))

    def at(self, epoch: int) -> float:
        """Return the standard deviation in ``epoch``."""
        return annealed(self.sigma, self.decay, epoch)


def _closed_form(kind: Kind, mode: object, density: Density) -> None:
    """Raise a ValueError where expected noise has no closed form."""
    if kind in EXPECTED and (density != "gaussian" or callable(mode)):
        raise ValueError(
            f"expected Gaussian noise, additive or multiplicative, for the kind {kind!r}, which is its mean in closed "
            f"form; found mode {mode!r} and density {density!r}; use kind {kind.removeprefix('expected-')!r}"
        )


@dataclass(frozen=True)
class Draws:
    """All that is random or scheduled about a layer's noise in one pass, the same for all networks of a group.

    Shapes are ``(S, G, 1, K, B)`` for outputs and ``(T, G, 1, n, J, B)`` for the gates of all slices.
    """

    sigma: Tensor  # (C,) scales now, or (G, C) where groups have their own
    normal: Tensor | None  # draws ε of scale 1, standard normal by default, where any noise is random
    test: Tensor | None = None  # the same, independent: what ``matched`` noise tests
    uniform: Tensor | None = None  # uniform draws for sampled latents
    accepted: Tensor | None = None  # (T, G, C, n, 1 or J, B) decided before, and not by these draws

    def at(self, t: int) -> "Draws":
        """Return the draws of slice ``t``."""
        return self.map(lambda values: values[t])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        """Return draws whose tensors are changed, all but σ."""
        given = (self.normal, self.test, self.uniform, self.accepted)
        return Draws(self.sigma, *(None if values is None else change(values) for values in given))


@dataclass(frozen=True)
class LayerNoise:
    """Which noise enters one layer of C networks that train side by side; the base of the two signals.

    One test decides on a ``slice`` (Algorithm 1: a layer at one time slice), on a ``neuron``, or on all slices
    (``time``: the sums over t of (79)-(89) as printed). A ValueError says that kinds and modes do not fit together,
    that expected noise is asked for a test over all slices, whose mean no slice knows, or has no closed form, or that a
    kind is no noise. Draws may have any density (:mod:`nem.densities`); expected noise is the mean of Gaussian ones.
    """

    kinds: tuple[Kind, ...]  # per network; ``none`` where the layer receives no noise
    modes: tuple[Mode | Combination | None, ...]  # per network; ``None`` with kind ``none``
    granularity: Granularity = "slice"
    grouped: bool = field(default=False, kw_only=True)  # networks lie along the axis of groups, with one in each
    _columns: dict[object, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    AXES: ClassVar[int] = 2
    """Axes of a signal after that of the networks."""

    def __post_init__(self) -> None:
        if [kind == "none" for kind in self.kinds] != [mode is None for mode in self.modes]:
            raise ValueError(f"expected a mode for every kind but 'none', found {self.kinds} with {self.modes}")
        if "expected-blind" in self.kinds:
            raise ValueError("expected noise, found kind 'expected-blind', a penalty; use nem.stack.penalise")
        if self.granularity == "time" and self.expected:
            raise ValueError("expected granularity slice or neuron for expected noise, found 'time'; use one of these")
        for kind, mode in zip(self.kinds, self.modes, strict=True):
            _closed_form(kind, mode, "gaussian")

    def __len__(self) -> int:
        """Number of networks."""
        return len(self.kinds)

    @property
    def expected(self) -> bool:
        """Whether any network has a mean effect in place of noise."""
        return not EXPECTED.keys().isdisjoint(self.kinds)

    @property
    def random(self) -> bool:
        """Whether any network needs draws: mean effects do not."""
        return any(kind != "none" and kind not in EXPECTED for kind in self.kinds)

    @property
    def columns(self) -> int:
        """Networks along the signal's axis C that have this noise."""
        return 1 if self.grouped else len(self)

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """The functions among the modes."""
        return tuple(mode for mode in dict.fromkeys(self.modes) if callable(mode))

    def draws(self, sigma: Tensor, sample: Callable[[Stream], Tensor]) -> Draws:
        """Return the draws that this layer needs, each from ``sample(name)``, in the order of :class:`Draws`."""
        normal = sample("normal") if self.random else None
        return Draws(sigma, normal, sample("test") if "matched" in self.kinds else None)

    def scale(self, values: Tensor) -> Tensor:
        """Return one value per network, ``(C,)`` or ``(G, C)``, shaped to broadcast over the signal."""
        return values.view(*values.shape, *(1,) * (self.AXES + self.grouped))

    def vectors(self, values: Tensor) -> Tensor:
        """Return values ``(…, K, B)`` with what one test decides on as their last axis: a layer or a neuron."""
        return values.unsqueeze(-1) if self.granularity == "neuron" else values.transpose(-1, -2)

    def neurons(self, vectors: Tensor) -> Tensor:
        """Undo :meth:`vectors`."""
        return vectors.squeeze(-1) if self.granularity == "neuron" else vectors.transpose(-1, -2)

    def with_means(self, increment: Tensor, mean: Callable[[], Tensor]) -> Tensor:
        """Return increments with those of expected noise in place, from the ``mean`` of NEM noise."""
        chosen = [kind for kind in EXPECTED if kind in self.kinds]
        accepted = mean() if chosen else increment
        for kind in chosen:
            increment = torch.where(self.where(kind, increment), EXPECTED[kind] * accepted, increment)
        return increment

    def where(self, axis: Kind | Mode | Combination, like: Tensor) -> Tensor:
        """Return which networks are of a kind or mode, as booleans shaped to broadcast over the signal."""
        key = (axis, like.device)
        if key not in self._columns:
            chosen = [axis in pair for pair in zip(self.kinds, self.modes, strict=True)]
            self._columns[key] = self.scale(torch.tensor(chosen, device=like.device))
        return self._columns[key]


def decide(layer: LayerNoise, gain: Callable[[Tensor], Tensor], draws: Draws, like: Tensor) -> Tensor:
    """Return which draws are injected: Algorithm 1, for all networks of a stack.

    ``nem`` noise is injected where its gain is not negative, ``reversed-nem`` noise where it is not positive,
    ``matched`` noise where the gain of an independent draw is not negative, all other noise always. A ValueError says
    which draws are missing.

    Args:
        layer: the networks.
        gain: draws -> each neuron's part of their log-likelihood gain, ``(…, C, K, B)``, up to a positive factor. Parts
            are summed over the layer's neurons; for granularity ``time`` over the first axis too.
        draws: the draws.
        like: a signal ``(…, C, K, B)``.

    Returns:
        Booleans, ``(…, C, 1, B)``, or ``(…, C, K, B)`` for granularity ``neuron``.
    """

    def gained(draw: Tensor) -> Tensor:
        total = gain(draw)
        if layer.granularity != "neuron":
            total = total.sum(-2, keepdim=True)
        if layer.granularity == "time":
            total = total.sum(0, keepdim=True).expand_as(total)
        return total

    if draws.normal is None:
        if layer.random:
            raise ValueError("expected standard normal draws for random noise, found None; pass Draws(normal=...)")
        shape = like.shape if layer.granularity == "neuron" else (*like.shape[:-2], 1, like.shape[-1])
        return torch.ones(shape, dtype=torch.bool, device=like.device)
    total = gained(draws.normal)
    accepted = (total >= 0) | ~layer.where("nem", like)
    if "reversed-nem" in layer.kinds:
        accepted &= (total <= 0) | ~layer.where("reversed-nem", like)
    if "matched" in layer.kinds:
        if draws.test is None:
            raise ValueError("expected an independent draw for matched noise, found None; pass Draws(test=...)")
        accepted = torch.where(layer.where("matched", like), gained(draws.test) >= 0, accepted)
    return accepted


@dataclass(frozen=True)
class OutputNoise(LayerNoise):
    """Noise in the targets of the output neurons of C networks (Theorems 2, 3; Corollaries 1, 2).

    ``test`` is what identity neurons test multiplicative noise by: its likelihood, or (49) as printed, -nᵀ(2y + 2n - a)
    for the gain, with n = 1 + σ ε (``printed``) or n = σ ε (``printed-centred``, the mean 0 of the text beside
    Figure 6). What is injected is y∘(1 + σ ε) in each case. Its mean has no closed form: with expected noise it is a
    ValueError.
    """

    test: OutputTest = "likelihood"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test != "likelihood" and self.expected:
            raise ValueError(f"expected the test 'likelihood' for expected noise, found {self.test!r}; use it")

    def increments(self, head: Head, target: Tensor, activation: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return what is added to the targets, ``(S, G, C, K, B)``, and the mask of :func:`decide`.

        Clean targets y are ``(S, G, 1, K, B)``, and so are draws, whose σ is 0 where the output receives no noise;
        activations are ``(S, G, C, K, B)``: log a for ``softmax``, a for ``identity``, logit a for ``logistic``.

        Raises:
            ValueError: draws that the stack needs are missing, or expected noise has no closed form here.
        """
        sigma = self.scale(draws.sigma)
        # Multiplicative noise is additive noise whose strength is the target's.
        strength = torch.where(self.where("multiplicative", target), target, torch.ones_like(target))
        lever = sigma * strength

        def moved(draw: Tensor) -> Tensor:
            delta = lever * draw
            for combine in self.combinations:
                own = combined(combine, target, sigma * draw) - target
                delta = torch.where(self.where(combine, target), own, delta)
            return delta

        drawn = None if draws.normal is None else moved(draws.normal)

        def gain(draw: Tensor) -> Tensor:
            delta = drawn if draw is draws.normal and drawn is not None else moved(draw)
            if head != "identity":
                return delta * activation
            residual = target - activation
            gain = residual.square() - (residual + delta).square()
            if self.test == "likelihood":
                return gain
            n = sigma * draw + (self.test == "printed")
            printed = -n * (2 * target + 2 * n - activation)  # (49)
            return torch.where(self.where("multiplicative", target), printed, gain)

        accepted = decide(self, gain, draws, activation)
        increment = torch.zeros_like(activation) if drawn is None else torch.where(accepted, drawn, 0.0)
        return self.with_means(increment, lambda: self._expected(head, target, activation, sigma, strength)), accepted

    def _expected(self, head: Head, target: Tensor, activation: Tensor, sigma: Tensor, lever: Tensor) -> Tensor:
        """Return the mean increment of NEM noise."""
        if head != "identity":
            mean = self.neurons(expected_halfspace_noise(self.vectors(lever * activation), 1.0))
            return lever * (mean * sigma)
        residual, width = (self.vectors(values) for values in (target - activation, sigma * lever.abs()))
        stretched = any(k in EXPECTED and m == "multiplicative" for k, m in zip(self.kinds, self.modes, strict=True))
        if stretched and residual.shape[-1] != 1:
            raise ValueError(
                "expected one output for expected multiplicative noise in a regressor, found "
                f"{residual.shape[-1]}; the mean over an ellipsoid has no closed form: use another condition"
            )
        return self.neurons(expected_ball_noise(residual, width[..., :1]))


@dataclass(frozen=True)
class GateNoise(LayerNoise):
    """Noise in the sigmoid gates of C networks, each gate tested by itself (Theorems 4, 5; Corollaries 3, 4).

    Injection ``forward``: the noisy gate replaces the gate. ``backward``: the forward pass is clean, and every
    occurrence of a gate's activation in the backward recursions is the noisy one (Algorithm 1, read literally).
    ``pre-activation``: noise enters what the gate receives; as the latent z is not what it moves, z is not sampled, and
    the mean of such noise has no closed form: either is a ValueError.
    """

    latent: Latent = "mean-field"  # z of the multiplicative gain: z := g, or ``sampled``: z ~ Bernoulli(g)
    injection: Injection = "forward"
    clamp: bool = False  # clip noisy gates to [0, 1]

    AXES: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.injection == "pre-activation" and (self.expected or self.needs_uniform):
            raise ValueError(
                "expected neither expected noise nor latent 'sampled' with noise in pre-activations, found "
                f"{self.kinds}, {self.latent!r}; use hidden_injection forward"
            )

    @property
    def needs_uniform(self) -> bool:
        """Whether sampled latents need uniform draws."""
        return self.latent == "sampled" and ("multiplicative" in self.modes or bool(self.combinations))

    def draws(self, sigma: Tensor, sample: Callable[[Stream], Tensor]) -> Draws:
        """Return the draws that this layer needs, uniform ones last."""
        plain = super().draws(sigma, sample)
        return replace(plain, uniform=sample("uniform")) if self.needs_uniform else plain

    def increments(self, logit: Tensor, gate: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the increments δ of all gates at a time slice ``(G, C, n, J, B)``, and the mask of :func:`decide`.

        Pre-activations, which are logit g, and gates g have the increments' shape, draws ``(G, 1, n, J, B)``; leading
        axes may be added. A ValueError says which draws are missing.
        """
        direction = logit
        if "multiplicative" in self.modes and self.injection != "pre-activation":
            direction = torch.where(self.where("multiplicative", logit), self._latent(gate, draws) * logit, logit)
        sigma = self.scale(draws.sigma)

        def gain(draw: Tensor) -> Tensor:
            if self.injection == "pre-activation":
                return logit * (self.moved(logit, gate, sigma * draw) - gate)
            total = direction * draw  # its sign does not depend on σ > 0, so the draws are tested unscaled
            for combine in self.combinations:
                z = self._latent(gate, draws)
                total = torch.where(self.where(combine, logit), (combined(combine, z, sigma * draw) - z) * logit, total)
            return total

        accepted = decide(self, gain, draws, logit) if draws.accepted is None else draws.accepted
        increment = torch.zeros_like(logit) if draws.normal is None else accepted * sigma * draws.normal

        def mean() -> Tensor:
            return self.neurons(expected_halfspace_noise(self.vectors(direction), 1.0)) * sigma

        return self.with_means(increment, mean), accepted

    def _latent(self, gate: Tensor, draws: Draws) -> Tensor:
        if self.latent == "mean-field":
            return gate
        if draws.uniform is None:
            raise ValueError("expected uniform draws for latent 'sampled', found None; pass Draws(uniform=...)")
        return (draws.uniform < gate).to(gate.dtype)

    def moved(self, logit: Tensor, gate: Tensor, increment: Tensor, accepted: Tensor | None = None) -> Tensor:
        """Return the noisy gates that :meth:`increments` make, clipped where asked; differentiable in all.

        The mask ``accepted`` says where a mode that is a function is applied: φ(g, 0) may not be g.
        """
        signal = logit if self.injection == "pre-activation" else gate
        if "multiplicative" in self.modes:
            grown = torch.where(self.where("multiplicative", signal), signal * increment, increment)
        else:
            grown = increment
        noisy = signal + grown
        for combine in self.combinations:
            chosen = self.where(combine, signal)
            noisy = torch.where(chosen, combined(combine, signal, increment), noisy)
            noisy = noisy if accepted is None else torch.where(chosen & ~accepted, signal, noisy)
        if self.injection == "pre-activation":
            return torch.sigmoid(noisy)
        return noisy.clamp(0, 1) if self.clamp else noisy


def stacked(
    places: Sequence[tuple[Kind, Mode | Combination | None]],
) -> tuple[tuple[Kind, ...], tuple[Mode | Combination | None, ...]]:
    """Return the kinds and the modes of ``(kind, mode)`` pairs, one per network."""
    return tuple(kind for kind, _ in places), tuple(mode for _, mode in places)
