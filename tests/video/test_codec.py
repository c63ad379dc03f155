"""Decoding believes only what decodes."""

import contextlib
import hashlib
import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.video.frames import codec
from tests.video import samples

KINDS = pytest.mark.parametrize(("suffix", "name"), [(".mpg", "PIM1"), (".avi", "MJPG"), (".mp4", "mp4v")])


@contextlib.contextmanager
def limit(size):
    """Let no file grow beyond ``size`` bytes: a full disk, for whoever may not mount one."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


@pytest.mark.parametrize("rate", [25.0, 30_000 / 1001])
@KINDS
def test_all_frames_written_are_found_and_picked_by_number(tmp_path, suffix, name, rate):
    file = samples.video(tmp_path / f"a_01_02{suffix}", 57, rate, name)
    scan = codec.scan(file)
    assert (len(scan), scan.width, scan.height) == (57, 320, 240)
    assert scan.nominal_rate == pytest.approx(rate, rel=1e-3)
    for picked in ([0, 1, 13, 40, 56], list(range(57))):
        assert [samples.number_of(frame) for frame in codec.pick(file, picked)] == picked
    with pytest.raises(codec.VideoError, match="expected frame 57, found the end after 57 frames"):
        list(codec.pick(file, [2, 57]))
    assert samples.video(tmp_path / f"b{suffix}", 57, rate, name).read_bytes() == file.read_bytes()


def test_colours_keep_their_order_and_pictures_their_quality(tmp_path):
    red = np.zeros((240, 320, 3), np.uint8)
    red[..., 0] = 200
    (tmp_path / "red.mpg").write_bytes(codec.encode_video([red] * 3, 25.0))
    assert next(codec.pick(tmp_path / "red.mpg", [0])).mean((0, 1)) == pytest.approx([200, 0, 0], abs=20)
    assert codec.decode(codec.encode(red, 95)).mean((0, 1)) == pytest.approx([200, 0, 0], abs=4)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    assert np.array_equal(codec.decode(codec.encode(image, codec.LOSSLESS)), image)
    assert len(codec.encode(image, 60)) < len(codec.encode(image, codec.LOSSLESS))
    for quality in (0, 102, -1):
        with pytest.raises(ValueError, match="expected a quality of 1 to 100"):
            codec.encode(image, quality)


def test_what_is_no_video_says_so_and_opens_no_other_file(tmp_path):
    (tmp_path / "empty.mpg").write_bytes(b"")
    (tmp_path / "text.mpg").write_text("not a video at all " * 100)
    samples.sound(tmp_path / "sound.mpg")
    samples.video(tmp_path / "real.mpg", 5)
    (tmp_path / "list.mpg").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'real.mpg'}'\n")
    reasons = {"empty": "empty file", "text": "none that the decoder knows", "sound": "video", "list": "video"}
    for name, reason in reasons.items():
        with pytest.raises(codec.VideoError, match=reason):
            codec.scan(tmp_path / f"{name}.mpg")
    with pytest.raises(FileNotFoundError):
        codec.scan(tmp_path / "absent.mpg")


def test_what_the_encoder_refuses_says_so():
    for changes, message in (
        ({"rate": 13.7}, "encoder can write"), ({"codec": "ZZZZ"}, "encoder can write"),
        ({"frames": []}, "at least one frame"), ({"suffix": ".mkv"}, r"expected a video named \.mpg"),
    ):  # fmt: skip
        with pytest.raises(codec.VideoError, match=message):
            codec.encode_video(**{"frames": [samples.numbered(0)], "rate": 25.0, **changes})


@KINDS
def test_a_full_disk_is_an_error_and_never_a_shorter_video(monkeypatch, suffix, name):
    """Also where what fits ends between two packets and at the end of a page, as on a small tmpfs."""

    def film():
        return codec.encode_video(map(samples.numbered, range(40)), 25.0, suffix, name)

    whole = film()
    pages = list(range(0, len(whole), 4096))
    for size in {0, 1, 100, *pages[:: max(1, len(pages) // 12)], pages[-1], len(whole) - 2048, len(whole) - 1}:
        with limit(size), pytest.raises(OSError, match=r"expected room for .*video\..*free some space"):
            film()
    with limit(len(whole) + 1):
        assert film() == whole
    monkeypatch.setattr(codec, "_packets", lambda file: 7)  # lost before there was room again
    with pytest.raises(OSError, match=rf"expected 40 frames in .*{suffix}, found 7: the disk may be full"):
        film()


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".webm", "VP80"), (".mkv", "mp4v"), (".ts", "PIM1"), (".mpg", "PIM1"), (".avi", "MJPG"), (".mp4", "mp4v")],
)
def test_a_declared_count_is_believed_only_where_the_container_counts(tmp_path, monkeypatch, suffix, name):
    monkeypatch.setattr(codec, "CONTAINERS", (suffix,))
    file = samples.video(tmp_path / f"a{suffix}", 30, codec_name=name)
    assert (len(codec.scan(file)), codec.scan(file).declared) == (30, 30 if suffix == ".avi" else 0)
    assert not codec.cut_off(file)
    data = file.read_bytes()
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
