"""A run's files are refused unless training can have written them; its networks load into NoisyLSTM or NoisyGRU."""

import copy
import json
from functools import reduce
from operator import getitem

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from nem import NoisyGRU, NoisyLSTM
from pipeline.common import paths, records, sequences
from pipeline.training import models, results, train
from pipeline.training.engine import Engine
from tests.training import small


@pytest.fixture
def run(project):
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
        cases += [(changed(record, path, v), [path]) for v in (True, [1] if types != (list,) else {"a": 1})]
    for key, value, name in (("cell", "lstm", "sample lstm"), ("split", "groups", "sample_groups gru")):
        cases.append((changed(record, key, value), ["a run of sample gru", f"one of {name}"]))
    for content, words in cases:
        records.write_json(folder / "run.json", content)
        refuse("run.json", "dvc repro", *words)


@pytest.mark.parametrize("name", ["curves", "outcomes", "predictions"])
def test_tables_without_a_column_or_a_row_or_with_a_column_of_another_type(run, name):
    folder, _ = run
    file = folder / f"{name}.parquet"
    table = records.read_table(file)
    for place, column in enumerate(table.column_names):
        records.write_table(file, table.drop_columns([column]))
        refuse(file.name, repr(column), "no such column")
        records.write_table(file, table.set_column(place, column, pa.array([["x"]] * len(table))))
        refuse(file.name, repr(column))
    for other, count in ((table.slice(1), 0), (pa.concat_tables([table, table.slice(0, 1)]), 2)):
        if name == "outcomes":
            records.write_table(file, other)
            refuse(file.name, "repetition 0 of none", f"found {count}", "dvc repro")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        results.load("sample", "gru")


def trained(cell, head, folder):
    """Return a dataset, one trained repetition, and a description of its networks."""
    sequences.write(folder, small.table(head))
    data = sequences.load(folder)
    settings = small.settings(cell=cell, conditions=("none",))
    about = {"cell": cell, "inputs": 2, "hidden": 5, "outputs": data.outputs, "classes": [*data.classes]}
    return data, Engine(data, settings, seed=1, stream="sample", repetitions=[0]).run()[0], about


@pytest.mark.parametrize(("cell", "ours", "theirs"), [("lstm", NoisyLSTM, nn.LSTM), ("gru", NoisyGRU, nn.GRU)])
@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_a_loaded_network_predicts_what_the_engine_did(cell, ours, theirs, head, tmp_path):
    """And its tensors have torch's names; equal content gives equal bytes."""
    data, repetition, about = trained(cell, head, tmp_path)
    for name, described in (("m", about), ("again", dict(reversed(about.items())))):
        models.save(tmp_path / name, repetition.parameters[0], described)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    network, x = models.load(tmp_path / "m"), data.test.pool[data.test.index]
    assert network.about == about
    expected = repetition.predictions[0]
    if head == "identity":
        expected = (expected - data.target_offset) / data.target_scale
    np.testing.assert_allclose(network.predict(x.numpy()), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(network.layer, ours)
    layer, tensors = theirs(2, 5, batch_first=True), load_file(tmp_path / "m")
    assert all(torch.equal(tensors.pop(f"head.{n}"), getattr(network.head, n)) for n in ("weight", "bias"))
    layer.load_state_dict(tensors)
    torch.testing.assert_close(layer(x)[0], network.layer(x)[0])


def test_a_model_says_how_it_was_chosen_and_what_it_reads(project):
    work = small.work(conditions=("none", "nem-additive-both"), repetitions=(0, 1, 2))
    train.train("sample", [work])
    network = models.load(project / "data/runs/sample/lstm/models/nem-additive-both.safetensors")
    assert network.about["repetition"] in (0, 1, 2)
    expected = {
        "chosen_by": "test loss at epoch 3", "condition": "nem-additive-both", "origin": {"weights": "seeded"},
        "task": "sample", "split": None, "unit": "°", "slices": 3, "first_target": 3, "target_scale": 2.0,
    }  # fmt: skip
    assert network.about.items() >= expected.items()


def test_other_files_and_shapes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro train"):
        models.load(tmp_path / "none.safetensors")
    _, repetition, about = trained("gru", "identity", tmp_path)
    tensors, file = models.state_dict("gru", repetition.parameters[0]), tmp_path / "m"
    descriptions = [None, "{", "3", "{}", *(json.dumps(about | {"cell": cell}) for cell in ("lstm", "rnn"))]
    contents = [save(tensors, None if text is None else {"model": text}) for text in descriptions]
    for content in (*contents, save({"W": torch.zeros(1)}, {"model": json.dumps(about)}), b"x" * 50):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"(?s)expected a trained network in .*dvc repro train"):
            models.load(file)
    models.save(file, repetition.parameters[0], about)
    for shape in ((1, 2, 3), (2, 2)):
        with pytest.raises(ValueError, match=r"expected inputs of shape \(N, T, 2\)"):
            models.load(file).predict(np.zeros(shape, np.float32))
