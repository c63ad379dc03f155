"""Clips take the right rows, and no group is on both sides."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.params import VideoClips, VideoFrames
from pipeline.training import problem
from pipeline.video import clips, frames
from pipeline.video.features import FeatureTable


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
                         torch.arange(count).float()[:, None].repeat(1, 3), {}, False)  # fmt: skip
    return pa.Table.from_pylist(rows, schema=frames.MANIFEST_SCHEMA), table


def make(sampling=None, seed=1, world_=None, **settings):
    manifest, table = world_ or world()
    return clips.make(manifest, table, sampling or VideoFrames(), VideoClips(**settings), seed)


def test_a_clip_is_seven_consecutive_samples():
    found = make()
    assert len(found) == 24 * 6
    assert found.rows[0].tolist() == list(range(7))
    assert found.rows[5].tolist() == list(range(5, 12))
    assert found.rows[6].tolist() == list(range(12, 19))
    assert found.start_s[:6] == pytest.approx(np.arange(6) / 1.4)
    assert found.classes == ("ball", "dance", "run")


def test_with_phases_a_clip_takes_every_third_sample():
    found = make(VideoFrames(phases=3), world_=world(samples=22))
    assert found.rows[:4].tolist() == [[k + 3 * j for j in range(7)] for k in range(4)]
    assert len(found) == 24 * 4


def test_a_ten_second_video_gives_about_22_clips_at_three_phases():
    assert len(clips.starts(42, VideoFrames(phases=3), 1)) == 24
    assert len(clips.starts(42, VideoFrames(phases=3), 2)) == 12


def test_a_short_video_repeats_its_last_frame():
    found = make(world_=world(samples=4))
    assert found.rows[0].tolist() == [0, 1, 2, 3, 3, 3, 3]


def test_a_frame_that_several_samples_show_counts_as_often():
    manifest, table = world(samples=4)
    table.samples[:] = np.tile([1, 3, 2, 2], 24)
    found = make(world_=(manifest, table))
    assert found.rows[:2].tolist() == [[0, 1, 1, 1, 2, 2, 3], [1, 1, 1, 2, 2, 3, 3]]


@given(count=st.integers(1, 80), phases=st.integers(1, 5), T=st.integers(1, 9), stride=st.integers(1, 7))
def test_every_clip_stays_inside_its_video_and_whole_clips_are_all_there(count, phases, T, stride):
    sampling = VideoFrames(phases=phases, per_clip=T)
    starts = clips.starts(count, sampling, stride)
    rows = np.stack([clips.slices(int(start), count, sampling) for start in starts])
    assert rows.shape == (len(starts), T)
    assert rows.min() >= 0
    assert rows.max() < count
    span = (T - 1) * phases
    if count > span:
        assert starts.tolist() == list(range(0, count - span, stride))
        assert (np.diff(rows, axis=1) == phases).all()
    else:
        assert starts.tolist() == [0]
        repeats = T - len(set(rows[0].tolist()))
        assert repeats == frames.padding(count, sampling)


@given(groups=st.integers(2, 9), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**40))
def test_no_group_is_on_both_sides_and_every_class_is(groups, fraction, seed):
    label = np.repeat(np.arange(3, dtype=np.int32), groups * 4)
    group = np.tile(np.repeat([f"{g:02d}" for g in range(groups)], 4), 3)
    split = clips.split_groups(label, group, ("a", "b", "c"), VideoClips(test_fraction=fraction), seed)
    for number in range(3):
        sides = {g: set(split[(label == number) & (group == g)].tolist()) for g in set(group.tolist())}
        assert all(len(side) == 1 for side in sides.values())
        test = sum(side == {"test"} for side in sides.values())
        assert test == min(groups - 1, max(1, round(groups * fraction)))


def test_leaving_one_group_out():
    found = make(leave_group_out=3)
    assert set(found.group[found.split_groups == "test"].tolist()) == {"03"}
    assert set(found.label[found.split_groups == "test"].tolist()) == {0, 1, 2}
    assert (make(leave_group_out="03").split_groups == found.split_groups).all()
    with pytest.raises(clips.ClipsError, match="no group 9"):
        make(leave_group_out=9)


def test_the_random_split_is_five_to_one_and_mixes_groups():
    found = make()
    assert (found.split_random == "test").sum() == round(len(found) / 6)
    train = {(found.label[k], found.group[k]) for k in np.flatnonzero(found.split_random == "train")}
    test = {(found.label[k], found.group[k]) for k in np.flatnonzero(found.split_random == "test")}
    assert train & test


def test_splits_follow_the_seed():
    assert (make(seed=7).split_random == make(seed=7).split_random).all()
    assert (make(seed=7).split_groups == make(seed=7).split_groups).all()
    assert any((make(seed=7).split_groups != make(seed=s).split_groups).any() for s in (8, 9, 10))
    assert (make(seed=7).split_random != make(seed=8).split_random).any()


def test_splits_that_cannot_be_made_say_why():
    with pytest.raises(clips.ClipsError, match="ball has only group '01'"):
        make(world_=world(groups=1))
    with pytest.raises(clips.ClipsError, match="both sides of the random split"):
        clips.split_random(2, 0.1, 1)


def test_features_of_other_frames_are_refused():
    manifest, _ = world()
    _, table = world(samples=11)
    with pytest.raises(clips.ClipsError, match="run stage features again"):
        make(world_=(manifest, table))


def test_clips_survive_their_file(tmp_path):
    found = make()
    clips.save(found, tmp_path / "clips.parquet")
    read = clips.load(tmp_path / "clips.parquet")
    for name in ("clip_id", "video_id", "label", "group", "rows", "start_s", "split_random", "split_groups"):
        assert np.array_equal(getattr(read, name), getattr(found, name)), name
        assert getattr(read, name).dtype == getattr(found, name).dtype, name
    assert read.classes == found.classes
    clips.save(read, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "clips.parquet").read_bytes()


def test_another_table_is_no_table_of_clips(tmp_path):
    from pipeline import records

    records.write_table(tmp_path / "x.parquet", pa.table({"a": [1]}))
    with pytest.raises(ValueError, match="run stage features again"):
        clips.load(tmp_path / "x.parquet")


@pytest.mark.parametrize("split", ["random", "groups"])
def test_training_reads_clips_as_sequences(split):
    manifest, table = world()
    found = make(world_=(manifest, table))
    made = problem.from_clips(found, table.vectors, split, {})
    side = found.split_random if split == "random" else found.split_groups
    assert len(made.train) == (side == "train").sum()
    assert len(made.test) == (side == "test").sum()
    assert made.slices == 7
    assert made.classes == found.classes
    first = int(made.test.rows[0])
    assert made.test.pool[made.test.index[0]][:, 0].tolist() == found.rows[first].tolist()
    assert made.test.targets[0].argmax() == found.label[first]
