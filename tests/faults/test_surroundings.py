"""What is around a stage: MLflow's store locked, deleted or hidden, and a clock that goes back with every reading.

No result depends on either, and a later sync loses nothing. Kills while a store is written, and stores that are
garbage, out of date or held: tests/tracking.
"""

import contextlib
import os
import shutil
import sqlite3
import time

import pytest

from pipeline import tracking
from tests.faults import harness


def wait_for_a_run(file):
    """Wait until training has begun to log."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection,
        ):
            if connection.execute("select count(*) from runs").fetchone()[0]:
                return
        time.sleep(0.02)
    raise AssertionError("training logged nothing")


def sync(launcher, copy, task="fx"):
    """Sync with a sound store by a sound clock; return whether that had anything to do, and the runs."""
    assert launcher.run(harness.TRACK, copy)[0] == 0, harness.log(copy)
    return "track: 0 run(s) added" not in harness.log(copy), harness.check_store(copy, task=task)


@pytest.mark.parametrize("fault", ["locked", "deleted", "hidden"])
def test_training_goes_on_and_a_later_sync_completes_the_store(launcher, copy, blank, fault):
    output, store = harness.output(copy, "train"), copy / "mlflow.db"
    expected = harness.hashes(output)
    harness.remove_outputs(copy, "train")
    shutil.copy(blank, store)
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
    # Nobody may notice a deleted store, whose file lives on while it is open.
    assert text.count("(training goes on)") == 1 or fault == "deleted", "one warning for all repetitions"
    assert [sync(launcher, copy)[0] for _ in range(2)] == [True, False]
    assert harness.hashes(output) == expected


@pytest.mark.parametrize("stage", harness.STAGES)
def test_no_byte_depends_on_the_clock(launcher, copy, blank, stage):
    """Nor on files from the future and the past. Waiting relies on the monotonic clock, which never goes back."""
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    harness.remove_outputs(copy, stage)
    shutil.rmtree(copy / ".checkpoints" / "study", ignore_errors=True)
    shutil.copy(blank, copy / "mlflow.db")
    for number, file in enumerate(f for f in sorted(copy.rglob("*")) if f.is_file()):
        moment = time.time() + (-1) ** number * 1e8  # from three years ago and in three years
        os.utime(file, (moment, moment))
    assert launcher.run(stage, copy, fault="clock")[0] == 0, harness.log(copy)
    assert harness.hashes(output) == expected
    if stage.startswith("train"):
        # The store got times that go back, which is all the harm there is: a sync finds nothing to do.
        log = harness.log(copy)
        added, runs = sync(launcher, copy, "fx" if stage == "train" else "video")
        assert not added, log
        networks = [run.info for run in runs if tracking.PARENT in run.data.tags]  # the sync ends the parent anew
        assert all(run.end_time < run.start_time for run in networks), "MLflow did not see the faulty clock"
