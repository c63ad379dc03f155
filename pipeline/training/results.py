"""Reading what training wrote, and refusing what it did not write."""

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline.common import paths, records
from pipeline.training.engine import METRICS

Floats = npt.NDArray[np.float64]

NETWORK = [("condition", pa.string()), ("repetition", pa.int32())]
CURVES = pa.schema([*NETWORK, ("epoch", pa.int32()), *((name, pa.float64()) for name in METRICS)])
OUTCOMES = pa.schema([*NETWORK, ("status", pa.string()), ("failed_epoch", pa.int32())])

WHOLE = ("seed", "inputs", "outputs", "slices", "train_sequences", "test_sequences", "repetitions", "settings.epochs")
NOISE = itertools.product(("output", "hidden"), ("additive", "multiplicative"), ("sigma", "decay"))
RECORD: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "cell", "device", "head", "unit", "versions.torch"), (str,)),
    "split": (str, type(None)),
    **dict.fromkeys(("settings", "data", "versions"), (dict,)),
    **dict.fromkeys((*WHOLE, "settings.max_epochs"), (int,)),
    **dict.fromkeys(("classes", "settings.conditions"), (list,)),
    **dict.fromkeys(("target_scale", "target_offset", *(f"settings.noise.{'.'.join(n)}" for n in NOISE)), (int, float)),
}
"""What a reader may rely on in ``run.json``: the path of a key, and the types that its value may have."""


@dataclass(frozen=True)
class TrainedRun:
    """The results of one cell on one split of a task."""

    task: str
    cell: str
    record: dict[str, Any]  # run.json
    curves: pd.DataFrame  # a row per condition, repetition and epoch: the columns of :data:`CURVES`
    outcomes: pd.DataFrame  # which networks stayed finite (:data:`OUTCOMES`)
    predictions: pa.Table  # on the test set at epoch R (:func:`predictions_schema`)

    @property
    def conditions(self) -> list[str]:
        """Noise conditions, in the order of ``params.yaml``."""
        return list(self.record["settings"]["conditions"])

    @property
    def repetitions(self) -> int:
        """Number of paired repetitions."""
        return int(self.record["repetitions"])

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


def check_record(record: Any, name: tuple[str, str, str | None], source: Path) -> dict[str, Any]:  # noqa: ANN401
    """Return ``record``, what ``run.json`` (``source``) holds, after a check for all of :data:`RECORD`.

    A ValueError says that it is no object, a key is missing, a value is of another type, or it is of another run than
    ``name``: the task, cell and split.
    """
    remedy = _remedy(*name[:2])
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
            wanted = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"expected {path!r} in {source} to be {wanted}, found {_kind(value)}; {remedy}")
    own = (record["task"], record["cell"], record["split"])
    if own != name:
        wanted, other = (f"{paths.run_name(task, split)} {cell}" for task, cell, split in (name, own))
        raise ValueError(f"expected a run of {wanted} in {source}, found one of {other}; {remedy}")
    return record


def _remedy(task: str, cell: str) -> str:
    return f"run `dvc repro train@{task}-{cell}`"


def _kind(value: object) -> str:
    """Return a value's type and its beginning, for a message."""
    return f"{type(value).__name__} {repr(value)[:40]}"


def predictions_schema(record: dict[str, Any]) -> pa.Schema:
    """Return the columns of ``predictions.parquet``: probabilities of classes, or one predicted value."""
    classes = ("probabilities", pa.list_(pa.float32(), record["outputs"]))
    return pa.schema([*NETWORK, ("row", pa.int32()), classes if record["classes"] else ("prediction", pa.float64())])


def load(task: str, cell: str, split: str | None = None) -> TrainedRun:
    """Read the run of a cell on a further split of a task; ``None`` is its first.

    Raises:
        FileNotFoundError: it was not trained, or a file is missing.
        ValueError: a file is damaged, lacks a key or a column, or they are not of one run.
    """
    folder = paths.run_folder(task, cell, split)
    source = folder / "run.json"
    if not source.is_file():
        raise FileNotFoundError(f"expected a finished run in {folder}, found none; {_remedy(task, cell)}")
    record = check_record(records.read_json(source), (task, cell, split), source)
    curves = records.read_table(folder / "curves.parquet", CURVES).to_pandas()
    outcomes = records.read_table(folder / "outcomes.parquet", OUTCOMES).to_pandas()
    predictions = records.read_table(folder / "predictions.parquet", predictions_schema(record))
    run = TrainedRun(task, cell, record, curves, outcomes, predictions)
    rows = Counter(zip(outcomes.condition, outcomes.repetition, strict=True))
    for condition, repetition in itertools.product(run.conditions, range(run.repetitions)):
        if rows[condition, repetition] != 1:
            raise ValueError(
                f"expected one row for repetition {repetition} of {condition} in {folder / 'outcomes.parquet'}, "
                f"found {rows[condition, repetition]}; {_remedy(task, cell)}"
            )
    return run
