"""Whatever dies, no work is lost or doubled: workers, nodes, memory, drivers; and what kills each worker has a name."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.common import jobs
from pipeline.training import results, train
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling
from pipeline.video.layout import Video
from tests.cluster import work
from tests.cluster.conftest import environment
from tests.conftest import refused
from tests.faults import harness
from tests.training import small
from tests.video import samples

pytestmark = pytest.mark.cluster


def run(function, items, **named):
    return list(jobs.run(function, items, total=len(items), label="test", **named))


def test_a_killed_worker_s_job_runs_again(ray, folders):
    assert sorted(run(work.dies_first, folders[:3])) == [(n, f"{n:02}") for n in range(3)]
    assert [(folder / "ran").read_text() for folder in folders[:3]] == ["xx"] * 3


def test_a_job_that_needs_a_machine_of_its_own_is_tried_alone_before_it_is_given_up(ray, folders):
    assert sorted(run(work.dies_in_company, folders[:8])) == [(n, f"{n:02}") for n in range(8)]
    assert (folders[0] / "ran").read_text() == "xxx"


def test_a_node_is_removed_while_its_job_runs(ray, nodes, folders, monkeypatch, capsys):
    there = nodes()
    several = {node.node_id: node for node in (there.add_node(num_cpus=1) for _ in range(2))}
    done, removed = [], None
    for number, name in jobs.run(work.on_node, folders, total=12, label="test"):
        done.append((number, name))
        while not removed:  # a job that has just begun
            begun = {file: time.time() - file.stat().st_mtime for file in folders[0].parent.glob("*/nodes")}
            removed = next((file for file, ago in begun.items() if ago < 0.3 and file.read_text()), None)
            if removed:
                known = ray.nodes()
                there.remove_node(several[removed.read_text().split()[0]], allow_graceful=False)
    assert sorted(done) == [(n, f"{n:02}") for n in range(12)], "nothing lost, nothing twice"
    first, second = removed.read_text().split()
    assert first != second
    assert "is tried again" in capsys.readouterr().err
    monkeypatch.setattr(ray, "nodes", lambda: known)  # a run may begin before a loss is known
    assert sorted(run(work.square, range(3))) == [(n, n * n) for n in range(3)]
    assert "a node went away" in capsys.readouterr().err


def test_a_node_without_memory_is_told_of(nodes, monkeypatch, capsys):
    nodes().add_node(num_cpus=1, env_vars={"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "50"})
    assert run(work.where, [1], lost=lambda number: f"lost {number}") == [(0, "lost 1")]
    assert "OutOfMemoryError" in capsys.readouterr().err


@pytest.fixture(params=["process", "ray"])
def anywhere(request, ray, monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", request.param)


def test_what_kills_every_worker_is_an_error_or_what_the_caller_says(anywhere):
    refused(ChildProcessError, "dead .* by 3; run again", run, work.dies_always, range(5))
    assert sorted(run(work.dies_always, range(5), lost=str)) == [(0, 0), (1, 1), (2, 2), (3, "3"), (4, 4)]


def test_a_deadly_video_is_a_row_of_the_manifest(anywhere, project, monkeypatch):
    monkeypatch.setattr(frames, "sample", work.sample)
    names = ["a", "deadly", "b"]
    for number, name in enumerate(names):
        samples.video(project / "videos" / f"{name}.mpg", 150 + number)
    videos = [Video(f"{name}.mpg", "c", "g") for name in names]
    manifest = frames.extract(videos, project / "videos", Sampling(), project / "out", max_bad_fraction=0.5)
    assert manifest["status"].to_pylist() == ["ok", "unreadable", "ok"]
    assert "its worker died each time" in manifest["error"][1].as_py()
    assert not (project / ".checkpoints" / "frames").exists()


def test_a_deadly_repetition_is_networks_that_failed(anywhere, project, monkeypatch, capsys):
    monkeypatch.setattr(train, "_train_stack", work.train_stack)
    train.train("sample", [small.work(repetitions=(0, 1, 2))])
    made = results.load("sample", "lstm")
    assert [made.failed(name) for name in made.conditions] == [1] * 13
    assert all(len(made.curve(name, "test_loss")[1]) == 0 for name in made.conditions)
    assert "repetitions (1,) of lstm, sample, split first count as failed" in capsys.readouterr().err


DRIVER = """
import sys
from pathlib import Path
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling
from pipeline.video.layout import Video
from tests.cluster import work

frames.sample = work.slow_sample
names = sys.argv[1:]
videos = [Video(f"{name}.mpg", "c", "g") for name in names]
frames.extract(videos, Path("videos"), Sampling(), Path("out"))
"""


def entries(project):
    return sum(file.suffix != ".tmp" for file in (project / ".checkpoints/frames").glob("*/*"))


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT], ids=lambda way: way.name)
def test_a_driver_that_ends_early_goes_on_where_it_was(project, ray, monkeypatch, way):
    names = [f"v{number}" for number in range(6)]
    for number, name in enumerate(names):
        samples.video(project / "videos" / f"{name}.mpg", 150 + number)
    (project / "drive.py").write_text(DRIVER)
    command = [sys.executable, "drive.py", *names]
    with (project / "log").open("w") as log:
        driver = subprocess.Popen(command, env=environment(), stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while entries(project) < 2 and time.monotonic() < deadline:
            assert driver.poll() is None, (project / "log").read_text()
            time.sleep(0.05)
        family = psutil.Process(driver.pid).children(recursive=True)
        os.killpg(driver.pid, way) if way == signal.SIGINT else driver.kill()  # as the terminal does for Ctrl-C
        assert driver.wait(60) != 0
    while alive := [one for one in psutil.process_iter(["status"]) if one in family and one.info["status"] != "zombie"]:
        assert time.monotonic() < deadline, f"a driver takes its cluster with it, but for {alive}"
        time.sleep(0.5)
    ready = entries(project)
    assert 2 <= ready < 6
    begun = len((project / "sampled").read_text().split())
    subprocess.run(command, env=environment(), check=True)
    assert len((project / "sampled").read_text().split()) == begun + 6 - ready, "what was kept is not sampled again"
    expected = harness.hashes(project / "out")
    subprocess.run(command, env=environment(NEM_EXECUTOR="serial"), check=True)
    assert harness.hashes(project / "out") == expected
