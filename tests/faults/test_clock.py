"""A clock that goes back an hour with every reading: no byte depends on it, MLflow still has one run per slot.

Waiting relies on the monotonic clock, which never goes back. The kernel's time stamps on files cannot be turned back
from here; files from the future and from the past stand for that.
"""

import json
import os
import shutil
import time

import pytest

from tests.faults import harness

READERS = {
    "train": {"tqdm", "mlflow", "sqlalchemy"}, "train-video": {"tqdm", "mlflow", "sqlalchemy"},
    "evaluate-video": {"sklearn", "joblib"},
}  # fmt: skip
"""Libraries that may ask for the time: for progress, the store, pools and caches. Elsewhere only progress bars may."""


@pytest.mark.parametrize("stage", harness.STAGES)
def test_no_byte_depends_on_the_clock(launcher, copy, blank, stage):
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
    readers = json.loads((copy / "clock.json").read_text()).keys()
    assert readers <= READERS.get(stage, {"tqdm"}), "a new reader of the clock: does a result depend on it?"
    if stage.startswith("train"):
        # The store got times that go back, which is all the harm there is: a sync by a sound clock finds nothing to do.
        runs = harness.check_store(copy, task="fx" if stage == "train" else "video")
        assert all(run.info.end_time < run.info.start_time for run in runs), "MLflow did not see the faulty clock"
        assert launcher.run(harness.TRACK, copy)[0] == 0, harness.log(copy)
        assert "track: 0 run(s) added" in harness.log(copy)
