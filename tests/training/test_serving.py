"""A trained network as a function gives what the engine predicted."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.training.engine import Engine
from pipeline.training.serving import TrainedNetwork
from tests import problems


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_served_predictions_are_the_engines(cell, head, tmp_path):
    problem = problems.problem(head, outputs=1 if head == "identity" else 3)
    made = Engine(
        problem, cell, problems.settings(), problems.training(conditions=["none"]), seed=1, task="fx", repetitions=[0]
    )
    result = made.run()[0]
    file = tmp_path / "m.safetensors"
    about = {"cell": cell, "inputs": problem.inputs, "classes": list(problem.classes)}
    save_file(result.parameters[0], file, {"model": json.dumps(about)})
    found = TrainedNetwork(file).predict(problem.test.pool[problem.test.index].numpy())
    expected = result.predictions[0]
    if head == "identity":
        expected = (expected - problem.target_offset) / problem.target_scale
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_other_files_and_shapes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro train"):
        TrainedNetwork(tmp_path / "none.safetensors")
    file = tmp_path / "m.safetensors"
    save_file({"W": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="metadata 'model'"):
        TrainedNetwork(file)
    tensors = {"W": torch.zeros(3, 8), "V": torch.zeros(8, 2), "U": torch.zeros(1, 2), "b": torch.zeros(1, 1)}
    save_file(tensors, file, {"model": '{"cell": "lstm", "inputs": 2, "classes": []}'})
    with pytest.raises(ValueError, match=r"expected inputs of shape \(N, T, 2\)"):
        TrainedNetwork(file).predict(np.zeros((1, 2, 3), np.float32))
