"""Reading what training wrote, and refusing what it did not write."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline import paths, records
from pipeline.params import Cell, Task
from pipeline.training.train import CURVES, OUTCOMES

Floats = npt.NDArray[np.float64]

RECORD: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "cell", "device", "versions.torch"), (str,)),
    **dict.fromkeys(("settings", "training", "data", "versions"), (dict,)),
    **dict.fromkeys(
        (
            "seed", "inputs", "outputs", "slices", "train_sequences", "test_sequences", "training.repetitions",
            "settings.epochs", "settings.max_epochs",
        ),
        (int,),
    ),
    **dict.fromkeys(("classes", "training.conditions"), (list,)),
    **dict.fromkeys(("target_scale", "target_offset"), (int, float)),
    **{
        f"settings.{what}.{place}.{mode}": (int, float)
        for what in ("sigma", "decay") for place in ("output", "hidden") for mode in ("additive", "multiplicative")
    },
}  # fmt: skip
"""What a reader may rely on in ``run.json``: the path of a key, and the types that its value may have."""


@dataclass(frozen=True)
class Run:
    """The results of one cell on one task.

    Attributes:
        task: the task.
        cell: the recurrent cell.
        record: ``run.json``.
        curves: learning curves.
        outcomes: which networks stayed finite.
        predictions: predictions on the test set at epoch R.
    """

    task: Task
    cell: Cell
    record: dict[str, Any]
    curves: pd.DataFrame
    outcomes: pd.DataFrame
    predictions: pa.Table

    @property
    def conditions(self) -> list[str]:
        """Noise conditions, in the order of ``params.yaml``."""
        return list(self.record["training"]["conditions"])

    @property
    def repetitions(self) -> int:
        """Number of paired repetitions."""
        return int(self.record["training"]["repetitions"])

    @property
    def epochs(self) -> int:
        """R."""
        return int(self.record["settings"]["epochs"])

    @property
    def max_epochs(self) -> int:
        """Last epoch trained."""
        return int(self.record["settings"]["max_epochs"])

    def curve(self, condition: str, metric: str) -> list[Floats]:
        """Return one array over epochs 0, 1, … per repetition."""
        rows = self.curves[self.curves.condition == condition]
        return [rows[rows.repetition == r][metric].to_numpy(np.float64) for r in range(self.repetitions)]

    def final(self, condition: str, metric: str) -> Floats:
        """Return the metric at epoch R per repetition; NaN where the network had failed."""
        curves = self.curve(condition, metric)
        return np.array([c[self.epochs] if len(c) > self.epochs else np.nan for c in curves])

    def failed(self, condition: str) -> int:
        """Return how many repetitions of a condition had failed by epoch R."""
        rows = self.outcomes[(self.outcomes.condition == condition) & (self.outcomes.status == "failed")]
        return int((rows.failed_epoch <= self.epochs).sum())


def check_record(record: Any, task: Task, cell: Cell, source: Path) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """Return ``record`` after a check that it is the record of this task and cell, with all of :data:`RECORD`.

    Args:
        record: what ``run.json`` holds.
        task: the task that it should be of.
        cell: the cell that it should be of.
        source: the file, for the message.

    Raises:
        ValueError: it is no object, a key is missing, or a value is of another type or of another run.
    """
    remedy = f"delete it and run `dvc repro train@{task}-{cell}` (train_video@… for videos)"
    if not isinstance(record, dict):
        raise ValueError(f"expected an object in {source}, found {_kind(record)}; {remedy}")
    for path, types in RECORD.items():
        value: Any = record
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"expected key {path!r} in {source}, found none; {remedy}")
            value = value[key]
        # JSON's true is an int to isinstance.
        if not isinstance(value, types) or isinstance(value, bool):
            wanted = " or ".join(each.__name__ for each in types)
            raise ValueError(f"expected {path!r} in {source} to be {wanted}, found {_kind(value)}; {remedy}")
    if (record["task"], record["cell"]) != (task, cell):
        raise ValueError(
            f"expected a run of {task} {cell} in {source}, found one of {record['task']} {record['cell']}; {remedy}"
        )
    return record


def _kind(value: object) -> str:
    """Return a value's type and its beginning, for a message."""
    return f"{type(value).__name__} {repr(value)[:40]}"


def predictions_schema(record: dict[str, Any]) -> pa.Schema:
    """Return the columns of ``predictions.parquet``: probabilities of classes, or one predicted value."""
    value = (
        ("probabilities", pa.list_(pa.float32(), record["outputs"]))
        if record["classes"]
        else ("prediction", pa.float64())
    )
    return pa.schema([("condition", pa.string()), ("repetition", pa.int32()), ("row", pa.int32()), value])


def load(task: Task, cell: Cell) -> Run:
    """Read a run.

    Raises:
        FileNotFoundError: it was not trained, or a file is missing.
        ValueError: a file is damaged, lacks a key or a column, or they are not of one run.
    """
    folder = paths.run_folder(task, cell)
    source = folder / "run.json"
    if not source.is_file():
        raise FileNotFoundError(f"expected a finished run in {folder}, found none; run `dvc repro train@{task}-{cell}`")
    record = check_record(records.read_json(source), task, cell, source)
    run = Run(
        task,
        cell,
        record,
        records.read_table(folder / "curves.parquet", CURVES).to_pandas(),
        records.read_table(folder / "outcomes.parquet", OUTCOMES).to_pandas(),
        records.read_table(folder / "predictions.parquet", predictions_schema(record)),
    )
    rows = Counter(zip(run.outcomes.condition, run.outcomes.repetition, strict=True))
    for condition in run.conditions:
        for repetition in range(run.repetitions):
            if rows[condition, repetition] != 1:
                raise ValueError(
                    f"expected one row for repetition {repetition} of {condition} in {folder / 'outcomes.parquet'}, "
                    f"found {rows[condition, repetition]}; delete {folder} and run `dvc repro train@{task}-{cell}`"
                )
    return run
