"""Videos: classifiers that see no order in time, errors by class, the gap between two splits, Figures 1(b), 7 and 9."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nem.conditions import PLACES, Mode, Place
from pipeline.common import jobs, paths, records, sequences
from pipeline.evaluation import style, tables
from pipeline.evaluation.metrics import constant_reference, predicted
from pipeline.evaluation.paper import PaperTable
from pipeline.evaluation.statistics import Bootstrap
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import Evidence, Outcome, Task
from pipeline.video import clips
from pipeline.video.features import table as features
from pipeline.video.frames import frames

Integers = npt.NDArray[np.int64]
TABLES = (
    PaperTable(1, "video", "lstm", "accuracy", 87.21,
               (85.50, 91.17, 89.61, 85.43, 86.93, 86.98), (93.55, 95.66, 96.70, 87.30, 87.26, 87.78)),
    PaperTable(2, "video", "lstm", "speed_up", 0, (-8, 26, 20, -6, 3, 9), (40, 56, 60, 15, 13, 18)),
    PaperTable(3, "video", "gru", "accuracy", 92.10,
               (93.83, 93.62, 94.93, 93.03, 90.55, 92.17), (94.92, 94.52, 95.12, 94.23, 94.10, 94.35)),
    PaperTable(4, "video", "gru", "speed_up", 0, (26, 11, 16, 10, -10, 8), (26, 15, 28, 20, 18, 21)),
)  # fmt: skip
CURVES: dict[str, tuple[str, Mode, tuple[Place, ...]]] = {
    "figure_9": ("lstm", "additive", PLACES),
    "figure_9_multiplicative": ("lstm", "multiplicative", PLACES),
    "figure_1b": ("lstm", "additive", ("output",)),
    "figure_9_gru": ("gru", "additive", PLACES),
    "figure_9_gru_multiplicative": ("gru", "multiplicative", PLACES),
    "figure_1b_gru": ("gru", "additive", ("output",)),
}
WITHOUT_FRAMES = ("features", "ucf101")  # sources of features
SHOWN = ("none", "blind-additive-both", "nem-additive-both")  # whose errors are drawn


def references(evidence: Evidence) -> dict[str, float]:
    """Return the test accuracies of classifiers that see no order in time [fraction].

    All are fitted on training clips only, without any search: ``majority`` says the most frequent class,
    ``nearest_centroid`` and ``logistic_regression`` see a clip's mean feature vector, standardised. What a recurrent
    network adds to them is what it gets out of motion. Fewer than two classes in training are a ``ValueError``.
    """
    # scikit-learn takes seconds to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = (evidence.dataset.train, evidence.dataset.test)
    (train, seen), (test, truth) = ((side.means(), side.targets.argmax(1).numpy()) for side in sides)
    if len(np.unique(seen)) < 2:
        cure = "add videos or change video.clips in params.yaml"
        raise ValueError(f"expected training clips of two classes or more in {evidence.folder}, found fewer; {cure}")
    accuracies = constant_reference(evidence)
    models = {"nearest_centroid": NearestCentroid(), "logistic_regression": LogisticRegression(max_iter=1000)}
    # One thread: sums over features differ with the number of threads, and results must not.
    with jobs.one_thread():
        for name, model in models.items():
            fitted = make_pipeline(StandardScaler(), model).fit(train, seen)
            accuracies[name] = float((fitted.predict(test) == truth).mean())
    return accuracies


def recordings(folder: Path) -> dict[int, str]:
    """Return the video of each clip, by the clip's number; a file that is missing or damaged is an error."""
    table = records.read_table(folder / "clips.parquet", clips.SCHEMA)
    return dict(zip(table["clip"].to_pylist(), table["video_id"].to_pylist(), strict=True))


def confusion(outcome: Outcome, condition: str) -> Integers:
    """Return counts ``(repetitions that did not fail, K, K)``: rows are true classes, columns predicted ones."""
    truth, classes = outcome.evidence.test_classes, len(outcome.evidence.dataset.classes)
    predictions = predicted(outcome.run, condition)
    counts = np.zeros((len(predictions), classes, classes), np.int64)
    for matrix, probabilities in zip(counts, predictions.values(), strict=True):
        np.add.at(matrix, (truth, probabilities.argmax(1)), 1)
    return counts


def class_accuracy(outcome: Outcome, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the accuracy within each class, over repetitions, of every condition [fraction]."""
    rows = []
    for condition in outcome.run.conditions:
        counts = confusion(outcome, condition)
        for k, name in enumerate(outcome.evidence.dataset.classes):
            clips_of_class = int(counts[0, k].sum()) if len(counts) else 0
            interval = bootstrap.mean(counts[:, k, k] / clips_of_class if clips_of_class else ())
            rows.append((condition, name, clips_of_class, *interval.as_dict().values()))
    return pd.DataFrame(rows, columns=["condition", "class", "test_clips", "accuracy", "ci_low", "ci_high", "n"])


def confusion_table(outcome: Outcome) -> pd.DataFrame:
    """Return the confusion counts of every condition, summed over repetitions, in long form."""
    rows = []
    for condition in outcome.run.conditions:
        total, names = confusion(outcome, condition).sum(0), outcome.evidence.dataset.classes
        rows += [(condition, names[i], names[j], int(count)) for (i, j), count in np.ndenumerate(total)]
    return pd.DataFrame(rows, columns=["condition", "class", "predicted", "count"])


def leakage(outcomes: Sequence[Outcome], bootstrap: Bootstrap) -> pd.DataFrame:
    """Return how much of the accuracy on the random split is gone on the split by groups, and enter it there.

    Clips of one group show the same people in the same place, and a random split puts them on both sides. The gap is
    what that is worth. Its interval covers the training's randomness, not the choice of groups. There is a row for each
    condition of cells that have both splits, and each baseline: accuracies, gap, interval [fraction].
    """
    rows: list[tuple[Any, ...]] = []
    runs = {(outcome.evidence.split, outcome.run.cell): outcome for outcome in outcomes}
    cells = [cell for split, cell in runs if split == "random" and ("groups", cell) in runs]
    for cell in cells:
        pair = leaky, honest = runs["random", cell], runs["groups", cell]
        name = leaky.task.measure.name
        for condition in leaky.run.conditions:
            gap = bootstrap.difference(*(outcome.values[condition][name] for outcome in pair)).as_dict()
            means = (outcome.summary[condition][name]["mean"] for outcome in pair)
            rows.append((cell, condition, *means, *gap.values()))
            honest.summary[condition]["leakage_gap"] = gap
    if cells:
        for model, accuracy in leaky.references.items():
            other = honest.references[model]
            rows.append((model, "baseline", accuracy, other, accuracy - other, None, None, 1))
    names = ["model", "condition", "random_split", "group_split", "gap", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=names)


def example_clip(folder: Path) -> tuple[str, str, list[int]]:
    """Return class, video and rows of features of the clip that Figure 7 shows: of a diver, if there is one."""
    table, rows = records.read_table(folder / "clips.parquet", clips.SCHEMA), sequences.read_table(folder)["index"]
    kinds = table["class"].to_pylist()
    names = sorted(set(kinds))
    position = kinds.index("diving" if "diving" in names else names[:3][-1])
    return kinds[position], table["video_id"][position].as_py(), rows[position].as_py()


def example_images(video_id: str, rows: list[int]) -> npt.NDArray[np.uint8]:
    """Return a clip's frames as stored, ``(T, H, W, 3)`` RGB; FileNotFoundError or ValueError: missing or damaged."""
    file = frames.frames_file(paths.FRAMES, video_id)
    wanted = features.load(paths.FEATURES_TABLE).frame_index[rows].tolist()
    stored = records.read_table(file, frames.FRAME_SCHEMA)["frame_index"].to_pylist()
    if not set(wanted) <= set(stored):
        raise ValueError(f"expected frames {wanted} in {file}, found {stored}; run `dvc repro -f -s frames`")
    return frames.decode_images(file, [stored.index(number) for number in wanted])


def example(outcome: Outcome) -> list[Picture]:
    """Draw the frames of one clip side by side (Figure 7); none where features were acquired, which have no frames."""
    if outcome.source in WITHOUT_FRAMES:
        return []
    name, video_id, rows = example_clip(outcome.evidence.folder)
    images = example_images(video_id, rows)
    drawn, axes = style.figure(len(images), width=style.WIDTH / len(images), height=1.2)
    for panel, image in zip(axes, images, strict=True):
        panel.imshow(image)
        panel.set_axis_off()
    title = f"The {len(images)} sampled frames of a clip of class {name.replace('_', ' ')}"
    drawn.suptitle(title)
    change = 100 * np.abs(np.diff(images.astype(float), axis=0)).mean() / 255
    seen = f"{len(images)} frames of video {video_id}, side by side in the order of time; from one to the next a pixel "
    seen += f"changes by {change:.1f} % of the full range on average"
    return [style.picture(drawn, outcome.file(7, "clip"), f"{outcome.figure(7)}{title}", seen)]


def draw(outcome: Outcome) -> list[Picture]:
    """Draw the confusion matrices of a few conditions, each row in per cent of its class."""
    shown = [condition for condition in SHOWN if condition in outcome.run.conditions]
    own, classes = f"{outcome.name}_{outcome.run.cell}", outcome.evidence.dataset.classes
    return [
        style.confusion(confusion(outcome, condition).sum(0), classes, f"confusion_{condition}_{own}",
                        f"{outcome.title}, {style.words(condition)}")
        for condition in shown
    ]  # fmt: skip


def conclude(outcomes: Sequence[Outcome], bootstrap: Bootstrap) -> list[Picture]:
    """Write accuracies and errors by class and the gap between the splits; draw Figure 7."""
    tables.write_stack(outcomes, [class_accuracy(outcome, bootstrap) for outcome in outcomes], "class_accuracy")
    tables.write_stack(outcomes, [confusion_table(outcome) for outcome in outcomes], "confusion")
    gaps = leakage(outcomes, bootstrap)
    if len(gaps):
        tables.write_frame(gaps, paths.TABLES / "leakage_gap.csv")
    return example(outcomes[0])


TASK = Task(
    name="video", title="Video", head="softmax",
    splits={"random": "random split of clips", "groups": "group-disjoint split"},
    columns={"leakage_gap": ("leakage gap [points]", 100.0)},
    tables=TABLES, curves=CURVES, source="ucf11", references=references, draw=draw, conclude=conclude,
    recordings=recordings,
)  # fmt: skip
