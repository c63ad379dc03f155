"""People's own sequences of features: a parquet file, or a folder of ``.npy`` files; and the one form that all get.

Parquet: columns ``class``, ``group``, ``video``, ``frame`` or ``timestamp_s`` or both, and ``feature``, a list of
numbers. Folder: ``class/group/video.npy``, or ``class/video.npy`` where the name says the group, of ``(frames, D)``
numbers; times may stand beside it, in ``<its name>_timestamps_ms.npy`` or else ``video_timestamps_ms.npy``.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.common import paths, records
from pipeline.video import layout
from pipeline.video.acquire import folder
from pipeline.video.layout import LayoutError, Video

Array = npt.NDArray[Any]
NAMES = ("class", "group", "video")
_KEYS = pa.schema([*((name, pa.string()) for name in NAMES), ("frame", pa.int32()), ("timestamp_s", pa.float64())])
_BLOCK = 1 << 26  # bytes of features in a row group
_TIMES = "_timestamps_ms"
Rows = tuple[pa.Table, Array]
"""Frames of some or all videos, in any order: who they are (``_KEYS``), and their ``(rows, D)`` features."""


def schema(dimensions: int) -> pa.Schema:
    """Return the columns of :data:`layout.SEQUENCES`; its rows are sorted by class, group, video and frame."""
    return _KEYS.append(pa.field("feature", pa.list_(pa.float32(), dimensions)))


def acquire(staging: Path, path: str | None, pattern: str) -> folder.Acquired:
    """Check the sequences at ``path``, with groups by ``pattern``, and put them into staging, in the one form."""
    if path is None:
        raise FileNotFoundError("expected video.acquire.features_path with source features, found none; name it there")
    source = Path(path)
    if not source.is_dir():
        return stage(from_parquet(source), staging, {"features": source.name})
    names = folder.files_below(source)
    arrays = [name for name in names if name.suffix == ".npy" and not name.name.startswith(".")]
    videos = folder.videos_at([name for name in arrays if not name.stem.endswith(_TIMES)], pattern)
    warnings = folder.check(videos, pattern)
    record = {"features": source.name, "files_ignored": len(names) - len(arrays)}
    return stage(gather(_tracks(source, videos)), staging, record, warnings)


def stage(rows: Rows, staging: Path, record: Mapping[str, object], warnings: Iterable[str] = ()) -> folder.Acquired:
    """Write ``sequences.parquet``: equal sequences give equal bytes, wherever they came from.

    Too few classes or groups, frames or times that do not ascend, numbers that are not finite, and equal sequences in
    two classes are a ``LayoutError``; a full disk is an ``OSError``.
    """
    keys, features = rows
    clock = "frame" if keys["frame"].null_count == 0 else "timestamp_s"
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in (*NAMES, clock)]).to_numpy()
    keys, count, dimensions = keys.take(order), *features.shape
    path = np.array(pc.binary_join_element_wise(*(keys[name] for name in NAMES), "/").to_pylist())
    first = np.flatnonzero(np.r_[True, path[1:] != path[:-1]])
    times, steps = keys["timestamp_s"].to_numpy(), np.diff(keys[clock].to_numpy())
    wrong = (path[1:] == path[:-1]) & ~((steps > 0) & ~(np.diff(times) < 0))
    if keys[clock].null_count or wrong.any():
        raise LayoutError(
            f"expected each frame of a video once, with times that ascend, found others in {path[wrong.argmax()]}; "
            "number the frames of each video in column frame"
        )
    if clock != "frame":
        frame = np.arange(count) - np.repeat(first, np.diff(np.r_[first, count]))
        keys = keys.set_column(3, _KEYS.field("frame"), pa.array(frame.astype(np.int32)))
    videos = [Video(name, *name.split("/")[:2]) for name in path[first].tolist()]
    warnings = [*dict.fromkeys([*warnings, *folder.check_groups(videos)])]  # of a folder, they were checked before
    digests, step = list[bytes](), int(max(1, _BLOCK // (4 * dimensions)))
    with (
        records.atomic_path(staging / layout.SEQUENCES.name) as temporary,
        pq.ParquetWriter(temporary, schema(dimensions), compression="zstd", write_page_checksum=True,
                         use_dictionary=list(NAMES), use_byte_stream_split=["feature.list.element"]) as writer,
    ):  # fmt: skip
        for start in range(0, count, step):
            # A zero of either sign is one number; equal sequences must have equal bytes.
            block = features[order[start : start + step]] + np.float32(0)
            if len(broken := np.flatnonzero(~np.isfinite(block).all(1))):
                raise LayoutError(f"expected finite numbers (as float32), found others in {path[start + broken[0]]}")
            digests += [hashlib.sha256(row).digest() for row in block]
            columns = [*keys.slice(start, step).columns, records.lists(block)]
            writer.write_table(pa.table(columns, schema=schema(dimensions)))
    ends = [*first[1:], count]
    contents = {video: b"".join(digests[k:end]) for video, k, end in zip(videos, first, ends, strict=True)}
    warnings += folder.check_copies(contents)
    return folder.Acquired(videos, {**record, "frames": count, "dimensions": dimensions}, warnings)


def of_video(names: Iterable[str], frames: Array, times: Array | None, features: Array) -> Rows:
    """Return a video's rows: its class, group and name, ``(n,)`` numbers of frames and times [s]."""
    clock = pa.nulls(len(frames), pa.float64()) if times is None else pa.array(times, pa.float64())
    columns = [*([name] * len(frames) for name in names), pa.array(frames, pa.int32()), clock]
    return pa.table(columns, schema=_KEYS), features


def gather(parts: Iterable[Rows]) -> Rows:
    """Return all rows of those that come one by one; a ``LayoutError`` for another D than that of the first."""
    tables, dimensions = list[pa.Table](), 0
    paths.CHECKPOINTS.mkdir(exist_ok=True)
    # A file without a name, gone when nobody maps it any more: features of any size need no memory.
    with tempfile.TemporaryFile(dir=paths.CHECKPOINTS) as scratch:
        for keys, features in parts:
            dimensions = dimensions or features.shape[1]
            if features.shape[1] != dimensions:
                raise LayoutError(
                    f"expected {dimensions} numbers per frame, as in the videos before, found {features.shape[1]} in "
                    f"{'/'.join(keys[name][0].as_py() for name in NAMES)}; extract all with one network"
                )
            with np.errstate(over="ignore"):  # what becomes infinite is refused later
                scratch.write(np.ascontiguousarray(features, np.float32).data)
            tables.append(keys)
        scratch.flush()
        return pa.concat_tables(tables), np.memmap(scratch, np.float32, "r").reshape(-1, dimensions)


def from_parquet(source: Path) -> Rows:
    """Return the rows of a parquet file; a ``LayoutError`` for damage, or a column missing or of another kind."""
    if not source.is_file():
        raise FileNotFoundError(f"expected a parquet file or a folder of .npy files at {source}, found neither")
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            names, known = file.schema_arrow.names, {*_KEYS.names, "feature"}
            if not {*NAMES, "feature"} < known.intersection(names) or not file.metadata.num_rows:
                raise LayoutError(
                    f"expected rows with columns class, group, video, feature, and frame or timestamp_s in {source}, "
                    f"found {file.metadata.num_rows} rows of {', '.join(names)}; write it with these names"
                )
            return gather(map(_batch, file.iter_batches(1024, columns=list(known.intersection(names)))))
    except (pa.ArrowException, OSError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the file's content
            raise
        raise LayoutError(
            f"expected a sound parquet file of names, whole numbers of frames, and features as lists of one length at "
            f"{source}, found: {error}; write it so"
        ) from error


def _batch(rows: pa.RecordBatch) -> Rows:
    """Return rows of somebody's table in the one form; what does not fit is an Arrow error, or a TypeError."""
    column = rows["feature"]
    values = column.cast(pa.list_(pa.float32(), len(column[0]))).flatten()
    if not len(values) or column.null_count or values.null_count:
        raise pa.ArrowInvalid("features with missing numbers")
    return pa.table([_key(rows, field) for field in _KEYS], _KEYS), values.to_numpy().reshape(len(rows), -1)


def _key(rows: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """Return one column of keys in its proper type; what does not fit is an Arrow error."""
    if field.name not in rows.schema.names:
        return pa.nulls(len(rows), field.type)
    column = rows[field.name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    column = column.cast(kind).cast(field.type)
    if field.name == "timestamp_s":
        return pc.if_else(pc.is_finite(column), column, None)
    if pa.types.is_floating(kind) or column.null_count:  # floating: a column of whole numbers with gaps
        raise pa.ArrowInvalid(f"{kind} or missing values in column {field.name!r}")
    values = column.to_pylist()
    if field.name == "video":  # people name the file, with its folder and suffix
        values = [Video(PurePosixPath(name).name, "", "").video_id for name in values]
    if field.name == "frame" and min(values) < 0:
        raise pa.ArrowInvalid("frames below 0")
    if field.name in NAMES and not all(name and "/" not in name for name in values):
        raise pa.ArrowInvalid(f"an empty name or one with '/' in column {field.name!r}")
    return pa.array(values, field.type)


def _tracks(root: Path, videos: list[Video]) -> Iterator[Rows]:
    """Yield the sequences of a folder."""
    for video in videos:
        file = root / video.path
        features = _load(file, axes=2)
        clocks = (file.with_name(f"{stem}{_TIMES}.npy") for stem in (file.stem, "video"))
        times = next((_load(place, axes=1) / 1000 for place in clocks if place.is_file()), None)
        if times is not None and len(times) != len(features):
            raise LayoutError(f"expected {len(features)} times for {file}, found {len(times)}; write one per frame")
        yield of_video((video.class_name, video.group, file.stem), np.arange(len(features)), times, features)


def _load(file: Path, axes: int) -> Array:
    """Map an array from the disk: features, or times, which have one axis."""
    try:
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
        seen = f"{array.dtype} of shape {array.shape}"
    except (ValueError, EOFError, AttributeError) as error:
        raise LayoutError(f"expected an array in {file}, found none ({error}); write it with numpy.save") from error
    if array.ndim != axes or not array.size or array.dtype.kind not in "fiu":
        shape = "(frames, D)" if axes > 1 else "(frames,)"
        raise LayoutError(f"expected numbers of shape {shape} in {file}, found {seen}; write them with numpy.save")
    return array
