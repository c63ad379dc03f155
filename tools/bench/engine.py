"""The training engine and the layers against what else trains such networks.

An engine row is one gradient step of one network among all networks of a task, on all cores: draws, the update and the
losses after each epoch included. What is done once, the start of processes above all, has a row of its own: trainings
have 100 epochs. Peers train one network after another (``torch.nn``, a compiled plain cell) or several at once
(``torch.func.vmap`` over a functional cell) in this process, which has started; with as many threads as suit them.
They measure losses after each epoch, too, and have no noise.
"""

import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nem import CONDITIONS, Noise, NoisyGRU, NoisyLSTM
from nem import stack as stack_of
from nem.cells import BLOCKS
from nem.densities import standard
from nem.fast import Workspace
from nem.kernels import product
from nem.names import CellName
from nem.stack import Batch, Layer, Networks, StackNoise, gradients
from pipeline.common import jobs
from pipeline.common.sequences import Dataset, Sequences
from pipeline.training import train
from pipeline.training.engine import Engine
from pipeline.training.settings import NoiseTable, Settings, Strength
from tools.bench.rows import Row, fastest, median, medians

OURS, PEER = {"lstm": NoisyLSTM, "gru": NoisyGRU}, {"lstm": nn.LSTM, "gru": nn.GRU}
CELLS: tuple[CellName, ...] = ("lstm", "gru")
LAYERS = ((64, 50, 32, 128), (64, 4, 4, 50))  # B, T, I, J of the layers' rows
AIMS = {"FX": (8.5, 12.0), "real video": (4.0, 4.0), "paper's video": (1.5, 1.5)}  # times torch.nn, of both CELLS
BATCH, PROBE, MEASURED = 64, 1024, 128  # sequences of a step, of the training loss, and of peers' measuring passes


@dataclass(frozen=True)
class Size:
    """A task's size, and how much of it is measured."""

    train: int  # sequences
    test: int
    T: int
    inputs: int
    hidden: int
    outputs: int
    epochs: int
    repetitions: int  # of all conditions

    @property
    def steps(self) -> int:
        """Gradient steps of an epoch."""
        return math.ceil(self.train / BATCH)

    @property
    def measured(self) -> float:
        """Forward passes for losses, per gradient step."""
        return sum(math.ceil(n / BATCH) for n in (min(PROBE, self.train), self.test)) / self.steps


SIZES = {
    "FX": Size(8000, 1664, 4, 4, 50, 1, 4, 10),
    "real video": Size(2048, 512, 7, 128, 64, 11, 4, 4),
    "paper's video": Size(128, 64, 7, 2048, 256, 11, 4, 2),
    "demo rates": Size(1977, 419, 4, 4, 50, 1, 6, 4),  # a tenth of the demo's epochs
    "demo videos": Size(259, 52, 7, 2048, 32, 11, 3, 4),
}
NOISES = {kind: [name for name in CONDITIONS if name.startswith(kind)] for kind in ("none", "blind", "nem")}
PLACES_OF_NOISE: tuple[Layer, ...] = ("hidden", "output")


@lru_cache(1)
def dataset(size: Size) -> Dataset:
    """Return random data of a task's size: cost does not depend on content."""

    def part(count: int) -> Sequences:
        generator = torch.Generator().manual_seed(1)
        pool, rows = torch.randn(count * size.T, size.inputs, generator=generator), torch.arange(count)
        values = pool[:: size.T, :1].contiguous()
        if size.outputs > 1:
            values = functional.one_hot(rows % size.outputs, size.outputs).float()
        return Sequences(pool, torch.arange(count * size.T).view(count, size.T), values, rows)

    classes, head = tuple(map(str, range(size.outputs))), "softmax" if size.outputs > 1 else "identity"
    classes = classes if size.outputs > 1 else ()
    return Dataset(part(size.train), part(size.test), None, head, 1.0, 0.0, "", classes, {})  # type: ignore[arg-type]


Job = tuple[Size, Settings, tuple[int, ...]]


def stack(job: Job) -> None:
    """Train some repetitions of a task's networks."""
    size, settings, numbers = job
    Engine(dataset(size), settings, seed=1, stream="bench", repetitions=numbers).run()


def plan(size: Size, cell: CellName, conditions: Sequence[str] = CONDITIONS) -> Settings:
    """Return what is trained."""
    noise = NoiseTable(*(Strength(0.1, 0.5),) * 4)
    return Settings(cell, size.hidden, size.epochs, size.epochs, BATCH, "sgd", 0.01, 0.0, noise, tuple(conditions))


def dealt(settings: Settings, size: Size, repetitions: int) -> list[Job]:
    """Return the jobs that train so many repetitions, as a stage deals them: long ones first."""
    most = math.ceil(repetitions / jobs.workers())
    deal = train.deal(range(repetitions), len(settings.conditions), "cpu", most, jobs.workers())
    return [(size, settings, numbers) for numbers in sorted(deal, key=len, reverse=True)]


def elapsed(function: Callable[[Any], object], items: Sequence[Any], executor: str | None = None) -> float:
    """Return how long jobs take, together and with the start of whatever runs them [s]."""
    start = time.perf_counter()
    list(jobs.run(function, items, total=len(items), label=executor or "jobs", where=executor))
    return time.perf_counter() - start


def ours(size: Size, cell: CellName) -> tuple[float, float]:
    """Return gradient steps of a network per second in the engine, and what is done once [s], start included.

    Both are of two trainings, one of a single epoch.
    """

    def took(epochs: int) -> float:
        own = replace(size, epochs=epochs)
        return elapsed(stack, dealt(plan(own, cell), own, size.repetitions))

    single, all_of = took(1), took(1 + size.epochs)
    seconds = (all_of - single) / size.epochs
    return size.repetitions * len(CONDITIONS) * size.steps / seconds, single - seconds


def floor(size: Size, cell: CellName) -> float:
    """Return the steps per second that this machine's products and memory allow.

    Those are the products of the very shapes, each alone and from the cache, on every core; and the bytes of
    activations, each written once and read once forward and backward, at the bandwidth of a copy.
    """
    rows, J, T, inputs = BLOCKS[cell] * size.hidden, size.hidden, size.T, size.inputs + 1
    recurrent = _product(rows, J, BATCH)  # V h
    back = _product(J, rows, BATCH) + _product(rows, BATCH, J)  # Vᵀ δ and dV
    into, into_back = _product(rows, inputs, T * BATCH), _product(inputs, T * BATCH, rows)
    forward, backward = (T - 1) * recurrent + into, (T - 1) * back + into_back
    activations = 4 * T * BATCH * (rows + 2 * J)  # bytes
    moved = activations * (3 + size.measured) / bandwidth(max(activations, 2**20))
    return jobs.workers() / (forward * (1 + size.measured) + backward + moved)


@lru_cache(64)
def _product(rows: int, inner: int, columns: int) -> float:
    """Return the time of a matrix product [s], by torch's or numpy's library or our own, whichever is the fastest."""
    a, b, out = torch.rand(rows, inner), torch.rand(inner, columns), torch.empty(rows, columns)
    rounds = max(1, int(2e8 / (2 * rows * inner * columns)))
    arrays = a.numpy(), b.numpy(), out.numpy()
    with jobs.one_thread():
        several = (lambda: [torch.mm(a, b, out=out) for _ in range(rounds)],
                   lambda: [np.dot(*arrays) for _ in range(rounds)],
                   lambda: [product(arrays[0], False, arrays[1], arrays[2], False) for _ in range(rounds)])  # fmt: skip
        return min(median(work, 7) for work in several) / rounds


@lru_cache(4)
def bandwidth(size: int) -> float:
    """Return bytes read and written per second by a copy of so many bytes."""
    source, destination = (np.ones(size, np.uint8) for _ in range(2))
    return 2 * size / median(lambda: np.copyto(destination, source), 50)


def one_by_one(size: Size, cell: CellName, epochs: int, device: str = "cpu") -> None:
    """Train one network with ``torch.nn``."""
    recurrent = PEER[cell](size.inputs, size.hidden, batch_first=True, device=device)
    head = nn.Linear(size.hidden, size.outputs, device=device)
    parameters = [*recurrent.parameters(), *head.parameters()]
    trained(size, epochs, parameters, lambda x: head(recurrent(x)[0][:, -1]))


def compiled(size: Size, cell: CellName, epochs: int) -> None:
    """Train one network of a plain cell that torch compiles."""
    parameters, network = [p.requires_grad_() for p in plain_parameters(size, cell)], by_inductor(cell)
    trained(size, epochs, parameters, lambda x: network(x, *parameters))


@lru_cache(2)
def by_inductor(cell: CellName) -> Callable[..., Tensor]:
    """Return the compiled cell, which compiles anew for other shapes."""
    return torch.compile(partial(plain, cell), dynamic=False)


def trained(size: Size, epochs: int, parameters: list[Tensor], network: Callable[[Tensor], Tensor]) -> None:
    """Train a network with autograd and torch's optimiser."""
    data, optimiser, device = dataset(size), torch.optim.SGD(parameters, lr=0.01), parameters[0].device
    train, *others = (part.to(device) for part in (data.train, probe(data), data.test))
    for part in epochs * (train, *others):
        training = part is train
        with torch.set_grad_enabled(training):
            for rows in torch.randperm(len(part), device=device).split(BATCH if training else MEASURED):
                error = loss(network(part.pool[part.index[rows]]), part.targets[rows])
                if training:
                    optimiser.zero_grad()
                    error.backward()
                    optimiser.step()


def at_once(size: Size, cell: CellName, epochs: int) -> None:
    """Train as many networks as there are conditions with ``torch.func.vmap``."""
    data = dataset(size)
    parameters = [torch.stack([p] * len(CONDITIONS)) for p in plain_parameters(size, cell)]

    def error(x: Tensor, y: Tensor, *own: Tensor) -> Tensor:
        return loss(plain(cell, x, *own), y)

    places = tuple(range(2, 2 + len(parameters)))
    each = (None, None, *(0 for _ in parameters))
    slope, measure = torch.func.vmap(torch.func.grad(error, places), each), torch.func.vmap(error, each)
    for part in epochs * (data.train, probe(data), data.test):
        for rows in torch.randperm(len(part)).split(BATCH if part is data.train else MEASURED):
            x, y = part.pool[part.index[rows]], part.targets[rows]
            if part is data.train:
                torch._foreach_add_(parameters, slope(x, y, *parameters), alpha=-0.01)
            else:
                measure(x, y, *parameters)


def probe(data: Dataset) -> Sequences:
    """Return the training sequences that the training loss is measured on."""
    return data.train.subset(torch.arange(min(PROBE, len(data.train))))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the error of a batch."""
    return (
        functional.mse_loss(outputs, targets) if targets.shape[1] == 1 else functional.cross_entropy(outputs, targets)
    )


def plain_parameters(size: Size, cell: CellName) -> list[Tensor]:
    """Return input and recurrent weights, biases, output weights and biases."""
    rows, J, K = BLOCKS[cell] * size.hidden, size.hidden, size.outputs
    shapes = ((rows, size.inputs), (rows, J), (rows,), (K, J), (K,))
    return [(torch.rand(shape) * 2 - 1) / math.sqrt(J) for shape in shapes]


def plain(cell: CellName, x: Tensor, W: Tensor, V: Tensor, b: Tensor, U: Tensor, c: Tensor) -> Tensor:
    """Return outputs ``(B, K)`` of a network as its equations are."""
    J = V.shape[1]
    h = s = x.new_zeros(x.shape[0], J)
    for t in range(x.shape[1]):
        u, v = x[:, t] @ W.T + b, h @ V.T
        if cell == "lstm":
            i, f, o, g = (u + v).split(J, 1)
            s = torch.sigmoid(i) * torch.tanh(g) + torch.sigmoid(f) * s
            h = torch.sigmoid(o) * torch.tanh(s)
        else:
            (u_c, u_z, u_r), (v_z, v_r, v_c) = u.split(J, 1), v.split(J, 1)
            z, r = torch.sigmoid(u_z + v_z), torch.sigmoid(u_r + v_r)
            h = z * torch.tanh(u_c + r * v_c) + (1 - z) * h
    return h @ U.T + c


def layer(cell: CellName, size: tuple[int, int, int, int], noise: Noise | None) -> tuple[float, float]:
    """Return how long a training step of our layer and of torch's takes [ms]."""
    B, T, inputs, hidden = size
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(T, B, inputs, generator=draw)
    mine, peer = OURS[cell](inputs, hidden, noise=noise), PEER[cell](inputs, hidden)
    took = fastest(lambda: mine(x, generator=draw)[0].sum().backward(), 20)
    return 1e3 * took, 1e3 * fastest(lambda: peer(x)[0].sum().backward(), 20)


def noise_costs(size: Size, cell: CellName) -> dict[str, float]:
    """Return steps of a network per second of a core, draws and gradients, in stacks of 13 without and with noise."""
    C, G, K = len(CONDITIONS), 3 if size.inputs < 64 else 1, size.outputs
    networks = Networks(stack_of.Size(cell, G, C, size.inputs, size.hidden, K))
    generator = torch.Generator().manual_seed(1)
    for group in range(G):
        networks.initialise(group, generator)
    x = torch.randn(G, BATCH, size.T, size.inputs, generator=generator)
    y = functional.one_hot(torch.arange(BATCH) % K, K).float().expand(G, BATCH, K) if K > 1 else x[:, :, 0, :1]
    batch, space = Batch.of(x, y), Workspace()

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        out = space.take(name, (G, shape[0], *shape[2:]), x)  # as the engine does
        for group in out:
            standard("gaussian", group.shape, x, generator, group)
        return out.transpose(0, 1)

    def step(noise: StackNoise, sigma: dict[Layer, Tensor]) -> None:
        draws = noise.draws(networks, batch, sigma, drawn)
        gradients(networks, batch, dataset(size).head, noise, draws, space=space)

    works = []
    for names in NOISES.values():
        noise = StackNoise.of([*itertools.islice(itertools.cycle(names), C)])
        works.append(partial(step, noise, {place: noise.sigma(place, lambda *_: 0.1) for place in PLACES_OF_NOISE}))
    with jobs.one_thread(), torch.no_grad():
        took = medians(works, 40 if size.inputs < 1000 else 3)
    return {kind: C * G / seconds for kind, seconds in zip(NOISES, took, strict=True)}


def rows() -> Iterator[Row]:
    """Yield the rows of engine and layers."""
    elapsed(dataset, [SIZES["demo rates"]] * 2)  # loads what workers come from
    for name, cell in itertools.product(("FX", "real video", "paper's video"), CELLS):
        torch.compiler.reset()  # past its limit of shapes, the compiled peer would not be compiled
        size, what = SIZES[name], f"{name}, {cell.upper()}"
        count = len(CONDITIONS) * size.repetitions
        speeds = noise_costs(size, cell)  # first, since it compiles
        (mine, once), allowed = ours(size, cell), floor(size, cell)
        peers = {
            f"nn.{cell.upper()} one by one": (one_by_one, 1, f"aim {AIMS[name][cell == 'gru']:g}, 60% of the floor"),
            "a compiled plain cell, one by one": (compiled, 1, ""),
            "torch.func.vmap of a cell, 13 at once": (at_once, len(CONDITIONS), ""),
        }
        for peer, (function, networks, aim) in peers.items():
            speed = networks * size.steps / fastest(partial(function, size, cell, 1), 1)
            yield Row("engine", f"{what}, {count} networks: {peer}", mine, "steps/s", speed, allowed, aim)
        yield Row("engine", f"{what}, {count} networks: what is done once, the start of workers included", once, "s")
        for kind, aim in (("blind", ""), ("nem", "aim 0.91")):
            about = f"{what}, a core, {kind} noise: none"
            yield Row("engine", about, speeds[kind], "steps/s", speeds["none"], note=aim)
    for shape, cell, noise in itertools.product(LAYERS, CELLS, (Noise("nem", "additive", 0.1), None)):
        about = "layer, {} {} noise, B {} T {} I {} J {}".format(cell.upper(), "NEM" if noise else "no", *shape)
        took, peers_took = layer(cell, shape, noise)
        yield Row("engine", f"{about}: nn.{cell.upper()}", took, "ms", peers_took)


def gpu_rows() -> Iterator[Row]:
    """Yield the rows of one stack of all networks on a GPU, if there is one; they have never been run (docs)."""
    if not torch.cuda.is_available():
        print("gpu: no CUDA device here")
        return
    for name, cell in itertools.product(("FX", "paper's video"), CELLS):
        size = SIZES[name]
        count, steps, few = len(CONDITIONS) * size.repetitions, size.epochs * size.steps, size.steps

        def all_at_once(size: Size = size, cell: CellName = cell) -> None:
            numbers = range(size.repetitions)
            Engine(dataset(size), plan(size, cell), seed=1, stream="bench", repetitions=numbers, device="cuda").run()

        peer = few / median(partial(one_by_one, size, cell, 1, "cuda"), 1)
        what = f"{name}, {cell.upper()}, {count} networks: nn.{cell.upper()} one by one on the GPU"
        yield Row("gpu", what, count * steps / median(all_at_once, 1), "steps/s", peer)


def jobs_rows() -> Iterator[Row]:
    """Yield the rows of executors: processes against a Ray cluster of this machine alone, their start included."""
    demo = {name: [job for cell in CELLS for job in dealt(plan(SIZES[name], cell), SIZES[name], 4)]
            for name in ("demo rates", "demo videos")}  # fmt: skip
    there = importlib.util.find_spec("ray") is not None
    note = "" if there else "Ray is not installed: make setup CLUSTER=1"
    cases: list[tuple[str, Callable[[Any], object], Sequence[Any]]] = [("1,000 jobs of nothing", str, range(1000))]
    cases += [(f"jobs of the {name}, a tenth of its epochs", stack, items) for name, items in demo.items()]
    for name, function, items in cases:
        peer = elapsed(function, items, "ray") if there else None
        yield Row("jobs", f"{name}: Ray", elapsed(function, items, "process"), "s", peer, note=note)
