"""One video through a trained network: probabilities over time, and the video with them drawn on it."""

import numpy as np
import pytest
import torch

from pipeline.training import models
from pipeline.video import classify
from pipeline.video.features import inception
from pipeline.video.frames import codec
from stages import classify as stage

SAMPLING = {"rate": 1.4, "per_clip": 7, "phases": 1, "short": "pad", "jpeg_quality": 95}


@pytest.fixture
def network(tmp_path, weights_file, random_state):
    """Writes a trained network that records how its features came about."""

    def write(file="m", inputs=2048, classes=("a", "b", "c"), **changes):
        generator, hidden, outputs = torch.Generator().manual_seed(1), 4, max(1, len(classes))
        shapes = {"W": (inputs + 1, 4 * hidden), "V": (4 * hidden, hidden), "U": (outputs, hidden), "b": (outputs, 1)}
        parameters = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
        weights = {"weights": "file", "weights_path": str(weights_file), "seed": ""}
        weights |= {"weights_sha256": inception.digest(random_state), "preprocessing": "torchvision"}
        sizes = {"cell": "lstm", "inputs": inputs, "outputs": outputs, "hidden": hidden, "classes": list(classes)}
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        models.save(tmp_path / file, parameters, {**sizes, "origin": {**SAMPLING, **weights, **changes}})
        return models.load(tmp_path / file)

    return write


@pytest.fixture
def clip(tmp_path):
    """Five and a half seconds at 25 frames per second, and one of 1.2 seconds."""
    for name, count in (("clip.mpg", 138), ("short.mpg", 30)):
        film = (np.full((64, 96, 3), 40 + k, np.uint8) for k in range(count))
        (tmp_path / name).write_bytes(codec.encode_video(film, 25))
    return tmp_path / "clip.mpg"


def test_a_window_for_every_sample_from_the_last_slice_on(clip, network, tmp_path):
    classified = classify.classify(clip, network(), "cpu")
    # 5.52 s hold 8 samples at 1.4 per second: two windows of 7, the first ending 6/1.4 s after the start.
    assert classified.times == pytest.approx(np.array([6 / 1.4, 7 / 1.4]), abs=0.021)
    assert classified.probabilities.sum(1) == pytest.approx(1, rel=1e-5)
    best = classified.classes[classified.probabilities.mean(0).argmax()]
    assert [name for name, _ in classified.best(1)] == [best]
    drawn = tmp_path / "drawn.mp4"
    assert classify.draw(clip, drawn, classified) == len(codec.scan(drawn)) == 138
    before, after = list(codec.pick(drawn, [2, 136]))
    assert after[:40].std() > before[40:].std(), "words are drawn"
    short = classify.classify(clip.with_name("short.mpg"), network(), "cpu")
    assert short.probabilities.shape == (1, 3), "padded"


def test_what_the_network_records_decides_and_not_todays_parameters(clip, network):
    usual = classify.classify(clip, network(), "cpu")
    denser = classify.classify(clip, network(phases=2, per_clip=3), "cpu")
    assert len(denser.times) == 12, "16 samples at 2.8 per second, a clip spans 5"
    other = classify.classify(clip, network(preprocessing="inception-2015"), "cpu")
    assert not np.allclose(other.probabilities, usual.probabilities, atol=1e-4)
    with pytest.raises(inception.WeightsError, match="put the weights back"):
        classify.classify(clip, network(weights_sha256="0" * 64), "cpu")
    for changes in ({"inputs": 4, "classes": ()}, {"weights": "unknown"}, {"inputs": 100}):
        with pytest.raises(ValueError, match="expected a classifier of 2048 features of Inception-v3"):
            classify.classify(clip, network(**changes), "cpu")


def test_the_command_prints_and_refuses(project, clip, network, capsys):
    network("run/models/none.safetensors")
    assert stage.main([str(clip), "--run", "run", "--condition", "none", "--draw", "out.mp4"]) == 0
    told = capsys.readouterr().out
    assert "whole video: " in told
    assert "wrote 138 frames" in told
    assert stage.main([str(clip), "--run", "run"]) == 1
    assert "dvc repro train" in capsys.readouterr().err
    assert stage.main(["nothing.mpg", "--run", "run", "--condition", "none"]) == 1
