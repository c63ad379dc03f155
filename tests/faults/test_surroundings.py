"""A clock that goes back with every reading, and files from the future: no result depends on them.

Kills while MLflow's store is written, and stores that are damaged, locked, deleted or hidden: tests/tracking.
"""

import os
import shutil
import time

import pytest

from pipeline import tracking
from tests.faults import harness


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
        assert launcher.run(harness.TRACK, copy)[0] == 0, harness.log(copy)
        assert "track: 0 run(s) added" in harness.log(copy), log
        runs = harness.check_store(copy, task="fx" if stage == "train" else "video")
        networks = [run.info for run in runs if tracking.PARENT in run.data.tags]  # the sync ends the parent anew
        assert all(run.end_time < run.start_time for run in networks), "MLflow did not see the faulty clock"
