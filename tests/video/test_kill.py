"""``kill -9`` at any moment costs at most the work of the current videos and chunks, never a byte of the result."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.video import samples

pytestmark = pytest.mark.faults

FRAMES = """
from pathlib import Path
from pipeline.params import VideoFrames
from pipeline.video import frames
from pipeline.video.layout import Video
if __name__ == "__main__":
    root = Path("videos")
    videos = [Video(f.name, "sport", f.stem) for f in sorted(root.glob("*.mpg"))]
    frames.extract(videos, root, VideoFrames(phases=3), Path("out"), Path("store"))
"""
FEATURES = """
from pathlib import Path
from pipeline.params import VideoFeatures
from pipeline.video import features
features.CHUNK = 6
if __name__ == "__main__":
    settings = VideoFeatures(weights="file", weights_path="weights.safetensors", batch_size=3, device="cpu")
    features.extract(Path("out"), settings, 1, Path("features"), Path("chunks"))
"""


def start(folder, script, workers="1"):
    (folder / "job.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEM_WORKERS": workers, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "job.py"], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def finish(folder, script, workers="1"):
    assert start(folder, script, workers).wait(240) == 0


def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def killed_at_random_moments(folder, script, store, pattern, seed):
    """Kill the job as soon as it has finished a random number of pieces, three times; return how many were kept."""
    rng, kept = random.Random(seed), 0
    for _ in range(3):
        job = start(folder, script)
        wanted = kept + rng.randint(1, 3)
        while job.poll() is None and len(list(store.glob(pattern))) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        if job.poll() is not None:
            break
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        found = len(list(store.glob(pattern)))
        assert found >= kept, "finished work was lost"
        kept = found
    return kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights_file):
    root = tmp_path_factory.mktemp("kill")
    for number in range(24):
        samples.video(root / "videos" / f"v{number:02d}.mpg", 30 + number)
    (root / "weights.safetensors").write_bytes(weights_file.read_bytes())
    return root


def test_frames(folder):
    finish(folder, FRAMES)
    expected = content(folder / "out")
    shutil.rmtree(folder / "out")
    assert killed_at_random_moments(folder, FRAMES, folder / "store", "[0-9a-f]*.parquet", 1) > 0
    finish(folder, FRAMES, workers="2")
    assert content(folder / "out") == expected


def test_features(folder):
    if not (folder / "out").is_dir():
        finish(folder, FRAMES)
    for file in sorted((folder / "videos").glob("*.mpg"))[4:]:
        file.unlink()
    finish(folder, FRAMES)
    assert killed_at_random_moments(folder, FEATURES, folder / "chunks", "[0-9a-f]*.safetensors", 2) > 0
    finish(folder, FEATURES, workers="2")
    found = content(folder / "features")
    for name in ("features", "chunks"):
        shutil.rmtree(folder / name)
    finish(folder, FEATURES)
    assert content(folder / "features") == found
