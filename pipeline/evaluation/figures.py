"""The pictures that every task has: learning curves, and all conditions side by side."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from nem.conditions import MODES, PLACES, Condition, Mode, Place
from pipeline.evaluation import style
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import Outcome

GREY = "#555555"


def _band(axes: Axes, outcome: Outcome, condition: str) -> None:
    """Draw a condition's mean over repetitions with the range of the middle 80 %, up to R; name those that failed."""
    run, measure, kind = outcome.run, outcome.task.measure, Condition.parse(condition).kind
    curves = [c[1 : run.epochs + 1] for c in run.curve(condition, measure.curve) if len(c) > run.epochs]
    lost = run.repetitions - len(curves)
    label = style.LABELS[kind] + (f" ({lost} of {run.repetitions} failed)" if lost else "")
    stack = measure.scale * np.stack(curves) if curves else np.full((1, run.epochs), np.nan)
    epochs, colour = np.arange(1, run.epochs + 1), style.COLOURS[kind]
    axes.fill_between(epochs, *np.quantile(stack, (0.1, 0.9), axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, stack.mean(0), style.LINES[kind], color=colour, label=label, linewidth=1.5)


def _plain(*axes: Axis) -> None:
    """Label logarithmic axes with numbers instead of powers."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def learning_curves(outcome: Outcome, name: str, mode: Mode, places: Sequence[Place]) -> Picture:
    """Draw the headline measure on test data against epochs, one panel per place (Figures 1(b), 9, 12, 13, 14)."""
    run, task = outcome.run, outcome.task
    drawn, axes = style.figure(len(places), width=style.WIDTH / max(len(places), 1.4), height=2.9, sharey=True)
    for place, panel in zip(places, axes, strict=True):
        for condition in ("none", f"blind-{mode}-{place}", f"nem-{mode}-{place}"):
            if condition in run.conditions:
                _band(panel, outcome, condition)
        panel.set(title=style.PLACES[place], xlabel="Training epoch")
        if task.measure.gain < 0:
            panel.set(xscale="log", yscale="log")
            _plain(panel.xaxis, panel.yaxis)
        else:
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if task.rival is not None:
            level = outcome.references[task.rival] * task.measure.scale
            panel.axhline(level, color=GREY, linewidth=0.9, linestyle=":", label=task.called(task.rival))
    # Panels may differ in who failed, and so in their words.
    entries = {label: line for panel in axes for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawn.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
    axes[0].set_ylabel(outcome.label)
    title = f"{outcome.title}, {mode} noise"
    drawn.suptitle(title)
    return style.picture(drawn, outcome.prefix + name, f"{name.replace('_', ' ').capitalize()}: {title}")


def overview(outcome: Outcome) -> Picture:
    """Draw every condition's headline metric with its interval; beside it the paper's where the data are its own."""
    run, task, measure = outcome.run, outcome.task, outcome.task.measure
    table = next(table for table in outcome.tables if table.quantity == measure.quantity)
    drawn, (axes,) = style.figure(width=style.WIDTH, height=4.2)
    for row, condition in enumerate(run.conditions):
        summary, values = outcome.summary[condition][measure.name], outcome.values[condition][measure.name]
        shown = [measure.scale * np.array(summary[name], float) for name in ("mean", "ci_low", "ci_high")]
        colour = style.COLOURS[Condition.parse(condition).kind]
        axes.scatter(measure.scale * values, np.full(len(values), row), s=6, color=colour, alpha=0.35, linewidths=0)
        axes.plot(shown[0], row, "o", color=colour, markersize=5)
        axes.plot(shown[1:], [row, row], color=colour, linewidth=2)
        printed = table.value(condition) if outcome.paper else None
        if printed is not None:
            axes.plot(printed, row, "x", color="#777777", markersize=5, label="paper" if row == 0 else None)
    for name, line in zip(outcome.references, itertools.cycle((":", "--", "-.")), strict=False):
        if task.rival in (None, name):
            level = measure.scale * outcome.references[name]
            axes.axvline(level, color=GREY, linestyle=line, linewidth=1, label=task.called(name))
    if measure.gain < 0:
        axes.set_xscale("log")
        _plain(axes.xaxis)
    axes.set_yticks(range(len(run.conditions)), map(style.words, run.conditions))
    axes.invert_yaxis()
    axes.set(xlabel=outcome.label, title=f"{outcome.title}: {run.repetitions} repetitions, mean with interval")
    axes.legend()
    caption = f"{outcome.title}: every condition's {measure.words} with its interval"
    return style.picture(drawn, f"overview_{outcome.name}_{run.cell}", caption)


def draw(outcome: Outcome) -> list[Picture]:
    """Write a run's pictures: the paper's learning curves or, where it has none, one for each mode; and the overview.

    Returned are the task's own: of the others the report has charts.
    """
    task, cell = outcome.task, outcome.run.cell
    usual = {f"curves_{task.name}_{cell}_{mode}": (cell, mode, PLACES) for mode in MODES}
    for name, (own, mode, places) in ((outcome.alike and task.curves) or usual).items():
        if own == cell:
            learning_curves(outcome, name, mode, places)
    overview(outcome)
    return task.draw(outcome)
