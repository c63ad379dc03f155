"""Decoding believes only what decodes; picked frames stand at the sampling times; every video has its row."""

import contextlib
import hashlib
import resource

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import paths, records
from pipeline.common.kept import Kept
from pipeline.video.frames import codec, frames
from pipeline.video.frames.sampling import Sampling, Timeline, choose, likely, timeline
from pipeline.video.layout import Video
from tests.conftest import refused
from tests.video import samples


@pytest.fixture
def sampled(project, tmp_path):
    """Sample the videos in a folder into another; return their rows of the manifest by name."""

    def sample(*names, most=1.0, **changes):
        root, out = tmp_path / "videos", tmp_path / "out"
        videos = [Video(name, "sport", name[:-4]) for name in names or sorted(file.name for file in root.iterdir())]
        manifest = frames.extract(videos, root, Sampling(**changes), out, max_bad_fraction=most)
        return {row["video_id"]: row for row in manifest.to_pylist()}

    return sample


def shown(tmp_path, video_id):
    return [samples.number_of(image) for image in frames.decode_images(tmp_path / "out" / f"{video_id}.parquet")]


def kept():
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
    stored = pq.read_table(tmp_path / "out" / "a.parquet")["timestamp_s"].to_pylist()
    assert stored == pytest.approx([n / rate for n in nearest], rel=1e-5)  # containers round
    assert (row["status"], row["frames_decoded"], row["frames_wanted"]) == ("ok", count, len(nearest))
    assert (row["fps"], row["sha256"]) == (pytest.approx(rate, rel=1e-5), records.sha256_of(file))


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
    (root / "zero.mpg").write_bytes(b"")
    (root / "text.mpg").write_bytes(b"these are words, not pictures\n" * 50)
    (root / "cut.mpg").write_bytes(whole[: len(whole) // 2 + 1])
    (root / "cut_avi.avi").write_bytes(movie[: len(movie) // 2])
    (root / "list.mpg").write_text(f"ffconcat version 1.0\nfile '{root / 'whole.mpg'}'\n")
    samples.sound(root / "sound.mpg")
    samples.video(root / "one.avi", 1, codec_name="MJPG")
    samples.video(root / "brief.mpg", 50)
    rows = sampled()
    kinds = {"ok": "renamed whole", "unreadable": "list sound text zero", "corrupt": "cut cut_avi"}
    kinds["short"] = "brief one"
    for status, names in kinds.items():
        assert sorted(name for name, row in rows.items() if row["status"] == status) == names.split()
    for name, row in rows.items():
        assert (row["error"] is None) == (row["status"] == "ok"), name
        assert (tmp_path / "out" / f"{name}.parquet").is_file() == (row["frames_stored"] > 0), name
    assert (rows["one"]["frames_padded"], rows["brief"]["frames_padded"]) == (6, 4)
    reasons = {"cut": "cut off", "cut_avi": "140", "zero": "empty file", "text": "none that the decoder knows"}
    assert all(reason in rows[name]["error"] for name, reason in reasons.items())
    row = sampled("brief.mpg", short="skip", phases=2)["brief"]
    assert (row["status"], row["frames_stored"], row["frames_padded"]) == ("short", 0, 0)
    assert set(content(tmp_path / "out")) == {"manifest.parquet"}, "what an earlier run left is cleared"
    refused(FileNotFoundError, r"gone\.mpg", sampled, "gone.mpg")


def test_too_many_bad_videos_stop_the_run_with_the_list_and_finished_work_is_kept(sampled, tmp_path, monkeypatch):
    """What is kept may be damaged; equal videos are decoded once."""
    samples.video(tmp_path / "videos" / "a.mpg", 60)
    for name, data in (("a2", (tmp_path / "videos" / "a.mpg").read_bytes()), ("b", b""), ("c", b"x" * 500)):
        (tmp_path / "videos" / f"{name}.mpg").write_bytes(data)
    original, calls = frames._extract, []
    monkeypatch.setattr(frames, "_extract", lambda job: calls.append(job.source.name) or original(job))
    message = r"at most 40% bad videos, found 2 of 4(.|\n)*b\.mpg: unre(.|\n)*c\.mpg"
    refused(frames.FramesError, message, sampled, most=0.4)
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
    refused(codec.VideoError, "frame rate or increasing time stamps", clock, stamps, rate=0.0)


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


@given(count=st.integers(1, 400), nominal=st.floats(5.0, 60.0), rate=st.floats(0.2, 60.0), jitter=st.floats(0, 0.2))
def test_every_frame_that_is_chosen_of_an_even_video_was_asked_for_but_perhaps_the_last(count, nominal, rate, jitter):
    stamps = (np.arange(count) + jitter * np.sin(np.arange(count))) / nominal
    asked = {n for n in range(count) if likely(stamps[: n + 1].tolist(), nominal, rate)}
    chosen = choose(clock(stamps, nominal), rate)[0].tolist()
    assert {n for n in chosen if n < count - 1} <= asked
    assert len(asked) <= len(chosen) + 1 + 0.01 * count


@pytest.mark.parametrize(
    ("suffix", "name", "count", "again"),
    [("mpg", "PIM1", 140, []), ("mpg", "PIM1", 18, []), ("avi", "MJPG", 140, []), ("avi", "MJPG", 18, [17])],
)
def test_a_video_is_decoded_once_unless_its_last_frame_serves_a_later_sample(
    sampled, tmp_path, monkeypatch, suffix, name, count, again
):
    file = samples.video(tmp_path / "videos" / f"a.{suffix}", count, codec_name=name)
    expected = [codec.encode(codec.resize(frame, frames.SIZE), 95) for frame in codec.pick(file, range(count))]
    asked, pick = [], codec.pick
    monkeypatch.setattr(codec, "pick", lambda file, indices: (asked.extend(indices), pick(file, indices))[1])
    sampled()
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table["image"].to_pylist() == [expected[n] for n in table["frame_index"].to_pylist()]
    assert asked == again


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
    sums = iter([records.sha256_of(tmp_path / "videos" / "a.mpg")])
    with monkeypatch.context() as patch:
        patch.setattr(codec, "scan", lambda *_: (_ for _ in ()).throw(codec.VideoError("found none that decodes")))
        patch.setattr(records, "sha256_of", lambda _: next(sums, None) or (_ for _ in ()).throw(OSError(5, "disk")))
        refused(OSError, "disk", sampled)
    assert not kept()
    assert sampled()["a"]["status"] == "ok"


WRITTEN = [(".mpg", "PIM1"), (".avi", "MJPG"), (".mp4", "mp4v")]


@contextlib.contextmanager
def limit(size):
    """Let no file grow beyond ``size`` bytes: a full disk, for whoever may not mount one."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def test_colours_keep_their_order_and_pictures_their_quality(tmp_path):
    red = np.zeros((240, 320, 3), np.uint8)
    red[..., 0] = 200
    (tmp_path / "red.mpg").write_bytes(codec.encode_video([red] * 3, 25.0))
    assert next(codec.pick(tmp_path / "red.mpg", [0])).mean((0, 1)) == pytest.approx([200, 0, 0], abs=20)
    assert codec.decode(codec.encode(red, 95)).mean((0, 1)) == pytest.approx([200, 0, 0], abs=4)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    assert np.array_equal(codec.decode(codec.encode(image, codec.LOSSLESS)), image)
    assert len(codec.encode(image, 60)) < len(codec.encode(image, codec.LOSSLESS))


def test_what_the_encoder_refuses_says_so():
    for rate, suffix, reason in ((13.7, ".mpg", "encoder can write"), (25.0, ".mkv", r"expected a video named \.mpg")):
        refused(codec.VideoError, reason, codec.encode_video, [samples.numbered(0)], rate, suffix)


@pytest.mark.parametrize(("suffix", "name"), WRITTEN)
def test_a_full_disk_is_an_error_and_never_a_shorter_video(monkeypatch, suffix, name):
    """Also where what fits ends between two packets and at the end of a page, as on a small tmpfs."""

    def film():
        return codec.encode_video(map(samples.numbered, range(40)), 25.0, suffix, name)

    whole = film()
    pages = range(0, len(whole), 4096)
    for size in {0, 1, 100, *pages[:: max(1, len(pages) // 12)], pages[-1], len(whole) - 2048, len(whole) - 1}:
        with limit(size), pytest.raises(OSError, match=r"expected room for .*video\..*free some space"):
            film()
    with limit(len(whole) + 1):
        assert film() == whole
    monkeypatch.setattr(codec, "_packets", lambda file: 7)  # lost before there was room again
    refused(OSError, rf"expected 40 frames in .*{suffix}, found 7: the disk may be full", film)


@pytest.mark.parametrize(("suffix", "name"), [*WRITTEN, (".webm", "VP80"), (".mkv", "mp4v"), (".ts", "PIM1")])
def test_all_frames_are_found_and_picked_by_number_and_counted_where_the_container_counts(
    tmp_path, monkeypatch, suffix, name
):
    own = suffix in codec.CONTAINERS
    monkeypatch.setattr(codec, "CONTAINERS", (suffix,))
    file = samples.video(tmp_path / f"a_01_02{suffix}", 30, codec_name=name)
    scan, data = codec.scan(file), file.read_bytes()
    assert (len(scan), scan.declared) == (30, 30 if suffix == ".avi" else 0)
    assert (scan.width, scan.height) == (320, 240)
    for picked in ([0, 1, 13, 29], list(range(30))):
        assert [samples.number_of(frame) for frame in codec.pick(file, picked)] == picked
    refused(codec.VideoError, "expected frame 30, found the end after 30 frames", list, codec.pick(file, [2, 30]))
    if own:
        assert scan.nominal_rate == pytest.approx(25, rel=1e-3)
        assert samples.video(tmp_path / f"b{suffix}", 30, codec_name=name).read_bytes() == data
    assert not codec.cut_off(file)
    if suffix not in (".avi", ".ts"):  # an AVI's count tells; packets of 188 bytes say nothing of their number
        for lost in (1, 100, len(data) // 2 + 1):
            file.write_bytes(data[:-lost])
            assert codec.cut_off(file)
    if suffix == ".mp4":  # FFmpeg writes an edit list; most hide nothing, but only the decoder knows
        file.write_bytes(data.replace(b"edts", b"free").replace(b"elst", b"free"))
        assert codec.scan(file).declared == 30


@pytest.mark.realdata
def test_whole_files_of_other_kinds_are_whole_and_an_unknown_codec_is_named_with_its_cure(mirror):
    folder = mirror / "cases" / "video" / "whole_files"
    for name, count in (("edit_list.mp4", 102), ("variable_rate.webm", 113)):
        assert (len(codec.scan(folder / name)), codec.scan(folder / name).declared) == (count, 0)
        assert not codec.cut_off(folder / name)
    with pytest.raises(codec.VideoError, match=r"found AV01; re-encode the video: ffmpeg -i av1\.mkv .*av1_h264\.mp4"):
        codec.scan(folder / "av1.mkv")


@given(share=st.floats(0.02, 0.99), data=st.binary(min_size=1, max_size=300))
def test_a_cut_stream_ends_inside_a_packet_and_any_bytes_can_be_asked(tmp_path_factory, share, data):
    stream = tmp_path_factory.getbasetemp() / "stream.mpg"
    if not stream.is_file():
        samples.video(stream, 30)
    whole, cut = stream.read_bytes(), stream.with_name(hashlib.sha256(data).hexdigest()[:12])
    cut.write_bytes(whole[: (kept := int(len(whole) * share))])
    assert codec.cut_off(cut) == (kept % 2048 != 0)  # the encoder's packs have 2,048 bytes
    for beginning in (b"", b"\0\0\1\xba", b"\0\0\1\xe0", b"\x1a\x45\xdf\xa3", b"....mdat", b"RIFF....AVI "):
        cut.write_bytes(beginning + data)
        assert codec.cut_off(cut) in (True, False)
    cut.unlink()
