"""What the fault tests share: tiny projects, warm stages that can be killed, and a reader that never sleeps."""

import contextlib
import ctypes
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from mlflow.tracking import MlflowClient
from safetensors.torch import save_file

from pipeline import params, tracking
from pipeline.video.features import inception
from tests.conftest import ROOT

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1"}
FX = {
    "acquire": ("stages.acquire", ["fx"], "data/raw/fx"),
    "windows": ("stages.windows", [], "data/sequences/fx"),
    "train": ("stages.train", ["fx", "gru"], "data/runs/fx/gru"),
    "evaluate": ("stages.evaluate", [], "data/results"),
    "study": ("stages.study", ["quick"], "data/study/quick"),
}
VIDEO = {
    "acquire-video": ("stages.acquire", ["video"], "data/raw/video"),
    "frames": ("stages.frames", [], "data/frames"),
    "features": ("stages.features", [], "data/features"),
    "clips": ("stages.clips", [], "data/sequences/video"),
    "train-video": ("stages.train", ["video", "gru"], "data/runs/video/gru"),
    "evaluate-video": ("stages.evaluate", [], "data/results"),
}
PAGES = ("docs/errata.md", "docs/study.md")  # which the report quotes
PROJECTS = {"fx": FX, "video": VIDEO}
STAGES = FX | VIDEO
"""Module, arguments and output of each stage, in the order in which they run; the two are projects of their own."""
TRACK = ("stages.track", [])
PATIENCE = 400
"""Seconds to wait for an answer, on a machine with other work."""
CONDITIONS = ["none", "nem-additive-both"]


def tiny(task, beside=None, sigma=0.2):
    """Return parameters whose every stage takes about a second; weights of videos are made once, ``beside``."""
    content = params.Params(tasks=[task], cells=["gru"]).model_dump()
    content["fx"]["acquire"]["synthetic_days"] = 200
    content["fx"]["windows"]["train_end"] = 150
    content["video"]["acquire"] |= {"synthetic_groups": 2, "synthetic_clips": 1}
    content["video"]["frames"]["per_clip"] = 2
    if task == "video":
        save_file(inception.random_weights(1), beside / "weights.safetensors")
        given = {"weights": "file", "weights_path": str(beside / "weights.safetensors"), "batch_size": 2}
        content["video"]["features"] |= given
    content["training"] |= {"repetitions": 2, "conditions": CONDITIONS, "checkpoint_every": 2}
    content["evaluate"]["bootstrap"] = 200
    content["train"][task] |= {"hidden": 4, "epochs": 20, "max_epochs": 30, "batch_size": 32 if task == "fx" else 4}
    content["train"]["fx"]["gru"]["noise"]["output"]["additive"]["sigma"] = sigma
    return params.validate(content)


def environment(**changes):
    """Return a clean environment for commands."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEM_", "MLFLOW_", "DVC_", "GIT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | ENVIRONMENT | {"NEM_EXECUTOR": "serial", "PATH": path, "PYTHONPATH": str(ROOT)} | changes


def hashes(folder):
    """Return the SHA-256 of every file with its final name, by path from ``folder``."""
    files = (file for file in sorted(Path(folder).rglob("*")) if file.suffix != ".tmp" and file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def own_mounts():
    """Return the start of a command that gives a program mounts of its own, and why there is none if there is none.

    Root needs a namespace of mounts only, anybody else one of users too. A mount is gone with its program.
    """
    if not shutil.which("unshare"):
        return [], "needs `unshare` (util-linux)"
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", "/mnt"]
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        tried = subprocess.run([*command, *mount], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return command, None
    return [], f"needs the right to mount a tmpfs in a namespace of its own: {tried.stderr.strip()}"


def die_before_replace(number):
    """Kill this process with SIGKILL just before so-manieth file takes its final name."""
    count, replace = itertools.count(1), Path.replace

    def deadly(self, target):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = deadly


def join(process):
    for kind in ("user", "mnt"):
        theirs = Path(f"/proc/{process}/ns/{kind}")
        if theirs.readlink() != Path(f"/proc/self/ns/{kind}").readlink():
            with theirs.open() as file:
                assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0, f"cannot enter {theirs}"


def do(process, command):
    join(process)
    subprocess.run(command, check=True)


def become(process, module, arguments, folder, variables, last):
    """Become the stage, as the leader of a group of its own."""
    os.setpgid(0, 0)
    join(process)
    os.chdir(folder)
    os.environ.update(variables)
    log = os.open("stage.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 70
    try:
        if last is not None:
            die_before_replace(last)
        status = sys.modules[module].main(arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Launcher:
    """Starts stages in processes forked from a warm one; ``no_mounts`` says why it has no small disks, if so."""

    def __init__(self):
        inside, self.no_mounts = own_mounts()
        self.mounts = subprocess.Popen([*inside, "sleep", "infinity"])  # has the mounts that stages see
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.faults.warm", "tests.faults.harness"])
        with mock.patch.dict(os.environ, environment(), clear=True):
            forkserver.ensure_running()

    def view(self, folder):
        """Return the path under which this process sees ``folder`` with the stages' mounts."""
        return Path(f"/proc/{self.mounts.pid}/root{Path(folder).absolute()}")

    def start(self, function, *arguments):
        process = self.context.Process(target=function, args=(self.mounts.pid, *arguments))
        process.start()
        return process

    def do(self, *command):
        assert ended(self.start(do, command)) == 0

    def run(self, name, folder, last=None, kill_after=None, **variables):
        """Run a stage, until the ``last`` file takes its name or for some seconds; return status and seconds."""
        module, arguments = STAGES[name][:2] if isinstance(name, str) else name
        began = time.perf_counter()
        process = self.start(become, module, arguments, str(folder), variables, last)
        if kill_after is not None:
            process.join(kill_after)
            if process.is_alive():
                kill_group(process.pid)
        return ended(process), time.perf_counter() - began

    def close(self):
        self.mounts.kill()
        self.mounts.wait()


def ended(process):
    process.join(PATIENCE)
    assert process.exitcode is not None, "it did not end in time"
    return process.exitcode


def kill_group(pid):
    """Send SIGKILL to a process and its children (to the process alone, before it leads a group), unless it ended."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            return kill(pid, signal.SIGKILL)
    return None


def output(folder, stage):
    return folder / STAGES[stage][2]


def remove_outputs(folder, stage):
    """Do as DVC does before it runs a stage: delete its outputs."""
    shutil.rmtree(output(folder, stage), ignore_errors=True)


def kept(folder):
    files = (folder / ".checkpoints").rglob("*")
    return [file for file in files if file.is_file() and file.suffix not in (".tmp", ".lock")]


def log(folder):
    return (Path(folder) / "stage.log").read_text()


def check_store(folder, store="mlflow.db"):
    """Every slot of the present settings has one run, finished; that it has the files' numbers: tests/tracking."""
    record = json.loads((folder / "data" / "runs" / "fx" / "gru" / "run.json").read_text())
    # A copy: MLflow keeps connections by name, and may hold one to a file that is gone.
    with tempfile.TemporaryDirectory() as seen:
        shutil.copyfile(folder / store, Path(seen) / "mlflow.db")
        client = MlflowClient(f"sqlite:///{seen}/mlflow.db")
        experiment = client.get_experiment_by_name("noise-boosted-rbp/fx")
        every = client.search_runs([experiment.experiment_id], max_results=1000)
    slots = [run.data.tags[tracking.SLOT] for run in every]
    assert len(slots) == len(set(slots)), "a slot twice"
    digest = tracking.digest_of(tracking.settings_of(record))[:12]
    own = {slot: run for slot, run in zip(slots, every, strict=True) if slot.endswith(f"/{digest}")}
    places = ["", *(f"{c}/{r}/" for c in CONDITIONS for r in range(record["repetitions"]))]
    assert own.keys() == {f"fx/gru/{place}{digest}" for place in places}
    assert {run.info.status for run in own.values()} == {"FINISHED"}
    return every
