"""Sampling frames: 1.4 per second as in the paper, found by decoding, one manifest row for every video.

Sample j of a video stands at j / (phases · rate) seconds; the frame nearest in time is taken. Time is frame number over
frame rate where the container's clock runs evenly, and the container's clock where it does not (variable rate, or a
wrong rate in the header). The last frame lasts as long as the others.

Each distinct frame is resized, encoded once and stored in one parquet file per video, and ``samples`` says how many
consecutive samples show it. Work is resumable: a video's result is kept outside the outputs under a key made of its
content and the settings, with its own SHA-256 beside it, and all results move into place together at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import records
from pipeline.params import VideoFrames
from pipeline.training import executor
from pipeline.video import codec, inception
from pipeline.video.layout import Video

Status = Literal["ok", "short", "corrupt", "unreadable"]
_FORMAT = 1
"""Raised when the content of a stored result changes its meaning, so that older ones are not taken for new."""
_MISSING = 0.1
"""Share of the declared frames that may fail to decode; counts in MPEG files are estimates and some are off by 2 %."""

FRAME_SCHEMA = pa.schema(
    [("frame_index", pa.int32()), ("timestamp_s", pa.float64()), ("samples", pa.int32()), ("image", pa.binary())]
)
MANIFEST_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("class", pa.string()),
        ("group", pa.string()),
        ("sha256", pa.string()),
        ("codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("clock", pa.string()),
        ("duration_s", pa.float64()),
        ("frames_decoded", pa.int32()),
        ("frames_wanted", pa.int32()),
        ("frames_stored", pa.int32()),
        ("frames_padded", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""``frames_wanted`` counts samples, ``frames_stored`` distinct frames, ``frames_padded`` repeats in a short clip."""


class FramesError(ValueError):
    """Too many bad videos, or stored frames that do not fit together."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Attributes:
        times: ``(N,)`` start of each frame, the first at 0 [s].
        duration: end of the last frame [s].
        rate: frames per second, on average.
        clock: ``constant``: frame number over rate; ``container``: the file's own time stamps.
    """

    times: npt.NDArray[np.float64]
    duration: float
    rate: float
    clock: Literal["constant", "container"]


def timeline(found: codec.Scan) -> Timeline:
    """Return the times of a scanned video's frames.

    Raises:
        VideoError: neither a frame rate nor increasing time stamps.
    """
    count, rate, stamps = len(found), found.nominal_rate, found.times - found.times[0]
    if count > 2 and stamps[-1] <= stamps[-2]:  # the decoder reports 0 for the last frame of some MPEG files
        stamps = np.append(stamps[:-1], 2 * stamps[-2] - stamps[-3])
    increasing = count > 1 and bool((np.diff(stamps) > 0).all())
    even = rate > 0 and bool((np.abs(stamps - np.arange(count) / rate) <= 0.5 / rate).all())
    if rate > 0 and (even or not increasing):
        return Timeline(np.arange(count) / rate, count / rate, rate, "constant")
    if not increasing:
        raise codec.VideoError("expected a frame rate or increasing time stamps, found neither")
    last = float(np.median(np.diff(stamps)))
    return Timeline(stamps, float(stamps[-1]) + last, (count - 1) / float(stamps[-1]), "container")


def choose(times: Timeline, rate: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the distinct frames nearest to the sampling times, and how many samples each one serves.

    Args:
        times: of the video.
        rate: samples per second.
    """
    count = max(1, int(np.ceil((times.duration - 1e-6) * rate)))
    wanted = np.arange(count) / rate
    right = np.clip(np.searchsorted(times.times, wanted), 1, max(1, len(times.times) - 1))
    left = right - 1
    if len(times.times) == 1:
        nearest = np.zeros(count, np.int64)
    else:
        nearer_right = times.times[right] - wanted < wanted - times.times[left] - 1e-9
        nearest = np.where(nearer_right, right, left)
    indices, samples = np.unique(nearest, return_counts=True)
    return indices.astype(np.int64), samples.astype(np.int64)


def samples_per_clip(settings: VideoFrames) -> int:
    """Return how many consecutive samples one clip spans: every ``phases``-th of them is a slice."""
    return (settings.per_clip - 1) * settings.phases + 1


def padding(samples: int, settings: VideoFrames) -> int:
    """Return how many slices of a video's only clip must repeat its last frame; 0 for a video that is long enough."""
    own = (samples - 1) // settings.phases + 1
    return max(0, settings.per_clip - own)


@dataclass(frozen=True)
class _Job:
    source: Path
    store: Path
    rate: float
    quality: int


@dataclass(frozen=True)
class _Facts:
    """What one video's result says of it, whatever its name is."""

    sha256: str
    status: Literal["ok", "corrupt", "unreadable"]
    error: str | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    clock: str | None = None
    duration_s: float | None = None
    frames_decoded: int = 0
    frames_wanted: int = 0
    frames_stored: int = 0


def _result_file(job: _Job, sha256: str) -> Path:
    """Where the result for this content and these settings is kept."""
    key = {"format": _FORMAT, "rate": job.rate, "quality": job.quality, "size": inception.SIZE, "video": sha256}
    return job.store / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]}.parquet"


def _sum_file(result: Path) -> Path:
    """Where the SHA-256 of a result is kept: a flipped bit in it must cost time, never give another frame."""
    return result.with_suffix(".sha256")


def _kept(result: Path) -> _Facts | None:
    """The facts of a finished result; ``None`` when there is none, or one that is damaged."""
    try:
        if _sum_file(result).read_bytes() != records.sha256_of(result).encode():
            return None
        return _Facts(**json.loads(pq.read_schema(result).metadata[b"facts"]))
    except (FileNotFoundError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _work(job: _Job) -> tuple[Path, _Facts]:
    sha256 = records.sha256_of(job.source)
    result = _result_file(job, sha256)
    facts = _kept(result)
    if facts is None:
        facts, rows = _extract(job, sha256)
        if facts.status != "ok" and records.sha256_of(job.source) != sha256:
            # The decoder does not tell a disk that cannot be read from a video that is bad; reading it again does.
            raise OSError(f"expected {job.source} to hold what it held before, found it changed; run again")
        table = pa.Table.from_pydict(
            {name: [row[k] for row in rows] for k, name in enumerate(FRAME_SCHEMA.names)}, schema=FRAME_SCHEMA
        )
        records.write_table(result, table, {"facts": json.dumps(asdict(facts), sort_keys=True)})
        records.write_text(_sum_file(result), records.sha256_of(result))
    executor.progress(1)
    return result, facts


def _extract(job: _Job, sha256: str) -> tuple[_Facts, list[tuple[int, float, int, bytes]]]:
    known: dict[str, Any] = {}
    try:
        found = codec.scan(job.source)
        known = {"codec": found.codec, "width": found.width, "height": found.height, "frames_decoded": len(found)}
        times = timeline(found)
        known |= {"fps": times.rate, "clock": times.clock, "duration_s": times.duration}
        if len(found) < (1 - _MISSING) * found.declared - 2:
            error = f"expected {found.declared} frames as declared, found {len(found)} that decode (cut off?)"
            return _Facts(sha256, "corrupt", error, **known), []
        if codec.ends_inside_packet(job.source):
            return _Facts(sha256, "corrupt", "expected a complete last packet, found the file cut off", **known), []
        indices, samples = choose(times, job.rate)
        images = [
            codec.encode(codec.resize(frame, inception.SIZE), job.quality)
            for frame in codec.pick(job.source, indices.tolist())
        ]
    except codec.VideoError as error:  # not OSError: a passing one must not condemn the video, whose verdict is kept
        return _Facts(sha256, "corrupt" if known else "unreadable", str(error), **known), []
    rows = list(zip(indices.tolist(), times.times[indices].tolist(), samples.tolist(), images, strict=True))
    known |= {"frames_wanted": int(samples.sum()), "frames_stored": len(rows)}
    return _Facts(sha256, "ok", **known), rows


def extract(videos: Sequence[Video], root: Path, settings: VideoFrames, destination: Path, store: Path) -> pa.Table:
    """Sample the frames of all videos into ``destination`` and return the manifest, which is there as well.

    Args:
        videos: the videos, below ``root``.
        root: their folder.
        settings: rate, clip length, quality, rules for short and bad videos.
        destination: the folder for frames and manifest; what it held before is removed.
        store: the folder where results wait until all are there; removed at the end.

    Raises:
        FramesError: more bad videos than ``max_bad_fraction`` allows; the message lists them.
        FileNotFoundError: a listed video is missing.
        OSError: a video cannot be read for reasons of the disk; no verdict on it is kept.
    """
    for video in videos:
        if not (root / video.path).is_file():
            raise FileNotFoundError(f"expected the listed video {root / video.path}, found none; acquire again")
    store.mkdir(parents=True, exist_ok=True)
    rate = settings.rate * settings.phases
    jobs = [_Job(root / video.path, store, rate, settings.jpeg_quality) for video in videos]
    done = dict(executor.run(_work, jobs, total=len(jobs), label="sample frames"))
    rows = [_manifest_row(video, done[number][1], settings) for number, video in enumerate(videos)]
    _stop_if_bad(rows, settings)
    shutil.rmtree(destination, ignore_errors=True)
    for number, row in enumerate(rows):
        if row["frames_stored"]:
            _place(done[number][0], frames_file(destination, row["video_id"]))
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    described = {"settings": json.dumps(settings.model_dump(), sort_keys=True), "size": str(inception.SIZE)}
    records.write_table(destination / "manifest.parquet", manifest, described)
    shutil.rmtree(store)
    return manifest


def _manifest_row(video: Video, facts: _Facts, settings: VideoFrames) -> dict[str, Any]:
    row = asdict(facts)
    short = facts.status == "ok" and facts.frames_wanted < samples_per_clip(settings)
    padded = padding(facts.frames_wanted, settings) if short and settings.short == "pad" else 0
    if short:
        row["status"] = "short"
        row["error"] = f"expected {samples_per_clip(settings)} samples for one clip, found {facts.frames_wanted}"
        if settings.short == "skip":
            row["frames_stored"] = 0
    named = {"video_id": video.video_id, "path": video.path, "class": video.class_name, "group": video.group}
    return {**named, **row, "frames_padded": padded}


def _stop_if_bad(rows: list[dict[str, Any]], settings: VideoFrames) -> None:
    bad = [row for row in rows if row["status"] in ("corrupt", "unreadable")]
    if len(bad) > settings.max_bad_fraction * len(rows):
        listed = "\n".join(f"  {row['path']}: {row['status']}: {row['error']}" for row in bad)
        raise FramesError(
            f"expected at most {settings.max_bad_fraction:.0%} bad videos, found {len(bad)} of {len(rows)}:\n{listed}\n"
            "Remove or replace them, or raise video.frames.max_bad_fraction; finished work is kept"
        )


def _place(result: Path, target: Path) -> None:
    """Put a result at its place without moving it, so that an interruption here costs nothing either."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(result, target)
    except OSError:  # another file system, or one without links
        with records.atomic_path(target) as temporary:
            shutil.copyfile(result, temporary)


def frames_file(root: Path, video_id: str) -> Path:
    """Return where the frames of a video are."""
    return root / f"{video_id}.parquet"


def read_manifest(root: Path) -> pa.Table:
    """Read the manifest below ``root``.

    Raises:
        FileNotFoundError: no manifest.
        ValueError: it is damaged.
    """
    return records.read_table(root / "manifest.parquet", MANIFEST_SCHEMA)


def read_frames(source: Path) -> pa.Table:
    """Read the stored frames of one video, encoded as they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or not of frames.
    """
    return records.read_table(source, FRAME_SCHEMA)


def decode_images(source: Path, rows: Iterable[int] | None = None) -> npt.NDArray[np.uint8]:
    """Return stored frames as ``(N, 299, 299, 3)`` red-green-blue bytes.

    Args:
        source: the frames of one video (:func:`frames_file`).
        rows: positions among its stored frames; ``None`` is all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or its pictures have another size.
    """
    column = read_frames(source)["image"]
    try:
        images = [codec.decode(column[row].as_py()) for row in (range(len(column)) if rows is None else rows)]
    except (ValueError, IndexError) as error:
        raise FramesError(f"expected frames in {source}, found: {error}; run stage frames again") from error
    for image in images:
        if image.shape != (inception.SIZE, inception.SIZE, 3):
            raise FramesError(f"expected frames of {inception.SIZE} pixels in {source}, found {image.shape}")
    return np.stack(images) if images else np.empty((0, inception.SIZE, inception.SIZE, 3), np.uint8)
