"""Stages on full and read-only disks, and killed at any moment; and DVC under faults.

A full disk is a message and status 1; no half file is ever visible, and the next run gives the bytes of an undisturbed
one. DVC: two at once, a kill, damage, a wiped disk, and MLflow after every way to come to a run again. Elsewhere:
workers write no file, and end with their parent (tests/common/test_jobs.py); damaged files (test_records.py
there); any bytes as rates and parameters (test_hostile.py); faults of MLflow's store (tests/tracking).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from pipeline import params
from tests.conftest import ROOT
from tests.faults import harness

KEPT = ".checkpoints"
CASES = [
    # A mount cannot be replaced by a finished folder.
    *((stage, "data/raw" if stage.startswith("acquire") else harness.STAGES[stage][2]) for stage in harness.STAGES),
    *((stage, KEPT) for stage in ("train", "acquire-video", "frames", "features", "train-video", "study")),
    *(("track", place) for place in ("store", "mlartifacts")),
]
"""Every stage and the sync with MLflow, with every folder into which it writes."""
PAGE = 4096
WORDS = ("No space left", "Read-only", "Permission denied", "expected a usable MLflow store")


@pytest.fixture
def remount(launcher, copy, place):
    """Changes the options of a tmpfs at ``place``, which only the launcher sees."""
    if launcher.no_mounts is not None:
        pytest.skip(f"{launcher.no_mounts}")
    where = copy / place
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    launcher.do("mount", "-t", "tmpfs", "-o", "size=1g", "none", str(where))
    yield lambda options: launcher.do("mount", "-o", f"remount,{options}", str(where))
    launcher.do("umount", "--lazy", str(where))


@pytest.mark.parametrize(("stage", "place"), CASES, ids=str)
def test_a_full_and_a_read_only_disk(launcher, undisturbed, copy, blank, remount, stage, place):
    seen, sync = launcher.view(copy), stage == "track"
    output = "store" if sync else harness.STAGES[stage][2]
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{copy}/store/mlflow.db"} if sync else {}
    expected = harness.hashes(undisturbed(stage) / output)

    def used():
        disk = os.statvfs(seen / place)
        return (disk.f_blocks - disk.f_bfree) * disk.f_bsize

    def begin():
        """Leave all folders empty, but for a store without runs: making one would take longer than all the rest."""
        remount("rw,size=1g")
        for folder in (output, KEPT, "mlartifacts"):
            for content in (seen / folder).glob("*"):
                shutil.rmtree(content) if content.is_dir() else content.unlink()
        if sync:
            (seen / "store").mkdir(exist_ok=True)
            shutil.copyfile(blank, seen / "store" / "mlflow.db")
        return used()

    def run():
        return launcher.run(harness.TRACK if sync else stage, copy, **variables)[0], harness.log(copy)

    def check_success():
        remount("rw,size=1g")
        assert run()[0] == 0, harness.log(copy)
        if sync:
            harness.check_store(seen, "store/mlflow.db")
        else:
            assert harness.hashes(seen / output) == expected

    before = begin()
    check_success()
    need = (used() - before) or 4 * PAGE  # not enough for what any stage keeps while it works
    for share in (0.0, 0.4, 0.8, None):
        before = begin()
        remount("ro" if share is None else f"size={max(1, (before + int(share * need)) // PAGE) * PAGE // 1024}k")
        status, text = run()
        assert status == 1, text
        assert any(word in text for word in WORDS), text
        assert "Traceback" not in text
        if not sync:
            assert harness.hashes(seen / output).items() < expected.items()
        assert not list((seen / "data").rglob("*.tmp"))
    check_success()


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
    for attempt in range(3 * wanted):
        forget(copy, stage)
        status, _ = launcher.run(stage, copy, kill_after=moments.uniform(0, seconds))
        assert status in (0, -signal.SIGKILL), harness.log(copy)
        assert harness.hashes(output).items() <= expected.items(), "a half file is visible"
        killed += status != 0
        # Too late: the machine was busier when the stage was timed.
        seconds *= 1 if status else 0.9
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
        status, _ = launcher.run("train", copy, last=number)
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


TRAIN = "train@fx-gru"


def clone(folder):
    for name in ("nem", "pipeline", "stages", "profiles"):  # compiled cells go along
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "*.tmp"))
    (folder / "params.yaml").write_text(params.render(harness.tiny("fx")))
    for name in ("dvc.yaml", "none", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", *harness.PAGES):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    return folder


def git(folder, *arguments):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, env=harness.environment())


def start(folder, *arguments, module="dvc"):
    """Start DVC with nothing shared with other projects."""
    own = {f"DVC_{k}": str(folder.parent / k) for k in ("GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR", "SITE_CACHE_DIR")}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=folder, env=harness.environment(**own), **told)


def run(folder, *arguments, module="dvc"):
    process = start(folder, *arguments, module=module)
    text = process.communicate(timeout=harness.PATIENCE)[0]
    assert process.returncode == 0, text
    return text


def test_a_second_repro_while_the_first_is_inside_a_stage_which_is_then_killed(tmp_path, undisturbed):
    """The first is stopped in the middle of training, so that the second meets it there on any machine."""
    folder = clone(tmp_path / "project")
    first = start(folder, "repro")
    while first.poll() is None and not harness.kept(folder):
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGSTOP)
    _, status = os.waitpid(first.pid, os.WUNTRACED)
    whole, second = (harness.output(folder, "train") / "run.json").exists(), start(folder, "repro")
    text = second.communicate(timeout=harness.PATIENCE)[0]
    harness.kill_group(first.pid)
    first.communicate()
    assert os.WIFSTOPPED(status), "the first was too quick to be stopped"
    assert not whole, "the first was too quick to be stopped inside training"
    assert second.returncode != 0, "it ran a stage whose output another is writing"
    assert "lock" in text.lower() or "busy" in text.lower(), text
    assert "Traceback" not in text
    run(folder, "repro")
    assert "up to date" in run(folder, "repro")
    for stage in ("acquire", "windows", "train", "evaluate"):
        present, expected = (harness.hashes(harness.output(project, stage)) for project in (folder, undisturbed(stage)))
        assert {name: digest for name, digest in present.items() if ".gitignore" not in name} == expected
    harness.check_store(folder)


def test_forced_changed_cached_damaged_and_wiped(tmp_path):
    folder = clone(tmp_path / "project")
    run(folder, "repro")

    def trained():
        return harness.hashes(harness.output(folder, "train")), {run.info.run_id for run in harness.check_store(folder)}

    files, first = trained()
    run(folder, "repro", "--force", "--single-item", TRAIN)
    assert trained() == (files, first), "equal numbers are the runs that are there"

    mine = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.render(harness.tiny("fx", sigma=0.123)))
    run(folder, "repro", TRAIN)
    changed, both = trained()
    assert changed != files
    assert first < both, "a changed setting makes new runs beside the old ones"

    (folder / "params.yaml").write_text(mine)
    assert "Running stage 'train" not in run(folder, "repro"), "the cache has these results"
    shutil.rmtree(harness.output(folder, "train"))
    run(folder, "checkout")
    assert "made from files now" not in run(folder, module="stages.track")
    assert trained() == (files, both)

    file = folder / "data" / "raw" / "fx" / "rates.csv"  # a table of text holds no checksum
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole.replace(b"1", b"2"))
    assert "data/raw/fx" in run(folder, "status")
    file.write_bytes(whole)

    run(folder, "remote", "add", "--default", "kept", str(tmp_path / "remote"))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "results")
    expected = harness.hashes(folder / "data")
    run(folder, "push", "dvc.yaml")
    git(tmp_path, "clone", "--quiet", str(folder), "fresh")
    # Workspace and cache are gone; only what Git holds and the remote are left.
    shutil.rmtree(folder)
    fresh = tmp_path / "fresh"
    run(fresh, "pull", "dvc.yaml")
    assert harness.hashes(fresh / "data") == expected
    assert "up to date" in run(fresh, "repro")
