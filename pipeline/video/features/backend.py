"""What runs the network: torch, or OpenVINO where it is installed, whose features are the same but for the last bits.

OpenVINO joins normalisation and activation to the convolutions before them, which saves passes over memory.
"""

import sys
import warnings
from collections.abc import Callable
from importlib import import_module, metadata

import torch
from torch import Tensor, nn

from pipeline.video.frames.frames import SIZE


def version() -> str:
    """Return the version of OpenVINO; a ``ValueError`` says that there is none."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            "expected the package openvino for video.features.backend openvino, found none; install it "
            "(pip install openvino) or set video.features.backend to torch"
        ) from error


def by_openvino(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function of ``(N, 3, 299, 299)`` float32 pixels that a network is, on one thread of the CPU.

    A ``ValueError`` says that OpenVINO is not installed.
    """
    version()
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it reports each use to its maker
    openvino = import_module("openvino")
    with warnings.catch_warnings():  # of how it looks into torch
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network, example_input=torch.zeros(1, 3, SIZE, SIZE))
    model.reshape([-1, 3, SIZE, SIZE])
    # One thread a worker, of any core, and no 16-bit arithmetic where the processor offers it.
    settings = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32"}
    run = openvino.Core().compile_model(model, "CPU", settings)
    return lambda pixels: torch.from_numpy(run(pixels.contiguous().numpy())[0])
