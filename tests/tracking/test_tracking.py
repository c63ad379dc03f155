"""Exactly one MLflow run per slot, whatever came before; numbers equal to the files; a faulty store stops nothing."""

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from safetensors.torch import save

from pipeline import params, paths, records, tracking
from pipeline.conditions import CONDITIONS
from pipeline.training.engine import METRICS, Repetition
from tests.conftest import ROOT
from tests.evaluation import fabricate
from tests.faults import harness
from tests.faults import test_dvc as dvc

CONDITIONS_USED = ["none", "blind-additive-output", "nem-additive-both"]


@pytest.fixture
def settings(project, blank):
    shutil.copy(blank, project / "mlflow.db")
    return fabricated()


def fabricated(**training):
    made = fabricate.fx_params(**({"repetitions": 2, "conditions": CONDITIONS_USED} | training))
    fabricate.run(made, "lstm")
    return made


UI = [sys.executable, "-m", "stages.track", "--serve"]
"""What `make ui` runs; a test compares."""


@pytest.fixture(scope="session")
def server(tmp_path_factory, blank):
    """The server that `make ui` starts, a process of its own, started once: its process and its address."""
    folder = tmp_path_factory.mktemp("server")
    for name in ("pipeline", "stages", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(blank, folder / "mlflow.db")
    (folder / "params.yaml").write_text(params.render(params.Params()))
    for _ in range(3):  # somebody may take the port between our look and the server's
        process, uri, log = start_server(folder)
        if process is not None:
            break
    assert process is not None, log.read_text()[-3000:]
    yield process, uri
    stop_server(process)


def start_server(folder, patience=300):
    """Start it on a free port and wait until it answers; its log tells why, if it never does."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    uri, log = f"http://127.0.0.1:{port}", folder / f"server_{port}.log"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "NEM_"))}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*UI, "--port", str(port)], cwd=folder, env=clean, stdout=file, stderr=file, start_new_session=True
        )
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if urllib.request.urlopen(uri + "/health", timeout=5).status == 200:
                return process, uri, log
        except OSError:
            time.sleep(0.5)
    stop_server(process)
    return None, uri, log


def stop_server(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(params=["file", "server"])
def anywhere(request, settings, monkeypatch):
    """The folder's own store, and then a server process: what holds for one must hold for the other."""
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server")[1])
    return request.param


def active(owner=None):
    """The active runs of a project, by default of this folder's."""
    with tracking._client() as client:
        experiment = client.get_experiment_by_name("noise-boosted-rbp/fx")
        found = [] if experiment is None else client.search_runs([experiment.experiment_id], max_results=5000)
    owner = owner or tracking.project()
    return [run for run in found if run.data.tags[tracking.PROJECT] == owner]


def slots():
    return sorted(run.data.tags["nem.slot"] for run in active())


WANTED = sorted(["fx/lstm"] + [f"fx/lstm/{c}/{r}" for c in CONDITIONS_USED for r in range(2)])


def test_one_run_per_slot_after_any_sequence(anywhere):
    if anywhere == "file":
        (paths.DATA.parent / "mlflow.db").unlink()
    assert tracking.sync("fx", "lstm") == 6
    assert slots() == WANTED
    first = {run.data.tags["nem.slot"]: run.info.run_id for run in active()}
    assert tracking.sync("fx", "lstm") == 0
    assert {run.data.tags["nem.slot"]: run.info.run_id for run in active()} == first
    # A run that was killed before it was whole, and a copy: both go.
    with tracking._client() as client:
        runs = tracking._Runs(client, "fx", "lstm")
        runs.create("fx/lstm/none/0", "half", "half", {})
        client.delete_tag(first["fx/lstm/none/1"], tracking.COMPLETE)
    assert tracking.sync("fx", "lstm") == 1
    assert slots() == WANTED
    # Other settings: the slots stay, the runs are new.
    record = records.read_json(paths.run_folder("fx", "lstm") / "run.json")
    record["settings"]["sigma"]["output"]["additive"] = 0.7
    records.write_json(paths.run_folder("fx", "lstm") / "run.json", record)
    assert tracking.sync("fx", "lstm") == 6
    assert slots() == WANTED
    # Fewer conditions: their runs go.
    record["training"]["conditions"] = ["none"]
    records.write_json(paths.run_folder("fx", "lstm") / "run.json", record)
    tracking.sync("fx", "lstm")
    assert slots() == ["fx/lstm", "fx/lstm/none/0", "fx/lstm/none/1"]


def test_numbers_and_axes_are_those_of_the_files(anywhere):
    tracking.sync("fx", "lstm")
    check_numbers_and_axes()


def check_numbers_and_axes(sigma="0.1"):
    curves = pd.read_parquet(paths.run_folder("fx", "lstm") / "curves.parquet")
    every = active()
    parent = next(run for run in every if run.data.tags["nem.slot"] == "fx/lstm")
    with tracking._client() as client:
        for run in every:
            if run is parent:
                continue
            condition, repetition = run.data.params["condition"], int(run.data.params["repetition"])
            assert run.data.tags[tracking.PARENT] == parent.info.run_id
            rows = curves[(curves.condition == condition) & (curves.repetition == repetition)]
            for name in METRICS:
                history = client.get_metric_history(run.info.run_id, name)
                found = {m.step: m.value for m in history}
                values = rows[["epoch", name]].dropna()
                assert len(history) == len(values)
                assert found == dict(zip(values.epoch, values[name], strict=True))
            failed = (condition, repetition) == ("blind-additive-output", 1)
            assert run.info.status == ("FAILED" if failed else "FINISHED")
            if condition == "nem-additive-both":
                assert run.data.tags["theorem"] == "Theorem 3, Theorem 4"
                assert run.data.params["sigma_output"] == sigma
                assert (run.data.params["kind"], run.data.params["mode"], run.data.params["place"]) == (
                    "nem",
                    "additive",
                    "both",
                )
            assert run.inputs.dataset_inputs[0].dataset.name == "windows"


def repetition(number):
    """The Repetition that training would have handed over for a fabricated run."""
    curves = pd.read_parquet(paths.run_folder("fx", "lstm") / "curves.parquet")
    array = np.full((len(CONDITIONS_USED), 16, len(METRICS)), np.nan)
    for c, condition in enumerate(CONDITIONS_USED):
        rows = curves[(curves.condition == condition) & (curves.repetition == number)]
        array[c, rows.epoch] = rows[list(METRICS)].to_numpy(float)
    return Repetition(number, tuple(CONDITIONS_USED), torch.from_numpy(array), torch.zeros(3), torch.zeros(3, 1, 1), [])


def test_live_runs_are_the_runs_that_sync_wants(anywhere):
    record = records.read_json(paths.run_folder("fx", "lstm") / "run.json")
    log = tracking.live(record)
    log(repetition(0))
    assert slots() == sorted(["fx/lstm"] + [f"fx/lstm/{c}/0" for c in CONDITIONS_USED])
    first = {run.info.run_id for run in active()}
    log(repetition(0))
    assert {run.info.run_id for run in active()} == first
    assert tracking.sync("fx", "lstm") == 3
    assert first < {run.info.run_id for run in active()}
    assert slots() == WANTED
    check_numbers_and_axes()


DEADLY_SYNC = """
import itertools, os, signal, sys
from mlflow.tracking import MlflowClient
from pipeline import tracking

WRITES = ("create_run", "log_batch", "log_inputs", "set_tag", "set_terminated", "delete_run", "log_artifact")

def count(last):
    calls = itertools.count(1)
    def counted(write):
        def call(*arguments, **named):
            if next(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*arguments, **named)
        return call
    for name in WRITES:
        setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))

def child(last):
    # Forked before any store was opened, so that no connection is shared.
    pid = os.fork()
    if pid == 0:
        count(last)
        tracking.sync("fx", "lstm")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

for last in map(int, sys.argv[1:]):
    print("status", child(last), flush=True)
"""


def test_a_sync_that_is_killed_again_and_again_and_then_repeated_leaves_one_run_per_slot(anywhere):
    tracking.sync("fx", "lstm")
    record = records.read_json(paths.run_folder("fx", "lstm") / "run.json")
    record["settings"]["sigma"]["output"]["additive"] = 0.7  # all runs are to be replaced, so there is much to break
    records.write_json(paths.run_folder("fx", "lstm") / "run.json", record)
    points = (1, 2, 4, 7, 12, 17)  # each goes on where the last one was killed
    found = subprocess.run(
        [sys.executable, "-c", DEADLY_SYNC, *map(str, points)], capture_output=True, text=True, check=False
    )
    statuses = [line for line in found.stdout.splitlines() if line.startswith("status")]
    assert statuses == [f"status {-signal.SIGKILL}"] * len(points), found.stderr[-2000:]
    broken = [run for run in active() if tracking.COMPLETE not in run.data.tags]
    assert broken or slots() != WANTED, "the kills came at moments at which nothing breaks"
    tracking.sync("fx", "lstm")
    assert slots() == WANTED
    check_numbers_and_axes(sigma="0.7")
    assert tracking.sync("fx", "lstm") == 0


def clone(folder):
    """Another clone of the project."""
    folder.mkdir()
    for name in ("pipeline", "stages", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("shared", ["file", "server"])
def test_clones_that_share_a_store_never_touch_each_others_runs(
    request, settings, blank, monkeypatch, tmp_path_factory, capsys, shared
):
    folder, first = tmp_path_factory.mktemp("shared"), paths.DATA.absolute().parent
    if shared == "file":
        shutil.copy(blank, folder / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server")[1])
    tracking.sync("fx", "lstm")
    mine, owner = {run.info.run_id: run.data.metrics for run in active()}, tracking.project()
    assert str(first) in owner
    capsys.readouterr()

    def untouched():
        assert {run.info.run_id: run.data.metrics for run in active(owner)} == mine

    # The other clone has other settings, then fewer conditions, and trains live.
    monkeypatch.chdir(clone(folder / "clone"))
    fabricated()
    record = records.read_json(paths.run_folder("fx", "lstm") / "run.json")
    record["settings"]["sigma"]["output"]["additive"] = 0.7
    records.write_json(paths.run_folder("fx", "lstm") / "run.json", record)
    tracking.live(record)(repetition(0))
    untouched()
    assert tracking.sync("fx", "lstm") == 3
    told = capsys.readouterr().err
    assert owner in told
    assert "left alone" in told
    assert slots() == WANTED
    untouched()
    fabricated(conditions=["none"])
    tracking.sync("fx", "lstm")
    assert slots() == ["fx/lstm", "fx/lstm/none/0", "fx/lstm/none/1"]
    untouched()
    other = tracking.project()
    monkeypatch.chdir(first)
    assert tracking.sync("fx", "lstm") == 0
    assert other in capsys.readouterr().err
    untouched()
    # A clone that moved goes on under its old name, if it is told.
    monkeypatch.chdir(folder / "clone")
    monkeypatch.setenv("NEM_PROJECT", owner)
    tracking.sync("fx", "lstm")
    assert len(active(owner)) == 3


def test_writers_of_one_folder_and_of_another_at_once(settings, server, monkeypatch, tmp_path_factory):
    first, second = paths.DATA.absolute().parent, clone(tmp_path_factory.mktemp("beside") / "clone")
    shutil.copytree("data", second / "data")
    environment = os.environ | {"MLFLOW_TRACKING_URI": server[1]}
    code = "from pipeline import tracking; print('made', tracking.sync('fx', 'lstm'))"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for folder in (first, first, second)
    ]  # fmt: skip
    told = [writer.communicate(timeout=250) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], [err[-1500:] for _, err in told]
    made = [int(re.search(r"^made (\d+)$", out, re.M)[1]) for out, _ in told]
    assert sorted(made[:2]) == [0, 6]
    assert made[2] == 6
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    for folder in (first, second):
        monkeypatch.chdir(folder)
        assert slots() == WANTED
        check_numbers_and_axes()


def test_a_folder_that_moves_keeps_the_runs_of_its_own_store(settings, monkeypatch, tmp_path_factory, capsys):
    assert tracking.sync("fx", "lstm") == 6
    moved = clone(tmp_path_factory.mktemp("moved") / "project")
    shutil.copytree("data", moved / "data")
    shutil.copy("mlflow.db", moved)
    monkeypatch.chdir(moved)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow sets in the process that used a store
    assert tracking.sync("fx", "lstm") == 0
    assert slots() == WANTED
    assert "other projects" not in capsys.readouterr().err


def test_an_experiment_that_another_clone_made_just_now_is_used(settings, monkeypatch):
    tracking.sync("fx", "lstm")
    look, looks = MlflowClient.get_experiment_by_name, []

    def late(self, name):
        looks.append(name)
        return None if len(looks) == 1 else look(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    assert tracking.sync("fx", "lstm") == 0
    assert len(looks) == 2


def test_the_server_of_make_ui_listens_on_loopback_only(server):
    recipe = re.search(r"^ui: setup ##[^\n]*\n\t@\$\(BIN\)/python ([^\n]*)$", (ROOT / "Makefile").read_text(), re.M)
    assert recipe[1].split() == UI[1:], "the server of these tests is not that of make ui"
    process, uri = server
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = {
        (found.laddr.ip, found.laddr.port)
        for each in tree
        for found in each.net_connections(kind="inet")
        if found.status == psutil.CONN_LISTEN or (found.type == socket.SOCK_DGRAM and not found.raddr)
    }
    assert listening == {("127.0.0.1", int(uri.rsplit(":", 1)[1]))}


def test_data_that_another_clone_entered_just_now_are_used(settings, monkeypatch):
    """MLflow looks for a data set and then enters it; between the two another clone may have entered it."""
    log, calls = MlflowClient.log_inputs, []

    def late(self, run_id, datasets):
        calls.append(run_id)
        if len(calls) == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        log(self, run_id, datasets)

    monkeypatch.setattr(MlflowClient, "log_inputs", late)
    assert tracking.sync("fx", "lstm") == 6
    assert len(calls) == 7
    check_numbers_and_axes()


TRAIN = "train@fx-gru"


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_one_run_per_slot_of_a_server_after_force_kill_other_parameters_cache_and_partial_reruns(
    server, tmp_path, monkeypatch
):
    """What tests/faults/test_dvc.py does to the folder's own store; every run of DVC logs live to the server."""
    monkeypatch.setitem(harness.ENVIRONMENT, "MLFLOW_TRACKING_URI", server[1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    folder = dvc.clone(tmp_path / "project")
    monkeypatch.chdir(folder)

    def check():
        """Return the training's files and the ids of its runs, after a look at every slot and metric."""
        found, curves = active(), pd.read_parquet(paths.run_folder("fx", "gru") / "curves.parquet")
        wanted = ["fx/gru", *(f"fx/gru/{c}/{r}" for c in harness.CONDITIONS for r in range(2))]
        assert sorted(run.data.tags[tracking.SLOT] for run in found) == sorted(wanted)
        with tracking._client() as client:
            for run in (run for run in found if "condition" in run.data.params):
                condition, number = run.data.params["condition"], int(run.data.params["repetition"])
                rows = curves[(curves.condition == condition) & (curves.repetition == number)]
                for name in METRICS:
                    history = client.get_metric_history(run.info.run_id, name)
                    values = rows[["epoch", name]].dropna()
                    assert sorted((m.step, m.value) for m in history) == sorted(values.itertuples(index=False))
        return harness.hashes(harness.output(folder, "train")), {run.info.run_id for run in found}

    dvc.run(folder, "repro")
    first = check()
    dvc.run(folder, "repro", "--force", "--single-item", TRAIN)
    assert check() == first, "equal numbers are the runs that are there"

    process = dvc.start(folder, "repro", "--force", "--single-item", TRAIN)
    while process.poll() is None and not list((folder / ".checkpoints" / "train").rglob("*.safetensors")):
        time.sleep(0.01)
    harness.kill_group(process.pid)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the kill came too late"

    other = harness.tiny().model_dump()
    other["train"]["fx"]["gru"]["sigma"]["output"]["additive"] = 0.123
    (folder / "params.yaml").write_text(params.render(params.validate(other)))
    dvc.run(folder, "repro", TRAIN)
    assert check()[0] != first[0]

    (folder / "params.yaml").write_text(params.render(harness.tiny()))
    assert "Running stage 'train" not in dvc.run(folder, "repro"), "the cache has these results"
    shutil.rmtree(harness.output(folder, "train"))
    dvc.run(folder, "checkout", "dvc.yaml")
    for added in ("4 run(s)", "0 run(s)"):
        assert f"track: {added} added" in dvc.run(folder, module="stages.track")
        assert check()[0] == first[0]
    assert not (folder / "mlflow.db").exists(), "this was to be about the server"


def test_an_unusable_store_warns_once_and_a_later_sync_completes_it(settings, monkeypatch, capsys):
    record = records.read_json(paths.run_folder("fx", "lstm") / "run.json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    log = tracking.live(record)
    log(repetition(0))
    log(repetition(1))
    err = capsys.readouterr().err
    assert err.count("make track") == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.sync("fx", "lstm") == 6
    assert slots() == WANTED


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("locked", marks=pytest.mark.faults),
        pytest.param("garbage", marks=pytest.mark.faults),
        "held by another writer",
    ],
)
def test_a_faulty_file_store_warns_once_and_a_later_sync_completes_it(settings, monkeypatch, capsys, fault):
    record = records.read_json(paths.run_folder("fx", "lstm") / "run.json")
    file = paths.DATA.parent / "mlflow.db"
    log = tracking.live(record)
    with contextlib.ExitStack() as stack:
        if fault == "locked":
            tracking.sync("fx", "lstm")
            locking = stack.enter_context(contextlib.closing(sqlite3.connect(file, isolation_level=None)))
            locking.execute("BEGIN EXCLUSIVE")
        elif fault == "garbage":
            file.write_bytes(b"no database" * 1000)
        else:
            monkeypatch.setattr(tracking, "PATIENCE_LIVE", 0.1)
            stack.enter_context(FileLock(paths.CHECKPOINTS.absolute() / "mlflow.lock"))
        log(repetition(0))
        log(repetition(1))
    err = capsys.readouterr().err
    assert err.count("make track") == 1
    assert "training goes on" in err
    assert "Traceback" not in err
    if fault == "garbage":
        with pytest.raises(tracking.StoreError, match="make track"):
            tracking.sync("fx", "lstm")
        file.unlink()  # and a new process, since MLflow keeps a store's connections for the life of one
        code = "from pipeline import tracking as t; print(t.sync('fx', 'lstm'), t.sync('fx', 'lstm'))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["6", "0"]
        return
    tracking.sync("fx", "lstm")
    assert slots() == WANTED
    assert tracking.sync("fx", "lstm") == 0


def test_the_best_model_loads_without_pickle(settings, monkeypatch):
    folder = paths.run_folder("fx", "lstm")
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "W": torch.randn(5, 12, generator=generator),
        "V": torch.randn(12, 3, generator=generator),
        "U": torch.randn(1, 3, generator=generator),
        "b": torch.randn(1, 1, generator=generator),
    }
    about = '{"cell": "lstm", "inputs": 4, "classes": []}'
    for condition in CONDITIONS_USED:
        records.write_bytes(folder / "models" / f"{condition}.safetensors", save(tensors, {"model": about}))
    record = records.read_json(folder / "run.json")
    record["versions"]["torch"] = torch.__version__
    records.write_json(folder / "run.json", record)
    tracking.sync("fx", "lstm")
    parent = next(run for run in active() if run.data.tags["nem.slot"] == "fx/lstm")
    assert parent.data.tags["nem.model"]
    code = (
        "import os, sys, numpy as np, mlflow\n"
        f"mlflow.set_tracking_uri({tracking.store()!r})\n"
        f"m = mlflow.pyfunc.load_model('runs:/{parent.info.run_id}/model')\n"
        "print(float(m.predict(np.ones((2, 4, 4), np.float32))[0, 0]))\n"
    )
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr[-2000:]
    from pipeline.training.serving import TrainedNetwork

    network = TrainedNetwork(folder / "models" / "none.safetensors")
    expected = network.predict(np.ones((2, 4, 4), np.float32))[0, 0]
    assert float(found.stdout.split()[-1]) == pytest.approx(float(expected), rel=1e-6)
    pickles = [f for f in (paths.DATA.parent / "mlartifacts").rglob("*") if f.suffix in (".pkl", ".pickle")]
    assert not pickles


def test_every_condition_names_its_theorem():
    record = {"cell": "gru", "classes": []}
    named = {c: tracking._theorems(record, c) for c in CONDITIONS}
    assert named["none"] == "none"
    assert named["nem-multiplicative-both"] == "Corollary 2, Corollary 4"
    assert tracking._theorems({"cell": "lstm", "classes": ["a"]}, "nem-additive-both") == "Theorem 2, Theorem 4"
