"""The classifier's half of docs/why.md: Tables 1-4 on real clips, with both output errors, in a table of its own.

The clips are the paper's kind and not the paper's: UCF-101's first 11 classes as features (``profiles/ucf101.yaml``).
The noiseless accuracies of the paper choose split, learning rate, momentum and R; all else is as for the rates.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nem.cells import GATES
from nem.conditions import Condition
from nem.names import CellName, OutputDelta
from pipeline.common import jobs, kept, paths, seeds, sequences
from pipeline.params import Split, VideoClips
from pipeline.training import settings, train
from pipeline.training.engine import METRICS, Repetition
from pipeline.video import clips, layout
from pipeline.video.acquire import ucf101
from pipeline.video.features import features
from pipeline.video.features import table as feature_table
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling
from pipeline.why import calibrate, networks, table
from pipeline.why.protocol import FIRST, FRESH
from pipeline.why.table import EVERY, Strength

KEEP, DATA, STREAM = "why-clips", paths.CHECKPOINTS / "why-clips-data", "why-clips"
DELTAS: tuple[OutputDelta, ...] = ("loss", "literal")
OF_OUTPUT = tuple(name for name in EVERY if Condition.parse(name).in_output)


@dataclass(frozen=True)
class Regime:
    """All that decides the noiseless network but cell and seed: plain or momentum SGD, B = 64."""

    split: str
    learning_rate: float
    momentum: float
    epochs: int  # R


@dataclass(frozen=True)
class Sizes:
    """How large and how often networks are trained."""

    hidden: int = 32
    generated: int | None = None  # so many made-up clips; ``None`` takes the real ones
    splits: tuple[Split, ...] = ("groups", "random")
    epochs: int = 25  # R
    rates: tuple[tuple[float, float], ...] = (  # with momentum
        (0.003, 0.0), (0.004, 0.0), (0.005, 0.0), (0.006, 0.0), (0.008, 0.0), (0.012, 0.0), (0.0005, 0.9),
    )  # fmt: skip
    # σ of outputs and of gates, both with decay ½.
    levels: tuple[tuple[float, float], ...] = ((0.03, 0.1), (0.03, 1.0), (0.1, 0.3), (0.3, 0.1), (0.3, 1.0))
    repetitions: tuple[int, int, int] = (3, 10, 2)  # of the search, the confirmation, and each strength


QUICK = Sizes(
    3, generated=60, splits=("groups",), epochs=3, rates=((0.1, 0.0),), levels=((0.1, 0.3), (0.3, 0.3)),
    repetitions=(2, 2, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """Networks that train side by side."""

    cell: CellName
    regime: Regime
    strength: Strength
    delta: OutputDelta
    conditions: tuple[str, ...]
    repetitions: tuple[int, ...]
    last: int  # epoch

    def networks(self) -> Iterator[dict[str, Any]]:
        """Yield every network's key by column, which has what concerns the network only."""
        for condition, repetition in itertools.product(self.conditions, self.repetitions):
            parsed = Condition.parse(condition)
            about = {"cell": self.cell, **asdict(self.regime), **asdict(self.strength.of(parsed))}
            about |= {"delta": self.delta if parsed.in_output else "", "condition": condition}
            yield about | {"repetition": repetition}


SETTING = [field.name for field in fields(Regime)]
KEY = ("cell", *SETTING, *calibrate.STRENGTH, "delta", "condition", "repetition")
# At R: errors in per cent, cross entropies; first epoch at which the noiseless cross entropy at R was reached.
MEASURES = ("test_error", "test_loss", "train_loss", "reached")
COLUMNS = (*KEY, *MEASURES, "last", "failed", "seed", "commit")


def load(source: Path) -> pd.DataFrame:
    """Return the table (:func:`pipeline.why.table.load`)."""
    return table.load(source, COLUMNS, KEY)


def sequences_of(sizes: Sizes) -> Path:
    """Write the clips with both splits and return their folder: real ones, or made-up ones of three classes.

    Raises what acquiring them does.
    """
    return _written(sizes, (DATA / ("real" if sizes.generated is None else f"generated-{sizes.generated}")).absolute())


@cache
def _written(sizes: Sizes, folder: Path) -> Path:
    if sizes.generated is not None:
        random, count = seeds.numpy_generator(networks.SEED, STREAM), sizes.generated
        label = np.arange(count) % 3
        pool = (random.standard_normal((3, 2))[label] + random.standard_normal((count, 2))).astype(np.float32)
        side, index = np.where(np.arange(count) < count // 4, "test", "train"), np.arange(count)[:, None].repeat(3, 1)
        whole = sequences.Table(
            np.arange(count), index, np.eye(3, dtype=np.float32)[label], None, dict.fromkeys(sizes.splits, side),
            {"": pool}, "softmax", classes=("a", "b", "c"),
        )  # fmt: skip
        sequences.write(folder, whole)
        return folder
    acquired, source = ucf101.acquire(folder), folder / layout.SEQUENCES.name
    manifest = frames.list_sequences(acquired.videos, source, Sampling(), folder / "frames")
    features.take(source, folder / "frames", folder / "features")
    vectors = feature_table.load(folder / "features" / paths.FEATURES_TABLE.name)
    how = VideoClips(test_groups=[*map(str, range(1, 8))], components=64, stride=6)  # the first and the last 7 of 13
    made = clips.make(manifest, vectors, Sampling(), how.stride)
    clips.write(made, vectors, how, {}, networks.SEED, folder / "clips")
    return folder / "clips"


def parts(source: Path, sizes: Sizes) -> Iterator[tuple[str, list[Stack]]]:
    """Yield the protocol; a part is asked for when the table at ``source`` has all before it, which it follows from."""
    searched = [Regime(split, *rate, sizes.epochs) for split, rate in itertools.product(sizes.splits, sizes.rates)]
    search, confirm, explore = sizes.repetitions
    plain = Strength(), DELTAS[0], ("none",), tuple(range(search)), sizes.epochs
    yield "search", [Stack(cell, regime, *plain) for regime, cell in itertools.product(searched, GATES)]
    if (regime := chosen(load(source))) is None:
        return
    last = round(1.3 * regime.epochs)
    yield "confirmation", [*both(regime, (FIRST,), range(FRESH, FRESH + confirm), last)]
    pairs = [Strength(output, 0.5, hidden, 0.5) for output, hidden in sizes.levels]
    yield "strengths", [*both(regime, tuple(pairs), range(explore), regime.epochs)]


def both(regime: Regime, strengths: tuple[Strength, ...], repetitions: range, last: int) -> Iterator[Stack]:
    """Yield all conditions, and those that the output error concerns with its other form as well."""
    for repetition, strength, cell in itertools.product(repetitions, strengths, GATES):
        for delta in DELTAS:
            names = EVERY if delta == DELTAS[0] else ("none", *OF_OUTPUT)
            yield Stack(cell, regime, strength, delta, names, (repetition,), last)


def chosen(rows: pd.DataFrame) -> Regime | None:
    """Return the regime whose noiseless errors make the paper's most likely; ``None``: none was searched.

    Early seeds alone choose, so that no choice knows what confirms it.
    """
    found = calibrate.search(rows[rows.repetition < FRESH], calibrate.CLASSES, SETTING)
    if not len(found):
        return None
    best = found.iloc[0]
    return Regime(str(best.split), float(best.learning_rate), float(best.momentum), int(best.epochs))


def fill(destination: Path, sizes: Sizes, minutes: float | None = None) -> None:
    """Train what the table lacks, add it repetition by repetition, and begin nothing more after so many ``minutes``.

    Raises:
        ValueError: the table is damaged.
        ChildProcessError: a worker died; what was finished is in the table.
    """
    until = time.monotonic() + 60 * (float("inf") if minutes is None else minutes)
    for _, stacks in parts(destination, sizes):
        rows = load(destination)
        there, missing = table.keys(rows, KEY), list[Stack]()
        for stack in stacks:
            if lacking := {key["condition"] for key in stack.networks() if tuple(key.values()) not in there}:
                there |= {tuple(key.values()) for key in stack.networks()}
                names = tuple(name for name in stack.conditions if name in lacking or name == "none")
                missing.append(replace(stack, conditions=names))
        step = 4 * jobs.workers()
        for start in range(0, len(missing), step):
            if time.monotonic() >= until:
                return
            works = {_work(stack, sizes): stack for stack in missing[start : start + step]}
            for one, repetition in train.run([*works], label="why: clips", keep=KEEP):
                new = pd.DataFrame([*_measured(one, works[one], repetition)], columns=list(COLUMNS))
                rows = table.add(rows, new, COLUMNS, KEY)
                table.save(rows, destination, KEY)
            kept.forget(KEEP)


def _work(stack: Stack, sizes: Sizes) -> train.Work:
    """Return what trains a stack."""
    regime = stack.regime
    network = settings.Settings(
        cell=stack.cell, hidden=sizes.hidden, epochs=regime.epochs, max_epochs=stack.last, batch_size=64,
        optimiser="sgd", learning_rate=regime.learning_rate, momentum=regime.momentum,
        noise=stack.strength.table(), conditions=stack.conditions, output_delta=stack.delta, probe=256,
    )  # fmt: skip
    folder = sequences_of(sizes)
    return train.Work(folder, regime.split, "joined", network, networks.SEED, STREAM, stack.repetitions, "cpu")


def _measured(one: train.Work, stack: Stack, repetition: Repetition) -> Iterator[dict[str, Any]]:
    """Yield a repetition's rows."""
    R, code, column, conditions = stack.regime.epochs, networks.commit(), METRICS.index, repetition.conditions
    none = repetition.curves[conditions.index("none")].numpy()
    for key in replace(stack, repetitions=(repetition.number,)).networks():
        c = conditions.index(key["condition"])
        curve = repetition.curves[c].numpy()
        failed = 0 < int(repetition.failed_epoch[c]) <= R
        row = key | {"last": float(stack.last), "failed": float(failed), "seed": float(one.seed), "commit": code}
        if not failed:
            row["test_error"] = 100 * (1 - curve[R, column("test_accuracy")])
            row |= {name: curve[R, column(name)] for name in ("test_loss", "train_loss")}
            reached = np.flatnonzero(curve[1:, column("test_loss")] <= none[R, column("test_loss")])
            row["reached"] = float(reached[0] + 1) if len(reached) else np.nan
        yield row
