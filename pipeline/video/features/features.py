"""Features of all frames: chunks of fixed size through Inception-v3, one table, and a twin that maps into memory.

A chunk holds 128 consecutive frames, across videos, and is computed by one thread, so that bytes do not depend on how
many processes share the work; it is kept, so that an interrupted run goes on. Parquet cannot be mapped into memory, so
the same numbers stand once more in ``vectors.safetensors``, whose SHA-256 the table states and :func:`load` checks.
"""

import ctypes
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torchvision
from torch import Tensor

from pipeline.common import jobs, records, sequences
from pipeline.common.kept import Kept, forget
from pipeline.video.features import inception
from pipeline.video.frames import codec, frames

if TYPE_CHECKING:
    from pipeline.params import VideoFeatures

CHUNK = 128  # frames: fixed, because bytes depend on it
CODE = ("pipeline.video.features.inception", "pipeline.video.frames.codec")
"""What decides a chunk, besides its frames and the settings."""
_SUM = "vectors_sha256"
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)

Vectors = npt.NDArray[np.float32]
Place = tuple[Path, str, int]
"""Where a frame is: a file, its SHA-256, and the row in it."""
Network = tuple[inception.Weights, inception.Preprocessing, str, bool]
"""What makes an extractor: weights, preprocessing, device, and whether it takes half precision."""


def schema(width: int) -> pa.Schema:
    """Return the columns of ``features.parquet`` for features of ``width`` numbers."""
    numbers = [("frame_index", pa.int32()), ("timestamp_s", pa.float64()), ("samples", pa.int32())]
    return pa.schema([("video_id", pa.string()), *numbers, ("feature", pa.list_(pa.float32(), width))])


@dataclass(frozen=True)
class FeatureTable:
    """Features of P distinct frames, in order of video and time."""

    video_id: list[str]
    frame_index: npt.NDArray[np.int32]  # its number in the video
    timestamp_s: npt.NDArray[np.float64]  # its time [s]; NaN where it is not known
    samples: npt.NDArray[np.int32]  # how many consecutive sampling times show it
    vectors: Tensor  # (P, D) float32, mapped from the twin file and paged in as they are read
    about: dict[str, str]  # what made them: weights, preprocessing, versions, and the SHA-256 of the twin file

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.video_id)


class ChunkJob(NamedTuple):
    """A chunk: the files of its frames and their positions in them, and how they become features."""

    places: tuple[Place, ...]
    batch_size: int
    network: Network


def _list_frames(root: Path) -> tuple[dict[str, list[object]], list[Place]]:
    """Columns and places of all stored frames, in the manifest's order."""
    columns: dict[str, list[object]] = {name: [] for name in schema(1).names[:-1]}
    places = list[Place]()
    manifest = frames.read_manifest(root)[0].filter(pc.field("frames_stored") > 0)
    for video_id, count in zip(manifest["video_id"].to_pylist(), manifest["frames_stored"].to_pylist(), strict=True):
        file = frames.frames_file(root, video_id)
        table = records.read_table(file, frames.FRAME_SCHEMA)
        if len(table) != count:
            raise frames.FramesError(f"expected {count} frames in {file}, found {len(table)}; run stage frames again")
        for name, column in columns.items():
            column.extend([video_id] * count if name == "video_id" else table[name].to_pylist())
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
    """Compute the features of all frames stored below ``root``, as :func:`save` writes them; return their number.

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
    save(destination, columns, vectors, {**about, **origin})
    forget("features")
    return len(places)


def take(source: Path, root: Path, destination: Path) -> int:
    """Write the vectors, in an acquired ``source``, of what the manifest below ``root`` lists; return their number."""
    table = records.read_table(source)
    used = frames.read_manifest(root)[0].filter(pc.field("frames_stored") > 0)["video_id"].combine_chunks()
    names = pc.binary_join_element_wise(*(table[name] for name in ("class", "group", "video")), "/")
    table = table.append_column("video_id", names).filter(pc.is_in(names, used))
    columns = {"frame_index": table["frame"], "samples": [1] * len(table)}
    columns |= {name: table[name] for name in ("video_id", "timestamp_s")}
    vectors = table["feature"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    save(destination, columns, vectors, {"weights": "unknown", "sequences_sha256": records.sha256_of(source)})
    return len(table)


def save(destination: Path, columns: Mapping[str, object], vectors: Vectors, about: Mapping[str, str]) -> None:
    """Write ``features.parquet``, of all columns of :func:`schema`, and its twin ``vectors.safetensors`` ``(P, D)``."""
    twin = destination / "vectors.safetensors"
    sequences.write_vectors(twin, vectors)
    table = pa.table({**columns, "feature": records.lists(vectors)}, schema=schema(vectors.shape[1]))
    records.write_table(destination / "features.parquet", table, {**about, _SUM: records.sha256_of(twin)})


def load(source: Path) -> FeatureTable:
    """Read ``features.parquet``; its vectors are mapped into memory from the twin file.

    A missing file is a ``FileNotFoundError``; damage, other columns, and the twin of another table a ``ValueError``.
    """
    twin = source.with_name("vectors.safetensors")
    if missing := [file for file in (source, twin) if not file.is_file()]:
        raise FileNotFoundError(f"expected features at {missing[0]}, found no such file; run `dvc repro features`")
    try:
        content = pq.ParquetFile(source, page_checksum_verification=True)
        table = content.read(columns=schema(1).names[:-1])  # those of them that are there
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"expected features in {source}, found damage ({error}); run stage features again") from error
    about = {key.decode(): value.decode() for key, value in (content.schema_arrow.metadata or {}).items()
             if not key.startswith(b"ARROW:")}  # fmt: skip
    digest = records.sha256_of(twin)
    if digest != about.get(_SUM):
        raise ValueError(
            f"expected vectors of SHA-256 {about.get(_SUM, 'that the table states')} in {twin}, found {digest}: "
            "damage, or another table's; run stage features again"
        )
    vectors = sequences.mapped(twin)
    records.check_schema(content.schema_arrow.empty_table(), schema(vectors.shape[1]), source)
    frame_index, timestamp_s, samples = (table[name].to_numpy() for name in schema(1).names[1:-1])
    return FeatureTable(table["video_id"].to_pylist(), frame_index, timestamp_s, samples, vectors, about)
