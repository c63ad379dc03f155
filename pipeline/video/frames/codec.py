"""Everything that OpenCV does for this project: decode, encode, resize, draw. No other module imports cv2.

OpenCV reads videos with its bundled FFmpeg. What its properties say is not what a file holds: the frame count is an
estimate, seeking lands elsewhere, and the last frame may report time 0. So a video is read from its beginning, frame
by frame, and only what was decoded is believed.
"""

import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Read when the library loads: FFmpeg stays quiet about files that this module reports on itself, and a playlist that
# calls itself a video cannot make it open the network.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2

cv2.setNumThreads(1)  # work is split by process; a second layer of threads only gets in the way

Image = npt.NDArray[np.uint8]
"""``(height, width, 3)``, red-green-blue."""
Points = Sequence[tuple[float, float]]
"""Pairs of x and y in pixels, from the left and from the top."""
Colour = tuple[int, ...]

VERSION = str(cv2.__version__)
MAX_PIXELS = 1 << 26  # larger frames (8192 x 8192) are refused: a few forged bytes in a header can ask for any size
LOSSLESS = 101  # the quality that stands for PNG
CONTAINERS = (".mpg", ".mpeg", ".avi", ".mp4")  # what encode_video makes
_SHIFT = 4  # bits of a pixel's parts, where something is drawn


class VideoError(ValueError):
    """A file that is no readable video; the message says why."""


@dataclass(frozen=True)
class Scan:
    """What decoding a whole video showed."""

    codec: str  # four characters, such as mpg1
    width: int
    height: int
    nominal_rate: float  # frames per second that the container claims; 0 when it claims none
    declared: int  # frames that the container counts; 0 when it only estimates them, or hides some by an edit list
    times: npt.NDArray[np.float64]  # (N,) the container's time of each decoded frame [s]

    def __len__(self) -> int:
        """Number of decoded frames."""
        return len(self.times)


def _open(source: Path, *, packets: bool = False) -> cv2.VideoCapture:
    """Open a video, to decode it or to read its packets as they are."""
    if not source.is_file():
        raise FileNotFoundError(f"expected a video at {source}, found no such file")
    if not source.stat().st_size:
        raise VideoError("expected a video, found an empty file")
    options = [cv2.CAP_PROP_N_THREADS, 1, *([cv2.CAP_PROP_FORMAT, -1] if packets else [])]
    # FFmpeg by name: left to choose, OpenCV takes digits in a file name for a numbered sequence of pictures.
    capture = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, options)
    if not capture.isOpened():
        raise VideoError("expected a video stream, found none that the decoder knows (damaged, or not a video)")
    return capture


def _number(capture: cv2.VideoCapture, name: int) -> float:
    """A property of the video; 0 where it makes no sense."""
    value = float(capture.get(name))
    return value if np.isfinite(value) and 0 < value < 1e9 else 0.0


def scan(source: Path, wants: Callable[[Sequence[float], float], bool] | None = None,
         take: Callable[[int, Image], object] | None = None) -> Scan:  # fmt: skip
    """Decode a video from beginning to end and return what it holds; a ``VideoError`` if that is no frame.

    On the way ``take`` gets the 0-based number and the picture of each frame that ``wants`` asks for, given the times
    up to it and the nominal rate: which ones are needed is known at the end, but a good guess saves a second decoding.
    """
    capture = _open(source)
    width, height = (int(_number(capture, p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if not 0 < width * height <= MAX_PIXELS:
        raise VideoError(f"expected frames of 1 to {MAX_PIXELS} pixels, found {width} x {height}")
    code = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little")
    name, times = "".join(chr(byte) for byte in code if 32 < byte < 127), list[float]()
    rate = _number(capture, cv2.CAP_PROP_FPS)
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if wants and take and wants(times, rate):
            done, frame = capture.retrieve()
            if done:  # else :func:`pick` says so, if the frame is needed
                take(len(times) - 1, _rgb(frame))
    if not times and _packets(source):
        raise VideoError(
            f"expected a codec that OpenCV {VERSION} can decode, found {name}; re-encode the video: "
            f"ffmpeg -i {source.name} -c:v libx264 -crf 18 {source.stem}_h264.mp4"
        )
    if not times:
        raise VideoError("expected at least one frame, found none that decodes")
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # AVI counts the frames that are shown, and so do MP4 and MOV without an edit list.
        counts = data[8:12] == b"AVI " or (data[4:8] in _BOXES and data.find(b"elst") < 0)
    declared = int(_number(capture, cv2.CAP_PROP_FRAME_COUNT)) if counts else 0
    return Scan(name, width, height, rate, declared, np.array(times))


def _packets(source: Path) -> int:
    """How many packets of pictures there are, whether they decode or not; none in what is no video."""
    count = 0
    with suppress(VideoError):
        capture = _open(source, packets=True)
        while capture.grab():
            count += 1
    return count


def cut_off(source: Path) -> bool:
    """Return whether a file stops before its last part (packet, box, segment, tag) is complete.

    Decoding shows nothing amiss in a cut-off stream that states no number of frames. Understood are MPEG program
    streams, MP4 and MOV, Matroska and WebM; other files give ``False``.
    """
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        while at < len(data) and (length := _part(data, at)):
            at += length
        return at > len(data)


def _part(data: mmap.mmap, at: int) -> int:
    """The length of the container's part that starts at ``at``; 0 where that is unknown, or no such part is there."""

    def number(start: int, count: int) -> int:
        return int.from_bytes(data[at + start : at + start + count], "big")

    if data[:4] == _EBML[0]:  # Matroska's header and segment: leading zeros say how many bytes the length has
        count = 9 - number(4, 1).bit_length()
        length, most = number(4, count) & ((1 << 7 * count) - 1), (1 << 7 * count) - 1
        return 4 + count + length if data[at : at + 4] in _EBML and count < 9 and length < most else 0
    if data[4:8] in _BOXES:  # outermost boxes of MP4 or MOV
        length = (number(8, 8) if number(0, 4) == 1 else number(0, 4)) or len(data) - at
        return length if data[at + 4 : at + 8] in _BOXES else 0
    if not b"\0\0\1\xba" <= data[at : at + 4] <= b"\0\0\1\xff":  # an MPEG program stream; a bare stream has no parts
        return 0
    if data[at + 3] == 0xBA:  # pack header: 12 bytes in MPEG-1, 14 and stuffing in MPEG-2
        return 14 + (number(13, 1) & 7) if number(4, 1) >> 6 == 1 and at + 14 <= len(data) else 12
    return 6 + number(4, 2)


_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx", b"uuid", b"mfra", b"pnot")
_EBML = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67")


def pick(source: Path, indices: Iterable[int]) -> Iterator[Image]:
    """Yield frames by their 0-based numbers, which ascend; a ``VideoError`` if the video ends before the last."""
    capture, number = _open(source), -1
    for index in indices:
        while number < index:
            if not capture.grab():
                raise VideoError(f"expected frame {index}, found the end after {number + 1} frames")
            number += 1
        done, frame = capture.retrieve()
        if not done:
            raise VideoError(f"expected frame {index} to decode, found damage")
        yield _rgb(frame)


def _rgb(frame: npt.NDArray[Any]) -> Image:
    """Turn OpenCV's order of colours into ours."""
    kind = cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(frame, kind), np.uint8)


def encode_video(frames: Iterable[Image], rate: float, suffix: str = ".mpg", codec: str = "PIM1") -> bytes:
    """Return the content of a video's file; equal frames give equal bytes.

    ``rate`` is in frames per second (MPEG-1 knows 23.976, 24, 25, 29.97, 30, 50, 59.94 and 60), ``suffix`` one of
    :data:`CONTAINERS`, ``codec`` ``PIM1`` (MPEG-1), ``MJPG`` or ``mp4v``. What the encoder refuses is a ``VideoError``,
    no room for a temporary file an ``OSError``: FFmpeg, as OpenCV drives it, tells nobody that a write failed, so what
    was written is read again. All frames must be there, and room for one more byte.
    """
    if suffix not in CONTAINERS:
        raise VideoError(f"expected a video named {', '.join(CONTAINERS)}, found {suffix}")
    rest, count = iter(frames), 0
    first = next(rest)
    size = (first.shape[1], first.shape[0])
    with tempfile.TemporaryDirectory(prefix="nem-video-") as folder:
        file = Path(folder) / f"video{suffix}"
        with _without_stderr():
            writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, size)
        if not writer.isOpened():
            _check_room(file, 1 << 16)  # more than any header: the encoder does not say why it refuses
            raise VideoError(
                f"expected a video that the encoder can write, found codec {codec}, {rate:g} frames per second, "
                f"{size[0]} x {size[1]}, container {suffix}"
            )
        for count, frame in enumerate(chain([first], rest), 1):  # noqa: B007 - counted to the last
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        _check_room(file)
        if (on_disk := _packets(file)) != count:
            raise OSError(f"expected {count} frames in {file}, found {on_disk}: the disk may be full; free some space")
        return file.read_bytes()


def _check_room(file: Path, room: int = 1) -> None:
    """Let a file grow by some bytes and shrink again: an index that was cut off may lack no frame."""
    try:
        with file.open("ab") as end:
            end.write(bytes(room))
    except OSError as error:
        raise OSError(f"expected room for {file}, found: {error}; free some space and run again") from error
    os.truncate(file, file.stat().st_size - room)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Mute what the library prints: for MPEG-1 a complaint about a tag that the format has no room for anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def resize(image: Image, size: int) -> Image:
    """Return the picture stretched to ``size`` x ``size``: averaged where it shrinks both ways, else bilinear."""
    kind = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=kind), np.uint8)


def encode(image: Image, quality: int) -> bytes:
    """Return the picture as JPEG of quality 1-100, or as PNG for :data:`LOSSLESS`."""
    suffix, options = (".png", []) if quality == LOSSLESS else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def decode(data: bytes) -> Image:
    """Return the picture that :func:`encode` stored; a ``ValueError`` for what is none."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError(f"expected an encoded picture, found {len(data)} bytes that are none")
    return _rgb(image)


def draw(image: Image, points: Points, colour: Colour, thickness: float = 0.0, radius: float = 0.0) -> None:
    """Draw in place, with smooth edges, a filled polygon, segments of a thickness, or a disc around the first point.

    A disc with a thickness is its outline. All is in pixels.
    """
    fixed = np.array([(round(x * (1 << _SHIFT)), round(y * (1 << _SHIFT))) for x, y in points], np.int32)
    width = max(1, round(thickness))
    if radius:
        size = max(1, round(radius * (1 << _SHIFT)))
        cv2.circle(image, fixed[0].tolist(), size, colour, width if thickness else cv2.FILLED, cv2.LINE_AA, _SHIFT)
    elif thickness:
        cv2.polylines(image, [fixed], False, colour, width, cv2.LINE_AA, _SHIFT)
    else:
        cv2.fillPoly(image, [fixed], colour, cv2.LINE_AA, _SHIFT)


def text(image: Image, words: str, corner: tuple[int, int], colour: Colour, scale: float) -> None:
    """Write words in place, their lower left corner at ``corner``."""
    cv2.putText(image, words, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def blur(image: npt.NDArray[np.float32], deviation: float) -> npt.NDArray[np.float32]:
    """Return a float32 picture smoothed by a Gaussian of ``deviation`` pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), deviation, borderType=cv2.BORDER_REFLECT_101), np.float32)


def enlarge(image: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Return a float32 picture scaled up smoothly."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
