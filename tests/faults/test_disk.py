"""Full and read-only disks: a message and status 1, no half file, and the next run on a sound disk is as ever."""

import contextlib
import os
import shutil
import subprocess

import pytest

from pipeline import records
from tests.faults import harness

SHARES = (0.0, 0.3, 0.6, 0.9)
"""Sizes of the disk, of what a stage needs."""
STAGES = [*harness.FX, "acquire-video", "frames", "features"]


@contextlib.contextmanager
def small_disk(place, kilobytes):
    """Mount a tmpfs of its own at ``place``."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs; the tests with a limit on file sizes run everywhere")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place, option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


def size(folder):
    """Return the bytes that a folder's files need on a disk of 4-KiB blocks."""
    return sum(-(-f.stat().st_size // 4096) * 4096 for f in folder.rglob("*") if f.is_file())


def check_refusal(folder, stage, status, expected, words):
    """A stage that met a fault of the disk said so, without a traceback, and left only whole files."""
    text = harness.log(folder)
    assert status == 1, text
    assert any(word in text for word in words), text
    assert "Traceback" not in text
    output = harness.output(folder, stage)
    found = harness.hashes(output)
    assert found.items() <= expected.items()
    assert found != expected
    assert not list(output.rglob("*.tmp"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(launcher, copy, stage):
    folder = copy
    output = harness.output(folder, stage)
    expected, need = harness.hashes(output), size(output)
    shutil.rmtree(output)
    for share in SHARES:
        with small_disk(output, 4 * max(1, int(share * need) // 4096)):
            status, _ = launcher.run(stage, folder)
            check_refusal(folder, stage, status, expected, ["No space left"])
    with small_disk(output, need // 1024 + 256):
        status, _ = launcher.run(stage, folder)
        assert status == 0, harness.log(folder)
        assert harness.hashes(output) == expected


@pytest.mark.parametrize("stage", ["acquire", "fx_windows", "evaluate"])
def test_a_limit_on_file_sizes(launcher, copy, stage):
    folder = copy
    output = harness.output(folder, stage)
    expected = harness.hashes(output)
    largest = max(f.stat().st_size for f in output.rglob("*") if f.is_file())
    harness.remove_outputs(folder, stage)
    for limit in (100, largest // 2):
        status, _ = launcher.run(stage, folder, fault=f"limit {limit}")
        # The log is a file too: its message may be cut short by the same limit.
        assert status != 0
        assert harness.hashes(output).items() <= expected.items()
        assert harness.hashes(output) != expected
        assert not list(output.rglob("*.tmp"))
    status, _ = launcher.run(stage, folder)
    assert status == 0, harness.log(folder)
    assert harness.hashes(output) == expected


def test_a_disk_too_full_for_checkpoints(launcher, copy):
    folder = copy
    output = harness.output(folder, "train")
    expected = harness.hashes(output)
    harness.remove_outputs(folder, "train")
    shutil.rmtree(folder / ".checkpoints")
    with small_disk(folder / ".checkpoints", 8):
        status, _ = launcher.run("train", folder)
        text = harness.log(folder)
        assert status == 1, text
        assert "No space left" in text
        assert "Traceback" not in text
        assert not harness.hashes(output)
    status, _ = launcher.run("train", folder)
    assert status == 0, harness.log(folder)
    assert harness.hashes(output) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_read_only_outputs(launcher, copy, stage):
    folder = copy
    output = harness.output(folder, stage)
    expected, need = harness.hashes(output), size(output)
    shutil.rmtree(output)
    with small_disk(output, need // 1024 + 256):
        remount(output, "ro")
        status, _ = launcher.run(stage, folder)
        check_refusal(folder, stage, status, expected, ["Read-only", "Permission denied"])
        remount(output, "rw")
        status, _ = launcher.run(stage, folder)
        assert status == 0, harness.log(folder)
        assert harness.hashes(output) == expected


@pytest.mark.parametrize("stage", STAGES)
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
