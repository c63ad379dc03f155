"""A trained network loads into NoisyLSTM or NoisyGRU and gives what the engine predicted."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nem import NoisyGRU, NoisyLSTM
from pipeline.common import sequences
from pipeline.training import models, train
from pipeline.training.engine import Engine
from tests.training import small


def trained(cell, head, folder):
    """Return a dataset and one trained repetition."""
    sequences.write(folder, small.table(head, outputs=1 if head == "identity" else 3))
    data = sequences.load(folder)
    settings = small.settings(cell=cell, conditions=("none",))
    return data, Engine(data, settings, seed=1, stream="sample", repetitions=[0]).run()[0]


def about(cell, data):
    sizes = {"inputs": data.inputs, "hidden": 5, "outputs": data.outputs}
    return {"cell": cell, **sizes, "classes": [*data.classes]}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_a_loaded_network_predicts_what_the_engine_did(cell, head, tmp_path):
    data, repetition = trained(cell, head, tmp_path)
    models.save(tmp_path / "m", repetition.parameters[0], about(cell, data))
    network = models.load(tmp_path / "m")
    predictions = network.predict(data.test.pool[data.test.index].numpy())
    expected = repetition.predictions[0]
    if head == "identity":
        expected = (expected - data.target_offset) / data.target_scale
    assert predictions.shape == (len(data.test), data.outputs)
    np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-5)
    assert network.about == about(cell, data)
    models.save(tmp_path / "again", repetition.parameters[0], dict(reversed(about(cell, data).items())))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


@pytest.mark.parametrize(("cell", "ours", "theirs"), [("lstm", NoisyLSTM, nn.LSTM), ("gru", NoisyGRU, nn.GRU)])
def test_its_tensors_have_torchs_names_and_order(cell, ours, theirs, tmp_path):
    data, repetition = trained(cell, "identity", tmp_path)
    models.save(tmp_path / "m", repetition.parameters[0], about(cell, data))
    tensors = load_file(tmp_path / "m")
    head = nn.Linear(5, 1)
    head.load_state_dict({name[5:]: tensors.pop(name) for name in ("head.weight", "head.bias")})
    x = data.test.pool[data.test.index]
    predictions = []
    for layer in (ours(2, 5, batch_first=True), theirs(2, 5, batch_first=True)):
        layer.load_state_dict(tensors)
        predictions.append(head(layer.eval()(x)[0][:, -1]).detach() * data.target_scale + data.target_offset)
    torch.testing.assert_close(predictions[0], predictions[1])
    torch.testing.assert_close(predictions[1], repetition.predictions[0], rtol=1e-4, atol=1e-5)


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
    data, repetition = trained("gru", "identity", tmp_path)
    tensors = models.state_dict("gru", repetition.parameters[0])
    for described in (None, "{", "3", "{}", json.dumps(about("lstm", data)), json.dumps(about("rnn", data))):
        save_file(tensors, tmp_path / "m", None if described is None else {"model": described})
        with pytest.raises(ValueError, match=r"(?s)expected a trained network in .*dvc repro train"):
            models.load(tmp_path / "m")
    save_file({"W": torch.zeros(1)}, tmp_path / "m", {"model": json.dumps(about("gru", data))})
    with pytest.raises(ValueError, match=r"head\.weight"):
        models.load(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"x" * 50)
    with pytest.raises(ValueError, match="dvc repro train"):
        models.load(tmp_path / "m")
    models.save(tmp_path / "m", repetition.parameters[0], about("gru", data))
    for shape in ((1, 2, 3), (2, 2)):
        with pytest.raises(ValueError, match=r"expected inputs of shape \(N, T, 2\)"):
            models.load(tmp_path / "m").predict(np.zeros(shape, np.float32))
