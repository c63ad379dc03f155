"""When the frames of a video are shown, which of them are taken, and which samples make a clip.

Sample j of a video stands at j / (phases · rate) seconds; the frame nearest in time is taken. A clip takes every
``phases``-th sample, ``per_clip`` of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.video.frames.codec import Scan, VideoError

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sampling:
    """How frames are sampled and stored: what a trained network must know to see a video as in training."""

    rate: float = 1.4  # sampled frames per second within a clip [1/s]
    per_clip: int = 7  # T, slices of a clip
    phases: int = 1  # samples stand at so many times the rate
    short: Literal["pad", "skip"] = "pad"  # a video too short for one clip repeats its last frame, or is left out
    jpeg_quality: int = 95  # of stored frames, 1-100, or 101 for PNG

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Sampling":
        """Return the sampling that a section of parameters, or a record of it, describes; else a ``ValueError``."""
        names = [field.name for field in fields(cls)]
        if missing := ", ".join(name for name in names if name not in settings):
            raise ValueError(f"expected a sampling with {missing}, found none; run stage frames again")
        return cls(**{name: settings[name] for name in names})

    @property
    def samples_per_second(self) -> float:
        """Samples taken of a video [1/s]."""
        return self.rate * self.phases

    @property
    def span(self) -> int:
        """Consecutive samples that one clip spans."""
        return (self.per_clip - 1) * self.phases + 1

    def padding(self, samples: int) -> int:
        """Return how many slices of a video's only clip must repeat its last frame; 0 if it is long enough."""
        return max(0, self.per_clip - (samples - 1) // self.phases - 1)

    def starts(self, samples: int, stride: int) -> Integers:
        """Return the samples at which a video's clips start, ``stride`` apart; a short video has one, at its start."""
        return np.arange(0, max(1, samples - self.span + 1), stride)

    def slices(self, start: int, samples: int) -> Integers:
        """Return the ``(T,)`` samples of the clip that starts at ``start``; past the end its last one is repeated."""
        own = (samples - 1 - start) // self.phases
        return start + np.minimum(np.arange(self.per_clip), own) * self.phases


class Timeline(NamedTuple):
    """When the frames of a video are shown."""

    times: npt.NDArray[np.float64]  # (N,) start of each frame, the first at 0 [s]
    duration: float  # end of the last frame, which lasts as long as the others [s]
    rate: float  # frames per second, on average
    clock: Literal["constant", "container"]  # frame number over rate, or the file's own time stamps


def timeline(scan: Scan) -> Timeline:
    """Return the times of a scanned video's frames: by their number where the container's clock runs evenly.

    Where it does not (variable or wrong rate), time is the container's clock; without either it is a ``VideoError``.
    """
    count, rate, stamps = len(scan), scan.nominal_rate, scan.times - scan.times[0]
    if count > 2 and stamps[-1] <= stamps[-2]:  # the decoder reports 0 for the last frame of some MPEG files
        stamps = np.append(stamps[:-1], 2 * stamps[-2] - stamps[-3])
    increasing = count > 1 and bool((np.diff(stamps) > 0).all())
    even = rate > 0 and bool((np.abs(stamps - np.arange(count) / rate) <= 0.5 / rate).all())
    if rate > 0 and (even or not increasing):
        return Timeline(np.arange(count) / rate, count / rate, rate, "constant")
    if not increasing:
        raise VideoError("expected a frame rate or increasing time stamps, found neither")
    last = float(np.median(np.diff(stamps)))
    return Timeline(stamps, float(stamps[-1]) + last, (count - 1) / float(stamps[-1]), "container")


def choose(times: Timeline, rate: float) -> tuple[Integers, Integers]:
    """Return the distinct frames nearest to times ``1 / rate`` apart, and how many of these samples each one serves."""
    count = max(1, int(np.ceil((times.duration - 1e-6) * rate)))
    wanted, last = np.arange(count) / rate, len(times.times) - 1
    right = np.clip(np.searchsorted(times.times, wanted), min(1, last), last)
    left = np.maximum(right - 1, 0)
    nearer_right = times.times[right] - wanted < wanted - times.times[left] - 1e-9
    indices, samples = np.unique(np.where(nearer_right, right, left), return_counts=True)
    return indices.astype(np.int64), samples.astype(np.int64)


def likely(stamps: Sequence[float], nominal_rate: float, rate: float) -> bool:
    """Return whether :func:`choose` may take the last of the frames shown so far, whose stamps these are [s].

    A guess, for the :func:`timeline` is known at the end of the video. It asks for each frame that will be taken of a
    video at an even rate, but for a last one that serves a sample after it (in MPEG files, whose last stamp is 0, for
    that one, too), and for a few too many of another video.
    """
    number, time = len(stamps) - 1, stamps[-1] - stamps[0]
    if nominal_rate > 0 and abs(time * nominal_rate - number) <= 0.5:  # even, up to here
        time, within = number / nominal_rate, 0.5 / nominal_rate
    else:
        within = 0.625 * time / number if number else 0.0  # a gap may be a quarter longer than the mean
    return abs(time - round(time * rate) / rate) <= within + 1e-9
