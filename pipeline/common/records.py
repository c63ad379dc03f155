"""Reading and writing files so that a reader never sees half of one, and equal content means equal bytes."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

PART = 1 << 26  # bytes that are hashed by one thread: fixed, because the digest depends on it
ROW_GROUP = 65_536  # rows per parquet row group: fixed, because the bytes of a parquet file depend on it
AGAIN = "run the stage that writes it again"
ABOUT = "about.json"  # of a folder, written last: what it holds, or that its task is not among `tasks`


@contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``destination``, synced to disk, when the block ends without an error."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(destination)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(destination: Path, content: bytes) -> None:
    """Write ``content`` to ``destination`` atomically."""
    with atomic_path(destination) as temporary:
        temporary.write_bytes(content)


def write_text(destination: Path, content: str) -> None:
    """Write UTF-8 text to ``destination`` atomically, with Unix line ends on every platform."""
    write_bytes(destination, content.encode("utf-8"))


def write_json(destination: Path, content: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write ``content`` as sorted, indented JSON; a NaN or infinity is an error (write ``None`` instead)."""
    write_text(destination, json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(source: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file; a ValueError names one that is not valid."""
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected valid JSON in {source}, found {error}; {AGAIN}") from error


def read_object(source: Path, kinds: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Read a JSON object of which a reader may rely on ``kinds``: keys, such as ``a.b``, and the types of their values.

    A ValueError with the remedy says that it is no object, a key is missing, or a value is of another type.
    """
    content = read_json(source)
    for path, types in kinds.items():
        value: Any = content
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"expected key {path!r} in {source}, found none; {remedy}")
            value = value[key]
        # JSON's true is an int to isinstance.
        if not isinstance(value, types) or isinstance(value, bool):
            wanted, shown = getattr(types, "__name__", types), f"{type(value).__name__} {repr(value)[:40]}"
            raise ValueError(f"expected {path!r} in {source} to be {wanted}, found {shown}; {remedy}")
    return dict(content)


def lists(values: npt.NDArray[Any]) -> pa.Array:
    """Return ``(N, K)`` numbers as a column of N lists of K."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(values)), values.shape[1])


def write_table(destination: Path, table: pa.Table, metadata: Mapping[str, str] | None = None) -> None:
    """Write a parquet file atomically, with ``metadata`` (keys sorted) added: equal tables give equal bytes."""
    if metadata is not None:
        more = {key.encode(): value.encode() for key, value in sorted(metadata.items())}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **more})
    with atomic_path(destination) as temporary:
        # Checksums: a flipped bit in a page decompresses to other numbers without an error often enough.
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)


def read_table(source: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a parquet file; FileNotFoundError: there is none; ValueError: it is damaged, or not of ``schema``."""
    if not source.is_file():
        raise FileNotFoundError(f"expected {source}, found no such file; run the stage that writes it (`dvc repro`)")
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:  # read_table loads pandas first
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"expected a readable parquet file at {source}, found damage ({error}); {AGAIN}") from error
    if schema is not None:
        check_schema(table, schema, source)
    return table


def check_schema(table: pa.Table, schema: pa.Schema, source: Path) -> None:
    """Raise ValueError where a column of ``schema`` is missing from a table, or is of another type."""
    for field in schema:
        kind = table.schema.field(field.name).type if field.name in table.column_names else "no such column"
        if kind != field.type:
            wanted = f"column {field.name!r} of type {field.type}"
            raise ValueError(f"expected {wanted} in {source}, found {kind}; {AGAIN}")


def sha256_of(source: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()  # hashlib.file_digest exists from Python 3.11 on
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(source: Path) -> str:
    """Return the SHA-256 of a file; of one larger than :data:`PART` that of its parts' digests, made on all cores."""
    size = source.stat().st_size
    if size <= PART:
        return sha256_of(source)

    with source.open("rb") as file, ThreadPoolExecutor(os.cpu_count()) as threads:

        def digest(start: int) -> bytes:
            part, place = hashlib.sha256(), start
            while block := os.pread(file.fileno(), min(1 << 18, start + PART - place), place):
                part.update(block)
                place += len(block)
            return part.digest()

        return hashlib.sha256(b"".join(threads.map(digest, range(0, size, PART)))).hexdigest()


def write_absent(folder: Path) -> None:
    """Write that a task is not among ``tasks``: what its stages leave, so that later ones pass it on."""
    write_json(folder / ABOUT, {"absent": True})


def absent(folder: Path) -> bool:
    """Return whether :func:`write_absent` wrote this folder."""
    return (folder / ABOUT).is_file() and read_json(folder / ABOUT) == {"absent": True}
