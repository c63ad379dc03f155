"""The table of features, ``features.parquet``, and a twin that maps into memory.

Parquet cannot be mapped into memory, so the same numbers stand once more in ``vectors.safetensors``, whose digest the
table states and :func:`load` checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common import records, sequences
from pipeline.common.sequences import Vectors

_SUM = "vectors_digest"


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
    vectors: Vectors  # (P, D) float32, mapped from the twin file and paged in as they are read
    about: dict[str, str]  # what made them: weights, preprocessing, versions, and the digest of the twin file

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.video_id)


def save(destination: Path, columns: Mapping[str, object], vectors: Vectors, about: Mapping[str, str]) -> None:
    """Write ``features.parquet``, of all columns of :func:`schema`, and its twin ``vectors.safetensors`` ``(P, D)``."""
    twin = destination / "vectors.safetensors"
    sequences.write_vectors(twin, vectors)
    table = pa.table({**columns, "feature": records.lists(vectors)}, schema=schema(vectors.shape[1]))
    records.write_table(destination / "features.parquet", table, {**about, _SUM: records.digest_of(twin)})


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
    digest = records.digest_of(twin)
    if digest != about.get(_SUM):
        raise ValueError(
            f"expected vectors of the digest {about.get(_SUM, 'that the table states')} in {twin}, found {digest}: "
            "damage, or another table's; run stage features again"
        )
    vectors = sequences.mapped(twin)
    records.check_schema(content.schema_arrow.empty_table(), schema(vectors.shape[1]), source)
    frame_index, timestamp_s, samples = (table[name].to_numpy() for name in schema(1).names[1:-1])
    return FeatureTable(table["video_id"].to_pylist(), frame_index, timestamp_s, samples, vectors, about)
