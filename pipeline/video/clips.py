"""Clips: rows of seven features with a label, split at random as in the paper, and by group.

A clip takes every ``phases``-th sample of a video, ``per_clip`` of them. It stores row numbers of the feature table, so
that overlapping clips share features. Clips of one recording look alike; the random split puts them on both sides and
so flatters every classifier. The split by groups keeps each recording on one side; report both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import records, seeds
from pipeline.params import VideoClips, VideoFrames
from pipeline.video import frames
from pipeline.video.features import FeatureTable

Strings = npt.NDArray[np.str_]


class ClipsError(ValueError):
    """Clips that cannot be made or split as asked."""


@dataclass(frozen=True)
class Clips:
    """Labelled clips, in order of video and time.

    Attributes:
        clip_id: ``(N,)`` int32, 0 … N - 1.
        video_id: ``(N,)`` the clip's video.
        label: ``(N,)`` int32 index into ``classes``.
        group: ``(N,)`` the video's group; groups of different classes are different, whatever their names.
        rows: ``(N, T)`` int32 rows of the feature table.
        start_s: ``(N,)`` float64 time of the first slice in the video [s].
        split_random: ``(N,)`` ``train`` or ``test``: the paper's split of clips.
        split_groups: ``(N,)`` the same by whole groups.
        classes: names of the labels.
    """

    clip_id: npt.NDArray[np.int32]
    video_id: Strings
    label: npt.NDArray[np.int32]
    group: Strings
    rows: npt.NDArray[np.int32]
    start_s: npt.NDArray[np.float64]
    split_random: Strings
    split_groups: Strings
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clip_id)


def starts(samples: int, settings: VideoFrames, stride: int) -> npt.NDArray[np.int64]:
    """Return the samples at which a video's clips start; a short video has one clip, from its beginning.

    Args:
        samples: of the video.
        settings: slices per clip and phases.
        stride: samples from one start to the next.
    """
    return np.arange(0, max(1, samples - frames.samples_per_clip(settings) + 1), stride)


def slices(start: int, samples: int, settings: VideoFrames) -> npt.NDArray[np.int64]:
    """Return the ``(T,)`` samples of the clip that starts at ``start``; past the end its last one is repeated."""
    own = (samples - 1 - start) // settings.phases
    return start + np.minimum(np.arange(settings.per_clip), own) * settings.phases


def make(manifest: pa.Table, table: FeatureTable, sampling: VideoFrames, settings: VideoClips, seed: int) -> Clips:
    """Return the clips of all usable videos with both splits.

    Args:
        manifest: of the stage frames.
        table: of the stage features, made from the same frames.
        sampling: the settings that the frames were sampled with.
        settings: stride and splits.
        seed: root of the seed tree.

    Raises:
        ClipsError: frames and features do not fit together, or a split would be empty.
    """
    first_row: dict[str, int] = {}
    for row, video_id in enumerate(table.video_id):
        first_row.setdefault(video_id, row)
    usable = [row for row in manifest.to_pylist() if row["frames_stored"]]
    classes = tuple(sorted({row["class"] for row in usable}))
    found: dict[str, list[Any]] = {name: [] for name in ("video_id", "label", "group", "rows", "start_s")}
    for video in usable:
        first, count = first_row.get(video["video_id"]), video["frames_stored"]
        if first is None or table.video_id[first : first + count] != [video["video_id"]] * count:
            raise ClipsError(
                f"expected features of {count} frames of {video['video_id']}, found others; run stage features again"
            )
        shown = np.repeat(np.arange(first, first + count), table.samples[first : first + count])
        for start in starts(len(shown), sampling, settings.stride).tolist():
            found["video_id"].append(video["video_id"])
            found["label"].append(classes.index(video["class"]))
            found["group"].append(video["group"])
            found["rows"].append(shown[slices(start, len(shown), sampling)])
            found["start_s"].append(float(table.timestamp_s[shown[start]]))
    label, group = np.array(found["label"], np.int32), np.array(found["group"], str)
    return Clips(
        np.arange(len(label), dtype=np.int32),
        np.array(found["video_id"], str),
        label,
        group,
        np.stack(found["rows"]).astype(np.int32),
        np.array(found["start_s"]),
        split_random(len(label), settings.test_fraction, seed),
        split_groups(label, group, classes, settings, seed),
        classes,
    )


def _named(test: npt.NDArray[np.bool_]) -> Strings:
    return np.where(test, "test", "train")


def split_random(count: int, fraction: float, seed: int) -> Strings:
    """Return the side of each of ``count`` clips: a random ``fraction`` of them is for testing.

    Raises:
        ClipsError: one side would be empty.
    """
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise ClipsError(
            f"expected clips on both sides of the random split, found {count} clips of which {fraction:g} are for "
            "testing; add videos or change video.clips.test_fraction"
        )
    test = np.zeros(count, bool)
    test[seeds.numpy_generator(seed, "video", "split", "random").permutation(count)[:held_out]] = True
    return _named(test)


def split_groups(
    label: npt.NDArray[np.int32], group: Strings, classes: tuple[str, ...], settings: VideoClips, seed: int
) -> Strings:
    """Return the side of each clip when whole groups stay together, in each class by itself.

    Args:
        label: ``(N,)`` classes.
        group: ``(N,)`` groups.
        classes: names of the classes.
        settings: ``test_fraction`` of a class's groups (at least one, not all) is for testing, or the one group that
            ``leave_group_out`` names.
        seed: root of the seed tree.

    Raises:
        ClipsError: a class has but one group, or not the group to leave out.
    """
    test = np.zeros(len(label), bool)
    faults = []
    for number, name in enumerate(classes):
        groups = sorted(set(group[label == number].tolist()))
        if len(groups) < 2:
            faults.append(f"{name} has only group {groups[0]!r}")
            continue
        if settings.leave_group_out is None:
            count = min(len(groups) - 1, max(1, round(len(groups) * settings.test_fraction)))
            order = seeds.numpy_generator(seed, "video", "split", "groups", name).permutation(len(groups))
            held_out = [groups[k] for k in order[:count].tolist()]
        else:
            held_out = [each for each in groups if _same_group(each, settings.leave_group_out)]
            if not held_out:
                faults.append(f"{name} has no group {settings.leave_group_out!r}, only {groups}")
        test |= (label == number) & np.isin(group, held_out)
    if faults:
        raise ClipsError(
            "expected at least two groups in each class, and the one to leave out among them, found: "
            + "; ".join(faults)
            + ". Add videos, or change video.clips.leave_group_out or video.acquire.group_pattern"
        )
    return _named(test)


def _same_group(name: str, asked: int | str) -> bool:
    """Whether a group is the one asked for; numbers compare as numbers, so that 3 finds ``03``."""
    if name == str(asked):
        return True
    return name.isascii() and name.isdigit() and str(asked).isdigit() and int(name) == int(asked)


def schema(slices_per_clip: int) -> pa.Schema:
    """Return the columns of ``clips.parquet`` for clips of that many slices."""
    return pa.schema(
        [
            ("clip_id", pa.int32()),
            ("video_id", pa.string()),
            ("class", pa.string()),
            ("label", pa.int32()),
            ("group", pa.string()),
            ("rows", pa.list_(pa.int32(), slices_per_clip)),
            ("start_s", pa.float64()),
            ("split_random", pa.string()),
            ("split_groups", pa.string()),
        ]
    )


def save(clips: Clips, destination: Path) -> None:
    """Write clips as parquet, the class names in the schema's metadata."""
    T = clips.rows.shape[1]
    layout = schema(T)
    columns = [
        pa.array(clips.clip_id),
        pa.array(clips.video_id.tolist(), pa.string()),
        pa.array([clips.classes[label] for label in clips.label], pa.string()),
        pa.array(clips.label),
        pa.array(clips.group.tolist(), pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(clips.rows.reshape(-1)), T),
        pa.array(clips.start_s),
        pa.array(clips.split_random.tolist(), pa.string()),
        pa.array(clips.split_groups.tolist(), pa.string()),
    ]
    table = pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, layout, strict=True)], schema=layout)
    records.write_table(destination, table, {"classes": json.dumps(list(clips.classes)), "slices": str(T)})


def load(source: Path) -> Clips:
    """Read clips that :func:`save` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or not of clips.
    """
    table = records.read_table(source)
    metadata = table.schema.metadata or {}
    try:
        classes, T = tuple(json.loads(metadata[b"classes"])), int(metadata[b"slices"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"expected clips with classes in {source}, found none; run stage features again") from error
    records.check_schema(table, schema(T), source)
    return Clips(
        table["clip_id"].to_numpy(),
        np.array(table["video_id"].to_pylist(), str),
        table["label"].to_numpy(),
        np.array(table["group"].to_pylist(), str),
        table["rows"].combine_chunks().flatten().to_numpy().reshape(-1, T),
        table["start_s"].to_numpy(),
        np.array(table["split_random"].to_pylist(), str),
        np.array(table["split_groups"].to_pylist(), str),
        classes,
    )
