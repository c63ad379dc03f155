"""Training what the plan lists: a result per setting and repetition, each kept as soon as it is done.

Repetitions of a setting train as one stack: networks this small cost less than the operations that move them. A
repetition's result does not depend on those beside it.

A kept result belongs to exact settings, data and code of the engine: its name is a digest of all three, and it holds a
digest of that name and its own numbers. So a study that was killed, or whose grid was changed, goes on with what it
has, and gives the same bytes; a damaged result is trained again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from pipeline import paths, records, seeds
from pipeline.evaluation.metrics import calibration_error
from pipeline.study import data
from pipeline.study.plan import Entry, Grid, Setting, Study
from pipeline.training import executor
from pipeline.training.engine import METRICS, Engine

ENGINE = ("conditions.py", "seeds.py", "theory", "noise", "recurrent", "training/engine.py", "study/runs.py")
"""Files and folders of the library that decide what a job's result is."""

STACK = 5
"""Repetitions that train together, at most."""

MEASURES = (
    "train_loss", "validation_loss", "test_loss", "validation_accuracy", "test_accuracy", "calibration_error",
    "acceptance_output", "acceptance_hidden",
)  # fmt: skip
"""Measured at R, on clean labels without noise; NaN where undefined, and where the network had failed."""

ROWS = pa.schema(
    [
        ("purpose", pa.string()),
        *((name, pa.string()) for name in ("task", "cell", "split", "optimiser")),
        *((name, pa.float64()) for name in ("rate", "sigma", "decay")),
        *((name, pa.string()) for name in ("granularity", "injection", "latent")),
        ("condition", pa.string()),
        ("repetition", pa.int32()),
        ("failed", pa.bool_()),
        *((name, pa.float64()) for name in MEASURES),
        ("curve", pa.list_(pa.float64())),
    ]
)
"""One row per purpose, setting, condition and repetition; ``curve`` is the test loss after epochs 0, 1, …."""


@dataclass(frozen=True)
class Job:
    """One setting in one repetition.

    Attributes:
        setting: what to train.
        grid: sizes of networks and runs.
        seed: root of the seed tree.
        repetition: which.
        source: data file.
        kept: where the result goes.
    """

    setting: Setting
    grid: Grid
    seed: int
    repetition: int
    source: Path
    kept: Path


def code_digest() -> str:
    """Return a SHA-256 over the source files that decide what a job's result is."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for name in ENGINE:
        place = root / name
        for source in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(str(source.relative_to(root)).encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def jobs(entries: list[Entry], study: Study, profile: str, seed: int) -> list[Job]:
    """Return the jobs of all entries, each setting and repetition once."""
    code = code_digest()
    digests: dict[Path, str] = {}
    found: dict[tuple[Setting, int], Job] = {}
    wanted: dict[Setting, int] = {}
    for entry in entries:
        wanted[entry.setting] = max(wanted.get(entry.setting, 0), entry.repetitions(study))
    for setting, repetitions in wanted.items():
        source, grid = data.file(profile, setting.task, setting.split), study.grid(setting.task)
        digests.setdefault(source, records.sha256_of(source))
        used = {"networks": setting.networks(grid).model_dump(), "training": setting.training().model_dump()}
        for repetition in range(repetitions):
            text = json.dumps(
                [asdict(setting), used, seed, repetition, digests[source], code, torch.__version__], sort_keys=True
            )
            name = hashlib.sha256(text.encode()).hexdigest()[:32]
            found[setting, repetition] = Job(
                setting, grid, seed, repetition, source, paths.CHECKPOINTS / "study" / f"{name}.json"
            )
    return list(found.values())


def result(job: Job) -> list[dict[str, Any]] | None:
    """Return a kept result, ``None`` if there is none or it is damaged."""
    if not job.kept.is_file():
        return None
    try:
        found = records.read_json(job.kept)
    except ValueError:
        return None
    # A flipped digit is valid JSON, too.
    if not isinstance(found, dict) or found.get("sha256") != _digest(job, found.get("rows")):
        return None
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def _digest(job: Job, rows: object) -> str:
    """Return a SHA-256 over a job's name and its rows, which are the same after they were written and read."""
    return hashlib.sha256(f"{job.kept.stem} {json.dumps(rows, sort_keys=True)}".encode()).hexdigest()


def stacks(listed: list[Job]) -> list[tuple[Job, ...]]:
    """Group the jobs of each setting by up to :data:`STACK`."""
    grouped: dict[Setting, list[Job]] = {}
    for job in listed:
        grouped.setdefault(job.setting, []).append(job)
    return [tuple(same[k : k + STACK]) for same in grouped.values() for k in range(0, len(same), STACK)]


def run_stack(stack: tuple[Job, ...]) -> None:
    """Train jobs of one setting and keep their results (in a worker process)."""
    for job, rows in zip(stack, measure(stack), strict=True):
        records.write_json(job.kept, {"sha256": _digest(job, rows), "rows": rows})


def measure(stack: tuple[Job, ...]) -> list[list[dict[str, Any]]]:
    """Train jobs of one setting; return for each a row per condition, numbers that are not finite as ``None``."""
    job = stack[0]
    found, setting = data.load(job.source), job.setting
    engine = Engine(
        found.problem, setting.cell, setting.networks(job.grid), setting.training(),
        seed=job.seed, task=f"study-{setting.task}", repetitions=[each.repetition for each in stack],
    )  # fmt: skip
    trained = engine.run(None, lambda epochs: executor.progress(epochs * len(stack)))
    # Back to epoch R, where the validation loss is wanted too.
    engine.networks.flat.copy_(engine.snapshot["parameters"])
    validation = engine.measure(found.validation)
    names = [condition.name for condition in engine.stack.conditions]
    labels = found.problem.test.targets.argmax(1).numpy()
    out = []
    for group, each in enumerate(trained):
        rows = []
        for c, condition in enumerate(each.conditions):
            curve = each.curves[c].numpy()
            stopped = int(each.failed_epoch[c])
            failed = 0 < stopped <= job.grid.epochs
            at_R = dict(zip(METRICS, curve[job.grid.epochs].tolist(), strict=True))
            row = {name: at_R[name] for name in MEASURES if name in at_R}
            place = (group, names.index(condition))
            row["validation_loss"] = float(validation["loss"][place]) * found.problem.target_scale**2
            if "accuracy" in validation:
                row["validation_accuracy"] = float(validation["accuracy"][place])
                row["calibration_error"] = calibration_error(each.predictions[c].double().numpy(), labels)
            clean = {name: _finite(None if failed else row.get(name)) for name in MEASURES}
            losses = [_finite(value) for value in curve[:, METRICS.index("test_loss")].tolist()]
            rows.append({"condition": condition, "repetition": each.number, "failed": failed, **clean, "curve": losses})
        out.append(rows)
    return out


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value


def train(entries: list[Entry], study: Study, profile: str, seed: int, label: str) -> pa.Table:
    """Train what is not kept yet and return the rows of all entries.

    Args:
        entries: what to train.
        study: parameters.
        profile: whose data.
        seed: root of the seed tree.
        label: shown at the progress bar.

    Raises:
        ChildProcessError: a worker died; what was finished is kept.
    """
    listed = jobs(entries, study, profile, seed)
    missing = [job for job in listed if result(job) is None]
    if missing:
        total = sum(job.grid.max_epochs for job in missing)
        for _ in executor.run(
            run_stack, stacks(missing), total=total, label=f"{label} ({len(missing)} of {len(listed)} jobs)"
        ):
            pass
    results = {(job.setting, job.repetition): result(job) for job in listed}
    rows = []
    for entry in entries:
        for repetition in range(entry.repetitions(study)):
            kept = (row for row in results[entry.setting, repetition] or () if row["condition"] in entry.keep)
            rows += [{"purpose": entry.purpose, **entry.setting.axes(), **row} for row in kept]
    return pa.Table.from_pylist(rows, schema=ROWS)


def frame(source: Path) -> pd.DataFrame:
    """Read rows; missing numbers are NaN.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged.
    """
    table = records.read_table(source, ROWS)
    found = table.drop_columns(["curve"]).to_pandas()
    found["curve"] = [
        np.array([np.nan if value is None else value for value in curve]) for curve in table["curve"].to_pylist()
    ]
    for name in MEASURES:
        found[name] = found[name].astype(float)
    return found


def map_seed(study: Study) -> int:
    """Return the map's own root: what chooses settings must not know the repetitions that are compared."""
    return seeds.seed_of(study.seed, "study", "map")
