"""DVC under faults: two at once, a wiped disk, and MLflow after every way in which a run can come about again."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import params
from tests.conftest import ROOT
from tests.faults import harness

TRAIN = "train@fx-gru"


def clone(folder):
    """Make a project of the present code under Git and DVC."""
    harness.make_project(folder)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    git(folder, "init", "--quiet")
    return folder


def git(folder, *arguments):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, env=harness.environment())


def start(folder, *arguments, module="dvc"):
    """Start DVC with nothing shared with other projects."""
    variables = {
        f"DVC_{k}": str(folder.parent / k) for k in ("GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR", "SITE_CACHE_DIR")
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=harness.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder, *arguments, module="dvc"):
    """Run DVC; return what it printed."""
    process = start(folder, *arguments, module=module)
    text = process.communicate(timeout=harness.PATIENCE)[0]
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope="session")
def reproduced_once(tmp_path_factory):
    """A project that DVC reproduced; made by the first worker that wants it."""
    return harness.shared(tmp_path_factory, "reproduced", lambda folder: run(clone(folder), "repro"))


@pytest.fixture
def reproduced(reproduced_once, tmp_path):
    """A copy of it, with its cache."""
    return shutil.copytree(reproduced_once, tmp_path / "project", symlinks=True)


def state(pid):
    """Return the letter that the kernel has for a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def check_both(folder, processes, texts, undisturbed):
    """One got through, the other too or it said why not; the bytes are those of an undisturbed run."""
    codes = [process.returncode for process in processes]
    assert 0 in codes, texts
    for code, text in zip(codes, texts, strict=True):
        assert "Traceback" not in text
        assert code == 0 or "lock" in text.lower() or "busy" in text.lower(), text
    assert "up to date" in run(folder, "repro")
    run(folder, "status", "-q")
    assert not list((folder / "data").rglob("*.tmp"))
    for stage in harness.FX:
        expected = harness.hashes(harness.output(undisturbed, stage))
        found = harness.hashes(harness.output(folder, stage))
        assert {name: digest for name, digest in found.items() if ".gitignore" not in name} == expected


def test_two_repros_at_once(tmp_path, undisturbed):
    """Whoever comes second waits or is turned away: no stage runs twice at a time, and all bytes are right."""
    folder = clone(tmp_path / "project")
    assert params.load(folder / "params.yaml").cells == ["gru"]
    both = [start(folder, "repro"), start(folder, "repro")]
    together = 0
    texts = [None, None]

    def finish(number):
        texts[number] = both[number].communicate(timeout=harness.PATIENCE)[0]

    threads = [threading.Thread(target=finish, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        # Past the start of Python: both have taken or met DVC's lock once it is there.
        together += (folder / ".dvc" / "tmp" / "lock").exists() and all(process.poll() is None for process in both)
        time.sleep(0.01)
    assert together, "the second began when the first had ended"
    check_both(folder, both, texts, undisturbed)


def test_a_second_repro_while_the_first_is_inside_a_stage(tmp_path, undisturbed):
    """The first is stopped in the middle of training, so that the second meets it there on any machine."""
    folder = clone(tmp_path / "project")
    first = start(folder, "repro")
    while first.poll() is None and not list((folder / ".checkpoints" / "train").rglob("*.safetensors")):
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + 60
        while state(first.pid) not in "TZ" and time.monotonic() < until:
            time.sleep(0.01)
        assert state(first.pid) == "T", "the first was too quick to be stopped"
        assert not (harness.output(folder, "train") / "run.json").exists(), "training was over when it was stopped"
        second = start(folder, "repro")
        text = second.communicate(timeout=harness.PATIENCE)[0]
        assert state(first.pid) == "T"
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert second.returncode != 0, "it ran a stage whose output another is writing"
    assert "lock" in text.lower() or "busy" in text.lower(), text
    texts = [first.communicate(timeout=harness.PATIENCE)[0], text]
    assert first.returncode == 0, texts
    check_both(folder, [first, second], texts, undisturbed)


def test_time_stamps_that_go_back(reproduced):
    """DVC compares contents. It asks for a content's hash again when inode, time stamp or size is another.

    So old or future time stamps change nothing, and changed content is seen whatever the file's time is, *but* for a
    change in place that keeps the size and the time stamp to the nanosecond: DVC trusts its note of the old hash. The
    pipeline never writes like that (a new file takes the name, hence a new inode), and ``evaluate`` hashes its inputs
    itself; whoever suspects such a change removes DVC's notes, the site cache's folder.
    """
    folder = reproduced
    names = ["data/raw/fx/rates.csv", "data/fx/windows.parquet", "data/runs/fx/gru/curves.parquet", "pipeline/cli.py"]
    files = [folder / name for name in names]
    for moment in (0, 1, 4e9):
        for file in files:
            os.utime(file, (moment, moment))
        run(folder, "status", "-q")
        assert "up to date" in run(folder, "repro")

    file = folder / "data" / "raw" / "fx" / "rates.csv"
    file.chmod(0o644)
    whole, kept = file.read_text(), file.stat()
    for moment in (0, 4e9):  # another content, older or newer than before
        file.write_text(whole.replace("1", "2"))
        os.utime(file, (moment, moment))
        assert "data/raw/fx" in run(folder, "status")
    new = file.with_name("new")  # the same size and time stamp in a new file, as the pipeline itself writes
    new.write_text(whole.replace("1", "2"))
    os.utime(new, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    new.replace(file)
    assert "data/raw/fx" in run(folder, "status")

    file.write_text(whole)
    run(folder, "status", "-q")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    run(folder, "status", "-q")
    with file.open("r+") as opened:  # in place, and the time stamp put back
        opened.write(whole.replace("1", "2"))
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    run(folder, "status", "-q")  # the limit that the docstring speaks of
    shutil.rmtree(folder.parent / "SITE_CACHE_DIR")
    assert "data/raw/fx" in run(folder, "status")


def test_a_wiped_disk_comes_back_from_a_remote(reproduced, tmp_path):
    folder = reproduced
    # The study's pipeline, which has not been run, lies beside the main one, as in the project itself.
    shutil.copytree(ROOT / "study", folder / "study", dirs_exist_ok=True)
    run(folder, "remote", "add", "--default", "kept", str(tmp_path / "remote"))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "results")
    expected = harness.hashes(folder / "data")
    run(folder, "push", "dvc.yaml")
    git(tmp_path, "clone", "--quiet", str(folder), "fresh")
    fresh = tmp_path / "fresh"
    # Workspace and cache are gone; only what Git holds and the remote are left.
    shutil.rmtree(folder)
    assert harness.hashes(fresh / "data").keys() <= {
        "results/metrics.json",
        *(k for k in expected if ".gitignore" in k),
    }
    run(fresh, "pull", "dvc.yaml")
    assert harness.hashes(fresh / "data") == expected
    run(fresh, "status", "-q", "dvc.yaml")
    assert "up to date" in run(fresh, "repro")


def trained(folder):
    """Return what training wrote, and the ids of its runs in MLflow."""
    return harness.hashes(harness.output(folder, "train")), {found.info.run_id for found in harness.runs(folder)[0]}


def test_one_run_per_slot_after_force_kill_other_parameters_cache_and_partial_reruns(reproduced):
    folder = reproduced
    files, first = trained(folder)
    harness.check_store(folder)

    run(folder, "repro", "--force", "--single-item", TRAIN)
    assert trained(folder) == (files, first), "equal numbers are the runs that are there"

    process = start(folder, "repro", "--force", "--single-item", TRAIN)
    while process.poll() is None and not list((folder / ".checkpoints" / "train").rglob("*.safetensors")):
        time.sleep(0.01)
    harness.kill_group(process.pid)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the kill came too late"
    assert not (harness.output(folder, "train") / "run.json").exists()

    other = harness.tiny().model_dump()
    other["train"]["fx"]["gru"]["sigma"]["output"]["additive"] = 0.123
    (folder / "params.yaml").write_text(params.render(params.validate(other)))
    run(folder, "repro", TRAIN)
    assert trained(folder)[0] != files
    harness.check_store(folder)

    (folder / "params.yaml").write_text(params.render(harness.tiny()))
    assert "Running stage 'train" not in run(folder, "repro"), "the cache has these results"
    shutil.rmtree(harness.output(folder, "train"))
    run(folder, "checkout")
    assert trained(folder)[0] == files
    for added in ("4 run(s)", "0 run(s)"):
        assert f"track: {added} added" in run(folder, module="stages.track")
        harness.check_store(folder)
    check_tables(folder)


def check_tables(folder):
    """MLflow's numbers are those of metrics, plot data, tables and report: equal, or equal when rounded as there."""
    settings = params.load(folder / "params.yaml")
    epoch, results = settings.train.of("fx", "gru").epochs, folder / "data" / "results"
    found, client = harness.runs(folder)
    metrics = json.loads((results / "metrics.json").read_text())["fx"]["gru"]
    curves = pd.read_csv(results / "plots" / "fx_gru.csv")
    page = (results / "report.html").read_text()
    with (results / "tables" / "table_7.csv").open() as file:
        rows = {row["training_algorithm"]: row for row in csv.DictReader(file)}
    cells = {
        "none": rows["RBP without noise"]["additive_output"],
        "nem-additive-both": rows["RBP with NEM noise"]["additive_both"],
    }
    for condition in harness.CONDITIONS:
        mine = [run for run in found if run.data.params.get("condition") == condition]
        mine.sort(key=lambda run: int(run.data.params["repetition"]))
        histories = [{m.step: m.value for m in client.get_metric_history(r.info.run_id, "test_loss")} for r in mine]
        mean = metrics[condition]["test_mse"]["mean"]
        assert mean == np.mean([history[epoch] for history in histories])
        assert cells[condition] == f"{mean:.6g}"
        assert f"<td>{float(cells[condition]):.4g}" in page
        mine = curves[curves.condition == condition]
        for step, value in zip(mine.epoch, mine.test_loss, strict=True):
            assert f"{value:.9g}" == f"{np.mean([history[step] for history in histories]):.9g}"
