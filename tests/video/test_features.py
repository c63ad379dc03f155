"""Each distinct frame has one feature, whatever interrupts the work and however many processes share it."""

import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.common import paths
from pipeline.params import VideoFeatures
from pipeline.video.features import features, inception
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling
from pipeline.video.layout import Video
from tests.video import samples
from tests.video.test_codec import limit

FILE = "features.parquet"
LENGTHS = {"a/1/x": 60, "b/1/y": 90, "b/2/z": 40}
REAL = {  # frames that decode, and seconds: counted once, frame by frame
    "Basketball/v_Basketball_g01_c02.mp4": (180, 6.006), "Basketball/v_Basketball_g07_c04.mp4": (101, 3.370),
    "Biking/v_Biking_g01_c01.mp4": (151, 5.038), "HorseRiding/v_HorseRiding_g16_c02.gif": (161, 5.37),
    "SoccerJuggling/v_SoccerJuggling_g23_c01.avi": (240, 8.008), "Swing/v_Swing_g11_c02.gif": (126, 5.04),
    "SoccerJuggling/v_SoccerJuggling_g24_c01.avi": (251, 8.375),
    "WalkingWithDog/v_WalkingWithDog_g19_c05.gif": (240, 8.0),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.setattr(features, "CHUNK", 5)
    features._extractor.cache_clear()
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def settings(weights_file):
    return VideoFeatures(weights="file", weights_path=str(weights_file), batch_size=2, device="cpu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Frames of three short videos and of one bad one: 4 + 6 + 3 of them."""
    root = tmp_path_factory.mktemp("frames")
    for name, count in LENGTHS.items():
        samples.video(root / f"{name}.mpg", count)
    (root / "bad.mpg").write_bytes(b"")
    videos = [*(Video(f"{name}.mpg", *name.split("/")[:2]) for name in LENGTHS), Video("bad.mpg", "b", "3")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEM_EXECUTOR", "serial")
        patch.chdir(root)
        frames.extract(videos, root, Sampling(), root / "out", max_bad_fraction=0.5)
    return root / "out"


@pytest.fixture(scope="module")
def whole(stored, settings, tmp_path_factory):
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEM_EXECUTOR", "serial")
        patch.setattr(features, "CHUNK", 5)
        patch.chdir(root)
        assert features.extract(stored, settings, 1, root / "out") == 13
    return root / "out"


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_table_holds_every_distinct_frame_in_order_and_maps_its_vectors(stored, whole, random_state):
    table = features.load(whole / FILE)
    assert table.video_id == ["a/1/x"] * 4 + ["b/1/y"] * 6 + ["b/2/z"] * 3
    assert table.frame_index.tolist()[:4] == [0, 18, 36, 54]
    assert table.timestamp_s[:4] == pytest.approx(np.array([0, 18, 36, 54]) / 25)
    network = inception.Extractor(random_state, "torchvision")
    direct = network(frames.decode_images(frames.frames_file(stored, "b/1/y")))
    assert table.vectors[4:10].numpy() == pytest.approx(direct, rel=1e-4, abs=1e-4)
    assert (table.about["weights"], table.about["weights_sha256"]) == ("file", inception.digest(random_state))
    assert {"preprocessing", "torch", "torchvision", "opencv", "device", "precision"} <= set(table.about)
    assert np.array_equal(table.vectors, np.array(pq.read_table(whole / FILE)["feature"].to_pylist(), np.float32))
    table.vectors[0] = -1.0  # reaches memory, never the file
    assert not torch.equal(features.load(whole / FILE).vectors[0], table.vectors[0])


@pytest.mark.parametrize("name", ["features.parquet", "vectors.safetensors"])
def test_damage_is_named(whole, tmp_path, name):
    """Or changes nothing, as tests/faults shows of all files."""
    source, data = shutil.copytree(whole, tmp_path / "copy") / FILE, bytearray((whole / name).read_bytes())
    file = source.with_name(name)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        features.load(source)
    middle = random.Random(name).randrange(len(data) // 4, len(data) // 2)
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    for damaged in (data[: len(data) // 2], flipped if name != FILE else b"PAR1"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name}.*run stage features again"):
            features.load(source)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(stored, settings, whole, tmp_path, monkeypatch):
    """What is kept serves only the settings that made it; the path for a GPU goes on with what another one kept."""
    original, calls = features._compute, []

    def failing(job, images):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(job.places)
        return original(job, images)

    monkeypatch.setattr(features, "_compute", failing)
    with pytest.raises(KeyboardInterrupt):
        features.extract(stored, settings, 1, tmp_path / "out")
    monkeypatch.setattr(features, "_compute", lambda job, _: calls.append(job.places) or 1 / 0)
    for change in ({"batch_size": 3}, {"preprocessing": "inception-2015"}):
        with pytest.raises(ZeroDivisionError):
            features.extract(stored, settings.model_copy(update=change), 1, tmp_path / "out")
        assert calls.pop() == calls[0]
    monkeypatch.setattr(features, "_compute", lambda job, images: calls.append(job.places) or original(job, images))
    monkeypatch.setattr(features.jobs, "run", lambda function, items, *, total, label: features._on_gpu(items, total))
    features.extract(stored, settings, 1, tmp_path / "out")
    assert len(set(calls)) == len(calls) == 3
    assert content(tmp_path / "out") == content(whole)
    assert not [file for file in (paths.CHECKPOINTS / "features").rglob("*") if file.is_file()]


def test_what_is_missing_or_foreign_is_named(stored, settings, tmp_path, monkeypatch):
    with limit(4096), pytest.raises(OSError, match=r"File too large|No space|expected room"):
        features.extract(stored, settings, 1, tmp_path / "out")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert features.device_of("auto") == "cpu"
    with pytest.raises(ValueError, match="expected a CUDA device"):
        features.device_of("cuda")
    file = shutil.copytree(stored, tmp_path / "frames") / "b" / "1" / "y.parquet"
    table = pq.read_table(file)
    for damage, message in (
        (table.drop_columns(["samples"]), r"expected column .*y\.parquet.*run the stage"),
        (table.set_column(0, "frame_index", pa.array(["x"] * len(table))), r"expected column .*y\.parquet"),
        (table[:2], r"expected 6 frames in .*y\.parquet, found 2"),
    ):
        pq.write_table(damage, file)
        with pytest.raises(ValueError, match=message):
            features.extract(tmp_path / "frames", settings, 1, tmp_path / "out")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"y\.parquet"):
        features.extract(tmp_path / "frames", settings, 1, tmp_path / "out")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("autocast", 3e-2)])
def test_cuda_agrees_with_the_cpu(stored, settings, whole, tmp_path, precision, tolerance):
    asked = settings.model_copy(update={"device": "cuda", "precision": precision})
    features.extract(stored, asked, 1, tmp_path / "out")
    table, expected = (features.load(folder / FILE) for folder in (tmp_path / "out", whole))
    assert table.about["device"] == "cuda"
    assert torch.allclose(table.vectors, expected.vectors, rtol=tolerance, atol=tolerance)


@pytest.mark.realdata
def test_real_clips_decode_in_full_and_frames_of_one_clip_are_nearest_to_each_other(mirror):
    videos = [Video(path, path.split("/")[0], path[-10:-8]) for path in REAL]
    manifest = frames.extract(videos, mirror / "clips", Sampling(rate=0.7, per_clip=3), paths.FRAMES)
    for row in manifest.to_pylist():
        count, seconds = REAL[row["path"]]
        assert (row["status"], row["frames_decoded"]) == ("ok", count), row["path"]
        assert row["duration_s"] == pytest.approx(seconds, rel=0.01), row["path"]
    weights = str(mirror / "weights" / "inception_v3_2015_approx.pth")
    settings = VideoFeatures(weights="file", weights_path=weights, preprocessing="inception-2015", device="cpu")
    features.extract(paths.FRAMES, settings, 1, paths.FEATURES)
    table = features.load(paths.FEATURES_TABLE)
    unit = table.vectors / table.vectors.norm(dim=1, keepdim=True)
    nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(1).tolist()
    assert np.mean([table.video_id[row] == table.video_id[other] for row, other in enumerate(nearest)]) > 0.8
    kind = [name.split("/")[0] for name in table.video_id]
    assert np.mean([kind[row] == kind[other] for row, other in enumerate(nearest)]) > 0.9
