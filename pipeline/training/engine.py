"""The stacked training engine.

G groups (repetitions, each with its own initial weights, batch order and draws) times C networks (noise conditions
that share all three) train at once. On a CPU one repetition is the natural unit of work, since its conditions fit
into the cache and share each batch; repetitions run in processes beside each other. On a GPU one stack holds all.
Groups may have learning rates and strengths of noise of their own.

A network that diverges is marked failed with its epoch and set to zero; no operation mixes it with the others.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nem import cells
from nem.cells import GATES
from nem.conditions import Mode
from nem.densities import standard
from nem.fast import Workspace
from nem.kernels import FEW
from nem.names import Head
from nem.noise import Draws, GateNoise, annealed
from nem.stack import Batch, Layer, Networks, Size, StackNoise, activations, errors, gradients, optimiser
from nem.theory.montecarlo import noise_benefit
from pipeline.common import jobs, seeds
from pipeline.common.sequences import Dataset, Sequences
from pipeline.training.settings import Settings, Share

METRICS = (
    "train_loss", "test_loss", "train_accuracy", "test_accuracy",
    "noisy_loss", "acceptance_output", "acceptance_hidden", "noise_benefit",
)  # fmt: skip
"""Columns of the learning curves; NaN where a column does not apply."""

EVALUATION_BATCH = {"cpu": 64, "cuda": 1024}
"""Sequences per forward pass when losses are measured: few, so that a slice stays in a CPU's cache."""

BENEFIT_BATCH = 256
"""Training sequences on which the noise benefit is measured, if it is."""


@dataclass
class Repetition:
    """What training gives for one repetition."""

    number: int
    conditions: tuple[str, ...]  # names, in the order of the arrays below
    curves: Tensor  # (C, max_epochs + 1, len(METRICS)) float64; NaN where undefined
    failed_epoch: Tensor  # (C,) int64 epoch in which a network stopped being finite, 0 if it never did
    predictions: Tensor  # (C, N, K) float32 at epoch R: raw values, or probabilities of classes or labels
    validation: Tensor | None  # (C, 2) float64 at epoch R, if there is such a part: loss (raw² or nats) and accuracy
    parameters: list[dict[str, Tensor]] = field(repr=False)  # per condition, its network at epoch R


class _Rule:
    """The update rule of a stack, with each group's learning rate.

    torch's rules are elementwise, but what does not fill a vector they round otherwise. So neighbours with one rate
    move in a buffer that is padded as a whole stack's is: bit for bit as in a stack of their own.
    """

    def __init__(self, networks: Networks, settings: Sequence[Settings]) -> None:
        runs = [(rate, len([*run])) for rate, run in groupby(one.learning_rate for one in settings)]
        flat, rates, counts = networks.flat, [rate for rate, _ in runs], [count for _, count in runs]
        self.parts, self.flat, self.grad = [networks], list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
        if len(runs) > 1:
            sizes = [networks.size._replace(groups=count) for count in counts]
            self.parts = [Networks(size, flat.dtype, flat.device) for size in sizes]
            for name in networks.shapes:  # views of the stack's buffers, each with that of a part
                whole, *own = (one.views(one.flat)[name] for one in (networks, *self.parts))
                self.flat += zip(whole.split(counts), own, strict=True)
                whole, *own = (one.views(one.grad)[name] for one in (networks, *self.parts))
                self.grad += zip(whole.split(counts), own, strict=True)
        self.optimiser = optimiser(settings[0].optimiser, self.parts[0].flat, rates[0], settings[0].momentum)
        for rate, part in zip(rates[1:], self.parts[1:], strict=True):
            self.optimiser.add_param_group({"params": [part.flat], "lr": rate})

    def step(self) -> None:
        """Move all networks by their gradients."""
        for whole, part in (*self.flat, *self.grad):
            part.copy_(whole)
        self.optimiser.step()
        for whole, part in self.flat:
            whole.copy_(part)

    def forget(self, group: int, network: int) -> None:
        """Set what the rule remembers of one network to zero."""
        for part in self.parts:
            for value in self.optimiser.state.get(part.flat, {}).values() if 0 <= group < part.size.groups else ():
                if isinstance(value, Tensor) and value.shape == part.flat.shape:
                    part.zero(value, group, network)
            group -= part.size.groups

    def state(self) -> list[dict[str, Tensor]]:
        """Return what the rule remembers, by part."""
        states = (self.optimiser.state.get(part.flat, {}) for part in self.parts)
        return [{name: value for name, value in own.items() if value is not None} for own in states]

    def restore(self, states: list[dict[str, Tensor]]) -> None:
        """Remember what :meth:`state` returned, with tensors on whatever device."""
        for part, own in zip(self.parts, states, strict=True):
            if own:
                self.optimiser.state[part.flat] = {name: value.to(part.flat.device) for name, value in own.items()}


class Engine:
    """Trains one stack of networks: a group per repetition.

    Settings are those of all groups, or one for each, alike but for learning rate and strengths of noise. Seeds come
    from the root ``seed`` and from the task's name in the seed tree, ``stream``. A ValueError says that settings are
    not alike, the first slice with a target is none, a condition's name is unknown, or settings do not fit it.
    """

    def __init__(self, dataset: Dataset, settings: Settings | Sequence[Settings], *, seed: int, stream: str,
                 repetitions: Sequence[int], device: torch.device | str = "cpu",
                 dtype: torch.dtype = torch.float32) -> None:  # fmt: skip
        self.own = [settings] * len(repetitions) if isinstance(settings, Settings) else list(settings)
        if len(self.own) != len(repetitions) or len({one.shared() for one in self.own}) != 1:
            found = f"{len(self.own)}, of {len({one.shared() for one in self.own})} kinds"
            right = f"{len(repetitions)} settings that differ in learning rate and strengths of noise alone"
            raise ValueError(f"expected {right}, found {found}; train others in a stack of their own")
        settings = self.own[0]
        self.device, self.dtype = torch.device(device), dtype
        self.dataset, self.settings = dataset, settings
        self.head: Head = dataset.head
        self.seed, self.stream, self.repetitions = seed, stream, list(repetitions)
        T = dataset.slices
        t0 = settings.first_target or T
        if t0 > T:
            raise ValueError(f"expected first_target of at most T = {T}, found {t0}; change training.first_target")
        self.first = t0 - 1
        shortest = min(int(side.lengths().min()) for side in (dataset.train, dataset.test))
        if shortest <= T - t0:
            right = f"at least {T - shortest + 1}, as the shortest of the sequences has {shortest} slices of {T}"
            raise ValueError(f"expected first_target of {right}, found {t0}; change training.first_target")
        self.noise = StackNoise.of(
            settings.conditions, granularity=settings.granularity, latent=settings.latent,
            injection=settings.hidden_injection, clamp=settings.gate_clamp, test=settings.output_test,
        )  # fmt: skip
        self.train, self.test, self.validation = dataset.train, dataset.test, dataset.validation
        if self.device.type == "cuda":
            self.train, self.test = self.train.to(self.device), self.test.to(self.device)
        probe = torch.linspace(0, len(self.train) - 1, min(settings.probe, len(self.train))).long()
        self.probe = self.train.subset(probe.to(self.train.index.device))
        G, C = len(self.repetitions), len(self.noise)
        size = Size(settings.cell, G, C, dataset.inputs, settings.hidden, dataset.outputs)
        self.networks = Networks(size, dtype, self.device)
        for group, repetition in enumerate(self.repetitions):
            self.networks.initialise(group, seeds.torch_generator(seed, *self._name(repetition, "init")))
        self.rule = _Rule(self.networks, self.own)
        self.epoch = 0
        self.curves = torch.full((G, C, settings.max_epochs + 1, len(METRICS)), math.nan, dtype=torch.float64)
        self.failed = torch.zeros(G, C, dtype=torch.int64)
        self.snapshot: dict[str, Tensor] = {}
        self._training_space, self._evaluation_space = Workspace(), Workspace()

    def _name(self, repetition: int, name: str, *more: int) -> tuple[str | int, ...]:
        # Neither the noise condition nor the worker appears here: that is what pairs conditions. The split of the
        # data does not appear either, so networks of all splits start from the same weights.
        return (self.stream, self.settings.cell, repetition, name, *more)

    def _sampler(self, prefix: str = "", one_per: Share = "sequence") -> Callable[[str, tuple[int, ...]], Tensor]:
        """Return what draws from this epoch's streams: ``(name, shape)``, groups as second axis and sequences last.

        Draws are valid until the next ones of the same name and shape.
        All sequences of a batch or of the epoch share one draw of noise, if asked for; slices never do.
        """
        streams: dict[str, dict[int, torch.Generator]] = {}  # one for all groups of a repetition
        shared: dict[str, Tensor] = {}

        def share(name: str, shape: tuple[int, ...]) -> Tensor:
            if one_per == "sequence" or name == "latent":  # which is no noise
                return sample(name, shape)
            if one_per == "batch" or name not in shared:
                shared[name] = sample(name, (*shape[:-1], 1))
            return shared[name].expand(shape).contiguous()

        densities, like = self.settings.densities, self.networks.flat

        def sample(name: str, shape: tuple[int, ...]) -> Tensor:
            if name not in streams:
                paths = {r: self._name(r, prefix + name, self.epoch) for r in self.repetitions}
                generators = {r: seeds.torch_generator(self.seed, *p, device=self.device) for r, p in paths.items()}
                streams[name] = generators
            drawn = self._training_space.take(prefix + name, (len(self.repetitions), shape[0], *shape[2:]), like)
            density = densities.of("output" if name.startswith("output") else "hidden")
            for group, repetition in enumerate(self.repetitions):
                first, generator = self.repetitions.index(repetition), streams[name][repetition]
                if first < group:
                    drawn[group] = drawn[first]
                elif name in ("latent", "uniform"):
                    torch.rand(drawn[group].shape, generator=generator, out=drawn[group])
                else:
                    standard(density, drawn[group].shape, like, generator, drawn[group])
            return drawn.transpose(0, 1)

        return share

    def _sigma(self, layer: Layer) -> Tensor:
        """Return the standard deviations of a layer's noise in this epoch, ``(G, C)`` or ``(G, C')``."""

        def strength(settings: Settings, layer: Layer, mode: Mode) -> float:
            noise = settings.noise.of(layer, mode)
            return annealed(noise.sigma, noise.decay, self.epoch)

        like = self.networks.flat
        return torch.stack([self.noise.sigma(layer, partial(strength, settings), like) for settings in self.own])

    def _gather(self, data: Sequences, rows: Tensor, space: Workspace) -> Batch:
        """Return the sequences at positions ``rows`` ``(G, B)``, which are on the data's device."""
        index, targets = data.index[rows], data.targets[rows].to(self.device, self.dtype)
        if data.pool.shape[1] >= FEW and self.device.type == "cpu":
            return Batch.sharing(data.pool, index, targets, space)
        inputs = data.pool[index].to(self.device)
        return Batch.of(inputs, targets, space, (index >= 0).to(self.device) if data.ragged else None)

    def _train_epoch(self) -> dict[str, Tensor]:
        """Train for one epoch; return means over it, each ``(G, C)``."""
        sample = self._sampler(one_per=self.settings.one_draw_per)
        layers: tuple[Layer, ...] = ("hidden", "output")
        sigma = {layer: self._sigma(layer) for layer in layers}
        names = [self._name(repetition, "batches", self.epoch) for repetition in self.repetitions]
        generators = [seeds.torch_generator(self.seed, *name) for name in names]
        orders = [torch.randperm(len(self.train), generator=generator) for generator in generators]
        totals: dict[str, Tensor] = {}
        # Moved to a GPU once an epoch: each copy from the host waits until the device is done.
        for rows in torch.stack(orders).to(self.train.index.device).split(self.settings.batch_size, dim=1):  # (G, B)
            batch = self._gather(self.train, rows, self._training_space)
            draws = self.noise.draws(self.networks, batch, sigma, sample, self.first)
            space, delta = self._training_space, self.settings.output_delta
            means = gradients(self.networks, batch, self.head, self.noise, draws, self.first, space, delta)
            self.rule.step()
            for name, value in means.items():
                weighted = value.double() * (batch.columns / len(self.train))
                totals[name] = totals[name] + weighted if name in totals else weighted
        return totals

    @torch.no_grad()
    def measure(self, data: Sequences, outputs: bool = False) -> dict[str, Tensor]:
        """Measure clean losses without noise, on at least one sequence.

        Returns ``loss`` ``(G, C)`` per sequence in scaled units, ``accuracy`` ``(G, C)`` of classes, or per label of
        logistic outputs, and, if asked for, ``activation`` ``(G, C, N, K)`` of the last slice's outputs.
        """
        head = self.head
        losses, hits, kept = [], [], []
        for rows in torch.arange(len(data), device=data.index.device).split(EVALUATION_BATCH[self.device.type]):
            batch = self._gather(data, rows.unsqueeze(0), self._evaluation_space)
            h = self.networks.forward(batch, self._evaluation_space)[self.first :]
            activation = activations(head, self.networks.outputs(h))[..., : len(rows)]
            target = batch.target[..., : len(rows)]
            losses.append(errors(head, target, activation).sum((0, 3), dtype=torch.float64))
            if head == "softmax":
                right = activation[-1].argmax(-2) == target[-1].argmax(-2)
                hits.append(right.sum(-1, dtype=torch.float64))
            elif head == "logistic":
                right = (activation[-1] > 0) == (target[-1] > 0.5)
                hits.append(right.double().mean(-2).sum(-1))
            if outputs:
                kept.append(activation[-1].transpose(-1, -2).cpu())
        # One after another: the order of a sum is part of its bits.
        measured = {"loss": sum(losses[1:], losses[0]) / len(data)}
        if hits:
            measured["accuracy"] = sum(hits[1:], hits[0]) / len(data)
        if kept:
            measured["activation"] = torch.cat(kept, 2)
        return measured

    @torch.no_grad()
    def noise_benefit(self, gates: GateNoise) -> Tensor:
        """Measure Q_N - Q of the gate noise, (70) less (68), on a few training sequences with draws of its own.

        One importance sample per sequence: for additive noise the benefit does not depend on the samples, for
        multiplicative noise z is the mean field g, or sampled from the prior, as ``latent`` says. Returned are nats per
        sequence ``(G, C')``, summed over slices and gates, for the networks with ``gates`` noise.
        """
        nets = self.networks
        rows = torch.arange(min(BENEFIT_BATCH, len(self.probe)), device=self.probe.index.device)
        batch = self._gather(self.probe, rows.unsqueeze(0), self._evaluation_space)
        x = batch.x.expand(-1, len(self.repetitions), -1, -1)
        logits = cells.forward(self.settings.cell, cells.project(x, nets.W), nets.V, keep_logits=True).logits
        if logits is None:
            raise ValueError("expected pre-activations, found none")
        logit, sample = logits[:, :, : len(gates)], self._sampler("benefit-")
        one = (1, len(self.repetitions), 1, GATES[self.settings.cell], self.settings.hidden, x.shape[3])
        drawn = [torch.cat([sample(name, one).clone() for _ in x]) for name in ("normal", "test", "uniform")]
        draws = Draws(self._sigma("hidden")[:, : len(gates)], *drawn)
        gate = torch.sigmoid(logit)
        increment, _ = gates.increments(logit, gate, draws)
        latent = gate if draws.uniform is None or gates.latent == "mean-field" else (draws.uniform < gate).to(gate)
        if gates.injection == "pre-activation":
            increment = gates.moved(logit, gate, increment) - gate
        else:
            increment = torch.where(gates.where("multiplicative", x), increment * latent, increment)
        likelihood = logit.new_zeros((1, *logit.shape[:-2], logit.shape[-1]))
        vectors = (values.transpose(-1, -2) for values in (latent[None], logit, increment[None]))
        return noise_benefit(likelihood, *vectors)[..., : len(rows)].sum((0, 3)).mean(-1)

    def _record(self, totals: dict[str, Tensor]) -> None:
        """Write one row of the learning curves and mark networks that are no longer finite."""
        row = dict.fromkeys(METRICS, torch.full(tuple(self.failed.shape), math.nan, dtype=torch.float64))
        for name, data in (("train", self.probe), ("test", self.test)):
            row[f"{name}_loss"], row[f"{name}_accuracy"] = self._raw(self.measure(data))
        if "loss" in totals:
            row["noisy_loss"] = totals["loss"].double().cpu()
        if "output" in totals:
            noisy = self.noise.sigma("output", lambda *_: 1.0) > 0
            row["acceptance_output"] = totals["output"].double().cpu().where(noisy, math.nan)
        hidden = {"acceptance_hidden": totals.get("hidden")}
        if self.settings.noise_benefit and self.noise.gates is not None:
            hidden["noise_benefit"] = self.noise_benefit(self.noise.gates)
        for name, values in hidden.items():
            if values is not None:
                row[name] = row[name].clone()
                row[name][:, : values.shape[1]] = values.double().cpu()
        finite = torch.isfinite(row["train_loss"]) & torch.isfinite(row["test_loss"])
        for group, network in (~finite & (self.failed == 0)).nonzero().tolist():
            self.failed[group, network] = max(self.epoch, 1)
            self._park(group, network)
        self.curves[:, :, self.epoch] = torch.stack([row[name] for name in METRICS], -1)
        self.curves[:, :, self.epoch][self.failed > 0] = math.nan

    def _raw(self, measured: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return loss in squared raw units (or nats) and accuracy (NaN for values), each ``(G, C)`` on the CPU."""
        loss = measured["loss"].cpu() * self.dataset.target_scale**2
        accuracy = measured.get("accuracy")
        return loss, torch.full_like(loss, math.nan) if accuracy is None else accuracy.cpu()

    def _park(self, group: int, network: int) -> None:
        """Set a failed network and its optimiser state to zero, so that it costs no time on NaNs."""
        self.networks.zero(self.networks.flat, group, network)
        self.rule.forget(group, network)

    def _take_snapshot(self) -> None:
        """Keep predictions, validation and parameters as they are at epoch R."""
        activation = self.measure(self.test, outputs=True)["activation"]
        if self.head == "softmax":
            predictions = activation.exp().float()
        elif self.head == "logistic":
            # No torch.sigmoid: it rounds what is left over of a vector otherwise, and equal networks would differ.
            predictions = (1 / (1 + (-activation).exp())).float()
        else:
            predictions = (activation.double() * self.dataset.target_scale + self.dataset.target_offset).float()
        self.snapshot = {"predictions": predictions, "parameters": self.networks.flat.clone()}
        if self.validation is not None:
            values = torch.stack(self._raw(self.measure(self.validation)), -1)
            values[self.failed > 0] = math.nan
            self.snapshot["validation"] = values

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs: draws are keyed by epoch, so no generator's state is part of it."""
        own = {"epoch": self.epoch, "flat": self.networks.flat, "curves": self.curves, "failed": self.failed}
        return own | {"snapshot": self.snapshot, "rule": self.rule.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that :meth:`state` returned, with its tensors on whatever device."""
        self.networks.flat.copy_(state["flat"])
        self.epoch, self.curves, self.failed = state["epoch"], state["curves"], state["failed"]
        self.snapshot = state["snapshot"]
        self.rule.restore(state["rule"])

    @torch.no_grad()
    def run(self, load_state: Callable[[], dict[str, Any] | None] | None = None,
            save_state: Callable[[int, dict[str, Any]], None] | None = None,
            progress: Callable[[int], None] | None = None) -> list[Repetition]:  # fmt: skip
        """Train to ``max_epochs`` and return one result per repetition.

        On a CPU it runs in one thread, BLAS included: networks this small lose by more, and sums change with them.
        ``load_state`` returns a state of an interrupted run to go on from, or ``None``; ``save_state`` is called after
        every epoch with their number and the state, whose tensors change afterwards; ``progress`` with the epochs
        finished since its last call.
        """
        with jobs.one_thread() if self.device.type == "cpu" else nullcontext():
            saved = None if load_state is None else load_state()
            if saved is None:
                self._record({})
            else:
                self.restore(saved)
            if progress is not None:
                progress(self.epoch)
            while self.epoch < self.settings.max_epochs:
                totals = self._train_epoch()
                self.epoch += 1
                self._record(totals)
                if self.epoch == self.settings.epochs:
                    self._take_snapshot()
                if save_state is not None:
                    save_state(self.epoch, self.state())
                if progress is not None:
                    progress(1)
        return self._results()

    def _results(self) -> list[Repetition]:
        names = [condition.name for condition in self.noise.conditions]
        order = torch.tensor([names.index(name) for name in self.settings.conditions])
        views = self.networks.by_network(self.snapshot["parameters"])
        validation = self.snapshot.get("validation")
        return [
            Repetition(
                number, self.settings.conditions, self.curves[group, order], self.failed[group, order],
                self.snapshot["predictions"][group, order].cpu(),
                None if validation is None else validation[group, order].cpu(),
                [{name: view[group, c].clone().cpu() for name, view in views.items()} for c in order.tolist()],
            )
            for group, number in enumerate(self.repetitions)
        ]  # fmt: skip
