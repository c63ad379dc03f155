"""Sequences as people have them: arrays, or a file that is read and checked before any work.

``x`` is ``(N, T, I)`` numbers, ``(N, T)`` for one input, or N arrays ``(T, I)`` of any lengths; ``y`` has names or
numbers of classes ``(N,)``, values ``(N,)`` or ``(N, K)``, or zeros and ones ``(N, K)``; ``group`` is ``(N,)``. A file
``.npz`` holds arrays of these names, and for sequences that end early ``lengths`` ``(N,)``; a file ``.parquet`` has a
row per sequence: x as a list of slices, each a list of numbers, and y as a number, a name, or a list of numbers.
"""

import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.common import paths, records, sequences

Array = npt.NDArray[Any]
DAMAGE = (pa.ArrowException, zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError, NotImplementedError,
          OSError, MemoryError, EOFError, KeyError, TypeError)  # what readers of bad files raise  # fmt: skip
COPIES = 4  # of x that are in memory at once, at most
SLICES, TABLE = "slices.safetensors", "sequences.parquet"  # the one form, in the task's raw folder


class OwnError(ValueError):
    """Sequences that cannot be used as they are; the message says what was expected and what to do."""


@dataclass(frozen=True)
class Own:
    """N sequences, checked."""

    slices: sequences.Vectors  # (S, I): those of all sequences, one sequence after the other
    lengths: npt.NDArray[np.int64]  # (N,)
    y: Array  # (N,) int64, text or float64, or (N, K) float64
    group: list[str] | None  # of each sequence


def of_arrays(x: Any, y: Any, group: Any = None, lengths: Any = None) -> Own:  # noqa: ANN401 - whatever people have
    """Return sequences after a check of shapes and numbers; slices at or beyond ``lengths`` are not looked at.

    Raises:
        OwnError: arrays that do not fit together, or hold something else than finite numbers.
    """
    several = isinstance(x, Sequence) or (isinstance(x, np.ndarray) and x.dtype == object)
    try:
        whole = np.stack([np.asarray(one) for one in x]) if several else np.asarray(x)
    except ValueError:  # of several lengths
        if lengths is not None:
            raise OwnError("expected lengths only beside an x of one shape, found both; leave lengths out") from None
        parts = [np.asarray(one)[:, None] if np.ndim(one) == 1 else np.asarray(one) for one in x]
        if len({part.shape[1:] for part in parts}) != 1 or parts[0].ndim != 2:
            found = ", ".join(map(str, dict.fromkeys(part.shape for part in parts[:9])))
            raise OwnError(f"expected sequences (T, I) with one I in x, found shapes {found}; correct them") from None
        return _checked(np.concatenate(parts), np.array([len(part) for part in parts]), y, group)
    whole = whole[..., None] if whole.ndim == 2 else whole
    if whole.ndim != 3 or not whole.size:
        raise OwnError(f"expected x of shape (N, T, I) with none of them 0, found {whole.shape}; reshape it")
    N, T, I = whole.shape  # noqa: E741 - the paper's letter
    if lengths is None:
        return _checked(whole.reshape(N * T, I), np.full(N, T), y, group)
    count = np.asarray(lengths)
    if count.shape != (N,) or count.dtype.kind not in "iu" or not ((count >= 1) & (count <= T)).all():
        raise OwnError(f"expected lengths of shape ({N},), whole numbers from 1 to {T}, found {_shown(count)}")
    return _checked(whole[np.arange(T) < count[:, None]], count, y, group)


def _checked(slices: Array, lengths: Array, y: Any, group: Any) -> Own:  # noqa: ANN401 - whatever people have
    if slices.dtype.kind not in "fiub":
        raise OwnError(f"expected numbers in x, found {slices.dtype}; convert it to float32")
    N, ends = len(lengths), np.cumsum(lengths)
    with np.errstate(over="ignore"):  # what becomes infinite is refused here
        numbers = np.ascontiguousarray(slices, np.float32)
    broken = np.flatnonzero(~np.isfinite(numbers).all(1))
    if len(broken):
        at = int(np.searchsorted(ends, broken[0], side="right"))
        place = f"sequence {at} (slice {broken[0] - (ends[at] - lengths[at])}, from 0)"
        raise OwnError(f"expected finite numbers in x, found {numbers[broken[0]].tolist()[:9]} in {place}, and in "
                       f"{len(broken)} slices in all; fill or leave out what is missing")  # fmt: skip
    target = np.asarray(y)
    target = target.astype(np.int64 if target.ndim == 1 else np.float64) if target.dtype.kind in "b" else target
    if target.ndim not in (1, 2) or len(target) != N or not target.size or target.dtype.kind not in "iufUSO":
        raise OwnError(f"expected y of shape (N,) or (N, K) for the N = {N} sequences in x, found {_shown(target)}")
    if target.dtype.kind in "USO" and (target.ndim > 1 or not all(isinstance(v, str) and v for v in target.tolist())):
        raise OwnError(f"expected numbers or names of classes in y, found {_shown(target)}; write one or the other")
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        bad = np.flatnonzero(~np.isfinite(target.reshape(N, -1)).all(1))
        raise OwnError(f"expected finite numbers in y, found {target[bad[0]]} in sequence {bad[0]}, {len(bad)} in all; "
                       "leave those sequences out")  # fmt: skip
    numeric: Any = np.float64 if target.ndim > 1 or target.dtype.kind == "f" else np.int64
    kind = str if target.dtype.kind in "USO" else numeric
    names = None if group is None else np.asarray(group)
    if names is not None and (names.shape != (N,) or any(str(v) in ("None", "nan", "") for v in names.tolist())):
        raise OwnError(f"expected a group for each of the {N} sequences, found {_shown(names)}; name one for each")
    groups = None if names is None else [str(name) for name in names.tolist()]
    return Own(numbers, lengths.astype(np.int64), target.astype(kind), groups)


def _shown(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}" + (f" such as {array.ravel()[:5].tolist()}" if array.size else "")


def memory() -> int:
    """Return this machine's memory [bytes]."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _fits(source: Path, size: int) -> None:
    if COPIES * size > memory():
        raise OwnError(f"expected arrays of at most {memory() / COPIES / 2**30:.1f} GiB, a quarter of this machine's "
                       f"memory, found {size / 2**30:.1f} GiB in {source}; write fewer slices or inputs")  # fmt: skip


def read(source: Path) -> Own:
    """Read a file; FileNotFoundError: there is none; OwnError: it is damaged, too large, or as :func:`of_arrays`."""
    if not source.is_file():
        raise FileNotFoundError(f"expected your sequences in a file at {source}, found none; correct own.acquire.path")
    try:
        if source.suffix == ".npz":
            with zipfile.ZipFile(source) as archive:
                _fits(source, sum(one.file_size for one in archive.infolist()))
            with np.load(source, allow_pickle=False) as file:
                return of_arrays(**_named(source, file.files, file))
        if source.suffix == ".parquet":
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                about = file.metadata
                groups = [about.row_group(k) for k in range(about.num_row_groups)]
                _fits(source, 8 * sum(g.column(c).num_values for g in groups for c in range(g.num_columns)))
                columns = file.read()
            return _of_table(**_named(source, columns.column_names, columns))
    except DAMAGE as error:
        raise OwnError(f"expected a sound file of arrays at {source}, found: {error}; write it again") from error
    except ValueError as error:
        told = str(error) if isinstance(error, OwnError) else f"expected plain arrays, found: {error}; write them so"
        raise OwnError(f"{source}: {told}") from error
    raise OwnError(f"expected a file .npz or .parquet, found {source}; write it with numpy.savez or pandas.to_parquet")


def _named(source: Path, names: Sequence[str], content: Any) -> dict[str, Any]:  # noqa: ANN401 - a mapping
    """Return the arrays of a file by name."""
    known = ("x", "y", "group", "lengths")
    if not {"x", "y"} <= set(names) <= set(known):
        wanted = "x, y and, if there are any, group and lengths"
        found = f"found {', '.join(names) or 'nothing'}; write it with these names, a table without an index"
        raise OwnError(f"expected {wanted}, {found}")
    return {name: content[name] for name in known if name in names}


def _of_table(x: pa.ChunkedArray, y: pa.ChunkedArray, group: Any = None, lengths: Any = None) -> Own:  # noqa: ANN401
    """Return sequences of Arrow's columns; what does not fit is an Arrow error."""
    if lengths is not None:
        raise pa.ArrowInvalid("a column lengths, which lists need not")
    column, per = x.combine_chunks(), []
    while isinstance(column.type, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        if column.null_count:
            raise pa.ArrowInvalid("missing values in x")
        per.append(pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64))
        column = column.flatten()
    if not 1 <= len(per) <= 2 or column.null_count or not len(column) or (len(per) > 1 and np.ptp(per[1])):
        raise pa.ArrowInvalid(f"{x.type} in column x; write lists of slices, each a list of I numbers, none missing")
    numbers = column.to_numpy(zero_copy_only=False).reshape(-1, int(per[1][0]) if len(per) > 1 else 1)
    if (per[0] < 1).any():
        raise pa.ArrowInvalid(f"a sequence without slices in row {int(per[0].argmin())}")
    if y.null_count or (group is not None and group.null_count):
        raise pa.ArrowInvalid("missing values in y or group")
    target = np.array(y.to_pylist()) if pa.types.is_nested(y.type) else np.asarray(y.to_pylist())
    return _checked(numbers, per[0], target, None if group is None else group.to_pylist())


def acquire(path: str | None, title: str, unit: str) -> None:
    """Read a file and write its sequences in the one form, with the record of where they came from; errors of read."""
    if path is None:
        raise OwnError("expected own.acquire.path for the task of own sequences, found none; name your file there")
    own, source, folder = read(Path(path)), Path(path), paths.raw("own")
    sequences.write_vectors(folder / SLICES, own.slices)
    group = pa.nulls(len(own.lengths), pa.string()) if own.group is None else pa.array(own.group)
    y = records.lists(own.y) if own.y.ndim > 1 else pa.array(own.y.tolist())
    columns = {"length": own.lengths, "y": y, "group": group}
    records.write_table(folder / TABLE, pa.table(columns))
    sizes = {"sequences": len(own.lengths), "slices": len(own.slices), "inputs": own.slices.shape[1]}
    about = {"source": "file", "file": source.name, "sha256": records.sha256_of(source), "title": title, "unit": unit}
    records.write_json(paths.source_record("own"), {**about, **sizes})
    print("own: " + ", ".join(f"{count} {name}" for name, count in sizes.items()) + f" from {source.name}")


def load() -> Own:
    """Read what :func:`acquire` wrote, slices mapped into memory; FileNotFoundError or ValueError: missing, damaged."""
    folder = paths.raw("own")
    table = records.read_table(folder / TABLE, pa.schema([("length", pa.int64()), ("group", pa.string())]))
    y, group = table["y"].to_pylist(), table["group"].to_pylist()
    lengths = table["length"].to_numpy()
    return Own(sequences.mapped(folder / SLICES), lengths, np.array(y), None if None in group else group)
