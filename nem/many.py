"""Many networks trained as one: own weights, learning rates, noise and seeds, in a few large operations.

What PyTorch users ask of ``torch.func``, whose ``vmap`` does not go through ``nn.LSTM``: M recurrent networks of one
size in one pass. On a CPU float32 networks run compiled (:mod:`nem.fast`), and each has the same bits whatever trains
beside it, unless that has expected noise; a GPU holds them all in batched products.

    >>> members = [Member(seed=k, learning_rate=rate) for k in range(5) for rate in (0.01, 0.1)]
    >>> stack = Stack(members, cell="lstm", inputs=4, hidden=50, outputs=1, head="identity", optimiser="adam")
    >>> batches = [(torch.randn(8, 4, 4), torch.randn(8, 1)) for _ in range(3)]
    >>> for x, y in batches:  # (B, T, I) and (B, K), seen by all; (M, B, T, I) and (M, B, K), of each its own
    ...     losses = stack.step(x, y)  # (M,)
    >>> best, head = stack.network(int(stack.loss(x, y).argmin()))  # a NoisyLSTM and an nn.Linear

Shapes: M networks, T slices, I inputs, J hidden units, K outputs, B sequences of a batch.
"""

import math
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nem.cells import GATES
from nem.densities import standard
from nem.directions import one_thread
from nem.fast import Workspace
from nem.kernels import LANES
from nem.layers import NoisyGRU, NoisyLSTM
from nem.losses import labels, probabilities
from nem.names import CellName, Granularity, Head, Injection, Latent, OutputDelta
from nem.noise import Draws, GateNoise, LayerNoise, Noise, OutputNoise, Stream, stacked
from nem.stack import (
    Batch,
    Layer,
    Networks,
    OptimiserName,
    Size,
    StackDraws,
    StackNoise,
    activations,
    errors,
    gradients,
    optimiser,
    state_dict,
)


@dataclass(frozen=True)
class Member:
    """One network of a :class:`Stack`; a ValueError refuses a rate that is negative or not finite.

    Members of one ``seed`` start from the same weights and receive the same draws, which only their noise scales and
    tests: that pairs them.
    """

    seed: int = 0
    learning_rate: float = 0.01
    hidden: Noise | None = None  # in the gates
    output: Noise | None = None  # in the targets

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise ValueError(f"expected a learning rate that is finite and not negative, found {self.learning_rate}")
        if self.seed < 0:
            raise ValueError(f"expected a seed that is not negative, found {self.seed}")

    def noise(self, layer: Layer) -> Noise | None:
        """Return the noise of a layer."""
        return self.hidden if layer == "hidden" else self.output


class Options(NamedTuple):
    """What all networks of a :class:`Stack` share besides their size."""

    optimiser: OptimiserName = "sgd"  # update rule: ``sgd``, ``adam`` or ``rmsprop``
    momentum: float = 0.0  # of sgd and rmsprop
    first: int = -1  # first slice with a target, 0-based; negative counts from the end: the last
    granularity: Granularity = "slice"  # this and the next three: :class:`nem.noise.GateNoise`
    latent: Latent = "mean-field"
    injection: Injection = "forward"
    clamp: bool = False
    output_delta: OutputDelta = "loss"  # :func:`nem.stack.error_gradient`
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32


def _layer(members: Sequence[Member], place: Layer, options: Options) -> LayerNoise | None:
    """Return the noise of all networks in one layer, if there is any."""
    noises = [member.noise(place) for member in members]
    if not any(noises):
        return None
    kinds, modes = stacked([(noise.kind, noise.mode) if noise else ("none", None) for noise in noises])
    if place == "output":
        return OutputNoise(kinds, modes, options.granularity, grouped=True)
    return GateNoise(kinds, modes, options.granularity, options.latent, options.injection, options.clamp, grouped=True)


class Stack:
    """M networks of one size that train side by side and share nothing but code.

    Args:
        members: the networks.
        cell: ``lstm`` or ``gru``.
        inputs: I.
        hidden: J.
        outputs: K.
        head: ``identity`` (squared error), ``softmax`` (cross entropy) or ``logistic`` (double cross entropy).
        options: those of :class:`Options`.

    Raises:
        TypeError: another option.
        ValueError: there are no members, a size is below 1, a name is unknown, or options do not fit the noise.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        cell: CellName,
        inputs: int,
        hidden: int,
        outputs: int,
        head: Head,
        **options: Any,  # noqa: ANN401 - those of Options
    ) -> None:
        if unknown := options.keys() - {*Options._fields}:
            raise TypeError(f"expected no options but {', '.join(Options._fields)}, found {', '.join(sorted(unknown))}")
        self.members, self.options, self.epoch = list(members), Options(**options), 0
        if not self.members or min(inputs, hidden, outputs) < 1:
            found = f"{len(self.members)} members, sizes {(inputs, hidden, outputs)}"
            raise ValueError(f"expected at least one member, and sizes of at least 1, found {found}")
        for name, known in ((cell, get_args(CellName)), (head, get_args(Head))):
            if name not in known:
                raise ValueError(f"expected one of {', '.join(known)}, found {name!r}")
        self.head, M = head, len(self.members)
        device, dtype = torch.device(self.options.device), self.options.dtype
        # A network is a group of its own, so that it may have data and draws of its own.
        self.networks = Networks(Size(cell, M, 1, inputs, hidden, outputs), dtype, device)
        for m, member in enumerate(self.members):
            self.networks.initialise(m, _generator(torch.device("cpu"), member.seed, "init"))
        gates, output = (_layer(self.members, place, self.options) for place in ("hidden", "output"))
        self.noise = StackNoise((), gates, output)  # type: ignore[arg-type] # each of its kind
        self.acceptance: dict[str, Tensor] = {}  # ``hidden`` and ``output``, (M,): share that the last step injected
        self._generators: dict[Hashable, torch.Generator] = {}
        self._space = Workspace()
        # Update rules are linear in the learning rate: one rule of rate 1 moves zeros, and each network takes its
        # own multiple of the movement.
        self._moved = torch.zeros_like(self.networks.flat)
        self._moved.grad = self.networks.grad
        self._rule = optimiser(self.options.optimiser, self._moved, 1.0, self.options.momentum)
        self._rates = torch.zeros_like(self.networks.flat)
        for view in self.networks.by_network(self._rates).values():
            for m, member in enumerate(self.members):
                view[m] = member.learning_rate

    def __len__(self) -> int:
        """M."""
        return len(self.members)

    def set_epoch(self, epoch: int) -> None:
        """Tell the annealing schedules how many epochs are finished."""
        self.epoch = epoch

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Train all networks by one step; return their losses before it, of noisy targets, ``(M,)``.

        The loss is summed over K and over slices with a target, and averaged over the batch.

        Args:
            x: sequences ``(B, T, I)`` for all networks, or ``(M, B, T, I)``.
            y: values, labels or codes ``(B, K)``, or class numbers ``(B,)`` for ``softmax``; with an axis M before
                for targets of each network.

        Raises:
            ValueError: shapes do not fit, or targets are no classes or labels.
        """
        with self._threads():
            batch = self._batch(x, y)
            draws = StackDraws(self._draws("hidden", batch), self._draws("output", batch))
            first, delta = self.options.first, self.options.output_delta
            means = gradients(self.networks, batch, self.head, self.noise, draws, first, self._space, delta)
            self._rule.step()
            self.networks.flat.addcmul_(self._rates, self._moved)
            self._moved.zero_()
        self.acceptance = {name: means[name][:, 0] for name in ("hidden", "output") if name in means}
        return means["loss"][:, 0]

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the losses of clean targets without noise, ``(M,)``; arguments and errors of :meth:`step`."""
        batch = self._batch(x, y)
        activation = self._activations(batch)
        return errors(self.head, batch.target, activation)[..., : batch.columns].sum(0).mean(-1)[:, 0]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return values, or probabilities of classes or labels, after the last slice: ``(M, B, K)``."""
        B = x.shape[-3] if x.dim() > 2 else 0
        size, like = self.networks.size, self.networks.flat
        batch = self._batch(x, like.new_zeros(B, size.outputs), dummy=True)
        last = self._activations(batch)[-1, :, 0, :, : batch.columns].transpose(1, 2)
        if self.head == "identity":
            return last.clone()
        return last.exp() if self.head == "softmax" else torch.sigmoid(last)

    def network(self, m: int) -> tuple[NoisyLSTM | NoisyGRU, nn.Linear]:
        """Return network ``m`` as a layer, with batches first and its gate noise, and its output layer; copies."""
        size, flat = self.networks.size, self.networks.flat
        views = self.networks.by_network(flat)
        tensors = state_dict(size.cell, {name: view[m, 0] for name, view in views.items()})
        options = self.options
        where: dict[str, Any] = {"device": flat.device, "dtype": flat.dtype}
        kind = NoisyLSTM if size.cell == "lstm" else NoisyGRU
        layer = kind(
            size.inputs, size.hidden, batch_first=True, noise=self.members[m].hidden, injection=options.injection,
            latent=options.latent, granularity=options.granularity, clamp=options.clamp, **where,
        )  # fmt: skip
        head = nn.Linear(size.hidden, size.outputs, **where)
        head.load_state_dict({name: tensors.pop(f"head.{name}") for name in ("weight", "bias")})
        layer.load_state_dict(tensors)
        layer.set_epoch(self.epoch)
        return layer, head

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that training goes on from: parameters, the rule's state, the epoch, the generators."""
        rule = {
            name: value.clone() for name, value in self._rule.state.get(self._moved, {}).items() if value is not None
        }
        streams = {key: generator.get_state() for key, generator in self._generators.items()}
        return {"flat": self.networks.flat.clone(), "rule": rule, "epoch": self.epoch, "generators": streams}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned; a ValueError says that it is of another size."""
        if state["flat"].shape != self.networks.flat.shape:
            found, right = state["flat"].numel(), self.networks.flat.numel()
            raise ValueError(f"expected the state of a stack with {right} parameters, found {found}")
        self.networks.flat.copy_(state["flat"])
        self.epoch = state["epoch"]
        # A rule that has not moved yet has no state.
        self._rule.state.clear()
        if state["rule"]:
            self._rule.state[self._moved] = {name: value.clone() for name, value in state["rule"].items()}
        self._generators = {}
        for key, value in state["generators"].items():
            self._generators[key] = torch.Generator(self.networks.flat.device)
            self._generators[key].set_state(value)

    def _threads(self) -> Any:  # noqa: ANN401 - threadpoolctl has no types
        return one_thread() if self.networks.flat.device.type == "cpu" else nullcontext()

    def _activations(self, batch: Batch) -> Tensor:
        first = self.options.first % batch.extent[0]
        with self._threads():
            return activations(self.head, self.networks.outputs(self.networks.forward(batch)[first:]))

    def _batch(self, x: Tensor, y: Tensor, dummy: bool = False) -> Batch:
        """Return a batch of all networks; ``dummy`` targets are none."""
        size, like, M = self.networks.size, self.networks.flat, len(self)
        if x.dim() not in (3, 4) or x.shape[-1] != size.inputs or 0 in x.shape or (x.dim() == 4 and len(x) != M):
            raise ValueError(f"expected x of shape (B, T, {size.inputs}) or ({M}, B, T, …), found {tuple(x.shape)}")
        B, T = x.shape[-3:-1]
        if not -T <= self.options.first < T:
            raise ValueError(f"expected first to be one of {T} slices, found {self.options.first}")
        numbers = self.head == "softmax" and y.shape in ((B,), (M, B)) and not y.is_floating_point()
        if numbers:
            if bool(((y < 0) | (y >= size.outputs)).any()):
                raise ValueError(f"expected class numbers from 0 to {size.outputs - 1}, found others")
            y = functional.one_hot(y.long(), size.outputs)
        if y.shape not in ((B, size.outputs), (M, B, size.outputs)):
            also = f", or class numbers ({B},)" if self.head == "softmax" else ""
            right = f"expected y of shape ({B}, {size.outputs}) or ({M}, {B}, {size.outputs}){also}"
            raise ValueError(f"{right}, found {y.dtype} of shape {tuple(y.shape)}")
        x, y = (part.to(like) for part in (x, y))
        if self.head != "identity" and not dummy:
            y = probabilities(y) if self.head == "softmax" else labels(y)
        x, y = x.expand(M, B, T, size.inputs), y.expand(M, B, size.outputs)
        return Batch.of(x, y, self._space)

    def _draws(self, place: Layer, batch: Batch) -> Draws | None:
        """Return the draws of one layer: every network's from its own seed."""
        layer = self.noise.gates if place == "hidden" else self.noise.output
        if layer is None:
            return None
        size, like, columns = self.networks.size, self.networks.flat, batch.columns
        T = batch.extent[0]
        shape: tuple[int, ...] = (T, GATES[size.cell], size.hidden, columns)
        if place == "output":
            shape = (T - self.options.first % T, size.outputs, columns)
        drawn: dict[Hashable, Tensor] = {}
        zero = like.new_zeros(shape)

        def own(member: Member, name: Stream) -> Tensor:
            noise = member.noise(place)
            if noise is None or (name == "test" and noise.kind != "matched"):
                return zero
            law = None if name == "uniform" else noise.density
            key = (member.seed, place, name, law)
            if key not in drawn:
                if key not in self._generators:
                    self._generators[key] = _generator(like.device, member.seed, f"{place} {name}")
                generator = self._generators[key]
                if law is None:
                    drawn[key] = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
                else:
                    drawn[key] = standard(law, shape, like, generator)
            return drawn[key]

        def sample(name: Stream) -> Tensor:
            several = torch.stack([own(member, name) for member in self.members], 1).unsqueeze(2)
            return functional.pad(several, (0, -columns % LANES))

        noises = [member.noise(place) for member in self.members]
        sigma = like.new_tensor([0.0 if noise is None else noise.at(self.epoch) for noise in noises])
        return layer.draws(sigma, sample)


def _generator(device: torch.device, seed: int, stream: str) -> torch.Generator:
    """Return the generator of one stream of a seed."""
    mixed = np.random.SeedSequence([seed, *stream.encode()]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(mixed[0] >> 1))
