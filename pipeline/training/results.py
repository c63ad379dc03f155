"""Reading what training wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline import paths, records
from pipeline.params import Cell, Task
from pipeline.training.train import CURVES, OUTCOMES

Floats = npt.NDArray[np.float64]


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


def load(task: Task, cell: Cell) -> Run:
    """Read a run.

    Raises:
        FileNotFoundError: it was not trained.
        ValueError: a file is damaged.
    """
    folder = paths.run_folder(task, cell)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"expected a finished run in {folder}, found none; run `dvc repro train@{task}-{cell}`")
    return Run(
        task,
        cell,
        records.read_json(folder / "run.json"),
        records.read_table(folder / "curves.parquet", CURVES).to_pandas(),
        records.read_table(folder / "outcomes.parquet", OUTCOMES).to_pandas(),
        records.read_table(folder / "predictions.parquet"),
    )
