"""One machine type gives one set of bytes, wherever the jobs of a stage run and on however many workers."""

import os
from pathlib import Path

import pytest

from pipeline.common import records
from pipeline.params import VideoFeatures
from pipeline.training import train, tune
from pipeline.video.features import features
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling
from pipeline.video.layout import Video
from pipeline.why import networks, protocol
from tests.faults import harness
from tests.training import small
from tests.video import samples

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def make(tmp_path_factory, weights_file):
    """Runs the stages in a folder of its own; returns the hash of every output by stage."""

    def run(executor, workers):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("stages"))
            patch.setenv("NEM_EXECUTOR", executor)
            patch.setenv("NEM_WORKERS", str(workers))
            patch.setattr(features, "CHUNK", 4)
            os.link(weights_file, "w.safetensors")
            names = [f"v{number}" for number in range(3)]
            for number, name in enumerate(names):
                samples.video(Path(f"videos/{name}.mpg"), 120 + number)
            frames.extract([Video(f"{name}.mpg", "c", "g") for name in names], Path("videos"), Sampling(),
                           Path("frames"))  # fmt: skip
            wanted = VideoFeatures(weights="file", weights_path="w.safetensors", batch_size=4)
            features.extract(Path("frames"), wanted, 1, Path("features"))
            train.train("sample", [small.work(), small.work(split="second")])
            grid = tune.Grid((("sgd", 0.1, 0.0), ("adam", 0.01, 0.0)), (0.1,), (0.0, 1.0), repetitions=2)
            cells = [small.settings(cell=cell) for cell in ("lstm", "gru")]
            found = tune.tune({"sample": small.work().data}, cells, small.work(), grid)
            told = f"{found.networks}\n{found.noiseless.to_csv()}\n{found.noisy.to_csv()}"
            records.write_text(Path("tune/choice"), told)
            networks.sequences_of.cache_clear()  # they are in another folder
            networks.fill(protocol.confirmation(2), Path("why/rows.csv"), protocol.QUICK)
            return {name: harness.hashes(name) for name in ("frames", "features", "data/runs", "tune", "why")}

    return run


@pytest.fixture(scope="module")
def expected(make):
    return make("serial", 1)


@pytest.mark.parametrize(("executor", "workers"), [("process", 2), ("ray", 1), ("ray", 2), ("ray", 4)])
def test_equal_hashes(ray, make, expected, executor, workers):
    ray.shutdown()
    found = make(executor, workers)
    assert ray.is_initialized() == (executor == "ray")
    assert [len(files) for files in found.values()] == [4, 2, 34, 1, 1]
    assert found == expected
