"""Training one cell on one task: jobs out, files in.

Repetitions are dealt into jobs of up to three, the size at which a stack still fits a CPU's caches while the cost of
each small operation is shared by 39 networks. Large networks (those of videos) share nothing worth having
and are dealt one by one, which bounds the memory of a worker. The deal depends on nothing but the number of
repetitions and the networks' size, so results do not depend on the number of workers.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save

from pipeline import paths, records
from pipeline.params import Cell, Params, Task
from pipeline.recurrent.kernels import BLOCKS
from pipeline.training import checkpoint, executor
from pipeline.training import problem as problems
from pipeline.training.engine import METRICS, Engine, Repetition

LARGEST_JOB = 3
"""Repetitions per job, at most."""

LARGE = 1 << 17
"""Weights of a network from which on every repetition is a job of its own: so many that a stack leaves the caches."""

CURVES = pa.schema(
    [
        ("condition", pa.string()),
        ("repetition", pa.int32()),
        ("epoch", pa.int32()),
        *((name, pa.float64()) for name in METRICS),
    ]
)
OUTCOMES = pa.schema(
    [("condition", pa.string()), ("repetition", pa.int32()), ("status", pa.string()), ("failed_epoch", pa.int32())]
)


@dataclass(frozen=True)
class Job:
    """Repetitions that one process trains as one stack."""

    task: Task
    cell: Cell
    params: Params
    repetitions: tuple[int, ...]
    device: str
    checkpoints: Path


def weights_of(cell: Cell, inputs: int, hidden: int) -> int:
    """Return the number of weights of a network's recurrent layer."""
    return BLOCKS[cell] * hidden * (inputs + 1 + hidden)


def deal(repetitions: int, device: str, weights: int = 0) -> list[tuple[int, ...]]:
    """Return the repetitions of each job: one job on a GPU, else an even number of jobs of nearly equal size.

    Args:
        repetitions: how many there are.
        device: ``cpu`` or ``cuda``.
        weights: of one network; large ones are jobs of one repetition.
    """
    if device == "cuda":
        return [tuple(range(repetitions))]
    if weights >= LARGE:
        return [(repetition,) for repetition in range(repetitions)]
    jobs = min(repetitions, -(-repetitions // LARGEST_JOB))
    jobs = min(repetitions, jobs + jobs % 2)
    return [tuple(int(r) for r in part) for part in np.array_split(np.arange(repetitions), jobs)]


def resolve_device(wanted: str) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises:
        ValueError: ``cuda`` is wanted and absent.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device for training.device cuda, found none; use auto or cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def run_job(job: Job) -> list[Repetition]:
    """Train one job's repetitions (in a worker process)."""
    engine = Engine(
        problems.load(job.task, job.params),
        job.cell,
        job.params.train.of(job.task, job.cell),
        job.params.training,
        seed=job.params.seed,
        task=job.task,
        repetitions=list(job.repetitions),
        device=job.device,
    )
    results = engine.run(job.checkpoints, lambda epochs: executor.progress(epochs * len(job.repetitions)))
    keep_best(results, engine.settings.epochs)
    return results


def best_of(results: list[Repetition], condition: int, epochs: int) -> Repetition | None:
    """Return the repetition whose network of one condition has the least test loss at epoch R; ``None``: all failed."""
    final = METRICS.index("test_loss")
    alive = [each for each in results if not int(each.failed_epoch[condition])]
    return min(alive, key=lambda each: (float(each.curves[condition, epochs, final]), each.number), default=None)


def keep_best(results: list[Repetition], epochs: int) -> None:
    """Forget, in place, the parameters of all networks but the best of each condition: only those are written."""
    for condition in range(len(results[0].conditions)):
        best = best_of(results, condition, epochs)
        for each in results:
            if each is not best:
                each.parameters[condition] = {}


def train(
    task: Task,
    cell: Cell,
    params: Params,
    live: Callable[[dict[str, object]], Callable[[Repetition], None]] | None = None,
) -> None:
    """Train all conditions and repetitions of ``cell`` on ``task`` and write ``data/runs/<task>/<cell>``.

    Args:
        task: the task.
        cell: the recurrent cell.
        params: the project's parameters.
        live: takes the run's record and returns what is called with each finished repetition; must not raise.

    Raises:
        ValueError: data or parameters do not fit.
        ChildProcessError: a worker died.
    """
    settings, device = params.train.of(task, cell), resolve_device(params.training.device)
    data = problems.load(task, params)
    record = run_record(task, cell, params, data, device)
    folder = checkpoint.folder(task, cell, record)
    dealt = deal(params.training.repetitions, device, weights_of(cell, data.inputs, settings.hidden))
    jobs = [Job(task, cell, params, part, device, folder) for part in dealt]
    total = params.training.repetitions * settings.max_epochs
    on_repetition = None if live is None else live(record)
    results: list[Repetition] = []
    for _, finished in executor.run(run_job, jobs, total=total, label=f"{task} {cell}"):
        results += finished
        keep_best(results, settings.epochs)
        for repetition in finished:
            if on_repetition is not None:
                on_repetition(repetition)
    results.sort(key=lambda each: each.number)
    write(results, task, cell, params, data, record)
    checkpoint.clear(task, cell)


def run_record(task: Task, cell: Cell, params: Params, data: problems.Problem, device: str) -> dict[str, object]:
    """Return what identifies a run: settings, data and versions; no times, no hosts."""
    settings = params.train.of(task, cell)
    return {
        "task": task,
        "cell": cell,
        "seed": params.seed,
        "settings": settings.model_dump(),
        "training": params.training.model_dump(),
        "device": device,
        "data": data.digest,
        "inputs": data.inputs,
        "outputs": data.outputs,
        "slices": data.slices,
        "train_sequences": len(data.train),
        "test_sequences": len(data.test),
        "classes": list(data.classes),
        "target_scale": data.target_scale,
        "target_offset": data.target_offset,
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
        },
    }


def curves_table(results: list[Repetition]) -> pa.Table:
    """Return the learning curves of all finite epochs, ordered by condition, repetition and epoch."""
    parts = []
    for c, condition in enumerate(results[0].conditions):
        for each in results:
            curve = each.curves[c].numpy()
            kept = np.isfinite(curve[:, METRICS.index("test_loss")])
            curve, epochs = curve[kept], np.flatnonzero(kept)
            columns = [
                pa.array([condition] * len(curve)),
                pa.array(np.full(len(curve), each.number, np.int32)),
                pa.array(epochs.astype(np.int32)),
                *(pa.array(curve[:, k], from_pandas=True) for k in range(len(METRICS))),
            ]
            parts.append(
                pa.Table.from_arrays([x.cast(f.type) for x, f in zip(columns, CURVES, strict=True)], schema=CURVES)
            )
    return pa.concat_tables(parts).combine_chunks()


def outcomes_table(results: list[Repetition]) -> pa.Table:
    """Return which networks stayed finite."""
    rows = []
    for c, condition in enumerate(results[0].conditions):
        for each in results:
            epoch = int(each.failed_epoch[c])
            rows.append(
                {
                    "condition": condition,
                    "repetition": each.number,
                    "status": "failed" if epoch else "ok",
                    "failed_epoch": epoch or None,
                }
            )
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def predictions_table(results: list[Repetition], data: problems.Problem, settings_epochs: int) -> pa.Table:
    """Return predictions on the test set at epoch R, of networks that were finite then."""
    rows = data.test.rows.numpy().astype(np.int32)
    softmax = data.head == "softmax"
    value = pa.list_(pa.float32(), data.outputs) if softmax else pa.float64()
    layout = pa.schema(
        [
            ("condition", pa.string()),
            ("repetition", pa.int32()),
            ("row", pa.int32()),
            ("probabilities" if softmax else "prediction", value),
        ]
    )
    parts = []
    for c, condition in enumerate(results[0].conditions):
        for each in results:
            if 0 < int(each.failed_epoch[c]) <= settings_epochs:
                continue
            found = each.predictions[c].numpy()
            column = (
                pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), data.outputs)
                if softmax
                else pa.array(found[:, 0].astype(np.float64))
            )
            columns = [
                pa.array([condition] * len(rows)),
                pa.array(np.full(len(rows), each.number, np.int32)),
                pa.array(rows),
                column,
            ]
            parts.append(pa.Table.from_arrays(columns, schema=layout))
    return pa.concat_tables(parts).combine_chunks() if parts else layout.empty_table()


def write(
    results: list[Repetition], task: Task, cell: Cell, params: Params, data: problems.Problem, record: dict[str, object]
) -> None:
    """Write the run's files; ``run.json`` last, so that its presence means the run is whole."""
    folder, settings = paths.run_folder(task, cell), params.train.of(task, cell)
    # Of an earlier run that DVC did not delete: beside new files it would say that they are whole.
    (folder / "run.json").unlink(missing_ok=True)
    records.write_table(folder / "curves.parquet", curves_table(results))
    records.write_table(folder / "outcomes.parquet", outcomes_table(results))
    records.write_table(folder / "predictions.parquet", predictions_table(results, data, settings.epochs))
    for c, condition in enumerate(results[0].conditions):
        best = best_of(results, c, settings.epochs)
        if best is None:
            continue
        described = {
            "task": task,
            "cell": cell,
            "condition": condition,
            "repetition": best.number,
            "hidden": settings.hidden,
            "inputs": data.inputs,
            "outputs": data.outputs,
            "slices": data.slices,
            "first_target": params.training.first_target or data.slices,
            "classes": list(data.classes),
            "target_scale": data.target_scale,
            "target_offset": data.target_offset,
        }
        tensors = {name: value.contiguous() for name, value in best.parameters[c].items()}
        content = save(tensors, {"model": json.dumps(described, sort_keys=True)})
        records.write_bytes(folder / "models" / f"{condition}.safetensors", content)
    records.write_json(folder / "run.json", record)
