"""The quick path's project folder."""

import shutil

import pytest

from pipeline import params
from stages import why as stage
from tests.conftest import ROOT


@pytest.fixture
def quick(project, monkeypatch):
    """A project folder with the page, in which the quick path trains in this process."""
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.setenv("NEM_WORKERS", "1")
    monkeypatch.setenv("QUICK", "1")
    (project / "params.yaml").write_text(params.render(params.Params()), encoding="utf-8")
    (project / "docs").mkdir()
    shutil.copy(ROOT / stage.PAGE, project / stage.PAGE)
    return stage.QUICK / stage.ROWS.name
