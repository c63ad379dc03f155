"""Jobs on a cluster: values, errors, threads and memory as elsewhere; machines of one type; code and files arrive."""

import json
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pipeline.common import cluster, jobs
from pipeline.training import train
from tests.cluster import work
from tests.cluster.conftest import environment
from tests.conftest import ROOT, refused
from tests.faults import harness
from tests.training import small

pytestmark = pytest.mark.cluster


def run(function, items, **named):
    return list(jobs.run(function, items, total=len(items), label="test", **named))


def test_values_errors_and_threads_are_as_elsewhere(ray):
    assert sorted(run(work.square, range(20))) == [(n, n * n) for n in range(20)]
    refused(FileNotFoundError, "^expected a file, found none$", run, work.fail, [1, 2])
    refused(ValueError, "^OddError: expected 1, found 2$", run, work.fail, [1, 3])
    found = [value for _, value in run(work.where, range(40))]
    assert len({pid for pid, *_ in found}) == 2
    assert {told for _, *told in map(list, found) for told in [tuple(told)]} == {(1, frozenset({1}))}


LISTENERS = """
import json
from contextlib import suppress

import psutil

from pipeline.common import jobs

list(jobs.run(str, [1, 2], total=1, label="test"))
family = psutil.Process().children(recursive=True)
found, commands = set(), []
for process in family:
    with suppress(psutil.NoSuchProcess):  # it ended meanwhile
        commands.append(" ".join(process.cmdline()))
        found |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
print(json.dumps([sorted(found), commands]))
"""


def test_nobody_else_can_reach_a_cluster_of_this_machine_alone(ray):
    done = subprocess.run([sys.executable, "-c", LISTENERS], env=environment(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    listeners, commands = json.loads(done.stdout.splitlines()[-1])
    assert {ip.removeprefix("::ffff:") for ip in listeners} == {"127.0.0.1"}, "its parts listen to each other"
    pages = [command for command in commands if "dashboard/dashboard.py" in command]
    assert all("--disable-frontend" in command for command in pages), "what Ray begins without a dashboard, too"


def test_many_jobs_hold_a_bounded_amount_of_memory(ray):
    """400 MB of results of 20,000 jobs, of which the driver never has more than a window."""
    taken, process = [0], psutil.Process()

    class Items(list):
        def __iter__(self):
            for number in range(len(self)):
                taken[0] += 1
                yield number

    before, most = None, 0
    for finished, (number, value) in enumerate(jobs.run(work.block, Items(range(20_000)), total=1, label="test"), 1):
        assert value == work.block(number)
        assert taken[0] <= finished + 2 * 2 + 2
        if finished % 500 == 0:
            memory = process.memory_full_info().uss
            before, most = before or memory, max(most, memory)
    assert taken == [20_000]
    assert most - before < 50e6


def test_machines_of_another_type_are_refused_or_told(nodes, monkeypatch, capsys):
    there = nodes()
    there.add_node(num_cpus=1)
    assert sorted(run(work.square, range(3))) == [(n, n * n) for n in range(3)]

    def joined_late():
        for number, _ in jobs.run(work.where, range(60), total=60, label="test"):
            if number == 0:
                there.add_node(num_cpus=1, env_vars={"ATEN_CPU_CAPABILITY": "default"})

    words = "machines of one type.*found one with torch uses 'DEFAULT' and not"
    refused(ValueError, words, joined_late)
    refused(ValueError, words, run, work.square, range(3))
    monkeypatch.setenv("NEM_MIXED_MACHINES", "1")
    assert sorted(run(work.square, range(3))) == [(n, n * n) for n in range(3)]
    assert "torch uses 'DEFAULT' and not" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_or_not_of_this_kind(ray, monkeypatch):
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    refused(ValueError, "start the pipeline on such a node", run, work.square, [1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        refused(ConnectionError, "expected a cluster at RAY_ADDRESS 127.0.0.1:.*; start one", run, work.square, [1])


DRIVER = """
import json, os, pickle, time
from pathlib import Path

from pipeline.common import jobs
from pipeline.training import train

DATA = Path("data/sequences/sample")


def look(_):
    import pipeline

    time.sleep(0.5)
    return pipeline.__file__, os.getcwd(), (DATA / "pool.safetensors").stat().st_ino, os.getpid()


if __name__ == "__main__":
    found = [value for _, value in jobs.run(look, range(8), total=8, label="look", reads=lambda _: [DATA])]
    train.train("sample", pickle.loads(Path("work").read_bytes()))
    made = {str(file): file.read_bytes().hex() for file in sorted(Path("data/runs").rglob("*")) if file.is_file()}
    try:
        list(jobs.run(look, [1], total=1, label="look", reads=lambda _: [Path(os.__file__)]))
    except ValueError as error:
        print(json.dumps([found, made, str(error)]))
"""


def test_nodes_without_the_driver_s_files_get_code_and_one_copy_of_the_data(project, nodes, monkeypatch):
    """The driver's folder is on a disk that its own process alone sees."""
    namespace, reason = harness.own_mounts()
    if reason:
        pytest.skip(reason)
    source, hidden = project / "source", project / "hidden"
    hidden.mkdir()
    for name in cluster.CODE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(source)
    (source / "drive.py").write_text(DRIVER)
    works = [small.work(), small.work(split="second")]
    (source / "work").write_bytes(pickle.dumps(works))
    monkeypatch.chdir(project)  # where nodes begin, which have code of nobody
    for name in cluster.CODE:
        (project / name).unlink()
    monkeypatch.delenv("PYTHONPATH")
    there = nodes()
    for _ in range(2):
        there.add_node(num_cpus=1)
    lines = (
        f"mount -t tmpfs none {hidden} && cp -r {source}/. {hidden} && cd {hidden} && exec {sys.executable} drive.py"
    )
    own = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = subprocess.run([*namespace, "sh", "-c", lines], env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, made, refusal = json.loads(done.stdout.splitlines()[-1])
    assert not list(hidden.iterdir())
    assert f"expected inputs below {hidden}, since nodes do not share it, found" in refusal
    code, folders, files, workers = map(set, zip(*found, strict=True))
    assert all("runtime_resources" in file for file in code), code
    assert all(Path(folder).parent == Path(tempfile.gettempdir()) for folder in folders)
    assert (len(folders), len(files)) == (1, 1), "both nodes of this machine map one file"
    assert len(workers) == 2
    assert not any(Path(folder).exists() for folder in folders)
    monkeypatch.chdir(source)
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    train.train("sample", works)
    assert {str(file): file.read_bytes().hex() for file in Path("data/runs").rglob("*") if file.is_file()} == made
