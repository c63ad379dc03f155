"""The pipeline as a whole: the demo from nothing, what DVC and MLflow add to it, memory of stages, large features."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipeline.common import records, sequences
from tools import check_repro
from tools.bench.rows import Row

LIMIT, AGAIN, LOGGING, BATCH = 240.0, 2.0, 15.0, 1.0  # what is aimed at [s]
SWEEP = 130  # runs
FRAMES, WIDTH, SLICES = 2**18, 2048, 7  # 2 GiB of features
FIRST_BATCH = """
import sys, time
start = time.perf_counter()
from pathlib import Path
import torch
from pipeline.common import sequences
import pipeline.training.engine
loaded = time.perf_counter()
part = sequences.load(Path(sys.argv[1])).train
batch = part.pool[part.index[torch.randperm(len(part))[:64]]]
print(time.perf_counter() - loaded, loaded - start, float(batch.sum()))
"""


def watched(command: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[float, dict[str, list[float]]]:
    """Run a command; return its time [s], and time [s] and largest memory [MiB] of every stage below it.

    A stage's time is that of its process, start included; its memory that of all that the command began, at once.
    Raises a CheckError where the command fails.
    """
    stages, start = dict[str, list[float]](), time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=told, stderr=subprocess.STDOUT)
        while process.poll() is None:
            below = _children(process.pid)  # few scans of all processes: they take a core's time, too
            for child in below:
                try:
                    line = child.cmdline()
                    name = " ".join(line[line.index("-m") + 1 :]) if "-m" in line else ""
                    if name.startswith("stages."):
                        own = stages.setdefault(name.removeprefix("stages."), [0.0, 0.0])
                        held = sum(each.memory_info().rss for each in below) / 2**20
                        own[:] = time.time() - child.create_time(), max(own[1], held)
                except (psutil.Error, ValueError):
                    continue  # it ended meanwhile
            time.sleep(0.2)
        seconds = time.perf_counter() - start
        if process.returncode:
            told.seek(0)
            raise check_repro.CheckError(f"{' '.join(command)} failed:\n{told.read().decode()[-2000:]}")
    return seconds, stages


def _children(pid: int) -> list[Any]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def rows() -> Iterator[Row]:
    """Yield the rows of the demo, in a clone of the commit, and of features of 2 GiB."""
    root, binaries = Path.cwd(), Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "demo" / "clone"
        clone.parent.mkdir()
        check_repro.run(["git", "clone", "--quiet", "--no-hardlinks", str(root), str(clone)], clone.parent)
        own = check_repro.surroundings(clone, {}, binaries)
        _set_up(root / "nem", clone / "nem")
        check_repro.run([str(binaries / "python"), "-m", "tools.compile"], clone, own)
        command = [str(binaries / "dvc"), "repro"]
        seconds, stages = watched(command, clone, own)
        inside = sum(took for took, _ in stages.values())
        track = [str(binaries / "python"), "-m", "stages.track"]
        logged, _ = watched(track, clone, own)
        runs = _runs(clone)
        what = "demo, from nothing: dvc repro and the runs in MLflow"
        yield Row("pipeline", what, seconds + logged, "s", floor=inside, note=f"aim {LIMIT:g}")
        yield Row("pipeline", "demo, the stages' own processes", inside, "s")
        yield Row("pipeline", "demo, DVC's share", 100 * (seconds - inside) / seconds, "%", note="aim 5")
        again, _ = watched(command, clone, own)
        yield Row("pipeline", "demo, second dvc repro", again, "s", note=f"aim {AGAIN:g}")
        note = f"aim {LOGGING:g}; {runs} networks logged in {logged:.1f} s"
        yield Row("pipeline", f"MLflow, a sweep of {SWEEP} networks", SWEEP * logged / runs, "s", note=note)
        for name, (took, memory) in stages.items():
            yield Row("pipeline", f"stage {name}, memory of all its processes", memory, "MiB", note=f"{took:.1f} s")
    yield first_batch()


def _set_up(code: Path, copy: Path) -> None:
    """Bring compiled code over, which numba takes for stale where the file that it came from has another time stamp."""
    if all(file.read_bytes() == (copy / file.name).read_bytes() for file in code.glob("*.py")):
        shutil.copytree(code / "__pycache__", copy / "__pycache__")
        for file in code.glob("*.py"):
            shutil.copystat(file, copy / file.name)


def _runs(clone: Path) -> int:
    """Return how many networks the runs of a clone hold."""
    known = [records.read_json(file) for file in (clone / "data" / "runs").rglob("run.json")]
    return sum(len(one["settings"]["conditions"]) * one["repetitions"] for one in known)


def first_batch() -> Row:
    """Return the row of the first batch of 2 GiB of features, in a fresh process after its imports."""
    count = FRAMES // SLICES
    with tempfile.TemporaryDirectory() as folder:
        pool = np.random.default_rng(1).random((FRAMES, WIDTH), np.float32)
        index = np.arange(count * SLICES).reshape(count, SLICES)
        targets = np.eye(11, dtype=np.float32)[np.arange(count) % 11]
        side = np.where(np.arange(count) % 5, "train", "test")
        table = sequences.Table(
            np.arange(count), index, targets, None, {"first": side}, {"": pool}, "softmax", classes=tuple("abcdefghijk")
        )
        sequences.write(Path(folder), table)
        hashing = records.digest_of(next(Path(folder).glob("pool*")))  # brings the file into memory, as its writer does
        start = time.perf_counter()
        records.digest_of(next(Path(folder).glob("pool*")))
        hashed = time.perf_counter() - start
        del pool, table, hashing
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", FIRST_BATCH, folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    took, imports, _ = map(float, done.stdout.split())
    note = f"aim {BATCH:g}; the floor is its digest, on all cores; imports {imports:.1f} s before"
    return Row("pipeline", "first batch of 2 GiB of features", took, "s", floor=hashed, note=note)
