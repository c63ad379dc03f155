"""One warm launcher and one undisturbed run of each project for all fault tests."""

import os
import shutil

import pytest
from filelock import FileLock

from pipeline import params
from tests.conftest import ROOT
from tests.faults import harness


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/faults/" in item.path.as_posix():
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.timeout(900))  # of the fixtures, too, which run whole pipelines


@pytest.fixture(scope="session")
def launcher():
    warm = harness.Launcher()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def undisturbed(launcher, tmp_path_factory):
    """Returns the project of a stage, in which all stages ran without a fault: one for all workers of this session."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def project(stage):
        kind = "video" if stage in harness.VIDEO else "fx"
        folder, done = base / f"shared-{kind}" / "project", base / f"shared-{kind}.done"
        with FileLock(base / f"shared-{kind}.lock"):
            if not done.is_file():
                for name in harness.PAGES:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, folder / name)
                (folder / "params.yaml").write_text(params.render(harness.tiny(kind, folder.parent)))
                for name in harness.PROJECTS[kind]:
                    # The first training makes the MLflow store, which takes longer than the training.
                    assert launcher.run(name, folder)[0] == 0, harness.log(folder)
                done.touch()
        return folder

    return project


@pytest.fixture
def copy(request, undisturbed, tmp_path):
    """A copy of the project of the test's stage (without one: exchange rates), for it to harm."""
    stage = getattr(request.node, "callspec", None) and request.node.callspec.params.get("stage")
    return shutil.copytree(undisturbed(stage), tmp_path / "project", symlinks=True)
