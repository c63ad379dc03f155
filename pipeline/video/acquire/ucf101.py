"""UCF-101 (Soomro, Zamir, Shah 2012), classes 1-11, as sequences of VGG-16 features, for non-commercial research.

They come from the mirror, in one file, or from their public origin, one file per video. Of the origin's 25 frames,
spread evenly over each video, every second one is used, and its numbers are rounded to float16, in both.
"""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from tqdm.contrib.concurrent import thread_map

from pipeline.common import download, paths, records
from pipeline.video.acquire import features, folder
from pipeline.video.layout import LayoutError

COMMIT = "08e3b1d7d40d75c3e88ad03608ef28e742103d4f"
BASE = f"https://raw.githubusercontent.com/tyagi-iiitv/UCF101_release/{COMMIT}/vgg16_relu6"
TABLE = Path(__file__).with_name("ucf101.csv")
"""Of each video: the origin's name, class, group, clip, and git's hash of the origin's file."""
MIRROR = "ucf101/vgg16_relu6.parquet"  # its place in the mirror, beside a folder of the origin's files, if any
SHA256 = "29bc6c8d2c809b621d2b844c2b49a727b55c8ceb64438abadff7b1ac252428bd"
CONNECTIONS = 8
FRAMES = np.arange(0, 25, 2)
RECORD = {
    "origin": f"VGG-16 relu6 features, tyagi-iiitv/UCF101_release at commit {COMMIT}",
    "terms": "UCF-101: non-commercial research; cite K. Soomro, A. R. Zamir and M. Shah, CRCV-TR-12-01",
}


def acquire(staging: Path) -> folder.Acquired:
    """Get the sequences from the mirror if it has them, else from their origin: the bytes are the same.

    A file that cannot be had is a ``DownloadError``, and those that came are kept; another one a ``LayoutError``.
    """
    mirror = paths.mirror()
    if mirror is None or not (mirror / MIRROR).is_file():
        rows = features.gather(_tracks(_fetched()))
    elif (digest := records.sha256_of(mirror / MIRROR)) == SHA256:
        rows = features.from_parquet(mirror / MIRROR)
    else:
        raise LayoutError(
            f"expected SHA-256 {SHA256} for {MIRROR} in the mirror, found {digest}: damage, or another file; get it "
            "again, or name it in video.acquire.features_path with source features to use it as your own"
        )
    return features.stage(rows, staging, RECORD)


def git_blob_of(source: Path) -> str:
    """Return the hash by which git knows a file's content."""
    content = source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def table() -> list[dict[str, str]]:
    """Return the videos, with the columns ``id``, ``class``, ``group``, ``clip``, ``git_blob``."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _fetched() -> list[tuple[dict[str, str], Path]]:
    """Fetch what is not there yet, some files at a time; return the videos with their files."""

    def fetch(row: dict[str, str]) -> tuple[dict[str, str], Path]:
        file = paths.CHECKPOINTS / "downloads" / "ucf101" / f"{row['id']}.mat"
        mirrored = f"{MIRROR.removesuffix('.parquet')}/{file.name}"
        download.File(f"{BASE}/{file.name}", file, row["git_blob"], mirrored, git_blob_of, quiet=True).place()
        return row, file

    return thread_map(fetch, table(), max_workers=CONNECTIONS, desc="download UCF-101", unit="file")


def _tracks(files: list[tuple[dict[str, str], Path]]) -> Iterator[features.Rows]:
    for row, file in files:
        # One of the files is in float64: first to float32, as the others are.
        values = loadmat(file)["Feature"].astype(np.float32).astype(np.float16)[FRAMES]
        name = f"v_{row['class']}_g{int(row['group']):02d}_c{int(row['clip']):02d}"
        yield features.of_video((row["class"], row["group"], name), FRAMES, None, values)
