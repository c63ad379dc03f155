"""Generated data of both heads in a project folder, and fabricated rows of the study."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline import params
from pipeline.common import paths, records, sequences
from pipeline.study import grid, rows
from pipeline.video import clips
from tests.training import small

HEADS = {"fx": "identity", "video": "softmax"}
SPLITS = {"fx": ("days",), "video": ("groups", "random")}


@pytest.fixture(scope="session")
def quick():
    return grid.quick(params.Params())


@pytest.fixture
def prepared(project):
    """A project folder with sequences of both tasks: values that follow their input, and three classes."""
    for task, head in HEADS.items():
        table = small.table(head, 60)
        splits = dict(zip(SPLITS[task], table.splits.values(), strict=False))
        groups = [f"{k % 4}" for k in range(len(table.rows))]
        sequences.write(paths.sequences(task), replace(table, splits=splits, group=groups))
        records.write_json(paths.source_record(task), {"source": "synthetic"})
    names = [f"video {row // 3}" for row in table.rows.tolist()]
    columns = [table.rows, names, names, names, table.rows.astype(float)]
    clips_table = pa.table([pa.array(column) for column in columns], schema=clips.SCHEMA)
    records.write_table(paths.sequences("video") / "clips.parquet", clips_table)
    (project / "params.yaml").write_text(params.render(params.Params()), encoding="utf-8")
    return project


def row_of(purpose, task, split, cell, condition, repetition, **changes):
    """One row of the study, fabricated; ``changes`` are columns."""
    row = dict.fromkeys(rows.MEASURES, np.nan) | {"purpose": purpose, "task": task, "split": split, "cell": cell}
    row |= {"head": HEADS[task], "optimiser": "sgd", "granularity": "slice", "hidden_injection": "forward"}
    row |= {"latent": "mean-field", "hidden": 4, "batch_size": 32, "epochs": 20, "max_epochs": 30, "momentum": 0.0}
    row |= {"learning_rate": 0.1, **dict.fromkeys(rows.STRENGTHS, 0.3), "condition": condition, "failed": False}
    return row | {"repetition": repetition, "key": ""} | changes


def regime_rows(loss, repetitions=10):
    """Fabricate finals: ``loss(task, split, regime, cell, condition)`` is the test loss at R of every repetition."""
    table = []
    for task, regime, cell in itertools.product(HEADS, grid.REGIMES, ("lstm", "gru")):
        for split, condition, r in itertools.product(SPLITS[task], grid.EVERY, range(repetitions)):
            value = loss(task, split, regime, cell, condition) * (1 + 0.001 * r)
            changes = {"curve": np.append(np.linspace(10 * value, value, 21), np.full(10, value)), "test_loss": value}
            if HEADS[task] == "softmax":
                # Repetitions differ, or no test could tell a difference from chance.
                changes |= {"test_accuracy": 1 - value - 0.0001 * r, "calibration_error": value / 2}
            table.append(row_of(regime, task, split, cell, condition, r, **changes))
    return pd.DataFrame(table)
