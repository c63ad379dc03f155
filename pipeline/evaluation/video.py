"""What only the video tasks have: baselines without recurrence, errors by class, and the gap between two splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pipeline import records, seeds
from pipeline.evaluation import statistics
from pipeline.evaluation.metrics import Outcome, probabilities
from pipeline.evaluation.statistics import Interval
from pipeline.params import Evaluate, Task

if TYPE_CHECKING:
    from pipeline.video.clips import Clips
    from pipeline.video.features import FeatureTable

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CHUNK = 1024
"""Clips whose slices are averaged at once: what bounds the memory."""

METRIC = "test_accuracy"


def split_of(clips: Clips, task: Task) -> npt.NDArray[Any]:
    """Return ``train`` or ``test`` for each clip: the paper's random split, or the group-disjoint one."""
    return np.asarray(clips.split_groups if task == "video_groups" else clips.split_random)


def mean_pooled(vectors: npt.NDArray[np.float32], rows: Integers) -> npt.NDArray[np.float32]:
    """Return each clip's mean feature vector.

    Args:
        vectors: ``(P, I)`` features, possibly memory-mapped.
        rows: ``(N, T)`` each clip's slices.

    Returns:
        ``(N, I)``.
    """
    parts = [vectors[rows[start : start + CHUNK]].mean(1) for start in range(0, len(rows), CHUNK)]
    return np.concatenate(parts).astype(np.float32)


def references(vectors: npt.NDArray[np.float32], clips: Clips, task: Task) -> dict[str, float]:
    """Return the test accuracies of classifiers that see no order in time [fraction].

    All are fitted on training clips only, without any search: ``majority`` says the most frequent class,
    ``nearest_centroid`` and ``logistic_regression`` see a clip's mean feature vector, standardised. What a recurrent
    network adds to them is what it gets out of motion.

    Args:
        vectors: ``(P, I)`` features.
        clips: the clips.
        task: ``video`` or ``video_groups``.

    Raises:
        ValueError: the training clips hold fewer than two classes.
    """
    split, label = split_of(clips, task), np.asarray(clips.label, dtype=np.int64)
    train, test = split == "train", split == "test"
    if len(np.unique(label[train])) < 2:
        raise ValueError(f"expected training clips of two classes or more for task {task}, found fewer")
    pooled = mean_pooled(vectors, np.asarray(clips.rows, dtype=np.int64))
    found = {"majority": float((label[test] == np.bincount(label[train]).argmax()).mean())}
    models = {
        "nearest_centroid": NearestCentroid(),
        "logistic_regression": LogisticRegression(max_iter=1000),
    }
    # One thread: sums over features differ with the number of threads, and results must not.
    with threadpool_limits(1):
        for name, model in models.items():
            fitted = make_pipeline(StandardScaler(), model).fit(pooled[train], label[train])
            found[name] = float((fitted.predict(pooled[test]) == label[test]).mean())
    return found


def labels_of(clips: Clips) -> dict[int, int]:
    """Return ``{clip: class}``."""
    return {int(clip): int(label) for clip, label in zip(clips.clip_id, clips.label, strict=True)}


def confusion(outcome: Outcome, condition: str, labels: dict[int, int], classes: int) -> npt.NDArray[np.int64]:
    """Return how often each class was taken for each other.

    Args:
        outcome: a video run.
        condition: the noise condition.
        labels: class of each clip.
        classes: K.

    Returns:
        ``(repetitions that did not fail, K, K)`` counts: rows are true classes, columns predicted ones.
    """
    each = []
    for rows, p in probabilities(outcome.run, condition).values():
        truth = np.array([labels[int(row)] for row in rows])
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (truth, p.argmax(1)), 1)
        each.append(counts)
    return np.stack(each) if each else np.empty((0, classes, classes), np.int64)


def class_accuracy(
    outcome: Outcome, labels: dict[int, int], classes: tuple[str, ...], settings: Evaluate, seed: int
) -> pd.DataFrame:
    """Return the accuracy within each class, over repetitions, of every condition [fraction]."""
    out = []
    for condition in outcome.run.conditions:
        counts = confusion(outcome, condition, labels, len(classes))
        for k, name in enumerate(classes):
            clips = int(counts[0, k].sum()) if len(counts) else 0
            right = counts[:, k, k] / clips if clips else np.empty(0)
            found = statistics.mean_interval(right, settings.confidence, settings.bootstrap, seed)
            out.append(
                {
                    "task": outcome.run.task,
                    "cell": outcome.run.cell,
                    "condition": condition,
                    "class": name,
                    "test_clips": clips,
                    "accuracy": found.mean,
                    "ci_low": found.low,
                    "ci_high": found.high,
                    "n": found.n,
                }
            )
    return pd.DataFrame(out)


def confusion_table(outcome: Outcome, labels: dict[int, int], classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the confusion counts of every condition, summed over repetitions, in long form."""
    out = []
    for condition in outcome.run.conditions:
        total = confusion(outcome, condition, labels, len(classes)).sum(0)
        out += [
            {
                "task": outcome.run.task,
                "cell": outcome.run.cell,
                "condition": condition,
                "class": classes[i],
                "predicted": classes[j],
                "count": int(total[i, j]),
            }
            for i in range(len(classes))
            for j in range(len(classes))
        ]
    return pd.DataFrame(out)


def difference_interval(first: Floats, second: Floats, settings: Evaluate, seed: int) -> Interval:
    """Return mean(first) - mean(second) with the percentile bootstrap interval of two independent samples.

    Args:
        first: ``(n,)`` finite values.
        second: ``(m,)`` finite values.
        settings: confidence level and resamples.
        seed: root of the seed tree.
    """
    count = min(len(first), len(second))
    if not count:
        return Interval(None, None, None, 0)
    gap = float(first.mean() - second.mean())
    if count < 2:
        return Interval(gap, None, None, count)
    random = seeds.numpy_generator(seed, "bootstrap-difference", len(first), len(second))
    means = [each[random.integers(0, len(each), (settings.bootstrap, len(each)))].mean(1) for each in (first, second)]
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(means[0] - means[1], (tail, 1 - tail))
    return Interval(gap, float(low), float(high), count)


def leakage(
    outcomes: list[Outcome], references: dict[str, dict[str, float]], settings: Evaluate, seed: int
) -> pd.DataFrame:
    """Return how much of the accuracy on the random split is gone on the group-disjoint one.

    Clips of one group show the same people in the same place, and a random split puts them on both sides. The gap is
    what that is worth. Its interval covers the training's randomness, not the choice of groups.

    Args:
        outcomes: all runs; cells that have both video tasks are compared.
        references: per task, the baselines' accuracies.
        settings: confidence level and resamples.
        seed: root of the seed tree.

    Returns:
        One row per cell and condition, and per baseline: accuracies of both splits, gap and interval [fraction].
    """
    runs = {(each.run.task, each.run.cell): each for each in outcomes}
    rows: list[dict[str, Any]] = []
    for (task, cell), leaky in runs.items():
        honest = runs.get(("video_groups", cell))
        if task != "video" or honest is None:
            continue
        for condition in leaky.run.conditions:
            pair = [each.values[condition][METRIC] for each in (leaky, honest)]
            first, second = (values[np.isfinite(values)] for values in pair)
            gap = difference_interval(first, second, settings, seed)
            rows.append(
                {
                    "model": cell,
                    "condition": condition,
                    "random_split": leaky.summary[condition][METRIC]["mean"],
                    "group_split": honest.summary[condition][METRIC]["mean"],
                    "gap": gap.mean,
                    "ci_low": gap.low,
                    "ci_high": gap.high,
                    "n": gap.n,
                }
            )
    both = [references.get(task, {}) for task in ("video", "video_groups")]
    rows += [
        {
            "model": name,
            "condition": "baseline",
            "random_split": both[0][name],
            "group_split": both[1][name],
            "gap": both[0][name] - both[1][name],
            "ci_low": None,
            "ci_high": None,
            "n": 1,
        }
        for name in both[0]
        if name in both[1]
    ]
    return pd.DataFrame(rows)


def enter_gaps(outcomes: list[Outcome], gaps: pd.DataFrame) -> None:
    """Put each network's gap among the metrics of its group-disjoint run."""
    for outcome in outcomes:
        if outcome.run.task != "video_groups":
            continue
        for row in gaps[gaps.model == outcome.run.cell].itertuples():
            whole = Interval(_number(row.gap), _number(row.ci_low), _number(row.ci_high), int(row.n))
            outcome.summary[row.condition]["leakage_gap"] = whole.as_dict()


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def example_clip(clips: Clips) -> tuple[str, int]:
    """Return the class and position of the clip that Figure 7 shows: the first of a diver, else of the third class."""
    label = np.asarray(clips.label)
    wanted = clips.classes.index("diving") if "diving" in clips.classes else min(2, len(clips.classes) - 1)
    found = np.flatnonzero(label == wanted)
    position = int(found[0]) if len(found) else 0
    return str(clips.classes[int(label[position])]), position


def example_images(clips: Clips, position: int, table: FeatureTable, root: Path) -> npt.NDArray[np.uint8]:
    """Return a clip's frames as they were stored.

    Args:
        clips: the clips.
        position: which one.
        table: the features, which say what frame each of the clip's rows is.
        root: the folder of stored frames.

    Returns:
        ``(T, 299, 299, 3)`` red, green, blue.

    Raises:
        FileNotFoundError: the video's frames are not there.
        ValueError: they are damaged, or do not hold a frame of the clip.
    """
    from pipeline.video import frames

    file = frames.frames_file(root, str(clips.video_id[position]))
    wanted = [int(table.frame_index[row]) for row in clips.rows[position]]
    stored = records.read_table(file, frames.FRAME_SCHEMA)["frame_index"].to_pylist()
    missing = sorted(set(wanted) - set(stored))
    if missing:
        raise ValueError(f"expected frames {missing} in {file}, found none; run `dvc repro frames` again")
    images: npt.NDArray[np.uint8] = frames.decode_images(file, [stored.index(number) for number in wanted])
    return images
