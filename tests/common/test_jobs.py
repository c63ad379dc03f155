"""Jobs give the same values wherever they run, hold one thread, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
import weakref

import psutil
import pytest
import torch
from threadpoolctl import threadpool_info

from pipeline.common import jobs
from tests.conftest import ROOT, refused


def _square(number):
    jobs.progress(1)
    return number * number


def _threads(_):
    return torch.get_num_threads(), frozenset(pool["num_threads"] for pool in threadpool_info())


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _die_of_three(number):
    return _die(number) if number == 3 else number


def _told(name):
    return os.environ.get(name), "zipapp" in sys.modules


def _fail(number):
    if number == 2:
        raise ValueError("expected 1, found 2")
    return number


class Block:
    def __init__(self, number):
        pass


@pytest.fixture(params=["serial 1", "process 1", "process 2"])
def anywhere(request, monkeypatch):
    executor, workers = request.param.split()
    monkeypatch.setenv("NEM_EXECUTOR", executor)
    monkeypatch.setenv("NEM_WORKERS", workers)


def test_values_come_with_their_numbers(anywhere):
    assert sorted(jobs.run(_square, range(20), total=20, label="test")) == [(n, n * n) for n in range(20)]
    refused(ValueError, "expected 1, found 2", list, jobs.run(_fail, range(8), total=8, label="test"))


def test_every_job_has_one_thread_and_the_caller_keeps_its_own(anywhere, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert {result for _, result in jobs.run(_threads, [1, 2], total=2, label="test")} == {(1, frozenset({1}))}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_bounded_window_is_in_flight_and_results_are_not_kept_alive(monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "process")
    monkeypatch.setenv("NEM_WORKERS", "2")
    taken, alive = [], []

    class Items(list):
        def __iter__(self):
            yield from (taken.append(number) or number for number in range(len(self)))

    for finished, (_, block) in enumerate(jobs.run(Block, Items(range(40)), total=40, label="test"), 1):
        assert len(taken) <= finished + 2 * 2 + 2
        alive = [reference for reference in alive if reference() is not None]
        assert len(alive) <= 2 * 2 + 3
        alive.append(weakref.ref(block))


LOADED = """
import os
from pipeline.common import jobs
from tests.common.test_jobs import _told
before = {**os.environ}
jobs.begin("zipapp")
assert os.environ == before
for value in ("one", "two"):
    os.environ["NEM_TOLD"] = value
    assert {*jobs.run(_told, ["NEM_TOLD"] * 3, total=3, label="test")} == {(n, (value, True)) for n in range(3)}
"""


def test_workers_have_loaded_what_was_begun_and_have_the_environment_of_their_call():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEM_WORKERS": "2", "NEM_EXECUTOR": "process"}
    subprocess.run([sys.executable, "-c", LOADED], env=environment, cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("name", "value"), [*(("NEM_WORKERS", bad) for bad in ("0", "-1", "two", "²")), ("NEM_EXECUTOR", "cloud")]
)
def test_choices_that_are_none_are_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    words = f"{name} to be (a positive integer|serial or process or ray), found"
    refused(ValueError, words, list, jobs.run(str, [1, 2], total=2, label="test"))


def test_a_dead_worker_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setenv("NEM_WORKERS", "2")
    refused(ChildProcessError, "NEM_WORKERS=1", list, jobs.run(_die, [1, 2], total=2, label="test"))


def test_one_deadly_job_is_found_and_the_others_go_on(monkeypatch):
    monkeypatch.setenv("NEM_WORKERS", "2")
    found = jobs.run(_die_of_three, range(8), total=8, label="test", lost=lambda number: f"lost {number}")
    assert sorted(found) == [(n, f"lost {n}" if n == 3 else n) for n in range(8)]


def test_a_cluster_needs_ray(monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(ValueError, "run `make setup CLUSTER=1`", list, jobs.run(str, [1, 2], total=2, label="test"))


TYPES = """
from pipeline.common import machine

first = machine.fingerprint()
assert first["BLAS"]
import cv2, scipy.linalg
machine.fingerprint.cache_clear()
machine.check(first, machine.fingerprint())
"""


def test_a_machine_stays_of_one_type_whatever_it_has_loaded():
    """OpenCV's BLAS, which is old, does not know new processors, as it does not know this one."""
    environment = os.environ | {"OPENBLAS_CORETYPE": "SapphireRapids", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", TYPES], env=environment, check=True)


ORPHANS = """
import os, time
from pathlib import Path
from pipeline.common import jobs

def work(number):
    Path(f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    list(jobs.run(work, [1, 2], total=2, label="test"))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    environment = os.environ | {"NEM_WORKERS": "2", "NEM_EXECUTOR": "process", "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "orphans.py"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    def working():
        pids = [int(text) for file in tmp_path.glob("*.pid") if (text := file.read_text())]
        return sum(p.info["status"] != "zombie" for p in psutil.process_iter(["status"]) if p.pid in pids)

    for wanted in (2, 0):
        deadline = time.monotonic() + 120
        while working() != wanted and time.monotonic() < deadline:
            time.sleep(0.2)
        assert working() == wanted
        parent.kill()
        parent.wait()
