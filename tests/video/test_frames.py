"""The frames that are picked are the ones that stand at the sampling times, and every video has its row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import paths, records
from pipeline.common.kept import Kept
from pipeline.video import layout
from pipeline.video.frames import codec, frames
from pipeline.video.frames.sampling import Sampling, Timeline, choose, timeline
from pipeline.video.layout import Video
from tests.video import samples


@pytest.fixture
def sampled(tmp_path, monkeypatch):
    """Sample the videos in a folder into another; return their rows of the manifest by name."""
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.chdir(tmp_path)

    def sample(listed=None, max_bad_fraction=1.0, **changes):
        root = tmp_path / "videos"
        videos = listed or [Video(file.name, "sport", file.stem) for file in sorted(root.iterdir())]
        out = tmp_path / "out"
        manifest = frames.extract(videos, root, Sampling(**changes), out, max_bad_fraction=max_bad_fraction)
        return {row["video_id"]: row for row in manifest.to_pylist()}

    return sample


def shown(tmp_path, video_id):
    return [samples.number_of(image) for image in frames.decode_images(tmp_path / "out" / f"{video_id}.parquet")]


def kept():
    """How many results are kept."""
    return sum(file.is_file() for file in (paths.CHECKPOINTS / "frames").rglob("*"))


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("rate", "phases", "suffix", "name"), [(25.0, 3, "avi", "MJPG"), (30_000 / 1001, 1, "mpg", "PIM1")]
)
def test_frame_k_of_a_clip_stands_at_k_over_1_4_seconds(sampled, tmp_path, rate, phases, suffix, name):
    count = 160
    file = samples.video(tmp_path / "videos" / f"a.{suffix}", count, rate, name)
    row = sampled(phases=phases)["a"]
    wanted = [j / (1.4 * phases) for j in range(1000) if j / (1.4 * phases) < count / rate]
    nearest = [min(range(count), key=lambda n, s=second: abs(n / rate - s)) for second in wanted]
    assert shown(tmp_path, "a") == nearest
    stored = pq.read_table(tmp_path / "out" / "a.parquet")
    assert stored["frame_index"].to_pylist() == nearest
    assert stored["timestamp_s"].to_pylist() == pytest.approx([n / rate for n in nearest], rel=1e-5)  # containers round
    assert (row["status"], row["frames_decoded"], row["frames_wanted"]) == ("ok", count, len(nearest))
    assert row["fps"] == pytest.approx(rate, rel=1e-5)
    assert row["codec"]
    assert row["sha256"] == records.sha256_of(file)


def test_a_variable_rate_is_followed_by_the_clock_of_the_file(sampled, tmp_path):
    (tmp_path / "videos").mkdir()
    seconds = [0.1] * 20 + [0.5] * 6 + [0.1] * 20
    samples.variable(tmp_path / "videos" / "v.gif", seconds)
    assert sampled()["v"]["clock"] == "container"
    starts = np.concatenate([[0], np.cumsum(seconds)[:-1]])
    wanted = np.arange(0, starts[-1] + 0.1 - 1e-6, 1 / 1.4)
    assert shown(tmp_path, "v") == [int(np.abs(starts - second).argmin()) for second in wanted]


def test_every_kind_of_bad_file_has_its_row_and_its_reason(sampled, tmp_path):
    root = tmp_path / "videos"
    whole = samples.video(root / "whole.mpg", 140).read_bytes()
    movie = samples.video(root / "renamed.avi", 140, codec_name="MJPG").rename(root / "renamed.mpg").read_bytes()
    for name, data in {
        "zero.mpg": b"", "text.mpg": b"these are words, not pictures\n" * 50,
        "cut.mpg": whole[: len(whole) // 2 + 1], "cut_avi.avi": movie[: len(movie) // 2],
    }.items():  # fmt: skip
        (root / name).write_bytes(data)
    samples.sound(root / "sound.mpg")
    samples.video(root / "one.avi", 1, codec_name="MJPG")
    samples.video(root / "brief.mpg", 50)
    rows = sampled()
    assert {name: row["status"] for name, row in rows.items()} == {
        "whole": "ok", "zero": "unreadable", "text": "unreadable", "sound": "unreadable", "cut": "corrupt",
        "cut_avi": "corrupt", "renamed": "ok", "one": "short", "brief": "short",
    }  # fmt: skip
    for name, row in rows.items():
        assert (row["error"] is None) == (row["status"] == "ok"), name
        assert (tmp_path / "out" / f"{name}.parquet").is_file() == (row["frames_stored"] > 0), name
    assert (rows["one"]["frames_padded"], rows["brief"]["frames_padded"]) == (6, 4)
    assert shown(tmp_path, "one") == [0]
    assert "cut off" in rows["cut"]["error"]
    assert "140" in rows["cut_avi"]["error"]
    row = sampled([Video("brief.mpg", "sport", "1")], short="skip", phases=2)["brief"]
    assert (row["status"], row["frames_stored"], row["frames_padded"]) == ("short", 0, 0)
    assert set(content(tmp_path / "out")) == {"manifest.parquet"}, "what an earlier run left is cleared"
    manifest, sampling = frames.read_manifest(tmp_path / "out")
    assert sampling == Sampling(phases=2, short="skip")
    records.write_table(tmp_path / "out" / "manifest.parquet", manifest.replace_schema_metadata({}))
    with pytest.raises(ValueError, match=r"expected a sampling with rate, .*run stage frames again"):
        frames.read_manifest(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"gone\.mpg"):
        sampled([Video("gone.mpg", "sport", "1")])


def test_too_many_bad_videos_stop_the_run_with_the_list_and_finished_work_is_kept(sampled, tmp_path, monkeypatch):
    """What is kept may be damaged; equal videos are decoded once."""
    samples.video(tmp_path / "videos" / "a.mpg", 60)
    for name, data in (("a2", (tmp_path / "videos" / "a.mpg").read_bytes()), ("b", b""), ("c", b"x" * 500)):
        (tmp_path / "videos" / f"{name}.mpg").write_bytes(data)
    original, calls = frames._extract, []
    monkeypatch.setattr(frames, "_extract", lambda job: calls.append(job.source.name) or original(job))
    message = r"at most 40% bad videos, found 2 of 4(.|\n)*b\.mpg: unre(.|\n)*c\.mpg"
    with pytest.raises(frames.FramesError, match=message):
        sampled(max_bad_fraction=0.4)
    assert kept() == len(calls) == 3
    sampled()
    assert (len(calls), kept()) == (3, 0)
    assert shown(tmp_path, "a") == shown(tmp_path, "a2")
    expected = content(tmp_path / "out")
    monkeypatch.setattr(Kept, "has", lambda *_: True)
    sampled()
    assert content(tmp_path / "out") == expected, "what was not there when it was read is made again"
    assert len(calls) > 3


def clock(stamps, rate=25.0):
    return timeline(codec.Scan("x", 4, 4, rate, 0, np.asarray(stamps, float)))


def test_time_follows_the_frame_number_where_the_clock_runs_evenly():
    stamps = np.arange(100) / 25
    stamps[-1] = 0  # what the decoder reports for the last frame of some MPEG files
    times = clock(stamps)
    assert (times.clock, times.duration) == ("constant", pytest.approx(4.0))
    assert times.times == pytest.approx(np.arange(100) / 25)
    stamps = np.arange(100) / 29.97
    times = clock(stamps)  # a wrong rate in the header gives way to the clock
    assert (times.clock, times.rate, times.duration) == ("container", pytest.approx(29.97), pytest.approx(100 / 29.97))
    stamps[40] = 0.1  # a clock that jumps back is not followed
    assert clock(stamps).clock == "constant"
    with pytest.raises(codec.VideoError, match="frame rate or increasing time stamps"):
        clock(stamps, rate=0.0)


@given(gaps=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=60), rate=st.floats(0.2, 60.0))
def test_chosen_frames_are_nearest_distinct_and_account_for_every_sample(gaps, rate):
    starts = np.concatenate([[0.0], np.cumsum(gaps)])
    times = Timeline(starts, float(starts[-1] + gaps[-1]), 1.0, "container")
    indices, counts = choose(times, rate)
    wanted = np.arange(counts.sum()) / rate
    assert wanted[-1] < times.duration <= counts.sum() / rate + 2e-6
    assert indices[0] == 0
    assert (np.diff(indices) > 0).all()
    error = np.abs(starts[np.repeat(indices, counts)] - wanted)
    assert error == pytest.approx(np.abs(starts[None] - wanted[:, None]).min(1), abs=1e-8)


@given(count=st.integers(1, 200), phases=st.integers(1, 8), per_clip=st.integers(1, 12), stride=st.integers(1, 7))
def test_clips_stay_inside_their_video_and_whole_clips_are_all_there(count, phases, per_clip, stride):
    sampling = Sampling(phases=phases, per_clip=per_clip)
    padded = sampling.padding(count)
    assert (padded > 0) == (count < sampling.span)
    assert padded == sum(k * phases > count - 1 for k in range(per_clip))
    starts = sampling.starts(count, stride).tolist()
    assert len(starts) == (1 if padded else (count - sampling.span) // stride + 1)
    for start in starts:
        slices = sampling.slices(start, count)
        assert slices.tolist() == [start + phases * min(k, (count - 1 - start) // phases) for k in range(per_clip)]
        assert slices.max() < count


def test_a_disk_that_cannot_be_read_while_the_decoder_works_condemns_no_video(sampled, tmp_path, monkeypatch):
    """The decoder takes what it cannot read for the end of the video, and says nothing."""
    samples.video(tmp_path / "videos" / "a.mpg", 140)
    sums, reads = records.sha256_of, []

    def failing(source):
        raise codec.VideoError("expected at least one frame, found none that decodes")

    def unreadable(source):
        reads.append(source.name)
        if reads.count("a.mpg") == 2:
            raise OSError(5, "Input/output error", str(source))
        return sums(source)

    with monkeypatch.context() as patch:
        patch.setattr(codec, "scan", failing)
        patch.setattr(records, "sha256_of", unreadable)
        with pytest.raises(OSError, match=r"Input/output error.*a\.mpg"):
            sampled()
    assert not kept()
    assert sampled()["a"]["status"] == "ok"


def test_a_picture_that_is_none_is_named(tmp_path):
    table = pa.Table.from_pylist([{"image": b"no picture"}], schema=frames.FRAME_SCHEMA)
    records.write_table(tmp_path / "x.parquet", table)
    for rows in (None, [3]):
        with pytest.raises(frames.FramesError, match=r"x\.parquet.*run stage frames again"):
            frames.decode_images(tmp_path / "x.parquet", rows)


@pytest.mark.realdata
def test_the_real_ucf11_clip_goes_from_the_mirror_to_six_frames(run, mirror, monkeypatch):
    monkeypatch.setenv("NEM_MIRROR", str(mirror))
    assert "1 of 1597 clips" in run("ucf11")["partial"]
    videos = layout.load(layout.INDEX)
    assert videos == [Video("basketball/v_shooting_01/v_shooting_01_01.mpg", "basketball", "01")]
    row = frames.extract(videos, layout.CLIPS, Sampling(), paths.FRAMES).to_pylist()[0]
    names = ("codec", "status", "frames_decoded", "frames_wanted", "frames_padded")
    assert [row[name] for name in names] == ["mpg1", "short", 108, 6, 1]
    assert row["fps"] == pytest.approx(29.97, abs=0.001)
    file = frames.frames_file(paths.FRAMES, row["video_id"])
    indices = pq.read_table(file)["frame_index"].to_pylist()
    assert indices == [round(k / 1.4 * 30_000 / 1001) for k in range(6)]
    for image, frame in zip(frames.decode_images(file), codec.pick(layout.CLIPS / row["path"], indices), strict=True):
        difference = image.astype(int) - codec.resize(frame, frames.SIZE).astype(int)
        assert np.abs(difference).mean() < 3  # JPEG of quality 95
