"""Jobs, executors and files."""

import pytest
import torch

from pipeline import params, paths, records
from pipeline.fx import rates, synthetic, windows
from pipeline.training import executor, results, train


def small(project, **changes):
    """A tiny synthetic run's parameters, its windows in place."""
    base = params.Params(sources=["fx"], video_sets=[], tasks=["fx"])
    content = base.model_dump()
    content["fx"]["windows"]["train_end"] = 90
    content["training"] |= {
        "repetitions": 3,
        "conditions": ["none", "nem-additive-both", "blind-multiplicative-hidden"],
        **changes,
    }
    for cell in ("lstm", "gru"):
        content["train"]["fx"][cell] |= {"hidden": 4, "epochs": 2, "max_epochs": 3, "batch_size": 16}
    settings = params.validate(content)
    series = synthetic.generate(120, 1)
    rates.write(series, paths.FX_RATES)
    windows.save(windows.make_windows(series, settings.fx.windows), paths.FX_WINDOWS)
    return settings


def contents(folder):
    return {str(f.relative_to(folder)): records.sha256_of(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def test_files_do_not_depend_on_executor_or_workers(project, monkeypatch):
    settings, found = small(project), []
    for kind, workers in (("serial", "1"), ("process", "2"), ("process", "3")):
        monkeypatch.setenv("NEM_EXECUTOR", kind)
        monkeypatch.setenv("NEM_WORKERS", workers)
        train.train("fx", "gru", settings)
        found.append(contents(paths.run_folder("fx", "gru")))
    assert found[0] == found[1] == found[2]
    assert not (paths.CHECKPOINTS / "train" / "fx" / "gru").exists()
    run = results.load("fx", "gru")
    assert run.conditions == settings.training.conditions
    assert run.repetitions == 3
    assert len(run.curve("none", "test_loss")[2]) == 4
    assert len(run.predictions) == 3 * 3 * 29


def test_live_tracking_sees_every_repetition_once(project, monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    seen = []
    train.train(
        "fx", "lstm", small(project), lambda record: lambda repetition: seen.append((record["cell"], repetition.number))
    )
    assert sorted(seen) == [("lstm", 0), ("lstm", 1), ("lstm", 2)]


@pytest.mark.parametrize(
    ("repetitions", "dealt"), [(1, [1]), (2, [1, 1]), (3, [2, 1]), (10, [3, 3, 2, 2]), (5, [3, 2])]
)
def test_repetitions_are_dealt_evenly(repetitions, dealt):
    jobs = train.deal(repetitions, "cpu")
    assert [len(job) for job in jobs] == dealt
    assert sorted(r for job in jobs for r in job) == list(range(repetitions))
    assert train.deal(repetitions, "cuda") == [tuple(range(repetitions))]
    paper, exchange_rate = train.weights_of("gru", 2048, 256), train.weights_of("lstm", 4, 50)
    assert train.deal(repetitions, "cpu", exchange_rate) == jobs
    assert train.deal(repetitions, "cpu", paper) == [(r,) for r in range(repetitions)]


@pytest.mark.parametrize("bad", ["0", "-1", "two", "²"])
def test_workers_must_be_a_positive_integer(monkeypatch, bad):
    monkeypatch.setenv("NEM_WORKERS", bad)
    with pytest.raises(ValueError, match="NEM_WORKERS"):
        executor.workers()


def _die(_):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setenv("NEM_WORKERS", "2")
    with pytest.raises(ChildProcessError, match="NEM_WORKERS=1"):
        list(executor.run(_die, [1, 2], total=2, label="test"))


def test_an_unknown_executor_is_an_error(monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "cloud")
    with pytest.raises(ValueError, match="serial or process"):
        list(executor.run(str, [1], total=1, label="test"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_not_replaced_silently():
    with pytest.raises(ValueError, match="expected a CUDA device"):
        train.resolve_device("cuda")
    assert train.resolve_device("auto") == "cpu"


_ORPHANS = """
import os, sys, time
from pathlib import Path
from pipeline.training import executor

def work(number):
    Path(f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    list(executor.run(work, [1, 2], total=2, label="test"))
"""


def test_workers_end_when_their_parent_is_killed(project, monkeypatch):
    import os
    import signal
    import subprocess
    import sys
    import time

    (project / "orphans.py").write_text(_ORPHANS)
    environment = os.environ | {"NEM_WORKERS": "2", "NEM_EXECUTOR": "process", "PYTHONPATH": str(project)}
    parent = subprocess.Popen([sys.executable, "orphans.py"], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(project.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = [int(file.read_text() or 0) for file in project.glob("*.pid")]
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def alive(pid):
        try:
            return "State:\tZ" not in open(f"/proc/{pid}/status").read()  # noqa: PTH123
        except OSError:
            return False

    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(alive(pid) for pid in workers)
