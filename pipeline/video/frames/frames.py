"""Sampling the frames of all videos: 1.4 per second as in the paper, one manifest row for every video.

Each distinct frame is resized, encoded once and stored in one parquet file per video, and ``samples`` says how many
consecutive samples show it. What a worker makes of a video is kept, so that an interrupted run goes on where it was.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common import jobs, records
from pipeline.common.kept import Kept, forget
from pipeline.video.frames import codec
from pipeline.video.frames.codec import VideoError
from pipeline.video.frames.sampling import Sampling, choose, likely, timeline
from pipeline.video.layout import Video

SIZE = 299  # height and width of a stored frame [pixels]: what Inception-v3 takes
CODE = ("pipeline.video.frames",)  # what decides a video's result, besides its content and the settings
_MISSING = 0.1  # share of the declared frames that may fail to decode

FRAME_SCHEMA = pa.schema(
    [("frame_index", pa.int32()), ("timestamp_s", pa.float64()), ("samples", pa.int32()), ("image", pa.binary())]
)
_COUNTS = ("frames_decoded", "frames_wanted", "frames_stored", "frames_padded")
_KINDS = dict.fromkeys(("width", "height", *_COUNTS), pa.int32()) | dict.fromkeys(("fps", "duration_s"), pa.float64())
_NAMES = ("video_id", "path", "class", "group", "sha256", "codec", "width", "height", "fps", "clock", "duration_s",
          *_COUNTS, "status", "error")  # fmt: skip
MANIFEST_SCHEMA = pa.schema([(name, _KINDS.get(name, pa.string())) for name in _NAMES])
"""``frames_wanted`` counts samples, ``frames_stored`` distinct frames, ``frames_padded`` repeats in a short clip."""
_FACTS = (*MANIFEST_SCHEMA.names[4:-3], "status", "error")


class FramesError(ValueError):
    """Too many bad videos, or stored frames that do not fit together."""


class VideoJob(NamedTuple):
    """A video to sample: where it is, what it held when it was listed, and how."""

    source: Path
    sha256: str
    samples_per_second: float
    quality: int


def sample(job: VideoJob) -> bytes:
    """Return a video's frames as the content of its parquet file, with its columns of the manifest in the metadata.

    If the disk cannot read the video, or it changed meanwhile, there is no verdict but an ``OSError``.
    """
    facts, rows = _extract(job)
    if facts["status"] != "ok" and records.sha256_of(job.source) != job.sha256:
        # The decoder does not tell a disk that cannot be read from a video that is bad; reading it again does.
        raise OSError(f"expected {job.source} to hold what it held before, found it changed; run again")
    jobs.progress(1)
    return _packed(facts, rows)


def _packed(facts: dict[str, Any], rows: list[tuple[int, float, int, bytes]]) -> bytes:
    """Return what is kept of a video."""
    table = pa.Table.from_pylist([dict(zip(FRAME_SCHEMA.names, row, strict=True)) for row in rows], FRAME_SCHEMA)
    with tempfile.TemporaryDirectory(prefix="nem-frames-") as folder:
        records.write_table(Path(folder) / "f", table, {"facts": json.dumps(facts, sort_keys=True)})
        return (Path(folder) / "f").read_bytes()


def _unknown(job: VideoJob) -> dict[str, Any]:
    """Return what the manifest says of a video of which nothing is known."""
    return dict.fromkeys(_FACTS) | {"sha256": job.sha256} | dict.fromkeys(_COUNTS[:3], 0)


def _extract(job: VideoJob) -> tuple[dict[str, Any], list[tuple[int, float, int, bytes]]]:
    """What the manifest says of a video, whatever its name is, and its rows of :data:`FRAME_SCHEMA`."""
    facts, images = _unknown(job), dict[int, bytes]()

    def take(number: int, frame: codec.Image) -> None:
        images[number] = codec.encode(codec.resize(frame, SIZE), job.quality)

    try:
        scan = codec.scan(job.source, partial(likely, rate=job.samples_per_second), take)
        facts |= {"codec": scan.codec, "width": scan.width, "height": scan.height, "frames_decoded": len(scan)}
        times = timeline(scan)
        facts |= {"fps": times.rate, "clock": times.clock, "duration_s": times.duration}
        if len(scan) < (1 - _MISSING) * scan.declared - 2:
            raise VideoError(f"expected {scan.declared} frames as declared, found {len(scan)} that decode (cut off?)")
        if codec.cut_off(job.source):
            raise VideoError("expected a complete last packet, found the file cut off")
        indices, samples = choose(times, job.samples_per_second)
        missing = [index for index in indices.tolist() if index not in images]
        for number, frame in zip(missing, codec.pick(job.source, missing), strict=False):  # opened if there are any
            take(number, frame)
    except VideoError as error:  # not OSError: a passing one must not condemn the video, whose verdict is kept
        return facts | {"status": "corrupt" if facts["codec"] is not None else "unreadable", "error": str(error)}, []
    chosen = [images[index] for index in indices.tolist()]
    rows = list(zip(indices.tolist(), times.times[indices].tolist(), samples.tolist(), chosen, strict=True))
    return facts | {"status": "ok", "frames_wanted": int(samples.sum()), "frames_stored": len(rows)}, rows


def extract(videos: Sequence[Video], root: Path, sampling: Sampling, destination: Path, *,
            max_bad_fraction: float = 0.05) -> pa.Table:  # fmt: skip
    """Sample the frames of all videos below ``root`` into ``destination``; return the manifest, which is there as well.

    What ``destination`` held before is replaced. More bad videos than ``max_bad_fraction`` are a ``FramesError``, a
    missing video, and one that the disk cannot read, an ``OSError``; finished work is kept.
    """
    for video in videos:
        if not (root / video.path).is_file():
            raise FileNotFoundError(f"expected the listed video {root / video.path}, found none; acquire again")
    rate, quality = sampling.samples_per_second, sampling.jpeg_quality
    kept = Kept("frames", [rate, quality, SIZE], CODE)
    work = [VideoJob(root / v.path, records.sha256_of(root / v.path), rate, quality) for v in videos]
    todo = list({job.sha256: job for job in work if not kept.has(job.sha256)}.values())  # equal videos once
    deadly: dict[str, bytes] = {}  # not kept: another run tries them again

    def lost(job: VideoJob) -> bytes:
        error = "expected a video that can be sampled, found that its worker died each time (killed for memory?)"
        deadly[job.sha256] = _packed(_unknown(job) | {"status": "unreadable", "error": error}, [])
        return deadly[job.sha256]

    for number, content in jobs.run(
        sample, todo, total=len(todo), label="sample frames", reads=lambda job: [job.source], lost=lost
    ):
        if todo[number].sha256 not in deadly:
            kept.put(todo[number].sha256, content)

    def content_of(job: VideoJob) -> bytes:
        return deadly.get(job.sha256) or kept.get(job.sha256) or sample(job)  # damaged since it was kept

    facts = [json.loads(pq.read_schema(pa.BufferReader(content_of(job))).metadata[b"facts"]) for job in work]
    rows = [_manifest_row(video, own, sampling) for video, own in zip(videos, facts, strict=True)]
    bad = [row for row in rows if row["status"] in ("corrupt", "unreadable")]
    if len(bad) > max_bad_fraction * len(rows):
        listed = "\n".join(f"  {row['path']}: {row['status']}: {row['error']}" for row in bad)
        raise FramesError(
            f"expected at most {max_bad_fraction:.0%} bad videos, found {len(bad)} of {len(rows)}:\n{listed}\n"
            "Mend or replace them, or raise video.frames.max_bad_fraction; finished work is kept"
        )
    shutil.rmtree(destination, ignore_errors=True)
    for row, job in zip(rows, work, strict=True):
        if row["frames_stored"]:
            records.write_bytes(frames_file(destination, row["video_id"]), content_of(job))
    manifest = _write_manifest(rows, sampling, destination)
    forget("frames")
    return manifest


def _manifest_row(video: Video, facts: dict[str, Any], sampling: Sampling) -> dict[str, Any]:
    """A video's row of the manifest: who it is, what its content showed, and whether that is enough for a clip."""
    named = {"video_id": video.video_id, "path": video.path, "class": video.class_name, "group": video.group}
    row = {**named, **facts, "frames_padded": 0}
    count, wanted = row["frames_wanted"], sampling.span
    if row["status"] == "ok" and count < wanted:
        row |= {"status": "short", "error": f"expected {wanted} samples for one clip, found {count}"}
        row |= {"frames_stored": 0} if sampling.short == "skip" else {"frames_padded": sampling.padding(count)}
    return row


def _write_manifest(rows: list[dict[str, Any]], sampling: Sampling, destination: Path) -> pa.Table:
    """Write the manifest, with the sampling in its metadata, and return it."""
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    described = {"settings": json.dumps(asdict(sampling), sort_keys=True), "size": str(SIZE)}
    records.write_table(destination / "manifest.parquet", manifest, described)
    return manifest


def list_sequences(videos: Sequence[Video], source: Path, sampling: Sampling, destination: Path) -> pa.Table:
    """Write, and return, the manifest of the sequences of features in a parquet file, whose rows are samples."""
    columns = pq.read_table(source, columns=["class", "group", "video"]).columns
    counts = Counter(map("/".join, zip(*(column.to_pylist() for column in columns), strict=True)))
    if sorted(counts) != sorted(video.video_id for video in videos):
        raise FramesError(f"expected the sequences that were acquired in {source}, found others; acquire again")
    facts = {"sha256": records.sha256_of(source), "status": "ok"}
    rows = [_manifest_row(v, facts | dict.fromkeys(_COUNTS[:3], counts[v.video_id]), sampling) for v in videos]
    shutil.rmtree(destination, ignore_errors=True)
    return _write_manifest(rows, sampling, destination)


def frames_file(root: Path, video_id: str) -> Path:
    """Return where the frames of a video are."""
    return root / f"{video_id}.parquet"


def read_manifest(root: Path) -> tuple[pa.Table, Sampling]:
    """Read the manifest below ``root``, and how its frames were sampled (errors as of ``records.read_table``)."""
    manifest = records.read_table(root / "manifest.parquet", MANIFEST_SCHEMA)
    return manifest, Sampling.of(json.loads((manifest.schema.metadata or {}).get(b"settings", b"{}")))


def decode_images(source: Path, rows: Iterable[int] | None = None) -> npt.NDArray[np.uint8]:
    """Return the frames in a file, all or those at positions ``rows``, as ``(N, 299, 299, 3)`` red-green-blue bytes.

    A damaged file, and one with pictures of another size, is a ``ValueError``.
    """
    column = records.read_table(source, FRAME_SCHEMA)["image"]
    try:
        images = [codec.decode(column[row].as_py()) for row in (range(len(column)) if rows is None else rows)]
        if shapes := {image.shape for image in images} - {(SIZE, SIZE, 3)}:
            raise ValueError(f"pictures of shape {shapes} in place of {SIZE} pixels")
    except (ValueError, IndexError) as error:
        raise FramesError(f"expected frames in {source}, found: {error}; run stage frames again") from error
    return np.stack(images) if images else np.empty((0, SIZE, SIZE, 3), np.uint8)
