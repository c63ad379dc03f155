"""`make setup` gives a clone what the two commands need."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

LOCK = ROOT / "requirements" / "all.txt"


def test_dvc_keeps_its_pickles_where_only_their_owner_may_write(tmp_path):
    """CVE-2025-69872: DVC's own default is a folder below /var/tmp that everybody may write to."""
    clone = tmp_path / "a clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    (clone / "Makefile").write_text((ROOT / "Makefile").read_text())
    ready = Path(sys.prefix) / ".ready"
    setup = ["make", "-o", str(LOCK.relative_to(ROOT)), "-o", str(ready), "setup", f"VENV={sys.prefix}"]
    dvc = [sys.executable, "-m", "dvc", "config", "core.site_cache_dir"]
    for _ in range(2):
        subprocess.run(setup, cwd=clone, check=True, capture_output=True)
        shown = subprocess.run(dvc, cwd=clone, check=True, capture_output=True, text=True).stdout.strip()
        assert Path(shown) == clone / ".dvc" / "tmp" / "site"
        assert stat.S_IMODE(Path(shown).stat().st_mode) == 0o700
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True)
    assert status.stdout.strip() in ("", "M Makefile")


def test_a_folder_that_dvc_cannot_note_stops_nobody(tmp_path):
    """DVC writes its settings as ASCII; make tells it the folder through the environment, and says what else to do."""
    clone = tmp_path / "clóne"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    (clone / "Makefile").write_text((ROOT / "Makefile").read_text() + "\nshow:\n\t@echo $$DVC_SITE_CACHE_DIR\n")
    setup = ["make", "-o", str(LOCK.relative_to(ROOT)), "-o", str(Path(sys.prefix) / ".ready"), f"VENV={sys.prefix}"]
    # Not what the make that runs the tests hands down: its level would have this one announce its folder.
    own = {k: v for k, v in os.environ.items() if k not in ("DVC_SITE_CACHE_DIR", "MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    done = subprocess.run([*setup, "setup", "show"], cwd=clone, env=own, check=True, capture_output=True, text=True)
    folder = clone / ".dvc" / "tmp" / "site"
    assert f'export DVC_SITE_CACHE_DIR="{folder}"' in done.stdout
    assert done.stdout.splitlines()[-1] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    subprocess.run(
        [sys.executable, "-m", "dvc", "config", "--list"], cwd=clone, env=own, check=True, capture_output=True
    )


def test_a_folder_without_git_is_known_to_dvc(tmp_path):
    """A downloaded ZIP; and once it is a repository, it is one."""
    folder = tmp_path / "zip"
    (folder / ".dvc").mkdir(parents=True)
    for name in ("Makefile", ".dvc/config", "dvc.yaml", "params.yaml", str(LOCK.relative_to(ROOT))):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    own = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    setup = ["make", "-o", str(LOCK.relative_to(ROOT)), "-o", str(Path(sys.prefix) / ".ready"), f"VENV={sys.prefix}"]
    listed = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    for git in (False, False, True):
        if git:
            subprocess.run(["git", "init", "-q"], cwd=folder, env=own, check=True)
        done = subprocess.run([*setup, "setup"], cwd=folder, env=own, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        assert ("no_scm = true" in (folder / ".dvc" / "config.local").read_text()) != git
        assert (
            "windows" in subprocess.run(listed, cwd=folder, env=own, check=True, capture_output=True, text=True).stdout
        )
