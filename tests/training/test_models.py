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
    """Return a dataset, one trained repetition, and a description of its networks."""
    sequences.write(folder, small.table(head))
    data = sequences.load(folder)
    settings = small.settings(cell=cell, conditions=("none",))
    about = {"cell": cell, "inputs": 2, "hidden": 5, "outputs": data.outputs, "classes": [*data.classes]}
    return data, Engine(data, settings, seed=1, stream="sample", repetitions=[0]).run()[0], about


@pytest.mark.parametrize(("cell", "ours", "theirs"), [("lstm", NoisyLSTM, nn.LSTM), ("gru", NoisyGRU, nn.GRU)])
@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_a_loaded_network_predicts_what_the_engine_did(cell, ours, theirs, head, tmp_path):
    """And its tensors have torch's names and order."""
    data, repetition, about = trained(cell, head, tmp_path)
    models.save(tmp_path / "m", repetition.parameters[0], about)
    network, x = models.load(tmp_path / "m"), data.test.pool[data.test.index]
    predictions = network.predict(x.numpy())
    expected = repetition.predictions[0]
    if head == "identity":
        expected = (expected - data.target_offset) / data.target_scale
    assert predictions.shape == (len(data.test), data.outputs)
    np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-5)
    assert network.about == about
    models.save(tmp_path / "again", repetition.parameters[0], dict(reversed(about.items())))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    assert isinstance(network.layer, ours)
    layer, tensors = theirs(2, 5, batch_first=True), load_file(tmp_path / "m")
    layer.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("head.")})
    torch.testing.assert_close(layer(x)[0], network.layer(x)[0])
    assert torch.equal(tensors["head.weight"], network.head.weight)
    assert torch.equal(tensors["head.bias"], network.head.bias)


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
    tensors = models.state_dict("gru", repetition.parameters[0])
    for described in (None, "{", "3", "{}", *(json.dumps(about | {"cell": cell}) for cell in ("lstm", "rnn"))):
        save_file(tensors, tmp_path / "m", None if described is None else {"model": described})
        with pytest.raises(ValueError, match=r"(?s)expected a trained network in .*dvc repro train"):
            models.load(tmp_path / "m")
    save_file({"W": torch.zeros(1)}, tmp_path / "m", {"model": json.dumps(about)})
    with pytest.raises(ValueError, match=r"head\.weight"):
        models.load(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"x" * 50)
    with pytest.raises(ValueError, match="dvc repro train"):
        models.load(tmp_path / "m")
    models.save(tmp_path / "m", repetition.parameters[0], about)
    for shape in ((1, 2, 3), (2, 2)):
        with pytest.raises(ValueError, match=r"expected inputs of shape \(N, T, 2\)"):
            models.load(tmp_path / "m").predict(np.zeros(shape, np.float32))
