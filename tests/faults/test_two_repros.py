"""Two ``dvc repro`` at once in one clone: one runs, the other waits or refuses with a message; the state is sound."""

import shutil
import subprocess
import sys

from pipeline import params
from tests.conftest import ROOT
from tests.faults import harness


def clone(folder):
    """Make a project of the present code under Git and DVC."""
    harness.make_project(folder, harness.tiny())
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def dvc(folder, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    variables = {
        f"DVC_{k}": str(folder.parent / k) for k in ("GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR", "SITE_CACHE_DIR")
    }
    return subprocess.Popen(
        command,
        cwd=folder,
        env=harness.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_two_repros_at_once(tmp_path):
    folder = clone(tmp_path / "project")
    assert params.load(folder / "params.yaml").cells == ["gru"]
    both = [dvc(folder, "repro"), dvc(folder, "repro")]
    texts = [process.communicate(timeout=280)[0] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, texts
    for code, text in zip(codes, texts, strict=True):
        assert "Traceback" not in text
        assert code == 0 or "lock" in text.lower() or "busy" in text.lower(), text
    again = dvc(folder, "repro")
    text = again.communicate(timeout=200)[0]
    assert again.returncode == 0, text
    assert "up to date" in text
    status = dvc(folder, "status", "-q")
    assert (status.communicate(timeout=100), status.returncode)[1] == 0
    left = list((folder / "data").rglob("*.tmp"))
    assert not left
