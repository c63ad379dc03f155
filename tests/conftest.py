"""Fixtures that all tests share: one thread of arithmetic, a project folder, the real data if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples every time: a sceptic must see what CI saw. Other ones: NEM_FUZZ_RANDOM=1.
FIXED = not os.environ.get("NEM_FUZZ_RANDOM")
SLOW = [HealthCheck.too_slow]
settings.register_profile("suite", deadline=None, max_examples=40, suppress_health_check=SLOW, derandomize=FIXED)
settings.load_profile("suite")
torch.set_num_threads(1)  # some sums change with their number; tests run beside each other anyway
ROOT = Path(__file__).parent.parent


def refused(error, words, call, /, *arguments, **named):
    """A call must raise an error whose message has these words, a regular expression."""
    with pytest.raises(error, match=words):
        call(*arguments, **named)


@pytest.fixture(autouse=True)
def _same_weights():
    """Initial weights of layers are those that no other test moves."""
    torch.manual_seed(1)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder that is the working directory, with the code and profiles of this one; no processes."""
    for name in ("nem", "pipeline", "stages", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.delenv("NEM_MIRROR", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def blank(tmp_path_factory):
    """An empty MLflow store: making its tables takes seconds, copying them none."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("blank") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def mirror():
    """The folder with the real files, for tests marked ``realdata``."""
    folder = os.environ.get("NEM_MIRROR")
    if not folder:
        pytest.skip("NEM_MIRROR names no folder with the real files")
    return Path(folder)
