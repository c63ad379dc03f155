"""The quick path's project folder."""

import shutil

import pytest

from pipeline import params
from stages import why as stage
from tests.conftest import ROOT


@pytest.fixture
def quick(project, monkeypatch):
    """A project folder with the pages, in which the quick path trains in this process."""
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.setenv("NEM_WORKERS", "1")
    monkeypatch.setenv("QUICK", "1")
    (project / "params.yaml").write_text(params.render(params.Params()), encoding="utf-8")
    (project / "docs/why").mkdir(parents=True)
    for page in stage.PAGES:
        shutil.copy(ROOT / page, project / page)
    return stage.QUICK / stage.ROWS.name
