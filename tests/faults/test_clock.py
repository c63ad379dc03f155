"""A clock that goes back an hour with every reading: no byte depends on it, MLflow still has one run per slot.

The library itself never asks for the time; the tests say who does (progress bars, scikit-learn, MLflow), and check that
what they got was the faulty clock. Waiting relies on the monotonic clock, which never goes back. The kernel's time
stamps on files cannot be turned back from here; files from the future and from the past stand for that.
"""

import json
import os
import shutil
import time

import pytest

from tests.faults import harness

ASK = {
    "acquire": set(),
    "fx_windows": set(),
    "train": {"tqdm", "mlflow"},
    "evaluate": set(),
    "acquire-video": {"tqdm"},
    "frames": {"tqdm"},
    "features": {"tqdm"},
    "train-video": {"tqdm", "mlflow"},
    "evaluate-video": {"sklearn"},
    "study-data": set(),
    "study-map": {"tqdm"},
    "study-final": {"tqdm"},
    "study-report": set(),
}
"""Libraries that must be seen to ask for the time in each stage; where there is none, nobody may ask at all."""
TASKS = {"train": "fx", "train-video": "video"}


def run_and_list_readers(launcher, folder, stage):
    """Run a stage under the faulty clock; return how often each library read it."""
    status, _ = launcher.run(stage, folder, fault="clock")
    assert status == 0, harness.log(folder)
    found = {}
    for module, count in json.loads((folder / "clock.json").read_text()).items():
        found[module.partition(".")[0]] = found.get(module.partition(".")[0], 0) + count
    return found


def test_every_stage_is_here():
    assert ASK.keys() == harness.STAGES.keys()


@pytest.mark.parametrize("stage", harness.STAGES)
def test_no_byte_depends_on_the_clock(launcher, copy, stage):
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    harness.remove_outputs(copy, stage)
    shutil.rmtree(copy / ".checkpoints" / "study", ignore_errors=True)
    for number, file in enumerate(f for f in sorted(copy.rglob("*")) if f.is_file()):
        moment = time.time() + (-1) ** number * 1e8  # from three years ago and in three years
        os.utime(file, (moment, moment))
    if stage in TASKS:
        harness.erase_runs(copy)
    readers = run_and_list_readers(launcher, copy, stage)
    assert harness.hashes(output) == expected
    assert not readers.keys() & {"pipeline", "stages"}, "the library itself asks nobody for the time"
    assert readers.keys() >= ASK[stage]
    assert ASK[stage] or not readers, "a new reader of the clock: does a result depend on it?"
    if stage in TASKS:
        check_store(launcher, copy, TASKS[stage])


def check_store(launcher, folder, task):
    """The store got times that go back, which is all the harm there is: a sync by a sound clock finds nothing to do."""
    found = harness.check_store(folder, task=task)
    assert all(run.info.end_time < run.info.start_time for run in found), "MLflow did not see the faulty clock"
    ids = {run.info.run_id for run in found}
    status, _ = launcher.run(harness.TRACK, folder)
    assert status == 0, harness.log(folder)
    assert "track: 0 run(s) added" in harness.log(folder)
    assert {run.info.run_id for run in harness.check_store(folder, task=task)} == ids


def test_a_sync_by_a_clock_that_goes_back(launcher, copy):
    """Runs of a later hour are there already, of other numbers: what belongs to the files wins, not what is newest."""
    for mine in harness.runs(copy)[0]:
        harness.runs(copy)[1].set_tag(mine.info.run_id, "nem.digest", "other numbers")
    before = {run.info.run_id for run in harness.runs(copy)[0]}
    readers = run_and_list_readers(launcher, copy, harness.TRACK)
    assert readers["mlflow"]
    assert "track: 4 run(s) added" in harness.log(copy)
    found = harness.check_store(copy)
    assert not {run.info.run_id for run in found} & before
    latest = max(run.info.start_time for run in found)
    assert latest < time.time() * 1000 - 3.6e6, "MLflow did not see the faulty clock"
    status, _ = launcher.run(harness.TRACK, copy)
    assert status == 0
    assert "track: 0 run(s) added" in harness.log(copy)
