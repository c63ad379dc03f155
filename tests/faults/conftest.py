"""One warm launcher and one undisturbed run of each project for all fault tests."""

import shutil

import pytest

from pipeline import params
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
    """Returns the project of a stage, in which all stages ran without a fault."""

    def project(stage):
        kind = "video" if stage in harness.VIDEO else "fx"

        def make_and_run(folder):
            folder.mkdir()
            (folder / "params.yaml").write_text(params.render(harness.tiny(kind, folder.parent)))
            for name in harness.PROJECTS[kind]:
                # The first training makes the MLflow store, which takes longer than the training.
                assert launcher.run(name, folder)[0] == 0, harness.log(folder)

        return harness.shared(tmp_path_factory, kind, make_and_run)

    return project


@pytest.fixture
def copy(request, undisturbed, tmp_path):
    """A copy of the project of the test's stage (without one: exchange rates), for it to harm."""
    stage = getattr(request.node, "callspec", None) and request.node.callspec.params.get("stage")
    return shutil.copytree(undisturbed(stage), tmp_path / "project", symlinks=True)
