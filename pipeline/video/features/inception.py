"""Inception-v3 up to its 2048-d pool: weights from three sources, the preprocessing of each, one fixed arithmetic.

The feature of a frame is the average over positions of the network's last block, ``(2048,)`` float32, non-negative.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d
from torchvision.models import Inception3
from torchvision.models.inception import InceptionA, InceptionC, InceptionE

from pipeline.common import download, jobs, paths, records, seeds
from pipeline.video.frames.frames import SIZE

WIDTH = 2048  # length of a feature
IMAGENET_URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
"""torchvision's ``Inception_V3_Weights.IMAGENET1K_V1``; the name carries the first 8 digits of the SHA-256."""
IMAGENET_MIRROR = "weights/inception_v3_google-0cc3c7bd.pth"
IMAGENET_PREFIX = "0cc3c7bd"
_CALIBRATION = 12  # pictures

Preprocessing = Literal["torchvision", "inception-2015"]
State = dict[str, Tensor]
Frames = npt.NDArray[np.uint8]


class WeightsError(ValueError):
    """Weights that are not those of an Inception-v3, or not those expected; the message says what differs."""


def _network() -> Inception3:
    """The network of torchvision without its classifiers and without its change of scale."""
    network = Inception3(aux_logits=False, transform_input=False, init_weights=False)
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


class _LastBlockOf2015(InceptionE):  # type: ignore[misc]
    """The last block, whose pooling branch takes maxima."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches: list[Tensor] = super()._forward(x)
        return [*branches[:-1], self.branch_pool(max_pool2d(x, 3, stride=1, padding=1))]


def _leave_out_the_border(_: nn.Module, pooled: tuple[Tensor]) -> Tensor:
    """Turn means over windows that reach over the border by zeros into means of what is inside."""
    inside = avg_pool2d(torch.ones_like(pooled[0][:1, :1]), 3, stride=1, padding=1)
    return pooled[0] / inside


def _network_of_2015() -> Inception3:
    """The network whose pooling branches are those of the graph of 2015: means inside the picture, maxima at last."""
    network = _network()
    for block in network.children():
        if isinstance(block, InceptionA | InceptionC | InceptionE):
            block.branch_pool.register_forward_pre_hook(_leave_out_the_border)
    network.Mixed_7c = _LastBlockOf2015(2048).eval()
    return network


@dataclass(frozen=True)
class Weights:
    """Where weights come from, so that any process can load the same ones."""

    weights: Literal["random", "imagenet", "file"]  # seeded, torchvision's, those at weights_path
    weights_path: str | None
    seed: int  # root of the seed tree, for random weights
    weights_sha256: str = ""  # of the weights themselves; empty where it is not known yet

    def load(self) -> State:
        """Return the weights, without classifiers, float32; a ``WeightsError`` for those of other networks or times."""
        if self.weights == "random":  # whose last bits may differ on another processor
            return random_weights(self.seed)
        if self.weights == "imagenet":
            source = imagenet_file()
        elif self.weights_path is None:
            raise WeightsError("expected video.features.weights_path with weights file, found none; name it there")
        else:
            source = Path(self.weights_path)
        state = read(source)
        if self.weights_sha256 and digest(state) != self.weights_sha256:
            raise WeightsError(
                f"expected the weights of SHA-256 {self.weights_sha256} in {source}, found {digest(state)}; put the "
                "weights back that the features were computed with"
            )
        return state


def imagenet_file() -> Path:
    """Return torchvision's ImageNet weights: from torch's own cache, the mirror, or the network.

    A cached file without the hash that its name promises is a ``WeightsError``, a fetched one a ``DownloadError``.
    """
    name = IMAGENET_URL.rsplit("/", 1)[1]

    def check_name(file: Path) -> None:
        if not (digits := records.sha256_of(file)).startswith(IMAGENET_PREFIX):
            raise WeightsError(
                f"expected a SHA-256 that begins with {IMAGENET_PREFIX} for {file}, found {digits}; move the file away "
                "if it is still there, and run again"
            )

    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if file.is_file():
        check_name(file)
    else:
        file = paths.CHECKPOINTS / "downloads" / name
        download.fetch(IMAGENET_URL, file, sha256=None, mirror_path=IMAGENET_MIRROR, lock=paths.DOWNLOAD_LOCK,
                       accept=check_name)  # fmt: skip
    return file


def read(source: Path) -> State:
    """Read a state dict of torchvision's Inception-v3, never running code from the file; else a ``WeightsError``.

    It is a ``.safetensors``, or a ``.pth`` of tensors; half precision is widened, classifiers are left out.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected weights at {source}, found no such file")
    try:
        safe = source.suffix == ".safetensors"
        content = load_file(source) if safe else torch.load(source, map_location="cpu", weights_only=True)
        state = {name: value.float() if value.is_floating_point() else value
                 for name, value in content.items() if not name.startswith(("fc.", "AuxLogits."))}  # fmt: skip
    except Exception as error:  # torch and safetensors raise many kinds for a damaged or dangerous file
        raise WeightsError(f"expected a state dict of tensors in {source}, found none ({error})") from error
    wanted = _network().state_dict()
    state = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")} | state
    try:
        _network().load_state_dict(state)
        faults = [f"{name} with NaN or infinity" for name, value in state.items() if not value.isfinite().all()]
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]]
    if faults:
        raise WeightsError(
            f"expected the state dict of torchvision's inception_v3 in {source}, found {len(faults)} fault(s): "
            + "; ".join(faults[:5])
        )
    return {name: state[name].contiguous() for name in wanted}


def random_weights(seed: int) -> State:
    """Return seeded random weights that keep frames apart.

    Rectified Kaiming-normal convolutions alone give every frame nearly the same feature. So batch norms are set on
    seeded textures (no frames), their offset keeps most units of the hidden blocks active, and that of the last block
    makes features about as sparse and as large as those of the trained network.
    """
    network = _network()
    for name, parameter in network.named_parameters():
        last = name.startswith("Mixed_7c")
        if name.endswith("bn.weight"):
            parameter.fill_(2.0 if last else 1.0)
        elif name.endswith("bn.bias"):
            parameter.fill_(-1.2 if last else 1.0)
        else:
            generator = seeds.torch_generator(seed, "video", "inception", name)
            deviation = (2 / parameter[0].numel()) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
    with jobs.one_thread(), torch.inference_mode():
        network(_textures(seed))
    return {name: value.clone() for name, value in network.state_dict().items()}


def _textures(seed: int) -> Tensor:
    """Pictures ``(12, 3, 299, 299)`` in [-1, 1]: coloured noise of many scales."""
    generator = seeds.torch_generator(seed, "video", "inception", "textures")
    picture = torch.zeros(_CALIBRATION, 3, SIZE, SIZE)
    for cells in (2, 5, 12, 30, 75):
        field = torch.randn(_CALIBRATION, 3, cells, cells, generator=generator)
        picture += interpolate(field, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return torch.tanh(0.5 * picture).contiguous(memory_format=torch.channels_last)


def digest(state: State) -> str:
    """Return the SHA-256 of the weights themselves: equal for equal numbers, whatever file they came in."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().contiguous()
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(value.numpy().tobytes())
    return total.hexdigest()


class Extractor:
    """Turns frames into features, by weights as :meth:`Weights.load` returns them, ``half`` in 16 bits (CUDA only).

    Preprocessing ``torchvision``: its network after ImageNet's mean and deviation, which the network undoes as its
    ``transform_input`` does; ``inception-2015``: (x - 128) / 128 and the pooling branches of that graph.
    """

    def __init__(self, state: State, preprocessing: Preprocessing, device: torch.device | str = "cpu", *,
                 half: bool = False) -> None:  # fmt: skip
        self.device, self.half, self.preprocessing = torch.device(device), half, preprocessing
        network = _network_of_2015() if preprocessing == "inception-2015" else _network()
        network.transform_input = preprocessing == "torchvision"
        network.load_state_dict(state)
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.mean = torch.tensor([0.485, 0.456, 0.406], device=self.device).view(1, 3, 1, 1)
        self.deviation = torch.tensor([0.229, 0.224, 0.225], device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> npt.NDArray[np.float32]:
        """Return the ``(N, 2048)`` float32 features of ``(N, 299, 299, 3)`` red-green-blue bytes."""
        pixels = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float()
        own = self.preprocessing == "torchvision"
        pixels = (pixels / 255 - self.mean) / self.deviation if own else (pixels - 128) / 128
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        fixed = torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)
        with fixed, torch.autocast(self.device.type, torch.float16, enabled=self.half):
            vectors = self.network(pixels)
        features: npt.NDArray[np.float32] = vectors.float().cpu().numpy()
        return features
