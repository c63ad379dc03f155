"""Features of all frames: chunks of fixed size through Inception-v3, one table, and a twin that maps into memory.

A chunk holds 128 consecutive frames, across videos, and is one row group of the table. Chunks are independent: each is
computed by one thread, so that bytes do not depend on how many processes share the work, and each is kept outside the
outputs under a key made of its frames, the weights and the settings, so that an interrupted run goes on where it was.
What is kept carries a digest of its values: a chunk with a flipped bit is computed again.

Parquet cannot be mapped into memory as a matrix (its values lie in pages, between levels), so the same numbers stand
once more in ``vectors.safetensors``, raw and aligned. :func:`load` maps that file and checks that both belong together:
both files state the SHA-256 of the matrix, and what is loaded must have it. Parquet pages carry checksums besides.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from pipeline import records
from pipeline.params import VideoFeatures
from pipeline.training import checkpoint, executor
from pipeline.video import codec, frames, inception

CHUNK = 128
"""Frames per chunk and per row group: fixed, because bytes depend on it."""
_FORMAT = 1
_ALIGNMENT = 64
_BLOCK = 1 << 20
_SUM = "vectors_sha256"

Vectors = npt.NDArray[np.float32]


def schema() -> pa.Schema:
    """Return the columns of ``features.parquet``."""
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("frame_index", pa.int32()),
            ("timestamp_s", pa.float64()),
            ("samples", pa.int32()),
            ("feature", pa.list_(pa.float32(), inception.WIDTH)),
        ]
    )


@dataclass(frozen=True)
class FeatureTable:
    """Features of distinct frames, in order of video and time.

    Attributes:
        video_id: ``(P,)`` the frame's video.
        frame_index: ``(P,)`` its number in the video.
        timestamp_s: ``(P,)`` its time [s].
        samples: ``(P,)`` how many consecutive sampling times show it.
        vectors: ``(P, 2048)`` float32.
        about: what made them: weights, preprocessing, versions, and the SHA-256 of the matrix.
        mapped: whether ``vectors`` is a view of the file, paged in as it is read.
    """

    video_id: list[str]
    frame_index: npt.NDArray[np.int32]
    timestamp_s: npt.NDArray[np.float64]
    samples: npt.NDArray[np.int32]
    vectors: Tensor
    about: dict[str, str]
    mapped: bool

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.video_id)


@dataclass(frozen=True)
class _Part:
    """Consecutive stored frames of one video."""

    file: Path
    start: int
    stop: int


@dataclass(frozen=True)
class _Job:
    """One chunk."""

    parts: tuple[_Part, ...]
    result: Path
    weights: Path
    weights_digest: str
    preprocessing: inception.Preprocessing
    batch_size: int
    device: str
    half: bool


@dataclass(frozen=True)
class _Frames:
    """What is known of the frames before any feature is."""

    video_id: list[str] = field(default_factory=list)
    frame_index: list[int] = field(default_factory=list)
    timestamp_s: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    chunks: list[tuple[tuple[_Part, ...], str]] = field(default_factory=list)


def _list_frames(root: Path) -> _Frames:
    """All stored frames in the manifest's order, and the chunks that they fall into, each with its content's digest."""
    listed = _Frames()
    parts: list[_Part] = []
    digests: list[object] = []
    room = CHUNK
    manifest = frames.read_manifest(root)
    for video_id, count in zip(manifest["video_id"].to_pylist(), manifest["frames_stored"].to_pylist(), strict=True):
        if not count:
            continue
        file = frames.frames_file(root, video_id)
        if not file.is_file():
            raise FileNotFoundError(
                f"expected the frames that the manifest lists at {file}, found none; run stage frames"
            )
        table = frames.read_frames(file)
        if len(table) != count:
            raise frames.FramesError(f"expected {count} frames in {file}, found {len(table)}; run stage frames again")
        listed.video_id.extend([video_id] * count)
        listed.frame_index.extend(table["frame_index"].to_pylist())
        listed.timestamp_s.extend(table["timestamp_s"].to_pylist())
        listed.samples.extend(table["samples"].to_pylist())
        sha256, start = records.sha256_of(file), 0
        while start < count:
            stop = min(count, start + room)
            parts.append(_Part(file, start, stop))
            digests.append([sha256, start, stop])
            room -= stop - start
            start = stop
            if not room:
                listed.chunks.append((tuple(parts), _digest(digests)))
                parts, digests, room = [], [], CHUNK
    if parts:
        listed.chunks.append((tuple(parts), _digest(digests)))
    if not listed.video_id:
        raise frames.FramesError(f"expected stored frames in {root}, found none; see the manifest for the reasons")
    return listed


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_loaded: tuple[tuple[str, str, str, bool], inception.Extractor] | None = None


def _extractor(job: _Job) -> inception.Extractor:
    """The network of this process, built once."""
    global _loaded  # noqa: PLW0603 - one per worker process
    key = (job.weights_digest, job.preprocessing, job.device, job.half)
    if _loaded is None or _loaded[0] != key:
        state = checkpoint.load(job.weights)
        if state is None:
            raise ValueError(f"expected the weights that this run kept at {job.weights}, found damage; run again")
        _loaded = key, inception.Extractor(state, job.preprocessing, job.device, half=job.half)
    return _loaded[1]


def _read_chunk(job: _Job) -> npt.NDArray[np.uint8]:
    images = [frames.decode_images(part.file, range(part.start, part.stop)) for part in job.parts]
    return np.concatenate(images)


def _kept(result: Path, rows: int) -> Vectors | None:
    """A finished chunk; ``None`` when there is none, or one that is damaged and so was removed."""
    found = (checkpoint.load(result) or {}).get("vectors")
    if found is None or found.shape != (rows, inception.WIDTH) or found.dtype != torch.float32:
        return None
    vectors: Vectors = found.numpy()
    return vectors


def _rows(job: _Job) -> int:
    return sum(part.stop - part.start for part in job.parts)


def _compute(job: _Job, images: npt.NDArray[np.uint8]) -> None:
    network = _extractor(job)
    batches = range(0, len(images), job.batch_size)
    vectors = np.concatenate([network(images[start : start + job.batch_size]) for start in batches])
    if not np.isfinite(vectors).all():
        raise ValueError(f"expected finite features, found NaN or infinity in the chunk from {job.parts[0].file}")
    checkpoint.save(job.result, {"vectors": torch.from_numpy(vectors)})
    executor.progress(len(images))


def _work(job: _Job) -> None:
    if _kept(job.result, _rows(job)) is None:
        _compute(job, _read_chunk(job))
    else:
        executor.progress(_rows(job))


def _on_gpu(jobs: Sequence[_Job], total: int) -> None:
    """One process; the next chunk's pictures are decoded while the device works on this one's."""
    todo = [job for job in jobs if _kept(job.result, _rows(job)) is None]
    deterministic = torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)
    with ThreadPoolExecutor(1) as reader, tqdm(total=total, desc="features", mininterval=1) as bar, deterministic:
        bar.update(total - sum(map(_rows, todo)))
        ahead = reader.submit(_read_chunk, todo[0]) if todo else None
        for number, job in enumerate(todo):
            if ahead is None:
                break
            images = ahead.result()
            ahead = reader.submit(_read_chunk, todo[number + 1]) if number + 1 < len(todo) else None
            _compute(job, images)
            bar.update(len(images))


def device_of(settings: VideoFeatures) -> Literal["cpu", "cuda"]:
    """Return where features are computed.

    Raises:
        ValueError: CUDA is asked for and not there.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise ValueError("expected a CUDA device for video.features.device cuda, found none; choose cpu or auto")
    return "cuda" if available and settings.device != "cpu" else "cpu"


def extract(root: Path, settings: VideoFeatures, seed: int, destination: Path, store: Path) -> int:
    """Compute the features of all stored frames; return their number.

    Args:
        root: folder of frames and manifest.
        settings: weights, preprocessing, batch size, device.
        seed: root of the seed tree, for random weights.
        destination: the folder that gets ``features.parquet`` and ``vectors.safetensors``.
        store: the folder of finished chunks. Those of this run stay there, since features cost more than anything
            else: whoever changes only how clips are made gets them from here. Others are removed.

    Raises:
        FileNotFoundError: frames, manifest or weights are missing.
        ValueError: damaged frames, wrong weights, no such device, or a feature that is not finite.
        OSError: the disk is full or read-only; finished chunks stay.
        DownloadError: the ImageNet weights cannot be had.
    """
    device = device_of(settings)
    half = settings.precision == "autocast" and device == "cuda"
    listed = _list_frames(root)
    state = inception.obtain(settings, seed)
    weights_digest = inception.digest(state)
    about = {
        "weights": settings.weights,
        "weights_sha256": weights_digest,
        "preprocessing": settings.preprocessing,
        "precision": "float16" if half else "float32",
        "device": device,
        "batch_size": str(settings.batch_size),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "opencv": codec.VERSION,
    }
    weights = store / f"weights-{weights_digest[:16]}.safetensors"
    if checkpoint.load(weights) is None:
        checkpoint.save(weights, state)
    jobs = [
        _Job(
            parts,
            store / f"{_digest([_FORMAT, about, content])[:40]}.safetensors",
            weights,
            weights_digest,
            settings.preprocessing,
            settings.batch_size,
            device,
            half,
        )
        for parts, content in listed.chunks
    ]
    total = len(listed.video_id)
    if device == "cuda":
        _on_gpu(jobs, total)
    else:
        for _ in executor.run(_work, jobs, total=total, label="features"):
            pass
    columns = {name: getattr(listed, name) for name in schema().names[:-1]}
    save(destination, columns, lambda: _chunks(jobs), {**about, "content": _digest([job.result.stem for job in jobs])})
    current = {weights, *(job.result for job in jobs)}
    for file in store.iterdir():
        if file not in current:
            file.unlink()
    return total


def save(
    destination: Path,
    columns: Mapping[str, Sequence[object]],
    chunks: Callable[[], Iterable[Vectors]],
    about: Mapping[str, str],
) -> None:
    """Write ``features.parquet`` and its twin, one chunk in memory at a time.

    Args:
        destination: their folder.
        columns: all columns of :func:`schema` but the last.
        chunks: called once for each file; the vectors in order, each ``(n, 2048)`` one row group.
        about: what made them; ``content`` tells these vectors from all others.

    Raises:
        OSError: the disk is full or read-only.
    """
    described = {**about, _SUM: "0" * 64}
    rows = len(columns["video_id"])
    with records.atomic_path(table_twin(destination / "features.parquet")) as raw, raw.open("wb") as file:
        _write_header(file, rows, described)
        digest = hashlib.sha256()
        for vectors in chunks():
            block = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
            digest.update(block)
            file.write(block)
        described[_SUM] = digest.hexdigest()
        file.seek(0)
        _write_header(file, rows, described)  # as long as the first one
    layout = schema().with_metadata(described)
    with (
        records.atomic_path(destination / "features.parquet") as temporary,
        pq.ParquetWriter(
            temporary, layout, compression="zstd", use_dictionary=["video_id"], write_page_checksum=True
        ) as writer,
    ):
        start = 0
        for vectors in chunks():
            stop = start + len(vectors)
            parts = [pa.array(columns[name][start:stop], layout.field(name).type) for name in layout.names[:-1]]
            flat = pa.array(np.asarray(vectors).reshape(-1))
            parts.append(pa.FixedSizeListArray.from_arrays(flat, inception.WIDTH))
            writer.write_table(pa.Table.from_arrays(parts, schema=layout), row_group_size=CHUNK)
            start = stop


def _chunks(jobs: Sequence[_Job]) -> Iterator[Vectors]:
    for job in jobs:
        vectors = _kept(job.result, _rows(job))
        if vectors is None:
            raise ValueError(f"expected the finished chunk {job.result}, found none; run again")
        yield vectors


def table_twin(source: Path) -> Path:
    """Return where the raw matrix of a feature table is."""
    return source.with_name("vectors.safetensors")


def _write_header(file: IO[bytes], rows: int, about: dict[str, str]) -> None:
    """Begin a safetensors file whose data can then be streamed, aligned to a cache line."""
    size = rows * inception.WIDTH * 4
    header = {
        "__metadata__": {"about": json.dumps(about, sort_keys=True)},
        "vectors": {"dtype": "F32", "shape": [rows, inception.WIDTH], "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    file.write(struct.pack("<Q", len(text)) + text)


def load(source: Path) -> FeatureTable:
    """Read a feature table; its vectors are mapped into memory from the twin file where that is there.

    Every byte of the vectors is read once, in blocks, and must have the digest that the table states; a table without
    its twin need not state one.

    Args:
        source: ``features.parquet``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file is damaged, has other columns, or the twin belongs to another table.
    """
    twin = table_twin(source)
    mapped = twin.is_file()
    columns = schema().names[:-1] if mapped else schema().names
    if not source.is_file():
        raise FileNotFoundError(f"expected features at {source}, found no such file; run `dvc repro features`")
    try:
        found = pq.ParquetFile(source, page_checksum_verification=True)
        records.check_schema(found.schema_arrow.empty_table(), schema(), source)
        table = found.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"expected features in {source}, found damage ({error}); run stage features again") from error
    about = {key.decode(): value.decode() for key, value in (found.schema_arrow.metadata or {}).items()
             if not key.startswith(b"ARROW:")}  # fmt: skip
    if mapped:
        vectors = _mapped(twin, len(table), about, source)
    else:
        flat = table["feature"].combine_chunks().flatten().to_numpy()
        if _SUM in about:  # a table that another program wrote is protected by the checksums of its pages alone
            _check(hashlib.sha256(flat.astype("<f4", copy=False)).hexdigest(), about, source)
        vectors = torch.from_numpy(flat.copy()).view(-1, inception.WIDTH)
    return FeatureTable(
        table["video_id"].to_pylist(),
        table["frame_index"].to_numpy(),
        table["timestamp_s"].to_numpy(),
        table["samples"].to_numpy(),
        vectors,
        about,
        mapped,
    )


def _check(found: str, about: Mapping[str, str], source: Path) -> None:
    if found != about.get(_SUM):
        raise ValueError(
            f"expected vectors of SHA-256 {about.get(_SUM, 'that the table states')} in {source}, found {found}: "
            "damage; run stage features again"
        )


def _mapped(twin: Path, rows: int, about: dict[str, str], source: Path) -> Tensor:
    """Check and map the raw matrix: it holds no memory until it is used, and writing to it never reaches the file."""
    try:
        with safe_open(twin, framework="pt") as file:  # checks the header and the file's length
            described = json.loads((file.metadata() or {}).get("about", "{}"))
            found = file.get_slice("vectors")
            fits = found.get_shape() == [rows, inception.WIDTH] and found.get_dtype() == "F32"
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"expected vectors in {twin}, found damage ({error}); run stage features again") from error
    if described != about or not fits:
        raise ValueError(f"expected {twin} to belong to {source}, found another table's; run stage features again")
    digest = hashlib.sha256()
    with twin.open("rb") as raw:
        start = 8 + struct.unpack("<Q", raw.read(8))[0]
        raw.seek(start)
        while block := raw.read(_BLOCK):  # not through the map: its pages would count as this process's memory
            digest.update(block)
    _check(digest.hexdigest(), about, twin)
    # safetensors' own tensors are copies; a copy-on-write map is not.
    return torch.from_numpy(np.memmap(twin, "<f4", "c", start, (rows, inception.WIDTH)))
