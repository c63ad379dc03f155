"""The network is torchvision's, a bad file never becomes one, and each distinct frame has one feature."""

import hashlib
import pickle
import platform
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pipeline.common import download, jobs, paths, records
from pipeline.params import VideoFeatures
from pipeline.video.features import features, inception
from pipeline.video.features import table as feature_table
from pipeline.video.features.inception import Weights
from pipeline.video.frames import codec, frames
from pipeline.video.frames.sampling import Sampling
from pipeline.video.layout import Video
from tests.conftest import ROOT, refused
from tests.video import samples

FILE = "features.parquet"
LENGTHS = {"a/1/x": 60, "b/1/y": 90, "b/2/z": 40}


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    features._extractor.cache_clear()
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def settings(weights_file):
    return VideoFeatures(weights="file", weights_path=str(weights_file), batch_size=2, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEM_EXECUTOR", "serial")
        patch.setattr(features, "CHUNK", 5)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def stored(root):
    """Frames of three short videos and of one bad one: 4 + 6 + 3 of them."""
    for name, count in LENGTHS.items():
        samples.video(root / f"{name}.mpg", count)
    (root / "bad.mpg").write_bytes(b"")
    videos = [*(Video(f"{name}.mpg", *name.split("/")[:2]) for name in LENGTHS), Video("bad.mpg", "b", "3")]
    frames.extract(videos, root, Sampling(), root / "frames", max_bad_fraction=0.5)
    return root / "frames"


@pytest.fixture(scope="module")
def whole(stored, settings, root):
    assert features.extract(stored, settings, 1, root / "whole") == 13
    return root / "whole"


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_table_holds_every_distinct_frame_in_order_and_maps_its_vectors(stored, whole, random_state):
    table = feature_table.load(whole / FILE)
    assert table.video_id == ["a/1/x"] * 4 + ["b/1/y"] * 6 + ["b/2/z"] * 3
    assert table.frame_index.tolist()[:4] == [0, 18, 36, 54]
    assert table.timestamp_s[:4] == pytest.approx(np.array([0, 18, 36, 54]) / 25)
    network = inception.Extractor(random_state, "torchvision")
    direct = network(frames.decode_images(frames.frames_file(stored, "b/1/y")))
    assert table.vectors[4:10] == pytest.approx(direct, rel=1e-4, abs=1e-4)
    assert (table.about["weights"], table.about["weights_sha256"]) == ("file", inception.digest(random_state))
    assert np.array_equal(table.vectors, np.array(pq.read_table(whole / FILE)["feature"].to_pylist(), np.float32))
    table.vectors[0] = -1.0  # reaches memory, never the file
    assert not np.array_equal(feature_table.load(whole / FILE).vectors[0], table.vectors[0])


@pytest.mark.hostile
def test_a_damaged_table_of_features_and_a_damaged_twin_are_named(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "damaged")
    for file, at in ((folder / FILE, 99), (folder / "vectors.safetensors", 50_000)):
        content = file.read_bytes()
        for damage in (content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
            file.write_bytes(damage)
            with pytest.raises(ValueError, match=rf"expected .*{file.name}, found .*run stage features again"):
                feature_table.load(folder / FILE)
        file.unlink()
        refused(FileNotFoundError, rf"{file.name}.*dvc repro features", feature_table.load, folder / FILE)
        file.write_bytes(content)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(stored, settings, whole, tmp_path, monkeypatch):
    """What is kept serves only the settings that made it."""
    original, calls = features.compute, []

    def failing(job):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(job.places)
        return original(job)

    monkeypatch.setattr(features, "compute", failing)
    with pytest.raises(KeyboardInterrupt):
        features.extract(stored, settings, 1, tmp_path / "out")
    monkeypatch.setattr(features, "compute", lambda job: calls.append(job.places) or 1 / 0)
    for change in ({"batch_size": 3}, {"preprocessing": "inception-2015"}):
        with pytest.raises(ZeroDivisionError):
            features.extract(stored, settings.model_copy(update=change), 1, tmp_path / "out")
        assert calls.pop() == calls[0]
    monkeypatch.setattr(features, "compute", lambda job: calls.append(job.places) or original(job))
    features.extract(stored, settings, 1, tmp_path / "out")
    assert len(set(calls)) == len(calls) == 3
    assert content(tmp_path / "out") == content(whole)
    assert not [file for file in (paths.CHECKPOINTS / "features").rglob("*") if file.is_file()]


def test_what_is_missing_or_foreign_is_named(stored, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(ValueError, "expected a CUDA device", jobs.device, "cuda")
    file = shutil.copytree(stored, tmp_path / "frames") / "b" / "1" / "y.parquet"
    table = pq.read_table(file)
    for damage, message in (
        (table.drop_columns(["samples"]), r"expected column .*y\.parquet.*run the stage"),
        (table[:2], r"expected 6 frames in .*y\.parquet, found 2"),
    ):
        pq.write_table(damage, file)
        refused(ValueError, message, features.extract, tmp_path / "frames", settings, 1, tmp_path / "out")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("autocast", 3e-2)])
def test_cuda_agrees_with_the_cpu(stored, settings, whole, tmp_path, precision, tolerance):
    asked = settings.model_copy(update={"device": "cuda", "precision": precision})
    features.extract(stored, asked, 1, tmp_path / "out")
    table, expected = (feature_table.load(folder / FILE) for folder in (tmp_path / "out", whole))
    assert table.about["device"] == "cuda"
    assert np.allclose(table.vectors, expected.vectors, rtol=tolerance, atol=tolerance)


FAULTS = """
import resource, sys, torch
from pipeline.video.features import features
if "keep" in sys.argv:
    features._keep_memory()
for number in range(40):
    if number == 30:  # what it holds has found its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 << 20).fill_(1.0)  # 64 MiB: above 32, no block is kept of itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_a_worker_frees_it_takes_again_without_page_faults():
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, *how], cwd=ROOT, capture_output=True, check=True).stdout)
        for how in (["keep"], [])
    ]
    assert faults[0] < 0.3 * faults[1]


NAME = "Mixed_5b.branch1x1.conv.weight"


def reference(state, pixels, **options):
    network = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False, **options).eval()
    network.load_state_dict({**network.state_dict(), **state})
    pooled = []
    network.avgpool.register_forward_hook(lambda _, __, out: pooled.append(out.flatten(1)))
    with torch.inference_mode():
        network(pixels)
    return pooled[0].numpy()


def test_features_are_those_of_torchvisions_network(random_state, some_frames):
    transform = torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms(crop_size=299, resize_size=299)
    pixels = transform(torch.from_numpy(some_frames).permute(0, 3, 1, 2))
    vectors = inception.Extractor(random_state, "torchvision")(some_frames)
    assert vectors == pytest.approx(reference(random_state, pixels, transform_input=True), rel=1e-3, abs=1e-3)


def test_the_network_of_2015_takes_maxima_at_last_and_means_inside_the_picture(random_state, some_frames, monkeypatch):
    """The reference: torchvision's network whose pooling function is another one, and another one at the end."""
    pixels = (torch.from_numpy(some_frames).permute(0, 3, 1, 2).float() - 128) / 128
    own, calls = torch.nn.functional.avg_pool2d, []

    def pooled(x, kernel_size, stride, padding):
        calls.append(x.shape)
        if len(calls) == 9:  # the ninth block with a pooling branch is the last
            return torch.nn.functional.max_pool2d(x, kernel_size, stride, padding)
        return own(x, kernel_size, stride, padding, count_include_pad=False)

    vectors = inception.Extractor(random_state, "inception-2015")(some_frames)
    monkeypatch.setattr(torch.nn.functional, "avg_pool2d", pooled)
    assert vectors == pytest.approx(reference(random_state, pixels), rel=1e-3, abs=1e-3)
    assert len(calls) == 9


@pytest.mark.realdata
def test_features_of_real_pictures_agree_with_true_ones(mirror):
    """Vectors of the original network; two layers of these weights are fitted, which leaves some difference."""
    state = inception.read(mirror / "weights" / "inception_v3_2015_approx.pth")
    files = sorted((mirror / "pairs").glob("*.jpg"))
    pictures = np.stack([codec.resize(codec.decode(file.read_bytes()), frames.SIZE) for file in files])
    true = np.stack([np.load(file.with_suffix(".npy")).reshape(-1) for file in files])
    vectors = inception.Extractor(state, "inception-2015")(pictures)

    def explained(part):
        left, total = (vectors - true)[:, part], (true - true.mean())[:, part]
        return 1 - (left**2).sum() / ((total - total.mean()) ** 2).sum()

    assert explained(slice(None)) > 0.85
    assert explained(slice(-192, None)) > 0.8, "the pooling branch of the last block"


def test_weights_survive_both_formats_and_half_precision_and_random_ones_have_a_seed(random_state, tmp_path):
    digests = [inception.digest(inception.random_weights(seed)) for seed in (5, 6)]
    assert digests[0] == inception.digest(random_state) != digests[1]
    torch.save({**random_state, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "w.pth")
    halves = {name: value.half() if value.is_floating_point() else value for name, value in random_state.items()}
    save_file(halves, tmp_path / "w.safetensors")
    assert inception.digest(inception.read(tmp_path / "w.pth")) == inception.digest(random_state)
    halved = inception.read(tmp_path / "w.safetensors")
    assert halved[NAME].dtype == torch.float32
    assert torch.allclose(halved[NAME], random_state[NAME], rtol=1e-3, atol=1e-6)


class Evil:
    def __reduce__(self):
        return print, ("this code ran",)


@pytest.mark.hostile
def test_no_code_runs_from_a_weights_file(tmp_path, capsys):
    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))):
        save({"x": Evil()}, tmp_path / "w.pth")
        refused(inception.WeightsError, "expected a state dict of tensors", inception.read, tmp_path / "w.pth")
    assert "this code ran" not in capsys.readouterr().out


def test_other_networks_are_refused_with_the_difference(random_state, tmp_path):
    for fault, name, value in (
        ("missing", NAME, None),
        ("unexpected", "layer9.weight", torch.zeros(2)),
        ("shape", NAME, torch.zeros(2, 2)),
        ("NaN", NAME, torch.full((64, 192, 1, 1), torch.nan)),
    ):
        state = {key: kept for key, kept in (random_state | {name: value}).items() if kept is not None}
        save_file(state, tmp_path / "w.safetensors")
        refused(inception.WeightsError, f"1 fault(.|\n)*(?i:{fault})", inception.read, tmp_path / "w.safetensors")


def test_other_weights_than_once_are_refused(random_state, weights_file, tmp_path):
    refused(inception.WeightsError, "weights_path", Weights("file", None, 1).load)
    known = Weights("file", str(tmp_path / "w.safetensors"), 1)
    refused(FileNotFoundError, "expected weights at", known.load)
    (tmp_path / "w.safetensors").write_bytes(weights_file.read_bytes())
    known = Weights("file", known.weights_path, 1, inception.digest(known.load()))
    assert known.weights_sha256 == inception.digest(known.load()) == inception.digest(random_state)
    save_file({**random_state, NAME: random_state[NAME] + 1}, tmp_path / "w.safetensors")
    refused(inception.WeightsError, r"expected the weights of SHA-256 .*put the weights back", known.load)


def test_imagenet_weights_come_from_the_mirror_and_must_have_the_hash_of_their_name(project, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "no-cache"))
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    file = tmp_path / "mirror" / inception.IMAGENET_MIRROR
    records.write_bytes(file, b"these are not the weights")
    refused(download.DownloadError, "begins with 0cc3c7bd", inception.imagenet_file)
    assert not paths.DOWNLOAD_LOCK.exists(), "a wrong file was trusted"
    monkeypatch.setattr(inception, "IMAGENET_PREFIX", hashlib.sha256(b"these").hexdigest()[:8])
    file.write_bytes(b"these")
    assert inception.imagenet_file().read_bytes() == b"these"
    cached = tmp_path / "no-cache" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    records.write_bytes(cached, b"these")
    assert inception.imagenet_file() == cached, "torch's own cache comes first"
    cached.write_bytes(b"these are not")
    refused(inception.WeightsError, r"checkpoints.*move the file away", inception.imagenet_file)
