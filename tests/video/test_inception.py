"""The network is torchvision's, the preprocessing is that of its weights, and a bad file never becomes a network."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pipeline import download, paths
from pipeline.params import VideoFeatures
from pipeline.video import inception


def test_torchvision_and_its_operators_import():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]


@pytest.mark.parametrize("preprocessing", ["torchvision", "inception-2015"])
def test_features_are_those_of_torchvisions_network(random_state, some_frames, preprocessing):
    """The reference: torchvision's own constructor, transform and hook on its pool."""
    reference = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False,
                                                transform_input=preprocessing == "torchvision").eval()  # fmt: skip
    reference.load_state_dict({**reference.state_dict(), **random_state})
    pooled = []
    reference.avgpool.register_forward_hook(lambda _, __, out: pooled.append(out.flatten(1)))
    pixels = torch.from_numpy(some_frames).permute(0, 3, 1, 2)
    if preprocessing == "torchvision":
        transform = torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms(crop_size=299, resize_size=299)
        pixels = transform(pixels)
    else:
        pixels = (pixels.float() - 128) / 128
    with torch.inference_mode():
        reference(pixels)
    found = inception.Extractor(random_state, preprocessing)(some_frames)
    assert found.shape == (3, 2048)
    assert found.dtype == np.float32
    assert found == pytest.approx(pooled[0].numpy(), rel=1e-3, abs=1e-3)


def test_random_features_tell_frames_apart_and_do_not_depend_on_company(random_state, some_frames):
    network = inception.Extractor(random_state, "inception-2015")
    together = network(some_frames)
    alone = np.concatenate([network(some_frames[k : k + 1]) for k in range(3)])
    assert alone == pytest.approx(together, rel=1e-4, abs=1e-4)
    assert (together >= 0).all()
    assert (together.std(0) > 0).mean() > 0.95
    unit = together / np.linalg.norm(together, axis=1, keepdims=True)
    assert np.triu(unit @ unit.T, 1).max() < 0.995


def test_random_weights_follow_the_seed(random_state):
    again, other = inception.random_weights(5), inception.random_weights(6)
    assert inception.digest(again) == inception.digest(random_state) != inception.digest(other)


@pytest.mark.parametrize("shape", [(1, 299, 299, 4), (299, 299, 3), (1, 240, 320, 3)])
def test_other_shapes_are_refused(random_state, shape):
    with pytest.raises(ValueError, match="expected frames"):
        inception.Extractor(random_state, "inception-2015")(np.zeros(shape, np.uint8))


def test_weights_survive_both_formats_and_half_precision(random_state, tmp_path):
    extra = {"fc.weight": torch.zeros(1000, 2048), "AuxLogits.fc.bias": torch.zeros(3)}
    torch.save({**random_state, **extra}, tmp_path / "w.pth")
    save_file({name: v.half() if v.is_floating_point() else v for name, v in random_state.items()},
              tmp_path / "w.safetensors")  # fmt: skip
    assert inception.digest(inception.read(tmp_path / "w.pth")) == inception.digest(random_state)
    halved = inception.read(tmp_path / "w.safetensors")
    name = "Conv2d_1a_3x3.conv.weight"
    assert halved[name].dtype == torch.float32
    assert torch.allclose(halved[name], random_state[name], rtol=1e-3, atol=1e-6)


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


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "NaN"])
def test_other_networks_are_refused_with_the_difference(random_state, tmp_path, fault):
    name = "Mixed_5b.branch1x1.conv.weight"
    state = dict(random_state)
    if fault == "missing":
        del state[name]
    elif fault == "unknown":
        state["layer9.weight"] = torch.zeros(2)
    elif fault == "shape":
        state[name] = torch.zeros(2, 2)
    else:
        state[name] = torch.full_like(state[name], torch.nan)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(inception.WeightsError, match=f"1 fault(.|\n)*{fault}"):
        inception.read(tmp_path / "w.safetensors")


def test_weights_that_are_not_there_say_what_to_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected weights at"):
        inception.obtain(VideoFeatures(weights="file", weights_path=str(tmp_path / "no.pth")), 1)
    with pytest.raises(inception.WeightsError, match="weights_path"):
        inception.obtain(VideoFeatures(weights="file"), 1)


def test_imagenet_weights_come_from_the_mirror_and_must_have_the_hash_of_their_name(project, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "no-cache"))
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    file = tmp_path / "mirror" / inception.IMAGENET_MIRROR
    file.parent.mkdir(parents=True)
    file.write_bytes(b"these are not the weights")
    with pytest.raises(download.DownloadError, match="begins with 0cc3c7bd"):
        inception.imagenet_file()
    assert not paths.DOWNLOAD_LOCK.exists(), "a wrong file was trusted"
    monkeypatch.setattr(inception, "IMAGENET_PREFIX", hashlib.sha256(b"these").hexdigest()[:8])
    file.write_bytes(b"these")
    assert inception.imagenet_file().read_bytes() == b"these"


def test_imagenet_weights_come_from_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    file.parent.mkdir()
    file.write_bytes(b"not the weights")
    with pytest.raises(inception.WeightsError, match=r"checkpoints.*delete it"):
        inception.imagenet_file()
    monkeypatch.setattr(inception, "IMAGENET_PREFIX", hashlib.sha256(b"not the weights").hexdigest()[:8])
    assert inception.imagenet_file() == file
