"""The one way of training: settings in, repetitions out; for the stage train, the search and the study alike.

A stack of networks is a job. Some forty networks share the cost of a step as well as more of them do, so several
repetitions form a stack, also those of works that differ in learning rate and strengths of noise alone; few repetitions
are dealt by condition, so that every core is busy. No operation mixes networks and no draw knows what trains beside it,
so a repetition's bytes do not depend on the deal. Finished repetitions are kept until whoever asked for them forgets
them.
"""

import itertools
import math
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from nem.cells import BLOCKS, GATES
from pipeline.common import jobs, kept, paths, records, seeds, sequences
from pipeline.training import models, results
from pipeline.training.engine import EVALUATION_BATCH, METRICS, Engine, Repetition
from pipeline.training.settings import Settings

CODE = (
    *(f"nem.{name}" for name in ("names", "conditions", "densities", "gaussian", "noise", "cells", "stack", "fast")),
    "nem.kernels",
    *(f"nem.theory.{name}" for name in ("gains", "expected", "gem", "montecarlo", "recursions")),
    *(f"pipeline.common.{name}" for name in ("seeds", "sequences", "jobs")),
    *(f"pipeline.training.{name}" for name in ("settings", "engine", "train")),
)
"""Modules whose code decides what a repetition is."""

Validation = Literal["joined", "apart"]
Order = Literal["kept", "shuffled", "shuffled for testing"]
Item = TypeVar("Item")

STACK = 40
"""Networks in a stack, from which on more of them share no more of a step's cost (docs/performance.md)."""

MEMORY = 2**33
"""Bytes of a GPU for a stack of several works: what every GPU has, so that all deal alike."""


@dataclass(frozen=True)
class Work:
    """Networks to train on one data set with one setting: all conditions in some repetitions."""

    data: Path  # folder of sequences
    split: str | None  # ``None`` is the first
    validation: Validation  # ``joined`` to the training sequences, or ``apart``: measured at epoch R
    settings: Settings
    seed: int  # root of the seed tree
    stream: str  # the task's name in the seed tree
    repetitions: tuple[int, ...]  # their numbers
    device: str  # ``cpu`` or ``cuda``
    stride: int = 1  # train on every so-manieth training sequence
    groups: int | None = None  # train on so many groups of each class, for as many steps as on all
    order: Order = "kept"  # of slices within a sequence
    networks: bool = False  # return the trained networks, of each condition at least the best one
    checkpoint_every: int | None = None  # epochs from one half-trained state to the next; ``None`` keeps none

    @property
    def alike(self) -> "Work":
        """What works have in common whose repetitions may form one stack."""
        return replace(self, settings=self.settings.shared(), repetitions=())


_Pair: TypeAlias = tuple[Work, int]  # and the number of one of its repetitions


@dataclass(frozen=True)
class _Stack:
    """Repetitions that train as one stack, and where their half-trained state is kept."""

    pairs: tuple[_Pair, ...]  # of works that are alike
    kept: kept.Kept  # of the first of these works

    @property
    def work(self) -> Work:
        """The first work, which stands for all in what these have in common."""
        return self.pairs[0][0]

    @property
    def repetitions(self) -> tuple[int, ...]:
        return tuple(number for _, number in self.pairs)

    @property
    def half_trained(self) -> str:
        """The state's name, a different one for different pairs."""
        return "half-trained " + " ".join(f"{number} {work.settings}" for work, number in self.pairs)

    def by_work(self, values: Iterable[Item]) -> dict[Work, list[Item]]:
        """Return one value per pair, by work."""
        own: dict[Work, list[Item]] = {}
        for (work, _), value in zip(self.pairs, values, strict=True):
            own.setdefault(work, []).append(value)
        return own


def dataset(work: Work) -> sequences.Dataset:
    """Return the data of ``work``, read once per process while they are the same; errors as of sequences.load."""
    about = work.data / records.ABOUT
    digest = records.sha256_of(about) if about.is_file() else ""
    seed = work.seed if work.order != "kept" else 0
    return _load(work.data.absolute(), work.split, work.validation, work.stride, work.groups, work.order, seed, digest)


@lru_cache(maxsize=16)
def _load(folder: Path, split: str | None, validation: Validation, stride: int, groups: int | None, order: Order,
          seed: int, digest: str) -> sequences.Dataset:  # fmt: skip
    data = sequences.load(folder, split, validation=validation)
    train = data.train.subset(torch.arange(0, len(data.train), stride))
    if groups is not None:
        train = train.subset(_of_groups(folder, train, groups))
    sides = {"train": train, "test": data.test, "validation": data.validation}
    for name, side in sides.items():
        if side is not None and order != "kept" and (order == "shuffled" or name != "train"):
            keys = torch.rand(side.index.shape, generator=seeds.torch_generator(seed, "order", name))
            keys.masked_fill_(side.index < 0, -1)  # padding stays before the first slice
            sides[name] = replace(side, index=side.index.gather(1, keys.argsort(1)))
    return replace(data, **sides)  # type: ignore[arg-type]  # there are training and test sequences


def _of_groups(folder: Path, data: sequences.Sequences, count: int) -> Tensor:
    """Return the positions of the sequences of so many groups of each class, over and over, as many as data has."""
    table, classes = sequences.read_table(folder), data.targets.argmax(1).tolist()
    names = dict(zip(table["row"].to_pylist(), table["group"].to_pylist(), strict=True))
    own = [(k, names[row]) for k, row in zip(classes, data.rows.tolist(), strict=True)]
    groups = [sorted({g for c, g in own if c == k and g is not None}, key=lambda g: (len(g), g)) for k in set(classes)]
    if min(map(len, groups)) < count:
        raise ValueError(f"expected {count} groups in each class of {folder}, found {min(map(len, groups))}; use fewer")
    chosen = {(k, g) for k, several in zip(set(classes), groups, strict=True) for g in several[:count]}
    places = torch.tensor([place for place, one in enumerate(own) if one in chosen])
    return places.repeat(math.ceil(len(own) / len(places)))[: len(own)]


def deal(
    repetitions: Sequence[Item], conditions: int, device: str, most: int, workers: int = 1
) -> list[tuple[Item, ...]]:
    """Return the repetitions of each stack: at most so many, and on a CPU no more than share a step's cost.

    A repetition has as many networks as there are ``conditions``. Stacks are as equal as can be, and on a CPU as many
    for each of the ``workers``. What a repetition gives does not depend on the deal.
    """
    size, n = most if device == "cuda" else max(1, min(STACK // conditions, most)), len(repetitions)
    count = math.ceil(n / size)
    count = count if device == "cuda" else min(n, math.ceil(count / workers) * workers)
    return [tuple(repetitions[k * n // count : (k + 1) * n // count]) for k in range(count)]


def shares(work: Work, repetitions: int, workers: int) -> list[Work]:
    """Return works that have the networks of ``work`` between them, several where cores would idle otherwise.

    So many ``repetitions`` train in all. If they leave ``workers`` idle for a tenth of the time, conditions are dealt,
    too. What a network gives does not depend on its neighbours.
    """
    names = work.settings.conditions
    if work.device == "cuda" or math.ceil(repetitions / workers) * workers <= 1.1 * repetitions:
        return [work]
    count = min(workers // math.gcd(repetitions, workers), len(names))
    cuts = [k * len(names) // count for k in range(count + 1)]
    several = [names[begin:end] for begin, end in itertools.pairwise(cuts)]
    return [replace(work, settings=replace(work.settings, conditions=own)) for own in several]


def _joined(parts: Sequence[Repetition]) -> Repetition:
    """Return one repetition of the conditions of all parts."""
    joined = replace(parts[0])
    joined.conditions = tuple(itertools.chain.from_iterable(part.conditions for part in parts))
    joined.parameters = list(itertools.chain.from_iterable(part.parameters for part in parts))
    joined.curves = torch.cat([part.curves for part in parts])
    joined.failed_epoch = torch.cat([part.failed_epoch for part in parts])
    joined.predictions = torch.cat([part.predictions for part in parts])
    validation = [part.validation for part in parts if part.validation is not None]
    joined.validation = torch.cat(validation) if validation else None
    return joined


def _fit(work: Work) -> int:
    """Return how many repetitions a stack on a GPU may have: all of a work, and as many of several as fit MEMORY."""
    settings, data = work.settings, dataset(work)
    rows = BLOCKS[settings.cell] * settings.hidden
    weights = 4 * rows * (data.inputs + 1 + settings.hidden)  # and gradients, and two of the optimiser's
    columns = 6 * settings.batch_size + 2 * EVALUATION_BATCH["cuda"]  # that autograd keeps, and that a measure needs
    floats = len(settings.conditions) * (weights + data.slices * rows * columns) + data.slices * data.inputs * columns
    return max(len(work.repetitions), MEMORY // (4 * floats))


def run(work: Sequence[Work], *, label: str, keep: str) -> Iterator[tuple[Work, Repetition]]:
    """Train; yield repetitions in order of completion, those that are kept first; equal work is trained once.

    The progress bar shows ``label``; ``keep`` is the kind under which finished repetitions are kept, until
    :func:`pipeline.common.kept.forget`. A FileNotFoundError or ValueError says that data are missing or damaged, or do
    not fit the settings, a ChildProcessError that a worker died; what was finished is kept.
    """
    code, workers = kept.code_digest(CODE), jobs.workers()
    several = sum(len(one.repetitions) for one in {*work})
    parts, owners = {one: shares(one, several, workers) for one in work}, dict[Work, list[Work]]()
    for one, own in parts.items():
        for part in own:
            owners.setdefault(part, []).append(one)
    stores = {one: kept.Kept(keep, [code, _key(one)]) for one in (*parts, *owners)}
    wanted = {(one, number): dict[Work, Repetition]() for one in parts for number in one.repetitions}
    spoilt: set[_Pair] = set()

    def arrived(part: Work, number: int, content: bytes, keeps: bool = True) -> Iterator[tuple[Work, Repetition]]:
        for one in owners[part]:
            if (one, number) in wanted:
                there = wanted[one, number]
                there[part] = Repetition(**kept.unpack(content))
                if not keeps:
                    spoilt.add((one, number))
                if len(there) == len(parts[one]):
                    whole = _joined([there[own] for own in parts[one]])
                    del wanted[one, number]
                    if len(there) > 1 and (one, number) not in spoilt:  # so that it is found by any number of workers
                        stores[one].put(f"repetition {number}", kept.pack(vars(whole)))
                    yield one, whole

    for one, number in [*wanted]:
        content = stores[one].get(f"repetition {number}")
        if content is not None:
            del wanted[one, number]
            yield one, Repetition(**kept.unpack(content))
    # By all that was asked for and not by what is missing, so that a run that goes on deals as before.
    busy = math.ceil(sum(len(part.repetitions) for part in owners) / workers)
    alike: dict[Work, list[_Pair]] = {}
    for part in owners:
        alike.setdefault(part.alike, []).extend((part, number) for number in part.repetitions)
    stacks = []
    for pairs in alike.values():
        # Groups with one rate move at once, and groups of one repetition share its draws.
        pairs.sort(key=lambda pair: (pair[0].settings.learning_rate, pair[1]))
        first = pairs[0][0]
        most = _fit(first) if first.device == "cuda" else busy
        for dealt in deal(pairs, len(first.settings.conditions), first.device, most, workers if len(alike) == 1 else 1):
            missing = []
            for part, number in dealt:
                if any((one, number) in wanted for one in owners[part]):
                    content = stores[part].get(f"repetition {number}")
                    if content is None:
                        missing.append((part, number))
                    else:
                        yield from arrived(part, number, content)
            if missing:
                stacks.append(_Stack(tuple(missing), stores[missing[0][0]]))
    stacks.sort(key=_cost, reverse=True)
    total = sum(stack.work.settings.max_epochs * len(stack.pairs) for stack in stacks)
    given_up: list[_Stack] = []  # not kept: another run tries them again

    def lost(stack: _Stack) -> list[bytes]:
        given_up.append(stack)
        return [] if len(stack.pairs) > 1 else _failed(stack)

    while stacks:
        alone: list[_Stack] = []
        for place, contents in jobs.run(_train_stack, stacks, total=total, label=label, reads=_files, lost=lost):
            stack, keeps = stacks[place], stacks[place] not in given_up
            if not keeps and len(stack.pairs) > 1:  # one of them may be what kills, or all together what memory holds
                alone += [_Stack((pair,), stores[pair[0]]) for pair in stack.pairs]
                continue
            if keeps:
                for (part, number), content in zip(stack.pairs, contents, strict=True):
                    stores[part].put(f"repetition {number}", content)
                stack.kept.remove(stack.half_trained)
            for (part, number), content in zip(stack.pairs, contents, strict=True):
                yield from arrived(part, number, content, keeps)
        stacks, total = alone, sum(stack.work.settings.max_epochs for stack in alone)


def _key(work: Work) -> list[object]:
    """Return all that decides the repetitions of ``work`` but code."""
    about = [work.split, work.validation, work.seed, work.stream, work.device, work.stride, work.groups, work.order]
    best = work.repetitions if work.networks else None  # only the networks that are best among these are there
    machine = [torch.__version__, np.__version__, platform.machine()]
    return [work.settings.as_dict(), dataset(work).digest, about, best, machine]


def _cost(stack: _Stack) -> int:
    """Return how long a stack trains, in some unit: long ones go first, so that all cores are busy to the end."""
    settings, data = stack.work.settings, dataset(stack.work)
    weights = (1 + GATES[settings.cell]) * settings.hidden * (data.inputs + settings.hidden) * data.slices
    return weights * len(stack.pairs) * len(settings.conditions) * settings.max_epochs * len(data.train)


def _train_stack(stack: _Stack) -> list[bytes]:
    """Train one stack in a worker; return its repetitions, packed.

    Half-trained states are the one thing that a worker writes itself: they are worth nothing to the caller, and
    where the worker's folder is not the caller's, nothing but time is lost.
    """
    work, store = stack.work, stack.kept
    engine = Engine(
        dataset(work), [one.settings for one, _ in stack.pairs],
        seed=work.seed, stream=work.stream, repetitions=stack.repetitions, device=work.device,
    )  # fmt: skip

    def load_state() -> dict[str, Any] | None:
        content = None if work.checkpoint_every is None else store.get(stack.half_trained)
        return None if content is None else kept.unpack(content)

    def save_state(epoch: int, state: dict[str, Any]) -> None:
        if work.checkpoint_every and (epoch % work.checkpoint_every == 0 or epoch == work.settings.max_epochs):
            store.put(stack.half_trained, kept.pack(state))

    trained = engine.run(load_state, save_state, lambda epochs: jobs.progress(epochs * len(stack.pairs)))
    for own in stack.by_work(trained).values():
        keep_best(own, work.settings.epochs if work.networks else None)
    return [kept.pack(vars(repetition)) for repetition in trained]


def _files(stack: _Stack) -> list[Path]:
    """Return what a stack is trained on."""
    return [stack.work.data]


def _failed(stack: _Stack) -> list[bytes]:
    """Return repetitions whose networks all failed at once: training them kills whatever process does it."""
    work, data, conditions = stack.work, dataset(stack.work), stack.work.settings.conditions
    works = stack.by_work(stack.repetitions)
    for one, numbers in works.items():
        named = f"repetitions {(*numbers,)} of {work.settings.cell}, {work.stream}, split {work.split or 'first'}"
        if len(works) > 1:
            named += f", learning rate {one.settings.learning_rate:g}, noise {one.settings.noise.as_dict()},"
        print(f"train: {named} count as failed, since their workers died (killed for memory?)", file=sys.stderr)

    def missing(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((len(conditions), *shape), math.nan, dtype=dtype)

    validation = None if data.validation is None else missing(2, dtype=torch.float64)
    curves = missing(work.settings.max_epochs + 1, len(METRICS), dtype=torch.float64)
    failed, predictions = torch.ones(len(conditions), dtype=torch.int64), missing(len(data.test), data.outputs)
    none: list[dict[str, Tensor]] = [{} for _ in conditions]
    several = (Repetition(n, conditions, curves, failed, predictions, validation, none) for n in stack.repetitions)
    return [kept.pack(vars(repetition)) for repetition in several]


def best_of(repetitions: list[Repetition], condition: int, epochs: int) -> Repetition | None:
    """Return the repetition whose network of one condition has the least test loss at epoch R; ``None``: all failed."""
    loss = METRICS.index("test_loss")
    alive = [repetition for repetition in repetitions if not int(repetition.failed_epoch[condition])]
    return min(alive, key=lambda one: (float(one.curves[condition, epochs, loss]), one.number), default=None)


def keep_best(repetitions: list[Repetition], epochs: int | None) -> None:
    """Forget, in place, all networks but the best of each condition at ``epochs``; ``None`` forgets all."""
    for c, _, repetition in _networks(repetitions):
        if epochs is None or repetition is not best_of(repetitions, c, epochs):
            repetition.parameters[c] = {}


Live = Callable[[dict[str, Any]], Callable[[Repetition], None]]
"""Takes a run's record and returns what is called with each of its repetitions; neither may raise."""


def train(task: str, work: Sequence[Work], live: Live | None = None) -> None:
    """Train one cell on the splits of a task and write ``data/runs/<task>/<cell>`` and its folders of further splits.

    There is one ``work`` per split, with ``networks``; ``live`` is told of every repetition as it is finished. Errors
    are those of :func:`run`, and an OSError where the disk is full or read-only.
    """
    cell = work[0].settings.cell
    keep = f"train/{task}/{cell}"
    trained: dict[Work, list[Repetition]] = {one: [] for one in work}
    about = {one: run_record(task, one) for one in work}
    tell = {one: live(about[one]) for one in work} if live else {}
    label = f"train {task} {cell}" + f", {len(work)} splits" * (len(work) > 1)
    for one, repetition in run(work, label=label, keep=keep):
        trained[one].append(repetition)
        keep_best(trained[one], one.settings.epochs)
        if one in tell:
            tell[one](repetition)
        if len(trained[one]) == len(one.repetitions):
            write(about[one], sorted(trained[one], key=lambda r: r.number), dataset(one))
    # Not before all is written: DVC deletes what a killed stage wrote.
    kept.forget(keep)


def run_record(task: str, work: Work) -> dict[str, Any]:
    """Return what identifies a run: settings, data and versions; no times, no hosts."""
    data, settings = dataset(work), work.settings
    plain = ("inputs", "outputs", "slices", "head", "unit", "target_scale", "target_offset")
    python = ".".join(platform.python_version_tuple()[:2])
    return {name: getattr(data, name) for name in plain} | {
        "task": task, "split": work.split, "cell": settings.cell, "seed": work.seed, "settings": settings.as_dict(),
        "repetitions": len(work.repetitions), "device": work.device, "data": data.digest, "classes": [*data.classes],
        "train_sequences": len(data.train), "test_sequences": len(data.test),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": python},
    }  # fmt: skip


def _rows(layout: pa.Schema, condition: str, number: int, columns: Sequence[Any]) -> pa.Table:
    """Return rows of one network; NaN becomes null."""
    count = len(columns[0])
    filled = [pa.array(c, from_pandas=True) for c in ([condition] * count, [number] * count, *columns)]
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(filled, layout, strict=True)], schema=layout)


def _networks(repetitions: list[Repetition]) -> Iterator[tuple[int, str, Repetition]]:
    """Yield place and name of every condition with every repetition."""
    for c, condition in enumerate(repetitions[0].conditions):
        yield from ((c, condition, repetition) for repetition in repetitions)


def tables(record: dict[str, Any], repetitions: list[Repetition], data: sequences.Dataset) -> dict[str, pa.Table]:
    """Return learning curves, outcomes, and predictions on the test set at epoch R, of every condition and repetition.

    Curves have a row per epoch and end before a network failed; one that failed by R has no predictions.
    """
    layouts = {"curves": results.CURVES, "outcomes": results.OUTCOMES}
    layouts["predictions"] = results.predictions_schema(record)
    parts = {name: [layout.empty_table()] for name, layout in layouts.items()}
    for c, condition, repetition in _networks(repetitions):
        failed, curve = int(repetition.failed_epoch[c]), repetition.curves[c].numpy()
        epochs = np.flatnonzero(np.isfinite(curve[:, METRICS.index("test_loss")]))
        columns = {"curves": [epochs, *curve[epochs].T], "outcomes": [["failed" if failed else "ok"], [failed or None]]}
        if not 0 < failed <= record["settings"]["epochs"]:
            values = repetition.predictions[c].numpy()
            values = records.lists(values) if data.classes or data.outputs > 1 else values[:, 0]
            columns["predictions"] = [data.test.rows.numpy(), values]
        for name, own in columns.items():
            parts[name].append(_rows(layouts[name], condition, repetition.number, own))
    return {name: pa.concat_tables(several).combine_chunks() for name, several in parts.items()}


def write(record: dict[str, Any], repetitions: list[Repetition], data: sequences.Dataset) -> None:
    """Write a run's files; ``run.json`` last, so that its presence means the run is whole."""
    folder = paths.run_folder(record["task"], record["cell"], record["split"])
    # Of an earlier run that DVC did not delete: beside new files it would say that they are whole.
    (folder / "run.json").unlink(missing_ok=True)
    for name, table in tables(record, repetitions, data).items():
        records.write_table(folder / f"{name}.parquet", table)
    names = ("task", "split", "cell", "inputs", "outputs", "slices", "head", "classes", "unit", "target_scale")
    settings, epochs = record["settings"], record["settings"]["epochs"]
    about = {name: record[name] for name in (*names, "target_offset")} | {
        "hidden": settings["hidden"],
        "origin": data.origin,
    }
    about["first_target"] = settings["first_target"] or record["slices"]
    for c, condition in enumerate(repetitions[0].conditions):
        best = best_of(repetitions, c, epochs)
        if best is not None:
            chosen = {"condition": condition, "repetition": best.number, "chosen_by": f"test loss at epoch {epochs}"}
            models.save(folder / "models" / f"{condition}.safetensors", best.parameters[c], about | chosen)
    records.write_json(folder / "run.json", record)
