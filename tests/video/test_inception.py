"""The network is torchvision's, the preprocessing is that of its weights, and a bad file never becomes a network."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pipeline.common import download, paths, records
from pipeline.video.features import inception
from pipeline.video.features.inception import Weights
from pipeline.video.frames import codec, frames

NAME = "Mixed_5b.branch1x1.conv.weight"


def reference(state, pixels, **options):
    """Features by torchvision's own constructor and a hook on its pool."""
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
    assert (vectors.shape, vectors.dtype) == ((3, 2048), np.float32)
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


def test_random_features_tell_frames_apart_and_do_not_depend_on_company(random_state, some_frames):
    network = inception.Extractor(random_state, "inception-2015")
    together = network(some_frames)
    alone = np.concatenate([network(some_frames[k : k + 1]) for k in range(3)])
    assert alone == pytest.approx(together, rel=1e-4, abs=1e-4)
    assert (together >= 0).all()
    assert (together.std(0) > 0).mean() > 0.95
    unit = together / np.linalg.norm(together, axis=1, keepdims=True)
    assert np.triu(unit @ unit.T, 1).max() < 0.995
    for shape in ((1, 299, 299, 4), (299, 299, 3), (1, 240, 320, 3)):
        with pytest.raises(ValueError, match="expected frames"):
            network(np.zeros(shape, np.uint8))
    again, other = inception.random_weights(5), inception.random_weights(6)
    assert inception.digest(again) == inception.digest(random_state) != inception.digest(other)


def test_weights_survive_both_formats_and_half_precision(random_state, tmp_path):
    extra = {"fc.weight": torch.zeros(1000, 2048), "AuxLogits.fc.bias": torch.zeros(3)}
    torch.save({**random_state, **extra}, tmp_path / "w.pth")
    save_file({name: v.half() if v.is_floating_point() else v for name, v in random_state.items()},
              tmp_path / "w.safetensors")  # fmt: skip
    assert inception.digest(inception.read(tmp_path / "w.pth")) == inception.digest(random_state)
    halved = inception.read(tmp_path / "w.safetensors")
    assert halved[NAME].dtype == torch.float32
    assert torch.allclose(halved[NAME], random_state[NAME], rtol=1e-3, atol=1e-6)


class Evil:
    def __reduce__(self):
        return print, ("this code ran",)


@pytest.mark.hostile
def test_no_code_runs_from_a_weights_file(tmp_path, capsys):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"x": Evil()}, protocol=2))
    torch.save({"x": Evil()}, tmp_path / "v.pth")
    for name in ("w.pth", "v.pth"):
        with pytest.raises(inception.WeightsError, match="expected a state dict of tensors"):
            inception.read(tmp_path / name)
    assert "this code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        ("missing", {}),
        ("unexpected", {"layer9.weight": torch.zeros(2)}),
        ("shape", {NAME: torch.zeros(2, 2)}),
        ("NaN", {NAME: torch.full((64, 192, 1, 1), torch.nan)}),
    ],
)
def test_other_networks_are_refused_with_the_difference(random_state, tmp_path, fault, changes):
    state = {name: value for name, value in random_state.items() if fault != "missing" or name != NAME} | changes
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(inception.WeightsError, match=f"1 fault(.|\n)*(?i:{fault})"):
        inception.read(tmp_path / "w.safetensors")


def test_other_weights_than_once_are_refused(random_state, weights_file, tmp_path):
    with pytest.raises(inception.WeightsError, match="weights_path"):
        Weights("file", None, 1).load()
    known = Weights("file", str(tmp_path / "w.safetensors"), 1)
    with pytest.raises(FileNotFoundError, match="expected weights at"):
        known.load()
    (tmp_path / "w.safetensors").write_bytes(weights_file.read_bytes())
    known = known.named()
    assert known.weights_sha256 == inception.digest(known.load()) == inception.digest(random_state)
    save_file({**random_state, NAME: random_state[NAME] + 1}, tmp_path / "w.safetensors")
    with pytest.raises(inception.WeightsError, match=r"expected the weights of SHA-256 .*put the weights back"):
        known.load()


def test_imagenet_weights_come_from_the_mirror_and_must_have_the_hash_of_their_name(project, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "no-cache"))
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    file = tmp_path / "mirror" / inception.IMAGENET_MIRROR
    records.write_bytes(file, b"these are not the weights")
    with pytest.raises(download.DownloadError, match="begins with 0cc3c7bd"):
        inception.imagenet_file()
    assert not paths.DOWNLOAD_LOCK.exists(), "a wrong file was trusted"
    monkeypatch.setattr(inception, "IMAGENET_PREFIX", hashlib.sha256(b"these").hexdigest()[:8])
    file.write_bytes(b"these")
    assert inception.imagenet_file().read_bytes() == b"these"
    cached = tmp_path / "no-cache" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    records.write_bytes(cached, b"these")
    assert inception.imagenet_file() == cached, "torch's own cache comes first"
    cached.write_bytes(b"these are not")
    with pytest.raises(inception.WeightsError, match=r"checkpoints.*move the file away"):
        inception.imagenet_file()
