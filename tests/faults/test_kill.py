"""kill -9 at any moment: no half file is ever visible, and the next run gives the bytes of an undisturbed one.

Workers write no file, and end with their parent: tests/common/test_jobs.py.
"""

import random
import shutil
import signal

import pytest

from pipeline import params
from tests.faults import harness

TEN = ("evaluate", "evaluate-video", "study")
"""Stages with ten random kills, evaluation in each of the projects; all others have twenty."""
RESUME = ("train", "train-video", "features", "study")
"""Stages of which a kill must once have left something to go on from (the others may be killed too early for that)."""


def forget(folder, stage):
    """Remove outputs, and what earlier runs left to go on from, so that there is a whole stage to kill."""
    harness.remove_outputs(folder, stage)
    for file in harness.kept(folder):
        file.unlink()


@pytest.mark.parametrize("stage", harness.STAGES)
def test_killed_at_random_moments(launcher, copy, stage):
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    forget(copy, stage)
    status, seconds = launcher.run(stage, copy)
    assert status == 0, harness.log(copy)
    assert harness.hashes(output) == expected
    moments, wanted, killed, resumed = random.Random(f"kill {stage}"), 10 if stage in TEN else 20, 0, 0
    with harness.Reader(output, expected) as reader:
        for attempt in range(3 * wanted):
            forget(copy, stage)
            status, _ = launcher.run(stage, copy, kill_after=moments.uniform(0, seconds))
            assert status in (0, -signal.SIGKILL), harness.log(copy)
            killed += status != 0
            # Too late: the machine was busier when the stage was timed.
            seconds *= 1 if status else 0.9
            reader.look()
            resumed += status != 0 and bool(harness.kept(copy))
            # Every other time the dead run's outputs are left lying, as after a plain rerun without DVC.
            if attempt % 2:
                harness.remove_outputs(copy, stage)
            assert launcher.run(stage, copy)[0] == 0, harness.log(copy)
            assert harness.hashes(output) == expected
            if killed == wanted:
                break
    assert killed == wanted, "the stage was too quick for the kills"
    assert stage not in RESUME or resumed, "no kill fell between kept work and the end"


def test_old_results_and_old_kept_work_are_never_taken_for_new_ones(launcher, copy):
    """Without DVC nothing deletes the outputs: files of other parameters beside new ones must not pass for one run."""
    output = harness.output(copy, "train")
    old, mine = harness.hashes(output), (copy / "params.yaml").read_text()
    shutil.copytree(output, copy / "old")
    (copy / "params.yaml").write_text(params.render(harness.tiny("fx", sigma=0.123)))
    for number in range(1, 200):
        shutil.rmtree(output)
        shutil.copytree(copy / "old", output)
        status, _ = launcher.run("train", copy, fault=f"die before replace {number}")
        present = harness.hashes(output)
        if status == 0:
            break
        if number == 3:
            shutil.copytree(copy / ".checkpoints", copy / "kept")
        mixed = any(present.get(name) != digest for name, digest in old.items())
        assert not mixed or "run.json" not in present, f"after replace {number - 1}: old and new files pass for one run"
    assert number > 3
    assert present["run.json"] != old["run.json"]
    shutil.copytree(copy / "kept", copy / ".checkpoints", dirs_exist_ok=True)
    assert harness.kept(copy)
    (copy / "params.yaml").write_text(mine)
    assert launcher.run("train", copy)[0] == 0, harness.log(copy)
    assert harness.hashes(output) == old
