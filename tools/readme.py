"""Put the present results into the README as facts: ``make docs`` after ``make repro`` (profile fx, vectors or demo).

Which section is written follows from the data that the results are of: the paper's series, vectors of images, or drawn
videos (the picture of a classified video).
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params, paths, records
from pipeline.conditions import CONDITIONS
from pipeline.evaluation import paper, style
from pipeline.params import Cell, Params

README = Path("README.md")
IMAGES = Path("docs/images")
MOMENTS = 3
"""Frames that the picture of a classified video shows."""

Summary = dict[str, dict[str, float | None]]


def insert(name: str, parts: list[str]) -> None:
    """Replace what the README has between the marks of a section.

    Raises:
        ValueError: it has no such marks.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    text = README.read_text(encoding="utf-8")
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"expected {start} and {end} once in {README}, found otherwise")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    records.write_text(README, before + start + "\n" + "\n\n".join(parts) + "\n" + end + after)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table as Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(found: dict[str, float | None], digits: int, scale: float = 1.0) -> str:
    """Return a mean with its interval as text."""
    values = [found[name] for name in ("mean", "ci_low", "ci_high")]
    mean, low, high = ("–" if value is None else f"{value * scale:.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def speed_up(found: dict[str, float | None]) -> str:
    """Return the median speed-up as text."""
    middle = found["median"]
    return f"{middle:.0f} %" if middle is not None else f"< {found['censored_below']:.0f} %"


def fx_table(cell: Cell, content: dict[str, Summary]) -> str:
    """Return one cell's results on the exchange rate: ours with interval, and the paper's."""
    printed = {t.quantity: t for t in paper.tables_of("fx", cell)}
    rows = []
    for condition in (name for name in CONDITIONS if name in content):
        summary: Any = content[condition]
        rows.append(
            [
                f"`{condition}`",
                interval(summary["test_mse"], 3),
                str(printed["squared_error"].value(condition)),
                f"{summary['skill_persistence']['mean']:.1f}",
                speed_up(summary["speed_up_percent"]),
                f"{printed['speed_up'].value(condition):g} %",
            ]
        )
    heads = ["condition", "test MSE [rupees²]", "paper", "skill vs yesterday's price", "speed-up", "paper"]
    return table(heads, rows)


def fx(settings: Params) -> None:
    """Write the results on the paper's series."""
    content = records.read_json(paths.METRICS)
    naive, level = content["baselines"]["fx"], 100 * settings.evaluate.confidence
    parts = [
        f"{settings.training.repetitions} paired repetitions, mean and {level:g} % bootstrap interval. Yesterday's "
        f"price (persistence) has a test MSE of {naive['persistence']:.4f}, a linear AR(4) {naive['ar4']:.4f}. "
        "Speed-ups are medians; the noiseless one is not 0, since its own loss fluctuates and passes its last value "
        "early.",
    ]
    for cell in settings.cells:
        numbers = "5, 6" if cell == "lstm" else "7, 8"
        parts += [f"**{cell.upper()}** (Tables {numbers})", fx_table(cell, content["fx"][cell])]
    insert("results", parts)
    for name in ("overview_fx_lstm", "overview_fx_gru", "figure_12"):
        shutil.copyfile(paths.FIGURES / f"{name}.png", IMAGES / f"{name}.png")


def vectors_table(cell: Cell, content: dict[str, dict[str, dict[str, Summary]]]) -> str:
    """Return one cell's results on pseudo-clips, image-disjoint split first, with tests against no noise."""
    with (paths.TABLES / "paired_differences.csv").open(newline="", encoding="utf-8") as file:
        tested = {
            (row["condition"], row["metric"]): row["p_holm"]
            for row in csv.DictReader(file)
            if row["task"] == "video_groups" and row["cell"] == cell
        }

    def p(condition: str, metric: str) -> str:
        found = tested.get((condition, metric), "")
        return f"{float(found):.2g}" if found else ""

    rows = []
    for condition in (name for name in CONDITIONS if name in content["video_groups"][cell]):
        honest, leaky = (content[task][cell][condition] for task in ("video_groups", "video"))
        summary: Any = honest
        rows.append(
            [
                f"`{condition}`",
                interval(summary["test_accuracy"], 1, 100),
                p(condition, "test_accuracy"),
                interval(summary["test_cross_entropy"], 3),
                p(condition, "test_cross_entropy"),
                speed_up(summary["speed_up_percent"]),
                interval(leaky["test_accuracy"], 1, 100),
            ]
        )
    heads = [
        "condition",
        "test accuracy [%]",
        "p",
        "cross entropy [nats]",
        "p",
        "speed-up",
        "accuracy, leaky split [%]",
    ]
    return table(heads, rows)


def vectors(settings: Params) -> None:
    """Write the results on pseudo-clips of vectors of images."""
    content = records.read_json(paths.METRICS)
    source = records.read_json(paths.source_record("video"))
    record = records.read_json(paths.run_folder("video_groups", settings.cells[0]) / "run.json")
    used, naive = settings.train.of("video_groups", settings.cells[0]), content["baselines"]["video_groups"]
    parts = [
        f"{source['images']:,} images of {len(source['classes'])} classes; {record['train_sequences']} training and "
        f"{record['test_sequences']} test clips of {record['slices']} images; {used.hidden} hidden units, "
        f"{used.optimiser} with step {used.learning_rate:g}, {used.epochs} epochs, noise strengths as for UCF-11, "
        f"nothing tuned. {settings.training.repetitions} paired repetitions, mean and "
        f"{100 * settings.evaluate.confidence:g} % bootstrap interval, p against no noise (exact sign-flip test, "
        "Holm-adjusted). Without recurrence: nearest centroid of mean vectors "
        f"{100 * naive['nearest_centroid']:.1f} %, logistic regression {100 * naive['logistic_regression']:.1f} %.",
    ]
    for cell in settings.cells:
        numbers = "1, 2" if cell == "lstm" else "3, 4"
        parts += [f"**{cell.upper()}** (form of Tables {numbers})", vectors_table(cell, content)]
    insert("vectors", parts)
    shutil.copyfile(paths.FIGURES / "groups_figure_9.png", IMAGES / "vectors_figure_9.png")


def classified(settings: Params) -> None:
    """Show a diver (as Figure 7 does) of a group that was not trained on, as the LSTM with NEM noise classifies him."""
    from pipeline.training.serving import TrainedNetwork
    from pipeline.video import classify, clips, codec, layout

    made = clips.load(paths.CLIPS_TABLE)
    divers = (made.label == made.classes.index("diving")) & (made.split_groups == "test")
    video_id = str(made.video_id[np.flatnonzero(divers)[0]])
    video = next(each for each in layout.load(paths.VIDEO_INDEX) if each.video_id == video_id)
    network = TrainedNetwork(paths.run_folder("video_groups", "lstm") / "models" / "nem-additive-both.safetensors")
    source = paths.VIDEO_CLIPS / video.path
    found = classify.classify(source, network, settings.video.frames, settings.video.features, settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn.mp4"
        count = classify.draw(source, drawn, found)
        shown = np.linspace(0, count - 1, MOMENTS).astype(int).tolist()
        pictures = list(codec.pick(drawn, shown))
    rate, name = codec.scan(source).nominal_rate, video.class_name.replace("_", " ")
    figure, axes = style.figure(MOMENTS, width=2.0, height=1.9)
    for panel, picture, frame in zip(axes, pictures, shown, strict=True):
        panel.imshow(picture)
        panel.set_axis_off()
        panel.set_title(f"{frame / rate:.1f} s", fontsize=8)
    figure.suptitle(f"A drawn video of class {name}, of a group not trained on", fontsize=8)
    style.save(figure, IMAGES / "classified.png")


def main() -> int:
    """Write what the present results are of; return the exit status."""
    settings = params.load()
    video = settings.video.acquire.source if "video_groups" in settings.tasks else None
    work = []
    if "fx" in settings.tasks and settings.fx.acquire.source == "paper":
        work.append(fx)
    if video == "vectors":
        work.append(vectors)
    if video == "synthetic":
        work.append(classified)
    if not work:
        print("expected results of profile fx, vectors or demo, found others", file=sys.stderr)
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    for each in work:
        each(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
