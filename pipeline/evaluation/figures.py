"""Figures 1(b), 7 and 9-14 of the paper, from our runs, and the summaries that the paper has no figure for."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline import paths
from pipeline.conditions import PLACES, Condition, Mode
from pipeline.evaluation import paper, style
from pipeline.evaluation.metrics import Outcome, forecasts
from pipeline.evaluation.tables import write_frame
from pipeline.fx.rates import Rates
from pipeline.fx.windows import Windows
from pipeline.training.results import Run

Floats = npt.NDArray[np.float64]


def _band(axes: Axes, run: Run, condition: str, metric: str, scale: float) -> None:
    """Draw a condition's mean over repetitions with the range of the middle 80 %, up to R; name those that failed."""
    curves = [c[1 : run.epochs + 1] for c in run.curve(condition, metric) if len(c) > run.epochs]
    kind = Condition.parse(condition).kind
    lost = run.repetitions - len(curves)
    label = style.LABELS[kind] + (f" ({lost} of {run.repetitions} failed)" if lost else "")
    if not curves:
        axes.plot([], [], style.LINES[kind], color=style.COLOURS[kind], label=label)
        return
    stack = np.stack(curves) * scale
    epochs = np.arange(1, run.epochs + 1)
    low, high = np.quantile(stack, (0.1, 0.9), axis=0)
    axes.fill_between(epochs, low, high, color=style.COLOURS[kind], alpha=0.15, linewidth=0)
    axes.plot(epochs, stack.mean(0), style.LINES[kind], color=style.COLOURS[kind], label=label, linewidth=1.5)


def learning_curves(outcome: Outcome, mode: Mode, destination: Path, title: str) -> Path:
    """Draw test accuracy or squared error against epochs, one panel per place (Figures 9, 12, 13, 14).

    Args:
        outcome: a run's statistics.
        mode: which noise mode.
        destination: the PNG file.
        title: of the figure.
    """
    run, fx = outcome.run, outcome.run.task == "fx"
    made, axes = style.figure(3, width=3.6, sharey=True)
    for place, panel in zip(PLACES, axes, strict=True):
        for kind in ("none", "blind", "nem"):
            condition = "none" if kind == "none" else f"{kind}-{mode}-{place}"
            if condition in run.conditions:
                _band(panel, run, condition, "test_loss" if fx else "test_accuracy", 1.0 if fx else 100.0)
        panel.set_title(style.PLACES[place])
        panel.set_xlabel("Training epoch")
        if not fx:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if fx:
            panel.set_xscale("log")
            panel.set_yscale("log")
            if place == "output":
                panel.axhline(outcome.references["persistence"], color="#555555", linewidth=0.9, linestyle=":")
                panel.annotate(
                    "yesterday's price", (run.epochs, outcome.references["persistence"]), ha="right", va="bottom",
                    fontsize=7, color="#555555",
                )  # fmt: skip
            else:
                panel.axhline(outcome.references["persistence"], color="#555555", linewidth=0.9, linestyle=":")
    axes[0].set_ylabel("Test squared error [rupees²]" if fx else "Test accuracy [%]")
    for panel in axes:
        if panel is axes[0] or any("failed" in str(label) for label in panel.get_legend_handles_labels()[1]):
            panel.legend()
    made.suptitle(title)
    return style.save(made, destination)


def rates_figure(rates: Rates, last_training_day: int, destination: Path, source: str) -> Path:
    """Draw the series with its training and test days (Figure 10)."""
    made, (axes,) = style.figure(width=7, height=3)
    days = np.arange(len(rates))
    cut = last_training_day + 1
    axes.plot(days[:cut], rates.price[:cut], color=style.COLOURS["nem"], linewidth=1, label="Training days")
    axes.plot(days[cut:], rates.price[cut:], color=style.COLOURS["blind"], linewidth=1, label="Test days")
    axes.set_xlabel(f"Day ({rates.dates[0]} to {rates.dates[-1]})")
    axes.set_ylabel("Rupees per US dollar" if source == "paper" else "Rate")
    axes.set_title(f"Daily exchange rate ({source} source)")
    axes.legend()
    return style.save(made, destination)


def predictions_figure(outcome: Outcome, windows: Windows, destination: Path) -> Path:
    """Draw predicted against actual rates on the test days for additive NEM noise (Figure 11)."""
    run = outcome.run
    test = windows.where("test")
    days, truth = windows.day_index[test], windows.target_raw[test]
    made, axes = style.figure(1, 2, width=7.5, height=2.7)
    shown = [("none", "none")] + [(place, f"nem-additive-{place}") for place in PLACES]
    colours = dict(zip([name for name, _ in shown], ("#E69F00", "#0072B2", "#D55E00", "#009E73"), strict=True))
    axes[0].plot(days, truth, color="black", linewidth=1.2, label="Actual")
    for name, condition in shown:
        found = forecasts(run, condition) if condition in run.conditions else {}
        if not found:
            continue
        mean = np.mean(list(found.values()), 0)
        label = "No noise" if name == "none" else f"NEM, {style.PLACES[name].lower()}"
        axes[0].plot(days, mean, color=colours[name], linewidth=0.9, label=label, alpha=0.9)
        axes[1].plot(days, mean - truth, color=colours[name], linewidth=0.7, label=label, alpha=0.9)
    yesterday = windows.last_price_raw[test] - truth
    axes[1].plot(days, yesterday, color="#999999", linewidth=0.5, label="Yesterday's price", zorder=0)
    axes[0].set_ylabel("Rate")
    axes[1].set_ylabel("Prediction − actual")
    axes[1].set_xlabel("Day")
    axes[0].set_title(f"{run.cell.upper()} predictions, mean over {run.repetitions} repetitions")
    axes[0].legend(fontsize=7, ncols=2)
    axes[1].legend(fontsize=7, ncols=3)
    return style.save(made, destination)


def overview(outcome: Outcome, destination: Path, paper_data: bool) -> Path:
    """Draw every condition's headline metric with its interval.

    Args:
        outcome: the run's statistics.
        destination: the picture.
        paper_data: whether the data are the paper's own, so that its numbers belong beside ours.
    """
    run = outcome.run
    fx = run.task == "fx"
    table = next(t for t in paper.tables_of(run.task, run.cell) if t.quantity != "speed_up")
    made, (axes,) = style.figure(width=7, height=4.2)
    conditions = run.conditions
    for row, condition in enumerate(conditions):
        scale = 1.0 if fx else 100.0
        found = outcome.summary[condition][outcome.metric]
        colour = style.COLOURS[Condition.parse(condition).kind]
        if found["mean"] is not None:
            each = outcome.values[condition][outcome.metric] * scale
            axes.scatter(each, np.full(len(each), row), s=6, color=colour, alpha=0.35, linewidths=0)
            axes.plot(found["mean"] * scale, row, "o", color=colour, markersize=5)
            if found["ci_low"] is not None and found["ci_high"] is not None:
                axes.plot([found["ci_low"] * scale, found["ci_high"] * scale], [row, row], color=colour, linewidth=2)
        printed = table.value(condition) if paper_data else None
        if printed is not None:
            axes.plot(printed, row, "x", color="#777777", markersize=5, label="paper" if row == 0 else None)
    if fx:
        axes.axvline(
            outcome.references["persistence"], color="#555555", linestyle=":", linewidth=1, label="yesterday's price"
        )
        axes.set_xscale("log")
    else:
        for (name, value), line in zip(outcome.references.items(), itertools.cycle((":", "--", "-.")), strict=False):
            axes.axvline(value * 100, color="#555555", linestyle=line, linewidth=1, label=name.replace("_", " "))
    axes.set_yticks(range(len(conditions)), conditions)
    axes.invert_yaxis()
    axes.set_xlabel("Test squared error [rupees²]" if fx else "Test accuracy [%]")
    axes.set_title(f"{run.task} {run.cell.upper()}: {run.repetitions} repetitions, mean with interval")
    axes.legend(fontsize=7)
    return style.save(made, destination)


def fx_figures(
    outcomes: list[Outcome], rates: Rates, last_training_day: int, windows: Windows, source: str
) -> list[Path]:
    """Draw Figures 10-14 and the twins that the paper leaves out."""
    folder = paths.FIGURES
    made = [rates_figure(rates, last_training_day, folder / "figure_10.png", source)]
    for outcome in outcomes:
        if outcome.run.cell == "lstm":
            made += [
                predictions_figure(outcome, windows, folder / "figure_11.png"),
                learning_curves(outcome, "additive", folder / "figure_12.png", "LSTM regression, additive noise"),
                learning_curves(
                    outcome, "multiplicative", folder / "figure_13.png", "LSTM regression, multiplicative noise"
                ),
            ]
        else:
            made += [
                learning_curves(outcome, "additive", folder / "figure_14.png", "GRU regression, additive noise"),
                learning_curves(
                    outcome,
                    "multiplicative",
                    folder / "figure_14_multiplicative.png",
                    "GRU regression, multiplicative noise",
                ),
            ]
        made.append(overview(outcome, folder / f"overview_fx_{outcome.run.cell}.png", source == "paper"))
    return made


def output_accuracy(outcome: Outcome, destination: Path) -> Path:
    """Draw test accuracy against epochs for additive noise in the outputs (Figure 1(b))."""
    made, (axes,) = style.figure(width=5)
    for kind in ("none", "blind", "nem"):
        condition = "none" if kind == "none" else f"{kind}-additive-output"
        if condition in outcome.run.conditions:
            _band(axes, outcome.run, condition, "test_accuracy", 100.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Training epoch")
    axes.set_ylabel("Test accuracy [%]")
    axes.set_title(f"{outcome.run.cell.upper()} classifier, additive noise in the outputs")
    axes.legend()
    return style.save(made, destination)


def strip(images: npt.NDArray[np.uint8], destination: Path, title: str) -> Path:
    """Draw the sampled frames of one clip side by side (Figure 7).

    Args:
        images: ``(T, H, W, 3)`` red, green, blue.
        destination: the PNG file.
        title: of the figure.
    """
    made, axes = style.figure(len(images), width=1.5, height=1.75)
    for slice_, (panel, image) in enumerate(zip(axes, images, strict=True), start=1):
        panel.imshow(image)
        panel.set_axis_off()
        panel.set_title(f"{slice_}", fontsize=8)
    made.suptitle(title)
    return style.save(made, destination)


def confusion_figure(
    panels: list[tuple[str, npt.NDArray[np.float64]]], classes: tuple[str, ...], destination: Path, title: str
) -> Path:
    """Draw confusion matrices side by side, each row in per cent of its class.

    Args:
        panels: name and ``(K, K)`` counts, rows are true classes.
        classes: their names.
        destination: the PNG file.
        title: of the figure.
    """
    made, axes = style.figure(len(panels), width=0.36 * len(classes) + 1.9, height=0.36 * len(classes) + 1.6)
    names = [name.replace("_", " ") for name in classes]
    for panel, (name, counts) in zip(axes, panels, strict=True):
        share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        panel.imshow(share, cmap="Blues", vmin=0, vmax=100)
        for i, j in zip(*np.nonzero(share >= 0.5), strict=True):
            colour = "white" if share[i, j] > 60 else "black"
            panel.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=6, color=colour)
        panel.set_xticks(range(len(classes)), names, rotation=90, fontsize=7)
        panel.set_yticks(range(len(classes)), names if panel is axes[0] else [""] * len(classes), fontsize=7)
        panel.grid(visible=False)
        panel.set_xlabel("Predicted class")
        panel.set_title(name, fontsize=9)
    axes[0].set_ylabel("True class")
    made.suptitle(title)
    return style.save(made, destination)


def class_accuracy_figure(accuracy: pd.DataFrame, shown: list[str], destination: Path, title: str) -> Path:
    """Draw the accuracy within each class, with its interval, for a few conditions.

    Args:
        accuracy: what :func:`pipeline.evaluation.video.class_accuracy` returns.
        shown: conditions, of different kinds.
        destination: the PNG file.
        title: of the figure.
    """
    classes = list(dict.fromkeys(accuracy["class"]))
    made, (axes,) = style.figure(width=6.5, height=0.32 * len(classes) + 1.3)
    for offset, condition in zip(np.linspace(-0.22, 0.22, len(shown)), shown, strict=True):
        part = accuracy[accuracy.condition == condition].set_index("class").loc[classes]
        kind = Condition.parse(condition).kind
        where = np.arange(len(classes)) + offset
        middle, low, high = (100 * part[name].to_numpy(np.float64) for name in ("accuracy", "ci_low", "ci_high"))
        axes.hlines(where, low, high, color=style.COLOURS[kind], linewidth=1.5)
        axes.plot(middle, where, "o", color=style.COLOURS[kind], markersize=4, label=condition)
    axes.set_yticks(range(len(classes)), [name.replace("_", " ") for name in classes])
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel("Test accuracy within the class [%]")
    axes.set_title(title)
    axes.legend(fontsize=7, loc="lower left")
    return style.save(made, destination)


def leakage_figure(gaps: pd.DataFrame, destination: Path, what: str) -> Path:
    """Draw every model's accuracy on the random and on the group-disjoint split, joined by a line.

    Args:
        gaps: what :func:`pipeline.evaluation.video.leakage` returns.
        destination: the PNG file.
        what: what the two sides of the random split share.
    """
    made, (axes,) = style.figure(width=7, height=0.19 * len(gaps) + 1.3)
    where = np.arange(len(gaps))
    leaky, honest = (100 * gaps[name].to_numpy(np.float64) for name in ("random_split", "group_split"))
    axes.hlines(where, honest, leaky, color="#999999", linewidth=1.2)
    axes.plot(leaky, where, "o", color=style.COLOURS["blind"], markersize=4, label="Random split of clips")
    axes.plot(honest, where, "D", color=style.COLOURS["nem"], markersize=4, label="Nothing shared by both sides")
    names = [f"{row.model}  {row.condition}".replace("_", " ") for row in gaps.itertuples()]
    axes.set_yticks(where, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("Test accuracy [%]")
    axes.set_title(f"What {what} on both sides are worth")
    axes.legend(fontsize=7)
    return style.save(made, destination)


def plot_data(outcomes: list[Outcome]) -> None:
    """Write learning curves averaged over repetitions as CSV, for DVC's plots."""
    for outcome in outcomes:
        run = outcome.run
        columns = ["train_loss", "test_loss"] + ([] if run.task == "fx" else ["test_accuracy"])
        mean = run.curves.groupby(["condition", "epoch"], sort=False)[columns].mean().reset_index()
        write_frame(pd.DataFrame(mean), paths.PLOTS / f"{run.task}_{run.cell}.csv")
