"""What tests of videos share: a random network, whose calibration takes seconds, a server, and how to acquire."""

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from pipeline.common import paths
from pipeline.params import VideoAcquire
from pipeline.video import acquire
from pipeline.video.features import inception
from pipeline.video.frames import codec, frames
from tests.test_download import server
from tests.video import samples

__all__ = ["run", "server"]


@pytest.fixture(scope="session")
def random_state():
    return inception.random_weights(5)


@pytest.fixture(scope="session")
def weights_file(random_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(random_state, path)
    return path


@pytest.fixture(scope="session")
def some_frames():
    return np.stack([codec.resize(samples.numbered(k), frames.SIZE) for k in (0, 341, 682)])


@pytest.fixture
def run(project):
    """Acquire in an empty project from a source, with the settings given by name; return the record of it."""

    def acquire_from(source, seed=1, **settings):
        acquire.acquire(VideoAcquire(source=source, **settings), seed)
        return json.loads(paths.source_record("video").read_text())

    return acquire_from
