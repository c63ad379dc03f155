"""The stages hand on what was acquired: videos, features, nothing; clips and their splits; a classified video."""

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import params
from pipeline.common import paths, records, sequences
from pipeline.params import VideoClips
from pipeline.training import models
from pipeline.video import classify, clips
from pipeline.video.features import inception
from pipeline.video.features import table as feature_table
from pipeline.video.features.table import FeatureTable
from pipeline.video.frames import codec, frames
from pipeline.video.frames.sampling import Sampling
from stages import acquire as acquire_stage
from stages import classify as classify_stage
from stages import clips as clips_stage
from stages import features as features_stage
from stages import frames as frames_stage
from tests.conftest import refused


@pytest.fixture
def stages(project):
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
    made = sequences.read_table(paths.sequences("video"))
    assert made["index"].to_pylist()[:3] == [list(range(7)), list(range(2, 9)), list(range(9, 16))]
    assert len(made) == 2 * 5, "two windows of each video that is long enough"
    data = sequences.load(paths.sequences("video"), "groups")
    assert np.array_equal(data.train.pool[data.train.index[0]].numpy(), vectors[:7].astype(np.float32))
    assert {made["group"][row].as_py() for row in data.test.rows.tolist()} == {"g2"}
    assert (data.origin["weights"], data.origin["per_clip"], data.origin["rate"]) == ("unknown", 7, 1.4)
    table = feature_table.load(paths.FEATURES_TABLE)
    assert (np.isnan(table.timestamp_s).all(), table.frame_index[:3].tolist()) == (True, [0, 2, 4])


def test_a_task_that_is_switched_off_is_passed_on(stages):
    stages(tasks=["fx"])
    for folder in (paths.FRAMES, paths.FEATURES, paths.sequences("video")):
        assert [file.name for file in folder.iterdir()] == [records.ABOUT]
        assert records.absent(folder)


@pytest.mark.slow
def test_videos_become_clips_with_a_record_of_their_features(stages, weights_file, capsys):
    weights = {"weights": "file", "weights_path": str(weights_file), "preprocessing": "inception-2015"}
    sampling, size = {"rate": 0.3, "per_clip": 1, "short": "skip"}, {"synthetic_groups": 2, "synthetic_clips": 1}
    stages(acquire=size, frames=sampling, features=weights)
    assert "of 22 videos (22 ok)" in capsys.readouterr().out
    origin = sequences.load(paths.sequences("video")).origin
    assert (sampling | weights).items() <= origin.items()
    assert len(origin["weights_sha256"]) == 64
    assert [file for file in paths.CHECKPOINTS.rglob("*") if file.is_file()] == [paths.TIMES]
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


def world(groups=4, samples=12):
    """A manifest and a feature table of videos of ``samples`` samples, two in each group of three classes."""
    names = product(("ball", "dance", "run"), (f"{group:02d}" for group in range(1, groups + 1)), "ab")
    keys = [{"video_id": "/".join(name), "class": name[0], "group": name[1]} for name in names]
    rows = [dict.fromkeys(frames.MANIFEST_SCHEMA.names) | key | {"frames_stored": samples} for key in keys]
    index = np.tile(np.arange(samples, dtype=np.int32), len(rows))
    ids = [row["video_id"] for row in rows for _ in range(samples)]
    vectors = torch.randn(len(ids), 3, generator=torch.Generator().manual_seed(3)) * torch.tensor([3, 1, 0.1])
    table = FeatureTable(ids, 18 * index, index / 1.4, np.ones_like(index), vectors.numpy(), {})
    return pa.Table.from_pylist(rows, schema=frames.MANIFEST_SCHEMA), table


def make(sampling=None, world_=None):
    return clips.make(*(world_ or world()), sampling or Sampling(), 1)


def split(name, seed=1, world_=None, **settings):
    return clips.split(make(world_=world_), name, VideoClips(**settings), seed)


def test_a_clip_is_seven_consecutive_samples():
    made = make()
    assert (len(made), made.classes) == (24 * 6, ("ball", "dance", "run"))
    assert made.rows[[0, 5, 6]].tolist() == [[*range(7)], [*range(5, 12)], [*range(12, 19)]]
    assert made.start_s[:6] == pytest.approx(np.arange(6) / 1.4)
    made = make(Sampling(phases=3), world_=world(samples=22))
    assert made.rows[:4].tolist() == [[k + 3 * j for j in range(7)] for k in range(4)]
    assert len(made) == 24 * 4
    manifest, table = world(samples=4)
    assert make(world_=(manifest, table)).rows[0].tolist() == [0, 1, 2, 3, 3, 3, 3], "the last frame is repeated"
    table.samples[:] = np.tile([1, 3, 2, 2], 24)  # a frame that several samples show counts as often
    assert make(world_=(manifest, table)).rows[:2].tolist() == [[0, 1, 1, 1, 2, 2, 3], [1, 1, 1, 2, 2, 3, 3]]
    with pytest.raises(clips.ClipsError, match="run stage features again"):
        make(world_=(world()[0], world(samples=11)[1]))


@given(st.integers(2, 9), st.floats(0.01, 0.99), st.sampled_from([0.0, 0.1, 0.5, 0.8]), st.integers(0, 2**40))
def test_no_group_is_on_two_sides_and_every_class_is_on_both(groups, fraction, validation, seed):
    label = np.repeat(np.arange(3), groups * 4)
    group = np.tile(np.repeat([f"{g:02d}" for g in range(groups)], 4), 3)
    some = clips.Clips(group, label, group, label[:, None], label / 1.0, ("a", "b", "c"))
    settings = VideoClips(test_fraction=fraction, validation_fraction=validation)
    side = clips.split(some, "groups", settings, seed)
    plain = clips.split(some, "groups", VideoClips(test_fraction=fraction), seed)
    assert ((side == "test") == (plain == "test")).all(), "the validation part is within training"
    test = min(groups - 1, max(1, round(groups * fraction)))
    held = min(groups - test - 1, max(1, round((groups - test) * validation))) if validation else 0
    for number in range(3):
        sides = [set(side[(label == number) & (group == g)].tolist()) for g in sorted(set(group.tolist()))]
        counts = [sides.count({name}) for name in ("test", "validation", "train")]
        assert counts == [test, held, groups - test - held]
        assert counts[2] > 0


def test_named_groups_are_for_testing():
    made = make()
    for asked, groups in (({"leave_group_out": 3}, {"03"}), ({"test_groups": [1, "03"]}, {"01", "03"})):
        test = split("groups", **asked) == "test"
        assert (set(made.group[test].tolist()), set(made.label[test].tolist())) == (groups, {0, 1, 2})
    for count, settings, message in (
        (4, {"leave_group_out": 9}, r"ball has no group 9 of \['01', '02', '03', '04'\]"),
        (1, {}, "ball has only group '01'"),
        (2, {"test_groups": [1, 2]}, "ball has nothing but group 1, 2"),
    ):
        refused(clips.ClipsError, message, split, "groups", world_=world(groups=count), **settings)


def test_the_random_split_is_five_to_one_and_mixes_groups():
    made, side = make(), split("random")
    assert (side == "test").sum() == round(len(made) / 6)
    assert (side == "validation").sum() == round(0.1 * (side != "test").sum())
    train, test = ({(made.label[k], made.group[k]) for k in np.flatnonzero(side == name)} for name in ("train", "test"))
    assert train & test
    for name in ("random", "groups"):
        assert (split(name, seed=7) == split(name, seed=7)).all()
        assert any((split(name, seed=7) != split(name, seed=s)).any() for s in (8, 9, 10))
    refused(clips.ClipsError, "both sides of the random split", split, "random", test_fraction=0.001)


@pytest.fixture
def written(tmp_path):
    """Writes the world's clips, with its features in a file; returns clips, features, folder and sides."""

    def write(**settings):
        manifest, table = world()
        columns = {name: getattr(table, name) for name in feature_table.schema(1).names[:-1]}
        feature_table.save(tmp_path / "features", columns, table.vectors, {"weights": "unknown"})
        table = feature_table.load(tmp_path / "features" / "features.parquet")
        made = clips.make(manifest, table, Sampling(), 1)
        sides = clips.write(made, table, VideoClips(**settings), {"rate": 1.4}, 1, tmp_path / "video")
        return made, table, tmp_path / "video", sides

    return write


def test_training_reads_clips_as_sequences_and_they_survive_their_files(written):
    made, table, folder, sides = written()
    assert sequences.splits(folder) == tuple(sides) == ("random", "groups")
    for name, side in sides.items():
        data = sequences.load(folder, name)
        assert data.test.rows.tolist() == np.flatnonzero(side == "test").tolist()
        assert torch.equal(data.test.pool[data.test.index], torch.from_numpy(table.vectors[made.rows[data.test.rows]]))
        assert data.test.targets.argmax(1).tolist() == made.label[data.test.rows].tolist()
        assert (data.classes, data.head, data.slices) == (made.classes, "softmax", 7)
        assert data.origin == {"rate": 1.4, "components": None}
    stored = records.read_table(folder / "clips.parquet", clips.SCHEMA)
    assert [stored[name].to_pylist() for name in ("video_id", "group")] == [made.video_id.tolist(), made.group.tolist()]
    assert [made.classes.index(name) for name in stored["class"].to_pylist()] == made.label.tolist()


def test_components_are_fitted_on_training_frames_of_the_split(written):
    made, table, folder, sides = written(components=2)
    for name, side in sides.items():
        data = sequences.load(folder, name)
        own = np.unique(made.rows[side == "train"])
        axes = data.train.pool[own].double().numpy()
        assert axes.mean(0) == pytest.approx(0, abs=1e-6), "centred on training frames"
        values = np.linalg.eigvalsh(np.cov(table.vectors[own].astype(float).T))[::-1]
        assert np.cov(axes.T) == pytest.approx(np.diag(values[:2]), rel=1e-4, abs=1e-5)
    refused(clips.ClipsError, r"expected 1 to 3 principal components, found 4", written, components=4)
