"""Full and read-only disks: a message and status 1, no half file, and the next run on a sound disk is as ever."""

import os
import shutil

import pytest

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
        pytest.skip(f"{launcher.no_mounts}; the test with a limit on file sizes runs everywhere")
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


@pytest.mark.parametrize("stage", ["acquire", "evaluate", "frames"])
def test_a_limit_on_file_sizes(launcher, copy, stage):
    """This needs no right to mount anything, and so runs everywhere."""
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    largest = max(f.stat().st_size for f in output.rglob("*") if f.is_file())
    for limit in (100, largest // 2):
        harness.remove_outputs(copy, stage)
        # The log is a file too: its message may be cut short by the same limit.
        assert launcher.run(stage, copy, fault=f"limit {limit}")[0] != 0
        assert harness.hashes(output).items() < expected.items()
        assert not list(output.rglob("*.tmp"))
    assert launcher.run(stage, copy)[0] == 0, harness.log(copy)
    assert harness.hashes(output) == expected
