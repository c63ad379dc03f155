"""Bits that flip, clocks that go back: damage is named or harmless, and never a crash or another number."""

import os
import random
import shutil
import time

import numpy as np
import pytest

from pipeline import params, records
from pipeline.fx import rates, windows
from pipeline.training import results
from pipeline.training.serving import TrainedNetwork
from tests.faults import harness

FLIPS = 60
READERS = {
    "params.yaml": params.load,
    "data/raw/fx/rates.csv": rates.read,
    "data/raw/fx/source.json": records.read_json,
    "data/fx/windows.parquet": windows.load,
    "data/runs/fx/gru/curves.parquet": records.read_table,
    "data/runs/fx/gru/outcomes.parquet": records.read_table,
    "data/runs/fx/gru/predictions.parquet": records.read_table,
    "data/runs/fx/gru/run.json": records.read_json,
    "data/runs/fx/gru/models/none.safetensors": TrainedNetwork,
}


def flipped(content, number, name):
    """Flip one bit of ``content``; the place follows from the number and the name."""
    at = random.Random(f"{name} {number}").randrange(8 * len(content))
    changed = bytearray(content)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed), at // 8


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_flipped_bit_or_a_cut_end_is_an_expected_error_or_a_readable_file(undisturbed, tmp_path, name):
    """Text holds no redundancy, so a flipped digit may pass here; DVC's hashes notice it (see below)."""
    source = undisturbed / name
    content, file = source.read_bytes(), tmp_path / source.name
    refused = 0
    for number in range(FLIPS):
        changed = flipped(content, number, name)[0]
        if number % 3 == 2:
            changed = content[: random.Random(number).randrange(len(content))]
        file.write_bytes(changed)
        try:
            READERS[name](file)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(error)
    assert refused


@pytest.mark.parametrize("name", sorted(n for n in READERS if n.endswith(".parquet")))
def test_a_flipped_bit_in_the_numbers_of_a_table_is_always_noticed(undisturbed, tmp_path, name):
    """Pages carry checksums: outside of the footer no flip gives other numbers."""
    source = undisturbed / name
    content, file = source.read_bytes(), tmp_path / source.name
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    table, noticed = records.read_table(source), 0
    for number in range(2 * FLIPS):
        changed, at = flipped(content[:footer], number, name)
        file.write_bytes(changed + content[footer:])
        try:
            found = records.read_table(file)
        except ValueError:
            noticed += 1
            continue
        assert found.equals(table), f"byte {at}: other numbers without an error"
    assert noticed > FLIPS


@pytest.mark.parametrize("stage", ["fx_windows", "train", "evaluate"])
def test_stages_name_the_damaged_input(launcher, copy, stage):
    folder = copy
    name = {
        "fx_windows": "data/raw/fx/rates.csv",
        "train": "data/fx/windows.parquet",
        "evaluate": "data/runs/fx/gru/curves.parquet",
    }[stage]
    file = folder / name
    content = file.read_bytes()
    for damage in (content[: len(content) // 2], b"", b"\xff" * len(content)):
        file.write_bytes(damage)
        harness.remove_outputs(folder, stage)
        status, _ = launcher.run(stage, folder)
        text = harness.log(folder)
        assert status == 1, text
        assert file.name in text or str(file.name) in text
        assert "Traceback" not in text
        assert not harness.hashes(harness.output(folder, stage))
    file.write_bytes(content)
    status, _ = launcher.run(stage, folder)
    assert status == 0, harness.log(folder)


def test_a_damaged_checkpoint_costs_time_only(launcher, copy):
    folder = copy
    output = harness.output(folder, "train")
    expected = harness.hashes(output)
    for number in range(4):
        harness.remove_outputs(folder, "train")
        shutil.rmtree(folder / ".checkpoints" / "train", ignore_errors=True)
        launcher.run("train", folder, fault="die before replace 6")
        files = sorted((folder / ".checkpoints" / "train").rglob("*.safetensors"))
        assert files
        for file in files:
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2] if number % 2 else flipped(content[:400], number, "c")[0])
        status, _ = launcher.run("train", folder)
        assert status == 0, harness.log(folder)
        assert harness.hashes(output) == expected


@pytest.mark.parametrize("stage", harness.FX)
def test_a_clock_that_goes_backwards(launcher, copy, stage):
    folder = copy
    output = harness.output(folder, stage)
    expected = harness.hashes(output)
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and ".checkpoints" not in file.parts:
            # Inputs from the future.
            os.utime(file, (time.time() + 1e8, time.time() + 1e8))
    harness.remove_outputs(folder, stage)
    status, _ = launcher.run(stage, folder, fault="clock")
    assert status == 0, harness.log(folder)
    assert harness.hashes(output) == expected


def test_results_of_a_damaged_run_are_refused(undisturbed, copy, monkeypatch):
    folder = copy
    monkeypatch.chdir(folder)
    assert np.isfinite(results.load("fx", "gru").final("none", "test_loss")).all()
    (harness.output(folder, "train") / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match="dvc repro train@fx-gru"):
        results.load("fx", "gru")
