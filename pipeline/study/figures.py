"""The study's pictures: maps of where NEM noise helps, the comparisons, and theory against measurement."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pipeline.conditions import Condition
from pipeline.evaluation import style
from pipeline.study.plan import CELLS, SINGLE, Study, Task
from pipeline.study.summary import Context, contexts

TITLES = {"fx": "Exchange rate", "clips": "Clips"}
NOISE = {
    "additive-output": "additive, output",
    "additive-hidden": "additive, gates",
    "multiplicative-output": "multiplicative, output",
    "multiplicative-hidden": "multiplicative, gates",
}
LIMIT = float(np.log(2))
"""Ends of the colour scale: a test loss of half, or twice, the noiseless one."""


def regime_map(table: pd.DataFrame, study: Study, task: Task, destination: Path) -> Path:
    """Draw the ratio of test losses, NEM to no noise, over rate × σ: a row per mode and layer, columns cell × decay.

    In each field: by how much the test loss changes [%], and below it the median speed-up [% of R].
    """
    grid = study.grid(task)
    rates = [*(("sgd", rate) for rate in grid.sgd), *(("adam", rate) for rate in grid.adam)]
    columns = [(cell, decay) for cell in CELLS for decay in grid.decays]
    made, axes = style.figure(len(columns), len(SINGLE), width=3.1, height=2.2)
    part = table[(table.purpose == "map") & (table.task == task)]
    image = None
    for place, axis in enumerate(axes):
        noise, (cell, decay) = SINGLE[place // len(columns)], columns[place % len(columns)]
        values = np.full((len(grid.sigmas), len(rates)), np.nan)
        axis.grid(False)
        for i, sigma in enumerate(grid.sigmas):
            for j, (optimiser, rate) in enumerate(rates):
                row = part[
                    (part.cell == cell) & (part.decay == decay) & (part.sigma == sigma) & (part.rate == rate)
                    & (part.optimiser == optimiser) & (part.condition == f"nem-{noise}")
                ]  # fmt: skip
                reduction = row.error_reduction.iloc[0] if len(row) else None
                if reduction is None or not np.isfinite(reduction):
                    axis.text(j, i, "failed" if len(row) else "", ha="center", va="center", fontsize=7)
                    continue
                values[i, j] = np.log1p(-reduction / 100)
                speed = row.speed_up.iloc[0]
                bound = -100 * (grid.max_epochs - grid.epochs) / grid.epochs
                faster = f"< {bound:.0f}" if speed < bound else f"{speed:+.0f}"
                dark = abs(values[i, j]) > 0.6 * LIMIT
                axis.text(
                    j, i, f"{_change(-reduction)}\n{faster}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "black",
                )  # fmt: skip
        image = axis.imshow(values, cmap="PuOr_r", vmin=-LIMIT, vmax=LIMIT, aspect="auto", origin="lower")
        axis.set_xticks(range(len(rates)), [f"{optimiser}\n{rate:g}" for optimiser, rate in rates], fontsize=8)
        axis.set_yticks(range(len(grid.sigmas)), [f"{sigma:g}" for sigma in grid.sigmas], fontsize=8)
        if place < len(columns):
            annealed = "σ constant" if decay == 0 else f"σ / epoch^{decay:g}"
            axis.set_title(f"{cell.upper()}, {annealed}")
        if place % len(columns) == 0:
            axis.set_ylabel(f"{NOISE[noise]}\nσ")
    if image is not None:
        bar = made.colorbar(image, ax=axes, shrink=0.5, pad=0.01)
        bar.set_ticks([-LIMIT, 0, LIMIT], labels=["half", "equal", "double"])
        bar.set_label("test loss, NEM noise / no noise")
    made.suptitle(
        f"{TITLES[task]}: NEM noise against no noise at the same learning rate. Upper number: change of the test loss; "
        "lower: median speed-up in % of R",
        fontsize=10,
    )
    return style.save(made, destination)


def _change(percent: float) -> str:
    return f"{percent:+.0f}%" if percent < 900 else f"×{1 + percent / 100:.0f}"


def against_noiseless(table: pd.DataFrame, destination: Path) -> Path:
    """Draw every condition's test loss in ratio to the noiseless net's, per context, with intervals."""
    rows = table[(table.reference == "none") & (table.measure == "error")]
    places = contexts(rows.rename(columns={"regime": "purpose"}), tuple(dict.fromkeys(rows.regime)))
    panels = [(context, cell) for context in places for cell in CELLS]
    names = list(dict.fromkeys(rows.condition))
    made, axes = style.figure(4, max(1, -(-len(panels) // 4)), width=3.6, height=0.21 * len(names) + 1.0, sharey=True)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (context, cell) in zip(axes, panels, strict=False):
        _panel(axis, rows, context, cell, names)
    axes[0].invert_yaxis()
    made.supxlabel(
        "test loss in ratio to the noiseless net's (left of 1: the noise helps); filled: Holm-adjusted p < 0.05"
    )
    return style.save(made, destination)


def _panel(axis: Axes, rows: pd.DataFrame, context: Context, cell: str, names: list[str]) -> None:
    part = rows[
        (rows.task == context.task)
        & (rows.split == context.split)
        & (rows.regime == context.regime)
        & (rows.cell == cell)
    ].set_index("condition")
    axis.axvline(0, color="black", linewidth=0.8)
    for k, name in enumerate(names):
        if name not in part.index or part.loc[name, "effect"] is None or not np.isfinite(part.loc[name, "effect"]):
            continue
        mean, low, high = (np.log2(1 - part.loc[name, what] / 100) for what in ("effect", "high", "low"))
        colour, sure = style.COLOURS[Condition.parse(name).kind], part.loc[name, "p_holm"] < 0.05
        axis.plot([low, high], [k, k], color=colour, linewidth=1.5)
        axis.plot(mean, k, "o", color=colour, markersize=5, markerfacecolor=colour if sure else "white")
    _ratio_ticks(axis, "x", 5)
    axis.set_title(f"{TITLES[context.task]}, {cell.upper()}: {context.name}", fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=7)


def theory(table: pd.DataFrame, destination: Path) -> Path:
    """Draw what NEM noise did against what its closed-form mean did, and against a rescaled learning rate."""
    made, axes = style.figure(3, width=4.2, height=4.0)
    colours = dict(zip(SINGLE, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
    marks = {"lstm": "o", "gru": "s"}
    for axis, task in zip(axes, ("clips", "fx"), strict=False):
        part = table[table.task == task]
        for (noise, cell), mine in part.groupby(["noise", "cell"], sort=False):
            _ratios(axis, mine, "expected", "nem", colours[noise], marks[cell], f"{NOISE[noise]}, {cell.upper()}")
        axis.set_xlabel("expected NEM / no noise (no randomness)")
        axis.set_ylabel("NEM noise / no noise")
        axis.set_title(f"{TITLES[task]}: test loss, each mark one rate and σ")
        axis.legend(fontsize=6.5)
    part = table[(table.task == "clips") & (table.noise == "multiplicative-output")]
    if "rescaled" in part:
        for (cell, rate), mine in part.groupby(["cell", "rate"], sort=False):
            colour = "#0072B2" if rate == part.rate.min() else "#D55E00"
            _ratios(axes[2], mine, "rescaled", "nem", colour, marks[cell], f"{cell.upper()}, rate {rate:g}")
    axes[2].set_xlabel("noiseless at rate × (1 - σ/√2π) / noiseless at rate")
    axes[2].set_ylabel("NEM noise / no noise")
    axes[2].set_title("Clips, multiplicative noise in the output")
    axes[2].legend(fontsize=6.5)
    for axis in axes:
        low, high = min(*axis.get_xlim(), *axis.get_ylim()), max(*axis.get_xlim(), *axis.get_ylim())
        axis.plot([low, high], [low, high], color="black", linewidth=0.8, zorder=0)
        _ratio_ticks(axis, "x", 6)
        _ratio_ticks(axis, "y", 6)
    return style.save(made, destination)


def _ratio_ticks(axis: Axes, which: str, most: int) -> None:
    """Label an axis of binary logarithms with round ratios: decades are too coarse for ratios near 1."""
    side, (low, high) = (axis.xaxis, axis.get_xlim()) if which == "x" else (axis.yaxis, axis.get_ylim())
    if high - low < 3:
        ratios = [float(tick) for tick in MaxNLocator(most).tick_values(2**low, 2**high)]
    else:
        steps = (1, 2, 5) if high - low < 6 else (1,)
        ratios = [step * 10.0**decade for decade in range(-6, 7) for step in steps]
    side.set_major_locator(FixedLocator([math.log2(r) for r in ratios if r > 0 and low <= math.log2(r) <= high]))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{2**value:.3g}"))


def _ratios(axis: Axes, rows: pd.DataFrame, x: str, y: str, colour: str, mark: str, label: str) -> None:
    columns = {name: np.log2(1 - rows[name].to_numpy(float) / 100) for name in (x, y, f"{y}_low", f"{y}_high")}
    kept = np.isfinite(columns[x]) & np.isfinite(columns[y])
    if not kept.any():
        return
    middle, low, high = columns[y][kept], columns[f"{y}_high"][kept], columns[f"{y}_low"][kept]
    spread = np.nan_to_num(np.abs(np.stack([middle - low, high - middle])))
    axis.errorbar(columns[x][kept], middle, spread, fmt=mark, color=colour, markersize=4.5, linewidth=0.9, label=label)


def draw(tables: dict[str, pd.DataFrame], study: Study, folder: Path) -> list[Path]:
    """Draw every picture of the study."""
    return [
        *(regime_map(tables["regimes"], study, task, folder / f"study_map_{task}.png") for task in ("clips", "fx")),
        against_noiseless(tables["comparisons"], folder / "study_against_noiseless.png"),
        theory(tables["theory"], folder / "study_theory.png"),
    ]
