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
def network(weights_file, random_state):
    """Writes a trained network that records how its features came about."""

    def write(file, inputs=2048, classes=("a", "b", "c"), **changes):
        generator, hidden, outputs = torch.Generator().manual_seed(1), 4, max(1, len(classes))
        parameters = {
            "W": torch.randn(inputs + 1, 4 * hidden, generator=generator) * 0.05,
            "V": torch.randn(4 * hidden, hidden, generator=generator) * 0.1,
            "U": torch.randn(outputs, hidden, generator=generator),
            "b": torch.randn(outputs, 1, generator=generator),
        }
        weights = {"weights": "file", "weights_path": str(weights_file), "seed": ""}
        weights |= {"weights_sha256": inception.digest(random_state), "preprocessing": "torchvision"}
        sizes = {"cell": "lstm", "inputs": inputs, "outputs": outputs, "hidden": hidden, "classes": list(classes)}
        file.parent.mkdir(parents=True, exist_ok=True)
        models.save(file, parameters, {**sizes, "origin": {**SAMPLING, **weights, **changes}})
        return models.load(file)

    return write


def shades(file, count):
    file.write_bytes(codec.encode_video((np.full((64, 96, 3), 40 + k, np.uint8) for k in range(count)), 25))
    return file


@pytest.fixture
def clip(tmp_path):
    """Five and a half seconds at 25 frames per second."""
    return shades(tmp_path / "clip.mpg", 138)


def test_a_window_for_every_sample_from_the_last_slice_on(clip, network, tmp_path):
    classified = classify.classify(clip, network(tmp_path / "m"), "cpu")
    # 5.52 s hold 8 samples at 1.4 per second: two windows of 7, the first ending 6/1.4 s after the start.
    assert len(classified.times) == 2
    np.testing.assert_allclose(classified.times, [6 / 1.4, 7 / 1.4], atol=0.021)
    np.testing.assert_allclose(classified.probabilities.sum(1), 1, rtol=1e-5)
    best = classified.classes[classified.probabilities.mean(0).argmax()]
    assert [name for name, _ in classified.best(1)] == [best]
    drawn = tmp_path / "drawn.mp4"
    assert classify.draw(clip, drawn, classified) == 138
    assert len(codec.scan(drawn)) == 138
    before, after = list(codec.pick(drawn, [2, 136]))
    assert after[:40].std() > before[40:].std(), "words are drawn"
    short = classify.classify(shades(tmp_path / "short.mpg", 30), network(tmp_path / "m"), "cpu")
    assert short.probabilities.shape == (1, 3), "padded"


def test_what_the_network_records_decides_and_not_todays_parameters(clip, network, tmp_path):
    usual = classify.classify(clip, network(tmp_path / "a"), "cpu")
    denser = classify.classify(clip, network(tmp_path / "b", phases=2, per_clip=3), "cpu")
    assert len(denser.times) == 12, "16 samples at 2.8 per second, a clip spans 5"
    other = classify.classify(clip, network(tmp_path / "c", preprocessing="inception-2015"), "cpu")
    assert not np.allclose(other.probabilities, usual.probabilities, atol=1e-4)
    with pytest.raises(inception.WeightsError, match="put the weights back"):
        classify.classify(clip, network(tmp_path / "d", weights_sha256="0" * 64), "cpu")


@pytest.mark.parametrize("changes", [{"inputs": 4, "classes": ()}, {"weights": "unknown"}, {"inputs": 100}])
def test_networks_of_other_inputs_are_refused(clip, network, tmp_path, changes):
    with pytest.raises(ValueError, match="expected a classifier of 2048 features of Inception-v3"):
        classify.classify(clip, network(tmp_path / "m", **changes), "cpu")


def test_the_command_prints_and_refuses(project, clip, network, capsys):
    network(project / "run" / "models" / "none.safetensors")
    assert stage.main([str(clip), "--run", "run", "--condition", "none", "--draw", "out.mp4"]) == 0
    told = capsys.readouterr().out
    assert "whole video: " in told
    assert "wrote 138 frames" in told
    assert stage.main([str(clip), "--run", "run"]) == 1
    assert "dvc repro train" in capsys.readouterr().err
    assert stage.main(["nothing.mpg", "--run", "run", "--condition", "none"]) == 1
