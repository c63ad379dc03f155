"""The frames that are picked are the ones that stand at the sampling times, and every video has its row."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import records
from pipeline.params import VideoFrames
from pipeline.video import codec, frames
from pipeline.video.layout import Video
from tests.video import samples


@pytest.fixture(autouse=True)
def _serial(monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")


def videos_in(root):
    return sorted(Video(str(file.relative_to(root)), "sport", file.stem) for file in root.rglob("*") if file.is_file())


def run(tmp_path, root=None, listed=None, **changes):
    root = root or tmp_path / "videos"
    settings = VideoFrames(**{"max_bad_fraction": 1.0, **changes})
    manifest = frames.extract(listed or videos_in(root), root, settings, tmp_path / "out", tmp_path / "store")
    return {row["video_id"]: row for row in manifest.to_pylist()}


def shown(tmp_path, video_id):
    return [samples.number_of(image) for image in frames.decode_images(tmp_path / "out" / f"{video_id}.parquet")]


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("rate", [25.0, 30_000 / 1001])
@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize(("suffix", "name"), [("mpg", "PIM1"), ("avi", "MJPG")])
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


def test_short_videos_can_be_left_out(tmp_path):
    samples.video(tmp_path / "videos" / "brief.mpg", 50)
    row = run(tmp_path, short="skip")["brief"]
    assert (row["status"], row["frames_stored"], row["frames_padded"]) == ("short", 0, 0)
    assert not (tmp_path / "out" / "brief.parquet").exists()


def test_too_many_bad_videos_stop_the_run_with_the_list_and_keep_the_work(tmp_path):
    root = tmp_path / "videos"
    samples.video(root / "a.mpg", 60)
    (root / "b.mpg").write_bytes(b"")
    (root / "c.mpg").write_text("x" * 500)
    with pytest.raises(
        frames.FramesError, match=r"at most 50% bad videos, found 2 of 3(.|\n)*b\.mpg: unre(.|\n)*c\.mpg"
    ):
        run(tmp_path, max_bad_fraction=0.5)
    assert len(list((tmp_path / "store").glob("*.parquet"))) == 3
    assert len(run(tmp_path, max_bad_fraction=0.7)) == 3


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    root = tmp_path / "videos"
    for number in range(5):
        samples.video(root / f"v{number}.mpg", 40 + 3 * number)
    run(tmp_path, root)
    expected = content(tmp_path / "out")
    original, calls = frames._extract, []

    def failing(job, sha256):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(job.source.name)
        return original(job, sha256)

    monkeypatch.setattr(frames, "_extract", failing)
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(again, root)
    monkeypatch.setattr(frames, "_extract", lambda job, sha: calls.append(job.source.name) or original(job, sha))
    run(again, root)
    assert calls == [f"v{number}.mpg" for number in range(5)]
    assert content(again / "out") == expected


def test_stale_results_are_never_reused(tmp_path):
    root = tmp_path / "videos"
    samples.video(root / "a.mpg", 60)
    (root / "b.mpg").write_bytes(b"")
    with pytest.raises(frames.FramesError):
        run(tmp_path, max_bad_fraction=0.0)
    samples.video(root / "a.mpg", 140, 30_000 / 1001)  # another video under the same name
    samples.video(root / "b.mpg", 140)
    rows = run(tmp_path, phases=2)
    assert rows["a"]["frames_decoded"] == 140
    assert shown(tmp_path, "a")[1] == round(30_000 / 1001 / 2.8)


def stopped(tmp_path, count):
    """Stop at a bad video, with two results kept; return the outputs of a run that did not stop."""
    root = tmp_path / "videos"
    samples.video(root / "a.mpg", count)
    (root / "b.mpg").write_bytes(b"")
    run(tmp_path)
    expected = content(tmp_path / "out")
    with pytest.raises(frames.FramesError):
        run(tmp_path, max_bad_fraction=0.0)
    return expected


def test_a_damaged_kept_result_is_made_again(tmp_path):
    expected = stopped(tmp_path, 140)
    for file in (tmp_path / "store").glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-20])
    run(tmp_path)
    assert content(tmp_path / "out") == expected


def test_a_bit_that_flips_anywhere_in_what_is_kept_makes_it_again(tmp_path):
    expected = stopped(tmp_path, 60)
    files = sorted((tmp_path / "store").iterdir())
    assert len(files) == 4
    rng = random.Random(1)
    for file in files:
        whole = file.read_bytes()
        for at in [0, 8 * len(whole) - 1, *(rng.randrange(8 * len(whole)) for _ in range(60))]:
            changed = bytearray(whole)
            changed[at // 8] ^= 1 << at % 8
            file.write_bytes(changed)
            assert frames._kept(file.with_suffix(".parquet")) is None, f"{file.name}: bit {at}"
    run(tmp_path)
    assert content(tmp_path / "out") == expected


def test_what_an_earlier_run_left_is_cleared(tmp_path):
    root = tmp_path / "videos"
    samples.video(root / "a.mpg", 140)
    samples.video(root / "b.mpg", 140)
    run(tmp_path)
    (root / "b.mpg").unlink()
    run(tmp_path)
    assert set(content(tmp_path / "out")) == {"a.parquet", "manifest.parquet"}


def test_manifest_carries_its_settings(tmp_path):
    samples.video(tmp_path / "videos" / "a.mpg", 140)
    run(tmp_path, phases=2)
    metadata = frames.read_manifest(tmp_path / "out").schema.metadata
    assert json.loads(metadata[b"settings"])["phases"] == 2
    assert metadata[b"size"] == b"299"


def test_a_listed_video_that_is_missing_is_named(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(FileNotFoundError, match=r"gone\.mpg"):
        run(tmp_path, listed=[Video("gone.mpg", "sport", "1")])


def clock(stamps, rate=25.0):
    return frames.timeline(codec.Scan("x", 4, 4, rate, 0, np.asarray(stamps, float)))


def test_time_follows_the_frame_number_where_the_clock_runs_evenly():
    stamps = np.arange(100) / 25
    stamps[-1] = 0  # what the decoder reports for the last frame of some MPEG files
    times = clock(stamps)
    assert times.clock == "constant"
    assert times.times == pytest.approx(np.arange(100) / 25)
    assert times.duration == pytest.approx(4.0)


def test_a_wrong_rate_in_the_header_gives_way_to_the_clock():
    times = clock(np.arange(100) / 29.97, rate=25.0)
    assert times.clock == "container"
    assert times.rate == pytest.approx(29.97)
    assert times.duration == pytest.approx(100 / 29.97)


def test_a_clock_that_jumps_back_is_not_followed():
    stamps = np.arange(100) / 29.97
    stamps[40] = 0.1
    assert clock(stamps).clock == "constant"
    with pytest.raises(codec.VideoError, match="frame rate or increasing time stamps"):
        clock(stamps, rate=0.0)


@given(
    gaps=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=60),
    rate=st.floats(0.2, 60.0),
)
def test_chosen_frames_are_nearest_distinct_and_account_for_every_sample(gaps, rate):
    starts = np.concatenate([[0.0], np.cumsum(gaps)])
    times = frames.Timeline(starts, float(starts[-1] + gaps[-1]), 1.0, "container")
    indices, counts = frames.choose(times, rate)
    wanted = np.arange(counts.sum()) / rate
    assert wanted[-1] < times.duration
    assert counts.sum() / rate >= times.duration - 2e-6
    assert (np.diff(indices) > 0).all()
    assert indices[0] == 0
    error = np.abs(starts[np.repeat(indices, counts)] - wanted)
    assert error == pytest.approx(np.abs(starts[None] - wanted[:, None]).min(1), abs=1e-8)


@given(count=st.integers(1, 200), phases=st.integers(1, 8), per_clip=st.integers(1, 12))
def test_padding_counts_what_a_short_video_lacks(count, phases, per_clip):
    settings = VideoFrames(phases=phases, per_clip=per_clip)
    padded = frames.padding(count, settings)
    assert (padded > 0) == (count < frames.samples_per_clip(settings))
    assert padded == sum(k * phases > count - 1 for k in range(per_clip))


def test_a_passing_fault_of_the_disk_condemns_no_video(tmp_path, monkeypatch):
    samples.video(tmp_path / "videos" / "a.mpg", 30)
    whole = frames.codec.ends_inside_packet

    def failing(source):
        raise OSError(5, "Input/output error", str(source))

    monkeypatch.setattr(codec, "ends_inside_packet", failing)
    with pytest.raises(OSError, match="Input/output error"):
        run(tmp_path)
    monkeypatch.setattr(codec, "ends_inside_packet", whole)
    assert [row["status"] for row in run(tmp_path, per_clip=1).values()] == ["ok"]


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
    assert not list((tmp_path / "store").iterdir())
    monkeypatch.setattr(codec, "scan", whole)
    assert run(tmp_path)["a"]["status"] == "ok"


def test_a_video_that_changes_meanwhile_gets_no_verdict(tmp_path, monkeypatch):
    file = samples.video(tmp_path / "videos" / "a.mpg", 140)

    def growing(source):
        file.write_bytes(file.read_bytes() + b"more")
        raise codec.VideoError("cut off")

    monkeypatch.setattr(codec, "scan", growing)
    with pytest.raises(OSError, match=r"a\.mpg to hold what it held before"):
        run(tmp_path)


def test_a_picture_that_is_none_is_named(tmp_path):
    table = pa.Table.from_pylist([{"image": b"no picture"}], schema=frames.FRAME_SCHEMA)
    records.write_table(tmp_path / "x.parquet", table)
    for rows in (None, [3]):
        with pytest.raises(frames.FramesError, match=r"x\.parquet.*run stage frames again"):
            frames.decode_images(tmp_path / "x.parquet", rows)
