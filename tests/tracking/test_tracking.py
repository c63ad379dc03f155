"""Exactly one MLflow run per slot, whatever came before; numbers equal to the files; a faulty store stops nothing."""

import contextlib
import functools
import json
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
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nem.conditions import CONDITIONS
from pipeline import params, tasks, tracking
from pipeline.common import paths, sequences
from pipeline.fx import rates, windows
from pipeline.training import models
from pipeline.training.engine import METRICS
from stages import track
from tests.conftest import ROOT
from tests.evaluation import fabricate
from tests.tracking import chromium

FX = [("fx", "lstm", None)]
FEW = ("none", "blind-additive-output", "nem-additive-both")
FAILED = ("blind-additive-output", 1, 6)
WANTED = sorted(["fx/lstm"] + [f"fx/lstm/{c}/{r}" for c in FEW for r in range(2)])
UI = [sys.executable, "-m", "stages.track", "--serve"]
"""What `make ui` runs; a test compares."""


def write(conditions=FEW, **changes):
    """Write a training whose numbers nobody trained; return its record and repetitions, equal for equal arguments."""
    if not paths.sequences("fx").exists():
        fabricate.fx_data()
    return fabricate.run("fx", "lstm", conditions=conditions, repetitions=2, failing=FAILED, **changes)


def clone(folder):
    """A folder with the project's code."""
    folder.mkdir()
    for name in ("nem", "pipeline", "stages", "profiles", "params.yaml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def python(code, *arguments):
    """What a new process prints, since MLflow keeps a store's connections for the life of one."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.fixture
def trained(project, blank):
    """A finished training and an empty store."""
    shutil.copy(blank, project / "mlflow.db")
    return write()


@pytest.fixture(scope="session")
def server(tmp_path_factory, blank):
    """The server that `make ui` starts, a process of its own, started once: its process and its address."""
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
    """The active runs of a project, by default of this folder's."""
    with tracking.connected() as client:
        experiment = client.get_experiment_by_name("noise-boosted-rbp/fx")
        runs = [] if experiment is None else client.search_runs([experiment.experiment_id], max_results=5000)
    owner = owner or tracking.project()
    return [run for run in runs if run.data.tags[tracking.PROJECT] == owner]


def slots(runs=None):
    """What the runs are of, settings left out; each is one of its settings."""
    tags = [run.data.tags for run in (active() if runs is None else runs)]
    assert len({tag[tracking.SLOT] for tag in tags}) == len(tags), "a slot twice"
    return sorted(tag[tracking.SLOT].rpartition("/")[0] for tag in tags)


def numbers():
    """What the runs of networks hold; a parent's summary follows the files."""
    runs = [run for run in active() if run.data.tags[tracking.ROLE] == "network"]
    return {run.info.run_id: (run.data.metrics, run.info.run_name) for run in runs}


def the_parent():
    (parent,) = (run for run in active() if run.data.tags[tracking.ROLE] == "parent")
    return parent


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
    assert tracking.sync(FX) == 6
    check()
    first, before = {run.data.tags[tracking.SLOT]: run.info.run_id for run in active()}, numbers()
    assert tracking.sync(FX) == 0
    assert numbers() == before
    # A run that was killed before it was whole, and a copy: both go, and nothing else does.
    half, whole = (next(slot for slot in first if f"/none/{r}/" in slot) for r in range(2))
    with tracking.connected() as client:
        runs = tracking._Runs(client, "fx", "fx/lstm")
        runs.by_slot = {}
        runs.put(whole, "copy", {tracking.ROLE: "network"}, {})
        client.delete_tag(first[half], tracking.COMPLETE)
    assert tracking.sync(FX) == 1
    check()
    # The same settings trained again, with other numbers: the same slots, and new runs in them.
    write(shift=0.5)
    assert tracking.sync(FX) == 6
    check()
    assert len(active()) == 7


def test_a_changed_setting_makes_new_runs_beside_the_old_ones(anywhere):
    """Comparing settings is what people use MLflow for; and whoever goes back to the old ones finds them."""
    tracking.sync(FX)
    old = numbers()
    other, repetitions = write(learning_rate=0.3, shift=0.1)
    tracking.live(other)(repetitions[0])
    assert tracking.sync(FX) == 3
    check("0.3")
    assert numbers().items() >= old.items()
    names = {run.info.run_name for run in active() if run.data.params.get("condition") == "none"}
    assert names == {f"fx lstm none #{r}{suffix}" for r in range(2) for suffix in ("", " learning_rate=0.3")}
    # Fewer conditions are no other settings, other data are.
    write(["none"])
    assert tracking.sync(FX) == 0
    write(["none"], about={"data": {"sequences.parquet": "2" * 64}})
    assert tracking.sync(FX) == 2
    assert numbers().items() >= old.items()
    assert len(active()) == 7 + 7 + 3


def test_splits_are_runs_of_their_own(trained):
    write(about={"split": "groups"})
    assert tracking.finished(["fx", "absent"], ["lstm", "gru"]) == [*FX, ("fx", "lstm", "groups")]
    assert tracking.sync(tracking.finished(["fx"], ["lstm"])) == 12
    check()
    with tracking.connected() as client:
        assert client.get_experiment_by_name("noise-boosted-rbp/fx_groups") is not None


def test_live_runs_are_the_runs_that_sync_wants(anywhere):
    record, repetitions = anywhere
    log = tracking.live(record)
    log(repetitions[0])
    assert slots() == sorted(["fx/lstm"] + [f"fx/lstm/{c}/0" for c in FEW])
    log(repetitions[1])
    first = numbers()
    log(repetitions[0])
    assert tracking.sync(FX) == 0
    assert numbers() == first
    check()


def test_times_are_true_of_what_was_logged_live_and_no_duration_is_made_up(trained):
    record, repetitions = trained
    before = time.time()
    log = tracking.live(record)
    time.sleep(0.2)
    log(repetitions[0])
    after, first = time.time(), the_parent().info
    assert (first.status, first.start_time >= int(1000 * before)) == ("FINISHED", True)
    assert tracking.sync(FX) == 3
    runs = [run for run in active() if run.data.tags[tracking.ROLE] == "network"]
    times = {run.data.tags[tracking.SLOT].split("/")[3]: run.info for run in runs}
    assert first.start_time == times["0"].start_time <= times["0"].end_time - 200
    assert times["0"].end_time == first.end_time <= 1000 * after
    assert times["1"].start_time == times["1"].end_time
    parent = the_parent()
    assert (parent.info.start_time, parent.info.end_time) == (first.start_time, first.end_time)
    assert "3 of 6 runs" in parent.data.tags["mlflow.note.content"]


def test_a_parent_says_what_was_run_and_what_came_out(trained):
    fabricate.judge(tasks.of("fx"), cells=["lstm"])
    tracking.sync(FX)
    parent, names = the_parent(), ("none", "best_minus_none", "failed_networks")
    none, best, failed = (parent.data.metrics[n if "_" in n else f"test_loss_at_R/{n}"] for n in names)
    expected = {c: [fabricate.loss(c, r, fabricate.EPOCHS) for r in range(2) if (c, r) != FAILED[:2]] for c in FEW}
    means = {condition: float(np.mean(losses)) for condition, losses in expected.items()}
    assert none == pytest.approx(means["none"])
    assert best == pytest.approx(min(means.values()) - means["none"])
    assert failed == 1
    # Twice as fast: the noiseless loss of epoch 10 is reached at epoch 5.
    assert parent.data.metrics["speed_up_percent/nem-additive-both"] == 50
    text = parent.data.tags["mlflow.note.content"]
    for part in ("3 noise conditions, 2 paired repetitions", f"{means['none']:.4g} rupees² (none)", "none registered"):
        assert part in text
    with tracking.connected() as client:
        assert [file.path for file in client.list_artifacts(parent.info.run_id, "png")] == ["png/overview_fx_lstm.png"]
    # Other numbers are another summary of the same settings.
    write(shift=0.5)
    tracking.sync(FX)
    assert the_parent().data.metrics["test_loss_at_R/none"] == pytest.approx(means["none"] + 0.5)


DEADLY_SYNC = """
import itertools, os, signal, sys
from mlflow.tracking import MlflowClient
from pipeline import tracking

calls = itertools.count(1)

def deadly(write):
    def call(*arguments, **named):
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*arguments, **named)
    return call

for last in map(int, sys.argv[1:]):
    pid = os.fork()  # before any store was opened, so that no connection is shared
    if pid == 0:
        for name in "create_run log_batch log_inputs set_tag set_terminated delete_run log_artifact".split():
            setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))
        tracking.sync([("fx", "lstm", None)])
        os._exit(0)
    print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_a_sync_that_is_killed_again_and_again_and_then_repeated_leaves_one_run_per_slot(anywhere):
    tracking.sync(FX)
    write(shift=0.5)  # all runs are to be replaced, so there is much to break
    points = (1, 2, 4, 7, 12, 17)  # each goes on where the last one was killed
    told = python(DEADLY_SYNC, *map(str, points))
    assert [line for line in told if line.startswith("status")] == [f"status {-signal.SIGKILL}"] * len(points)
    assert [run for run in active() if tracking.COMPLETE not in run.data.tags], "the kills broke nothing"
    tracking.sync(FX)
    check()
    assert tracking.sync(FX) == 0


def test_clones_that_share_a_store_never_touch_each_others_runs(anywhere, monkeypatch, tmp_path_factory, capsys):
    folder, first = tmp_path_factory.mktemp("shared"), paths.DATA.absolute().parent
    if "MLFLOW_TRACKING_URI" not in os.environ:
        shutil.copy("mlflow.db", folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    tracking.sync(FX)
    mine, owner = numbers(), tracking.project()
    assert str(first) in owner
    capsys.readouterr()
    # The other clone trains the same settings live, with other numbers, and then syncs.
    monkeypatch.chdir(clone(folder / "clone"))
    record, repetitions = write(shift=0.5)
    tracking.live(record)(repetitions[0])
    assert tracking.sync(FX) == 3
    assert re.search(rf"left alone: .*{re.escape(owner)}", capsys.readouterr().err)
    check()
    other = tracking.project()
    monkeypatch.chdir(first)
    assert tracking.sync(FX) == 0
    assert other in capsys.readouterr().err
    assert numbers() == mine
    # A clone that moved goes on under its old name, if it is told.
    monkeypatch.chdir(folder / "clone")
    monkeypatch.setenv("NEM_PROJECT", owner)
    assert tracking.sync(FX) == 6
    assert len(active(owner)) == 7


def test_writers_of_one_folder_and_of_another_at_once(trained, server, monkeypatch, tmp_path_factory):
    first, second = paths.DATA.absolute().parent, clone(tmp_path_factory.mktemp("beside") / "clone")
    shutil.copytree("data", second / "data")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    command = [sys.executable, "-c", f"from pipeline import tracking; print('made', tracking.sync({FX}))"]
    writers = [subprocess.Popen(command, cwd=at, stdout=subprocess.PIPE, text=True) for at in (first, first, second)]
    told = [writer.communicate(timeout=250)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    added = [int(re.search(r"^made (\d+)$", out, re.M)[1]) for out in told]
    assert (sorted(added[:2]), added[2]) == ([0, 6], 6)
    for folder in (first, second):
        monkeypatch.chdir(folder)
        check()


def test_a_folder_that_moves_keeps_the_runs_of_its_own_store(trained, monkeypatch, tmp_path_factory, capsys):
    assert tracking.sync(FX) == 6
    moved = tmp_path_factory.mktemp("moved") / "project"
    shutil.copytree(".", moved, symlinks=True)
    monkeypatch.chdir(moved)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow sets in the process that used a store
    assert tracking.sync(FX) == 0
    assert "other projects" not in capsys.readouterr().err


def test_what_another_clone_entered_just_now_is_used(trained, monkeypatch):
    """An experiment between our look and our making it; data between MLflow's look and its entering them."""
    tracking.sync(FX)
    write(shift=0.5)
    look, log, calls = MlflowClient.get_experiment_by_name, MlflowClient.log_inputs, []

    def late(name, *arguments):
        calls.append(name)
        if name == "log" and calls.count("log") == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        return None if calls.count("look") == 1 and name == "look" else {"look": look, "log": log}[name](*arguments)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", lambda *arguments: late("look", *arguments))
    monkeypatch.setattr(MlflowClient, "log_inputs", lambda *arguments: late("log", *arguments))
    assert tracking.sync(FX) == 6
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


def test_an_old_file_store_keeps_mlflows_own_cure(trained, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(tracking.StoreError, match="mlflow migrate-filestore") as caught:
        tracking.sync(FX)
    assert not re.search(r"remove|delete|\brm ", str(caught.value))


def test_a_temporary_experiment_logs_into_the_projects_own_store(trained, monkeypatch):
    own, copy = tracking.store(), paths.DATA.absolute().parent / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert (tracking.store(), tracking.project()) == (own, tracking.OWN)
    tracking.live(trained[0])(trained[1][0])
    assert not (copy / "mlflow.db").exists()
    assert len(active()) == 1 + len(FEW)


@pytest.mark.parametrize("fault", ["garbage", "out of date", "held by another writer", "unreachable"])
def test_a_faulty_store_warns_once_and_a_later_sync_completes_it(trained, monkeypatch, capsys, fault):
    file, log = paths.DATA.absolute().parent / "mlflow.db", tracking.live(trained[0])
    with contextlib.ExitStack() as stack:
        if fault == "garbage":
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
    assert err.count("make track") == 1
    assert "training goes on" in err
    assert "Traceback" not in err
    assert not re.search("remove the store|delete|rm ", err), "no advice may cost somebody their runs"
    if fault == "garbage":
        with pytest.raises(tracking.StoreError, match="make track"):
            tracking.sync(FX)
        file.unlink()
    elif fault == "out of date":
        assert "mlflow db upgrade" in err, "MLflow's own cure"
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert python(f"from pipeline import tracking as t; print(t.sync({FX}), t.sync({FX}))") == ["6 0"]


CHOSEN = SimpleNamespace(fx=SimpleNamespace(windows=fabricate.WINDOWS))
"""As much of params.yaml as says what the networks' inputs are."""
ASK_MODEL = """
import json, sys, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@best")
answers = model.predict(np.load(sys.argv[3])).to_dict("list")
example = model.predict(model.input_example)
print(json.dumps([model.metadata.metadata, answers, len(example)]))
"""


def registered(name, inputs):
    """What a new process says that loads a registered model: its metadata, its answers, its answers to its example."""
    np.save("inputs.npy", inputs)
    *_, last = python(ASK_MODEL, tracking.store(), name, "inputs.npy")
    return json.loads(last)


def test_the_best_network_is_a_registered_model_that_takes_raw_days_and_gives_rupees(trained, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    inputs = functools.partial(track.inputs, chosen=CHOSEN)
    assert [(name, added) for name, added, _ in tracking.show(FX, inputs)] == [("fx lstm", 6)]
    out, err = capfd.readouterr()
    assert not re.search("warn|info", out + err, re.I), "a word of MLflow's reached the console"
    data, series = sequences.load(paths.sequences("fx")), rates.read(rates.RATES)
    days = windows.load(paths.sequences("fx") / windows.FILE)
    raw = np.stack([series.values[day - 4 : day] for day in days.day_index[days.where("test")]])
    about, answers, count = registered("nem-fx-lstm", raw)
    network = models.load(paths.run_folder("fx", "lstm") / "models" / f"{about['condition']}.safetensors")
    assert (network.about["repetition"], count) == (about["repetition"], 1)
    assert about["inputs"] == ["open", "high", "low", "price"]
    assert "test loss" in about["chosen_by"]
    expected = network.predict(data.test.pool[data.test.index].numpy())[:, 0] * data.target_scale + data.target_offset
    assert answers["rupees"] == pytest.approx(expected.tolist(), rel=1e-6)
    assert not [file for file in paths.DATA.absolute().parent.rglob("*") if file.suffix in (".pkl", ".pickle")]
    # The same again is no new version; rates of other days than the networks saw are told, and register nothing.
    assert [added for _, added, _ in tracking.show(FX, inputs)] == [0]
    rates.write(rates.Rates(series.dates, series.values + 1.0), rates.RATES)
    assert [added for _, added, _ in tracking.show(FX, inputs)] == [0]
    assert "no model of fx lstm was registered: expected the scaled days" in capfd.readouterr().err
    with tracking.connected() as client:
        (version,) = client.search_model_versions("name = 'nem-fx-lstm'")
    assert (int(version.version), version.run_id) == (1, the_parent().info.run_id)


def test_a_registered_classifier_gives_class_names(trained):
    table = fabricate.class_data("video")
    fabricate.run("video", "gru", conditions=["none"], repetitions=1)
    list(tracking.show([("video", "gru", None)], functools.partial(track.inputs, chosen=CHOSEN)))
    about, answers, _ = registered("nem-video-gru", table.pools[""][table.index[:5]].numpy())
    assert about["classes"] == list(fabricate.CLASSES)
    probabilities = np.array([answers[name] for name in fabricate.CLASSES])
    assert probabilities.sum(0) == pytest.approx(1, abs=1e-5)
    assert answers["class"] == [fabricate.CLASSES[k] for k in probabilities.argmax(0)]


@pytest.mark.browser
@pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium: apt-get install chromium")
def test_the_links_of_make_ui_open_the_conditions_compared(trained, server, monkeypatch, capsys, tmp_path_factory):
    write(CONDITIONS)
    params.compose("demo")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    assert track.main(["--serve"]) == 0
    means, beside = re.findall(r"http://\S+#\S+", capsys.readouterr().out)
    folder = tmp_path_factory.mktemp("browser")
    with contextlib.closing(chromium.Tab(folder / "profile")) as tab:
        tab.open(means)
        # A browser that never saw MLflow gets its assistant beside the page, once.
        tab.wait("document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')")
        tab.ask("document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]').click()")
        tab.wait("document.querySelectorAll('.barlayer .point').length == 13")
        text = tab.wait("document.body.innerText.includes('26 matching runs') && document.body.innerText")
        assert [name for name in CONDITIONS if f"Group: {name}\n" not in text] == []
        assert {"test_loss", "test_loss_at_R", "Group by: condition"} <= set(text.split("\n"))
        tab.picture(folder / "means.png")
        tab.open(beside)
        tab.wait("document.querySelectorAll('.barlayer .point').length == 13")
        text = tab.wait("document.body.innerText.includes('13 matching runs') && document.body.innerText")
        axes = "[...document.querySelectorAll('svg text')].map(text => text.textContent)"
        tab.wait(f"['kind', 'mode', 'place', 'test_loss_at_R'].every(name => {axes}.includes(name))")
        assert [name for name in CONDITIONS if f"fx lstm {name} #0\n" not in text] == []
        tab.picture(folder / "beside.png")
    # MLflow's own page asks for a user's name that its server does not know.
    assert [fault for fault in tab.faults if "/users/current" not in fault] == []


def test_every_condition_names_its_theorem(trained):
    theorem = {c: tracking.axes_of(trained[0] | {"cell": "gru"}, c, 0)["theorem"] for c in CONDITIONS}
    assert theorem["none"] == "none"
    assert theorem["nem-multiplicative-both"] == "Corollary 2, Corollary 4"
    classifier = tracking.axes_of(trained[0] | {"head": "softmax"}, "nem-additive-both", 0)
    assert classifier["theorem"] == "Theorem 2, Theorem 4"
