"""Clips take the right rows, and no group is on both sides."""

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


def world(groups=4, clips_per_group=2, classes=("ball", "dance", "run"), samples=12, rate=1.4):
    """A manifest and a feature table of videos of ``samples`` samples."""
    rows, ids, index, times = [], [], [], []
    for name in classes:
        for group in range(1, groups + 1):
            for clip in range(clips_per_group):
                video_id = f"{name}/{group:02d}/{clip}"
                row = dict.fromkeys(frames.MANIFEST_SCHEMA.names)
                rows.append({**row, "video_id": video_id, "class": name, "group": f"{group:02d}", "status": "ok",
                             "frames_wanted": samples, "frames_stored": samples})  # fmt: skip
                ids += [video_id] * samples
                index += [18 * k for k in range(samples)]
                times += [k / rate for k in range(samples)]
    count = len(ids)
    table = FeatureTable(ids, np.array(index, np.int32), np.array(times), np.ones(count, np.int32),
                         torch.arange(count).float()[:, None].repeat(1, 3), {})  # fmt: skip
    return pa.Table.from_pylist(rows, schema=frames.MANIFEST_SCHEMA), table


def make(sampling=None, world_=None):
    return clips.make(*(world_ or world()), sampling or Sampling(), 1)


def split(name, seed=1, world_=None, **settings):
    return clips.split(make(world_=world_), name, VideoClips(**settings), seed)


def test_a_clip_is_seven_consecutive_samples():
    found = make()
    assert len(found) == 24 * 6
    assert found.rows[0].tolist() == list(range(7))
    assert found.rows[5].tolist() == list(range(5, 12))
    assert found.rows[6].tolist() == list(range(12, 19))
    assert found.start_s[:6] == pytest.approx(np.arange(6) / 1.4)
    assert found.classes == ("ball", "dance", "run")
    found = make(Sampling(phases=3), world_=world(samples=22))
    assert found.rows[:4].tolist() == [[k + 3 * j for j in range(7)] for k in range(4)]
    assert len(found) == 24 * 4
    manifest, table = world(samples=4)
    assert make(world_=(manifest, table)).rows[0].tolist() == [0, 1, 2, 3, 3, 3, 3], "the last frame is repeated"
    table.samples[:] = np.tile([1, 3, 2, 2], 24)  # a frame that several samples show counts as often
    assert make(world_=(manifest, table)).rows[:2].tolist() == [[0, 1, 1, 1, 2, 2, 3], [1, 1, 1, 2, 2, 3, 3]]
    with pytest.raises(clips.ClipsError, match="run stage features again"):
        make(world_=(world()[0], world(samples=11)[1]))


@given(
    groups=st.integers(2, 9),
    fraction=st.floats(0.01, 0.99),
    validation=st.sampled_from([0.0, 0.1, 0.5, 0.8]),
    seed=st.integers(0, 2**40),
)
def test_no_group_is_on_two_sides_and_every_class_is_on_both(groups, fraction, validation, seed):
    label = np.repeat(np.arange(3), groups * 4)
    group = np.tile(np.repeat([f"{g:02d}" for g in range(groups)], 4), 3)
    some = clips.Clips(group, label, group, label[:, None], label / 1.0, ("a", "b", "c"))
    settings = VideoClips(test_fraction=fraction, validation_fraction=validation)
    side = clips.split(some, "groups", settings, seed)
    plain = clips.split(some, "groups", VideoClips(test_fraction=fraction), seed)
    assert ((side == "test") == (plain == "test")).all(), "the validation part is within training"
    for number in range(3):
        sides = [set(side[(label == number) & (group == g)].tolist()) for g in sorted(set(group.tolist()))]
        assert all(len(only) == 1 for only in sides)
        test, train = sides.count({"test"}), sides.count({"train"})
        assert test == min(groups - 1, max(1, round(groups * fraction)))
        rest = groups - test
        held = sides.count({"validation"})
        assert held == (min(rest - 1, max(1, round(rest * validation))) if validation else 0)
        assert train == rest - held > 0


@pytest.mark.parametrize(
    ("asked", "groups"), [({"leave_group_out": 3}, {"03"}), ({"test_groups": [1, "03"]}, {"01", "03"})]
)
def test_named_groups_are_for_testing(asked, groups):
    made, side = make(), split("groups", **asked)
    assert set(made.group[side == "test"].tolist()) == groups
    assert set(made.label[side == "test"].tolist()) == {0, 1, 2}
    with pytest.raises(clips.ClipsError, match=r"ball has no group 9 of \['01', '02', '03', '04'\]"):
        split("groups", leave_group_out=9)
    with pytest.raises(clips.ClipsError, match="ball has only group '01'"):
        split("groups", world_=world(groups=1))
    with pytest.raises(clips.ClipsError, match="ball has nothing but group 1, 2"):
        split("groups", test_groups=[1, 2], world_=world(groups=2))


def test_the_random_split_is_five_to_one_and_mixes_groups():
    made, side = make(), split("random")
    assert (side == "test").sum() == round(len(made) / 6)
    assert (side == "validation").sum() == round(0.1 * (side != "test").sum())
    train, test = ({(made.label[k], made.group[k]) for k in np.flatnonzero(side == name)} for name in ("train", "test"))
    assert train & test
    none = split("random", validation_fraction=0)
    assert ((none == "test") == (side == "test")).all()
    assert "validation" not in none
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
        noise = np.random.default_rng(3).normal(size=(len(table), 3)).astype(np.float32) * [3, 1, 0.1]
        columns = {name: getattr(table, name) for name in features.schema(1).names[:-1]}
        features.save(tmp_path / "features", columns, noise.astype(np.float32), {"weights": "unknown"})
        table = features.load(tmp_path / "features" / "features.parquet")
        made = clips.make(manifest, table, Sampling(), 1)
        sides = clips.write(made, table, VideoClips(**settings), {"rate": 1.4}, 1, tmp_path / "video")
        return made, table, tmp_path / "video", sides

    return write


@pytest.mark.parametrize("name", ["random", "groups"])
def test_training_reads_clips_as_sequences(written, name):
    made, table, folder, sides = written()
    data = sequences.load(folder, name)
    assert data.train.rows.tolist() == np.flatnonzero(sides[name] != "test").tolist(), "in order, validation joined"
    assert data.test.rows.tolist() == np.flatnonzero(sides[name] == "test").tolist()
    assert torch.equal(data.test.pool[data.test.index], table.vectors[made.rows[data.test.rows]])
    assert data.test.targets.argmax(1).tolist() == made.label[data.test.rows].tolist()
    assert (data.classes, data.head, data.slices) == (made.classes, "softmax", 7)
    assert data.origin == {"rate": 1.4, "components": None}
    apart = sequences.load(folder, name, validation="apart")
    assert apart.validation.rows.tolist() == np.flatnonzero(sides[name] == "validation").tolist()
    assert sequences.splits(folder) == ("random", "groups")


def test_clips_survive_their_files(written):
    made, _, folder, _ = written()
    again = clips.load(folder / "clips.parquet")
    for name in ("video_id", "label", "group", "rows", "start_s"):
        assert np.array_equal(getattr(again, name), getattr(made, name)), name
    assert again.classes == made.classes
    table = records.read_table(folder / "clips.parquet")
    records.write_table(folder / "clips.parquet", table[1:])
    with pytest.raises(ValueError, match="run stage clips again"):
        clips.load(folder / "clips.parquet")


def test_components_are_fitted_on_training_frames_of_the_split(written):
    made, table, folder, sides = written(components=2)
    for name, side in sides.items():
        data = sequences.load(folder, name)
        own = np.unique(made.rows[side == "train"])
        assert data.inputs == 2
        axes = data.train.pool[own].double().numpy()
        assert axes.mean(0) == pytest.approx(0, abs=1e-6), "centred on training frames"
        spread = np.cov(axes.T)
        assert spread[0, 1] == pytest.approx(0, abs=1e-5)
        values = np.linalg.eigvalsh(np.cov(table.vectors[own].double().numpy().T))[::-1]
        assert np.diag(spread) == pytest.approx(values[:2], rel=1e-4)
    with pytest.raises(clips.ClipsError, match=r"expected 1 to 3 principal components, found 4"):
        written(components=4)
