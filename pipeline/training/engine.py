"""The stacked training engine.

G groups (repetitions, each with its own initial weights, batch order and draws) times C networks (noise conditions
that share all three) train at once. On a CPU one repetition is the natural unit of work, since its conditions fit
into the cache and share each batch; repetitions run in processes beside each other. On a GPU one stack holds all.

One network that diverges is marked failed with its epoch and set to zero; the others never see it, since no
operation mixes networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipeline import seeds
from pipeline.conditions import Condition
from pipeline.noise.inject import GateStack, Head, OutputStack, gate_increment, output_increment
from pipeline.noise.schedule import annealed
from pipeline.params import CellTraining, Training
from pipeline.recurrent import fused
from pipeline.recurrent.kernels import (
    BLOCKS,
    GATES,
    CellName,
    GateDraws,
    Pass,
    Workspace,
    gru_backward,
    gru_forward,
    lstm_backward,
    lstm_forward,
)
from pipeline.theory.montecarlo import noise_benefit as theory_noise_benefit
from pipeline.training import checkpoint
from pipeline.training.problem import Problem, Sequences

METRICS = (
    "train_loss",
    "test_loss",
    "train_accuracy",
    "test_accuracy",
    "noisy_loss",
    "acceptance_output",
    "acceptance_hidden",
    "noise_benefit",
)
"""Columns of the learning curves; NaN where a column does not apply."""

EVALUATION_BATCH = {"cpu": 64, "cuda": 1024}
"""Sequences per forward pass when losses are measured: few, so that a slice stays in a CPU's cache."""

BENEFIT_BATCH = 256
"""Training sequences on which the noise benefit is measured, if it is."""

LANES = 32
"""Batches are padded to a multiple of this. Vectorised loops finish what is left over with scalar code that rounds
otherwise; without leftovers every network of a stack is computed alike, and equal networks stay equal bit for bit."""


@dataclass(frozen=True)
class Stack:
    """The noise conditions of a stack, in the engine's order: gate noise first, sorted for contiguous slices.

    Attributes:
        conditions: the conditions, in the engine's order.
        gates: gate noise of the first ``len(gates)`` networks; ``None`` if there is none.
        output: output noise of all networks.
    """

    conditions: tuple[Condition, ...]
    gates: GateStack | None
    output: OutputStack

    @classmethod
    def of(cls, names: list[str], training: Training) -> Stack:
        """Sort and group the conditions called ``names``."""
        parsed = [Condition.parse(name) for name in names]
        hidden = sorted(
            (c for c in parsed if c.in_hidden),
            key=lambda c: GateStack.sort_key(c.kind, c.mode or "additive"),
        )
        rest = [c for c in parsed if not c.in_hidden]
        gates = GateStack(
            tuple(c.kind for c in hidden),
            tuple(c.mode or "additive" for c in hidden),
            latent=training.latent,
            granularity=training.granularity,
            injection=training.hidden_injection,
            clamp=training.gate_clamp,
        )
        ordered = (*hidden, *rest)
        output = OutputStack(
            tuple(c.kind if c.in_output else "none" for c in ordered),
            tuple(c.mode if c.in_output else None for c in ordered),
            granularity=training.granularity,
        )
        return cls(ordered, gates if hidden else None, output)

    def sigma(self, place: Literal["output", "hidden"], settings: CellTraining, epoch: int, like: Tensor) -> Tensor:
        """Return the standard deviations of ``place`` in ``epoch``, 0 where no noise enters."""
        values = []
        for condition in self.conditions if place == "output" else self.conditions[: len(self.gates or ())]:
            inside = condition.in_output if place == "output" else condition.in_hidden
            if not inside or condition.mode is None:
                values.append(0.0)
                continue
            strength = settings.sigma.of(place, condition.mode)
            values.append(annealed(strength, settings.decay.of(place, condition.mode), epoch))
        return torch.tensor(values, dtype=like.dtype, device=like.device)


class Networks:
    """G·C networks' parameters as views of one flat buffer, which the optimiser updates in one pass.

    Attributes:
        flat: all parameters.
        grad: all gradients, in the same layout.
        W: ``(G, I + 1, C, blocks·J)``, V: ``(G, C, blocks·J, J)``, U: ``(G, C, K, J)``, b: ``(G, C, K, 1)``.
    """

    NAMES = ("W", "V", "U", "b")

    def __init__(
        self,
        cell: CellName,
        G: int,
        C: int,
        inputs: int,
        hidden: int,
        outputs: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        rows = BLOCKS[cell] * hidden
        self.cell, self.G, self.C, self.hidden = cell, G, C, hidden
        self.shapes = {
            "W": (G, inputs + 1, C, rows),
            "V": (G, C, rows, hidden),
            "U": (G, C, outputs, hidden),
            "b": (G, C, outputs, 1),
        }
        total = sum(math.prod(shape) for shape in self.shapes.values())
        total += -total % LANES
        self.flat = torch.zeros(total, dtype=dtype, device=device)
        self.grad = torch.zeros(total, dtype=dtype, device=device)
        self.flat.grad = self.grad
        values, grads = self.views(self.flat), self.views(self.grad)
        self.W, self.V, self.U, self.b = (values[name] for name in self.NAMES)
        self.grad_W, self.grad_V, self.grad_U, self.grad_b = (grads[name] for name in self.NAMES)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the named views of a buffer in this layout."""
        out, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            out[name] = flat[start : start + size].view(shape)
            start += size
        return out

    def by_network(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the named views with leading axes ``(G, C)``; W becomes ``(G, C, I + 1, blocks·J)``."""
        return {name: view.transpose(1, 2) if name == "W" else view for name, view in self.views(flat).items()}

    def initialise(self, group: int, generator: torch.Generator) -> None:
        """Give all networks of a group the same U(-1/√J, 1/√J) draws, torch's default for both layers."""
        bound = 1 / math.sqrt(self.hidden)
        for view in self.by_network(self.flat).values():
            draw = torch.rand(view.shape[2:], generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)
            view[group] = draw.to(view.dtype)

    def zero(self, flat: Tensor, group: int, network: int) -> None:
        """Set one network's part of a buffer to zero."""
        for view in self.by_network(flat).values():
            view[group, network] = 0

    def state_dict(self, group: int, network: int) -> dict[str, Tensor]:
        """Return one network's parameters by name, without the group and network axes."""
        return {name: view[group, network].clone() for name, view in self.by_network(self.flat).items()}

    def forward(
        self, x: Tensor, draws: GateDraws | None, workspace: Workspace | None, keep: bool = True
    ) -> Pass | fused.Run:
        """Run all networks over ``x`` ``(T, G, I + 1, B)``, fused where that is possible.

        Args:
            x: inputs with a last row of ones.
            draws: gate noise.
            workspace: buffers to reuse.
            keep: whether a backward pass follows.
        """
        if fused.serves(x, draws):
            return fused.forward(self.cell, x, self.W, self.V, draws=draws, workspace=workspace, keep=keep)
        run = lstm_forward if self.cell == "lstm" else gru_forward
        return run(x, self.W, self.V, draws=draws, workspace=workspace)

    def backward(self, run: Pass | fused.Run, grad_h: Tensor, first: int, workspace: Workspace | None) -> None:
        """Fill ``grad_W`` and ``grad_V``."""
        if isinstance(run, fused.Run):
            fused.backward(self.cell, run, self.V, grad_h, self.grad_W, self.grad_V)
            return
        back = lstm_backward if self.cell == "lstm" else gru_backward
        back(run, self.W, self.V, grad_h, first, self.grad_W, self.grad_V, workspace=workspace)

    def outputs(self, h: Tensor) -> Tensor:
        """Return the output neurons' inputs (B.12): ``(S, G, C, J, B)`` to ``(S, G, C, K, B)``."""
        U, b = self.U.flatten(0, 1), self.b.flatten(0, 1)
        return torch.stack([torch.baddbmm(b, U, each.flatten(0, 1)).unflatten(0, (self.G, self.C)) for each in h])


def activations(head: Head, outputs: Tensor) -> Tensor:
    """Return log a of the softmax neurons (38), or the identity neurons' a (42); K is the last axis but one."""
    return torch.log_softmax(outputs, -2) if head == "softmax" else outputs


def errors(head: Head, target: Tensor, activation: Tensor) -> Tensor:
    """Return the error summed over K: cross entropy (39) or squared error (43), ``(S, G, C, B)``."""
    return -(target * activation).sum(-2) if head == "softmax" else (target - activation).square().sum(-2)


def error_gradient(head: Head, target: Tensor, activation: Tensor) -> Tensor:
    """Return the error's gradient in the output neurons' inputs: a·Σy - y for softmax, 2(a - y) for identity."""
    if head == "softmax":
        return activation.exp() * target.sum(-2, keepdim=True) - target
    return 2 * (activation - target)


def optimiser(settings: CellTraining, flat: Tensor) -> torch.optim.Optimizer:
    """Return torch's optimiser over one flat buffer: every update rule used here is elementwise."""
    if settings.optimiser == "sgd":
        return torch.optim.SGD([flat], lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    if settings.optimiser == "adam":
        return torch.optim.Adam([flat], lr=settings.learning_rate, fused=True)
    return torch.optim.RMSprop([flat], lr=settings.learning_rate, momentum=settings.momentum)


@dataclass
class Repetition:
    """What training gives for one repetition.

    Attributes:
        number: the repetition.
        conditions: names, in the order of the arrays below.
        curves: ``(C, max_epochs + 1, len(METRICS))`` float64; NaN where undefined.
        failed_epoch: ``(C,)`` int64 epoch in which a network stopped being finite, 0 if it never did.
        predictions: ``(C, N, K)`` float32 at epoch R: raw values, or class probabilities.
        parameters: per condition, its network at epoch R.
    """

    number: int
    conditions: tuple[str, ...]
    curves: Tensor
    failed_epoch: Tensor
    predictions: Tensor
    parameters: list[dict[str, Tensor]] = field(repr=False)


class Engine:
    """Trains one stack of networks.

    Args:
        problem: data.
        cell: ``lstm`` or ``gru``.
        settings: network size and optimiser.
        training: what all cells share; ``repetitions`` is not read here.
        seed: root of the seed tree.
        task: name of the task, for the seed tree.
        repetitions: the repetitions (groups) of this stack.
        device: where to train.
        dtype: float32, or float64 in tests.
    """

    def __init__(
        self,
        problem: Problem,
        cell: CellName,
        settings: CellTraining,
        training: Training,
        *,
        seed: int,
        task: str,
        repetitions: list[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.problem, self.cell, self.settings, self.training = problem, cell, settings, training
        self.seed, self.task, self.repetitions = seed, task, repetitions
        T = problem.slices
        t0 = training.first_target or T
        if t0 > T:
            raise ValueError(f"expected first_target of at most T = {T}, found {t0}; change training.first_target")
        self.first = t0 - 1
        self.stack = Stack.of(training.conditions, training)
        self.train, self.test = problem.train, problem.test
        if self.device.type == "cuda":
            self.train, self.test = self.train.to(self.device), self.test.to(self.device)
        probe = torch.linspace(0, len(self.train) - 1, min(training.probe, len(self.train))).long()
        self.probe = self.train.subset(probe.to(self.train.index.device))
        G, C = len(repetitions), len(self.stack.conditions)
        self.networks = Networks(cell, G, C, problem.inputs, settings.hidden, problem.outputs, dtype, self.device)
        for group, repetition in enumerate(repetitions):
            self.networks.initialise(group, seeds.torch_generator(seed, *self._stream(repetition, "init")))
        self.optimiser = optimiser(settings, self.networks.flat)
        self.epoch = 0
        self.curves = torch.full((G, C, settings.max_epochs + 1, len(METRICS)), math.nan, dtype=torch.float64)
        self.failed = torch.zeros(G, C, dtype=torch.int64)
        self.snapshot: dict[str, Tensor] = {}
        self._training_space, self._evaluation_space = Workspace(), Workspace()

    def _stream(self, repetition: int, name: str, *more: int) -> tuple[str | int, ...]:
        # Neither the noise condition nor the worker appears here: that is what pairs conditions. The split of the
        # clips does not appear either, so both video tasks start from the same weights.
        task = "video" if self.task.startswith("video") else self.task
        return (task, self.cell, repetition, name, *more)

    def _generators(self, name: str, epoch: int) -> list[torch.Generator]:
        return [
            seeds.torch_generator(self.seed, *self._stream(r, name, epoch), device=self.device)
            for r in self.repetitions
        ]

    def _draw(
        self, generators: list[torch.Generator], shape: tuple[int, ...], axis: int, uniform: bool = False
    ) -> Tensor:
        sample = torch.rand if uniform else torch.randn
        draws = [sample(shape, generator=g, dtype=self.dtype, device=self.device) for g in generators]
        return draws[0].unsqueeze(axis) if len(draws) == 1 else torch.stack(draws, axis)

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield ``(G, B)`` positions of training sequences: each group in its own order."""
        count = len(self.train)
        orders = torch.stack(
            [
                torch.randperm(count, generator=seeds.torch_generator(self.seed, *self._stream(r, "batches", epoch)))
                for r in self.repetitions
            ]
        )
        yield from orders.split(self.settings.batch_size, dim=1)

    def _gather(self, data: Sequences, rows: Tensor, space: Workspace) -> tuple[Tensor, Tensor]:
        """Return inputs ``(T, G, I + 1, B')`` and targets ``(1, G, 1, K, B')`` of sequences ``rows`` ``(G, B)``.

        B' is B padded with zeros to a multiple of ``LANES``.
        """
        rows = rows.to(data.index.device)
        slices = data.pool[data.index[rows]].to(self.device)
        G, B, T, inputs = slices.shape
        x = space.take("x", (T, G, inputs + 1, B + -B % LANES), self.networks.flat)
        x[..., B:] = 0
        x[:, :, :inputs, :B] = slices.permute(2, 0, 3, 1)
        x[:, :, inputs, :B] = 1
        targets = data.targets[rows].to(self.device, self.dtype).transpose(1, 2)
        return x, torch.nn.functional.pad(targets, (0, -B % LANES))[None, :, None]

    def gradients(
        self,
        x: Tensor,
        target: Tensor,
        draws: GateDraws | None,
        noise: tuple[Tensor, Tensor, Tensor | None] | None,
        columns: int,
    ) -> dict[str, Tensor]:
        """Run one forward and backward pass; leave the gradients in ``networks.grad``.

        Args:
            x: ``(T, G, I + 1, B)`` inputs.
            target: ``(1, G, 1, K, B)`` clean targets, the same for every slice from t0 on.
            draws: gate noise.
            noise: output noise: σ ``(C,)``, standard normal draws ``(S, G, 1, K, B)``, and those to test.
            columns: how many of the B columns are no padding.

        Returns:
            ``loss`` ``(G, C)``: the noisy objective per sequence; ``output`` and ``hidden`` acceptance.
        """
        net, head = self.networks, self.problem.head
        run = net.forward(x, draws, self._training_space)
        h = run.h[self.first :]
        activation = activations(head, net.outputs(h))
        out: dict[str, Tensor] = {}
        if noise is not None:
            sigma, normal, test_normal = noise
            increment, accepted = output_increment(
                self.stack.output, head, target, activation, sigma, normal, test_normal
            )
            target = target + increment
            out["output"] = accepted[..., :columns].to(self.dtype).mean((0, 3, 4))
        if run.acceptance is not None:
            out["hidden"] = run.acceptance
        out["loss"] = errors(head, target, activation)[..., :columns].sum(0).mean(-1)
        grad = error_gradient(head, target, activation).mul_(1 / columns)
        grad[..., columns:] = 0
        grad_flat = grad.flatten(1, 2)
        U_t = net.U.flatten(0, 1).transpose(1, 2)
        grad_h = torch.stack([torch.bmm(U_t, each) for each in grad_flat]).unflatten(1, (net.G, net.C))
        torch.sum(grad, (0, 4), out=net.grad_b[..., 0])
        # One product per slice; with t0 = T, the usual case, there is one.
        products = [torch.bmm(g, each.flatten(0, 1).transpose(1, 2)) for g, each in zip(grad_flat, h, strict=True)]
        net.grad_U.copy_(
            torch.stack(products).sum(0).view_as(net.grad_U) if len(products) > 1 else products[0].view_as(net.grad_U)
        )
        net.backward(run, grad_h, self.first, self._training_space)
        return out

    def _train_epoch(self) -> dict[str, Tensor]:
        """Train for one epoch; return means over it, each ``(G, C)``."""
        epoch, T, J = self.epoch, self.problem.slices, self.settings.hidden
        S, K = T - self.first, self.problem.outputs
        like, gates, output = self.networks.flat, self.stack.gates, self.stack.output
        streams = {
            name: self._generators(name, epoch) for name in ("gate", "gate-test", "latent", "output", "output-test")
        }
        sigma_hidden = None if gates is None else self.stack.sigma("hidden", self.settings, epoch, like)
        sigma_output = self.stack.sigma("output", self.settings, epoch, like)
        totals: dict[str, Tensor] = {}
        for rows in self._batches(epoch):
            x, target = self._gather(self.train, rows, self._training_space)
            columns, B = rows.shape[1], x.shape[3]
            draws = noise = None
            if gates is not None and sigma_hidden is not None:
                shape = (T, 1, GATES[self.cell], J, B)
                draws = GateDraws(
                    gates,
                    sigma_hidden,
                    self._draw(streams["gate"], shape, 1),
                    self._draw(streams["gate-test"], shape, 1) if gates.needs_test_draw else None,
                    self._draw(streams["latent"], shape, 1, uniform=True) if gates.needs_uniform else None,
                    columns,
                )
            if output.active:
                layer = (S, 1, K, B)
                test = self._draw(streams["output-test"], layer, 1) if output.needs_test_draw else None
                noise = (sigma_output, self._draw(streams["output"], layer, 1), test)
            means = self.gradients(x, target, draws, noise, columns)
            self.optimiser.step()
            for name, value in means.items():
                weighted = value.double() * (columns / len(self.train))
                totals[name] = totals[name] + weighted if name in totals else weighted
        return totals

    @torch.no_grad()
    def measure(self, data: Sequences, outputs: bool = False) -> dict[str, Tensor]:
        """Measure clean losses without noise.

        Args:
            data: sequences to measure on.
            outputs: also return the last slice's activations.

        Returns:
            ``loss`` ``(G, C)`` per sequence in scaled units, ``accuracy`` ``(G, C)`` for classes, and
            ``activation`` ``(G, C, N, K)``.
        """
        head, G = self.problem.head, len(self.repetitions)
        loss: Tensor | None = None
        correct: Tensor | None = None
        kept = []
        for rows in torch.arange(len(data)).split(EVALUATION_BATCH[self.device.type]):
            x, target = self._gather(data, rows.unsqueeze(0), self._evaluation_space)
            run = self.networks.forward(x.expand(-1, G, -1, -1), None, self._evaluation_space, keep=False)
            activation = activations(head, self.networks.outputs(run.h[self.first :]))[..., : len(rows)]
            target = target[..., : len(rows)]
            part = errors(head, target, activation).sum((0, 3), dtype=torch.float64)
            loss = part if loss is None else loss + part
            if head == "softmax":
                hits = (activation[-1].argmax(-2) == target[-1].argmax(-2)).sum(-1, dtype=torch.float64)
                correct = hits if correct is None else correct + hits
            if outputs:
                kept.append(activation[-1].transpose(-1, -2).cpu())
        if loss is None:
            raise ValueError("expected at least one sequence to measure on, found none")
        out = {"loss": loss / len(data)}
        if correct is not None:
            out["accuracy"] = correct / len(data)
        if kept:
            out["activation"] = torch.cat(kept, 2)
        return out

    @torch.no_grad()
    def noise_benefit(self) -> Tensor:
        """Measure Q_N - Q of the gate noise, (70) less (68), on a few training sequences with draws of its own.

        One importance sample per sequence: for additive noise the benefit does not depend on the samples, for
        multiplicative noise z is the mean field g, or sampled from the prior, as ``training.latent`` says.

        Returns:
            ``(G, C')`` nats per sequence, summed over slices and gates, for the networks with gate noise.
        """
        gates = self.stack.gates
        if gates is None:
            raise ValueError("expected conditions with gate noise, found none")
        rows = torch.arange(min(BENEFIT_BATCH, len(self.probe)))
        x, _ = self._gather(self.probe, rows.unsqueeze(0), self._evaluation_space)
        x, logits = x.expand(-1, len(self.repetitions), -1, -1), []  # type: ignore[var-annotated]
        run = lstm_forward if self.cell == "lstm" else gru_forward
        run(x, self.networks.W, self.networks.V, logits=logits)
        shape = (1, GATES[self.cell], self.settings.hidden, x.shape[3])
        sigma = self.stack.sigma("hidden", self.settings, self.epoch, self.networks.flat)
        streams = [self._generators(f"benefit-{name}", self.epoch) for name in ("normal", "test", "uniform")]
        total = x.new_zeros(len(self.repetitions), len(gates))
        for each in logits:
            logit = each[:, : len(gates)].unflatten(2, (GATES[self.cell], -1))
            gate = torch.sigmoid(logit)
            normal, test = (self._draw(generators, shape, 0) for generators in streams[:2])
            uniform = self._draw(streams[2], shape, 0, uniform=True)
            delta, _ = gate_increment(gates, logit, gate, sigma, normal, test_normal=test, uniform=uniform)
            latent = (uniform < gate).to(gate) if gates.latent == "sampled" else gate.clone()
            increment = delta.clone()
            increment[:, gates.rows.multiplicative] *= latent[:, gates.rows.multiplicative]
            likelihood = logit.new_zeros((1, *logit.shape[:3], logit.shape[4]))
            part = theory_noise_benefit(
                likelihood, latent.transpose(-1, -2)[None], logit.transpose(-1, -2), increment.transpose(-1, -2)[None]
            )
            total += part[..., : len(rows)].sum(2).mean(-1)
        return total

    def _record(self, totals: dict[str, Tensor]) -> None:
        """Write one row of the learning curves and mark networks that are no longer finite."""
        row = dict.fromkeys(METRICS, torch.full((len(self.repetitions), len(self.stack.conditions)), math.nan).double())
        unit = self.problem.target_scale**2
        for name, data in (("train", self.probe), ("test", self.test)):
            found = self.measure(data)
            row[f"{name}_loss"] = found["loss"].cpu() * unit
            if "accuracy" in found:
                row[f"{name}_accuracy"] = found["accuracy"].cpu()
        if "loss" in totals:
            row["noisy_loss"] = totals["loss"].double().cpu()
        if "output" in totals:
            noisy = torch.tensor([c.in_output for c in self.stack.conditions])
            row["acceptance_output"] = totals["output"].double().cpu().where(noisy, math.nan)
        if "hidden" in totals:
            hidden = row["acceptance_hidden"].clone()
            hidden[:, : totals["hidden"].shape[1]] = totals["hidden"].double().cpu()
            row["acceptance_hidden"] = hidden
        if self.training.noise_benefit and self.stack.gates is not None:
            benefit = row["noise_benefit"].clone()
            benefit[:, : len(self.stack.gates)] = self.noise_benefit().double().cpu()
            row["noise_benefit"] = benefit
        finite = torch.isfinite(row["train_loss"]) & torch.isfinite(row["test_loss"])
        for group, network in (~finite & (self.failed == 0)).nonzero().tolist():
            self.failed[group, network] = max(self.epoch, 1)
            self._park(group, network)
        self.curves[:, :, self.epoch] = torch.stack([row[name] for name in METRICS], -1)
        self.curves[:, :, self.epoch][self.failed > 0] = math.nan

    def _park(self, group: int, network: int) -> None:
        """Set a failed network and its optimiser state to zero, so that it costs no time on NaNs."""
        self.networks.zero(self.networks.flat, group, network)
        for state in self.optimiser.state.values():
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == self.networks.flat.shape:
                    self.networks.zero(value, group, network)

    def _take_snapshot(self) -> None:
        """Keep predictions and parameters as they are at epoch R."""
        activation = self.measure(self.test, outputs=True)["activation"]
        if self.problem.head == "softmax":
            predictions = activation.exp().float()
        else:
            predictions = (activation.double() * self.problem.target_scale + self.problem.target_offset).float()
        self.snapshot = {"predictions": predictions, "parameters": self.networks.flat.clone()}

    def state(self) -> dict[str, Tensor]:
        """Return everything that resuming needs."""
        state = {
            "flat": self.networks.flat,
            "curves": self.curves,
            "failed": self.failed,
            "epoch": torch.tensor(self.epoch),
        }
        for name, value in self.optimiser.state.get(self.networks.flat, {}).items():
            if isinstance(value, Tensor):
                state[f"optimiser.{name}"] = value
        return state | {f"snapshot.{name}": value for name, value in self.snapshot.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state that :meth:`state` returned."""
        self.networks.flat.copy_(state["flat"])
        self.curves, self.failed = state["curves"].cpu(), state["failed"].cpu()
        self.epoch = int(state["epoch"])
        kept = {name.split(".", 1)[1]: value for name, value in state.items() if name.startswith("optimiser.")}
        if kept:
            self.optimiser.state[self.networks.flat] = {
                name: value.cpu() if name == "step" and self.device.type == "cpu" else value
                for name, value in kept.items()
            }
        self.snapshot = {name.split(".", 1)[1]: value for name, value in state.items() if name.startswith("snapshot.")}

    @torch.no_grad()
    def run(self, checkpoints: Path | None = None, progress: Callable[[int], None] | None = None) -> list[Repetition]:
        """Train to ``max_epochs`` and return one result per repetition.

        Args:
            checkpoints: folder for checkpoints; ``None`` keeps none.
            progress: called with the number of finished network epochs after every epoch.
        """
        name = "-".join(str(r) for r in self.repetitions) + ".safetensors"
        saved = None if checkpoints is None else checkpoint.load(checkpoints / name, self.device)
        if saved is not None:
            self.restore(saved)
            if progress is not None:
                progress(self.epoch)
        else:
            self._record({})
        while self.epoch < self.settings.max_epochs:
            totals = self._train_epoch()
            self.epoch += 1
            self._record(totals)
            if self.epoch == self.settings.epochs:
                self._take_snapshot()
            last = self.epoch == self.settings.max_epochs
            if checkpoints is not None and (last or self.epoch % self.training.checkpoint_every == 0):
                checkpoint.save(checkpoints / name, self.state())
            if progress is not None:
                progress(1)
        return self._results()

    def _results(self) -> list[Repetition]:
        names = [c.name for c in self.stack.conditions]
        order = torch.tensor([names.index(name) for name in self.training.conditions])
        views = self.networks.by_network(self.snapshot["parameters"])
        return [
            Repetition(
                number,
                tuple(self.training.conditions),
                self.curves[group, order],
                self.failed[group, order],
                self.snapshot["predictions"][group, order].cpu(),
                [{name: view[group, c].clone().cpu() for name, view in views.items()} for c in order.tolist()],
            )
            for group, number in enumerate(self.repetitions)
        ]
