"""The stages hand on what was acquired: videos, features, or nothing; a trained network classifies one video."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import params
from pipeline.common import paths, records, sequences
from pipeline.training import models
from pipeline.video import classify, clips
from pipeline.video.features import features, inception
from pipeline.video.frames import codec
from stages import acquire as acquire_stage
from stages import classify as classify_stage
from stages import clips as clips_stage
from stages import features as features_stage
from stages import frames as frames_stage


@pytest.fixture
def stages(project):
    """Run all stages of videos."""

    def run(tasks=("video",), **video):
        content = {"tasks": list(tasks), "video": video}
        (project / "params.yaml").write_text(params.render(params.validate(content)))
        assert acquire_stage.main(["video"]) == 0
        assert [stage.main() for stage in (frames_stage, features_stage, clips_stage)] == [0, 0, 0]

    return run


def test_sequences_of_features_become_windows_of_their_own_frames(project, stages, capsys):
    lengths = {(kind, f"g{group}"): 9 for kind in ("jump", "run") for group in (1, 2, 3)} | {("run", "g3"): 4}
    rows = [(*names, f"{names[0]}{names[1]}", 2 * k) for names, count in lengths.items() for k in range(count)]
    columns = dict(zip(("class", "group", "video", "frame"), zip(*rows, strict=True), strict=True))
    vectors = np.random.default_rng(1).normal(size=(len(rows), 5))
    records.write_table(project / "given.parquet", pa.table({**columns, "feature": records.lists(vectors)}))
    acquire = {"source": "features", "features_path": "given.parquet"}
    stages(acquire=acquire, frames={"short": "skip"}, clips={"stride": 2, "test_groups": ["g2"]})
    assert f"frames: {9 * 5} frames of 6 videos (5 ok, 1 short)" in capsys.readouterr().out
    made = clips.load(paths.sequences("video") / "clips.parquet")
    assert made.rows.tolist()[:3] == [list(range(7)), list(range(2, 9)), list(range(9, 16))]
    assert len(made) == 2 * 5, "two windows of each video that is long enough"
    data = sequences.load(paths.sequences("video"), "groups")
    assert np.array_equal(data.train.pool[data.train.index[0]].numpy(), vectors[:7].astype(np.float32))
    assert {made.group[row] for row in data.test.rows.tolist()} == {"g2"}
    assert (data.origin["weights"], data.origin["per_clip"], data.origin["rate"]) == ("unknown", 7, 1.4)
    table = features.load(paths.FEATURES_TABLE)
    assert (np.isnan(table.timestamp_s).all(), table.frame_index[:3].tolist()) == (True, [0, 2, 4])


def test_a_task_that_is_switched_off_is_passed_on(stages):
    stages(tasks=["fx"])
    for folder in (paths.FRAMES, paths.FEATURES, paths.sequences("video")):
        assert [file.name for file in folder.iterdir()] == [sequences.ABOUT]
        assert sequences.absent(folder)


def test_videos_become_clips_with_a_record_of_their_features(stages, weights_file, capsys):
    weights = {"weights": "file", "weights_path": str(weights_file), "preprocessing": "inception-2015"}
    sampling, size = {"rate": 0.3, "per_clip": 1, "short": "skip"}, {"synthetic_groups": 2, "synthetic_clips": 1}
    stages(acquire=size, frames=sampling, features=weights)
    assert "of 22 videos (22 ok)" in capsys.readouterr().out
    origin = sequences.load(paths.sequences("video")).origin
    assert (sampling | weights).items() <= origin.items()
    assert len(origin["weights_sha256"]) == 64
    assert not [file for file in paths.CHECKPOINTS.rglob("*") if file.is_file()]
    (paths.FRAMES / "manifest.parquet").unlink()
    assert features_stage.main() == 1
    assert "manifest.parquet" in capsys.readouterr().err


SAMPLING = {"rate": 1.4, "per_clip": 7, "phases": 1, "short": "pad", "jpeg_quality": 95}


@pytest.fixture
def network(tmp_path, weights_file, random_state):
    """Writes a trained network that records how its features came about."""

    def write(file="m", inputs=2048, classes=("a", "b", "c"), **changes):
        generator, outputs = torch.Generator().manual_seed(1), max(1, len(classes))
        shapes = {"W": (inputs + 1, 16), "V": (16, 4), "U": (outputs, 4), "b": (outputs, 1)}
        parameters = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
        weights = {"weights": "file", "weights_path": str(weights_file), "seed": ""}
        weights |= {"weights_sha256": inception.digest(random_state), "preprocessing": "torchvision"}
        sizes = {"cell": "lstm", "inputs": inputs, "outputs": outputs, "hidden": 4, "classes": list(classes)}
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
    # 5.52 s hold 8 samples at 1.4 per second: two windows of 7, the first ending 6/1.4 s after the start.
    classified = classify.classify(clip, network(), "cpu")
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
    for changes in ({"inputs": 4, "classes": ()}, {"weights": "unknown"}):
        with pytest.raises(ValueError, match="expected a classifier of 2048 features of Inception-v3"):
            classify.classify(clip, network(**changes), "cpu")


def test_the_command_prints_and_refuses(project, clip, network, capsys):
    network("run/models/none.safetensors")
    assert classify_stage.main([str(clip), "--run", "run", "--condition", "none", "--draw", "out.mp4"]) == 0
    told = capsys.readouterr().out
    assert "whole video: " in told
    assert "wrote 138 frames" in told
    assert classify_stage.main([str(clip), "--run", "run"]) == 1
    assert "dvc repro train" in capsys.readouterr().err
