"""`make setup` gives a clone what the two commands need; `make audit` asks for all of it."""

import datetime
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from tools import audit

LOCK = "requirements/all.txt"
SETUP = ["make", "-o", LOCK, "-o", str(Path(sys.prefix) / ".ready"), f"VENV={sys.prefix}", "setup"]
INHERITED = ("DVC_SITE_CACHE_DIR", "MAKELEVEL", "MAKEFLAGS", "MFLAGS")
"""What the make that runs the tests hands down: its level would have another one announce its folder."""


def run(folder, *command, **changes):
    """What a command tells, which must succeed."""
    own = {key: value for key, value in os.environ.items() if key not in INHERITED} | changes
    done = subprocess.run(command, cwd=folder, env=own, check=True, capture_output=True, text=True)
    assert command[0] != "make" or done.stderr == ""
    return done.stdout.strip()


def dvc(folder, *arguments, **changes):
    return run(folder, sys.executable, "-m", "dvc", *arguments, **changes)


@pytest.mark.parametrize(("name", "noted"), [("a clone", True), ("clóne", False)])
def test_dvc_keeps_its_pickles_where_only_their_owner_may_write(tmp_path, name, noted):
    """CVE-2025-69872: DVC's own default is a folder below /var/tmp that everybody may write to.

    DVC writes its settings as ASCII; make tells it any folder through the environment, and says what else to do.
    """
    clone, folder = tmp_path / name, tmp_path / name / ".dvc" / "tmp" / "site"
    run(ROOT, "git", "clone", "-q", str(ROOT), str(clone))
    (clone / "Makefile").write_text((ROOT / "Makefile").read_text() + "\nshow:\n\t@echo $$DVC_SITE_CACHE_DIR\n")
    for _ in range(2):
        told = run(clone, *SETUP, "show")
        assert told.splitlines()[-1] == str(folder)
        assert (f'export DVC_SITE_CACHE_DIR="{folder}"' in told) != noted
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (f"core.site_cache_dir={folder}" in dvc(clone, "config", "--list")) == noted
    assert run(clone, "git", "status", "--porcelain") == "M Makefile"


def test_a_folder_without_git_is_known_to_dvc(tmp_path):
    """A downloaded ZIP; and once it is a repository, it is one."""
    folder, alone = tmp_path / "zip", {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    for name in ("Makefile", ".dvc/config", "dvc.yaml", "params.yaml", LOCK):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for git in (False, False, True):
        if git:
            run(folder, "git", "init", "-q", **alone)
        run(folder, *SETUP, **alone)
        assert ("no_scm = true" in (folder / ".dvc" / "config.local").read_text()) != git
        assert "windows" in dvc(folder, "stage", "list", "--name-only", **alone)


ENTRY = "- {package: %s, ids: [X-1], what: something that is bad, why: it is never reached here, review: 2026-01-31}"


def test_every_locked_package_is_asked_about_and_what_is_not_accepted_fails(monkeypatch, capfd):
    assert audit.main(["--dry-run"]) == 0
    assert int(re.search(r"would have audited (\d+) packages", "".join(capfd.readouterr()))[1]) > 150
    ran = []
    monkeypatch.setattr(audit.subprocess, "run", lambda told, **_: ran.extend(told) or SimpleNamespace(returncode=1))
    assert audit.main(["--other"]) == 1
    assert ran[-1] == "--other"
    assert ran[ran.index("CVE-2025-69872") - 1] == "--ignore-vuln"


def test_accepted_advisories_are_complete_current_and_of_locked_packages():
    day = datetime.date(2026, 1, 31)
    texts = [(audit.REQUIREMENTS / name).read_text() for name in ("advisories.yaml", "all.txt")]
    assert "CVE-2025-69872" in audit.accepted(*texts, day)
    assert audit.accepted("", "", day) == []
    assert audit.accepted(ENTRY % "six", "six==1\n", day) == ["X-1"]
    for text, today, message in (
        (ENTRY % "gone", day, "gone; drop"),
        ("- {package: six}", day, "complete it"),
        ((ENTRY % "six").replace("}", ", extra: 1}"), day, "complete it"),
        (ENTRY % "six", datetime.date(2026, 2, 1), "X-1 of six overdue since 2026-01-31"),
    ):
        with pytest.raises(ValueError, match=message):
            audit.accepted(text, "six==1\n", today)
