"""Training what the grid lists: a row per purpose, setting, condition and repetition, computed whenever it is asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from nem.conditions import Condition
from pipeline.common import records
from pipeline.common.sequences import Dataset
from pipeline.evaluation.metrics import calibration_error
from pipeline.study.grid import Entry
from pipeline.tasks import TASKS
from pipeline.training import train
from pipeline.training.engine import METRICS, Repetition
from pipeline.training.settings import PLACES
from pipeline.training.train import Work

# At R, on clean labels without noise; null or NaN where undefined, and where the network had failed.
MEASURES = (
    "train_loss", "validation_loss", "test_loss", "validation_accuracy", "test_accuracy", "calibration_error",
    "recording_accuracy", "acceptance_output", "acceptance_hidden",
)  # fmt: skip
TEXTS = ("cell", "optimiser", "granularity", "hidden_injection", "latent")
WHOLE = ("hidden", "batch_size", "epochs", "max_epochs")
NUMBERS = ("learning_rate", "momentum")
STRENGTHS = ("sigma_output", "sigma_hidden", "decay_output", "decay_hidden")
# ``recording_accuracy``: of mean probabilities over all test sequences of a recording, where the task knows recordings.
# ``failed``: by R. ``curve``: the test loss after epochs 0, 1, …, NaN from where the network had failed.
ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("purpose", "task", "split", "head", *TEXTS)),
        *((name, pa.int32()) for name in WHOLE),
        *((name, pa.float64()) for name in (*NUMBERS, *STRENGTHS)),
        *(("condition", pa.string()), ("repetition", pa.int32()), ("failed", pa.bool_())),
        *((name, pa.float64()) for name in MEASURES),
        ("curve", pa.list_(pa.float64())),
    ]
)


def collect(entries: Sequence[Entry], label: str) -> pa.Table:
    """Return the rows of all entries; train what is not kept (errors as of :func:`pipeline.training.train.run`)."""
    numbers: dict[Work, set[int]] = {}  # by stack: a repetition that several entries want is trained once
    for entry in entries:
        numbers.setdefault(replace(entry.work, repetitions=()), set()).update(entry.work.repetitions)
    works = [replace(work, repetitions=tuple(sorted(wanted))) for work, wanted in numbers.items()]
    rows: dict[tuple[Work, int, str], dict[str, Any]] = {}
    folders = {entry.work.data: entry.task for entry in entries}
    recordings = {folder: TASKS[task].recordings(folder) for folder, task in folders.items()}
    for work, repetition in train.run(works, label=label, keep="study"):
        stack = replace(work, repetitions=())
        measured = _measured(work, repetition, recordings[work.data])
        rows |= {(stack, repetition.number, row["condition"]): row for row in measured}
    table = []
    for entry in entries:
        stack, about = replace(entry.work, repetitions=()), {"purpose": entry.purpose, "task": entry.task}
        table += [rows[stack, r, condition] | about for r in entry.work.repetitions for condition in entry.keep]
    return pa.Table.from_pylist(table, schema=ROWS)


def scores(probabilities: npt.NDArray[np.float64], data: Dataset, recordings: Mapping[int, str] | None
           ) -> dict[str, Any]:  # fmt: skip
    """Return what probabilities ``(N, K)`` of the test sequences of a classifier's data are worth.

    ``recordings`` has what each sequence is cut from, by the sequence's name.
    """
    labels = data.test.targets.argmax(1).numpy()
    about = {"calibration_error": calibration_error(probabilities, labels)}
    if recordings:
        own = [recordings[row] for row in data.test.rows.tolist()]
        _, first, which = np.unique(own, return_index=True, return_inverse=True)
        sums = np.zeros((len(first), data.outputs))
        np.add.at(sums, which, probabilities)
        about["recording_accuracy"] = float((sums.argmax(1) == labels[first]).mean())
    return about


def _measured(work: Work, repetition: Repetition, recordings: Mapping[int, str] | None) -> Iterator[dict[str, Any]]:
    """Yield a row per condition of a repetition, but for purpose and task."""
    settings, data = work.settings, train.dataset(work)
    validation = repetition.validation
    for number, condition in enumerate(repetition.conditions):
        curve, mode = repetition.curves[number].numpy(), Condition.parse(condition).mode or "additive"
        at_end = dict(zip(METRICS, curve[settings.epochs].tolist(), strict=True))
        row = {name: at_end[name] for name in MEASURES if name in at_end}
        if validation is not None:
            row |= zip(("validation_loss", "validation_accuracy"), validation[number].tolist(), strict=True)
        failed = 0 < int(repetition.failed_epoch[number]) <= settings.epochs
        if data.head == "softmax" and not failed:
            row |= scores(repetition.predictions[number].double().numpy(), data, recordings)
        losses = curve[:, METRICS.index("test_loss")].tolist()
        about = {name: getattr(settings, name) for name in (*TEXTS, *WHOLE, *NUMBERS)}
        for place in PLACES:
            noise = settings.noise.of(place, mode)
            about |= {f"sigma_{place}": noise.sigma, f"decay_{place}": noise.decay}
        about |= {"condition": condition, "repetition": repetition.number, "failed": failed, "curve": losses}
        about |= {name: None if failed else row.get(name) for name in MEASURES}
        yield {"split": work.split, "head": data.head, **about}


def frame(source: Path | pa.Table) -> pd.DataFrame:
    """Return rows as a frame: missing numbers are NaN, curves arrays. A file that is missing or damaged is an error."""
    return (records.read_table(source, ROWS) if isinstance(source, Path) else source).to_pandas()
