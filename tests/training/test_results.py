"""A run's files are refused, by name and with a remedy, unless training can have written them."""

import copy
from functools import reduce
from operator import getitem

import numpy as np
import pyarrow as pa
import pytest

from pipeline.common import paths, records
from pipeline.training import results, train
from tests.training import small


@pytest.fixture
def run(project, monkeypatch):
    """The folder of a run, and its record."""
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    train.train("sample", [small.work(cell="gru", conditions=("none", "nem-additive-output"))])
    folder = paths.run_folder("sample", "gru")
    return folder, records.read_json(folder / "run.json")


def changed(record, path, value=None):
    """Return a copy whose key at ``path`` has another value, or (``None``) is missing."""
    new = copy.deepcopy(record)
    *parents, last = path.split(".")
    node = reduce(getitem, parents, new)
    del node[last]
    node |= {} if value is None else {last: value}
    return new


def refuse(file, *words):
    with pytest.raises(ValueError, match=file.replace(".", r"\.")) as error:
        results.load("sample", "gru")
    assert all(word in str(error.value) for word in ("expected", "found", "run", *words)), error.value
    assert "delete" not in str(error.value)


def test_what_training_wrote_is_read(run):
    folder, record = run
    trained = results.load("sample", "gru")
    assert trained.record == record
    assert record.keys() >= {"task", "split", "cell", "seed", "settings", "repetitions", "data", "unit", "head"}
    assert (trained.epochs, trained.max_epochs, trained.repetitions, trained.failed("none")) == (3, 4, 2, 0)
    assert np.array_equal(trained.final("none", "test_loss"), [c[3] for c in trained.curve("none", "test_loss")])
    names = {f"{condition}.safetensors" for condition in trained.conditions}
    assert {file.name for file in (folder / "models").iterdir()} == names
    with pytest.raises(FileNotFoundError, match="train@sample-gru"):
        results.load("sample", "gru", "groups")


def test_a_record_without_a_key_with_a_value_of_another_type_or_of_another_run(run):
    folder, record = run
    cases = [(content, []) for content in ({}, [], None, 1, "run")]
    for path, types in results.RECORD.items():
        cases.append((changed(record, path), [path, "found none", "dvc repro train@sample-gru"]))
        cases += [(changed(record, path, v), [path]) for v in (True, [1] if types is not list else {"a": 1})]
    for key, value, name in (("cell", "lstm", "sample lstm"), ("split", "groups", "sample_groups gru")):
        cases.append((changed(record, key, value), ["a run of sample gru", f"one of {name}"]))
    for content, words in cases:
        records.write_json(folder / "run.json", content)
        refuse("run.json", "dvc repro", *words)


@pytest.mark.parametrize("name", ["curves", "outcomes", "predictions"])
def test_tables_without_a_column_or_with_a_column_of_another_type(run, name):
    folder, _ = run
    file = folder / f"{name}.parquet"
    table = records.read_table(file)
    for place, column in enumerate(table.column_names):
        records.write_table(file, table.drop_columns([column]))
        refuse(file.name, repr(column), "no such column")
        records.write_table(file, table.set_column(place, column, pa.array([["x"]] * len(table))))
        refuse(file.name, repr(column))
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        results.load("sample", "gru")
