"""The study's pictures: maps of where NEM noise helps, the comparisons, and theory against measurement.

All draw ratios of test losses as binary logarithms; to the left or below 1 the noise helps.
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nem.conditions import Condition
from pipeline.evaluation import style
from pipeline.evaluation.statistics import LEVEL
from pipeline.study.effects import RESCALED, log_ratios
from pipeline.study.grid import REGIMES, SINGLE

MARKS = {"lstm": "o", "gru": "s"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
WORDS = {noise: noise.replace("-", ", ").replace("hidden", "gates") for noise in SINGLE}


def regime_map(table: pd.DataFrame, title: str, destination: Path) -> style.Picture:
    """Draw by how much NEM noise changes the test loss [%], below it the speed-up [% of R], over rate × σ.

    A row is a cell, mode and layer, a column an annealing.
    """
    rates = list(dict.fromkeys(zip(table.optimiser, table.learning_rate, strict=True)))
    sigmas = sorted(table.sigma_output.unique())
    decays, places = sorted(table.decay_output.unique()), list(itertools.product(dict.fromkeys(table.cell), SINGLE))
    index = ["measure", "condition", "cell", "decay_output", "sigma_output", "optimiser", "learning_rate"]
    values = table.set_index(index).value
    width, height = style.WIDTH / len(decays), 0.4 * len(sigmas) + 0.3
    drawn, axes = style.figure(len(decays), len(places), width, height, sharex=True, sharey=True)
    for axis, ((cell, noise), decay) in zip(axes, itertools.product(places, decays), strict=True):
        ratios = np.full((len(sigmas), len(rates)), np.nan)
        for (i, sigma), (j, rate) in itertools.product(enumerate(sigmas), enumerate(rates)):
            place = (f"nem-{noise}", cell, decay, sigma, *rate)
            ratio = 1 - float(values[("error", *place)]) / 100
            ratios[i, j] = np.log2(ratio)
            change = f"{100 * (ratio - 1):+.0f}%" if ratio < 10 else f"×{ratio:.0f}"
            text = "failed" if math.isnan(ratio) else f"{change}\n{values[('speed', *place)]:+.0f}"
            colour = "white" if abs(ratios[i, j]) > 0.6 else "black"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
        image = axis.imshow(ratios, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto", origin="lower")
        axis.grid(False)
        axis.set_xticks(range(len(rates)), [f"{optimiser}\n{rate:g}" for optimiser, rate in rates])
        axis.set_yticks(range(len(sigmas)), [f"{sigma:g}" for sigma in sigmas])
        annealed = f"σ / epoch^{decay:g}" if decay else "σ constant"
        axis.set_title(f"{cell.upper()}, {WORDS[noise]}, {annealed}", fontsize=8, pad=2)
    drawn.supylabel("σ", fontsize=9)
    bar = drawn.colorbar(image, ax=axes, location="bottom", aspect=50, label="test loss, NEM noise / no noise")
    bar.set_ticks([-1, 0, 1], labels=["half", "equal", "double"])
    drawn.suptitle(f"{title}: NEM noise against no noise at the same rate")
    caption = f"{title}: where NEM noise lowers the test loss, and by how much; below: the speed-up"
    shown = table.condition.isin([f"nem-{noise}" for noise in SINGLE]) & (table.measure == "error")
    change = -table.value[shown]
    seen = (f"{title}: with NEM noise the test loss is lower at {(change < 0).sum()} of {len(change)} settings, "
            f"and changes by {change.min():+.0f} to {change.max():+.0f} %")  # fmt: skip
    return style.Picture(style.save(drawn, destination), caption, seen)


def against_noiseless(table: pd.DataFrame, title: str, destination: Path) -> style.Picture:
    """Draw every condition's test loss in ratio to the noiseless net's, a row per cell, a regime beside another."""
    panels, names = list(table.groupby(["cell", "purpose"], sort=False)), list(dict.fromkeys(table.condition))
    regimes, height = table.purpose.nunique(), 0.17 * len(names) + 0.4
    drawn, axes = style.figure(regimes, -(-len(panels) // regimes), style.WIDTH / regimes, height, sharey=True)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    seen = []
    for axis, ((cell, regime), part) in zip(axes, panels, strict=False):
        sure = part.value[part.p_holm < LEVEL]
        seen.append(f"{cell.upper()}, {regime}: {(sure > 0).sum()} lower, {(sure < 0).sum()} higher")
        axis.axvline(0, color="black", linewidth=0.8)
        for row in part.dropna(subset=["value"]).itertuples():
            colour, k = style.COLOURS[Condition.parse(row.condition).kind], names.index(row.condition)
            mean, low, high = np.log2(1 - np.array([row.value, row.high, row.low], float) / 100)
            axis.plot([low, high], [k, k], color=colour, linewidth=1.5)
            face = colour if row.p_holm < LEVEL else "white"
            axis.plot(mean, k, "o", color=colour, markersize=5, markerfacecolor=face)
        _as_ratios(axis.xaxis)
        axis.set_title(f"{cell.upper()}, {regime}", fontsize=9)
        axis.set_yticks(range(len(names)), map(style.words, names))
    axes[0].invert_yaxis()
    drawn.supxlabel(f"test loss in ratio to the noiseless net's; filled: Holm-adjusted p < {LEVEL}", fontsize=9)
    drawn.suptitle(title)
    caption = f"{title}: every condition at its chosen setting against the noiseless network at its own"
    told = f"{title}, test losses of {len(names)} conditions significantly different from no noise: {'; '.join(seen)}"
    return style.Picture(style.save(drawn, destination), caption, told)


def theory(ratios: pd.DataFrame, titles: Mapping[str, str], destination: Path) -> style.Picture:
    """Draw what NEM noise did against what its closed-form mean did, and against a rescaled learning rate."""
    panels = [(titles[task], "expected-nem", part) for task, part in ratios.groupby("task", sort=False)]
    if ratios[RESCALED].notna().any():
        panels.append(("noiseless at rate × (1 - σ/√2π)", RESCALED, ratios.dropna(subset=[RESCALED])))
    drawn, axes = style.figure(rows=len(panels), width=style.WIDTH, height=3.0)
    seen = []
    for axis, (title, against, part) in zip(axes, panels, strict=True):
        correlations = []
        for (noise, cell), own in part.groupby(["noise", "cell"], sort=False):
            x, y = own[against] / math.log(2), own.nem / math.log(2)
            correlations.append(x.corr(y))
            colour, label = COLOURS[SINGLE.index(noise)], f"{WORDS[noise]}, {cell.upper()}: r = {x.corr(y):.3f}"
            axis.plot(x, y, MARKS.get(cell, "^"), color=colour, markersize=4.5, label=label)
        axis.axline((0, 0), slope=1, color="black", linewidth=0.8, zorder=0)
        seen.append(f"{title} from {min(correlations):.3f} to {max(correlations):.3f}")
        axis.set_xlabel(f"{against} / no noise (no randomness)")
        axis.set_ylabel("NEM noise / no noise")
        axis.set_title(f"{title}: each mark one rate and σ", fontsize=9)
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
        _as_ratios(axis.xaxis, axis.yaxis)
    caption = "What NEM noise did against what its closed-form mean predicts"
    return style.Picture(style.save(drawn, destination), caption, f"{caption}, correlations: {'; '.join(seen)}")


def _as_ratios(*axes: Axis) -> None:
    """Label axes of binary logarithms with ratios."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{2**value:.3g}"))


def draw(table: pd.DataFrame, titles: Mapping[str, str], folder: Path) -> list[style.Picture]:
    """Draw every picture of the study from its comparisons; ``titles`` has tasks in words."""
    noiseless = table[table.reference == "none"]
    maps = noiseless[noiseless.purpose == "map"].groupby("task", sort=False)
    pictures = [regime_map(part, titles[task], folder / f"study_map_{task}.png") for task, part in maps]
    chosen = noiseless[noiseless.purpose.isin(REGIMES) & (noiseless.measure == "error")]
    for (task, split), part in chosen.groupby(["task", "split"], sort=False):
        file = folder / f"study_against_noiseless_{task}_{split}.png"
        pictures.append(against_noiseless(part, f"{titles[task]}, {split}", file))
    return [*pictures, theory(log_ratios(table), titles, folder / "study_theory.png")]
