"""The layers and the engine against torch.nn, side by side in one run: ``make bench``.

A *layer* row is one training step (forward and backward) of one network; an *engine* row is one step of one network
among all conditions and repetitions of a task, losses after each epoch and the start of processes included. The peer is
``torch.nn`` with autograd and ``torch.optim``. Ratios are peer / ours: above 1 we are faster. *Jobs* rows compare
executors: processes and a Ray cluster of this machine alone, their start included.
"""

import importlib.util
import itertools
import platform
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from nem import CONDITIONS, Noise, NoisyGRU, NoisyLSTM
from nem.cells import CellName
from pipeline.common import jobs
from pipeline.common.sequences import Dataset, Sequences
from pipeline.training.engine import Engine
from pipeline.training.settings import NoiseTable, Settings, Strength

OURS, PEER = {"lstm": NoisyLSTM, "gru": NoisyGRU}, {"lstm": nn.LSTM, "gru": nn.GRU}
CELLS: tuple[CellName, ...] = ("lstm", "gru")
LAYERS = ((64, 50, 32, 128), (64, 4, 4, 50))  # B, T, I, J of the layers' rows
# Training and test sequences, T, I, J, K and epochs: the paper's days, few of its clips, and the demo's two tasks.
SIZES = {
    "days": (7997, 1696, 4, 4, 50, 1, 20), "clips": (256, 64, 7, 2048, 256, 11, 4),
    "demo rates": (1977, 419, 4, 4, 50, 1, 60), "demo videos": (259, 52, 7, 2048, 32, 11, 30),
}  # fmt: skip
BATCH, REPETITIONS = 64, 4


def timed(work: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call [ms], with one thread or torch's default number, whichever is faster."""
    medians = []
    for threads in (jobs.one_thread, nullcontext):  # one thread is BLAS's, too: several wait for each other
        with threads():
            times = timeit.repeat(work, number=1, repeat=rounds + 1)[1:]  # the first does not count
            medians.append(1e3 * statistics.median(times))
    return min(medians)


def layer(cell: CellName, size: tuple[int, int, int, int], noise: Noise | None) -> tuple[float, float]:
    """Return how long a training step of our layer and of torch's takes [ms]."""
    B, T, inputs, hidden = size
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(T, B, inputs, generator=draw)
    ours, peer = OURS[cell](inputs, hidden, noise=noise), PEER[cell](inputs, hidden)
    mine = timed(lambda: ours(x, generator=draw)[0].sum().backward(), 20)
    return mine, timed(lambda: peer(x)[0].sum().backward(), 20)


def dataset(task: str) -> Dataset:
    """Return random data of a task's size: cost does not depend on content."""
    train, test, T, inputs, _, outputs, _ = SIZES[task]

    def part(count: int) -> Sequences:
        pool, rows = torch.randn(count * T, inputs, generator=torch.Generator().manual_seed(1)), torch.arange(count)
        values = nn.functional.one_hot(rows % outputs, outputs).float() if outputs > 1 else pool[::T, :1].contiguous()
        return Sequences(pool, torch.arange(count * T).view(count, T), values, rows)

    classes = tuple(map(str, range(outputs))) if outputs > 1 else ()
    return Dataset(part(train), part(test), None, "softmax" if classes else "identity", 1.0, 0.0, "", classes, {})


def stack(job: tuple[str, Settings, int]) -> None:
    """Train one repetition of a task's networks."""
    task, settings, repetition = job
    Engine(dataset(task), settings, seed=1, stream=task, repetitions=[repetition]).run()


def one_by_one(task: str, cell: CellName, epochs: int) -> None:
    """Train one network with torch.nn."""
    data, hidden = dataset(task), SIZES[task][4]
    recurrent, head = PEER[cell](data.inputs, hidden, batch_first=True), nn.Linear(hidden, data.outputs)
    optimiser = torch.optim.SGD([*recurrent.parameters(), *head.parameters()], lr=0.01)
    loss = nn.MSELoss() if data.outputs == 1 else nn.CrossEntropyLoss()
    probe = data.train.subset(torch.arange(min(1024, len(data.train))))
    for part, size in epochs * ((data.train, BATCH), (probe, 256), (data.test, 256)):
        with torch.set_grad_enabled(part is data.train):
            for rows in torch.randperm(len(part)).split(size):
                error = loss(head(recurrent(part.pool[part.index[rows]])[0][:, -1]), part.targets[rows])
                if part is data.train:
                    optimiser.zero_grad()
                    error.backward()
                    optimiser.step()


def elapsed(function: Callable[[Any], object], items: Sequence[Any], executor: str | None = None) -> float:
    """Return how long jobs take, together and with the start of whatever runs them [ms]."""
    start = time.perf_counter()
    list(jobs.run(function, items, total=len(items), label=executor or "jobs", where=executor))
    return 1e3 * (time.perf_counter() - start)


def across(function: Callable[[Any], object], items: Sequence[Any]) -> tuple[float, float]:
    """Return how long jobs take in processes and on Ray [ms]."""
    return elapsed(function, items, "process"), elapsed(function, items, "ray")


def repetitions(task: str, cell: CellName) -> list[tuple[str, Settings, int]]:
    """Return the jobs that train all conditions in some repetitions of a task."""
    *_, hidden, _, epochs = SIZES[task]
    noise = NoiseTable(*(Strength(0.1, 0.5),) * 4)
    settings = Settings(cell, hidden, epochs, epochs, BATCH, "sgd", 0.01, 0.0, noise, CONDITIONS)
    return [(task, settings, number) for number in range(REPETITIONS)]


def engine(task: str, cell: CellName) -> tuple[float, float]:
    """Return how long a step of one network takes in the engine, and with torch.nn [ms]."""
    train, *_, epochs = SIZES[task]
    steps, together = epochs * -(-train // BATCH), elapsed(stack, repetitions(task, cell))
    return together / len(CONDITIONS) / REPETITIONS / steps, timed(lambda: one_by_one(task, cell, epochs), 1) / steps


def show(name: str, ours: float, peer: float) -> None:
    """Print a row."""
    print(f"{name:<44}{ours:9.2f} ms {peer:9.2f} ms  ratio {peer / ours:5.2f}", flush=True)


if __name__ == "__main__":
    print(f"{platform.machine()}, {jobs.workers()} workers, torch {torch.__version__}\n{'':<44}{'ours':>12} torch.nn")
    for size, cell, noise in itertools.product(LAYERS, CELLS, (Noise("nem", "additive", 0.1), None)):
        what = f"layer {cell} {'NEM' if noise else 'no'} noise, B={size[0]} T={size[1]} I={size[2]} J={size[3]}"
        show(what, *layer(cell, size, noise))
    for task, cell in itertools.product(("days", "clips"), CELLS):
        show(f"engine {task} {cell}, 13 conditions", *engine(task, cell))
    if importlib.util.find_spec("ray"):
        print(f"{'':<44}{'processes':>12} Ray")
        rates, videos = (
            [job for cell in CELLS for job in repetitions(task, cell)] for task in ("demo rates", "demo videos")
        )
        show("jobs of nothing, 1,000", *across(str, range(1000)))
        for name, items in (("rates", rates), ("videos", videos)):
            show(f"jobs of the demo's {name}", *across(stack, items))
    else:
        print("jobs on Ray: not installed, `make setup CLUSTER=1`")
