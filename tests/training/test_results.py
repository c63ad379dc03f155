"""A run's files are refused, by name and with a remedy, unless training can have written them."""

import copy

import pyarrow as pa
import pytest

from pipeline import paths, records
from pipeline.training import results
from tests.evaluation import fabricate


@pytest.fixture
def run(project):
    """The folder of a run, and its record."""
    settings = fabricate.fx_params(conditions=["none", "nem-additive-output"])
    fabricate.run(settings, "gru")
    folder = paths.run_folder("fx", "gru")
    return folder, records.read_json(folder / "run.json")


def changed(record, path, value=None):
    """Return a copy whose key at ``path`` has another value, or (``None``) is missing."""
    new = copy.deepcopy(record)
    *parents, last = path.split(".")
    node = new
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return new


def refuse(folder, file, *words):
    with pytest.raises(ValueError, match=file.replace(".", r"\.")) as error:
        results.load("fx", "gru")
    text = str(error.value)
    assert all(word in text for word in ("expected", "found", "run", *words)), text
    return text


@pytest.mark.parametrize("path", results.RECORD)
def test_a_record_without_a_key_or_with_a_value_of_another_type(run, path):
    folder, record = run
    records.write_json(folder / "run.json", changed(record, path))
    refuse(folder, "run.json", path, "found none", "dvc repro train@fx-gru")
    for value in (True, [1] if results.RECORD[path] != (list,) else {"a": 1}):
        records.write_json(folder / "run.json", changed(record, path, value))
        refuse(folder, "run.json", path, "dvc repro train@fx-gru")
    records.write_json(folder / "run.json", record)
    assert results.load("fx", "gru").record == record


@pytest.mark.parametrize("content", [{}, [], None, 1, "run"])
def test_a_record_that_is_none(run, content):
    folder, _ = run
    records.write_json(folder / "run.json", content)
    refuse(folder, "run.json", "dvc repro train@fx-gru")


def test_a_record_of_another_run(run):
    folder, record = run
    records.write_json(folder / "run.json", changed(record, "cell", "lstm"))
    refuse(folder, "run.json", "a run of fx gru", "one of fx lstm")


@pytest.mark.parametrize("name", ["curves", "outcomes", "predictions"])
def test_tables_without_a_column_or_with_one_of_another_type(run, name):
    folder, _ = run
    file = folder / f"{name}.parquet"
    table = records.read_table(file)
    for column in table.column_names:
        records.write_table(file, table.drop_columns([column]))
        refuse(folder, file.name, repr(column), "no such column")
        place = table.column_names.index(column)
        records.write_table(file, table.set_column(place, column, pa.array([["x"]] * len(table))))
        refuse(folder, file.name, repr(column))
    records.write_table(file, table)
    results.load("fx", "gru")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        results.load("fx", "gru")


def test_outcomes_of_other_repetitions(run):
    folder, _ = run
    table = records.read_table(folder / "outcomes.parquet")
    for other, count in ((table.slice(1), 0), (pa.concat_tables([table, table.slice(0, 1)]), 2)):
        records.write_table(folder / "outcomes.parquet", other)
        refuse(folder, "outcomes.parquet", "repetition 0 of none", f"found {count}")
