"""A task as the evaluation sees it: what is special about its results; all else is done in one way for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from nem.conditions import Mode, Place
from pipeline.common import paths
from pipeline.common.sequences import Dataset, Head
from pipeline.evaluation.paper import PaperTable, Quantity
from pipeline.evaluation.statistics import Bootstrap, Floats
from pipeline.evaluation.style import Picture
from pipeline.training.results import TrainedRun

if TYPE_CHECKING:
    from pipeline.params import Params

GENERATED = "synthetic"  # the source of data that were made up
Summary = dict[str, dict[str, dict[str, float | int | None]]]  # condition → metric → {mean, ci_low, ci_high, n, …}


@dataclass(frozen=True)
class Measure:
    """A number by which networks are judged."""

    name: str  # its key in metrics.json
    curve: str  # its column in curves.parquet
    words: str
    unit: str  # of the shown number; {unit} stands for the unit of the task's targets
    scale: float  # shown number per stored number
    gain: Literal[-1, 1]  # sign of an improvement
    quantity: Quantity  # what the tables call it

    def label(self, unit: str) -> str:
        """Return name and unit, such as ``test accuracy [%]``, for targets in ``unit``."""
        return f"{self.words} [{self.unit.format(unit=unit)}]" if unit or "{" not in self.unit else self.words


MEASURES = {  # the headline of each head
    "identity": Measure("test_mse", "test_loss", "test squared error", "{unit}²", 1.0, -1, "squared_error"),
    "softmax": Measure("test_accuracy", "test_accuracy", "test accuracy", "%", 100.0, 1, "accuracy"),
    "logistic": Measure("test_cross_entropy", "test_loss", "test cross entropy", "nats", 1.0, -1, "cross_entropy"),
}
CLASSES = {"test_cross_entropy": "test_loss", "train_cross_entropy": "train_loss",
           "test_accuracy": "test_accuracy", "train_accuracy": "train_accuracy"}  # fmt: skip
VALUES = {
    "identity": {"test_mse": "test_loss", "train_mse": "train_loss"}, "softmax": CLASSES, "logistic": CLASSES,
}  # fmt: skip
"""Per head: what is read from the curves, as name in ``metrics.json`` → column; the loss on test data is first."""
COLUMNS = {"test_cross_entropy": ("test cross entropy [nats]", 1), "calibration_error": ("calibration error [%]", 100),
           "test_accuracy": ("labels that are right [%]", 100)}  # fmt: skip
"""Columns of the report beside the headline: metric → heading and shown number per stored number."""


@dataclass(frozen=True)
class Evidence:
    """The data by which the runs of one split are judged."""

    folder: Path  # where the task's sequences are
    split: str
    further: str | None  # the split as paths and results name it: None for the first, which is called like the task
    dataset: Dataset
    source: Mapping[str, Any]  # the record of where the data came from; empty where there is none

    @property
    def test_classes(self) -> npt.NDArray[np.int64]:
        """Classes ``(N,)`` of the test sequences, in ascending order of their names, as predictions are."""
        order = np.argsort(self.dataset.test.rows.numpy(), kind="stable")
        return np.asarray(self.dataset.test.targets.argmax(1).numpy()[order])


@dataclass(frozen=True)
class Task:
    """What is special about one task in its results."""

    name: str  # in params.yaml and in every path
    title: str  # its name in words
    head: Head  # values, classes or labels: decides the measures; of anybody's own data these say which (``of``)
    splits: Mapping[str, str] = field(default_factory=dict)  # split of the data → its name in words
    rival: str | None = None  # the naive baseline that every picture and verdict names, if any
    words: Mapping[str, str] = field(default_factory=dict)  # baseline → its name in words
    columns: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # further ones, as COLUMNS
    tables: tuple[PaperTable, ...] = ()  # the paper's, where it has any
    # The paper's learning curves, where it has any: file name → cell, mode, and the places of its panels.
    curves: Mapping[str, tuple[str, Mode, tuple[Place, ...]]] = field(default_factory=dict)
    source: str = ""  # the source whose data are the paper's own
    # Returns the naive baselines' headline metric; None is the best constant answer.
    references: Callable[[Evidence], dict[str, float]] | None = None
    draw: Callable[["Outcome"], list[Picture]] = lambda outcome: []  # what a run has besides every task's pictures
    # Writes tables and draws figures about all runs of the task together.
    conclude: Callable[[Sequence["Outcome"], Bootstrap], list[Picture]] = lambda outcomes, bootstrap: []
    # Writes and returns the forms of the data that tuning chooses among, by name, for given parameters: their folders,
    # and the task's parameters that ask for them; None is its data as they are.
    forms: Callable[["Params"], Mapping[str, tuple[Path, dict[str, Any]]]] | None = None
    # Returns the recording that each sequence in a folder is cut from, by the sequence's name; None: there is none.
    recordings: Callable[[Path], Mapping[int, str] | None] = lambda folder: None
    # What a reader must know of data of a source, given the source's record; empty for nothing.
    note: Callable[[Mapping[str, Any]], str] = lambda source: ""

    def of(self, head: Head, title: str = "") -> "Task":
        """Return the task with the head of the data at hand, and with the title that their owner gives them, if any."""
        return replace(self, head=head, title=title or self.title)

    @property
    def measure(self) -> Measure:
        """The headline: what tables, pictures and verdicts are about."""
        return MEASURES[self.head]

    @property
    def loss(self) -> str:
        """The metric that is trained on: the loss on clean test labels."""
        return next(iter(VALUES[self.head]))

    def called(self, reference: str) -> str:
        """Return a baseline's name in words."""
        return self.words.get(reference, reference.replace("_", " "))


@dataclass(frozen=True)
class Outcome:
    """One run with its statistics."""

    task: Task
    evidence: Evidence
    run: TrainedRun
    references: dict[str, float]  # the naive baselines' headline metric
    values: dict[str, dict[str, Floats]]  # per condition and metric (repetitions,), NaN where the network failed
    summary: Summary
    differences: pd.DataFrame  # to the noiseless condition, paired: one row per metric and condition

    @property
    def name(self) -> str:
        """The results' key: the task's name, with that of a further split."""
        return paths.run_name(self.task.name, self.evidence.further)

    @property
    def prefix(self) -> str:
        """What the files of a further split begin with."""
        return f"{self.evidence.further}_" if self.evidence.further else ""

    @property
    def title(self) -> str:
        """Task, split and cell in words."""
        words = self.task.splits.get(self.evidence.split, self.evidence.further)
        return f"{self.task.title}{f', {words}' if words else ''}: {self.run.cell.upper()}"

    @property
    def tables(self) -> tuple[PaperTable, ...]:
        """The paper's tables of this task and cell; where it has none, one of the headline and one of speed-ups."""
        quantities: tuple[Quantity, ...] = (self.task.measure.quantity, "speed_up")
        own = [table for table in self.task.tables if table.cell == self.run.cell and self.alike]
        return tuple(own or (PaperTable(None, self.task.name, self.run.cell, quantity) for quantity in quantities))

    @property
    def columns(self) -> dict[str, tuple[str, float]]:
        """Columns that stand beside the headline: metric → heading and scale."""
        columns, present = {**self.task.columns, **COLUMNS}, self.summary["none"].keys() - {self.task.measure.name}
        return {name: column for name, column in columns.items() if name in present}

    @property
    def source(self) -> str:
        """Where the data came from, in a word; empty where nobody noted it."""
        return str(self.evidence.source.get("source", ""))

    @property
    def paper(self) -> bool:
        """Whether task and data are the paper's own: only then do its numbers, names and units stand beside ours."""
        return bool(self.task.source) and self.source == self.task.source

    @property
    def alike(self) -> bool:
        """Whether the data are the paper's, or generated in their likeness: files then have its tables' names."""
        return self.paper or self.source in ("", GENERATED)

    def file(self, number: int, words: str) -> str:
        """Return the name of the file of the paper's figure, or one of these words for anybody's own data."""
        return f"figure_{number}" if self.alike else f"{words}_{self.task.name}"

    def figure(self, number: int) -> str:
        """Return what the caption of the paper's figure begins with: its number, where the data are the paper's."""
        return f"Figure {number}: " if self.paper else ""

    @property
    def label(self) -> str:
        """Name and unit of the headline; what was generated is in no unit."""
        return self.task.measure.label("" if self.source == GENERATED else self.run.record["unit"])
