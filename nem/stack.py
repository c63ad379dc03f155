"""Many small networks trained side by side: the parameters, the noise and the gradients of a stack.

A stack has G groups of C networks. A group is one repetition of an experiment: its networks share inputs, targets
and the draws behind their noise, and nothing but their noise condition tells them apart.

    >>> from nem.stack import Batch, Networks, Size, StackNoise, gradients
    >>> networks = Networks(Size("lstm", groups=1, networks=13, inputs=4, hidden=50, outputs=1))
    >>> networks.initialise(0, torch.Generator().manual_seed(1))
    >>> noise, batch = StackNoise.of(CONDITIONS), Batch.of(torch.randn(1, 64, 7, 4), torch.randn(1, 64, 1))
    >>> sigma = {layer: noise.sigma(layer, lambda layer, mode: 0.1) for layer in ("hidden", "output")}
    >>> draws = noise.draws(networks, batch, sigma, lambda name, shape: torch.randn(shape, generator=generator))
    >>> means = gradients(networks, batch, "identity", noise, draws)  # and the gradients in networks.grad

Shapes: T slices, S of them with a target (the last ones), G groups, C networks per group, I inputs, J hidden units, K
outputs, B sequences of a batch, padded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from nem import cells, fast
from nem.cells import BLOCKS, GATES
from nem.conditions import Condition, Kind, Mode
from nem.fast import Goal, Workspace
from nem.kernels import LANES
from nem.names import CellName, Granularity, Head, Injection, Latent, OutputDelta, OutputTest
from nem.noise import Combination, Draws, GateNoise, OutputNoise, stacked

Layer = Literal["output", "hidden"]


class Size(NamedTuple):
    """The size of a stack."""

    cell: CellName
    groups: int
    networks: int  # per group
    inputs: int
    hidden: int
    outputs: int


class Networks:
    """The parameters of G·C networks as views of one flat buffer, which an optimiser updates in one pass.

    They are zero at first. ``grad``, which is ``flat.grad``, has the gradients in the layout of ``flat``.
    """

    def __init__(self, size: Size, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.size, G, C = size, size.groups, size.networks
        rows = BLOCKS[size.cell] * size.hidden
        self.shapes = {
            "W": (G, size.inputs + 1, C, rows),  # input weights, the biases last; row blocks as in nem.cells
            "V": (G, C, rows, size.hidden),  # recurrent weights
            "U": (G, C, size.outputs, size.hidden),  # output weights
            "b": (G, C, size.outputs, 1),  # output biases
        }
        total = sum(math.prod(shape) for shape in self.shapes.values())
        total += -total % LANES
        self.flat, self.grad = (torch.zeros(total, dtype=dtype, device=device) for _ in range(2))
        self.flat.grad = self.grad
        self.W, self.V, self.U, self.b = self.views(self.flat).values()
        self.grad_W, self.grad_V, self.grad_U, self.grad_b = self.views(self.grad).values()

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the named views of a buffer in this layout."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = flat[: sum(sizes)].split(sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def by_network(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the named views with leading axes ``(G, C)``; W becomes ``(G, C, I + 1, blocks·J)``."""
        return {name: view.transpose(1, 2) if name == "W" else view for name, view in self.views(flat).items()}

    def initialise(self, group: int, generator: torch.Generator) -> None:
        """Give all networks of a group the same U(-1/√J, 1/√J) draws, torch's default for both layers."""
        bound = 1 / math.sqrt(self.size.hidden)
        for view in self.by_network(self.flat).values():
            draw = torch.rand(view.shape[2:], generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)
            view[group] = draw.to(view.dtype)

    def zero(self, flat: Tensor, group: int, network: int) -> None:
        """Set one network's part of a buffer to zero."""
        for view in self.by_network(flat).values():
            view[group, network] = 0

    def forward(self, batch: "Batch", space: Workspace | None = None) -> Tensor:
        """Return the hidden states ``(T, G, C, J, B)`` of a noiseless pass, valid until the next one in ``space``.

        Inputs that the batch has for one group are those of all.
        """
        if fast.serves(batch.given, None):
            return fast.forward(self.size.cell, batch.given, (self.W, self.V), space=space, keep=False,
                                place=batch.place).h  # fmt: skip
        with torch.no_grad():
            x = batch.x.expand(-1, self.size.groups, -1, -1)
            return cells.forward(self.size.cell, cells.project(x, self.W), self.V).h

    def outputs(self, h: Tensor) -> Tensor:
        """Return the output neurons' inputs (B.12): ``(S, G, C, J, B)`` to ``(S, G, C, K, B)``."""
        parts = [torch.baddbmm(self.b.flatten(0, 1), self.U.flatten(0, 1), states.flatten(0, 1)) for states in h]
        return _stacked(parts).view(len(h), self.size.groups, self.size.networks, self.size.outputs, -1)


def _stacked(slices: list[Tensor]) -> Tensor:
    """Return slices along a new first axis; of a single one, no copy."""
    return slices[0].unsqueeze(0) if len(slices) == 1 else torch.stack(slices)


def state_dict(cell: CellName, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return one network of a stack under torch's names: the layer's parameters, ``head.weight`` and ``head.bias``.

    Given are W ``(I + 1, blocks·J)``, its last row the biases, V ``(blocks·J, J)``, U ``(K, J)`` and b ``(K, 1)``, with
    the row blocks of :mod:`nem.cells`.
    """
    W, V = (parameters[name] for name in ("W", "V"))
    J = V.shape[1]
    into, back = W.t().split(J), V.split(J)
    if cell == "lstm":  # torch: input, forget, candidate, output
        weight_ih, weight_hh = (torch.cat([rows[k] for k in (0, 1, 3, 2)]) for rows in (into, back))
    else:  # torch: reset, update, candidate; its update gate is 1 minus the paper's
        weight_ih = torch.cat([into[2], -into[1], into[0]])
        weight_hh = torch.cat([back[1], -back[0], back[2]])
    bias = weight_ih[:, -1]
    tensors = {"weight_ih_l0": weight_ih[:, :-1], "weight_hh_l0": weight_hh, "bias_ih_l0": bias}
    tensors["bias_hh_l0"] = torch.zeros_like(bias)  # the paper has one bias per gate
    tensors |= {"head.weight": parameters["U"], "head.bias": parameters["b"].reshape(-1)}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


OptimiserName = Literal["sgd", "adam", "rmsprop"]


def optimiser(name: OptimiserName, flat: Tensor, learning_rate: float, momentum: float = 0.0) -> torch.optim.Optimizer:
    """Return torch's optimiser over one flat buffer: its update rules are elementwise. ValueError: another name."""
    if name == "sgd":
        return torch.optim.SGD([flat], lr=learning_rate, momentum=momentum, fused=True)
    if name == "adam":
        return torch.optim.Adam([flat], lr=learning_rate, fused=True)
    if name == "rmsprop":
        return torch.optim.RMSprop([flat], lr=learning_rate, momentum=momentum)
    raise ValueError(f"expected one of {', '.join(get_args(OptimiserName))}, found {name!r}")


class Batch(NamedTuple):
    """Sequences that all networks of a group see, padded with zeros to a multiple of ``LANES``.

    A slice that is no part of its sequence, before its first one, is zero as a whole, its one included: then states
    and their gradients stay exactly zero there, whatever noise enters the gates (docs/theory.md).
    """

    given: (
        Tensor  # (T, G, I + 1, B) inputs with a last row of ones; zeros are padding; or (1, G, I + 1, D) distinct ones
    )
    target: Tensor  # (1, G, 1, K, B) clean targets, the same for every slice that has one
    columns: int  # how many of the B sequences are no padding
    place: Tensor | None = None  # (G, T, B) which of D distinct slices are a sequence's; ``None``: there are none given

    @property
    def x(self) -> Tensor:
        """The inputs ``(T, G, I + 1, B)``, each sequence with slices of its own."""
        if self.place is None:
            return self.given
        spread = [x[:, place] for x, place in zip(self.given[0], self.place, strict=True)]
        return torch.stack(spread).permute(2, 0, 1, 3)

    @property
    def extent(self) -> tuple[int, int]:
        """T and B."""
        return fast.extent(self.given, self.place)

    @classmethod
    def sharing(cls, pool: Tensor, index: Tensor, targets: Tensor, space: Workspace) -> "Batch":
        """Lay out sequences that share slices, rows ``index`` ``(G, B, T)`` int64 of ``pool`` ``(P, I)``.

        Otherwise as :meth:`of`: valid until the next batch in ``space``; a row of -1 lies before its sequence's first.
        Products with inputs, which are worth it if these are many, are made once for each slice.
        """
        (G, B, T), count, padding = index.shape, pool.shape[1], -index.shape[1] % LANES
        index = functional.pad(index.transpose(1, 2), (0, padding), value=-1).contiguous()  # (G, T, B)
        own = [rows.unique() for rows in index]  # -1 is the first, if there is any
        D = -(-max(map(len, own)) // LANES) * LANES
        x = space.take("distinct", (G * (count + 1) * T * (B + padding),), targets)
        x = x[: G * (count + 1) * D].view(1, G, count + 1, D)
        place = torch.empty_like(index)
        for group, rows in enumerate(own):
            torch.searchsorted(rows, index[group], out=place[group])
            there, absent = len(rows), int(rows[0] < 0)
            x[0, group, :count, :there] = pool[rows.clamp_min(0)].t()
            x[0, group, count, :there] = 1
            x[0, group, :, :absent] = 0
            x[0, group, :, there:] = 0
        return cls(x, functional.pad(targets.transpose(1, 2), (0, padding))[None, :, None], B, place)

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, space: Workspace | None = None, real: Tensor | None = None) -> "Batch":
        """Lay out inputs ``(G, B, T, I)`` and targets ``(G, B, K)``, valid until the next batch in ``space``.

        Sequences that are shorter end with slice T; what is false in ``real`` ``(G, B, T)`` lies before their first.
        """
        G, B, T, count = inputs.shape
        padding = -B % LANES
        x = (space or Workspace()).take("x", (T, G, count + 1, B + padding), targets)
        x[..., B:] = 0
        x[:, :, :count, :B] = inputs.permute(2, 0, 3, 1)
        x[:, :, count, :B] = 1
        if real is not None:
            x[..., :B].masked_fill_(~real.permute(2, 0, 1).unsqueeze(2), 0)
        return cls(x, functional.pad(targets.transpose(1, 2), (0, padding))[None, :, None], B)


class StackDraws(NamedTuple):
    """The draws of a stack in one pass; ``None`` where no network has noise in that layer."""

    gates: Draws | None = None
    output: Draws | None = None
    penalty: Tensor | None = None  # (C',) or (G, C') standard deviations of the noise that :func:`penalise` stands for


@dataclass(frozen=True)
class StackNoise:
    """The noise conditions of a group's networks, those with gate noise first, then those with its penalty."""

    conditions: tuple[Condition, ...]  # in the networks' order
    gates: GateNoise | None  # gate noise of the first ``len(gates)`` networks, if there is any
    output: OutputNoise | None  # output noise of all networks, if there is any
    penalty: GateNoise | None = None  # blind gate noise of the next ``len(penalty)`` networks, whose mean they have

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        *,
        granularity: Granularity = "slice",
        latent: Latent = "mean-field",
        injection: Injection = "forward",
        clamp: bool = False,
        test: OutputTest = "likelihood",
    ) -> "StackNoise":
        """Sort the conditions called ``names``; options are those of the two signals of :mod:`nem.noise`.

        A ValueError says that options do not fit a condition.
        """
        kinds = ("nem", "matched", "blind", "expected-nem", "reversed-nem", "expected-reversed-nem")
        parsed = [Condition.parse(name) for name in names]
        hidden = [c for c in parsed if c.in_hidden and c.kind != "expected-blind"]
        hidden.sort(key=lambda condition: (condition.mode != "additive", kinds.index(condition.kind)))
        mean = [c for c in parsed if c.in_hidden and c.kind == "expected-blind"]
        if mean and injection == "backward":
            raise ValueError(f"expected noise with a loss for {mean[0].name}, found injection 'backward'; use forward")
        conditions = (*hidden, *mean, *(condition for condition in parsed if not condition.in_hidden))
        gates = GateNoise(*stacked([(c.kind, c.mode) for c in hidden]), granularity, latent, injection, clamp)
        places: list[tuple[Kind, Mode | Combination | None]] = [
            (c.kind, c.mode) if c.in_output and c.kind != "expected-blind" else ("none", None) for c in conditions
        ]
        output = OutputNoise(*stacked(places), granularity, test)
        penalty = GateNoise(*stacked([("blind", c.mode) for c in mean]), injection=injection, clamp=clamp)
        return cls(
            conditions,
            gates if hidden else None,
            output if any(mode for _, mode in places) else None,
            penalty if mean else None,
        )

    def __len__(self) -> int:
        """Number of networks per group."""
        return len(self.conditions)

    def sigma(self, layer: Layer, strength: Callable[[Layer, Mode], float], like: Tensor | None = None) -> Tensor:
        """Return the standard deviations of a layer's noise: ``strength(layer, mode)``, 0 where no noise enters.

        One per network for ``output``, one per network with gate noise or its penalty for ``hidden``; in type and place
        of ``like``.
        """
        modes: list[Mode | Combination | None] = [None] * len(self) if layer == "output" else []
        if layer == "output" and self.output is not None:
            modes = [*self.output.modes]
        elif layer == "hidden":
            modes = [mode for part in (self.gates, self.penalty) if part is not None for mode in part.modes]
        values = [0.0 if mode is None or callable(mode) else strength(layer, mode) for mode in modes]
        like = torch.empty(0) if like is None else like
        return torch.tensor(values, dtype=like.dtype, device=like.device)

    def draws(
        self,
        networks: Networks,
        batch: Batch,
        sigma: dict[Layer, Tensor],
        sample: Callable[[str, tuple[int, ...]], Tensor],
        first: int = -1,
    ) -> StackDraws:
        """Return the draws of one pass; ``first`` is that of :func:`gradients`.

        Standard deviations are those of :meth:`sigma`, or several of these, stacked: one for each group.
        ``sample(name, shape)`` gives the next draws ``(slices, groups, …)`` of a stream: ``gate``, ``gate-test``,
        ``output``, ``output-test`` (standard normal) or ``latent`` (uniform on [0, 1)).
        """
        size, (T, B) = networks.size, batch.extent
        hidden = (T, size.groups, 1, GATES[size.cell], size.hidden, B)
        outputs = (T - first % T, size.groups, 1, size.outputs, B)
        names = {"normal": ("gate", "output"), "test": ("gate-test", "output-test"), "uniform": ("latent", "")}
        gates, output, noisy = self.gates, self.output, len(self.gates or ())
        return StackDraws(
            None
            if gates is None
            else gates.draws(sigma["hidden"][..., :noisy], lambda name: sample(names[name][0], hidden)),
            None if output is None else output.draws(sigma["output"], lambda name: sample(names[name][1], outputs)),
            None if self.penalty is None else sigma["hidden"][..., noisy:],
        )


def activations(head: Head, outputs: Tensor) -> Tensor:
    """Return log a of softmax neurons (38), a of identity neurons (42), logit a of logistic ones; K is axis -2."""
    return torch.log_softmax(outputs, -2) if head == "softmax" else outputs


def errors(head: Head, target: Tensor, activation: Tensor) -> Tensor:
    """Return the error summed over K: cross entropy (39), squared error (43), double cross entropy; ``(S, G, C, B)``.

    The last, -Σ y log a + (1 - y) log(1 - a), is that of logistic neurons.
    """
    if head == "identity":
        return (target - activation).square().sum(-2)
    plain = -(target * activation).sum(-2)
    return plain if head == "softmax" else plain + functional.softplus(activation).sum(-2)


def error_gradient(head: Head, target: Tensor, activation: Tensor, delta: OutputDelta = "loss") -> Tensor:
    """Return what backpropagation starts from in the output neurons' inputs: 2(a - y), and a - y of logistic neurons.

    For softmax it is the cross entropy's gradient a·Σy - y (``loss``), or a - y as (B.21) prints (``literal``), another
    signal where noisy targets do not sum to 1.
    """
    if head == "softmax":
        a = activation.exp()
        return (a if delta == "literal" else a * target.sum(-2, keepdim=True)) - target
    if head == "logistic":
        return torch.sigmoid(activation) - target
    return 2 * (activation - target)


def gradients(
    networks: Networks,
    batch: Batch,
    head: Head,
    noise: StackNoise,
    draws: StackDraws,
    first: int = -1,
    space: Workspace | None = None,
    output_delta: OutputDelta = "loss",
) -> dict[str, Tensor]:
    """Run one forward and backward pass; leave the gradients in ``networks.grad``.

    The error of :func:`errors` is summed over K and over the slices from ``first`` on, and averaged over the batch.
    That is 0-based; negative counts from the end. Compiled where :func:`nem.fast.serves` says so, else by autograd
    through :mod:`nem.cells`; ``space`` has buffers to reuse; ``output_delta`` is that of :func:`error_gradient`.

    Returns ``loss`` ``(G, C)``, the noisy objective per sequence; ``output`` ``(G, C)`` and ``hidden`` ``(G, C')``, the
    share of draws that were injected, if there is such noise.
    """
    gates = None if noise.gates is None or draws.gates is None else (noise.gates, draws.gates)
    output = None if noise.output is None or draws.output is None else (noise.output, draws.output)
    goal = Goal(head, batch.target, batch.columns, first % batch.extent[0], output_delta, output)
    if fast.serves(batch.given, noise.gates if gates else None) and fast.serves_targets(output):
        parts = networks.views(networks.flat), networks.views(networks.grad)
        cell, place = networks.size.cell, batch.place
        means = fast.train(cell, batch.given, *parts, goal, noise=gates, space=space, place=place)
    else:
        means = _gradients(networks, batch.x, goal, gates, space)
    if noise.penalty is not None and draws.penalty is not None:
        begin = len(noise.gates or ())
        means["loss"][:, begin : begin + len(noise.penalty)] += penalise(networks, batch, head, noise, draws, first)
    return means


def _gradients(
    networks: Networks, x: Tensor, goal: Goal, gates: tuple[GateNoise, Draws] | None, space: Workspace | None
) -> dict[str, Tensor]:
    """Do what :func:`nem.fast.train` does, for every device, precision and kind of noise."""
    (G, C), (head, target, columns, first, delta, noise), means = networks.size[1:3], goal, {}
    states, back = _recurrent(networks, x, gates, first, space)
    h = states.h[first:].detach()
    with torch.no_grad():
        activation = activations(head, networks.outputs(h))
        if noise is not None:
            increment, accepted = noise[0].increments(head, target, activation, noise[1])
            target = target + increment
            means["output"] = accepted[..., :columns].to(h.dtype).mean((0, 3, 4))
        if states.acceptance is not None:
            means["hidden"] = states.acceptance
        means["loss"] = errors(head, target, activation)[..., :columns].sum(0).mean(-1)
        grad = error_gradient(head, target, activation, delta).mul_(1 / columns)
        grad[..., columns:] = 0
        grad_flat, U_t = grad.flatten(1, 2), networks.U.flatten(0, 1).transpose(1, 2)
        grad_h = _stacked([torch.bmm(U_t, slices) for slices in grad_flat]).unflatten(1, (G, C))
        torch.sum(grad, (0, 4), out=networks.grad_b[..., 0])
        products = [torch.bmm(g, now.flatten(0, 1).transpose(1, 2)) for g, now in zip(grad_flat, h, strict=True)]
        total = torch.stack(products).sum(0) if len(products) > 1 else products[0]
        networks.grad_U.copy_(total.view_as(networks.grad_U))
    back(grad_h)
    return means


def penalise(
    networks: Networks, batch: Batch, head: Head, noise: StackNoise, draws: StackDraws, first: int = -1
) -> Tensor:
    """Add the gradient of blind gate noise's mean effect to ``networks.grad``; return that effect ``(G, C')``.

    Over increments δ ~ N(0, σ²I) of all gates the error is ℓ + ½σ² tr ∂²ℓ/∂δ² + O(σ⁴) on average. This is the
    Gauss-Newton part of the trace, Σ fᵀ(∂²ℓ/∂o²)f over gates with f = ∂o/∂δ, in the output neurons' inputs o: what
    the noise makes of the prediction's variance. Left out is ∂ℓ/∂o·tr ∂²o/∂δ², what it makes of its mean.
    Networks are those with ``noise.penalty``, σ are ``draws.penalty``; ``docs/theory.md``, "Blind noise in gates".
    """
    layer, sigma, G = noise.penalty, draws.penalty, networks.size.groups
    if layer is None or sigma is None:
        raise ValueError("expected networks with a penalty, found none; use a condition expected-blind-…-hidden")
    # On a CPU one group after another: autograd's sums over several are rounded by how many these are.
    batch = batch._replace(given=batch.x, place=None)
    alone = [slice(g, g + 1) for g in range(G)] if batch.given.device.type == "cpu" else [slice(0, G)]
    sigma, begin = sigma.expand(G, -1), len(noise.gates or ())
    parts = [_penalise(networks, batch, head, (layer, sigma[groups]), first, groups, begin) for groups in alone]
    return torch.cat(parts)


def _penalise(
    networks: Networks,
    batch: Batch,
    head: Head,
    noise: tuple[GateNoise, Tensor],
    first: int,
    groups: slice,
    begin: int,
) -> Tensor:
    """Do what :func:`penalise` does to some groups, whose networks with a penalty ``begin`` at a place."""
    (layer, sigma), size, x = noise, networks.size, batch.x[:, groups]
    own = slice(begin, begin + len(layer))
    with torch.enable_grad():
        leaves = [networks.W[groups, :, own], *(part[groups, own] for part in (networks.V, networks.U, networks.b))]
        W, V, U, b = leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        shape = (len(x), x.shape[1], len(layer), GATES[size.cell], size.hidden, x.shape[3])
        delta = W.new_zeros(shape).requires_grad_()
        silent = layer, Draws(torch.zeros_like(sigma), delta.detach())
        h = cells.forward(size.cell, cells.project(x, W), V, noise=silent, shift=delta).h[first % len(x) :]
        outputs = (U @ h + b)[..., : batch.columns]
        total = outputs.new_zeros(shape[1:3])
        for slices in outputs.unbind(0):
            slopes = [torch.autograd.grad(o.sum(), delta, create_graph=True)[0] for o in slices.unbind(-2)]
            f = torch.stack(slopes, -2)[..., : batch.columns]  # (T, G, C', n, J, K, B)
            if head == "softmax":
                a = torch.softmax(slices, -2)[:, :, None, None]
                curved = (a * f.square()).sum(-2) - (a * f).sum(-2).square()
            elif head == "logistic":
                a = torch.sigmoid(slices)[:, :, None, None]
                curved = (a * (1 - a) * f.square()).sum(-2)
            else:
                curved = 2 * f.square().sum(-2)
            total = total + curved.sum((0, 3, 4, 5))
        penalty = 0.5 * sigma.square() * total / batch.columns
        gradients = torch.autograd.grad(penalty.sum(), leaves, allow_unused=True)
    whole = (
        networks.grad_W[groups, :, own],
        *(part[groups, own] for part in (networks.grad_V, networks.grad_U, networks.grad_b)),
    )
    for view, gradient in zip(whole, gradients, strict=True):
        if gradient is not None:  # of identity neurons the biases do not matter, nor recurrent weights of one slice
            view.add_(gradient)
    return penalty.detach()


def _recurrent(
    networks: Networks, x: Tensor, gates: tuple[GateNoise, Draws] | None, first: int, space: Workspace | None
) -> tuple[cells.Pass | fast.Pass, Callable[[Tensor], object]]:
    """Run the recurrent layer; return the pass, and what fills ``grad_W`` and ``grad_V`` from the gradient of h."""
    cell = networks.size.cell
    if fast.serves(x, None if gates is None else gates[0]):
        done = fast.forward(cell, x, (networks.W, networks.V), noise=gates, space=space)
        return done, lambda grad_h: fast.backward(cell, done, grad_h, (networks.grad_W, networks.grad_V))
    with torch.enable_grad():
        W, V = networks.W.detach().requires_grad_(), networks.V.detach().requires_grad_()
        states = cells.forward(cell, cells.project(x, W), V, noise=gates, real=x[:, :, -1])
        scored = states.h[first:]

    def autograd(grad_h: Tensor) -> None:
        grad_W, grad_V = torch.autograd.grad(scored, (W, V), grad_h, allow_unused=True)
        networks.grad_W.copy_(grad_W)
        # With one slice, the recurrent weights have no effect.
        networks.grad_V.copy_(torch.zeros_like(V) if grad_V is None else grad_V)

    return states, autograd
