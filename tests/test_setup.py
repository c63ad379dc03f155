"""`make setup` gives a clone what the two commands need."""

import stat
import subprocess
import sys
from pathlib import Path

from tools.licences import LOCK, ROOT


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
