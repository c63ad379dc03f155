"""The frames that are picked are the ones that stand at the sampling times, and every video has its row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import paths, records
from pipeline.common.kept import Kept
from pipeline.video.frames import codec, frames
from pipeline.video.frames.sampling import Sampling, Timeline, choose, timeline
from pipeline.video.layout import Video
from tests.video import samples


@pytest.fixture(autouse=True)
def _serial(tmp_path, monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.chdir(tmp_path)


def videos_in(root):
    return sorted(Video(str(file.relative_to(root)), "sport", file.stem) for file in root.rglob("*") if file.is_file())


def run(tmp_path, root=None, listed=None, max_bad_fraction=1.0, **changes):
    root, sampling = root or tmp_path / "videos", Sampling(**changes)
    manifest = frames.extract(
        listed or videos_in(root), root, sampling, tmp_path / "out", max_bad_fraction=max_bad_fraction
    )
    return {row["video_id"]: row for row in manifest.to_pylist()}


def shown(tmp_path, video_id):
    return [samples.number_of(image) for image in frames.decode_images(tmp_path / "out" / f"{video_id}.parquet")]


def kept():
    """The files of kept results."""
    return sorted(file for file in (paths.CHECKPOINTS / "frames").rglob("*") if file.is_file())


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("rate", "phases", "suffix", "name"), [(25.0, 3, "avi", "MJPG"), (30_000 / 1001, 1, "mpg", "PIM1")]
)
def test_frame_k_of_a_clip_stands_at_k_over_1_4_seconds(tmp_path, rate, phases, suffix, name):
    count = 160
    samples.video(tmp_path / "videos" / f"a.{suffix}", count, rate, name)
    row = run(tmp_path, phases=phases)["a"]
    wanted = [j / (1.4 * phases) for j in range(1000) if j / (1.4 * phases) < count / rate]
    nearest = [min(range(count), key=lambda n, s=second: abs(n / rate - s)) for second in wanted]
    assert shown(tmp_path, "a") == nearest
    stored = pq.read_table(tmp_path / "out" / "a.parquet")
    assert stored["frame_index"].to_pylist() == nearest
    assert stored["timestamp_s"].to_pylist() == pytest.approx([n / rate for n in nearest], rel=1e-5)  # containers round
    assert (row["status"], row["frames_decoded"], row["frames_wanted"]) == ("ok", count, len(nearest))
    assert row["fps"] == pytest.approx(rate, rel=1e-5)
    assert row["codec"]
    assert row["sha256"] == records.sha256_of(tmp_path / "videos" / row["path"])


def test_a_variable_rate_is_followed_by_the_clock_of_the_file(tmp_path):
    (tmp_path / "videos").mkdir()
    seconds = [0.1] * 20 + [0.5] * 6 + [0.1] * 20
    samples.variable(tmp_path / "videos" / "v.gif", seconds)
    row = run(tmp_path)["v"]
    starts = np.concatenate([[0], np.cumsum(seconds)[:-1]])
    wanted = np.arange(0, starts[-1] + 0.1 - 1e-6, 1 / 1.4)
    assert row["clock"] == "container"
    assert shown(tmp_path, "v") == [int(np.abs(starts - second).argmin()) for second in wanted]


def test_every_kind_of_bad_file_has_its_row_and_its_reason(tmp_path):
    root = tmp_path / "videos"
    whole = samples.video(root / "whole.mpg", 140)
    (root / "zero.mpg").write_bytes(b"")
    (root / "text.mpg").write_text("these are words, not pictures\n" * 50)
    samples.sound(root / "sound.mpg")
    (root / "cut.mpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2 + 1])
    movie = samples.video(tmp_path / "movie.avi", 140, codec_name="MJPG").read_bytes()
    (root / "cut_avi.avi").write_bytes(movie[: len(movie) // 2])
    (root / "renamed.mpg").write_bytes(movie)
    samples.video(root / "one.avi", 1, codec_name="MJPG")
    samples.video(root / "brief.mpg", 50)
    rows = run(tmp_path)
    assert {name: row["status"] for name, row in rows.items()} == {
        "whole": "ok",
        "zero": "unreadable",
        "text": "unreadable",
        "sound": "unreadable",
        "cut": "corrupt",
        "cut_avi": "corrupt",
        "renamed": "ok",
        "one": "short",
        "brief": "short",
    }
    for name, row in rows.items():
        assert (row["error"] is None) == (row["status"] == "ok"), name
        assert (tmp_path / "out" / f"{name}.parquet").is_file() == (row["frames_stored"] > 0), name
        assert row["sha256"]
    assert rows["one"]["frames_padded"] == 6
    assert shown(tmp_path, "one") == [0]
    assert rows["brief"]["frames_padded"] == 4
    assert "cut off" in rows["cut"]["error"]
    assert "140" in rows["cut_avi"]["error"]
    row = run(tmp_path, listed=[Video("brief.mpg", "sport", "1")], short="skip", phases=2)["brief"]
    assert (row["status"], row["frames_stored"], row["frames_padded"]) == ("short", 0, 0)
    assert set(content(tmp_path / "out")) == {"manifest.parquet"}, "what an earlier run left is cleared"
    manifest, sampling = frames.read_manifest(tmp_path / "out")
    assert sampling == Sampling(phases=2, short="skip")
    records.write_table(tmp_path / "out" / "manifest.parquet", manifest.replace_schema_metadata({}))
    with pytest.raises(ValueError, match=r"expected a sampling with rate, .*run stage frames again"):
        frames.read_manifest(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"gone\.mpg"):
        run(tmp_path, listed=[Video("gone.mpg", "sport", "1")])


def test_too_many_bad_videos_stop_the_run_with_the_list_and_keep_the_work(tmp_path):
    root = tmp_path / "videos"
    samples.video(root / "a.mpg", 60)
    (root / "b.mpg").write_bytes(b"")
    (root / "c.mpg").write_text("x" * 500)
    with pytest.raises(
        frames.FramesError, match=r"at most 50% bad videos, found 2 of 3(.|\n)*b\.mpg: unre(.|\n)*c\.mpg"
    ):
        run(tmp_path, max_bad_fraction=0.5)
    assert len(kept()) == 3
    assert len(run(tmp_path, max_bad_fraction=0.7)) == 3
    assert not kept()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    """What is kept of it may be damaged; equal videos are decoded once."""
    root = tmp_path / "videos"
    for number in range(5):
        samples.video(root / f"v{number}.mpg", 40 + 3 * number)
    (root / "w.mpg").write_bytes((root / "v0.mpg").read_bytes())
    run(tmp_path, root)
    assert shown(tmp_path, "w") == shown(tmp_path, "v0")
    expected = content(tmp_path / "out")
    original, calls = frames._extract, []

    def failing(job):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(job.source.name)
        return original(job)

    monkeypatch.setattr(frames, "_extract", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, root)
    monkeypatch.setattr(frames, "_extract", lambda job: calls.append(job.source.name) or original(job))
    run(tmp_path, root)
    assert calls == ["w.mpg", *(f"v{number}.mpg" for number in range(1, 5))]
    assert content(tmp_path / "out") == expected
    monkeypatch.setattr(Kept, "has", lambda *_: True)
    run(tmp_path, root)
    assert content(tmp_path / "out") == expected, "what was not there when it was read is made again"


def test_sequences_of_features_have_a_row_each_and_nothing_is_decoded(tmp_path):
    lengths = {"ball/01/a": 13, "ball/02/b.1": 7, "run/01/a": 4}
    names = [name.split("/") for name, count in lengths.items() for _ in range(count)]
    columns = {key: [name[k] for name in names] for k, key in enumerate(("class", "group", "video"))}
    records.write_table(tmp_path / "s.parquet", pa.table(columns))
    videos = [Video(name, *name.split("/")[:2]) for name in lengths]
    rows = frames.list_sequences(videos, tmp_path / "s.parquet", Sampling(), tmp_path / "out").to_pylist()
    assert {row["video_id"]: row["frames_stored"] for row in rows} == lengths
    assert [(row["class"], row["group"], row["status"], row["frames_padded"]) for row in rows] == [
        ("ball", "01", "ok", 0), ("ball", "02", "ok", 0), ("run", "01", "short", 3)
    ]  # fmt: skip
    assert frames.read_manifest(tmp_path / "out")[0].to_pylist() == rows
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["manifest.parquet"]
    with pytest.raises(frames.FramesError, match="acquire again"):
        frames.list_sequences(videos[:2], tmp_path / "s.parquet", Sampling(), tmp_path / "out")


def clock(stamps, rate=25.0):
    return timeline(codec.Scan("x", 4, 4, rate, 0, np.asarray(stamps, float)))


def test_time_follows_the_frame_number_where_the_clock_runs_evenly():
    stamps = np.arange(100) / 25
    stamps[-1] = 0  # what the decoder reports for the last frame of some MPEG files
    times = clock(stamps)
    assert (times.clock, times.duration) == ("constant", pytest.approx(4.0))
    assert times.times == pytest.approx(np.arange(100) / 25)
    stamps = np.arange(100) / 29.97
    times = clock(stamps, rate=25.0)  # a wrong rate in the header gives way to the clock
    assert (times.clock, times.rate) == ("container", pytest.approx(29.97))
    assert times.duration == pytest.approx(100 / 29.97)
    stamps[40] = 0.1  # a clock that jumps back is not followed
    assert clock(stamps).clock == "constant"
    with pytest.raises(codec.VideoError, match="frame rate or increasing time stamps"):
        clock(stamps, rate=0.0)


@given(
    gaps=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=60),
    rate=st.floats(0.2, 60.0),
)
def test_chosen_frames_are_nearest_distinct_and_account_for_every_sample(gaps, rate):
    starts = np.concatenate([[0.0], np.cumsum(gaps)])
    times = Timeline(starts, float(starts[-1] + gaps[-1]), 1.0, "container")
    indices, counts = choose(times, rate)
    wanted = np.arange(counts.sum()) / rate
    assert wanted[-1] < times.duration
    assert counts.sum() / rate >= times.duration - 2e-6
    assert (np.diff(indices) > 0).all()
    assert indices[0] == 0
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


def test_a_disk_that_cannot_be_read_while_the_decoder_works_condemns_no_video(tmp_path, monkeypatch):
    """The decoder takes what it cannot read for the end of the video, and says nothing."""
    samples.video(tmp_path / "videos" / "a.mpg", 140)
    whole, sums, reads = codec.scan, records.sha256_of, []

    def failing(source):
        raise codec.VideoError("expected at least one frame, found none that decodes")

    def unreadable(source):
        reads.append(source.name)
        if reads.count("a.mpg") == 2:
            raise OSError(5, "Input/output error", str(source))
        return sums(source)

    monkeypatch.setattr(codec, "scan", failing)
    monkeypatch.setattr(records, "sha256_of", unreadable)
    with pytest.raises(OSError, match=r"Input/output error.*a\.mpg"):
        run(tmp_path)
    assert not kept()
    monkeypatch.setattr(codec, "scan", whole)
    assert run(tmp_path)["a"]["status"] == "ok"


def test_a_picture_that_is_none_is_named(tmp_path):
    table = pa.Table.from_pylist([{"image": b"no picture"}], schema=frames.FRAME_SCHEMA)
    records.write_table(tmp_path / "x.parquet", table)
    for rows in (None, [3]):
        with pytest.raises(frames.FramesError, match=r"x\.parquet.*run stage frames again"):
            frames.decode_images(tmp_path / "x.parquet", rows)
