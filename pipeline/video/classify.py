"""Class probabilities over time for one video, by a trained classifier.

The path is that of training, as the network itself records it: frames at the sampling times, through the same JPEG
quality and the same Inception-v3, into windows of T slices; a window's probabilities hold from its last frame on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.common import jobs, records
from pipeline.video.features import inception
from pipeline.video.frames import codec
from pipeline.video.frames.frames import SIZE
from pipeline.video.frames.sampling import Sampling, choose, timeline

if TYPE_CHECKING:
    from pipeline.training.models import TrainedNetwork

BATCH = 16


class Classified(NamedTuple):
    """A classified video."""

    times: npt.NDArray[np.float64]  # (N,) of each window's last frame [s], increasing
    probabilities: npt.NDArray[np.float32]  # (N, K)
    classes: tuple[str, ...]  # names of the K classes

    def best(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the most probable classes over the whole video, by mean probability."""
        mean = self.probabilities.mean(0)
        return [(self.classes[k], float(mean[k])) for k in np.argsort(-mean, kind="stable")[:count]]


def classify(source: Path, network: "TrainedNetwork", device: str = "auto") -> Classified:
    """Classify a video by a network that records how its features came about; ``device``: auto, cpu or cuda.

    No video, other weights than in training, and another kind of network are a ``ValueError``.
    """
    origin = network.about.get("origin") or {}
    if origin.get("weights") not in ("random", "imagenet", "file") or network.about["inputs"] != inception.WIDTH:
        raise ValueError(
            f"expected a classifier of {inception.WIDTH} features of Inception-v3, found a network of task "
            f"{network.about.get('task')!r} with {network.about['inputs']} inputs; "
            "name a run under data/runs/video that was trained on videos and without video.clips.components"
        )
    sampling = Sampling.of(origin)
    times = timeline(codec.scan(source))
    indices, samples = choose(times, sampling.samples_per_second)
    own = (origin["weights"], origin["weights_path"], int(origin["seed"] or 0), origin["weights_sha256"])
    weights = inception.Weights(*own).load()
    extractor = inception.Extractor(weights, origin["preprocessing"], jobs.device(device))
    frames = (codec.resize(frame, SIZE) for frame in codec.pick(source, indices.tolist()))
    pictures = np.stack([codec.decode(codec.encode(frame, sampling.jpeg_quality)) for frame in frames])
    vectors = np.concatenate([extractor(pictures[k : k + BATCH]) for k in range(0, len(pictures), BATCH)])
    rows = np.repeat(np.arange(len(indices)), samples)
    windows = np.stack([rows[sampling.slices(start, len(rows))] for start in sampling.starts(len(rows), 1).tolist()])
    probabilities = network.predict(vectors[windows])
    return Classified(times.times[indices[windows[:, -1]]], probabilities, tuple(network.about["classes"]))


def draw(source: Path, destination: Path, classified: Classified, count: int = 3) -> int:
    """Write the video (``.mp4``) with its ``count`` most probable classes drawn on it; return its number of frames.

    When that fails (``VideoError``, ``OSError``), an older file at the destination stays as it was.
    """
    times = timeline(codec.scan(source))

    def drawn() -> Iterator[codec.Image]:
        for time, frame in zip(times.times, codec.pick(source, range(len(times.times))), strict=True):
            window = int(np.searchsorted(classified.times, time, side="right")) - 1
            picture, height = frame.copy(), max(14, frame.shape[0] // 14)
            probabilities = classified.probabilities[max(0, window)]
            order = np.argsort(-probabilities, kind="stable")[:count]
            words = [f"{classified.classes[k]} {probabilities[k]:.0%}" for k in order] if window >= 0 else ["..."]
            for line, text in enumerate(words, 1):
                colour = (255, 230, 90) if line == 1 else (255, 255, 255)
                codec.text(picture, text, (7, line * height + 1), (0, 0, 0), height / 30)
                codec.text(picture, text, (6, line * height), colour, height / 30)
            yield picture

    records.write_bytes(destination, codec.encode_video(drawn(), times.rate, destination.suffix.lower(), "mp4v"))
    return len(times.times)
