"""MLflow as a view of the run files: with :mod:`pipeline.serving` the only code that imports mlflow.

Files are the truth. A run has a *slot*: its task, cell, condition, repetition and settings, which are all else that
decides a network (seed, device and data among it). It also carries a digest of its numbers: :func:`show` keeps the one
of a slot whose digest fits the files, deletes the slot's others, and makes what is missing. Training logs each
repetition as it ends under the same keys, and only then are times known; where the store cannot be reached it goes on.

Slots belong to a *project* (:func:`project`): clones that share a server delete only their own runs. Writers of one
folder wait for each other; two folders with one ``NEM_PROJECT`` may disturb each other's runs until the next sync.
"""

import base64
import functools
import hashlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, Metric, Param, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import ColSpec, Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError

import nem
from nem import conditions
from pipeline.common import paths, records, sequences
from pipeline.training import models, results
from pipeline.training.engine import METRICS, Repetition

# A store's fault becomes one message of ours; MLflow would print its traceback first.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)

SLOT, DIGEST, COMPLETE, PARENT = "nem.slot", "nem.digest", "nem.complete", "mlflow.parentRunId"
PROJECT, GROUP, ROLE, TIMES = "nem.project", "nem.group", "nem.role", "nem.times"
OF_TRAINING = "of the training"
OWN = "this folder"  # the project of a store that lies in the project's folder, wherever that is copied or moved to
BATCH = 1000  # metrics that one log_batch call may hold
PAGE = 100  # runs that MLflow's page reads at once, and averages over
PATIENCE, PATIENCE_LIVE = 600, 30  # seconds that a sync waits for another writer, and training before it leaves it be
# Which result of the paper speaks of noise of either mode at a head, or in a cell's gates.
THEOREMS = {where: dict(zip(conditions.MODES, both, strict=True)) for where, both in (
    ("softmax", ("Theorem 2", "Corollary 1")), ("identity", ("Theorem 3", "Corollary 2")),
    ("lstm", ("Theorem 4", "Corollary 3")), ("gru", ("Theorem 5", "Corollary 4")))}  # fmt: skip
OURS = dict.fromkeys(conditions.MODES, "ours")


class StoreError(OSError):
    """The MLflow store cannot be read or written; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Inputs:
    """A task's I inputs as people have them: raw = scaled * scale + offset."""

    names: tuple[str, ...]
    offset: tuple[float, ...]  # (I,) in raw units
    scale: tuple[float, ...]  # (I,) in raw units


def home() -> Path:
    """Return the project's root, also from the copy that ``dvc exp run --temp`` makes of it and removes again."""
    return Path(Path.cwd().as_posix().partition("/.dvc/tmp/exps/")[0])


def store() -> str:
    """Return the tracking URI: ``MLFLOW_TRACKING_URI``, or a SQLite file in the project's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def project() -> str:
    """Return who owns the runs made here: ``NEM_PROJECT``, or host and folder in a store that may be shared."""
    # Not whether the variable is set: MLflow sets it, too.
    shared = store() != f"sqlite:///{home() / 'mlflow.db'}"
    return os.environ.get("NEM_PROJECT") or (f"{platform.node()}:{home()}" if shared else OWN)


@contextmanager
def connected(patience: float = PATIENCE) -> Iterator[MlflowClient]:
    """Yield a client under the writers' lock: two processes at once lose a fresh database. StoreError: none usable."""
    uri, lock = store(), home() / paths.CHECKPOINTS / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=patience):
            mlflow.set_tracking_uri(uri)
            yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, Timeout) as error:
        # MLflow's message often names the cure, such as an upgrade of the database after a backup.
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:800]}"
        cure = "wait for its other users, mend it as that says, or set MLFLOW_TRACKING_URI to another store, then run"
        kind = f"{uri.split(':')[0]}, found {cause}; {cure} `make track`: the run files have all that is missing"
        raise StoreError(f"expected a usable MLflow store of kind {kind}") from error


def experiment(client: MlflowClient, title: str) -> str:
    """Return the id of an experiment, made if missing and restored if deleted."""
    name, local = f"noise-boosted-rbp/{title}", store().startswith("sqlite:")
    known = client.get_experiment_by_name(name)
    if known is None:
        where = (home() / "mlartifacts" / title).as_uri() if local else None
        try:  # the kind opens the UI on training runs and not on traces of language models
            return client.create_experiment(name, where, {"mlflow.experimentKind": "custom_model_development"})
        except MlflowException:  # another project made it since we looked, or the fault is another one
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def digest_of(value: object) -> str:
    """Return a digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def settings_of(record: dict[str, Any]) -> dict[str, str]:
    """Return all of a training's record that decides a network but condition and repetition, flat."""
    settings = {key: value for key, value in record["settings"].items() if key not in ("cell", "conditions")}
    whole = {**settings, "seed": record["seed"], "device": record["device"], "data": digest_of(record["data"])[:12]}
    return {str(key): str(value) for key, value in pd.json_normalize(whole).loc[0].items()}


def axes_of(record: dict[str, Any], condition: str, repetition: int) -> dict[str, str]:
    """Return a run's place among the others as text, for grouping and filtering in the UI."""
    parsed, noise = conditions.Condition.parse(condition), record["settings"]["noise"]
    mode, inside = parsed.mode, {"output": parsed.in_output, "hidden": parsed.in_hidden}
    where = {"output": record["head"], "hidden": record["cell"]}
    return {
        "task": paths.run_name(record["task"], record["split"]), "cell": record["cell"], "condition": condition,
        "kind": parsed.kind, "mode": mode or "none", "place": parsed.place or "none", "repetition": str(repetition),
        **{f"sigma_{at}": str(noise[at][mode]["sigma"]) if mode and inside[at] else "0" for at in inside},
        "theorem": ", ".join(THEOREMS.get(where[at], OURS)[mode] for at in inside if mode and inside[at]) or "none",
    }  # fmt: skip


def _curve(array: Any) -> list[Metric]:  # noqa: ANN401 - an array or a tensor
    """Return the finite ones of ``(epochs, len(METRICS))`` numbers as metrics."""
    values = np.asarray(array, dtype=np.float64)
    values = np.where(np.isfinite(values[:, [METRICS.index("test_loss")]]), values, np.nan)  # failed: as in the files
    return [Metric(METRICS[k], float(values[epoch, k]), 0, int(epoch)) for epoch, k in np.argwhere(np.isfinite(values))]


@functools.cache
def _source_tags() -> dict[str, str]:
    """Return who ran which commit; asked once per process, as the answer starts programs."""
    return {**resolve_tags(), "mlflow.source.name": "python -m stages.train"}


class _Runs:
    """The project's whole runs of one group (a task and cell) by slot; what a kill left is deleted, others counted."""

    def __init__(self, client: MlflowClient, title: str, group: str, times: tuple[int, int] | None = None) -> None:
        self.client, self.group, self.project, self.times = client, group, project(), times
        self.experiment = experiment(client, title)
        self.by_slot: dict[str, list[Any]] = {}
        self.others: Counter[str] = Counter()
        query = f"tags.`{GROUP}` = '{group}'"
        for run in mlflow.search_runs([self.experiment], query, ViewType.ACTIVE_ONLY, output_format="list"):
            if (owner := run.data.tags.get(PROJECT, OWN)) != self.project:
                self.others[owner] += 1
            elif run.data.tags.get(COMPLETE) == "true":
                self.by_slot.setdefault(run.data.tags.get(SLOT, ""), []).append(run)
            else:
                client.delete_run(run.info.run_id)

    def put(self, slot: str, name: str, tags: Mapping[str, str], params: Mapping[str, str],
            metrics: Sequence[Metric] = (), data: Sequence[DatasetInput] = (),
            failed: bool = False) -> tuple[str, bool]:  # fmt: skip
        """Make a slot's run unless it is there, delete others of the slot; return its id and whether it was made."""
        digest, kept = digest_of([[m.key, m.step, repr(m.value)] for m in metrics]), None
        for run in self.by_slot.get(slot, []):
            if kept is None and run.data.tags.get(DIGEST) == digest:
                kept = run
            else:
                self.client.delete_run(run.info.run_id)
        if kept is not None:
            if kept.data.tags.get(PARENT) != tags.get(PARENT):
                self.client.set_tag(kept.info.run_id, PARENT, tags[PARENT])
            return kept.info.run_id, False
        start, end = self.times or (_now(),) * 2  # a duration that nobody measured is shown as none
        own = {PROJECT: self.project, GROUP: self.group, SLOT: slot, DIGEST: digest}
        own[TIMES] = OF_TRAINING if self.times else "of the sync"
        run = self.client.create_run(self.experiment, start, {**_source_tags(), **own, **tags}, name)
        run_id = run.info.run_id
        self.client.log_batch(run_id, params=[Param(key, value[:500]) for key, value in params.items()])
        metrics = sorted(metrics, key=lambda m: not m.key.startswith("test_"))  # MLflow's Compare shows the first
        for first in range(0, len(metrics), BATCH):  # one call per value would take minutes
            self.client.log_batch(run_id, metrics=metrics[first : first + BATCH])
        try:
            self.client.log_inputs(run_id, list(data))
        except MlflowException:  # another project entered the same data just now: the second time they are found
            self.client.log_inputs(run_id, list(data))
        self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED", end)
        # Last of all: a run that has the mark is never touched again.
        self.client.set_tag(run_id, COMPLETE, "true")
        return run_id, True


def _now() -> int:
    return int(1000 * time.time())  # ms, as MLflow counts


class _Training:
    """The runs of one training: a parent for its settings, and a child per condition and repetition."""

    def __init__(self, client: MlflowClient, record: dict[str, Any], times: tuple[int, int] | None = None) -> None:
        self.record, self.settings = record, settings_of(record)
        self.base = f"{paths.run_name(record['task'], record['split'])} {record['cell']}"
        self.digest = digest_of(self.settings)[:12]
        self.runs = _Runs(client, self.base.split()[0], self.base.replace(" ", "/"), times)
        self.suffix = self._differing()
        tags = {ROLE: "parent", "nem.settings": self.digest}
        slot = f"{self.runs.group}/{self.digest}"
        self.parent, _ = self.runs.put(slot, self.base + self.suffix, tags, self.settings)
        self.data = [
            DatasetInput(Dataset(Path(path).stem, content[:16], "local", json.dumps({"uri": path})), [])
            for path, content in record["data"].items()
        ]

    def _differing(self) -> str:
        """Return how the settings differ from those of the group's first training in the store."""
        parents = [run for runs in self.runs.by_slot.values() for run in runs if run.data.tags.get(ROLE) == "parent"]
        if not parents:
            return ""
        first = min(parents, key=lambda run: (run.info.start_time, run.info.run_id)).data.params
        parts = [f" {k.removeprefix('noise.')}={v}" for k, v in self.settings.items() if first.get(k) != v[:500]]
        return "".join(parts[:3]) + (" …" if len(parts) > 3 else "")

    @property
    def live(self) -> int:
        """How many of its networks were logged as they trained."""
        runs = [run.data.tags for slot, (run, *_) in self.runs.by_slot.items() if slot.endswith(self.digest)]
        return sum(tags.get(TIMES) == OF_TRAINING and tags.get(ROLE) == "network" for tags in runs)

    def add(self, condition: str, repetition: int, curve: list[Metric]) -> bool:
        """Make the run of a condition and repetition unless it is there; return whether it was made."""
        axes, settings = axes_of(self.record, condition, repetition), self.record["settings"]
        final = [Metric(f"{m.key}_at_R", m.value, 0, m.step) for m in curve if m.step == settings["epochs"]]
        slot, name = f"{condition}/{repetition}/{self.digest}", f"{self.base} {condition} #{repetition}{self.suffix}"
        tags = {PARENT: self.parent, ROLE: "network", **{f"nem.{key}": value for key, value in axes.items()}}
        failed = max((m.step for m in curve), default=0) < settings["max_epochs"]
        metrics, params = [*curve, *final], self.settings | axes
        return self.runs.put(f"{self.runs.group}/{slot}", name, tags, params, metrics, self.data, failed)[1]


def live(record: dict[str, Any]) -> Callable[[Repetition], None]:
    """Return a callback that logs each finished repetition of what will be in ``run.json``; it never stops training."""
    broken, record, began = False, json.loads(json.dumps(record)), _now()

    def log(repetition: Repetition) -> None:
        nonlocal broken
        if broken:
            return
        try:
            ended = _now()
            with connected(PATIENCE_LIVE) as client:
                training, added = _Training(client, record, (began, ended)), False
                for condition, curves in zip(repetition.conditions, repetition.curves, strict=True):
                    added |= training.add(condition, repetition.number, _curve(curves))
                if added:
                    client.set_terminated(training.parent, "FINISHED", ended)
        except Exception as error:  # whatever it is: hours of training are worth more than a view of them
            broken = True
            print(f"tracking: {str(error)[:1200]} (training goes on)", file=sys.stderr)

    return log


def finished(tasks: Sequence[str], cells: Sequence[str]) -> list[tuple[str, str, str | None]]:
    """Return every finished training of these tasks and cells as (task, cell, split)."""
    folders = [(task, cell, paths.run_folder(task, cell)) for task in tasks for cell in cells]
    first = [(task, cell, None) for task, cell, folder in folders if (folder / "run.json").is_file()]
    return first + [(t, c, file.parent.name) for t, c, folder in folders for file in sorted(folder.glob("*/run.json"))]


def show(trainings: Iterable[tuple[str, str, str | None]], inputs: Callable[[str], Inputs | None] | None = None,
         ) -> Iterator[tuple[str, tuple[int, int, int], dict[str, str]]]:  # fmt: skip
    """Bring the store up to date with the files of trainings (task, cell, split), one by one.

    Yield a training's name; how many networks it has, were logged as they trained, and were added now; and what
    MLflow's pages show of it with the link behind the host.
    ``inputs`` says what a task's inputs are, ``None`` where networks take them as they are; its ``FileNotFoundError``
    or ``ValueError`` is told, and costs the model alone. Without it no model is registered.

    FileNotFoundError: there is no such training; ValueError: its files are damaged; StoreError: as :func:`connected`.
    """
    others = Counter[str]()
    for task, cell, split in trainings:
        files, added, model = results.load(task, cell, split), 0, None
        with connected() as client:
            training = _Training(client, files.record)
            for condition in files.conditions:
                columns = [files.curve(condition, name) for name in METRICS]
                for repetition in range(files.repetitions):
                    curve = np.stack([column[repetition] for column in columns], -1)
                    added += training.add(condition, repetition, _curve(curve))
            try:
                model = _register(client, training, files, inputs(task)) if inputs else None
            except (FileNotFoundError, ValueError) as error:
                print(f"tracking: no model of {training.base} was registered: {error}", file=sys.stderr)
            _describe(client, training, files, model)
            links = _save_views(client, training, files)
            others.update(training.runs.others)
        count = len(files.conditions) * files.repetitions
        yield training.base + training.suffix, (count, training.live, added), links
    if others:
        owners = ", ".join(f"{count} of {owner}" for owner, count in others.most_common(5)) + ", …" * (len(others) > 5)
        told = f"tracking: this project is {project()!r}; runs of other projects in the store were left alone: {owners}"
        print(told, "(to take over those of its former folder, set NEM_PROJECT to that name)", file=sys.stderr)


def _describe(client: MlflowClient, training: _Training, files: results.TrainedRun, model: str | None) -> None:
    """Give the parent its summary: metrics, its own pictures and curves, and a text."""
    from pipeline import tasks  # draws with matplotlib, which takes seconds to import
    from pipeline.evaluation.metrics import best_condition
    from pipeline.evaluation.statistics import speed_up
    from pipeline.evaluation.task import GENERATED

    record, best, origin = files.record, best_condition(files), paths.source_record(files.task)
    about = records.read_json(origin) if origin.is_file() else {}
    task = tasks.of(files.task).of(record["head"], str(about.get("title", "")))
    final, made = f"{task.measure.curve}_at_R", about.get("source") == GENERATED
    unit = task.measure.unit.format(unit=record["unit"]) if record["unit"] or "{" not in task.measure.unit else ""
    metrics = {"failed_networks": float(sum(map(files.failed, files.conditions)))}
    losses = {condition: files.curve(condition, "test_loss") for condition in files.conditions}
    for condition, loss in losses.items():
        speeds = speed_up(loss, losses["none"], files.epochs, files.max_epochs).percent
        metrics[f"{final}/{condition}"] = float(pd.Series(files.final(condition, task.measure.curve)).mean())
        metrics[f"speed_up_percent/{condition}"] = float(pd.Series(speeds).median())
    metrics["best_minus_none"] = metrics.get(f"{final}/{best}", np.nan) - metrics[f"{final}/none"]
    metrics = {key: value for key, value in metrics.items() if np.isfinite(value)}
    parent, own = client.get_run(training.parent).data, f"{paths.run_name(files.task, record['split'])}_{files.cell}"
    if not metrics.items() <= parent.metrics.items():
        client.log_batch(training.parent, [Metric(k, value, _now(), files.epochs) for k, value in metrics.items()])
    shown = [*sorted(paths.FIGURES.glob(f"*_{own}.png")), *paths.PLOTS.glob(f"{own}.csv")]
    state = digest_of([[file.name, records.sha256_of(file)] for file in shown])
    if parent.tags.get("nem.artifacts") != state:
        for file in shown:
            client.log_artifact(training.parent, str(file), file.suffix[1:])
        client.set_tag(training.parent, "nem.artifacts", state)
    count = len(files.conditions) * files.repetitions
    shown_at = {c: f"{final}/{c}" for c in dict.fromkeys((best, "none")) if f"{final}/{c}" in metrics}
    values = [f"{metrics[key] * task.measure.scale:.4g} {unit}".strip() + f" ({c})" for c, key in shown_at.items()]
    text = (
        f"{'**Generated data: they cannot show an effect of noise.** ' if made else ''}"
        f"**{task.title}, {record['split'] or 'first split'}, {files.cell.upper()}**: {len(files.conditions)} noise "
        f"conditions, {files.repetitions} paired repetitions, {files.max_epochs} epochs, judged at epoch R = "
        f"{files.epochs} on {record['test_sequences']} test sequences. "
        f"{task.note(about) if about else ''}\n\nMean {task.measure.words} at R of the "
        f"condition that is best on these test data and of no noise: {', '.join(values) or 'all failed'}. "
        "Intervals and tests are in `data/results/report.html`. Pictures: the folder `png` of the artifacts, above all "
        f"`overview_{own}.png`. Model: {model or 'none registered'}.\n\nTimes: {training.live} of {count} runs were "
        "logged as they trained, and last from the start of the training to the end of their repetition; the others "
        "were made from files, which hold no times."
    )
    client.set_tag(training.parent, "mlflow.note.content", text)


def _save_views(client: MlflowClient, training: _Training, files: results.TrainedRun) -> dict[str, str]:
    """Save two views as MLflow's button "Share" does; return what each shows with its link."""
    metrics = ["test_loss", *(["test_accuracy"] if files.record["classes"] else [])]
    final, where = [f"{metric}_at_R" for metric in metrics], training.runs.experiment
    family, beyond = f"tags.`{PARENT}` = '{training.parent}'", range(PAGE // len(files.conditions), files.repetitions)

    def chart(kind: str, metric: str, **more: object) -> dict[str, object]:
        return {"type": kind, "uuid": f"{kind} {metric}", "metricSectionId": "nem", "metricKey": metric, **more}

    bars = [chart("BAR", metric) for metric in final]
    scales = {metric: "log" if metric == "test_loss" else "linear" for metric in metrics}
    lines = [chart("LINE", m, selectedMetricKeys=[m], scaleType=scale, range={}) for m, scale in scales.items()]
    axes = chart("PARALLEL", final[0], selectedParams=["kind", "mode", "place"], selectedMetrics=final[:1])
    views: dict[str, dict[str, object]] = {
        "mean and band over repetitions": {
            "searchFilter": family + "".join(f" AND params.repetition != '{r}'" for r in beyond),
            "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "condition"}]},
            "groupsExpanded": {f"param.condition.{condition}": False for condition in files.conditions},
            "compareRunCharts": [chart for pair in zip(lines, bars, strict=True) for chart in pair],
        },
        "conditions side by side": {
            "searchFilter": f"{family} AND params.repetition = '0'", "compareRunCharts": [axes, *bars],
        },
    }  # fmt: skip
    shown = [*final, "train_loss_at_R", "acceptance_output_at_R", "acceptance_hidden_at_R"]
    columns = ["attributes.`Run Name`", *(f"metrics.`{metric}`" for metric in shown)]
    links, section = {}, {"uuid": "nem", "name": "Noise conditions", "display": True, "columns": 2, "cardHeight": 480}
    for what, view in views.items():
        state = json.dumps(view | {
            "orderByKey": f"metrics.`{final[0]}`", "orderByAsc": True, "runsHiddenMode": "SHOW_ALL",
            "selectedColumns": columns[1:], "columnOrder": columns, "columnWidths": dict.fromkeys(columns, 250),
            "compareRunSections": [section], "isAccordionReordered": True,
        })  # fmt: skip
        packed = f"deflate;{base64.b64encode(zlib.compress(state.encode())).decode()}"
        named = {"name": f"{training.base}{training.suffix}: {what}", "createdAt": 0, "state": packed}
        key = digest_of([training.runs.project, training.runs.group, training.digest, what])[:12]
        client.set_experiment_tag(where, f"mlflow.sharedViewState.{key}", json.dumps(named))
        page = f"#/experiments/{where}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        links[what] = f"{page}&viewStateShareKey={key}"
    return links


def _register(client: MlflowClient, training: _Training, files: results.TrainedRun, inputs: Inputs | None
              ) -> str | None:  # fmt: skip
    """Register the best network as the model of the task and cell, unless it is; return its name and version.

    Which condition is best is said by :func:`pipeline.evaluation.metrics.best_condition`, and which of its networks by
    training. ``None``: no network lasted. ValueError: the data at hand are not those of the training.
    """
    from pipeline.evaluation.metrics import best_condition

    folder = paths.run_folder(files.task, files.cell, files.record["split"]) / "models"
    weights, parent = folder / f"{best_condition(files)}.safetensors", client.get_run(training.parent)
    if not weights.is_file():
        return None
    owner = "" if training.runs.project == OWN else f"-{digest_of(training.runs.project)[:6]}"
    name = f"nem-{training.base.replace(' ', '-')}{owner}"
    content = digest_of([records.sha256_of(weights), str(inputs)])
    versions = client.search_model_versions(f"name = '{name}' AND run_id = '{training.parent}'")
    version = max((int(one.version) for one in versions), default=0)
    if not version or parent.data.tags.get("nem.model") != content:
        model = _log_model(training.parent, weights, files.record, inputs)
        client.set_terminated(training.parent, "FINISHED", parent.info.end_time)  # MLflow ended the run once more
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = int(client.create_model_version(
            name, f"models:/{model}", training.parent, {"condition": weights.stem}, await_creation_for=0, model_id=model
        ).version)  # fmt: skip
        client.set_tag(training.parent, "nem.model", content)
    client.set_registered_model_alias(name, "best", str(version))
    return f"`{name}`, version {version}, alias `best`"


def _log_model(run_id: str, weights: Path, record: dict[str, Any], inputs: Inputs | None) -> str:
    """Log a model as code plus safetensors: no pickle is written, and none is read when it is loaded; return its id."""
    network, houses = models.load(weights), [Path(__file__).parent, Path(nem.__file__).parent]
    data = sequences.load(paths.sequences(record["task"]), record["split"])
    if data.digest != record["data"]:
        raise ValueError(f"expected the data of the training in {paths.sequences(record['task'])}, found others")
    last = data.test.index[-1]
    example = data.test.pool[last[last >= 0]].numpy()[None]
    if inputs is not None:
        example = example.astype(np.float64) * inputs.scale + inputs.offset
    slices = -1 if data.train.ragged or data.test.ragged else data.slices
    taken = Schema([TensorSpec(example.dtype, (-1, slices, example.shape[2]))])
    about, kind = network.about, "float" if network.about["classes"] else "double"
    given: list[ColSpec | TensorSpec] = [ColSpec(kind, name) for name in network.names]
    given = [ColSpec("string", "class"), *given] if network.one_class else given
    torch = f"torch=={record['versions']['torch'].split('+')[0]}"
    with tempfile.TemporaryDirectory() as made, mlflow.start_run(run_id=run_id, log_system_metrics=False):
        # Not as MLflow's model configuration, which it makes parameters of the run.
        scaling = Path(made) / "inputs.json"
        records.write_json(scaling, {"offset": 0.0, "scale": 1.0} if inputs is None else asdict(inputs))
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(houses[0] / "serving.py"),
            artifacts={"weights": str(weights), "inputs": str(scaling)},
            code_paths=[str(house) for house in houses],
            signature=ModelSignature(taken, Schema(given)),
            input_example=example,
            pip_requirements=[torch, "safetensors", "scipy", "numpy", "pandas", "pyarrow"],
            metadata={
                **{key: about[key] for key in ("task", "split", "cell", "condition", "repetition", "classes", "unit")},
                "inputs": list(inputs.names) if inputs else f"{record['inputs']} features of each slice",
                "chosen_by": f"condition: least mean test loss at epoch R; repetition: {about['chosen_by']}",
            },
        )
    return str(logged.model_id)
