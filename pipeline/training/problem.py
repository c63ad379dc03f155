"""What the engine trains on: sequences as rows of a shared pool of slices, with targets.

Windows of days and clips of frames overlap, so a sequence is a row of indices into a pool: nothing is stored twice,
and a pool may be a memory-mapped file that is only read where a batch needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline import paths
from pipeline.noise.inject import Head
from pipeline.params import Params, Task, VideoClips


@dataclass(frozen=True)
class Sequences:
    """A set of labelled sequences.

    Attributes:
        pool: ``(P, I)`` float32 slices, possibly memory-mapped.
        index: ``(N, T)`` int64 rows of ``pool``.
        targets: ``(N, K)`` float32: scaled values, or 1-in-K codes.
        rows: ``(N,)`` int64 names of the sequences (day index or clip number).
    """

    pool: Tensor
    index: Tensor
    targets: Tensor
    rows: Tensor

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.index)

    def subset(self, chosen: Tensor) -> Sequences:
        """Return the sequences at positions ``chosen``."""
        return Sequences(self.pool, self.index[chosen], self.targets[chosen], self.rows[chosen])

    def to(self, device: torch.device) -> Sequences:
        """Return a copy on ``device`` (itself if it is there)."""
        moved = (each.to(device) for each in (self.pool, self.index, self.targets, self.rows))
        return Sequences(*moved)


@dataclass(frozen=True)
class Problem:
    """A supervised task.

    Attributes:
        train: training sequences.
        test: test sequences.
        head: ``softmax`` (classes) or ``identity`` (values).
        target_scale: raw units per scaled unit of the target (1 for classes).
        target_offset: raw value of a scaled 0.
        classes: class names, empty for values.
        digest: name and SHA-256 of each data file.
    """

    train: Sequences
    test: Sequences
    head: Head
    target_scale: float
    target_offset: float
    classes: tuple[str, ...]
    digest: dict[str, str]

    @property
    def inputs(self) -> int:
        """I, features per slice."""
        return self.train.pool.shape[1]

    @property
    def outputs(self) -> int:
        """K, output neurons."""
        return self.train.targets.shape[1]

    @property
    def slices(self) -> int:
        """T, slices per sequence."""
        return self.train.index.shape[1]


Part = Literal["train", "validation", "test"]


def from_windows(windows: object, train: tuple[Part, ...], test: tuple[Part, ...], digest: dict[str, str]) -> Problem:
    """Return the exchange-rate problem of a set of windows (:class:`pipeline.fx.windows.Windows`).

    Args:
        windows: the windows.
        train: splits to train on.
        test: splits to test on.
        digest: provenance.
    """
    from pipeline.fx.windows import Windows

    if not isinstance(windows, Windows):
        raise TypeError(f"expected Windows, found {type(windows).__name__}")

    def sequences(parts: tuple[Part, ...]) -> Sequences:
        chosen = windows.where(*parts)
        inputs = torch.from_numpy(windows.inputs[chosen])
        count, T, features = inputs.shape
        return Sequences(
            inputs.reshape(count * T, features),
            torch.arange(count * T).reshape(count, T),
            torch.from_numpy(windows.target[chosen]),
            torch.from_numpy(windows.day_index[chosen]).long(),
        )

    return Problem(
        sequences(train), sequences(test), "identity", windows.target_scale, windows.target_offset, (), digest
    )


def from_clips(clips: object, pool: Tensor, split: Literal["random", "groups"], digest: dict[str, str]) -> Problem:
    """Return the video problem of a table of clips (:class:`pipeline.video.clips.Clips`).

    Args:
        clips: the clips.
        pool: ``(P, 2048)`` features.
        split: the paper's random split of clips, or whole groups on one side.
        digest: provenance.
    """
    from pipeline.video.clips import Clips

    if not isinstance(clips, Clips):
        raise TypeError(f"expected Clips, found {type(clips).__name__}")
    split_of = clips.split_random if split == "random" else clips.split_groups
    labels = functional.one_hot(torch.tensor(clips.label, dtype=torch.int64), len(clips.classes)).float()
    rows, names = (torch.tensor(each, dtype=torch.int64) for each in (clips.rows, clips.clip_id))
    everything = Sequences(pool, rows, labels, names)

    def sequences(name: str) -> Sequences:
        return everything.subset(torch.as_tensor(split_of == name).nonzero().flatten())

    return Problem(sequences("train"), sequences("test"), "softmax", 1.0, 0.0, tuple(clips.classes), digest)


def pseudo_clips(
    source: Path,
    split: Literal["random", "groups"],
    seed: int,
    *,
    settings: VideoClips | None = None,
    per_clip: int = 7,
    components: int | None = None,
) -> Problem:
    """Return the problem of classifying pseudo-clips (:mod:`pipeline.video.pseudo`) of a file of vectors, as it is.

    Args:
        source: parquet of class, image, feature.
        split: ``groups``: no image on both sides | ``random``: clips at random, which share images.
        seed: root of the seed tree.
        settings: clips per class and test share; ``None`` is the default.
        per_clip: T, images per clip.
        components: reduce the 2048 features to so many principal components of the images in training clips; ``None``
            leaves them as they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of vectors, too few images, or more components than training images or features.
    """
    import numpy as np

    from pipeline import records
    from pipeline.video import pseudo

    images = pseudo.read(source)
    made = pseudo.make(images, settings or VideoClips(), seed, per_clip)
    pool = images.vectors
    if components is not None:
        side = made.split_groups if split == "groups" else made.split_random
        pool = pseudo.principal_components(pool, np.unique(made.rows[side == "train"]), components)
    return from_clips(made, pool, split, {source.name: records.sha256_of(source)})


def load(task: Task, params: Params) -> Problem:
    """Read the data files of ``task`` and return its problem.

    Args:
        task: ``fx``, ``video`` (random split of clips) or ``video_groups`` (group-disjoint split).
        params: the project's parameters.

    Raises:
        FileNotFoundError: a data file is missing.
        ValueError: a data file is damaged, or a split is empty.
    """
    from pipeline import records

    if task == "fx":
        from pipeline.fx import windows

        digest = {str(paths.FX_WINDOWS): records.sha256_of(paths.FX_WINDOWS)} if paths.FX_WINDOWS.is_file() else {}
        problem = from_windows(windows.load(paths.FX_WINDOWS), ("train", "validation"), ("test",), digest)
    else:
        from pipeline.video import clips, features

        table = clips.load(paths.CLIPS_TABLE)
        pool = features.load(paths.FEATURES_TABLE).vectors
        digest = {str(each): records.sha256_of(each) for each in (paths.CLIPS_TABLE, paths.FEATURES_TABLE)}
        problem = from_clips(table, pool, "random" if task == "video" else "groups", digest)
    for name, part in (("training", problem.train), ("test", problem.test)):
        if not len(part):
            raise ValueError(
                f"expected at least one {name} sequence for task {task}, found none; check the split in params.yaml"
            )
    return problem
