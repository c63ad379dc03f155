"""Class probabilities over time for one video, by a trained classifier.

The path is that of training: frames at the sampling times, through the same JPEG quality and the same Inception-v3,
into windows of T slices; a window's probabilities hold from its last frame on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.params import VideoFeatures, VideoFrames
from pipeline.training.serving import TrainedNetwork
from pipeline.video import codec, features, frames, inception

BATCH = 16


@dataclass(frozen=True)
class Classified:
    """A classified video.

    Attributes:
        times: ``(N,)`` time of each window's last frame [s], increasing.
        probabilities: ``(N, K)``.
        classes: names of the K classes.
    """

    times: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float32]
    classes: tuple[str, ...]

    def best(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the most probable classes over the whole video, by mean probability."""
        mean = self.probabilities.mean(0)
        return [(self.classes[k], float(mean[k])) for k in np.argsort(-mean, kind="stable")[:count]]


def classify(
    source: Path, network: TrainedNetwork, sampling: VideoFrames, extraction: VideoFeatures, seed: int
) -> Classified:
    """Classify a video.

    Args:
        source: the video file.
        network: a classifier of video features.
        sampling: how frames are sampled, as in training.
        extraction: how features are computed, as in training.
        seed: root of the seed tree, for seeded random weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, or a network that does not classify video features.
    """
    if not network.about["classes"] or network.about["inputs"] != inception.WIDTH:
        raise ValueError(
            f"expected a classifier of {inception.WIDTH} features, found a network of task "
            f"{network.about.get('task')!r} with {network.about['inputs']} inputs; name a run under data/runs/video"
        )
    times = frames.timeline(codec.scan(source))
    indices, samples = frames.choose(times, sampling.rate * sampling.phases)
    extractor = inception.Extractor(
        inception.obtain(extraction, seed), extraction.preprocessing, features.device_of(extraction)
    )
    pictures = [
        codec.decode(codec.encode(codec.resize(frame, inception.SIZE), sampling.jpeg_quality))
        for frame in codec.pick(source, indices.tolist())
    ]
    vectors = np.concatenate(
        [extractor(np.stack(pictures[first : first + BATCH])) for first in range(0, len(pictures), BATCH)]
    )
    rows = np.repeat(np.arange(len(indices)), samples)
    span = frames.samples_per_clip(sampling)
    rows = np.append(rows, np.full(max(0, span - len(rows)), rows[-1]))
    starts = np.arange(len(rows) - span + 1)
    windows = rows[starts[:, None] + np.arange(0, span, sampling.phases)]
    found = network.predict(vectors[windows])
    return Classified(times.times[indices[windows[:, -1]]], found, tuple(network.about["classes"]))


def draw(source: Path, destination: Path, classified: Classified, count: int = 3) -> int:
    """Write the video with the most probable classes drawn on it; return its number of frames.

    Args:
        source: the video file.
        destination: an ``.mp4`` file.
        classified: from :func:`classify`.
        count: classes to show.

    Raises:
        VideoError: the encoder refuses the destination.
        OSError: the disk is full or read-only; an older file at the destination stays as it was.
    """
    times = frames.timeline(codec.scan(source))

    def drawn() -> Iterator[npt.NDArray[np.uint8]]:
        for shown, frame in zip(times.times, codec.read(source), strict=False):
            at = max(0, int(np.searchsorted(classified.times, shown, side="right")) - 1)
            known = shown >= classified.times[0]
            picture = frame.copy()
            height = max(14, frame.shape[0] // 14)
            order = np.argsort(-classified.probabilities[at], kind="stable")[:count]
            for line, k in enumerate(order):
                words = f"{classified.classes[k]} {classified.probabilities[at, k]:.0%}" if known else "..."
                corner = (6, (line + 1) * height)
                codec.text(picture, words, (corner[0] + 1, corner[1] + 1), (0, 0, 0), height / 30)
                codec.text(picture, words, corner, (255, 255, 255) if line else (255, 230, 90), height / 30)
                if not known:
                    break
            yield picture

    return codec.write(destination, drawn(), times.rate, codec="mp4v")
