"""kill -9 at any moment: no half file is ever visible, and the next run gives the bytes of an undisturbed one."""

import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from pipeline import params, records
from tests.faults import harness

KILLS = {"evaluate": 10, "evaluate-video": 10, "study-map": 10, "study-final": 6, "study-report": 3}
"""Evaluation shares its twenty random kills between both halves, the study has as many as time allows; all others have
twenty each."""
RESUME = ("train", "train-video", "features", "study-map", "study-final")
"""Stages of which a kill must once have left something to go on from (the others may be killed too early for that)."""
READ = {".safetensors": load_file, ".npy": np.load, ".parquet": records.read_table, ".json": records.read_json}


def whole_checkpoints(folder):
    """Read everything to go on from that is visible; return how many files that is."""
    files = [f for f in (folder / ".checkpoints").rglob("*") if f.suffix in READ]
    for file in files:
        READ[file.suffix](file)
    return len(files)


def forget(folder):
    """Remove what earlier runs left to resume from, so that there is a whole stage to kill (but not the weights of the
    feature extractor, which would take longer to write than all features)."""
    for file in (folder / ".checkpoints").rglob("*"):
        if file.is_file() and not file.name.startswith("weights-"):
            file.unlink()


@pytest.mark.parametrize("stage", harness.STAGES)
def test_killed_at_random_moments(launcher, copy, stage):
    folder = copy
    output = harness.output(folder, stage)
    expected = harness.hashes(output)
    harness.remove_outputs(folder, stage)
    forget(folder)
    status, seconds = launcher.run(stage, folder)
    assert status == 0, harness.log(folder)
    assert harness.hashes(output) == expected
    moments, wanted, killed, resumed = random.Random(f"kill {stage}"), KILLS.get(stage, 20), 0, 0
    with harness.Reader(output, expected) as reader:
        for attempt in range(3 * wanted):
            harness.remove_outputs(folder, stage)
            forget(folder)
            status = launcher.kill_after(moments.uniform(0, seconds), stage, folder)
            assert status in (0, -signal.SIGKILL), harness.log(folder)
            killed += status != 0
            # Too late: the machine was busier when the stage was timed.
            seconds *= 1 if status else 0.9
            reader.look()
            resumed += status != 0 and whole_checkpoints(folder) > 0
            # Every other time the dead run's outputs are left lying, as after a plain rerun without DVC.
            if attempt % 2:
                harness.remove_outputs(folder, stage)
            status, _ = launcher.run(stage, folder)
            assert status == 0, harness.log(folder)
            assert harness.hashes(output) == expected
            if killed == wanted:
                break
    assert killed == wanted, "the stage was too quick for the kills"
    assert not reader.faults
    assert reader.reads
    assert stage not in RESUME or resumed, "no kill fell between a checkpoint and the end"


@pytest.mark.parametrize("stage", [*harness.FX, *harness.VIDEO, "study-data"])
def test_killed_before_each_file_takes_its_name(launcher, copy, stage):
    folder = copy
    output = harness.output(folder, stage)
    expected = harness.hashes(output)
    # Each of the tens of pictures of the evaluation comes about in the same way.
    for number in range(1, 400, 1 + len(expected) // 20):
        harness.remove_outputs(folder, stage)
        status, _ = launcher.run(stage, folder, fault=f"die before replace {number}")
        found = harness.hashes(output)
        assert found.items() <= expected.items(), f"after replace {number - 1}"
        if status == 0:
            break
        assert status == -signal.SIGKILL, harness.log(folder)
        assert found != expected, "a stage that is not over has not written all of its files"
    assert number > len(expected) // 2
    assert harness.hashes(output) == expected


@pytest.mark.parametrize("stage", harness.FX)
def test_the_real_command_and_its_workers_killed_as_a_group(copy, stage):
    folder = copy
    output = harness.output(folder, stage)
    expected = harness.hashes(output)
    module, arguments = harness.FX[stage][:2]
    command = [sys.executable, "-m", module, *arguments]
    clean = harness.environment(NEM_EXECUTOR="process", NEM_WORKERS="2")

    def run(delay=None):
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=clean, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, err = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            harness.kill_group(process.pid)
            _, err = process.communicate()
        return process.returncode, time.perf_counter() - began, err.decode()[-2000:]

    harness.remove_outputs(folder, stage)
    status, seconds, err = run()
    assert status == 0, err
    assert harness.hashes(output) == expected
    with harness.Reader(output, expected) as reader:
        for share in (0.55, 0.85):
            harness.remove_outputs(folder, stage)
            status, _, err = run(share * seconds)
            assert status in (0, -signal.SIGKILL), err
        status, _, err = run()
    assert status == 0, err
    assert harness.hashes(output) == expected
    assert not reader.faults


def test_a_killed_run_with_other_parameters_is_never_taken_for_whole(launcher, copy):
    """Without DVC nothing deletes the outputs: old files beside new ones must not pass for one run."""
    folder = copy
    output = harness.output(folder, "train")
    old = harness.hashes(output)
    (folder / "params.yaml").write_text(params.render(harness.tiny(repetitions=1)))
    kept = folder.parent / "kept"
    shutil.copytree(output, kept)
    for number in range(1, 200):
        shutil.rmtree(output)
        shutil.copytree(kept, output)
        status, _ = launcher.run("train", folder, fault=f"die before replace {number}")
        found = harness.hashes(output)
        if status == 0:
            break
        mixed = any(found.get(name) != digest for name, digest in old.items())
        assert not mixed or "run.json" not in found, f"after replace {number - 1}: old and new files pass for one run"
    assert number > 3
