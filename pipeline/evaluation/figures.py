"""Figures 1(b) and 9-14 of the paper, from our runs, and the summaries that the paper has no figure for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

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
    """Draw a condition's mean over repetitions with the range of the middle 80 %."""
    curves = [c for c in run.curve(condition, metric) if len(c) == run.max_epochs + 1]
    if not curves:
        return
    kind = Condition.parse(condition).kind
    stack = np.stack(curves)[:, 1 : run.epochs + 1] * scale
    epochs = np.arange(1, run.epochs + 1)
    low, high = np.quantile(stack, (0.1, 0.9), axis=0)
    axes.fill_between(epochs, low, high, color=style.COLOURS[kind], alpha=0.15, linewidth=0)
    axes.plot(
        epochs, stack.mean(0), style.LINES[kind], color=style.COLOURS[kind], label=style.LABELS[kind], linewidth=1.5
    )


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
    axes[0].legend()
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


def overview(outcome: Outcome, destination: Path) -> Path:
    """Draw every condition's headline metric with its interval, beside the paper's numbers."""
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
        printed = table.value(condition)
        if printed is not None:
            axes.plot(printed, row, "x", color="#777777", markersize=5, label="paper" if row == 0 else None)
    if fx:
        axes.axvline(
            outcome.references["persistence"], color="#555555", linestyle=":", linewidth=1, label="yesterday's price"
        )
        axes.set_xscale("log")
    else:
        for name, value in outcome.references.items():
            axes.axvline(value * 100, color="#555555", linestyle=":", linewidth=1, label=name.replace("_", " "))
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
        made.append(overview(outcome, folder / f"overview_fx_{outcome.run.cell}.png"))
    return made


def plot_data(outcomes: list[Outcome]) -> None:
    """Write learning curves averaged over repetitions as CSV, for DVC's plots."""
    for outcome in outcomes:
        run = outcome.run
        columns = ["train_loss", "test_loss"] + ([] if run.task == "fx" else ["test_accuracy"])
        mean = run.curves.groupby(["condition", "epoch"], sort=False)[columns].mean().reset_index()
        write_frame(pd.DataFrame(mean), paths.PLOTS / f"{run.task}_{run.cell}.csv")
