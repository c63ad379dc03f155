"""DVC under faults: two at once, a kill, damage, a wiped disk, and MLflow after every way to come to a run again."""

import os
import shutil
import signal
import subprocess
import sys
import time

from pipeline import params
from tests.conftest import ROOT
from tests.faults import harness

TRAIN = "train@fx-gru"


def clone(folder):
    for name in ("nem", "pipeline", "stages", "profiles"):  # compiled cells go along
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "*.tmp"))
    (folder / "params.yaml").write_text(params.render(harness.tiny("fx")))
    for name in ("dvc.yaml", "none", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
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
    assert "track: 0 run(s) added" in run(folder, module="stages.track")
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
