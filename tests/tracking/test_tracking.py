"""Exactly one MLflow run per slot, whatever came before; numbers equal to the files; a faulty store stops nothing."""

import contextlib
import os
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
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save

from pipeline import paths, records, tracking
from pipeline.conditions import CONDITIONS
from pipeline.training.engine import METRICS, Repetition
from tests.evaluation import fabricate

CONDITIONS_USED = ["none", "blind-additive-output", "nem-additive-both"]


@pytest.fixture
def settings(project, blank):
    shutil.copy(blank, project / "mlflow.db")
    made = fabricate.fx_params(repetitions=2, conditions=CONDITIONS_USED)
    fabricate.run(made, "lstm")
    return made


def active():
    with tracking._client() as client:
        experiment = client.get_experiment_by_name("noise-boosted-rbp/fx")
        return [] if experiment is None else client.search_runs([experiment.experiment_id], max_results=1000)


def slots():
    return sorted(run.data.tags["nem.slot"] for run in active())


WANTED = sorted(["fx/lstm"] + [f"fx/lstm/{c}/{r}" for c in CONDITIONS_USED for r in range(2)])


def test_one_run_per_slot_after_any_sequence(settings):
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


def test_numbers_and_axes_are_those_of_the_files(settings):
    tracking.sync("fx", "lstm")
    check_numbers_and_axes()


def check_numbers_and_axes():
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
            for name in ("train_loss", "test_loss"):
                history = client.get_metric_history(run.info.run_id, name)
                found = {m.step: m.value for m in history}
                assert len(history) == len(rows)
                assert found == dict(zip(rows.epoch, rows[name], strict=True))
            failed = (condition, repetition) == ("blind-additive-output", 1)
            assert run.info.status == ("FAILED" if failed else "FINISHED")
            if condition == "nem-additive-both":
                assert run.data.tags["theorem"] == "Theorem 3, Theorem 4"
                assert run.data.params["sigma_output"] == "0.1"
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


def test_live_runs_are_the_runs_that_sync_wants(settings):
    record = records.read_json(paths.run_folder("fx", "lstm") / "run.json")
    log = tracking.live(record)
    log(repetition(0))
    assert slots() == sorted(["fx/lstm"] + [f"fx/lstm/{c}/0" for c in CONDITIONS_USED])
    log(repetition(0))
    assert tracking.sync("fx", "lstm") == 3
    assert slots() == WANTED


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


def start_server(folder, patience=300):
    """Start a real server on a free loopback port and wait until it answers; its log tells why, if it never does."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    uri, log = f"http://127.0.0.1:{port}", folder / f"server_{port}.log"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server_{port}.db", "--artifacts-destination", str(folder / "art"),
    ]  # fmt: skip
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + patience
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if urllib.request.urlopen(uri + "/health", timeout=5).status == 200:
                return server, uri, log
        except OSError:
            time.sleep(0.5)
    stop_server(server)
    return None, uri, log


def stop_server(server):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.timeout(900)
def test_the_same_against_a_real_server(settings, monkeypatch, tmp_path):
    server, uri, log = start_server(tmp_path)
    if server is None:  # somebody took the port between our look and the server's
        server, uri, log = start_server(tmp_path)
    assert server is not None, log.read_text()[-3000:]
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert tracking.sync("fx", "lstm") == 6
        assert tracking.sync("fx", "lstm") == 0
        assert slots() == WANTED
        check_numbers_and_axes()
    finally:
        stop_server(server)


def test_every_condition_names_its_theorem():
    record = {"cell": "gru", "classes": []}
    named = {c: tracking._theorems(record, c) for c in CONDITIONS}
    assert named["none"] == "none"
    assert named["nem-multiplicative-both"] == "Corollary 2, Corollary 4"
    assert tracking._theorems({"cell": "lstm", "classes": ["a"]}, "nem-additive-both") == "Theorem 2, Theorem 4"
