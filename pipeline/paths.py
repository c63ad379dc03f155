"""Where every artefact lives: the one place that spells a path, relative to the project root.

Stages communicate through these files only, so this module is also the map of the data flow
``acquire → frames → features → fx_windows → train → evaluate``.
"""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")
DATA = Path("data")

RAW = DATA / "raw"
"""Acquired inputs, one folder per task, each with a ``source.json`` that says where it came from."""

FX_RAW = RAW / "fx"
FX_RATES = FX_RAW / "rates.csv"
FX_WINDOWS = DATA / "fx" / "windows.parquet"
VIDEO_RAW = RAW / "video"
VIDEO_CLIPS = VIDEO_RAW / "videos"
VIDEO_INDEX = VIDEO_RAW / "index.csv"
VIDEO_VECTORS = VIDEO_RAW / "vectors.parquet"
FRAMES = DATA / "frames"
FRAMES_MANIFEST = FRAMES / "manifest.parquet"
FEATURES = DATA / "features"
FEATURES_TABLE = FEATURES / "features.parquet"
CLIPS_TABLE = FEATURES / "clips.parquet"
RUNS = DATA / "runs"
RESULTS = DATA / "results"
METRICS = RESULTS / "metrics.json"
TABLES = RESULTS / "tables"
FIGURES = RESULTS / "figures"
PLOTS = RESULTS / "plots"
REPORT = RESULTS / "report.html"

CHECKPOINTS = Path(".checkpoints")
"""Resumable state of unfinished stages: outside DVC's outputs, since DVC deletes those before a stage runs."""

DOWNLOAD_LOCK = Path("downloads.lock.json")
"""Hashes that were trusted on first use, by address; commit it, so that everybody gets the same files."""

MIRROR_VARIABLE = "NEM_MIRROR"
"""Environment variable: a folder that is looked in before the network (layout: ``fx/``, ``ucf11/``, ``weights/``,
``features/``)."""


def run_folder(task: str, cell: str) -> Path:
    """Return the folder with the results of training ``cell`` on ``task``."""
    return RUNS / task / cell


def source_record(task: str) -> Path:
    """Return the provenance file of the acquired data of ``task``."""
    return RAW / task / "source.json"


def mirror() -> Path | None:
    """Return the local mirror folder, or ``None`` when :data:`MIRROR_VARIABLE` is unset or empty.

    Raises:
        FileNotFoundError: the variable names a folder that does not exist.
    """
    value = os.environ.get(MIRROR_VARIABLE, "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected {MIRROR_VARIABLE} to name an existing folder, found {value!r}; create it or unset the variable"
        )
    return folder
