"""One warm launcher and one undisturbed run for all fault tests."""

import shutil

import pytest
from safetensors.torch import save_file

from pipeline.video import inception
from tests.faults import harness


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/faults/" in item.path.as_posix():
            item.add_marker(pytest.mark.faults)
            # The fixtures' time counts too, and they run whole pipelines.
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    made = harness.Launcher(tmp_path_factory.mktemp("launcher"))
    yield made
    made.close()


def run_all(launcher, factory, name, stages, make):
    """Return a project whose stages all ran without a fault."""

    def make_and_run(folder):
        make(folder)
        for stage in stages:
            # The first training makes the MLflow store, which takes longer than the training.
            status, _ = launcher.run(stage, folder)
            assert status == 0, harness.log(folder)

    return harness.shared(factory, name, make_and_run)


@pytest.fixture(scope="session")
def undisturbed(launcher, tmp_path_factory):
    """A project on exchange rates whose stages all ran without a fault."""
    return run_all(launcher, tmp_path_factory, "fx", harness.FX, harness.make_project)


@pytest.fixture(scope="session")
def undisturbed_video(launcher, tmp_path_factory):
    """The same for videos."""

    def make(folder):
        weights = folder.parent / "weights.safetensors"
        save_file(inception.random_weights(1), weights)
        harness.make_project(folder, harness.tiny_video(weights))

    return run_all(launcher, tmp_path_factory, "video", harness.VIDEO, make)


@pytest.fixture(scope="session")
def undisturbed_study(launcher, tmp_path_factory):
    """The same for the study."""
    return run_all(launcher, tmp_path_factory, "study", harness.STUDY, harness.make_project)


@pytest.fixture
def copy(request, tmp_path):
    """A copy of the undisturbed project that has the test's stage (without one: exchange rates), for it to harm."""
    stage = getattr(request.node, "callspec", None) and request.node.callspec.params.get("stage")
    kind = "undisturbed_video" if stage in harness.VIDEO else "undisturbed_study" if stage in harness.STUDY else None
    source = request.getfixturevalue(kind or "undisturbed")
    folder = tmp_path / "project"
    shutil.copytree(source, folder, symlinks=True)
    return folder
