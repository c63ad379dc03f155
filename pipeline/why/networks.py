"""Training what the table lacks, and what is measured of a trained network."""

import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nem import cells
from nem.names import CellName
from pipeline.common import jobs, kept, paths, sequences
from pipeline.common.sequences import Dataset, Sequences
from pipeline.evaluation.statistics import Floats
from pipeline.fx import acquire, synthetic, windows
from pipeline.fx.csv_format import FEATURES
from pipeline.params import FxWindows
from pipeline.training import settings, train
from pipeline.training.engine import METRICS, Repetition
from pipeline.why import protocol, table
from pipeline.why.protocol import Sizes
from pipeline.why.table import COLUMNS, KEY, VARIANTS, Stack

KEEP, AGAIN, DATA = "why", "why-check", paths.CHECKPOINTS / "why-data"
SEED, STREAM = 1, "why"
PROBES, STEP = 400, 0.01  # sequences that slopes and saturation are measured on; change of all inputs [scaled]


@cache
def sequences_of(data: str, days: int | None, train_end: int) -> Path:
    """Write the series in one form and return its folder; ``days`` asks for a generated series of that length.

    Forms: ``min-max`` and ``z-score`` scale by the training days; ``all-days`` min-max by all; ``raw`` is min-max with
    targets that a factor alone maps to rupees, so that multiplicative noise is that of rupees; ``change`` has as target
    the z-scored difference from yesterday, whose error is that of the price.
    """
    series = acquire.paper_series()[0] if days is None else synthetic.generate(days, SEED)
    how = FxWindows(train_end=train_end, scaling="z-score" if data == "z-score" else "min-max")
    how = how.model_copy(update={"target": "change" if data == "change" else "price"})
    about = windows.table(series, how, unit="rupees")
    rows = about.rows
    if data == "all-days":
        scaler = windows.Scaler.fit(series.values, "min-max")
        scaled, k = scaler.apply(series.values).astype(np.float32), FEATURES.index("price")
        about = replace(about, pools={"": scaled}, targets=scaled[rows, k : k + 1])
        about = replace(about, target_scale=float(scaler.scale[k]), target_offset=float(scaler.offset[k]))
    elif data == "raw":
        targets = about.targets + np.float32(about.target_offset / about.target_scale)
        about = replace(about, targets=targets, target_offset=0.0)
    folder = DATA / (data if days is None else f"{data}-{days}")
    sequences.write(folder, about)
    return folder


def work(stack: Stack, sizes: Sizes) -> train.Work:
    """Return what trains a stack."""
    regime = stack.regime
    network = settings.Settings(
        cell=stack.cell, hidden=sizes.hidden, epochs=sizes.epochs,
        max_epochs=sizes.last if stack.long else sizes.epochs,
        batch_size=regime.batch_size, optimiser=regime.optimiser, learning_rate=regime.learning_rate,
        momentum=regime.momentum, noise=stack.strength.table(), conditions=stack.conditions,
        **VARIANTS[stack.variant][0],
    )  # fmt: skip
    folder = sequences_of(regime.data, sizes.days, sizes.train_end)
    return train.Work(folder, None, "joined", network, SEED, STREAM, stack.repetitions, "cpu", networks=stack.probed)


def fill(stacks: Iterable[Stack | None], destination: Path, sizes: Sizes, minutes: float | None = None) -> None:
    """Train what the table lacks, in the stacks' order, and add it repetition by repetition.

    ``stacks`` is read as it goes, and not beyond a ``None`` before all up to there is in the table, so that later ones
    may depend on what earlier ones gave. After so many ``minutes`` nothing more is begun.

    Raises:
        ValueError: the table is damaged.
        ChildProcessError: a worker died; what was finished is in the table.
    """
    until, waiting = time.monotonic() + 60 * (float("inf") if minutes is None else minutes), iter(stacks)
    while time.monotonic() < until:
        known = table.load(destination)
        there = table.keys(known)
        chunk: list[Stack] = []
        for stack in waiting:
            if stack is None and chunk:
                break
            if stack and (part := table.lacking(stack, there)):
                there |= {key for *_, key in part.networks()}
                chunk.append(part)
            if len(chunk) == sizes.chunk * jobs.workers():
                break
        if not chunk:
            return
        for rows in trained(chunk, sizes):
            known = table.add(known, rows)
            table.save(known, destination)
        kept.forget(KEEP)


def trained(stacks: Sequence[Stack], sizes: Sizes, keep: str = KEEP) -> Iterator[pd.DataFrame]:
    """Train stacks; yield the rows of each repetition."""
    works, code = {work(stack, sizes): stack for stack in stacks}, commit()
    for one, repetition in train.run([*works], label="why", keep=keep):
        yield pd.DataFrame(_measured(one, works[one], repetition, code), columns=list(COLUMNS))


def check(destination: Path, sizes: Sizes, several: int) -> pd.DataFrame:
    """Train repetitions of the confirmation again; return their networks with the table's error and the new one.

    Raises:
        ValueError: the table does not have them.
    """
    kept.forget(AGAIN)
    fresh = pd.concat(trained([*protocol.confirmation(several)], sizes, AGAIN))
    kept.forget(AGAIN)
    both = table.load(destination).merge(fresh, on=list(KEY), suffixes=("", "_again"))
    if len(both) < len(fresh):
        raise ValueError(f"expected {len(fresh)} networks in {destination}, found {len(both)}; check fewer repetitions")
    return both[["cell", "condition", "repetition", "test_mse", "test_mse_again", "commit"]]


def commit() -> str:
    """Return the commit of the code, with ``+`` where code was changed since; ``unknown`` outside of a repository."""
    try:
        line = ["git", "rev-parse", "--short=10", "HEAD"]
        name = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "nem", "pipeline"], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + "+" * bool(changed)


def _measured(one: train.Work, stack: Stack, repetition: Repetition, code: str) -> Iterator[dict[str, Any]]:
    """Yield a repetition's rows."""
    data, R, losses = train.dataset(one), one.settings.epochs, repetition.curves[:, :, METRICS.index("test_loss")]
    goal = float(losses[repetition.conditions.index("none"), R])  # NaN where it failed
    for c, condition in enumerate(repetition.conditions):
        failed = 0 < int(repetition.failed_epoch[c]) <= R
        row = stack.about(condition) | {"repetition": repetition.number, "failed": float(failed)}
        row |= {"last": float(one.settings.max_epochs), "seed": float(one.seed), "commit": code}
        if not failed:
            at_end = dict(zip(METRICS, repetition.curves[c, R].tolist(), strict=True))
            row |= {"train_mse": at_end["train_loss"]}
            row |= {name: at_end[name] for name in ("acceptance_output", "acceptance_hidden")}
            row |= parts(data, repetition.predictions[c, :, 0].double().numpy())
            row |= mechanism(data, one.settings.cell, repetition.parameters[c]) if repetition.parameters[c] else {}
            reached = np.flatnonzero(losses[c, 1:].numpy() <= goal)
            row["reached"] = float(reached[0] + 1) if len(reached) else np.nan
        yield row


def parts(data: Dataset, predictions: Floats) -> dict[str, float]:
    """Return the mean squared error of the days forecast, what a cubic of yesterday's price explains of it, the rest.

    Every form has yesterday's scaled price in its inputs, and an error of the target is one of the price.
    """
    truth = data.test.targets[:, 0].double().numpy() * data.target_scale + data.target_offset
    yesterday = data.test.pool[data.test.index[:, -1], FEATURES.index("price")].double().numpy()
    error = predictions - truth
    level = np.polynomial.Polynomial.fit(yesterday, error, 3)(yesterday)
    squares = {"test_mse": error**2, "level_mse": level**2, "daily_mse": (error - level) ** 2}
    return {name: float(np.mean(values)) for name, values in squares.items()}


def mechanism(data: Dataset, cell: CellName, network: dict[str, Tensor]) -> dict[str, float]:
    """Return slopes and saturation of a trained network on training and on test days."""
    values = {}
    for side, part in (("train", data.train), ("test", data.test)):
        chosen = part.subset(torch.linspace(0, len(part) - 1, min(PROBES, len(part))).long())
        (up, _), (down, _), (_, logits) = (_passed(chosen, cell, network, step) for step in (STEP, -STEP, 0.0))
        values[f"slope_{side}"] = float((up - down).mean() / (2 * STEP))
        values[f"saturation_{side}"] = float((2 * torch.sigmoid(logits) - 1).abs().mean())
    return values


def _passed(part: Sequences, cell: CellName, network: dict[str, Tensor], step: float) -> tuple[Tensor, Tensor]:
    """Return outputs ``(N,)`` and gate pre-activations of a clean pass with all inputs moved by ``step``."""
    x = (part.pool[part.index] + step).permute(1, 2, 0)[:, None]
    x = torch.cat([x, torch.ones_like(x[:, :, :1])], 2)
    u = cells.project(x, network["W"][None, :, None])
    states = cells.forward(cell, u, network["V"][None, None], keep_logits=True)
    if states.logits is None:
        raise ValueError("expected pre-activations, found none")
    outputs = network["U"] @ states.h[-1, 0, 0] + network["b"]
    return outputs[0], states.logits
