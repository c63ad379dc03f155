"""The whole path on real files: real clips, weights of a real network."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.common import paths
from pipeline.params import VideoAcquire, VideoFeatures
from pipeline.video import acquire, layout
from pipeline.video.features import features
from pipeline.video.frames import codec, frames
from pipeline.video.frames.sampling import Sampling

pytestmark = pytest.mark.realdata

CLIPS = {  # frames that decode, and seconds: counted once, frame by frame
    "Basketball/v_Basketball_g01_c02.mp4": (180, 6.006),
    "Basketball/v_Basketball_g07_c04.mp4": (101, 3.370),
    "Biking/v_Biking_g01_c01.mp4": (151, 5.038),
    "HorseRiding/v_HorseRiding_g16_c02.gif": (161, 5.37),
    "SoccerJuggling/v_SoccerJuggling_g23_c01.avi": (240, 8.008),
    "SoccerJuggling/v_SoccerJuggling_g24_c01.avi": (251, 8.375),
    "Swing/v_Swing_g11_c02.gif": (126, 5.04),
    "WalkingWithDog/v_WalkingWithDog_g19_c05.gif": (240, 8.0),
}


@pytest.fixture(autouse=True)
def _serial(monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")


def test_the_real_ucf11_clip_goes_from_the_mirror_to_six_frames(project, mirror, monkeypatch):
    monkeypatch.setenv("NEM_MIRROR", str(mirror))
    acquire.acquire(VideoAcquire(source="ucf11"), 1)
    videos = layout.load(layout.INDEX)
    assert videos == [layout.Video("basketball/v_shooting_01/v_shooting_01_01.mpg", "basketball", "01")]
    assert "1 of 1597 clips" in json.loads(paths.source_record("video").read_text())["partial"]
    row = frames.extract(videos, layout.CLIPS, Sampling(), paths.FRAMES).to_pylist()[0]
    assert (row["codec"], row["status"]) == ("mpg1", "short")
    assert (row["frames_decoded"], row["frames_wanted"], row["frames_padded"]) == (108, 6, 1)
    assert row["fps"] == pytest.approx(29.97, abs=0.001)
    file = frames.frames_file(paths.FRAMES, row["video_id"])
    indices = pq.read_table(file)["frame_index"].to_pylist()
    assert indices == [round(k / 1.4 * 30_000 / 1001) for k in range(6)]
    for image, frame in zip(frames.decode_images(file), codec.pick(layout.CLIPS / row["path"], indices), strict=True):
        difference = image.astype(int) - codec.resize(frame, frames.SIZE).astype(int)
        assert np.abs(difference).mean() < 3  # JPEG of quality 95


def test_real_clips_decode_in_full_and_frames_of_one_clip_are_nearest_to_each_other(project, mirror):
    videos = [layout.Video(path, path.split("/")[0], path[-10:-8]) for path in CLIPS]
    manifest = frames.extract(videos, mirror / "clips", Sampling(rate=0.7, per_clip=3), paths.FRAMES)
    for row in manifest.to_pylist():
        count, seconds = CLIPS[row["path"]]
        assert (row["status"], row["frames_decoded"]) == ("ok", count), row["path"]
        assert row["duration_s"] == pytest.approx(seconds, rel=0.01), row["path"]
    weights = str(mirror / "weights" / "inception_v3_2015_approx.pth")
    settings = VideoFeatures(weights="file", weights_path=weights, preprocessing="inception-2015", device="cpu")
    features.extract(paths.FRAMES, settings, 1, paths.FEATURES)
    table = features.load(paths.FEATURES_TABLE)
    unit = table.vectors / table.vectors.norm(dim=1, keepdim=True)
    likeness = (unit @ unit.T).fill_diagonal_(-1)
    nearest = likeness.argmax(1).tolist()
    assert np.mean([table.video_id[row] == table.video_id[other] for row, other in enumerate(nearest)]) > 0.8
    kind = [name.split("/")[0] for name in table.video_id]
    assert np.mean([kind[row] == kind[other] for row, other in enumerate(nearest)]) > 0.9
