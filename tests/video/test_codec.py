"""Decoding believes only what decodes."""

import contextlib
import hashlib
import resource
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.video import codec
from tests.video import samples


@pytest.mark.parametrize("rate", [25.0, 30_000 / 1001])
@pytest.mark.parametrize(("suffix", "name"), [(".mpg", "PIM1"), (".avi", "MJPG"), (".mp4", "mp4v")])
def test_all_frames_written_are_found_and_picked_by_number(tmp_path, suffix, name, rate):
    file = samples.video(tmp_path / f"a_01_02{suffix}", 57, rate, name)
    found = codec.scan(file)
    assert len(found) == 57
    assert (found.width, found.height) == (320, 240)
    assert found.nominal_rate == pytest.approx(rate, rel=1e-3)
    picked = [0, 1, 13, 40, 56]
    assert [samples.number_of(frame) for frame in codec.pick(file, picked)] == picked
    assert [samples.number_of(frame) for frame in codec.read(file)] == list(range(57))


def test_equal_frames_give_equal_files(tmp_path):
    first, second = samples.video(tmp_path / "a.mpg", 20), samples.video(tmp_path / "b.mpg", 20)
    assert first.read_bytes() == second.read_bytes()


def test_colours_keep_their_order(tmp_path):
    red = np.zeros((240, 320, 3), np.uint8)
    red[..., 0] = 200
    codec.write(tmp_path / "red.mpg", [red] * 3, 25.0)
    shown = next(iter(codec.read(tmp_path / "red.mpg"))).mean((0, 1))
    assert shown[0] > 180
    assert max(shown[1:]) < 30
    assert codec.decode(codec.encode(red, 95)).mean((0, 1)) == pytest.approx([200, 0, 0], abs=4)


def test_png_is_lossless_and_jpeg_is_smaller():
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    assert np.array_equal(codec.decode(codec.encode(image, codec.LOSSLESS)), image)
    assert len(codec.encode(image, 60)) < len(codec.encode(image, codec.LOSSLESS))
    assert codec.encode(image, 80) == codec.encode(image, 80)


@pytest.mark.parametrize("quality", [0, 102, -1])
def test_other_qualities_are_refused(quality):
    with pytest.raises(ValueError, match="expected a quality of 1 to 100"):
        codec.encode(np.zeros((4, 4, 3), np.uint8), quality)


def test_what_is_no_video_says_so(tmp_path):
    (tmp_path / "empty.mpg").write_bytes(b"")
    (tmp_path / "text.mpg").write_text("not a video at all " * 100)
    samples.sound(tmp_path / "sound.mpg")
    for name, reason in (("empty", "empty file"), ("text", "none that the decoder knows"), ("sound", "video")):
        with pytest.raises(codec.VideoError, match=reason):
            codec.scan(tmp_path / f"{name}.mpg")
    with pytest.raises(FileNotFoundError):
        codec.scan(tmp_path / "absent.mpg")


def test_a_playlist_cannot_make_the_decoder_open_other_files(tmp_path):
    samples.video(tmp_path / "real.mpg", 5)
    (tmp_path / "list.mpg").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'real.mpg'}'\n")
    with pytest.raises(codec.VideoError):
        codec.scan(tmp_path / "list.mpg")


def test_picking_beyond_the_end_says_where_it_ends(tmp_path):
    file = samples.video(tmp_path / "a.mpg", 8)
    with pytest.raises(codec.VideoError, match="expected frame 8, found the end after 8 frames"):
        list(codec.pick(file, [2, 8]))


@pytest.mark.parametrize("arguments", [{"rate": 13.7}, {"codec": "ZZZZ"}])
def test_what_the_encoder_refuses_says_so(tmp_path, arguments):
    with pytest.raises(codec.VideoError, match="encoder can write"):
        codec.write(tmp_path / "a.mpg", [samples.numbered(0)], **{"rate": 25.0, **arguments})
    with pytest.raises(codec.VideoError, match="at least one frame"):
        codec.write(tmp_path / "a.mpg", [], 25.0)


@contextlib.contextmanager
def limit(size):
    """Let no file grow beyond ``size`` bytes: a full disk, for whoever may not mount one."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


@pytest.mark.parametrize(("suffix", "name"), [(".mpg", "PIM1"), (".avi", "MJPG"), (".mp4", "mp4v")])
def test_a_full_disk_is_an_error_and_never_a_shorter_video(tmp_path, suffix, name):
    """Also where what fits ends between two packets and at the end of a page, as on a small tmpfs."""
    whole = samples.video(tmp_path / f"whole{suffix}", 40, codec_name=name).read_bytes()
    file = tmp_path / "out" / f"a{suffix}"
    pages = list(range(0, len(whole), 4096))
    for size in {0, 1, 100, *pages[:: max(1, len(pages) // 12)], pages[-1], len(whole) - 2048, len(whole) - 1}:
        with limit(size), pytest.raises(OSError, match=r"expected room for the video .*a\..*free some space"):
            samples.video(file, 40, codec_name=name)
        assert not list(file.parent.iterdir()), size
    with limit(len(whole)):
        samples.video(file, 40, codec_name=name)
    assert file.read_bytes() == whole
    with limit(4096), pytest.raises(OSError, match="expected room"):
        samples.video(file, 60, codec_name=name)
    assert file.read_bytes() == whole, "what was there stays"


def test_frames_larger_than_a_pipe_are_written(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
    assert codec.write(tmp_path / "a.mpg", [noise] * 3, 25.0) == 3
    assert (tmp_path / "a.mpg").stat().st_size > 1 << 18
    assert len(codec.scan(tmp_path / "a.mpg")) == 3


def test_other_containers_are_refused(tmp_path):
    with pytest.raises(codec.VideoError, match=r"expected a video named \.mpg"):
        samples.video(tmp_path / "a.mkv", 3)


def test_frames_that_fail_leave_no_file_and_no_thread(tmp_path):
    def failing():
        yield samples.numbered(0)
        raise RuntimeError("no more")

    for suffix, name in ((".mpg", "PIM1"), (".mp4", "mp4v")):
        before = threading.active_count()
        with pytest.raises(RuntimeError, match="no more"):
            codec.write(tmp_path / f"a{suffix}", failing(), 25.0, codec=name)
        assert threading.active_count() == before
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return samples.video(tmp_path_factory.mktemp("stream") / "a.mpg", 30)


def test_a_whole_stream_ends_between_packets(stream):
    assert not codec.ends_inside_packet(stream)


@given(share=st.floats(0.02, 0.99))
def test_a_cut_stream_ends_inside_a_packet(stream, share):
    data = stream.read_bytes()
    kept = int(len(data) * share)
    cut = stream.with_name("cut.mpg")
    cut.write_bytes(data[:kept])
    assert codec.ends_inside_packet(cut) == (kept % 2048 != 0)  # the encoder's packs have 2,048 bytes


@given(data=st.binary(min_size=1, max_size=300))
def test_any_bytes_can_be_asked_for_their_end(stream, data):
    other = stream.with_name(hashlib.sha256(data).hexdigest()[:12])
    for content in (data, b"\0\0\1\xba" + data, b"\0\0\1\xe0" + data):
        other.write_bytes(content)
        assert codec.ends_inside_packet(other) in (True, False)
    other.unlink()
