"""One video through a trained network: probabilities over time, and the video with them drawn on it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline import params
from pipeline.training.serving import TrainedNetwork
from pipeline.video import classify, codec
from stages import classify as stage


def network(file, inputs=2048, classes=("a", "b", "c"), hidden=4):
    generator = torch.Generator().manual_seed(1)
    outputs = max(1, len(classes))
    tensors = {
        "W": torch.randn(inputs + 1, 4 * hidden, generator=generator) * 0.05,
        "V": torch.randn(4 * hidden, hidden, generator=generator) * 0.1,
        "U": torch.randn(outputs, hidden, generator=generator),
        "b": torch.randn(outputs, 1, generator=generator),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, {"model": json.dumps({"cell": "lstm", "inputs": inputs, "classes": list(classes)})})
    return file


@pytest.fixture
def clip(tmp_path):
    """Five and a half seconds at 25 frames per second."""
    shades = (np.full((64, 96, 3), 40 + k, np.uint8) for k in range(138))
    file = tmp_path / "clip.mpg"
    codec.write(file, shades, 25)
    return file


def test_a_window_for_every_sample_from_the_last_slice_on(clip, tmp_path):
    settings = params.Params().video
    found = classify.classify(clip, TrainedNetwork(network(tmp_path / "m")), settings.frames, settings.features, 1)
    # 5.52 s hold 8 samples at 1.4 per second: two windows of 7, the first ending 6/1.4 s after the start.
    assert len(found.times) == 2
    np.testing.assert_allclose(found.times, [6 / 1.4, 7 / 1.4], atol=0.021)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert [name for name, _ in found.best(1)] == [found.classes[found.probabilities.mean(0).argmax()]]
    drawn = tmp_path / "drawn.mp4"
    assert classify.draw(clip, drawn, found) == 138
    assert len(codec.scan(drawn)) == 138
    before, after = list(codec.pick(drawn, [2, 136]))
    assert after[:40].std() > before[40:].std(), "words are drawn"


def test_a_short_video_is_padded(tmp_path):
    file = tmp_path / "short.mpg"
    codec.write(file, (np.full((64, 96, 3), 90, np.uint8) for _ in range(30)), 25)
    settings = params.Params().video
    found = classify.classify(file, TrainedNetwork(network(tmp_path / "m")), settings.frames, settings.features, 1)
    assert found.probabilities.shape == (1, 3)


def test_the_command_prints_and_refuses(project, clip, capsys):
    (project / "params.yaml").write_text(params.render(params.Params()))
    network(project / "run" / "models" / "none.safetensors")
    network(project / "fx" / "models" / "none.safetensors", inputs=4, classes=())
    assert stage.main([str(clip), "--run", "run", "--condition", "none", "--draw", "out.mp4"]) == 0
    told = capsys.readouterr().out
    assert "whole video: " in told
    assert "wrote 138 frames" in told
    assert stage.main([str(clip), "--run", "fx", "--condition", "none"]) == 1
    assert "expected a classifier of 2048 features" in capsys.readouterr().err
    assert stage.main([str(clip), "--run", "run"]) == 1
    assert "dvc repro train" in capsys.readouterr().err
    assert stage.main(["nothing.mpg", "--run", "run", "--condition", "none"]) == 1
