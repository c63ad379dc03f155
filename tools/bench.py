"""The engine against its peer, side by side in one run: ``make bench``.

The peer trains the same networks one after another with ``torch.nn.LSTM`` / ``nn.GRU``, autograd and ``torch.optim``
(same data, sizes, batch, optimiser and losses measured after each epoch), in one process with torch's default number
of threads and, again, with one; the faster of the two counts. A few of its networks are trained and the rest
counted at the same cost, since they are all alike. The engine trains all of them, start of its processes included.

``--memory`` instead writes features of the paper's size to a temporary folder (4 GB), trains on them as stage train
does, with the paper's networks and repetitions but for two steps, and prints how much memory was resident (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline import params, paths
from pipeline.conditions import CONDITIONS
from pipeline.params import CellTraining, Training
from pipeline.recurrent.kernels import CellName
from pipeline.training import executor
from pipeline.training.engine import Engine
from pipeline.training.problem import Problem, Sequences

SIZES = {"fx": (7997, 1696, 4, 4, 50, 1, 64), "video": (256, 64, 7, 2048, 256, 11, 64)}
"""Training and test sequences, T, I, J, K, B."""


def made_problem(task: str) -> Problem:
    """Return a problem of the task's size with random content: cost does not depend on it."""
    train, test, T, inputs, _, outputs, _ = SIZES[task]
    generator = torch.Generator().manual_seed(1)

    def part(count: int) -> Sequences:
        pool = torch.randn(count * T, inputs, generator=generator)
        index = torch.arange(count * T).view(count, T)
        if task == "fx":
            targets = pool.view(count, T, inputs)[:, -1, :1].contiguous()
        else:
            targets = nn.functional.one_hot(torch.arange(count) % outputs, outputs).float()
        return Sequences(pool, index, targets, torch.arange(count))

    return Problem(part(train), part(test), "identity" if task == "fx" else "softmax", 1.0, 0.0, (), {})


def settings_of(task: str, epochs: int) -> CellTraining:
    """Return SGD settings of the task's size."""
    _, _, _, _, J, _, B = SIZES[task]
    return CellTraining(hidden=J, batch_size=B, epochs=epochs, max_epochs=epochs, optimiser="sgd", learning_rate=0.01)


def peer(task: str, cell: CellName, epochs: int, models: int) -> float:
    """Train ``models`` networks one after another; return seconds per network and epoch."""
    problem, settings = made_problem(task), settings_of(task, epochs)
    data, test = problem.train, problem.test
    probe = data.subset(torch.linspace(0, len(data) - 1, min(1024, len(data))).long())
    start = time.perf_counter()
    for _ in range(models):
        layer_class = nn.LSTM if cell == "lstm" else nn.GRU
        layer = layer_class(problem.inputs, settings.hidden, batch_first=True)
        head = nn.Linear(settings.hidden, problem.outputs)
        optimiser = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=settings.learning_rate)
        criterion = nn.MSELoss() if task == "fx" else nn.CrossEntropyLoss()
        for _ in range(epochs):
            for rows in torch.randperm(len(data)).split(settings.batch_size):
                optimiser.zero_grad()
                loss = criterion(head(layer(data.pool[data.index[rows]])[0][:, -1]), data.targets[rows])
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                for part in (probe, test):
                    for rows in torch.arange(len(part)).split(256):
                        criterion(head(layer(part.pool[part.index[rows]])[0][:, -1]), part.targets[rows]).item()
    return (time.perf_counter() - start) / models / epochs


def stack(job: tuple[str, CellName, int, tuple[int, ...], bool]) -> float:
    """Train one job's repetitions of 13 networks each; return its seconds."""
    task, cell, epochs, repetitions, noisy = job
    names = list(CONDITIONS) if noisy else ["none"] * len(CONDITIONS)
    # model_construct: thirteen noiseless networks are no valid experiment, only a yardstick.
    training = Training.model_construct(**{**Training().model_dump(), "conditions": names})
    engine = Engine(
        made_problem(task), cell, settings_of(task, epochs), training, seed=1, task=task, repetitions=list(repetitions)
    )
    start = time.perf_counter()
    engine.run()
    return time.perf_counter() - start


def compare(task: str, cell: CellName, epochs: int, repetitions: int, peers: int) -> None:
    """Print one comparison."""
    from pipeline.training.train import deal, weights_of

    networks = len(CONDITIONS) * repetitions
    default = torch.get_num_threads()
    found = {}
    for threads in sorted({1, default}):
        torch.set_num_threads(threads)
        peer(task, cell, 1, 1)
        found[threads] = peer(task, cell, epochs, peers)
    torch.set_num_threads(default)
    one_by_one = min(found.values()) * networks * epochs
    _, _, _, inputs, hidden, _, _ = SIZES[task]
    dealt = deal(repetitions, "cpu", weights_of(cell, inputs, hidden))
    jobs = [(task, cell, epochs, part, True) for part in dealt]
    start = time.perf_counter()
    list(executor.run(stack, jobs, total=repetitions * epochs, label=f"{task} {cell}"))
    together = time.perf_counter() - start
    train, _, _, _, _, _, B = SIZES[task]
    per_thread = ", ".join(f"{1e3 * value:.0f} ms with {threads} thread(s)" for threads, value in found.items())
    steps = networks * epochs * -(-train // B)
    print(f"{task} {cell}: {networks} networks, {epochs} epochs, {executor.workers()} workers")
    print(f"  torch.nn one after another  {one_by_one:8.1f} s  (network and epoch: {per_thread})")
    print(f"  stacked engine              {together:8.1f} s  ratio {one_by_one / together:.2f}")
    print(f"  per network and step        {1e3 * one_by_one / steps:8.2f} ms against {1e3 * together / steps:.2f} ms")


def noise_cost(task: str, cell: CellName, epochs: int, rounds: int = 3) -> None:
    """Print what the noise costs, pairwise in turn on one core."""
    torch.set_num_threads(1)
    ratios = []
    for _ in range(rounds):
        noisy = stack((task, cell, epochs, (0, 1, 2), True))
        quiet = stack((task, cell, epochs, (0, 1, 2), False))
        ratios.append(noisy / quiet)
    ratios.sort()
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{task} {cell}: 13 conditions take {ratios[len(ratios) // 2]:.2f} times 13 noiseless networks ({shown})")


PAPER_CLIPS, SLICES, PAPER_CLASSES = 36_000, 7, 11
"""Clips of the paper, here without a frame in common: the largest pool that they can have."""
STEP_CLIPS = 128
"""Training clips that are trained on: two steps."""


def write_paper_scale() -> None:
    """Write features and clips of the paper's size, with random content, below the working directory."""
    from pipeline.video import clips, features

    rows = PAPER_CLIPS * SLICES
    random = np.random.default_rng(1)
    chunk = random.standard_normal((features.CHUNK, 2048), np.float32)

    def chunks() -> Iterator[features.Vectors]:
        for start in range(0, rows, features.CHUNK):
            yield chunk[: min(features.CHUNK, rows - start)]

    columns: dict[str, Sequence[object]] = {
        "video_id": [f"{row // SLICES:05d}" for row in range(rows)],
        "frame_index": list(range(rows)),
        "timestamp_s": [0.0] * rows,
        "samples": [1] * rows,
    }
    features.save(paths.FEATURES, columns, chunks, {"content": "random"})
    sides = np.full(PAPER_CLIPS, "unused")
    chosen = random.permutation(PAPER_CLIPS)
    sides[chosen[:STEP_CLIPS]], sides[chosen[STEP_CLIPS : 2 * STEP_CLIPS]] = "train", "test"
    numbers = np.arange(PAPER_CLIPS, dtype=np.int32)
    names = np.array([f"{number:05d}" for number in numbers])
    label, classes = numbers % PAPER_CLASSES, tuple(f"class {k:02d}" for k in range(PAPER_CLASSES))
    index = np.arange(rows, dtype=np.int32).reshape(PAPER_CLIPS, SLICES)
    made = clips.Clips(numbers, names, label, names, index, np.zeros(PAPER_CLIPS), sides, sides, classes)
    clips.save(made, paths.CLIPS_TABLE)


def train_at_paper_scale(folder: Path, cell: CellName, repetitions: int) -> None:
    """Run stage train below ``folder`` with the paper's networks, for two steps (in a process of its own)."""
    from pipeline.training import train
    from pipeline.video import features

    os.chdir(folder)
    content = params.Params(tasks=["video"]).model_dump() | {"sources": ["video"], "cells": [cell]}
    content["training"]["repetitions"] = repetitions
    content["train"]["video"][cell] |= {"epochs": 1, "max_epochs": 1}
    # An epoch of all clips would read the whole pool: do so in its batches, and keep it mapped.
    pool = features.load(paths.FEATURES_TABLE).vectors
    for rows in torch.randperm(len(pool) // SLICES, generator=torch.Generator().manual_seed(1)).split(64):
        pool[rows[:, None] * SLICES + torch.arange(SLICES)].sum()
    train.train("video", cell, params.validate(content))


def family(process: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [process]
    for parent in found:
        try:
            for file in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, file.read_text().split())
        except OSError:
            continue  # it ended
    return found


def resident(process: int) -> tuple[float, float]:
    """Return GiB resident in a process and its descendants, pages that they share counted once: own, and with files."""
    own = whole = 0
    for each in family(process):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        own += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
        whole += sizes["Pss"]
    return own / 2**20, whole / 2**20


def memory(cell: CellName, repetitions: int) -> None:
    """Print the most memory that training at the paper's scale has resident."""
    with tempfile.TemporaryDirectory() as name:
        home = Path.cwd()
        os.chdir(name)
        try:
            write_paper_scale()
        finally:
            os.chdir(home)
        worker = multiprocessing.get_context("spawn").Process(
            target=train_at_paper_scale, args=(Path(name), cell, repetitions)
        )
        worker.start()
        own = whole = 0.0
        while worker.is_alive() and worker.pid is not None:
            now = resident(worker.pid)
            own, whole = max(own, now[0]), max(whole, now[1])
            worker.join(0.05)
        if worker.exitcode:
            raise ChildProcessError(f"expected the training to finish, found exit status {worker.exitcode}")
    pool = PAPER_CLIPS * SLICES * 2048 * 4 / 2**30
    print(
        f"video {cell}: 13 conditions x {repetitions} repetitions, {executor.workers()} workers, a pool of {pool:.2f} "
        f"GiB: at most {own:.2f} GiB of own memory resident, {whole:.2f} GiB with pages of mapped files"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20, help="of the exchange rate; videos take half")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--task", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--memory", action="store_true", help="measure memory at the paper's scale instead")
    options = parser.parse_args(arguments)
    if options.memory:
        memory("lstm", options.repetitions)
        return 0
    cells: tuple[CellName, ...] = ("lstm", "gru")
    for cell in cells:
        if options.task in ("fx", "all"):
            compare("fx", cell, options.epochs, options.repetitions, peers=3)
            noise_cost("fx", cell, 2)
        if options.task in ("video", "all"):
            # A network costs so much here that a few repetitions tell what ten would.
            compare("video", cell, max(1, options.epochs // 2), min(4, options.repetitions), peers=1)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"largest worker: {usage:.2f} GiB resident")
    return 0


if __name__ == "__main__":
    sys.exit(main())
