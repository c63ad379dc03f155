"""MLflow's store locked, deleted or unreachable while training: the run files are whole, a later sync loses nothing."""

import contextlib
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest

from pipeline import tracking
from tests.faults import harness

SIGNS = {
    "locked": "database is locked",
    "deleted": None,
    "unreachable": "(training goes on)",
    "garbage": "(training goes on)",
}
"""What training says of each fault. It may not notice a deleted store, whose file lives on while it is open."""


def wait_for_first_repetition(file):
    """Wait until training has logged a run."""
    for _ in range(1200):
        try:
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
            try:
                if connection.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()[0]:
                    return
            finally:
                connection.close()
        except sqlite3.OperationalError:
            pass
        time.sleep(0.02)
    raise AssertionError("training logged nothing")


def whole_runs(folder):
    """Return how many repetitions' runs the store holds, whole ones."""
    if not (folder / "mlflow.db").is_file():
        return 0
    with tempfile.TemporaryDirectory() as seen:  # a copy, as in harness.check_store
        shutil.copyfile(folder / "mlflow.db", Path(seen) / "mlflow.db")
        with contextlib.suppress(AttributeError):  # a store in which training got no further than the tables
            tags = [run.data.tags for run in harness.runs(seen)[0]]
            return sum(each.get(tracking.COMPLETE) == "true" and tracking.PARENT in each for each in tags)
    return 0


@pytest.mark.parametrize("fault", SIGNS)
def test_training_goes_on_and_a_later_sync_completes_the_store(launcher, copy, fault):
    folder = copy
    output, store = harness.output(folder, "train"), folder / "mlflow.db"
    expected = harness.hashes(output)
    harness.remove_outputs(folder, "train")
    found, client = harness.runs(folder)
    for run in found:
        client.delete_run(run.info.run_id)
    variables = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"} if fault == "unreachable" else {}
    launcher.start("train", folder, **variables)
    locking = None
    if fault != "unreachable":
        wait_for_first_repetition(store)
    if fault == "locked":
        locking = sqlite3.connect(store, isolation_level=None, timeout=30)
        locking.execute("BEGIN EXCLUSIVE")
    elif fault == "deleted":
        store.unlink()
    elif fault == "garbage":
        store.write_bytes(b"no database" * 4096)
    status = launcher.wait()
    text = harness.log(folder)
    assert status == 0, text
    assert "Traceback" not in text
    assert harness.hashes(output) == expected
    if SIGNS[fault] is not None:
        assert SIGNS[fault] in text
        assert text.count("(training goes on)") == 1, "one warning for all repetitions"
    if locking is not None:
        locking.execute("ROLLBACK")
        locking.close()
    if fault == "garbage":
        status, _ = launcher.run(harness.TRACK, folder)
        assert status == 1
        assert "make track" in harness.log(folder)
        store.unlink()
    # The fault bit: there is something to make up for.
    assert whole_runs(folder) < 4
    status, _ = launcher.run(harness.TRACK, folder)
    assert status == 0, harness.log(folder)
    assert "track: 0 run(s) added" not in harness.log(folder)
    harness.check_store(folder)
    status, _ = launcher.run(harness.TRACK, folder)
    assert status == 0
    assert "track: 0 run(s) added" in harness.log(folder)
    assert harness.hashes(output) == expected


def test_kills_during_training_and_during_a_sync_leave_one_run_per_slot(launcher, copy):
    folder = copy
    harness.remove_outputs(folder, "train")
    _, seconds = launcher.run("train", folder)
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        harness.remove_outputs(folder, "train")
        launcher.kill_after(share * seconds, "train", folder)
    assert launcher.run("train", folder)[0] == 0
    for share in (None, 0.2, 0.5, 0.8, 0.95):
        found, client = harness.runs(folder)
        for run in found:
            client.delete_run(run.info.run_id)
        if share is None:
            _, seconds = launcher.run(harness.TRACK, folder)
        else:
            launcher.kill_after(share * seconds, harness.TRACK, folder)
    assert launcher.run(harness.TRACK, folder)[0] == 0, harness.log(folder)
    harness.check_store(folder)
