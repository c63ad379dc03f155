"""Videos per second of one core, sampled at 1.4 frames per second: ours, other decoders, and FFmpeg alone.

Ours finds out which frames are needed and whether the whole video decodes; the peers are handed the numbers of the
frames. All then resize and encode them as the stage ``frames`` does. The floor is FFmpeg decoding the same file on one
thread into nothing. Times are of the processor [s], the least of some rounds, so that other work counts little, and of
one core: FFmpeg's threads, which hand frames to each other even where one decodes, cost more on two.
"""

import importlib.util
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.common import jobs
from pipeline.video.acquire import synthetic
from pipeline.video.frames import codec, frames
from pipeline.video.frames.sampling import choose, timeline
from tools.bench.rows import Row, least

RATE, QUALITY = 1.4, 95  # samples per second; JPEG
WRITTEN = {".mpg": ("MPEG-1", "PIM1"), ".avi": ("MJPEG", "MJPG"), ".mp4": ("MPEG-4", "mp4v")}
DRAWN = ("biking", "walking")
REAL = 2  # at most, of each container
ROUNDS = 2
SAME = 2.0  # mean difference of two pictures of one frame, by other arithmetic of colours [grey levels]

Shown = tuple[list[codec.Image], list[float]]
"""Pictures, and the container's times of them [s]."""


class OtherFramesError(ValueError):
    """Frames that are not those asked for; the message says how far off they are."""


class Clip(NamedTuple):
    """A video, and what ours takes from it."""

    file: Path
    numbers: list[int]
    times: list[float]  # from the first frame on [s]
    half: float  # half of the time that a frame is shown [s]
    pictures: list[codec.Image]

    def job(self) -> frames.VideoJob:
        """Return what the stage is asked for."""
        return frames.VideoJob(self.file, "", RATE, QUALITY)


def by_pyav(clip: Clip, whole: bool = False) -> Shown:
    """Decode up to the last frame that is needed, or the whole video, and convert those that are needed."""
    wanted, shown, times = set(clip.numbers), list[codec.Image](), list[float]()
    with import_module("av").open(str(clip.file)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            times.append(frame.time)
            if number in wanted:
                shown.append(frame.to_ndarray(format="rgb24"))
            if number == clip.numbers[-1] and not whole:
                break
    return shown, [times[number] - times[0] for number in clip.numbers]


def _by_torchcodec(clip: Clip, seek_mode: str) -> Shown:
    decoders = import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(str(clip.file), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    batch = decoder.get_frames_at(clip.numbers)
    return list(batch.data.numpy()), (batch.pts_seconds - (decoder.metadata.begin_stream_seconds or 0)).tolist()


def by_torchcodec(clip: Clip) -> Shown:
    """Count the frames without decoding them, then seek."""
    return _by_torchcodec(clip, "exact")


def by_torchcodec_approximate(clip: Clip) -> Shown:
    """Seek by the frame rate that the container states."""
    return _by_torchcodec(clip, "approximate")


def by_decord(clip: Clip) -> Shown:
    """Seek to the key frame before each frame that is needed."""
    reader = import_module("decord").VideoReader(str(clip.file), num_threads=1)
    times = reader.get_frame_timestamp(clip.numbers)[:, 0]
    return list(reader.get_batch(clip.numbers).asnumpy()), (times - reader.get_frame_timestamp(0)[0]).tolist()


def by_opencv(clip: Clip) -> Shown:
    """Seek with the library that ours decodes with."""
    cv2 = import_module("cv2")
    capture, shown, times = codec._open(clip.file), list[codec.Image](), list[float]()
    for number in clip.numbers:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        done, frame = capture.read()
        if not done:
            raise OtherFramesError(f"gives other frames: none for frame {number}")
        shown.append(codec._rgb(frame))
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return shown, [time - times[0] for time in times]  # the first frame of a video is always needed


ENDS, SEEKS = "decodes up to the last frame needed", "decodes from the key frame before each frame needed"
PEERS: dict[str, tuple[str, str, Callable[[Clip], Shown]]] = {
    "PyAV": ("av", ENDS, by_pyav),
    "PyAV, all frames": ("av", "decodes the whole video", partial(by_pyav, whole=True)),
    "torchcodec exact": ("torchcodec", SEEKS, by_torchcodec),
    "torchcodec approximate": ("torchcodec", SEEKS, by_torchcodec_approximate),
    "decord": ("decord", SEEKS, by_decord),
    "OpenCV, seeking": ("cv2", "decodes 16 frames or more before each frame needed", by_opencv),
}
"""Which package a peer needs, what it leaves out (ours decodes all, for the manifest counts what decodes), the peer."""


def rows() -> Iterator[Row]:
    """Yield a row for each kind of clip and each peer that is installed."""
    with tempfile.TemporaryDirectory(prefix="nem-bench-") as folder:
        kinds = _drawn(Path(folder)) | _real()
        libraries = Path(folder) / "libraries"
        _link_ffmpeg(libraries)
        before = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (before, str(libraries))))
        try:  # the linker reads it when a process starts
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _on_one_core) as pool:
                for kind, files in kinds.items():
                    yield from pool.submit(measure, kind, files).result()
        finally:
            os.environ.pop("LD_LIBRARY_PATH") if before is None else os.environ.update(LD_LIBRARY_PATH=before)


def _on_one_core() -> None:
    """Keep this process and its children to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _drawn(folder: Path) -> dict[str, list[Path]]:
    """Write the same clips in each container and codec."""
    kinds: dict[str, list[Path]] = {f"drawn {name} {suffix}": [] for suffix, (name, _) in WRITTEN.items()}
    for sport in DRAWN:
        clip, look = synthetic.Clip(1, sport, 1, 1), synthetic.Look(1, sport, 1)
        pictures = list(synthetic.frames(clip, look))
        for files, (suffix, (_, code)) in zip(kinds.values(), WRITTEN.items(), strict=True):
            files.append(folder / f"{sport}{suffix}")
            files[-1].write_bytes(codec.encode_video(pictures, look.rate, suffix, code))
    return kinds


def _real() -> dict[str, list[Path]]:
    """Find the real clips of the mirror, if there is one that has some."""
    kinds: dict[str, list[Path]] = {}
    if mirror := os.environ.get("NEM_MIRROR"):
        found = [file for name in ("clips", "ucf11") for file in (Path(mirror) / name).rglob("*")]
        for file in sorted(file for file in found if file.suffix in (*WRITTEN, ".gif")):
            kinds.setdefault(f"real {file.suffix}", []).append(file)
    return {kind: files[:REAL] for kind, files in kinds.items()}


def _link_ffmpeg(folder: Path) -> None:
    """Show torchcodec, whose wheel has no FFmpeg, the one in PyAV's wheel under the names that it looks for."""
    folder.mkdir()
    spec = importlib.util.find_spec("av")
    if spec and spec.origin:
        for file in (Path(spec.origin).parents[1] / "av.libs").glob("*.so*"):
            plain = re.sub(r"-[0-9a-f]{8}(\.so\.\d+).*", r"\1", file.name)
            for name in {file.name, plain}:
                (folder / name).symlink_to(file)


def measure(kind: str, files: list[Path]) -> list[Row]:
    """Return the rows of a kind of clip, in a process whose linker finds FFmpeg."""
    with jobs.one_thread():
        clips = [_sampled(file) for file in files]
        ours = len(clips) / sum(least(partial(frames._extract, clip.job()), ROUNDS) for clip in clips)
        floor, missing = _floor(files)
        found = []
        for name, (package, what, read) in PEERS.items():
            if importlib.util.find_spec(package):
                peer: float | None = None
                try:
                    note = f"peer {what}, {_compared(clips, read)}"
                    peer = len(clips) / sum(least(partial(_frames_of, read, clip), ROUNDS) for clip in clips)
                except Exception as error:  # each has kinds of its own
                    note = f"peer {error if isinstance(error, OtherFramesError) else f'fails: {type(error).__name__}'}"
                found.append(Row("frames", f"{kind}, {name}", ours, "videos/s", peer, floor, note + missing))
        return found or [Row("frames", kind, ours, "videos/s", None, floor, f"no peer is installed{missing}")]


def _sampled(file: Path) -> Clip:
    times = timeline(codec.scan(file))
    numbers = choose(times, RATE)[0].tolist()
    pictures = list(codec.pick(file, numbers))
    return Clip(file, numbers, times.times[numbers].tolist(), 0.5 / times.rate, pictures)


def _frames_of(read: Callable[[Clip], Shown], clip: Clip) -> list[bytes]:
    """Do with a peer's pictures what the stage does with its own."""
    return [
        codec.encode(codec.resize(np.ascontiguousarray(picture), frames.SIZE), QUALITY) for picture in read(clip)[0]
    ]


def _compared(clips: list[Clip], read: Callable[[Clip], Shown]) -> str:
    """Say that a peer's frames are ours; an ``OtherFramesError`` if they are not."""
    apart, late = 0.0, 0.0
    for clip in clips:
        pictures, times = read(clip)
        differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, clip.pictures, strict=True)]
        apart = max(apart, *differences)
        late = max(late, *np.abs(np.subtract(times, clip.times) / clip.half).tolist())
    if late >= 1 or apart >= SAME:
        raise OtherFramesError(f"gives other frames: off by up to {late / 2:.2g} in time, {apart:.2g} of 255 in pixels")
    return f"gives the same frames: equal times, pixels within {apart:.2g} of 255"


def _floor(files: list[Path]) -> tuple[float | None, str]:
    """Return how many videos FFmpeg decodes in a second of a core, its start left out; or why that is not known."""
    program = shutil.which("ffmpeg")
    if program is None and importlib.util.find_spec("imageio_ffmpeg"):
        program = import_module("imageio_ffmpeg").get_ffmpeg_exe()
    if program is None:
        return None, "; no floor: no ffmpeg on the PATH, and imageio-ffmpeg is not installed"
    start = _child([program, "-version"])
    quiet = [program, "-v", "error", "-nostdin", "-threads", "1"]
    total = sum(_child([*quiet, "-i", str(file), "-map", "0:v:0", "-f", "null", "-"]) - start for file in files)
    return len(files) / total, ""


def _child(command: list[str]) -> float:
    """Return the least processor time of a program [s]."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(ROUNDS):
        before = spent()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(spent() - before)
    return min(times)
