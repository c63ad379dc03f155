"""A random network, made once: its calibration takes seconds."""

import numpy as np
import pytest
from safetensors.torch import save_file

from pipeline.video import codec, inception
from tests.video import samples


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
    return np.stack([codec.resize(samples.numbered(k), inception.SIZE) for k in (0, 341, 682)])
