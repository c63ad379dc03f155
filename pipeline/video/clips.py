"""Clips: rows of seven features with a label, split at random as in the paper, and by group.

Overlapping clips share features, as rows of their table. Clips of one recording look alike: the random split puts them
on both sides and so flatters every classifier, the one by groups keeps each recording on one side; report both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.common import jobs, records, seeds, sequences
from pipeline.common.sequences import Vectors
from pipeline.video.features.table import FeatureTable
from pipeline.video.frames.sampling import Sampling

if TYPE_CHECKING:
    from pipeline.params import VideoClips

Strings = npt.NDArray[np.str_]
_TEXT = [(name, pa.string()) for name in ("video_id", "class", "group")]
SCHEMA = pa.schema([("clip", pa.int64()), *_TEXT, ("start_s", pa.float64())])  # of clips.parquet: what evaluation needs


class ClipsError(ValueError):
    """Clips that cannot be made or split as asked."""


@dataclass(frozen=True)
class Clips:
    """N labelled clips, in order of video and time."""

    video_id: Strings
    label: npt.NDArray[np.int64]  # index into classes
    group: Strings  # the video's; groups of different classes are different, whatever their names
    rows: npt.NDArray[np.int64]  # (N, T) rows of the feature table
    start_s: npt.NDArray[np.float64]  # time of the first slice in the video [s]
    classes: tuple[str, ...]  # names of the labels

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.label)


def make(manifest: pa.Table, table: FeatureTable, sampling: Sampling, stride: int) -> Clips:
    """Return the clips of all usable videos, ``stride`` samples apart; a ``ClipsError`` if none fit."""
    first_row = {video_id: row for row, video_id in reversed([*enumerate(table.video_id)])}
    usable = [row for row in manifest.to_pylist() if row["frames_stored"]]
    if not usable:
        raise ClipsError("expected videos with frames in the manifest, found none; see the reasons there")
    classes = tuple(sorted({row["class"] for row in usable}))
    clips = list[tuple[Any, ...]]()
    for video in usable:
        name, count = video["video_id"], video["frames_stored"]
        first = first_row.get(name, len(table))
        if table.video_id[first : first + count] != [name] * count:
            raise ClipsError(f"expected features of {count} frames of {name}, found others; run stage features again")
        shown = np.repeat(np.arange(first, first + count), table.samples[first : first + count])
        label, group = classes.index(video["class"]), video["group"]
        for start in sampling.starts(len(shown), stride).tolist():
            own = shown[sampling.slices(start, len(shown))]
            clips.append((name, label, group, own, float(table.timestamp_s[own[0]])))
    video_id, labels, groups, rows, start_s = map(np.array, zip(*clips, strict=True))
    return Clips(video_id, labels, groups, rows, start_s, classes)


def write(clips: Clips, table: FeatureTable, settings: "VideoClips", origin: dict[str, Any], seed: int, folder: Path
          ) -> dict[str, Strings]:  # fmt: skip
    """Write clips of the rows of ``table`` as sequences, with ``clips.parquet`` beside them; return the sides by split.

    ``origin`` says how frames were sampled, and what made the features of them. What cannot be made as asked is a
    ``ClipsError``, a full disk an ``OSError``.
    """
    splits: dict[str, Strings] = {name: split(clips, name, settings, seed) for name in settings.splits}
    pools = {"": table.vectors}
    if settings.components is not None:
        pools = {
            name: principal_components(table.vectors, np.unique(clips.rows[sides == "train"]), settings.components)
            for name, sides in splits.items()
        }
    names = np.arange(len(clips))
    columns = [names, clips.video_id, np.array(clips.classes)[clips.label], clips.group, clips.start_s]
    records.write_table(folder / "clips.parquet", pa.table([*map(pa.array, columns)], schema=SCHEMA))
    targets = np.eye(len(clips.classes), dtype=np.float32)[clips.label]
    whole = sequences.Table(
        names, clips.rows, targets, clips.group.tolist(), splits, pools, "softmax", classes=clips.classes,
        origin={**origin, "components": settings.components},
    )  # fmt: skip
    sequences.write(folder, whole)
    return splits


def split(clips: Clips, name: str, settings: "VideoClips", seed: int) -> Strings:
    """Return the side of each clip: ``train``, ``validation`` or ``test``; an empty one is a ``ClipsError``.

    Split ``random`` is one of clips, as in the paper, ``groups`` one of whole groups, in each class by itself: of a
    share of them, or of those that the settings name. Validation is a share of what is not for testing.
    """
    side = np.full(len(clips), "train", "<U10")
    if name == "random":
        count, held_out = len(clips), round(len(clips) * settings.test_fraction)
        if not 0 < held_out < count:
            raise ClipsError(
                f"expected clips on both sides of the random split, found {count} clips of which "
                f"{settings.test_fraction:g} are for testing; add videos or change video.clips.test_fraction"
            )
        order = seeds.numpy_generator(seed, "video", "split", "random").permutation(count)
        side[order[:held_out]] = "test"
        chosen = min(count - held_out - 1, round((count - held_out) * settings.validation_fraction))
        side[order[held_out : held_out + chosen]] = "validation"
        return side
    asked = settings.test_groups if settings.leave_group_out is None else [settings.leave_group_out]
    faults = list[str]()
    for number, kind in enumerate(clips.classes):
        own = clips.label == number
        groups = sorted(set(clips.group[own].tolist()))
        test = [group for group in groups if any(_same_group(group, name) for name in asked or ())]
        test = _some(groups, settings.test_fraction, seed, "split", kind) if asked is None else test
        if len(groups) < 2:
            faults.append(f"{kind} has only group {groups[0]!r}")
        elif not 0 < len(test) < len(groups):
            wanted = ", ".join(map(repr, asked or ()))
            faults.append(f"{kind} has {'nothing but' if test else 'no'} group {wanted} of {groups}")
        rest = [group for group in groups if group not in test]
        validation = _some(rest, settings.validation_fraction, seed, "validation", kind)
        side[own & np.isin(clips.group, validation)] = "validation"
        side[own & np.isin(clips.group, test)] = "test"
    if faults:
        raise ClipsError(
            "expected at least two groups in each class, some of them for testing, found: " + "; ".join(faults)
            + ". Add videos, or change video.clips.leave_group_out, test_groups or video.acquire.group_pattern"
        )  # fmt: skip
    return side


def _some(groups: Sequence[str], fraction: float, seed: int, purpose: str, kind: str) -> list[str]:
    """A share of the groups at random: at least one, never all, none of a single one or for a share of 0."""
    count = min(len(groups) - 1, max(1, round(len(groups) * fraction))) if fraction else 0
    order = seeds.numpy_generator(seed, "video", purpose, "groups", kind).permutation(len(groups))
    return [groups[k] for k in order[: max(0, count)].tolist()]


def _same_group(name: str, asked: int | str) -> bool:
    """Whether a group is the one asked for; numbers compare as numbers, so that 3 finds ``03``."""
    numbers = name.isascii() and name.isdigit() and str(asked).isdigit()
    return name == str(asked) or (numbers and int(name) == int(asked))


def principal_components(vectors: Vectors, fitted_on: npt.NDArray[np.int64], components: int) -> Vectors:
    """Return vectors ``(P, I)`` in the principal axes of some rows, ``(P, components)`` float32.

    They are centred and rotated, not scaled; axes of the largest variance come first, and point where their largest
    entry is positive. More components than rows or columns are a ``ClipsError``.
    """
    from sklearn.decomposition import PCA

    most = min(len(fitted_on), vectors.shape[1])
    if components > most:
        raise ClipsError(
            f"expected 1 to {most} principal components, found {components}; change video.clips.components"
        )
    values = vectors.astype(np.float64)
    with jobs.one_thread():  # sums differ with the number of threads, and results must not
        solver = "full" if 4 * len(fitted_on) < vectors.shape[1] else "covariance_eigh"  # the faster one
        fitted = PCA(components, svd_solver=solver).fit(values[fitted_on])
        return np.asarray(fitted.transform(values), np.float32)
