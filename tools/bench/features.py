"""Images per second of one core, Inception-v3 at 299 x 299 pixels: ours and what else runs the same network.

A job has one thread, and there are as many jobs as cores, so all are measured with one thread. All start from the same
drawn frames, as bytes, in batches of the default size. The floor is the rate of large matrix products in torch, also on
one thread. Times are of the processor [s], the least of some rounds, so that other work counts little.
"""

import io
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.common import jobs
from pipeline.params import VideoFeatures
from pipeline.video.acquire import synthetic
from pipeline.video.features import features, inception
from pipeline.video.frames import codec, frames
from tools.bench.rows import Row, least

FLOP = 2 * 5.7e9  # of an image: 5.7 G multiplications and additions
SIZES = (1024, 2048, 3072)  # of square matrices
ROUNDS = 2
KINDS = {"convolutions": "convolution", "normalisation": "batch_norm", "ReLU": "clamp", "pooling": "pool"}
"""Names of torch's operations, by parts of theirs."""

Network = Callable[[Tensor], Tensor]
Features = npt.NDArray[np.float32]


def eager(network: nn.Module) -> Network:
    """Return the network as torchvision lays it out."""
    network = network.to(memory_format=torch.contiguous_format)
    return lambda pixels: network(pixels.contiguous())


def compiled(network: nn.Module) -> Network:
    """Return the network compiled for the shape of the first call, its weights as constants."""
    made: Network = torch.compile(network, dynamic=False, options={"freezing": True})
    return made


def by_onnxruntime(network: nn.Module) -> Network:
    """Return the network, exported to ONNX, in ONNX Runtime."""
    runtime, content = import_module("onnxruntime"), io.BytesIO()
    example = torch.zeros(1, 3, frames.SIZE, frames.SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no package more
        torch.onnx.export(
            network, (example,), content,  # type: ignore[arg-type]  # a stream is fine
            dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"x": pixels.contiguous().numpy()})[0])


def by_openvino(network: nn.Module) -> Network:
    """Return the network in OpenVINO, without 16-bit arithmetic where the processor offers it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it tells its maker of each use
    openvino = import_module("openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it looks into torch
        model = openvino.convert_model(network, example_input=torch.zeros(1, 3, frames.SIZE, frames.SIZE))
    model.reshape([VideoFeatures().batch_size, 3, frames.SIZE, frames.SIZE])
    settings = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32"}
    run = openvino.Core().compile_model(model, "CPU", settings)
    return lambda pixels: torch.from_numpy(run(pixels.contiguous().numpy())[0])


PEERS: dict[str, Callable[[nn.Module], Network]] = {
    "torchvision eager": eager,
    "torch.compile": compiled,
    "ONNX Runtime": by_onnxruntime,
    "OpenVINO": by_openvino,
}


def rows() -> Iterator[Row]:
    """Yield a row for each peer."""
    with jobs.one_thread():
        pictures, floor = _pictures(VideoFeatures().batch_size), _gemm() / FLOP
        weights = inception.Weights("random", None, 1)
        state = weights.load()
        expected = inception.Extractor(state, "torchvision")(pictures)
        peers = dict[str, tuple[float | None, str]]()
        for name, build in PEERS.items():  # before ours, which changes how this process keeps memory
            try:
                extractor = inception.Extractor(state, "torchvision")
                extractor.network = build(extractor.network)
                told = _differs(extractor(pictures), expected)
                peers[name] = _rate(extractor, pictures), told
            except Exception as error:  # each has kinds of its own: not installed, no compiler
                peers[name] = None, f"it cannot run: {type(error).__name__}"
        ours = features._extractor((weights, "torchvision", "cpu", False))  # as a job of the stage has it
        if not np.array_equal(ours(pictures), expected):
            raise RuntimeError("expected the same features from a job and from the network alone, found others")
        rate, told = _rate(ours, pictures), _profile(ours, pictures)
        for name, (peer, differs) in peers.items():
            note = f"one thread, as a job has; {told}; {differs}"
            yield Row("features", f"Inception-v3 299², {name}", rate, "images/s", peer, floor, note)


def _pictures(count: int) -> inception.Frames:
    """Return drawn frames, ``(count, 299, 299, 3)`` bytes."""
    clip, look = synthetic.Clip(1, "biking", 1, 1), synthetic.Look(1, "biking", 1)
    drawn = list(synthetic.frames(clip, look))
    return np.stack([codec.resize(drawn[number % len(drawn)], frames.SIZE) for number in range(0, 5 * count, 5)])


def _rate(extractor: inception.Extractor, pictures: inception.Frames) -> float:
    """Return the images per second of processor time."""
    return len(pictures) / least(lambda: extractor(pictures), ROUNDS)


def _gemm() -> float:
    """Return the best rate of matrix products [operations per second]."""
    rates = []
    for size in SIZES:
        a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(1))
        rates.append(2 * size**3 / least(partial(torch.matmul, a, b), ROUNDS))
    return max(rates)


def _differs(found: Features, expected: Features) -> str:
    """Say how far a peer's features are from ours."""
    most = float(np.abs(found - expected).max() / np.abs(expected).max())
    return f"the peer's features differ by {most:.0e} of the largest"


def _profile(extractor: inception.Extractor, pictures: inception.Frames) -> str:
    """Say where the time of ours goes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        extractor(pictures)
    spent = Counter[str]()
    for event in profile.key_averages():
        spent[next((kind for kind, part in KINDS.items() if part in event.key), "rest")] += event.self_cpu_time_total
    total = sum(spent.values())
    return "ours spends " + ", ".join(f"{kind} {time / total:.0%}" for kind, time in spent.most_common())
