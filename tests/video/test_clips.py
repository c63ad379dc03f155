"""Clips take the right rows, and no group is on both sides."""

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import records, sequences
from pipeline.params import VideoClips
from pipeline.video import clips
from pipeline.video.features import features
from pipeline.video.features.features import FeatureTable
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling


def world(groups=4, samples=12):
    """A manifest and a feature table of videos of ``samples`` samples, two in each group of three classes."""
    names = product(("ball", "dance", "run"), (f"{group:02d}" for group in range(1, groups + 1)), "ab")
    keys = [{"video_id": "/".join(name), "class": name[0], "group": name[1]} for name in names]
    rows = [dict.fromkeys(frames.MANIFEST_SCHEMA.names) | key | {"frames_stored": samples} for key in keys]
    index = np.tile(np.arange(samples, dtype=np.int32), len(rows))
    ids = [row["video_id"] for row in rows for _ in range(samples)]
    vectors = torch.randn(len(ids), 3, generator=torch.Generator().manual_seed(3)) * torch.tensor([3, 1, 0.1])
    table = FeatureTable(ids, 18 * index, index / 1.4, np.ones_like(index), vectors, {})
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
        with pytest.raises(clips.ClipsError, match=message):
            split("groups", world_=world(groups=count), **settings)


def test_the_random_split_is_five_to_one_and_mixes_groups():
    made, side = make(), split("random")
    assert (side == "test").sum() == round(len(made) / 6)
    assert (side == "validation").sum() == round(0.1 * (side != "test").sum())
    train, test = ({(made.label[k], made.group[k]) for k in np.flatnonzero(side == name)} for name in ("train", "test"))
    assert train & test
    for name in ("random", "groups"):
        assert (split(name, seed=7) == split(name, seed=7)).all()
        assert any((split(name, seed=7) != split(name, seed=s)).any() for s in (8, 9, 10))
    with pytest.raises(clips.ClipsError, match="both sides of the random split"):
        split("random", test_fraction=0.001)


@pytest.fixture
def written(tmp_path):
    """Writes the world's clips, with its features in a file; returns clips, features, folder and sides."""

    def write(**settings):
        manifest, table = world()
        columns = {name: getattr(table, name) for name in features.schema(1).names[:-1]}
        features.save(tmp_path / "features", columns, table.vectors.numpy(), {"weights": "unknown"})
        table = features.load(tmp_path / "features" / "features.parquet")
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
        assert torch.equal(data.test.pool[data.test.index], table.vectors[made.rows[data.test.rows]])
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
        values = np.linalg.eigvalsh(np.cov(table.vectors[own].double().numpy().T))[::-1]
        assert np.cov(axes.T) == pytest.approx(np.diag(values[:2]), rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match=r"n_components=4 must be between 0 and .*3"):
        written(components=4)
