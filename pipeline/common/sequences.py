"""The one form of data between tasks and training: ``data/sequences/<task>``.

Sequences overlap, so each is a row of indices into a pool of slices, a file mapped into memory. A folder holds
``sequences.parquet`` (names, indices, targets, groups, the side of each sequence in each split), one pool for all
splits or one per split, and ``about.json``, written last, with digests of the others. What reads a folder raises
FileNotFoundError where a file is missing, and ValueError where one is damaged or the task is switched off.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.common import records
from pipeline.common.records import ABOUT

if TYPE_CHECKING:  # it takes seconds to import, and stages that only write sequences need none of it
    import torch
    from torch import Tensor

Head = Literal["softmax", "identity", "logistic"]
Vectors = npt.NDArray[np.float32]  # (P, I): slices, features
Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
TABLE, TENSOR = "sequences.parquet", "vectors"
KINDS: dict[str, Any] = {  # what ABOUT holds
    "slices": int, "outputs": int, "splits": list, "pools": list, "head": str, "target_scale": int | float,
    "target_offset": int | float, "unit": str, "classes": list, "files": dict, "origin": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Sequences:
    """A set of labelled sequences."""

    pool: "Tensor"  # (P, I) float32 slices, possibly memory-mapped
    index: "Tensor"  # (N, T) int64 rows of ``pool``; -1 before the first slice of a sequence that is shorter than T
    targets: "Tensor"  # (N, K) float32: scaled values, 1-in-K codes, or zeros and ones
    rows: "Tensor"  # (N,) int64 names of the sequences (day index or clip number)

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.index)

    def subset(self, chosen: "Tensor") -> "Sequences":
        """Return the sequences at positions ``chosen``."""
        return Sequences(self.pool, self.index[chosen], self.targets[chosen], self.rows[chosen])

    @cached_property
    def ragged(self) -> bool:
        """Whether any sequence is shorter than T slices."""
        return bool((self.index[:, 0] < 0).any())

    def lengths(self) -> "Tensor":
        """Return how many slices each has, ``(N,)``."""
        return (self.index >= 0).sum(1)

    def means(self) -> npt.NDArray[np.float32]:
        """Return the mean slice of each, ``(N, I)``: one by one, since all slices at once may not fit into memory."""
        return np.stack([self.pool.numpy()[rows[rows >= 0]].mean(0) for rows in self.index.numpy()])

    def to(self, device: "torch.device") -> "Sequences":
        """Return a copy on ``device`` (itself if it is there)."""
        return Sequences(*(part.to(device) for part in (self.pool, self.index, self.targets, self.rows)))


@dataclass(frozen=True)
class Dataset:
    """One split of a task's data, as training takes it."""

    train: Sequences
    test: Sequences
    validation: Sequences | None  # ``None`` where they were joined to the training sequences
    head: Head  # ``softmax`` (classes), ``identity`` (values) or ``logistic`` (labels: each is there or not)
    target_scale: float  # raw units per scaled unit of the target (1 for classes)
    target_offset: float  # raw value of a scaled 0
    unit: str  # of the raw target
    classes: tuple[str, ...]  # names, empty for values
    digest: dict[str, str]  # of each file, by name: records.digest_of
    # What made the slices (for features of frames: sampling, weights, preprocessing): plain JSON values.
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """I, features per slice."""
        return self.train.pool.shape[1]

    @property
    def outputs(self) -> int:
        """K, output neurons."""
        return self.train.targets.shape[1]

    @property
    def slices(self) -> int:
        """T, slices per sequence, at most."""
        return self.train.index.shape[1]


@dataclass(frozen=True)
class Table:
    """All sequences of a task, as its data stage writes them; what is not told here is as in the two classes above."""

    rows: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    targets: npt.NDArray[np.float32]
    group: list[str] | None  # of each sequence
    splits: Mapping[str, npt.NDArray[np.str_]]  # by name, the side of each sequence; the first is the paper's split
    pools: Mapping[str, Vectors]  # by split, (P, I) float32 slices; one called "" serves all splits
    head: Head
    target_scale: float = 1.0
    target_offset: float = 0.0
    unit: str = ""
    classes: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)


def _schema(slices: int, outputs: int, names: Sequence[str]) -> pa.Schema:
    """Return the columns of ``sequences.parquet`` for sequences of T slices, K outputs and these splits."""
    lists = [("index", pa.list_(pa.int64(), slices)), ("target", pa.list_(pa.float32(), outputs))]
    texts = [(name, pa.string()) for name in ("group", *(f"split_{name}" for name in names))]
    return pa.schema([("row", pa.int64()), *lists, *texts])


def _pool_name(split: str) -> str:
    return f"pool.{split}.safetensors" if split else "pool.safetensors"


def write(folder: Path, table: Table) -> None:
    """Write a task's sequences, ``about.json`` last; ValueError: none, or pools and splits do not fit together."""
    count, T = table.index.shape
    names, K = list(table.splits), table.targets.shape[1]
    sides = {str(side) for several in table.splits.values() for side in several}
    if not count or not names or set(table.pools) not in ({""}, set(names)) or not sides <= set(SIDES):
        found = f"{count} sequences, splits {names} into {sorted(sides)} and pools {list(table.pools)}; correct that"
        raise ValueError(f"expected sequences with splits into {SIDES}, and one pool or one per split, found {found}")
    (folder / ABOUT).unlink(missing_ok=True)
    for stale in folder.glob("pool*.safetensors"):
        stale.unlink()
    texts: list[list[Any]] = [table.group or [None] * count, *(np.asarray(s).tolist() for s in table.splits.values())]
    columns = [pa.array(table.rows), records.lists(table.index), records.lists(table.targets)]
    columns += [pa.array(text, pa.string()) for text in texts]
    records.write_table(folder / TABLE, pa.Table.from_arrays(columns, schema=_schema(T, K, names)))
    for split, pool in table.pools.items():
        write_vectors(folder / _pool_name(split), pool)
    files = (TABLE, *map(_pool_name, table.pools))
    about = {name: getattr(table, name) for name in ("head", "target_scale", "target_offset", "unit")}
    about |= {"slices": T, "outputs": K, "splits": names, "pools": list(table.pools), "classes": list(table.classes)}
    about |= {"origin": dict(table.origin), "files": {name: records.digest_of(folder / name) for name in files}}
    records.write_json(folder / ABOUT, about)


def write_vectors(destination: Path, vectors: Vectors) -> None:
    """Write ``(P, I)`` as a safetensors file from where they lie.

    The format's own writer makes a temporary file under a name of its own, which a kill would leave among the outputs.
    """
    vectors = np.ascontiguousarray(vectors, "<f4")
    described = {TENSOR: {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [0, vectors.nbytes]}}
    header = json.dumps(described, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with records.atomic_path(destination) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(vectors.data)


def _about(folder: Path) -> dict[str, Any]:
    """Return ``about.json`` after a check of its keys and types."""
    source = folder / ABOUT
    if not source.is_file():
        raise FileNotFoundError(f"expected sequences in {folder}, found no {ABOUT}; run `dvc repro`")
    if records.absent(folder):
        raise ValueError(f"expected sequences in {folder}, found its task switched off; add it to tasks in params.yaml")
    return records.read_object(source, KINDS, "run `dvc repro` again")


def splits(folder: Path) -> tuple[str, ...]:
    """Return the names of the splits, the paper's first."""
    return tuple(_about(folder)["splits"])


def _checked(folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Return a file of the folder after its digest was compared."""
    source = folder / name
    if not source.is_file():
        raise FileNotFoundError(f"expected {source}, found no such file; run `dvc repro`")
    digest, stated = records.digest_of(source), about["files"].get(name)
    if digest != stated:
        raise ValueError(f"expected {source} with the digest {stated}, found {digest}: damage; run `dvc repro`")
    return source


def read_table(folder: Path) -> pa.Table:
    """Return ``sequences.parquet``: row, index, target, group, and split_<name> for every split."""
    about = _about(folder)
    layout = _schema(about["slices"], about["outputs"], about["splits"])
    return records.read_table(_checked(folder, TABLE, about), layout)


def mapped(source: Path) -> Vectors:
    """Map a pool: it holds no memory until it is used, and writing to it never reaches the file."""
    try:
        with source.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))[TENSOR]
        kind, shape, start = header["dtype"], header["shape"], 8 + length + header["data_offsets"][0]
        if kind != "F32" or len(shape) != 2:
            raise ValueError(f"{kind} of shape {shape}")
        # safetensors' own tensors are copies; a copy-on-write map is not.
        return np.asarray(np.memmap(source, "<f4", "c", start, tuple(shape)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected float32 (P, I) in {source}, found otherwise ({error}); run `dvc repro`") from error


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Return a column, by DLPack, since ``to_numpy`` loads pandas first; ValueError: something is missing."""
    several = pa.types.is_fixed_size_list(column.type)
    values = column.values if several else column
    if column.null_count or values.null_count:
        raise ValueError("expected a value in every place of a table of sequences, found none; run `dvc repro` again")
    return np.from_dlpack(values).reshape((-1, column.type.list_size) if several else -1)


def load(folder: Path, split: str | None = None, *, validation: Literal["joined", "apart"] = "joined") -> Dataset:
    """Return one split of a task's sequences (``None``: the first), its pool mapped into memory.

    Validation sequences are ``joined`` to the training sequences, in the table's order, or ``apart``. A ValueError says
    that there is no such split, or that a side of it is empty.
    """
    import torch

    about = _about(folder)
    name = about["splits"][0] if split is None else split
    if name not in about["splits"]:
        raise ValueError(f"expected one of the splits {about['splits']} in {folder}, found {name!r}; name one of them")
    table = read_table(folder)
    pool_name = _pool_name(name if name in about["pools"] else "")
    pool = torch.from_numpy(mapped(_checked(folder, pool_name, about)))
    rows, index, targets = (torch.tensor(_numbers(table[n].combine_chunks())) for n in ("row", "index", "target"))
    padding = index < 0
    if len(table) and (
        not -1 <= int(index.min()) <= int(index.max()) < len(pool)
        or bool(padding[:, -1].any())
        or bool((padding[:, 1:] & ~padding[:, :-1]).any())
    ):
        raise ValueError(f"expected rows of the {len(pool)} slices in {folder / TABLE}, found others; run `dvc repro`")
    everything = Sequences(pool, index, targets, rows)
    side = np.array(table[f"split_{name}"].to_pylist(), dtype=str)
    apart = {"training": ["train"], "test": ["test"], "validation": ["validation"]}
    wanted = apart if validation == "apart" else {"training": ["train", "validation"], "test": ["test"]}
    parts = {}
    for what, sides in wanted.items():
        parts[what] = everything.subset(torch.from_numpy(np.isin(side, sides)).nonzero().flatten())
        if not len(parts[what]):
            at = f"in split {name!r} of {folder}"
            raise ValueError(f"expected at least one {what} sequence {at}, found none; change the split in params.yaml")
    digest = {ABOUT: records.sha256_of(folder / ABOUT), **{n: about["files"][n] for n in (TABLE, pool_name)}}
    return Dataset(
        parts["training"], parts["test"], parts.get("validation"), about["head"], float(about["target_scale"]),
        float(about["target_offset"]), about["unit"], tuple(about["classes"]), digest, about["origin"],
    )  # fmt: skip
