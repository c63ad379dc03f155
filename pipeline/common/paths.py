"""Where every artefact lives, relative to the project's root: the one place that spells a path, and the data's flow.

``data/raw/<task>`` (for videos through frames and features) → ``sequences/<task>`` → ``runs/<task>/<cell>`` → results.
"""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
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
SUMMARY = RESULTS / "summary.json"
TABLES = RESULTS / "tables"
FIGURES = RESULTS / "figures"
PLOTS = RESULTS / "plots"
REPORT = RESULTS / "report.html"

CHECKPOINTS = Path(".checkpoints")  # kept work: outside DVC's outputs, which DVC deletes before a stage runs
TIMES = CHECKPOINTS / "times.json"  # how long each stage ran last [s]: of no output
DOWNLOAD_LOCK = Path("downloads.lock.json")  # hashes that were trusted on first use, by address: commit it
MIRROR_VARIABLE = "NEM_MIRROR"  # of the environment: a folder to look in before the network (fx, ucf11, weights, …)


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
        raise FileNotFoundError(f"expected {MIRROR_VARIABLE} to name a folder, found {value!r}; create or unset it")
    return folder if value else None
