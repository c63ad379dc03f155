"""MLflow as a view of the run files: the only module that imports mlflow.

Files are the truth. Each (task, cell, condition, repetition) is a *slot* that has exactly one run, whatever sequence
of training, killing, restoring from DVC's cache and syncing came before: a run carries its slot and a digest of the
numbers in it; :func:`sync` keeps the one whose digest fits the files, deletes all others of the slot, and makes what
is missing. Training logs each repetition as it ends with the same keys, so a sync afterwards finds nothing to do; if
the store cannot be reached, training goes on and a later sync completes it.

Slots belong to a *project* (:func:`project`): on a server that several clones share, each clone keeps one run per slot
of its own, deletes only its own, and says whose runs it left alone. A clone is known by host and folder, so one that
moves leaves its old runs behind unless ``NEM_PROJECT`` gives it a name that moves with it. Writers of one folder wait
for each other; two folders with one ``NEM_PROJECT`` do not, and may hold a slot twice until the next sync.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import platform
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec
from ruamel.yaml import YAML
from sqlalchemy.exc import SQLAlchemyError

from pipeline import conditions, paths, records
from pipeline.params import Params
from pipeline.training.engine import METRICS, Repetition

# A store's fault becomes one message of ours; MLflow would print its traceback first.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

LARGEST_BATCH = 1000
"""Metrics that one ``log_batch`` call may hold."""

SLOT, DIGEST, COMPLETE, PARENT = "nem.slot", "nem.digest", "nem.complete", "mlflow.parentRunId"
PROJECT = "nem.project"
"""Tag: whose run it is."""
OWN = "this folder"
"""The project of a store that lies in the project's folder, wherever that is copied or moved to."""

THEOREMS = {
    ("softmax", "additive", "output"): "Theorem 2",
    ("softmax", "multiplicative", "output"): "Corollary 1",
    ("identity", "additive", "output"): "Theorem 3",
    ("identity", "multiplicative", "output"): "Corollary 2",
    ("lstm", "additive", "hidden"): "Theorem 4",
    ("lstm", "multiplicative", "hidden"): "Corollary 3",
    ("gru", "additive", "hidden"): "Theorem 5",
    ("gru", "multiplicative", "hidden"): "Corollary 4",
}

PATIENCE = 600
"""Seconds that a sync waits for another writer."""

PATIENCE_LIVE = 30
"""Seconds that training waits for another writer before it leaves its runs to a later sync."""


class StoreError(OSError):
    """The MLflow store cannot be read or written; the message says which, why, and what to do."""


Curve = list[tuple[int, str, float]]
"""Finite values as (epoch, metric, value), by epoch, then in the order of ``METRICS``."""


def store() -> str:
    """Return the tracking URI: ``MLFLOW_TRACKING_URI``, or a SQLite file in the project's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_store()


def _own_store() -> str:
    return f"sqlite:///{Path('mlflow.db').resolve()}"


def project() -> str:
    """Return who owns the runs that are made here: ``NEM_PROJECT``, or host and folder in a store that may be shared.

    Two clones never have the same host and folder, so neither takes the other's runs for its own. In the folder's own
    store there is nobody else, and the name stays when the folder moves.
    """
    # Not whether the variable is set: MLflow sets it, too.
    shared = store() != _own_store()
    return os.environ.get("NEM_PROJECT") or (f"{platform.node()}:{Path.cwd()}" if shared else OWN)


@contextmanager
def _client(patience: float = PATIENCE) -> Iterator[MlflowClient]:
    """Yield a client while holding the writers' lock: a fresh database made by two processes at once is lost.

    Raises:
        StoreError: the store cannot be used, or another writer holds it for longer than ``patience`` seconds.
    """
    uri = store()
    lock = paths.CHECKPOINTS / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=patience):
            mlflow.set_tracking_uri(uri)
            yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, Timeout) as error:
        found = (str(error).splitlines() or [""])[0][:200]
        raise StoreError(
            f"expected a usable MLflow store of kind {uri.split(':')[0]}, found {type(error).__name__}: {found}; free, "
            "repair or remove the store (or set MLFLOW_TRACKING_URI), then run `make track`: the run files have it all"
        ) from error


def _experiment(client: MlflowClient, task: str) -> str:
    name = f"noise-boosted-rbp/{task}"
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    local = Path("mlartifacts", task).resolve().as_uri() if store().startswith("sqlite:") else None
    # The kind opens the UI on training runs and not on traces of language models.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    try:
        return str(client.create_experiment(name, artifact_location=local, tags=kind))
    except MlflowException:
        # Another project made it since we looked; if it is still missing, the fault is another one.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def digest_of(record: dict[str, Any], curve: Curve) -> str:
    """Return the digest of one run's settings and numbers."""
    text = json.dumps([record, [[e, m, repr(v)] for e, m, v in curve]], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _curve(array: Any) -> Curve:  # noqa: ANN401 - (epochs, len(METRICS)) of floats
    return [
        (epoch, name, float(value))
        for epoch, row in enumerate(np.asarray(array, dtype=np.float64))
        for name, value in zip(METRICS, row, strict=True)
        if math.isfinite(value)
    ]


@functools.cache
def _git_tags() -> dict[str, str]:
    """Return who, where and which commit; asked once per process, as each answer starts a program."""
    tags = {key: value for key, value in resolve_tags().items() if key != "mlflow.source.name"}
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=20)
        tags["mlflow.source.git.commit"] = head.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    tags["mlflow.source.name"] = "python -m stages.train"
    return tags


def _dvc_tags(task: str, cell: str) -> dict[str, str]:
    """Return the hashes that ``dvc.lock`` holds for the run's stage, if it has run."""
    lock = Path("dvc.lock")
    if not lock.is_file():
        return {}
    stages = YAML(typ="safe").load(lock.read_text()).get("stages") or {}
    stage = stages.get(f"train@{task}-{cell}") or stages.get(f"train_video@{task}-{cell}")
    if stage is None:
        return {}
    return {f"dvc.{out['path']}": str(out["md5"]) for out in stage.get("outs", []) if "md5" in out} | {
        f"dvc.{dep['path']}": str(dep["md5"]) for dep in stage.get("deps", []) if dep["path"].startswith("data/")
    }


def _axes(record: dict[str, Any], condition: str, repetition: int) -> dict[str, str]:
    """Return a run's condition axes as text, for grouping and filtering in the UI."""
    parsed = conditions.Condition.parse(condition)
    settings = record["settings"]

    def strength(place: str, inside: bool, what: str) -> str:
        return str(settings[what][place][parsed.mode]) if inside and parsed.mode else "0"

    return {
        "task": record["task"],
        "cell": record["cell"],
        "condition": condition,
        "kind": parsed.kind,
        "mode": parsed.mode or "none",
        "place": parsed.place or "none",
        "repetition": str(repetition),
        "sigma_output": strength("output", parsed.in_output, "sigma"),
        "sigma_hidden": strength("hidden", parsed.in_hidden, "sigma"),
        "decay_output": strength("output", parsed.in_output, "decay"),
        "decay_hidden": strength("hidden", parsed.in_hidden, "decay"),
    }


def _theorems(record: dict[str, Any], condition: str) -> str:
    parsed = conditions.Condition.parse(condition)
    head = "softmax" if record["classes"] else "identity"
    found = []
    if parsed.in_output and parsed.mode:
        found.append(THEOREMS[head, parsed.mode, "output"])
    if parsed.in_hidden and parsed.mode:
        found.append(THEOREMS[record["cell"], parsed.mode, "hidden"])
    return ", ".join(found) or "none"


class _Runs:
    """The project's runs of one task and cell in the store, by slot; runs of other projects are counted only."""

    def __init__(self, client: MlflowClient, task: str, cell: str) -> None:
        self.client, self.task, self.cell = client, task, cell
        self.experiment = _experiment(client, task)
        self.project = project()
        self.found: dict[str, list[Any]] = {}
        self.others: Counter[str] = Counter()
        token = None
        while True:
            page = client.search_runs(
                [self.experiment],
                f"tags.`nem.cell` = '{cell}'",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            for run in page:
                owner = run.data.tags.get(PROJECT, OWN)
                if owner == self.project:
                    self.found.setdefault(run.data.tags.get(SLOT, ""), []).append(run)
                else:
                    self.others[owner] += 1
            token = page.token
            if not token:
                break

    def settle(self, slot: str, digest: str) -> Any | None:  # noqa: ANN401 - an mlflow run
        """Return the project's one whole run of a slot with this digest, and delete its others of the slot."""
        kept = None
        for run in self.found.get(slot, []):
            tags = run.data.tags
            if kept is None and tags.get(DIGEST) == digest and tags.get(COMPLETE) == "true":
                kept = run
            else:
                self.client.delete_run(run.info.run_id)
        self.found[slot] = [kept] if kept is not None else []
        return kept

    def create(self, slot: str, digest: str, name: str, tags: dict[str, str]) -> str:
        """Create a run that :meth:`settle` deletes again unless it is finished."""
        run = self.client.create_run(
            self.experiment,
            run_name=name,
            tags={**_git_tags(), PROJECT: self.project, "nem.cell": self.cell, SLOT: slot, DIGEST: digest, **tags},
        )
        return str(run.info.run_id)

    def forget_all_but(self, slots: set[str]) -> None:
        """Delete the project's runs of all other slots."""
        for slot, found in self.found.items():
            if slot not in slots:
                for run in found:
                    self.client.delete_run(run.info.run_id)

    def finish(self, run_id: str, failed: bool = False) -> None:
        """Mark a run as whole: last of all, since a run that has the mark is never touched again."""
        self.client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED if failed else RunStatus.FINISHED))
        self.client.set_tag(run_id, COMPLETE, "true")


def _parent(runs: _Runs, record: dict[str, Any]) -> str:
    """Return the parent run of a task and cell for these settings, made if missing."""
    slot, digest = f"{runs.task}/{runs.cell}", digest_of(record, [])
    kept = runs.settle(slot, digest)
    if kept is not None:
        return str(kept.info.run_id)
    run_id = runs.create(slot, digest, f"{runs.task} {runs.cell}", {"nem.role": "repetition set"})
    flat = {
        "task": runs.task,
        "cell": runs.cell,
        "seed": record["seed"],
        **{f"training.{k}": v for k, v in record["training"].items() if k != "conditions"},
        **{f"settings.{k}": v for k, v in record["settings"].items() if not isinstance(v, dict)},
    }
    runs.client.log_batch(run_id, params=[Param(k, str(v)[:500]) for k, v in flat.items()])
    runs.finish(run_id)
    return run_id


def _log_child(runs: _Runs, parent: str, record: dict[str, Any], condition: str, repetition: int, curve: Curve) -> bool:
    """Make the run of one slot unless it is there; return whether it was made."""
    slot, digest = f"{runs.task}/{runs.cell}/{condition}/{repetition}", digest_of(record, curve)
    kept = runs.settle(slot, digest)
    if kept is not None and kept.data.tags.get(PARENT) == parent:
        return False
    if kept is not None:
        runs.client.set_tag(kept.info.run_id, PARENT, parent)
        return False
    axes = _axes(record, condition, repetition)
    tags = {PARENT: parent, "theorem": _theorems(record, condition), **{f"nem.{k}": v for k, v in axes.items()}}
    run_id = runs.create(slot, digest, f"{condition} #{repetition}", tags)
    settings = {k: str(v) for k, v in record["settings"].items() if not isinstance(v, dict)}
    R = int(record["settings"]["epochs"])
    metrics = [Metric(name, value, 0, epoch) for epoch, name, value in curve]
    at_R = [Metric(f"{name}_at_R", value, 0, R) for epoch, name, value in curve if epoch == R]
    metrics += at_R
    params = [Param(k, v) for k, v in {**axes, **settings, "seed": str(record["seed"])}.items()]
    runs.client.log_batch(run_id, metrics=metrics[:LARGEST_BATCH], params=params)
    for start in range(LARGEST_BATCH, len(metrics), LARGEST_BATCH):
        runs.client.log_batch(run_id, metrics=metrics[start : start + LARGEST_BATCH])
    for path, digest_ in record["data"].items():
        source = json.dumps({"uri": path})
        dataset = Dataset(name=Path(path).stem, digest=digest_[:16], source_type="local", source=source)
        try:
            runs.client.log_inputs(run_id, [DatasetInput(dataset, [])])
        except MlflowException:
            # Another project entered the same data at the same moment: the second time they are found.
            runs.client.log_inputs(run_id, [DatasetInput(dataset, [])])
    last = max((epoch for epoch, _, _ in curve), default=0)
    runs.finish(run_id, failed=last < int(record["settings"]["max_epochs"]))
    return True


def live(record: dict[str, Any]) -> Callable[[Repetition], None]:
    """Return a callback that logs each finished repetition, and never lets a faulty store stop training.

    Args:
        record: the run's record (:func:`pipeline.training.train.run_record`).
    """
    broken = False
    record = json.loads(json.dumps(record))

    def log(repetition: Repetition) -> None:
        nonlocal broken
        if broken:
            return
        try:
            with _client(PATIENCE_LIVE) as client:
                runs = _Runs(client, record["task"], record["cell"])
                parent = _parent(runs, record)
                for c, condition in enumerate(repetition.conditions):
                    _log_child(runs, parent, record, condition, repetition.number, _curve(repetition.curves[c]))
        except Exception as error:  # whatever it is: hours of training are worth more than a view of them
            broken = True
            print(f"tracking: {str(error)[:400]} (training goes on)", file=sys.stderr)

    return log


def _tell(others: Counter[str]) -> None:
    """Say whose runs were seen and left alone, if there were any."""
    if not others:
        return
    named = ", ".join(f"{count} of {owner}" for owner, count in sorted(others.items())[:5])
    more = f" and of {len(others) - 5} more" if len(others) > 5 else ""
    print(
        f"tracking: this project is {project()!r}; the store also holds runs of other projects, which were left alone: "
        f"{named}{more} (to take over runs of this project's former folder, set NEM_PROJECT to that name)",
        file=sys.stderr,
    )


def sync(task: str, cell: str, others: Counter[str] | None = None) -> int:
    """Bring the store up to date with the files of one run; return how many runs were made.

    Args:
        task: the task.
        cell: the recurrent cell.
        others: where to count the runs of other projects; without it, they are told on standard error.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: its files are damaged.
    """
    from pipeline.training import results

    run = results.load(task, cell)  # type: ignore[arg-type]
    made = 0
    with _client() as client:
        runs = _Runs(client, task, cell)
        parent = _parent(runs, run.record)
        wanted = {f"{task}/{cell}"}
        groups = dict(iter(run.curves.groupby(["condition", "repetition"], sort=False)))
        for condition in run.conditions:
            for repetition in range(run.repetitions):
                wanted.add(f"{task}/{cell}/{condition}/{repetition}")
                rows = groups.get((condition, repetition))
                curve = [] if rows is None else _curve(rows.sort_values("epoch")[list(METRICS)].to_numpy())
                made += _log_child(runs, parent, run.record, condition, repetition, curve)
        runs.forget_all_but(wanted)
        for key, value in _dvc_tags(task, cell).items():
            client.set_tag(parent, key[:250], value)
        _artifacts(client, parent, run.record)
    if others is None:
        _tell(runs.others)
    else:
        others.update(runs.others)
    return made


def _artifacts(client: MlflowClient, parent: str, record: dict[str, Any]) -> None:
    """Log figures, tables and the best model to the parent run, once per content."""
    task, cell = record["task"], record["cell"]
    files = [*sorted(paths.FIGURES.glob("*.png")), *sorted(paths.TABLES.glob("*.csv"))]
    files = [file for file in files if file.is_file()]
    folder = paths.run_folder(task, cell)
    tags = client.get_run(parent).data.tags
    state = hashlib.sha256("".join(f"{f.name}{records.sha256_of(f)}" for f in files).encode()).hexdigest()[:32]
    if tags.get("nem.artifacts") != state:
        for file in files:
            client.log_artifact(parent, str(file), file.suffix[1:])
        client.set_tag(parent, "nem.artifacts", state)
    best = _best_model(folder)
    if best is not None:
        digest = records.sha256_of(best)[:32]
        if tags.get("nem.model") != digest:
            _log_model(parent, best, record)
            client.set_tag(parent, "nem.model", digest)


def _best_model(folder: Path) -> Path | None:
    """Return the model of the condition with the lowest mean clean test loss at R."""
    from pipeline.training import results

    run = results.load(folder.parent.name, folder.name)  # type: ignore[arg-type]
    losses = {c: run.final(c, "test_loss") for c in run.conditions}
    alive = {c: float(np.nanmean(v)) for c, v in losses.items() if np.isfinite(v).any()}
    if not alive:
        return None
    best = min(alive, key=lambda c: alive[c])
    model = folder / "models" / f"{best}.safetensors"
    return model if model.is_file() else None


def _log_model(run_id: str, weights: Path, record: dict[str, Any]) -> None:
    """Log a model as code plus safetensors: no pickle is written, and none is read when it is loaded."""
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1, record["slices"], record["inputs"]))])
    outputs = Schema([TensorSpec(np.dtype("float32"), (-1, record["outputs"]))])
    root = Path(__file__).parent
    with warnings.catch_warnings(), mlflow.start_run(run_id=run_id, log_system_metrics=False):
        # MLflow asks for type hints as a schema; the schema is the explicit signature.
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(root / "training" / "serving.py"),
            artifacts={"weights": str(weights)},
            code_paths=[str(root)],
            signature=ModelSignature(inputs, outputs),
            input_example=np.zeros((1, record["slices"], record["inputs"]), np.float32),
            pip_requirements=[f"torch=={record['versions']['torch'].split('+')[0]}", "safetensors", "scipy", "numpy"],
        )


def sync_all(params: Params) -> int:
    """Sync every finished run of ``params``; return how many runs were made."""
    made, others = 0, Counter[str]()
    for task in params.tasks:
        for cell in params.cells:
            if (paths.run_folder(task, cell) / "run.json").is_file():
                made += sync(task, cell, others)
    _tell(others)
    return made


def sync_study(table: pd.DataFrame, axes: Sequence[str], profile: str, parameters: dict[str, Any]) -> int:
    """Bring the store up to date with the study: one run per setting, metrics per condition.

    Args:
        table: its ``regimes.csv``, one row per setting and condition.
        axes: the columns that name a setting.
        profile: which profile of the study.
        parameters: that profile's parameters.

    Returns:
        How many runs were made.
    """
    made, wanted = 0, set()
    with _client() as client:
        runs = _Runs(client, "study", profile)
        for key, part in table.groupby(list(axes), sort=False):
            params = {name: str(value) for name, value in zip(axes, key, strict=True)}
            metrics = {
                f"{row.condition}.{name}": float(value)
                for row in part.itertuples()
                for name in ("test_loss", "test_accuracy", "calibration_error", "speed_up", "error_reduction")
                if math.isfinite(value := float(getattr(row, name) or math.nan))
            }
            slot = "study/" + profile + "/" + "/".join(params.values())
            digest = digest_of({**params, "study": parameters}, [(0, k, v) for k, v in metrics.items()])
            wanted.add(slot)
            if runs.settle(slot, digest) is not None:
                continue
            tags = {f"nem.{name}": value for name, value in params.items() if name != "cell"} | {"nem.role": "study"}
            name = f"{params['task']} {params['cell']} {params['purpose']} {params['optimiser']} {params['rate']}"
            run_id = runs.create(slot, digest, name, tags)
            logged = [Metric(metric, value, 0, 0) for metric, value in metrics.items()]
            client.log_batch(run_id, metrics=logged[:LARGEST_BATCH], params=[Param(k, v) for k, v in params.items()])
            runs.finish(run_id)
            made += 1
        runs.forget_all_but(wanted)
    _tell(runs.others)
    return made


def experiment_id(task: str) -> str:
    """Return the id of a task's experiment, as the UI's addresses have it.

    Raises:
        FileNotFoundError: nothing was tracked for the task.
    """
    with _client() as client:
        found = client.get_experiment_by_name(f"noise-boosted-rbp/{task}")
    if found is None:
        raise FileNotFoundError(f"expected runs of task {task} in MLflow, found none; run `make track`")
    return str(found.experiment_id)


def server_command(port: int) -> list[str]:
    """Return the command of MLflow's own server on the loopback interface."""
    return [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", store(),
    ]  # fmt: skip
