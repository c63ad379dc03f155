"""The evaluation of everything that was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import paths, records
from pipeline.conditions import Condition
from pipeline.evaluation import figures, geometry, metrics, report, tables, video
from pipeline.evaluation.metrics import Outcome
from pipeline.fx import rates, windows
from pipeline.params import Params, Task
from pipeline.training import results


@dataclass
class Findings:
    """What the evaluation collects before it is written.

    Attributes:
        outcomes: every run with its statistics.
        references: per task, the baselines' headline metric.
        drawn: per (task, cell), its figures.
        extra: figures that belong to no run.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    references: dict[str, dict[str, float]] = field(default_factory=dict)
    drawn: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    extra: list[Path] = field(default_factory=list)


def evaluate(params: Params) -> None:
    """Write metrics, tables, figures and the report of all tasks and cells of ``params``.

    Args:
        params: the project's parameters; what is evaluated follows from them, not from what lies about.

    Raises:
        FileNotFoundError: a run or a data file is missing.
        ValueError: one of them is damaged, or a run was trained on other data than are there now.
    """
    found = Findings()
    if "fx" in params.tasks:
        _fx(params, found)
    if any(task != "fx" for task in params.tasks):
        _video(params, found)
    found.extra += [f for f in geometry.draw_geometry(paths.FIGURES, params.seed) if _for_the_report(f)]
    tables.write(found.outcomes)
    figures.plot_data(found.outcomes)
    content: dict[str, Any] = {}
    for outcome in found.outcomes:
        content.setdefault(outcome.run.task, {})[outcome.run.cell] = outcome.summary
    records.write_json(paths.METRICS, {**content, "baselines": found.references})
    report.write(found.outcomes, params, found.drawn, found.extra)
    print(f"evaluate: {len(found.outcomes)} run(s); see {paths.REPORT}")
    for outcome in found.outcomes:
        print("  " + report.verdict(outcome))


def _for_the_report(file: Path) -> bool:
    """Tell the still figures from their twins in the paper's colours and the interactive page."""
    return file.suffix == ".png" and not file.stem.endswith("_paper")


def _load(task: Task, params: Params, data: Path) -> list[results.Run]:
    """Return the runs of a task, after a check that they were trained on the data by which they are judged."""
    runs = [results.load(task, cell) for cell in params.cells]
    digest = records.sha256_of(data)
    for run in runs:
        if run.record["data"].get(str(data)) != digest:
            raise ValueError(
                f"expected {task} {run.cell} to be trained on {data} as it is now, found a run of other data; "
                f"run `dvc repro train@{task}-{run.cell}`"
            )
    return runs


def _fx(params: Params, found: Findings) -> None:
    series, made = rates.read(paths.FX_RATES), windows.load(paths.FX_WINDOWS)
    errors, losses = metrics.fx_references(made)
    found.references["fx"] = errors
    outcomes = []
    compared = []
    for run in _load("fx", params, paths.FX_WINDOWS):
        outcomes.append(metrics.summarise(run, params.evaluate, params.seed, errors))
        compared.append(metrics.forecast_comparisons(run, made, losses))
    tables.write_frame(metrics.stack(compared), paths.TABLES / "forecast_comparisons.csv")
    last = windows.last_training_day(series, params.fx.windows.train_end)
    files = figures.fx_figures(outcomes, series, last, made, params.fx.acquire.source)
    for outcome in outcomes:
        cell = outcome.run.cell
        mine = {"lstm": ("figure_10", "figure_11", "figure_12", "figure_13"), "gru": ("figure_14",)}[cell]
        found.drawn["fx", cell] = [f for f in files if f.stem.startswith(mine) or f.stem == f"overview_fx_{cell}"]
    found.outcomes += outcomes


def _video(params: Params, found: Findings) -> None:
    from pipeline.video import clips as clip_tables
    from pipeline.video import features, pseudo

    vectors = pseudo.acquired()
    clips = clip_tables.load(paths.CLIPS_TABLE)
    table = features.load(paths.FEATURES_TABLE)
    labels, classes = video.labels_of(clips), tuple(clips.classes)
    accuracies, confusions = [], []
    outcomes = []
    for task in (task for task in params.tasks if task != "fx"):
        found.references[task] = video.references(table.vectors.numpy(), clips, task)
        for run in _load(task, params, paths.CLIPS_TABLE):
            outcome = metrics.summarise(run, params.evaluate, params.seed, found.references[task], labels)
            outcomes.append(outcome)
            accuracies.append(video.class_accuracy(outcome, labels, classes, params.evaluate, params.seed))
            confusions.append(video.confusion_table(outcome, labels, classes))
            found.drawn[task, run.cell] = _video_figures(
                outcome, accuracies[-1], labels, classes, params.video.acquire.source
            )
    tables.write_frame(metrics.stack(accuracies), paths.TABLES / "class_accuracy.csv")
    tables.write_frame(metrics.stack(confusions), paths.TABLES / "confusion.csv")
    gaps = video.leakage(outcomes, found.references, params.evaluate, params.seed)
    if len(gaps):
        tables.write_frame(gaps, paths.TABLES / "leakage_gap.csv")
        video.enter_gaps(outcomes, gaps)
        what = "images" if vectors else "clips of one group"
        found.extra.append(figures.leakage_figure(gaps, paths.FIGURES / "leakage_gap.png", what))
    if not vectors:  # vectors of images have no frames to show
        name, position = video.example_clip(clips)
        images = video.example_images(clips, position, table, paths.FRAMES)
        title = f"The {len(images)} sampled frames of a clip of class {name.replace('_', ' ')}"
        found.extra.append(figures.strip(images, paths.FIGURES / "figure_7.png", title))
    found.outcomes += outcomes


def _video_figures(
    outcome: Outcome, accuracy: pd.DataFrame, labels: dict[int, int], classes: tuple[str, ...], source: str
) -> list[Path]:
    """Draw Figures 9 and 1(b) or their twins, confusion matrices and accuracies within classes."""
    run, folder = outcome.run, paths.FIGURES
    prefix = "groups_" if run.task == "video_groups" else ""
    suffix = "" if run.cell == "lstm" else f"_{run.cell}"
    place = f"{run.cell.upper()}. {report.title(run.task, vectors=source == 'vectors')}"
    additive, multiplicative = (folder / f"{prefix}figure_9{suffix}{mode}.png" for mode in ("", "_multiplicative"))
    made = [
        figures.learning_curves(outcome, "additive", additive, f"{place}: additive noise"),
        figures.learning_curves(outcome, "multiplicative", multiplicative, f"{place}: multiplicative noise"),
        figures.output_accuracy(outcome, folder / f"{prefix}figure_1b{suffix}.png"),
        figures.overview(outcome, folder / f"overview_{run.task}_{run.cell}.png", source == "ucf11"),
    ]
    wanted = ("none", "blind-additive-both", "nem-additive-both")
    shown = list(wanted) if set(wanted) <= set(run.conditions) else _one_each(run)
    counts = {name: video.confusion(outcome, name, labels, len(classes)).sum(0) for name in shown}
    panels = [(name, each.astype(float)) for name, each in counts.items()]
    made.append(figures.confusion_figure(panels, classes, folder / f"confusion_{run.task}_{run.cell}.png", place))
    made.append(figures.class_accuracy_figure(accuracy, shown, folder / f"classes_{run.task}_{run.cell}.png", place))
    return made


def _one_each(run: results.Run) -> list[str]:
    """Return the first condition of each kind."""
    first: dict[str, str] = {}
    for name in run.conditions:
        first.setdefault(Condition.parse(name).kind, name)
    return list(first.values())
