"""Exactly one MLflow run per slot, whatever came before; numbers equal to the files; a faulty store stops nothing."""

import contextlib
import itertools
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

import pandas as pd
import psutil
import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nem.conditions import CONDITIONS
from pipeline import params, tracking
from pipeline.common import paths
from pipeline.training.engine import METRICS
from stages import track
from tests.conftest import ROOT
from tests.evaluation import fabricate

FX = [("fx", "lstm", None)]
FEW = ("none", "blind-additive-output", "nem-additive-both")
FAILED = ("blind-additive-output", 1, 6)
WANTED = sorted(["fx/lstm"] + [f"fx/lstm/{c}/{r}" for c in FEW for r in range(2)])
WRITES = ("create_run", "log_batch", "log_inputs", "set_tag", "set_terminated", "delete_run", "log_artifact")
SERVERS = []
UI = [sys.executable, "-m", "stages.track", "--serve"]
"""What `make ui` runs; a test compares."""
SYNC = f"from pipeline.tracking import show; print('made', sum(runs[-1] for _, runs, _ in show({FX})))"


def write(conditions=FEW, **changes):
    """Write a training whose numbers nobody trained; return its record and repetitions, equal for equal arguments."""
    if not paths.sequences("fx").exists():
        fabricate.fx_data()
    return fabricate.run("fx", "lstm", conditions=conditions, repetitions=2, failing=FAILED, **changes)


def sync(trainings):
    return sum(added for _, (_, _, added), _ in tracking.show(trainings))


def clone(folder):
    folder.mkdir()
    for name in ("nem", "pipeline", "stages", "profiles", "params.yaml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def trained(project, blank):
    shutil.copy(blank, project / "mlflow.db")
    return write()


@pytest.fixture(scope="session")
def server(tmp_path_factory, blank):
    """The server that `make ui` starts, a process of its own, started once: its process and its address."""
    if SERVERS:  # who imports this fixture has a second one
        yield SERVERS[0]
        return
    folder = clone(tmp_path_factory.mktemp("server") / "project")
    shutil.copy(blank, folder / "mlflow.db")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "NEM_"))}
    command, uri = [*UI, "--port", str(port)], f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, cwd=folder, env=clean, start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(uri + "/health", timeout=5):
                break
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
        SERVERS.append((process, uri))
        yield process, uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(params=["file", "server"])
def anywhere(request, trained, monkeypatch):
    """The folder's own store, and then a server process: what holds for one must hold for the other."""
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server")[1])
    return trained


def active(owner=None):
    with tracking.connected() as client:
        experiment = client.get_experiment_by_name("noise-boosted-rbp/fx")
        runs = [] if experiment is None else client.search_runs([experiment.experiment_id], max_results=5000)
    owner = owner or tracking.project()
    return [run for run in runs if run.data.tags[tracking.PROJECT] == owner]


def slots(runs=None):
    tags = [run.data.tags for run in (active() if runs is None else runs)]
    assert len({tag[tracking.SLOT] for tag in tags}) == len(tags), "a slot twice"
    return sorted(tag[tracking.SLOT].rpartition("/")[0] for tag in tags)


def numbers():
    """What the runs of networks hold; a parent's summary follows the files."""
    runs = [run for run in active() if run.data.tags[tracking.ROLE] == "network"]
    return {run.info.run_id: (run.data.metrics, run.info.run_name) for run in runs}


def check(rate="0.01"):
    """Every run of these settings has the files' numbers, its axes and its parent; a failed network says so."""
    curves = pd.read_parquet(paths.run_folder("fx", "lstm") / "curves.parquet")
    runs = [run for run in active() if run.data.params["learning_rate"] == rate]
    assert slots(runs) == WANTED
    (parent,) = (run for run in runs if run.data.tags[tracking.ROLE] == "parent")
    with tracking.connected() as client:
        for run in runs:
            if run is parent:
                continue
            params, tags = run.data.params, run.data.tags
            condition, repetition = params["condition"], int(params["repetition"])
            assert tags[tracking.PARENT] == parent.info.run_id
            assert run.info.run_name.startswith(f"fx lstm {condition} #{repetition}")
            rows = curves[(curves.condition == condition) & (curves.repetition == repetition)]
            for name in METRICS:
                history = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
                assert history == [tuple(row) for row in rows[["epoch", name]].dropna().to_numpy()]
            failed = (condition, repetition) == FAILED[:2]
            assert run.info.status == ("FAILED" if failed else "FINISHED")
            at_R = [] if failed else [run.data.metrics["test_loss_at_R"]]
            assert at_R == rows[rows.epoch == fabricate.EPOCHS].test_loss.tolist()
            if condition == "nem-additive-both":
                axes = [params[name] for name in ("kind", "mode", "place", "sigma_output", "theorem")]
                assert axes == ["nem", "additive", "both", "0.3", "Theorem 3, Theorem 4"]
            assert {entered.dataset.name for entered in run.inputs.dataset_inputs} == {"about", "sequences", "pool"}


def test_one_run_per_slot_after_any_sequence(anywhere):
    record, repetitions = anywhere
    log = tracking.live(record)
    log(repetitions[0])
    assert slots() == sorted(["fx/lstm"] + [f"fx/lstm/{c}/0" for c in FEW])
    log(repetitions[1])
    first, before = {run.data.tags[tracking.SLOT]: run.info.run_id for run in active()}, numbers()
    log(repetitions[0])
    assert sync(FX) == 0
    assert numbers() == before
    check()
    # A run that was killed before it was whole, and a copy: both go, and nothing else does.
    half, whole = (next(slot for slot in first if f"/none/{r}/" in slot) for r in range(2))
    with tracking.connected() as client:
        runs = tracking._Runs(client, "fx", "fx/lstm")
        runs.by_slot = {}
        runs.put(whole, "copy", {tracking.ROLE: "network"}, {})
        client.delete_tag(first[half], tracking.COMPLETE)
    assert sync(FX) == 1
    check()
    # The same settings trained again, with other numbers: the same slots, and new runs in them.
    write(shift=0.5)
    assert sync(FX) == 6
    check()
    assert len(active()) == 7


def test_a_changed_setting_makes_new_runs_beside_the_old_ones(anywhere):
    """Comparing settings is what people use MLflow for; and whoever goes back to the old ones finds them."""
    sync(FX)
    old = numbers()
    other, repetitions = write(learning_rate=0.3, shift=0.1)
    tracking.live(other)(repetitions[0])
    assert sync(FX) == 3
    check("0.3")
    assert numbers().items() >= old.items()
    names = {run.info.run_name for run in active() if run.data.params.get("condition") == "none"}
    assert names == {f"fx lstm none #{r}{suffix}" for r in range(2) for suffix in ("", " learning_rate=0.3")}
    # Fewer conditions are no other settings, other data are.
    write(["none"])
    assert sync(FX) == 0
    write(["none"], about={"data": {"sequences.parquet": "2" * 64}})
    assert sync(FX) == 2
    assert numbers().items() >= old.items()
    assert len(active()) == 7 + 7 + 3


def test_splits_are_runs_of_their_own(trained):
    write(about={"split": "groups"})
    assert tracking.finished(["fx", "absent"], ["lstm", "gru"]) == [*FX, ("fx", "lstm", "groups")]
    assert sync(tracking.finished(["fx"], ["lstm"])) == 12
    check()
    with tracking.connected() as client:
        assert client.get_experiment_by_name("noise-boosted-rbp/fx_groups") is not None


def test_a_sync_that_ends_anywhere_again_and_again_and_is_then_repeated_leaves_one_run_per_slot(anywhere, monkeypatch):
    """By an exception that nobody catches, between any two writes, as a kill would; each goes on where the last was."""
    sync(FX)
    write(shift=0.5)  # all runs are to be replaced, so there is much to break
    for last in (1, 2, 4, 7, 12, 17):
        calls = itertools.count(1)

        def ending(write, calls=calls, last=last):
            def call(*arguments, **named):
                if next(calls) == last:
                    raise KeyboardInterrupt
                return write(*arguments, **named)

            return call

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            for name in WRITES:
                patch.setattr(MlflowClient, name, ending(getattr(MlflowClient, name)))
            sync(FX)
    assert [run for run in active() if tracking.COMPLETE not in run.data.tags], "nothing was broken"
    sync(FX)
    check()
    assert sync(FX) == 0


def test_clones_that_share_a_store_never_touch_each_others_runs(anywhere, monkeypatch, tmp_path_factory, capsys):
    folder, first = tmp_path_factory.mktemp("shared"), paths.DATA.absolute().parent
    if "MLFLOW_TRACKING_URI" not in os.environ:
        shutil.copy("mlflow.db", folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    sync(FX)
    mine, owner = numbers(), tracking.project()
    assert str(first) in owner
    capsys.readouterr()
    # The other clone trains the same settings live, with other numbers, and then syncs.
    monkeypatch.chdir(clone(folder / "clone"))
    record, repetitions = write(shift=0.5)
    tracking.live(record)(repetitions[0])
    assert sync(FX) == 3
    assert re.search(rf"left alone: .*{re.escape(owner)}", capsys.readouterr().err)
    check()
    other = tracking.project()
    monkeypatch.chdir(first)
    assert sync(FX) == 0
    assert other in capsys.readouterr().err
    assert numbers() == mine
    # A clone that moved goes on under its old name, if it is told.
    monkeypatch.chdir(folder / "clone")
    monkeypatch.setenv("NEM_PROJECT", owner)
    assert sync(FX) == 6
    assert len(active(owner)) == 7


@pytest.mark.slow
def test_writers_of_one_folder_and_of_another_at_once(trained, server, monkeypatch, tmp_path_factory):
    first, second = paths.DATA.absolute().parent, clone(tmp_path_factory.mktemp("beside") / "clone")
    shutil.copytree("data", second / "data")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    command = [sys.executable, "-c", SYNC]
    writers = [subprocess.Popen(command, cwd=at, stdout=subprocess.PIPE, text=True) for at in (first, first, second)]
    told = [writer.communicate(timeout=250)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    added = [int(re.search(r"^made (\d+)$", out, re.M)[1]) for out in told]
    assert (sorted(added[:2]), added[2]) == ([0, 6], 6)
    for folder in (first, second):
        monkeypatch.chdir(folder)
        check()


def test_what_another_clone_entered_just_now_is_used(trained, monkeypatch):
    """An experiment between our look and our making it; data between MLflow's look and its entering them."""
    sync(FX)
    write(shift=0.5)
    look, log, calls = MlflowClient.get_experiment_by_name, MlflowClient.log_inputs, []

    def late(name, *arguments):
        calls.append(name)
        if name == "log" and calls.count("log") == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        return None if calls.count("look") == 1 and name == "look" else {"look": look, "log": log}[name](*arguments)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", lambda *arguments: late("look", *arguments))
    monkeypatch.setattr(MlflowClient, "log_inputs", lambda *arguments: late("log", *arguments))
    assert sync(FX) == 6
    assert (calls.count("look"), calls.count("log")) == (2, 6 + 1)
    check()


def test_the_server_of_make_ui_listens_on_loopback_only(server):
    recipe = re.search(r"^ui: setup ##[^\n]*\n\t@\$\(BIN\)/python ([^\n]*)$", (ROOT / "Makefile").read_text(), re.M)
    assert recipe[1].split()[:3] == UI[1:], "the server of these tests is not that of make ui"
    process = psutil.Process(server[0].pid)
    ends = [end for one in (process, *process.children(recursive=True)) for end in one.net_connections(kind="inet")]
    waiting = [e for e in ends if e.status == psutil.CONN_LISTEN or (e.type == socket.SOCK_DGRAM and not e.raddr)]
    assert {tuple(end.laddr) for end in waiting} == {("127.0.0.1", int(server[1].rsplit(":", 1)[1]))}


def test_a_taken_port_stops_make_ui_at_once_and_a_servers_address_needs_none(trained, monkeypatch, capsys, server):
    port = int(server[1].rpartition(":")[2])
    params.compose("demo")
    assert track.main(["--serve", "--port", str(port)]) == 1
    assert re.search(rf"found {port} .*make ui PORT=", capsys.readouterr().err)
    assert slots() == [], "nothing was synced before"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    assert track.main(["--serve", "--port", str(port)]) == 0
    assert f"Compare runs on {server[1]}" in capsys.readouterr().out


def test_a_temporary_experiment_logs_into_the_projects_own_store(trained, monkeypatch):
    own, copy = tracking.store(), paths.DATA.absolute().parent / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert (tracking.store(), tracking.project()) == (own, tracking.OWN)
    tracking.live(trained[0])(trained[1][0])
    assert not (copy / "mlflow.db").exists()
    assert len(active()) == 1 + len(FEW)


@pytest.mark.hostile
@pytest.mark.parametrize("fault", ["out of date", "held by another writer", "deleted", "unreachable",
                         *(pytest.param(f, marks=pytest.mark.faults) for f in ("garbage", "locked"))])  # fmt: skip
def test_a_faulty_store_warns_once_and_a_later_sync_completes_it(trained, monkeypatch, capsys, fault):
    file, log = paths.DATA.absolute().parent / "mlflow.db", tracking.live(trained[0])
    with contextlib.ExitStack() as stack:
        if fault in ("locked", "deleted"):
            log(trained[1][0])
        if fault == "locked":
            locking = stack.enter_context(contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=30)))
            locking.execute("BEGIN EXCLUSIVE")
        elif fault == "deleted":
            file.unlink()
        elif fault == "garbage":
            file.write_bytes(b"no database" * 1000)
        elif fault == "out of date":
            with contextlib.closing(sqlite3.connect(file)) as database, database:
                (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
                database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        elif fault == "held by another writer":
            monkeypatch.setattr(tracking, "PATIENCE_LIVE", 0.1)
            stack.enter_context(FileLock(paths.CHECKPOINTS.absolute() / "mlflow.lock"))
        else:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        for repetition in trained[1]:
            log(repetition)
    err = capsys.readouterr().err
    # Nobody may notice a deleted store, whose file lives on while it is open.
    assert err.count("make track") == err.count("training goes on") == 1 or fault == "deleted"
    assert "Traceback" not in err
    assert not re.search(r"(remove|delete) (the|your|it\b|mlflow)|\brm ", err), "no advice may cost somebody their runs"
    if fault == "garbage":
        with pytest.raises(tracking.StoreError, match="make track"):
            sync(FX)
        file.unlink()
        made = subprocess.check_output([sys.executable, "-c", f"{SYNC}; {SYNC}"], text=True)  # a new process
        assert made.splitlines() == ["made 6", "made 0"]
        return
    if fault == "out of date":
        assert "mlflow db upgrade" in err, "MLflow's own cure"
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    missing = 3 if fault == "locked" else 6  # the others were there before the lock
    # As a new process opens it, by another spelling: MLflow keeps connections by name.
    monkeypatch.setenv("NEM_PROJECT", tracking.OWN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file.parent}/./mlflow.db")
    assert [sync(FX), sync(FX)] == [missing, 0]


def test_every_condition_names_its_theorem(trained):
    theorem = {c: tracking.axes_of(trained[0] | {"cell": "gru"}, c, 0)["theorem"] for c in CONDITIONS}
    assert theorem["none"] == "none"
    assert theorem["nem-multiplicative-both"] == "Corollary 2, Corollary 4"
    classifier = tracking.axes_of(trained[0] | {"head": "softmax"}, "nem-additive-both", 0)
    assert classifier["theorem"] == "Theorem 2, Theorem 4"
