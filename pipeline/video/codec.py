"""Everything that OpenCV does for this project: decode, encode, resize, draw. No other module imports cv2.

OpenCV reads videos with its bundled FFmpeg. What its properties say is not what a file holds: the frame count is an
estimate, seeking lands elsewhere, and the last frame may report time 0. So a video is read from its beginning, frame
by frame, and only what was decoded is believed.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import records

# Read when the library loads: FFmpeg stays quiet about files that this module reports on itself, and a playlist that
# calls itself a video cannot make it open the network.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2

cv2.setNumThreads(1)  # work is split by process; a second layer of threads only gets in the way

Image = npt.NDArray[np.uint8]
"""``(height, width, 3)``, red-green-blue."""
Points = npt.NDArray[np.float64]
"""``(N, 2)`` x and y in pixels, from the left and from the top."""

VERSION = str(cv2.__version__)
MAX_PIXELS = 1 << 26
"""Frames larger than this (8192 x 8192) are refused: a few forged bytes in a header can ask for any size."""
LOSSLESS = 101
"""The quality that stands for PNG."""
_SHIFT = 4
_SUBPIXELS = 1 << _SHIFT


class VideoError(ValueError):
    """A file that is no readable video; the message says why."""


@dataclass(frozen=True)
class Scan:
    """What decoding a whole video showed.

    Attributes:
        codec: four-character code, such as ``mpg1``.
        width: pixels.
        height: pixels.
        nominal_rate: frames per second that the container claims; 0 when it claims none.
        declared: frames that the container claims, an estimate for MPEG; 0 when it claims none.
        times: ``(N,)`` the container's time of each decoded frame [s].
    """

    codec: str
    width: int
    height: int
    nominal_rate: float
    declared: int
    times: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of frames that decode."""
        return len(self.times)


def _open(source: Path) -> cv2.VideoCapture:
    if not source.is_file():
        raise FileNotFoundError(f"expected a video at {source}, found no such file")
    if not source.stat().st_size:
        raise VideoError("expected a video, found an empty file")
    # FFmpeg by name: left to choose, OpenCV takes digits in a file name for a numbered sequence of pictures.
    capture = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError("expected a video stream, found none that the decoder knows (damaged, or not a video)")
    return capture


def _number(capture: cv2.VideoCapture, name: int) -> float:
    value = float(capture.get(name))
    return value if np.isfinite(value) and 0 < value < 1e9 else 0.0


def scan(source: Path) -> Scan:
    """Decode a video from beginning to end and return what it holds.

    Raises:
        FileNotFoundError: no such file.
        VideoError: the file is empty, holds no video stream, or not one frame of it decodes.
    """
    capture = _open(source)
    try:
        width, height = (int(_number(capture, p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not 0 < width * height <= MAX_PIXELS:
            raise VideoError(f"expected frames of 1 to {MAX_PIXELS} pixels, found {width} x {height}")
        code = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little")
        times = []
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if not times:
            raise VideoError("expected at least one frame, found none that decodes")
        return Scan(
            "".join(chr(byte) for byte in code if 32 < byte < 127),
            width,
            height,
            _number(capture, cv2.CAP_PROP_FPS),
            int(_number(capture, cv2.CAP_PROP_FRAME_COUNT)),
            np.array(times),
        )
    finally:
        capture.release()


def ends_inside_packet(source: Path) -> bool:
    """Return whether an MPEG program stream stops before its last packet is complete: the mark of a cut-off file.

    Such a stream states no length, so decoding it shows nothing amiss. Other formats give ``False``.
    """
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, size = 0, len(data)
        while at + 4 <= size and data[at : at + 3] == b"\0\0\1":
            kind = data[at + 3]
            if kind == 0xB9:  # end of the program
                return False
            if kind == 0xBA:  # pack header: 12 bytes in MPEG-1, 14 and stuffing in MPEG-2
                second = at + 14 <= size and data[at + 4] >> 6 == 1
                at += 14 + (data[at + 13] & 7) if second else 12
            elif kind > 0xB9:
                if at + 6 > size:
                    return True
                at += 6 + int.from_bytes(data[at + 4 : at + 6], "big")
            else:  # a bare video stream, which has no packets
                return False
        return at > size


def pick(source: Path, indices: Sequence[int]) -> Iterator[Image]:
    """Yield chosen frames; all frames up to the last of them are decoded, only those asked for are converted.

    Args:
        source: the video.
        indices: 0-based numbers of frames, ascending.

    Raises:
        FileNotFoundError: no such file.
        VideoError: the file is no video, or ends before the last frame asked for.
    """
    capture = _open(source)
    try:
        number = -1
        for index in indices:
            while number < index:
                if not capture.grab():
                    raise VideoError(f"expected frame {index}, found the end after {number + 1} frames")
                number += 1
            done, frame = capture.retrieve()
            if not done:
                raise VideoError(f"expected frame {index} to decode, found damage")
            yield _rgb(frame)
    finally:
        capture.release()


def read(source: Path) -> Iterator[Image]:
    """Yield every frame of a video.

    Raises:
        FileNotFoundError: no such file.
        VideoError: the file is no video.
    """
    capture = _open(source)
    try:
        while True:
            done, frame = capture.read()
            if not done:
                return
            yield _rgb(frame)
    finally:
        capture.release()


def _rgb(frame: npt.NDArray[Any]) -> Image:
    kind = cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(frame, kind), np.uint8)


def write(destination: Path, frames: Iterable[Image], rate: float, *, codec: str = "PIM1") -> int:
    """Write a whole video or none, and return its number of frames; equal frames give equal bytes.

    FFmpeg, as OpenCV drives it, tells nobody that a write failed: a full disk would leave a shorter video. An MPEG
    stream, which states no length, is therefore written by this process, from a pipe that FFmpeg writes into; the
    other containers need to seek, but state their length, and that is checked.

    Args:
        destination: the file; its suffix chooses the container (``.mpg``, ``.avi``, ``.mp4``).
        frames: pictures of one size.
        rate: frames per second; MPEG-1 knows 23.976, 24, 25, 29.97, 30, 50, 59.94 and 60.
        codec: four-character code: ``PIM1`` (MPEG-1), ``MJPG``, ``mp4v``.

    Raises:
        VideoError: the encoder refuses codec, container, rate or size, or there are no frames.
        OSError: the disk is full or read-only; nothing is at ``destination`` that was not there before.
    """
    suffix = destination.suffix.lower()
    if suffix not in (*_STREAMS, *_CONTAINERS):
        raise VideoError(f"expected a video named {', '.join((*_STREAMS, *_CONTAINERS))}, found {destination.name}")
    encoder = _Encoder(rate, codec)
    with records.atomic_path(destination) as temporary, tempfile.TemporaryDirectory(prefix="nem-video-") as folder:
        target = Path(folder) / f"video{suffix}"
        if suffix in _STREAMS:
            with _Piped(target, temporary) as pipe, encoder:
                for frame in frames:
                    encoder.add(frame, target)
                    if pipe.failure is not None:
                        break
            failure: OSError | str | None = pipe.failure
        else:
            failure = _try(temporary)
            if failure is None:
                target.symlink_to(temporary.absolute())
                with encoder:
                    for frame in frames:
                        encoder.add(frame, target)
                if encoder.count and not _CONTAINERS[suffix](temporary):
                    failure = f"room for {temporary.stat().st_size} bytes, which lack the end of the video"
        if failure is not None:
            raise OSError(
                f"expected room for the video {destination}, found: {failure}; free some space and run again"
            ) from (failure if isinstance(failure, OSError) else None)
        if not encoder.count:
            raise VideoError("expected at least one frame to write, found none")
    return encoder.count


class _Encoder:
    """OpenCV's writer, opened with the first frame; leaving the block writes the end of the video."""

    def __init__(self, rate: float, codec: str) -> None:
        self.rate, self.codec = rate, codec
        self.writer: cv2.VideoWriter | None = None
        self.count = 0

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.release()

    def add(self, frame: Image, target: Path) -> None:
        if self.writer is None:
            height, width = frame.shape[:2]
            code = cv2.VideoWriter.fourcc(*self.codec)
            with _without_stderr():
                writer = cv2.VideoWriter(str(target), cv2.CAP_FFMPEG, code, self.rate, (width, height))
            if not writer.isOpened():
                raise VideoError(
                    f"expected a video that the encoder can write, found codec {self.codec}, {self.rate:g} frames per "
                    f"second, {width} x {height}, container {target.suffix}"
                )
            self.writer = writer
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1


class _Piped:
    """A named pipe whose bytes a thread writes to a file.

    Attributes:
        failure: what went wrong with the file, ``None`` so far.
    """

    def __init__(self, pipe: Path, file: Path) -> None:
        self.file = file
        self.failure: OSError | None = None
        os.mkfifo(pipe)
        # Not waiting for a writer, which would wait for a reader; and with an end of our own, since a pipe without any
        # writer looks ended.
        self.source = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.own_end = os.open(pipe, os.O_WRONLY)
        os.set_blocking(self.source, True)
        self.thread = threading.Thread(target=self._copy, daemon=True)
        self.thread.start()

    def __enter__(self) -> _Piped:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.own_end)
        self.thread.join()
        os.close(self.source)

    def _copy(self) -> None:
        try:
            with self.file.open("wb") as file:
                while block := os.read(self.source, _BLOCK):
                    file.write(block)
        except OSError as error:
            self.failure = error
            while os.read(self.source, _BLOCK):  # a writer that nobody reads from would wait for ever
                pass


def _try(file: Path) -> OSError | None:
    """Return why a little cannot be written, if so: the encoder gives no reason when it fails to begin."""
    try:
        file.write_bytes(bytes(4096))
    except OSError as error:
        return error
    return None


def _whole_mp4(source: Path) -> bool:
    """Whether the boxes of an MP4 file fill it and its index, which is written last, is there."""
    with source.open("rb") as file:
        size, at, kinds = source.stat().st_size, 0, set()
        while at + 8 <= size:
            file.seek(at)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            if length < 8:  # the length of the pictures is 0 until all of them are written
                return False
            kinds.add(kind)
            at += length
    return at == size and b"moov" in kinds


def _whole_avi(source: Path) -> bool:
    """Whether the RIFF chunks of an AVI file, whose lengths are written last, fill it."""
    with source.open("rb") as file:
        size, at = source.stat().st_size, 0
        while at + 8 <= size:
            file.seek(at)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind != b"RIFF" or not length:
                return False
            at += 8 + length
    return 0 < at == size


_BLOCK = 1 << 16
_STREAMS = (".mpg", ".mpeg")
_CONTAINERS = {".mp4": _whole_mp4, ".avi": _whole_avi}


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Mute what the library prints: for MPEG-1 a complaint about a tag that the format has no room for anyway."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def resize(image: Image, size: int) -> Image:
    """Return the picture stretched to ``size`` x ``size``: averaged where it shrinks both ways, else bilinear."""
    shrinks = min(image.shape[:2]) > size
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=kind), np.uint8)


def encode(image: Image, quality: int) -> bytes:
    """Return the picture as JPEG of quality 1-100, or as PNG for :data:`LOSSLESS`.

    Raises:
        ValueError: another quality.
    """
    if not 1 <= quality <= LOSSLESS:
        raise ValueError(f"expected a quality of 1 to 100, or {LOSSLESS} for lossless, found {quality}")
    suffix, options = (".png", []) if quality == LOSSLESS else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"expected a picture that can be stored, found one of shape {image.shape}")
    return bytes(data.tobytes())


def decode(data: bytes) -> Image:
    """Return the picture that :func:`encode` stored.

    Raises:
        ValueError: no picture.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError(f"expected an encoded picture, found {len(data)} bytes that are none")
    return _rgb(image)


def polygon(image: Image, points: Points, colour: tuple[int, int, int]) -> None:
    """Fill a polygon in place, with smooth edges."""
    cv2.fillPoly(image, [np.round(points * _SUBPIXELS).astype(np.int32)], colour, cv2.LINE_AA, _SHIFT)


def line(image: Image, points: Points, colour: tuple[int, int, int], thickness: float) -> None:
    """Draw a line of round-ended segments in place."""
    path = np.round(points * _SUBPIXELS).astype(np.int32)
    cv2.polylines(image, [path], False, colour, max(1, round(thickness)), cv2.LINE_AA, _SHIFT)


def disc(image: Image, centre: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
    """Fill a disc in place, with smooth edges."""
    x, y = (round(value * _SUBPIXELS) for value in centre)
    cv2.circle(image, (x, y), max(1, round(radius * _SUBPIXELS)), colour, -1, cv2.LINE_AA, _SHIFT)


def ring(image: Image, centre: tuple[float, float], radius: float, colour: tuple[int, int, int], width: float) -> None:
    """Draw a circle in place."""
    x, y = (round(value * _SUBPIXELS) for value in centre)
    cv2.circle(image, (x, y), max(1, round(radius * _SUBPIXELS)), colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def text(image: Image, words: str, corner: tuple[int, int], colour: tuple[int, int, int], scale: float) -> None:
    """Write words in place, their lower left corner at ``corner``."""
    cv2.putText(image, words, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def blur(image: npt.NDArray[np.float32], deviation: float) -> npt.NDArray[np.float32]:
    """Return a float32 picture smoothed by a Gaussian of ``deviation`` pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), deviation, borderType=cv2.BORDER_REFLECT_101), np.float32)


def enlarge(image: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Return a float32 picture scaled up smoothly."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
