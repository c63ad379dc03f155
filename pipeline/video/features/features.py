"""Features of all frames: chunks of fixed size through Inception-v3, one table.

A chunk holds 128 consecutive frames, across videos, and is computed by one thread, so that bytes do not depend on how
many processes share the work; it is kept, so that an interrupted run goes on.
"""

import ctypes
import json
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
import torchvision

from pipeline.common import jobs, records
from pipeline.common.kept import Kept, forget
from pipeline.video.features import inception, table
from pipeline.video.frames import codec, frames

if TYPE_CHECKING:
    from pipeline.params import VideoFeatures

CHUNK = 128  # frames: fixed, because bytes depend on it
CODE = ("pipeline.video.features.inception", "pipeline.video.frames.codec")
"""What decides a chunk, besides its frames and the settings."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)

Vectors = npt.NDArray[np.float32]
Place = tuple[Path, str, int]
"""Where a frame is: a file, its SHA-256, and the row in it."""
Network = tuple[inception.Weights, inception.Preprocessing, str, bool]
"""What makes an extractor: weights, preprocessing, device, and whether it takes half precision."""


class ChunkJob(NamedTuple):
    """A chunk: the files of its frames and their positions in them, and how they become features."""

    places: tuple[Place, ...]
    batch_size: int
    network: Network


def _list_frames(root: Path) -> tuple[dict[str, list[object]], list[Place]]:
    """Columns and places of all stored frames, in the manifest's order."""
    columns: dict[str, list[object]] = {name: [] for name in table.schema(1).names[:-1]}
    places = list[Place]()
    manifest = frames.read_manifest(root)[0].filter(pc.field("frames_stored") > 0)
    for video_id, count in zip(manifest["video_id"].to_pylist(), manifest["frames_stored"].to_pylist(), strict=True):
        file = frames.frames_file(root, video_id)
        stored = records.read_table(file, frames.FRAME_SCHEMA)
        if len(stored) != count:
            raise frames.FramesError(f"expected {count} frames in {file}, found {len(stored)}; run stage frames again")
        for name, column in columns.items():
            column.extend([video_id] * count if name == "video_id" else stored[name].to_pylist())
        sha256 = records.sha256_of(file)
        places += [(file, sha256, row) for row in range(count)]
    if not places:
        raise frames.FramesError(f"expected stored frames in {root}, found none; see the manifest for the reasons")
    return columns, places


@lru_cache(1)
def _extractor(network: Network) -> inception.Extractor:
    """The network of this process, built once."""
    _keep_memory()
    weights, preprocessing, device, half = network
    return inception.Extractor(weights.load(), preprocessing, device, half=half)


def _keep_memory() -> None:
    """Let this process keep what it frees, where its C library is glibc: activations need it again at once.

    Blocks as large as these else go back to the system, which clears the next one page by page: a sixth of the time.
    """
    with suppress(AttributeError, OSError, TypeError):  # no such function; no such library
        adjust = ctypes.CDLL(None).mallopt
        adjust(_MMAP_MAX, 0)
        adjust(_TRIM_THRESHOLD, 2**31 - 1)


def _files(job: ChunkJob) -> set[Path]:
    """Return the files that a chunk is computed from."""
    path = job.network[0].weights_path
    return {file for file, *_ in job.places} | ({Path(path)} if job.network[0].weights == "file" and path else set())


def compute(job: ChunkJob) -> Vectors:
    """Return the features of a chunk, ``(n, 2048)``."""
    network, by_file = _extractor(job.network), groupby(job.places, key=lambda place: place[0])
    images = np.concatenate([frames.decode_images(file, [row for *_, row in places]) for file, places in by_file])
    parts = []
    for start in range(0, len(images), job.batch_size):
        parts.append(network(images[start : start + job.batch_size]))
        jobs.progress(len(parts[-1]))
    vectors = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        raise ValueError(f"expected finite features, found others from {job.places[0][0]} on; use other weights")
    return vectors


def extract(root: Path, settings: "VideoFeatures", seed: int, destination: Path) -> int:
    """Compute the features of all frames stored below ``root``, as :func:`table.save` writes them; return their number.

    Damaged frames, wrong weights, no such device, and a feature that is not finite are a ``ValueError``; what is
    missing, a full disk, and weights that cannot be downloaded an ``OSError``. Finished chunks stay.
    """
    device = jobs.device(settings.device)
    half = settings.precision == "autocast" and device == "cuda"
    columns, places = _list_frames(root)
    weights = inception.Weights(settings.weights, settings.weights_path, seed)
    weights = replace(weights, weights_sha256=inception.digest(weights.load()))
    about = {
        "weights": settings.weights, "weights_sha256": weights.weights_sha256, "preprocessing": settings.preprocessing,
        "precision": "float16" if half else "float32", "device": device, "batch_size": str(settings.batch_size),
        "torch": str(torch.__version__), "torchvision": str(torchvision.__version__), "opencv": codec.VERSION,
    }  # fmt: skip
    how = (settings.batch_size, (weights, settings.preprocessing, device, half))
    chunks, names = dict[str, ChunkJob](), list[str]()  # by what is in their frames: equal ones are computed once
    for start in range(0, len(places), CHUNK):
        names.append(json.dumps([place[1:] for place in places[start : start + CHUNK]]))
        chunks.setdefault(names[-1], ChunkJob(tuple(places[start : start + CHUNK]), *how))
    kept = Kept("features", about, CODE)
    todo = [name for name in chunks if not kept.has(name)]
    work, total = [chunks[name] for name in todo], sum(len(chunks[name].places) for name in todo)
    where = "serial" if device == "cuda" else None
    for number, part in jobs.run(compute, work, total=total, label="features", where=where, reads=_files):
        kept.put(todo[number], part.tobytes())
    vectors = np.empty((len(places), inception.WIDTH), np.float32)
    for start, name in zip(range(0, len(places), CHUNK), names, strict=True):
        entry = kept.get(name)
        part = compute(chunks[name]) if entry is None else np.frombuffer(entry, np.float32)
        vectors[start : start + CHUNK] = part.reshape(-1, inception.WIDTH)
    origin = {"weights_path": settings.weights_path or "", "seed": str(seed) if settings.weights == "random" else ""}
    table.save(destination, columns, vectors, {**about, **origin})
    forget("features")
    return len(places)


def take(source: Path, root: Path, destination: Path) -> int:
    """Write the vectors, in an acquired ``source``, of what the manifest below ``root`` lists; return their number."""
    given = records.read_table(source)
    used = frames.read_manifest(root)[0].filter(pc.field("frames_stored") > 0)["video_id"].combine_chunks()
    names = pc.binary_join_element_wise(*(given[name] for name in ("class", "group", "video")), "/")
    given = given.append_column("video_id", names).filter(pc.is_in(names, used))
    columns = {"frame_index": given["frame"], "samples": [1] * len(given)}
    columns |= {name: given[name] for name in ("video_id", "timestamp_s")}
    vectors = given["feature"].combine_chunks().flatten().to_numpy().reshape(len(given), -1)
    table.save(destination, columns, vectors, {"weights": "unknown", "sequences_sha256": records.sha256_of(source)})
    return len(given)
