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


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Frames of three short videos and of one bad one: 4 + 6 + 3 of them."""
    root = tmp_path_factory.mktemp("frames")
    videos = [Video(f"{name}.mpg", *name.split("/")[:2]) for name in LENGTHS]
    for video, count in zip(videos, LENGTHS.values(), strict=True):
        samples.video(root / "videos" / video.path, count)
    (root / "videos" / "b" / "3").mkdir()
    (root / "videos" / "b" / "3" / "bad.mpg").write_bytes(b"")
    videos.append(Video("b/3/bad.mpg", "b", "3"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEM_EXECUTOR", "serial")
        patch.chdir(root)
        frames.extract(videos, root / "videos", Sampling(), root / "out", max_bad_fraction=0.5)
    return root / "out"


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


def test_the_table_holds_every_distinct_frame_in_order(stored, whole, random_state):
    table = features.load(whole / "features.parquet")
    assert len(table) == 13
    assert table.video_id == ["a/1/x"] * 4 + ["b/1/y"] * 6 + ["b/2/z"] * 3
    assert table.frame_index.tolist()[:4] == [0, 18, 36, 54]
    assert table.timestamp_s[:4] == pytest.approx(np.array([0, 18, 36, 54]) / 25)
    network = inception.Extractor(random_state, "torchvision")
    direct = network(frames.decode_images(frames.frames_file(stored, "b/1/y")))
    assert table.vectors[4:10].numpy() == pytest.approx(direct, rel=1e-4, abs=1e-4)
    assert table.about["weights"] == "file"
    assert table.about["weights_sha256"] == inception.digest(random_state)
    assert {"preprocessing", "torch", "torchvision", "opencv", "device", "precision"} <= set(table.about)


def test_vectors_are_mapped_not_copied_and_equal_the_table(whole):
    table = features.load(whole / "features.parquet")
    column = pq.read_table(whole / "features.parquet")["feature"].combine_chunks().flatten().to_numpy()
    assert np.array_equal(table.vectors.numpy().reshape(-1), column)
    table.vectors[0] = -1.0  # reaches memory, never the file
    assert not torch.equal(features.load(whole / "features.parquet").vectors[0], table.vectors[0])


@pytest.mark.parametrize("name", ["features.parquet", "vectors.safetensors"])
def test_damage_is_named_or_changes_nothing(whole, tmp_path, name):
    source, expected = shutil.copytree(whole, tmp_path / "copy") / "features.parquet", features.load(whole / FILE)
    file, data = source.with_name(name), (whole / name).read_bytes()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        features.load(source)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="run stage features again"):
        features.load(source)
    pages = len(data)
    if name == "features.parquet":
        pages -= 8 + int.from_bytes(data[-8:-4], "little")  # a footer holds names and places, which nothing protects
    rng = random.Random(name)
    for at in [*range(64), *(rng.randrange(8 * pages) for _ in range(150))]:
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        file.write_bytes(changed)
        try:
            table = features.load(source)
        except ValueError as error:
            assert name in str(error), "the message names the file"
            assert "run stage features again" in str(error)
            continue
        assert name == "features.parquet", "no bit of the vectors may change"
        assert torch.equal(table.vectors, expected.vectors), f"bit {at}: other numbers"
        assert table.video_id == expected.video_id
        for column in ("frame_index", "timestamp_s", "samples"):
            assert np.array_equal(getattr(table, column), getattr(expected, column)), f"bit {at}: another {column}"


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(stored, settings, whole, tmp_path, monkeypatch):
    """What is kept serves only the settings that made it."""
    original, calls = features._compute, []

    def failing(job, images):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(job.places)
        return original(job, images)

    monkeypatch.setattr(features, "_compute", failing)
    with pytest.raises(KeyboardInterrupt):
        features.extract(stored, settings, 1, tmp_path / "out")
    for change in ({"batch_size": 3}, {"preprocessing": "inception-2015"}):
        asked = len(calls)
        monkeypatch.setattr(features, "_compute", lambda job, _: calls.append(job.places) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            features.extract(stored, settings.model_copy(update=change), 1, tmp_path / "out")
        assert calls.pop() == calls[0]
        assert len(calls) == asked
    monkeypatch.setattr(features, "_compute", lambda job, images: calls.append(job.places) or original(job, images))
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
    shutil.copytree(stored, tmp_path / "frames")
    file = tmp_path / "frames" / "b" / "1" / "y.parquet"
    table = pq.read_table(file)
    for damage in (table.drop_columns(["samples"]), table.set_column(0, "frame_index", pa.array(["x"] * len(table)))):
        pq.write_table(damage, file)
        with pytest.raises(ValueError, match=r"expected column .*y\.parquet.*run the stage"):
            features.extract(tmp_path / "frames", settings, 1, tmp_path / "out")
    pq.write_table(table[:2], file)
    with pytest.raises(frames.FramesError, match=r"expected 6 frames in .*y\.parquet, found 2"):
        features.extract(tmp_path / "frames", settings, 1, tmp_path / "out")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"y\.parquet"):
        features.extract(tmp_path / "frames", settings, 1, tmp_path / "out")


def test_the_path_for_a_gpu_gives_the_chunks_in_order(stored, settings, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(features.jobs, "run", lambda function, items, *, total, label: features._on_gpu(items, total))
    features.extract(stored, settings, 1, tmp_path / "out")
    assert content(tmp_path / "out") == content(whole)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("autocast", 3e-2)])
def test_cuda_agrees_with_the_cpu(stored, settings, whole, tmp_path, precision, tolerance):
    asked = settings.model_copy(update={"device": "cuda", "precision": precision})
    features.extract(stored, asked, 1, tmp_path / "out")
    table = features.load(tmp_path / "out" / "features.parquet")
    expected = features.load(whole / "features.parquet").vectors
    assert table.about["device"] == "cuda"
    assert torch.allclose(table.vectors, expected, rtol=tolerance, atol=tolerance)
