"""Where every artefact lives, relative to the project's root: the one place that spells a path.

Stages communicate through these files only, so this is also the map of the data flow: a task's data go from
``data/raw/<task>`` (for videos through ``data/frames`` and ``data/features``) to ``data/sequences/<task>``, which all
tasks have in one form; training writes ``data/runs/<task>/<cell>``, and evaluation ``data/results``.
"""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")
DATA = Path("data")
RAW = DATA / "raw"
FRAMES = DATA / "frames"
FEATURES = DATA / "features"
FEATURES_TABLE = FEATURES / "features.parquet"
SEQUENCES = DATA / "sequences"
RUNS = DATA / "runs"
RESULTS = DATA / "results"
METRICS = RESULTS / "metrics.json"
TABLES = RESULTS / "tables"
FIGURES = RESULTS / "figures"
PLOTS = RESULTS / "plots"
REPORT = RESULTS / "report.html"

CHECKPOINTS = Path(".checkpoints")
"""Kept work (:mod:`pipeline.common.kept`): outside DVC's outputs, since DVC deletes those before a stage runs."""

DOWNLOAD_LOCK = Path("downloads.lock.json")
"""Hashes that were trusted on first use, by address; commit it, so that everybody gets the same files."""

MIRROR_VARIABLE = "NEM_MIRROR"
"""Environment variable: a folder that is looked in before the network, with ``fx``, ``ucf11``, ``weights``, …"""


def raw(task: str) -> Path:
    """Return the folder of the acquired inputs of ``task``."""
    return RAW / task


def source_record(task: str) -> Path:
    """Return the file that says where the acquired data of ``task`` came from."""
    return RAW / task / "source.json"


def sequences(task: str) -> Path:
    """Return the folder of the data that ``task`` trains on (:mod:`pipeline.common.sequences`)."""
    return SEQUENCES / task


def run_folder(task: str, cell: str, split: str | None = None) -> Path:
    """Return the folder of the results of a cell on a further split of a task; on its first one with ``None``."""
    return RUNS / task / cell / (split or "")


def run_name(task: str, split: str | None = None) -> str:
    """Return what results call a task and its split: the task alone for its first split (``None``)."""
    return task if split is None else f"{task}_{split}"


def mirror() -> Path | None:
    """Return the folder that :data:`MIRROR_VARIABLE` names, if any; FileNotFoundError says that it does not exist."""
    value = os.environ.get(MIRROR_VARIABLE, "")
    folder = Path(value).expanduser()
    if value and not folder.is_dir():
        raise FileNotFoundError(
            f"expected {MIRROR_VARIABLE} to name an existing folder, found {value!r}; create it or unset the variable"
        )
    return folder if value else None
