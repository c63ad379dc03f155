"""Reading what training wrote, and refusing what it did not write."""

import itertools
from dataclasses import dataclass
from functools import cached_property
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
RECORD: dict[str, Any] = {
    **dict.fromkeys(("task", "cell", "device", "head", "unit", "versions.torch"), str),
    "split": str | None,
    **dict.fromkeys(("settings", "data", "versions"), dict),
    **dict.fromkeys((*WHOLE, "settings.max_epochs"), int),
    **dict.fromkeys(("classes", "settings.conditions"), list),
    **dict.fromkeys(("target_scale", "target_offset", *(f"settings.noise.{'.'.join(n)}" for n in NOISE)), int | float),
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
        networks = (self._networks.get((condition, r), self.curves[:0]) for r in range(self.repetitions))
        return [rows[metric].to_numpy(np.float64) for rows in networks]

    @cached_property
    def _networks(self) -> dict[tuple[str, int], pd.DataFrame]:
        return {(str(name), int(r)): rows for (name, r), rows in self.curves.groupby(["condition", "repetition"])}

    def final(self, condition: str, metric: str) -> Floats:
        """Return the metric at epoch R per repetition; NaN where the network had failed."""
        curves = self.curve(condition, metric)
        return np.array([c[self.epochs] if len(c) > self.epochs else np.nan for c in curves])

    def failed(self, condition: str) -> int:
        """Return how many repetitions of a condition had failed by epoch R."""
        rows = self.outcomes[(self.outcomes.condition == condition) & (self.outcomes.status == "failed")]
        return int((rows.failed_epoch <= self.epochs).sum())


def predictions_schema(record: dict[str, Any]) -> pa.Schema:
    """Return the columns of ``predictions.parquet``: probabilities of classes or labels, or predicted values."""
    several = pa.list_(pa.float32(), record["outputs"])
    values = ("prediction", pa.float64() if record["outputs"] == 1 else several)
    return pa.schema([*NETWORK, ("row", pa.int32()), ("probabilities", several) if record["classes"] else values])


def load(task: str, cell: str, split: str | None = None) -> TrainedRun:
    """Read the run of a cell on a further split of a task; ``None`` is its first.

    A FileNotFoundError says that it was not trained, or a file is missing, a ValueError that a file is damaged, lacks a
    key or a column, or is of another run.
    """
    folder, remedy = paths.run_folder(task, cell, split), f"run `dvc repro train@{task}-{cell}`"
    source = folder / "run.json"
    if not source.is_file():
        raise FileNotFoundError(f"expected a finished run in {folder}, found none; {remedy}")
    record = records.read_object(source, RECORD, remedy)
    own = (record["task"], record["cell"], record["split"])
    if own != (task, cell, split):
        wanted, other = (f"{paths.run_name(of, part)} {kind}" for of, kind, part in ((task, cell, split), own))
        raise ValueError(f"expected a run of {wanted} in {source}, found one of {other}; {remedy}")
    curves = records.read_table(folder / "curves.parquet", CURVES).to_pandas()
    outcomes = records.read_table(folder / "outcomes.parquet", OUTCOMES).to_pandas()
    predictions = records.read_table(folder / "predictions.parquet", predictions_schema(record))
    return TrainedRun(task, cell, record, curves, outcomes, predictions)
