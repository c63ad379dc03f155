"""One warm launcher and one undisturbed run for all fault tests."""

import shutil

import pytest

from tests.faults import harness


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/faults/" in item.path.as_posix():
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def launcher():
    made = harness.Launcher()
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(launcher, tmp_path_factory):
    """A project whose stages all ran without a fault, and the seconds that each took."""
    folder = harness.make_project(tmp_path_factory.mktemp("undisturbed") / "project")
    seconds = {}
    for stage in harness.COMMANDS:
        # The first training makes the MLflow store, which takes longer than the training.
        status, seconds[stage] = launcher.run(stage, folder)
        assert status == 0, harness.log(folder)
    return folder, seconds


@pytest.fixture
def copy(undisturbed, tmp_path):
    """A copy of the undisturbed project, for this test to harm; and its file hashes."""
    source, _ = undisturbed
    folder = tmp_path / "project"
    shutil.copytree(source, folder, symlinks=True)
    return folder, harness.hashes(folder / "data")
