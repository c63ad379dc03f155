"""Clusters of this machine: one that a driver begins by itself, and one of several nodes that is there already."""

import importlib.util
import os

import pytest

from tests.conftest import ROOT
from tests.video.conftest import random_state, weights_file

__all__ = ["random_state", "weights_file"]

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]  # `make test-cluster` installs it


@pytest.fixture(scope="module", autouse=True)
def _ends():
    """Leaves nothing of Ray behind."""
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def ray(project, monkeypatch):
    """Ray: jobs run there, on one cluster for a module unless a test shuts it down; workers import tests from here."""
    import ray

    monkeypatch.setenv("NEM_EXECUTOR", "ray")
    monkeypatch.setenv("NEM_WORKERS", "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("RAY_ADDRESS", "NEM_MIXED_MACHINES"):
        monkeypatch.delenv(name, raising=False)
    return ray


@pytest.fixture
def nodes(ray, monkeypatch):
    """Begins a cluster that is there already: its head has no core, and nodes can be added to it."""
    from ray.cluster_utils import Cluster

    begun = []

    def begin():
        ray.shutdown()
        monkeypatch.delenv("NEM_WORKERS")
        begun.append(Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}))
        monkeypatch.setenv("RAY_ADDRESS", begun[0].address)
        return begun[0]

    yield begin
    ray.shutdown()
    for cluster in begun:
        cluster.shutdown()


@pytest.fixture
def folders(tmp_path):
    """Folders in which jobs note that they ran."""
    several = [tmp_path / f"{number:02}" for number in range(12)]
    for folder in several:
        folder.mkdir()
    return several


def environment(**changes):
    """What a driver of its own gets."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | changes
