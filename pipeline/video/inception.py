"""Inception-v3 up to its 2048-d pool: weights from three sources, the preprocessing of each, one fixed arithmetic.

The feature of a frame is the average over positions of the network's last block, ``(2048,)`` float32, non-negative.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import Inception3

from pipeline import download, paths, records, seeds
from pipeline.params import VideoFeatures

SIZE = 299
"""Height and width of a frame [pixels]."""
WIDTH = 2048
"""Length of a feature."""
IMAGENET_URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
"""torchvision's ``Inception_V3_Weights.IMAGENET1K_V1``; the name carries the first 8 digits of the SHA-256."""
IMAGENET_MIRROR = "weights/inception_v3_google-0cc3c7bd.pth"
IMAGENET_PREFIX = "0cc3c7bd"
_CALIBRATION = 12
_OFFSET = 1.0
_LAST_BLOCK, _LAST_GAIN, _LAST_OFFSET = "Mixed_7c", 2.0, -1.2

Preprocessing = Literal["torchvision", "inception-2015"]
State = dict[str, Tensor]
Frames = npt.NDArray[np.uint8]


class WeightsError(ValueError):
    """Weights that are not those of an Inception-v3; the message says what differs."""


def _network(preprocessing: Preprocessing = "inception-2015") -> Inception3:
    """The network without its classifiers; ``torchvision`` weights expect its own change of scale (see there)."""
    network = Inception3(aux_logits=False, transform_input=preprocessing == "torchvision", init_weights=False)
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def obtain(settings: VideoFeatures, seed: int) -> State:
    """Return the weights that the settings name, without classifiers, float32.

    Args:
        settings: the source of the weights.
        seed: root of the seed tree, for random weights.

    Raises:
        WeightsError: the file is no state dict of an Inception-v3.
        FileNotFoundError: no such file.
        DownloadError: the ImageNet weights cannot be had.
    """
    if settings.weights == "random":
        return random_weights(seed)
    if settings.weights == "imagenet":
        return read(imagenet_file())
    if settings.weights_path is None:
        raise WeightsError("expected video.features.weights_path with weights file, found null; name the file there")
    return read(Path(settings.weights_path))


def imagenet_file() -> Path:
    """Return torchvision's ImageNet weights: from torch's own cache, the mirror, or the network.

    Raises:
        WeightsError: the file does not have the hash that its name promises.
        DownloadError: it cannot be had.
    """
    name = IMAGENET_URL.rsplit("/", 1)[1]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    destination = paths.CHECKPOINTS / "downloads" / name
    source = cached if cached.is_file() else destination
    if source is cached:
        _check_name(cached)
    else:
        download.fetch(
            IMAGENET_URL,
            destination,
            sha256=None,
            mirror_path=IMAGENET_MIRROR,
            lock=paths.DOWNLOAD_LOCK,
            accept=_check_name,
        )
    return source


def _check_name(file: Path) -> None:
    """Check that the weights are those whose hash their name begins.

    Raises:
        WeightsError: they are not.
    """
    found = records.sha256_of(file)
    if not found.startswith(IMAGENET_PREFIX):
        raise WeightsError(
            f"expected a SHA-256 that begins with {IMAGENET_PREFIX} for {file}, found {found}; if the file is still "
            "there, delete it, and run again"
        )


def read(source: Path) -> State:
    """Read a state dict of torchvision's Inception-v3, never running code from the file.

    Args:
        source: ``.safetensors``, or a ``.pth`` of tensors; half precision is widened, classifiers are left out.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: the file is no state dict, or one of another network.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected weights at {source}, found no such file")
    try:
        if source.suffix == ".safetensors":
            found = load_file(source)
        else:
            found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a damaged or dangerous file
        raise WeightsError(f"expected a state dict of tensors in {source}, found none ({error})") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"expected a state dict of tensors in {source}, found {type(found).__name__}")
    wanted = _network().state_dict()
    state = {str(name): value.to(value.dtype if not value.is_floating_point() else torch.float32)
             for name, value in found.items() if not str(name).startswith(("fc.", "AuxLogits."))}  # fmt: skip
    for name, value in wanted.items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, value)
    faults = [f"missing {name}" for name in wanted if name not in state]
    faults += [f"unknown {name}" for name in state if name not in wanted]
    faults += [
        f"{name} of shape {tuple(value.shape)}, expected {tuple(wanted[name].shape)}"
        for name, value in state.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if not faults:
        faults = [f"{name} with NaN or infinity" for name, value in state.items() if not value.isfinite().all()]
    if faults:
        raise WeightsError(
            f"expected the state dict of torchvision's inception_v3 in {source}, found {len(faults)} fault(s): "
            + "; ".join(faults[:5])
        )
    return {name: state[name].contiguous() for name in wanted}


def random_weights(seed: int) -> State:
    """Return seeded random weights that keep frames apart.

    Kaiming-normal convolutions alone give every frame nearly the same feature, since each rectified random layer
    pulls its inputs together. So batch norms are set on seeded textures (which are part of the definition of the
    network, and no frames), their offset keeps most units of the hidden blocks active, and that of the last block
    makes features about as sparse and as large as those of the trained network.
    """
    network = _network()
    for name, parameter in network.named_parameters():
        if name.endswith("bn.weight"):
            parameter.fill_(_LAST_GAIN if name.startswith(_LAST_BLOCK) else 1.0)
        elif name.endswith("bn.bias"):
            parameter.fill_(_LAST_OFFSET if name.startswith(_LAST_BLOCK) else _OFFSET)
        else:
            generator = seeds.torch_generator(seed, "video", "inception", name)
            fan_in = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.train()
        with torch.inference_mode():
            network(_textures(seed))
    finally:
        torch.set_num_threads(threads)
    return {name: value.clone() for name, value in network.state_dict().items()}


def _textures(seed: int) -> Tensor:
    """Pictures ``(12, 3, 299, 299)`` in [-1, 1]: coloured noise of many scales."""
    generator = seeds.torch_generator(seed, "video", "inception", "textures")
    picture = torch.zeros(_CALIBRATION, 3, SIZE, SIZE)
    for cells in (2, 5, 12, 30, 75):
        field = torch.randn(_CALIBRATION, 3, cells, cells, generator=generator)
        picture += nn.functional.interpolate(field, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return torch.tanh(0.5 * picture).contiguous(memory_format=torch.channels_last)


def digest(state: State) -> str:
    """Return the SHA-256 of the weights themselves: equal for equal numbers, whatever file they came in."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().contiguous()
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()


class Extractor:
    """Turns frames into features.

    Args:
        state: weights, as :func:`obtain` returns them.
        preprocessing: ``torchvision``: ImageNet's mean and deviation, which the network then undoes as torchvision's
            ``transform_input`` does; ``inception-2015``: (x - 128) / 128. The network is torchvision's in both cases;
            the 2015 graph takes maxima where torchvision takes means in the pooling branch of its last block (the last
            192 numbers of a feature), so that weights of 2015 give smaller ones there than the original network.
        device: where to compute.
        half: compute in 16 bits where that is safe (CUDA only).
    """

    def __init__(
        self, state: State, preprocessing: Preprocessing, device: torch.device | str = "cpu", *, half: bool = False
    ) -> None:
        self.device, self.half = torch.device(device), half and torch.device(device).type == "cuda"
        network = _network(preprocessing)
        network.load_state_dict(state)
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.mean = torch.tensor([0.485, 0.456, 0.406], device=self.device).view(1, 3, 1, 1)
        self.deviation = torch.tensor([0.229, 0.224, 0.225], device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> npt.NDArray[np.float32]:
        """Return the features of ``(N, 299, 299, 3)`` red-green-blue bytes as ``(N, 2048)`` float32.

        Raises:
            ValueError: another shape or type.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"expected frames (N, {SIZE}, {SIZE}, 3) of bytes, found {frames.shape} {frames.dtype}")
        # Bytes stored pixel by pixel are a channels-last tensor already: permuting copies nothing.
        pixels = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float()
        if self.preprocessing == "torchvision":
            pixels = (pixels / 255 - self.mean) / self.deviation
        else:
            pixels = (pixels - 128) / 128
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            found = self.network(pixels)
        vectors: npt.NDArray[np.float32] = found.float().cpu().numpy()
        return vectors
