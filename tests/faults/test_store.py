"""MLflow's store locked, deleted or hidden while training, and kills while it is written: a later sync loses nothing.

Kills between the writes of one run, and stores that are garbage, out of date or held: tests/tracking.
"""

import contextlib
import sqlite3
import time

import pytest

from tests.faults import harness


def wait_for_a_run(file):
    """Wait until training has begun to log."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection,
        ):
            if connection.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()[0]:
                return
        time.sleep(0.02)
    raise AssertionError("training logged nothing")


def forget_runs(folder):
    runs, client = harness.runs(folder)
    for run in runs:
        client.delete_run(run.info.run_id)


@pytest.mark.parametrize("fault", ["locked", "deleted", "hidden"])
def test_training_goes_on_and_a_later_sync_completes_the_store(launcher, copy, fault):
    output, store = harness.output(copy, "train"), copy / "mlflow.db"
    expected = harness.hashes(output)
    harness.remove_outputs(copy, "train")
    forget_runs(copy)
    with contextlib.ExitStack() as stack:
        launcher.start("train", copy, **({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"} if fault == "hidden" else {}))
        if fault != "hidden":
            wait_for_a_run(store)
        if fault == "locked":
            locking = sqlite3.connect(store, isolation_level=None, timeout=30)
            stack.enter_context(contextlib.closing(locking))
            locking.execute("BEGIN EXCLUSIVE")
        elif fault == "deleted":
            store.unlink()
        status, text = launcher.wait(), harness.log(copy)
    assert status == 0, text
    assert "Traceback" not in text
    assert harness.hashes(output) == expected
    # Nobody may notice a deleted store, whose file lives on while it is open.
    assert text.count("(training goes on)") == 1 or fault == "deleted", "one warning for all repetitions"
    for added in (True, False):
        assert launcher.run(harness.TRACK, copy)[0] == 0, harness.log(copy)
        assert ("track: 0 run(s) added" not in harness.log(copy)) == added
        harness.check_store(copy)
    assert harness.hashes(output) == expected


@pytest.mark.parametrize("work", ["train", harness.TRACK], ids=["training", "sync"])
def test_kills_leave_one_run_per_slot(launcher, copy, work):
    seconds = None
    for share in (None, 0.3, 0.5, 0.7, 0.85, 0.95):
        harness.remove_outputs(copy, work) if work == "train" else forget_runs(copy)
        if seconds is None:
            seconds = launcher.run(work, copy)[1]
        else:
            launcher.kill_after(share * seconds, work, copy)
    for name in ("train", harness.TRACK):
        assert launcher.run(name, copy)[0] == 0, harness.log(copy)
    harness.check_store(copy)
