"""Full and read-only disks: a message and status 1, no half file, and the next run on a sound disk is as ever."""

import contextlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from pipeline import records
from tests.faults import harness

SHARES = (0.0, 0.3, 0.6, 0.9)
"""Sizes of the disk, of what a stage needs."""
KEPT = ".checkpoints"
CASES = [
    *((stage, harness.STAGES[stage][2]) for stage in (*harness.FX, *harness.VIDEO, "study-data")),
    # Those that keep anything there.
    *((stage, KEPT) for stage in ("train", "acquire-video", "frames", "features", "train-video", "study-map")),
    *(("track", place) for place in ("store", "mlartifacts")),
]
"""Every stage of ``dvc.yaml`` and the sync with MLflow, with every folder into which it writes."""
EMPTY = [("track", KEPT)]
"""An empty file, which needs no room but a disk that can be written to."""
WORDS = {"full": ("No space left",), "read-only": ("Read-only", "Permission denied")}
STORE = "expected a usable MLflow store"
"""What a fault of the store's own disk is called: MLflow does not always say more."""


class Disk:
    """A tmpfs of its own at a folder, which only the launcher sees; reading it goes through the launcher."""

    def __init__(self, launcher, place):
        self.launcher, self.place, self.seen = launcher, place, launcher.view(place)

    def limit(self, size, *, again=False):
        self.launcher.mount(self.place, f"size={max(1, size // 4096) * 4}k", again=again)

    def free(self, again=True):
        self.limit(1 << 30, again=again)

    def used(self):
        found = os.statvfs(self.seen)
        return (found.f_blocks - found.f_bfree) * found.f_bsize


@contextlib.contextmanager
def disk(launcher, place):
    """Yield a large disk at ``place``."""
    if launcher.no_mounts is not None:
        pytest.skip(f"{launcher.no_mounts}; the tests with a limit on file sizes run everywhere")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    made = Disk(launcher, place)
    made.free(again=False)
    try:
        yield made
    finally:
        launcher.unmount(place)


@contextlib.contextmanager
def peak(made):
    """Yield a list that gets the most that was used of a disk: what is written and removed again needs room too."""
    found, done = [made.used()], threading.Event()

    def look():
        while not done.wait(0.002):
            found[0] = max(found[0], made.used())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def contents(folder):
    """Return name and digest of the figures, tables and networks below a folder."""
    kinds = (".csv", ".png", ".safetensors")
    return {(Path(name).name, digest) for name, digest in harness.hashes(folder).items() if name.endswith(kinds)}


class Work:
    """A stage or the sync with MLflow: how to run it, and what it should have made."""

    def __init__(self, launcher, folder, stage, place):
        self.launcher, self.folder, self.stage, self.place = launcher, folder, stage, place
        self.run_of = harness.TRACK if stage == "track" else stage
        self.output = "store" if stage == "track" else harness.STAGES[stage][2]
        self.variables = {}
        if "store" in (place, self.output):
            self.variables["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/store/mlflow.db"
            harness.erase_runs(folder)
        self.seen = launcher.view(folder)
        self.expected = harness.hashes(folder / self.output)

    def forget(self):
        """Remove what the last run made, but for the disk itself."""
        for place in {self.output, KEPT, "mlartifacts"} if self.stage == "track" else {self.output, KEPT}:
            for each in (self.seen / place).glob("*"):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            if (self.seen / place).is_file():
                (self.seen / place).unlink()

    def start(self):
        """Put a store without runs in place: making one would take longer than all the rest."""
        if self.variables:
            (self.seen / "store").mkdir(exist_ok=True)
            shutil.copyfile(self.folder / "mlflow.db", self.seen / "store" / "mlflow.db")

    def run(self):
        return self.launcher.run(self.run_of, self.folder, **self.variables)[0]

    def logged(self):
        """Return name and content of the figures, tables and networks that are in MLflow's care."""
        return contents(self.seen / "mlartifacts")

    def check_success(self):
        status = self.run()
        assert status == 0, harness.log(self.folder)
        if self.stage == "track":
            harness.check_store(self.seen, "store/mlflow.db")
            made, results = self.logged(), self.folder / "data" / "results"
            assert made > contents(results / "figures") | contents(results / "tables")
            assert len(made & contents(self.folder / "data" / "runs")) == 1, "the best network"
        else:
            assert harness.hashes(self.seen / self.output) == self.expected

    def check_refusal(self, fault):
        """It said so, without a traceback, and left only whole files."""
        status, text = self.run(), harness.log(self.folder)
        assert status == 1, text
        words = (STORE,) if self.place == "store" else WORDS[fault]
        assert any(word in text for word in words), text
        assert "Traceback" not in text
        if self.stage != "track":
            found = harness.hashes(self.seen / self.output)
            assert found.items() <= self.expected.items()
            assert found != self.expected
        assert not [f for f in (self.seen / "data").rglob("*") if f.suffix == ".tmp"]


@pytest.fixture
def work(launcher, copy, stage, place, tmp_path):
    """The work of a stage on a disk at ``place`` that is large so far."""
    made = Work(launcher, copy, stage, place)
    with disk(launcher, copy / place) as made.disk:
        yield made


@pytest.mark.parametrize(("stage", "place"), CASES)
def test_a_full_disk(work):
    work.forget()
    work.start()
    before = work.disk.used()
    with peak(work.disk) as most:
        work.check_success()
    need = most[0] - before
    assert need > 0, "nothing was written there"
    for share in SHARES:
        work.disk.free()
        work.forget()
        work.start()
        work.disk.limit(work.disk.used() + int(share * need), again=True)
        work.check_refusal("full")
    work.disk.free()
    work.check_success()


@pytest.mark.parametrize(("stage", "place"), CASES + EMPTY)
def test_a_read_only_disk(work):
    work.forget()
    work.start()
    work.launcher.mount(work.disk.place, "ro", again=True)
    work.check_refusal("read-only")
    work.launcher.mount(work.disk.place, "rw", again=True)
    work.check_success()


@pytest.mark.parametrize("fault", ["full", "read-only"])
@pytest.mark.parametrize(("stage", "place"), [("train", "store"), ("train-video", "store")])
def test_a_faulty_disk_of_the_store_does_not_stop_training(work, fault):
    """Hours of training are worth more than a view of them: it warns once, and a later sync makes up for it."""
    work.forget()
    work.start()
    if fault == "full":
        work.disk.limit(work.disk.used(), again=True)
    else:
        work.launcher.mount(work.disk.place, "ro", again=True)
    work.check_success()
    text = harness.log(work.folder)
    assert text.count("(training goes on)") == 1, text
    assert STORE in text
    assert "Traceback" not in text
    if fault == "full":
        work.disk.free()
    else:
        work.launcher.mount(work.disk.place, "rw", again=True)
    assert work.launcher.run(harness.TRACK, work.folder, **work.variables)[0] == 0, harness.log(work.folder)
    harness.check_store(work.seen, "store/mlflow.db", {"train": "fx", "train-video": "video"}[work.stage])


@pytest.mark.parametrize("stage", ["acquire", "fx_windows", "evaluate", "acquire-video", "frames", "study-data"])
def test_a_limit_on_file_sizes(launcher, copy, stage):
    """This needs no right to mount anything, and so runs everywhere."""
    folder = copy
    output = harness.output(folder, stage)
    expected = harness.hashes(output)
    largest = max(f.stat().st_size for f in output.rglob("*") if f.is_file())
    for limit in (100, largest // 2):
        harness.remove_outputs(folder, stage)
        status, _ = launcher.run(stage, folder, fault=f"limit {limit}")
        # The log is a file too: its message may be cut short by the same limit.
        assert status != 0
        assert harness.hashes(output).items() <= expected.items()
        assert harness.hashes(output) != expected
        assert not list(output.rglob("*.tmp"))
    status, _ = launcher.run(stage, folder)
    assert status == 0, harness.log(folder)
    assert harness.hashes(output) == expected


@pytest.mark.parametrize("stage", [*harness.FX, "acquire-video", "frames", "features", "study-data"])
def test_outputs_that_are_links_into_a_cache_are_replaced_and_not_written_through(launcher, copy, stage):
    folder = copy
    output, cache = harness.output(folder, stage), folder / "cache"
    expected = harness.hashes(output)
    cache.mkdir()
    for number, file in enumerate(f for f in sorted(output.rglob("*")) if f.is_file()):
        kept = cache / str(number)
        kept.write_bytes(b"precious")
        kept.chmod(0o444)
        file.unlink()
        file.hardlink_to(kept) if number % 2 else file.symlink_to(kept)
    status, _ = launcher.run(stage, folder)
    assert status == 0, harness.log(folder)
    assert harness.hashes(output) == expected
    assert {f.read_bytes() for f in cache.iterdir()} == {b"precious"}


def test_a_disk_that_fills_while_the_file_is_synced(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    records_file = tmp_path / "a.json"
    records_file.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        records.write_json(records_file, {"a": 1})
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("a.json", "old")]
