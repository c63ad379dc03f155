"""What the fault tests share: tiny projects, warm stages that can be killed, and a reader that never sleeps."""

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
from filelock import FileLock
from mlflow.tracking import MlflowClient

from pipeline import params, tracking
from tests.conftest import ROOT

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "NEM_EXECUTOR": "serial",
}
FX = {
    "acquire": ("stages.acquire", ["fx"], "data/raw/fx"),
    "fx_windows": ("stages.fx_windows", [], "data/fx"),
    "train": ("stages.train", ["fx", "gru"], "data/runs/fx/gru"),
    "evaluate": ("stages.evaluate", [], "data/results"),
}
VIDEO = {
    "acquire-video": ("stages.acquire", ["video"], "data/raw/video"),
    "frames": ("stages.frames", [], "data/frames"),
    "features": ("stages.features", [], "data/features"),
    "train-video": ("stages.train", ["video", "gru"], "data/runs/video/gru"),
    "evaluate-video": ("stages.evaluate", [], "data/results"),
}
STUDY = {
    "study-data": ("stages.study", ["data", "quick"], "data/study/quick/data"),
    "study-map": ("stages.study", ["map", "quick"], "data/study/quick/map.parquet"),
    "study-final": ("stages.study", ["final", "quick"], "data/study/quick/final.parquet"),
    "study-report": ("stages.study", ["report", "quick"], "data/study/quick/results"),
}
STAGES = FX | VIDEO | STUDY
"""Module, arguments and output of each stage, in the order in which they run; the three are projects of their own."""
TRACK = ("stages.track", [])
PATIENCE = 400
"""Seconds to wait for an answer, on a machine with other work."""
CONDITIONS = ["none", "nem-additive-both"]


def tiny(**training):
    """Return parameters for exchange rates whose every stage takes about a second."""
    content = params.Params(sources=["fx"], video_sets=[], tasks=["fx"], cells=["gru"]).model_dump()
    content["fx"]["acquire"]["synthetic_days"] = 200
    content["fx"]["windows"]["train_end"] = 150
    content["training"] |= {"repetitions": 2, "conditions": CONDITIONS, "checkpoint_every": 2, **training}
    content["evaluate"]["bootstrap"] = 200
    content["train"]["fx"]["gru"] |= {"hidden": 4, "epochs": 20, "max_epochs": 30, "batch_size": 32}
    return params.validate(content)


def tiny_video(weights):
    """Return parameters for videos, few and short in the launcher's processes; weights are made once and not drawn."""
    content = params.Params(sources=["video"], tasks=["video"], cells=["gru"]).model_dump()
    content["video"]["acquire"] |= {"synthetic_groups": 2, "synthetic_clips": 1}
    content["video"]["frames"] |= {"per_clip": 2}
    content["video"]["features"] |= {"weights": "file", "weights_path": str(weights), "batch_size": 2}
    content["training"] |= {"repetitions": 2, "conditions": CONDITIONS, "checkpoint_every": 2}
    content["evaluate"]["bootstrap"] = 200
    content["train"]["video"]["gru"] |= {"hidden": 4, "epochs": 20, "max_epochs": 30, "batch_size": 4}
    return params.validate(content)


def copy_code(folder, *names):
    """Copy code, so that work on it during the tests does not disturb them."""
    for name in ("pipeline", "stages", "profiles", *names):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def make_project(folder, settings=None):
    """Make ``folder`` a project with the present code and tiny parameters; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    copy_code(folder)
    (folder / "study").mkdir()
    # Not its dvc.yaml: DVC would miss the study's results wherever the study has not run.
    shutil.copy(ROOT / "study" / "params.yaml", folder / "study")
    (folder / "params.yaml").write_text(params.render(settings or tiny()))
    return folder


def shared(factory, name, make):
    """Return a folder that the first worker that wants it makes, for all workers of this test session.

    Args:
        factory: pytest's ``tmp_path_factory``.
        name: of the folder.
        make: takes the folder, which does not exist, and makes it.
    """
    base = factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder, done = base / f"shared-{name}" / "project", base / f"shared-{name}.done"
    with FileLock(base / f"shared-{name}.lock"):
        if not done.is_file():
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.parent.mkdir(parents=True)
            make(folder)
            done.touch()
    return folder


def environment(**changes):
    """Return a clean environment for commands."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEM_", "MLFLOW_", "DVC_", "GIT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | ENVIRONMENT | {"PATH": path, "PYTHONPATH": str(ROOT)} | changes


def hashes(folder):
    """Return the SHA-256 of every file with its final name, by path from ``folder`` (which may be a file itself)."""
    found = {}
    for file in [Path(folder), *sorted(Path(folder).rglob("*"))]:
        if file.suffix == ".tmp" or not file.is_file():
            continue
        found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


class Reader(threading.Thread):
    """Reads every visible file over and over; a file that is not exactly as expected is a fault."""

    def __init__(self, folder, expected):
        super().__init__(daemon=True)
        self.folder, self.expected = Path(folder), expected
        self.faults, self.reads, self.done = [], 0, threading.Event()

    def look(self):
        for name, digest in self.expected.items():
            try:
                content = (self.folder / name).read_bytes()
            except FileNotFoundError:
                continue
            self.reads += 1
            if hashlib.sha256(content).hexdigest() != digest:
                self.faults.append(f"{name}: {len(content)} bytes that are not the file's")
        if self.folder.is_dir():
            for file in self.folder.rglob("*"):
                name = str(file.relative_to(self.folder))
                if file.suffix != ".tmp" and name not in self.expected and file.is_file():
                    self.faults.append(f"{name}: a file that an undisturbed run does not have")

    def run(self):
        while not self.done.wait(0.003):
            self.look()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        self.look()


def own_mounts():
    """Return the start of a command that gives a program mounts of its own, and why there is none if there is none.

    Root needs a namespace of mounts only, anybody else one of users too (in which they are root). Either way a mount is
    gone with the launcher, also after a test that died.
    """
    why = "needs `unshare` (util-linux)"
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if shutil.which("unshare"):
            mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", "/mnt"]
            tried = subprocess.run([*command, *mount], capture_output=True, text=True, check=False)
            if tried.returncode == 0:
                return command, None
            why = f"needs the right to mount a tmpfs in a namespace of its own: {tried.stderr.strip()}"
    return [], why


class Launcher:
    """The warm process of :mod:`tests.faults.launcher`, on a copy of the code in ``folder``.

    Attributes:
        no_mounts: why it cannot have small disks; ``None`` if it can.
    """

    def __init__(self, folder):
        copy_code(folder, "tests")
        inside, self.no_mounts = own_mounts()
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.faults.launcher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(PYTHONPATH=str(folder)),
        )
        self.pending = False
        assert self._answer()["ready"]

    def view(self, folder):
        """Return the path under which this process sees ``folder`` with the launcher's mounts."""
        return Path(f"/proc/{self.process.pid}/root{Path(folder).absolute()}")

    def mount(self, place, options, *, again=False):
        """Mount a tmpfs at ``place``, or change the one that is there."""
        kind = ["-o", f"remount,{options}"] if again else ["-t", "tmpfs", "-o", options, "none"]
        self._do("mount", *kind, str(place))

    def unmount(self, place):
        self._do("umount", "--lazy", str(place))

    def _do(self, *command):
        self.process.stdin.write(json.dumps({"do": command}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert answer["status"] == 0, answer["error"]

    def _answer(self):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "the launcher did not answer in time"
        line = self.process.stdout.readline()
        assert line, "the launcher died"
        return json.loads(line)

    def start(self, stage, folder, fault="", **variables):
        """Start a stage; return its process id, which is that of its group too."""
        if self.pending:  # a test that failed half-way must not fail the next ones
            self.wait()
        run = STAGES[stage][:2] if isinstance(stage, str) else stage
        request = {"run": run, "folder": str(folder), "environment": variables, "fault": fault}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.pending = True
        return self._answer()["pid"]

    def wait(self):
        """Return the exit status of the stage that was started last."""
        status = self._answer()["status"]
        self.pending = False
        return status

    def run(self, stage, folder, fault="", **variables):
        """Run a stage; return its exit status and seconds."""
        began = time.perf_counter()
        self.start(stage, folder, fault, **variables)
        return self.wait(), time.perf_counter() - began

    def kill_after(self, delay, stage, folder, **variables):
        """Start a stage and kill its group after ``delay`` seconds; return its exit status."""
        pid = self.start(stage, folder, **variables)
        ready, _, _ = select.select([self.process.stdout], [], [], delay)
        if not ready:
            kill_group(pid)
        return self.wait()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def kill_group(pid):
    """Send SIGKILL to a process and its children (to the process alone, before it leads a group), unless it ended."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def output(folder, stage):
    """Return the folder that a stage writes."""
    return folder / STAGES[stage][2]


def remove_outputs(folder, stage):
    """Do as DVC does before it runs a stage: delete its outputs."""
    place = output(folder, stage)
    if place.is_file():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)


def log(folder):
    """Return what the last stage printed."""
    return (Path(folder) / "stage.log").read_text()


def runs(folder, store="mlflow.db", task="fx"):
    """Return the runs on a task of a project's MLflow store, and its client."""
    client = MlflowClient(f"sqlite:///{folder}/{store}")
    experiment = client.get_experiment_by_name(f"noise-boosted-rbp/{task}")
    return client.search_runs([experiment.experiment_id], max_results=1000), client


def erase_runs(folder):
    """Leave a project's MLflow store without any run, deleted ones included, and with artefacts in this project."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        of_runs = [t for t in tables if any(c[1] == "run_uuid" for c in connection.execute(f"pragma table_info({t})"))]
        for table in (*(t for t in of_runs if t != "runs"), "runs"):
            connection.execute(f"delete from {table}")
        for key, name in list(connection.execute("select experiment_id, name from experiments")):
            place = (folder / "mlartifacts" / name.rpartition("/")[2]).as_uri()
            connection.execute("update experiments set artifact_location = ? where experiment_id = ?", (place, key))
        connection.commit()
        connection.execute("vacuum")


def check_store(folder, store="mlflow.db", task="fx"):
    """Every slot has one run, it is finished, and its numbers are those of the files, to the last bit; return all."""
    # A copy: MLflow keeps connections by name, and may hold one to a file that is gone.
    with tempfile.TemporaryDirectory() as seen:
        shutil.copyfile(folder / store, Path(seen) / "mlflow.db")
        return _check_runs(folder, task, *runs(seen, task=task))


def _check_runs(folder, task, found, client):
    parent = f"{task}/gru"
    slots = Counter(run.data.tags[tracking.SLOT] for run in found)
    assert slots == Counter([parent, *(f"{parent}/{c}/{r}" for c in CONDITIONS for r in range(2))])
    assert {run.info.status for run in found} == {"FINISHED"}
    curves = pd.read_parquet(folder / "data" / "runs" / parent / "curves.parquet")
    for run in found:
        if run.data.tags[tracking.SLOT] == parent:
            continue
        condition, repetition = run.data.params["condition"], int(run.data.params["repetition"])
        rows = curves[(curves.condition == condition) & (curves.repetition == repetition)]
        history = client.get_metric_history(run.info.run_id, "test_loss")
        assert sorted((m.step, m.value) for m in history) == sorted(zip(rows.epoch, rows.test_loss, strict=True))
    return found
