"""Choosing hyperparameters on validation sequences; test sequences choose nothing.

Two steps, as a user would take them. First the noiseless network: optimiser, learning rate, momentum and, where the
task offers several forms of its data, the form, by the loss on validation sequences after R epochs. Then, with those
fixed, strength and annealing of the noise per place and mode, and its density per place, by the validation loss of the
NEM condition: that gives NEM noise its best chance, and blind noise then gets the same strength, so that the two differ
in selection alone.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from nem.conditions import MODES
from nem.names import DensityName
from pipeline.common import seeds
from pipeline.training.settings import PLACES, Densities, NoiseTable, Place, Settings, Strength
from pipeline.training.train import Work, run

NOISY = ("nem-additive-output", "nem-additive-hidden", "nem-multiplicative-output", "nem-multiplicative-hidden")
RATE, STRENGTH = ["optimiser", "learning_rate", "momentum"], ["sigma", "decay"]
KEEP = "tune"
"""Under which finished repetitions are kept (:mod:`pipeline.common.kept`)."""


@dataclass(frozen=True)
class Grid:
    """What is tried: ``(optimiser, learning rate, momentum)``, σ, annealing, density, and in how many repetitions."""

    optimisers: Sequence[tuple[Literal["sgd", "adam", "rmsprop"], float, float]] = (
        *(("sgd", rate, momentum) for rate in (0.01, 0.03, 0.1, 0.3) for momentum in (0.0, 0.9)),
        *(("adam", rate, 0.0) for rate in (3e-4, 1e-3, 3e-3)),
        *(("rmsprop", rate, 0.0) for rate in (3e-4, 1e-3)),
    )
    sigmas: Sequence[float] = (0.05, 0.1, 0.2, 0.5)
    decays: Sequence[float] = (0.0, 0.5, 1.0)
    densities: Sequence[DensityName] = ("gaussian",)
    repetitions: int = 3


@dataclass(frozen=True)
class Choice:
    """What was chosen, and on what grounds."""

    data: str  # name of the form of the data
    networks: dict[str, dict[str, Any]]  # per cell, as ``train.<task>.<cell>`` of ``params.yaml`` takes them
    noiseless: pd.DataFrame  # step 1, a row per cell, form and optimiser: mean, lowest and highest validation loss
    noisy: pd.DataFrame  # step 2, a row per cell, condition, σ, annealing and density


def _losses(trials: Mapping[Work, Mapping[str, Any]], label: str) -> pd.DataFrame:
    """Train trials; return a row per trial and condition, NaN where any repetition failed."""
    losses: dict[tuple[Work, str], list[float]] = {}
    for work, repetition in run(list(trials), label=label, keep=KEEP):
        if repetition.validation is None:
            raise ValueError(f"expected validation sequences in {work.data}, found none; raise validation_fraction")
        for condition, loss in zip(repetition.conditions, repetition.validation[:, 0].tolist(), strict=True):
            losses.setdefault((work, condition), []).append(loss)
    rows = []
    for (work, axes), condition in ((pair, c) for pair in trials.items() for c in pair[0].settings.conditions):
        several = losses[work, condition]
        finite = all(math.isfinite(loss) for loss in several)
        mean = math.fsum(several) / len(several)
        numbers = {"validation_loss": mean, "lowest": min(several), "highest": max(several)}
        rows.append({**axes, "condition": condition, **{n: x if finite else math.nan for n, x in numbers.items()}})
    return pd.DataFrame(rows)


def _best(rows: pd.DataFrame, what: str) -> pd.Series:
    if rows.validation_loss.isna().all():
        raise ValueError(f"expected a finite validation loss of {what}, found none; try smaller rates and strengths")
    return rows.loc[rows.validation_loss.idxmin()]


def _strengths(rows: pd.DataFrame, cell: str, place: Place) -> dict[str, Any]:
    """Return density and strengths of one place by mode, from one cell's trials with noise.

    Both modes draw from one density: that with the lowest sum of the modes' best losses.
    """
    conditions = {mode: f"nem-{mode}-{place}" for mode in MODES}
    own = rows[rows.condition.isin(conditions.values())]
    sums = own.groupby(["density", "condition"]).validation_loss.min().unstack().sum(axis=1, skipna=False)
    density = str(_best(sums.rename("validation_loss").reset_index(), f"{cell} with noise in {place}")["density"])
    chosen: dict[str, Any] = {"density": density}
    for mode, condition in conditions.items():
        best = _best(own[(own.condition == condition) & (own.density == density)], f"{cell} with {condition}")
        chosen[mode] = {name: float(best[name]) for name in STRENGTH}
    return chosen


def tune(data: Mapping[str, Path], networks: Sequence[Settings], work: Work, grid: Grid | None = None) -> Choice:
    """Search for all cells of one task, whose data are in folders of sequences by the name of their form.

    Of ``networks``, one per cell, size, epochs and batch size are kept; of ``work``, seed, stream and device. Data
    without validation sequences, and trials that all failed, are a ValueError; other errors are those of :func:`run`.
    """
    grid = grid or Grid()

    def trial(form: str, settings: Settings, **changes: Any) -> Work:  # noqa: ANN401 - any setting
        fixed: dict[str, Any] = {"max_epochs": settings.epochs, "probe": 256, "noise_benefit": False}
        # Seeds of their own: what is chosen here must not know the repetitions that are reported.
        return replace(
            work, data=data[form], validation="apart", settings=replace(settings, **fixed, **changes),
            seed=seeds.seed_of(work.seed, "tune"), repetitions=tuple(range(grid.repetitions)),
        )  # fmt: skip

    first = {
        trial(form, network, conditions=("none",), **dict(zip(RATE, setting, strict=True))):
        {"cell": network.cell, "data": form, **dict(zip(RATE, setting, strict=True))}
        for network in networks for form, setting in itertools.product(data, grid.optimisers)
    }  # fmt: skip
    noiseless = _losses(first, "noiseless")
    # One form for all cells, since they share it: that with the lowest sum of the cells' best losses.
    sums = noiseless.groupby(["data", "cell"]).validation_loss.min().unstack().sum(axis=1, skipna=False)
    form = str(_best(sums.rename("validation_loss").reset_index(), "all cells without noise")["data"])
    chosen: dict[str, dict[str, Any]] = {}
    second: dict[Work, dict[str, Any]] = {}
    for network in networks:
        own = noiseless[(noiseless.cell == network.cell) & (noiseless.data == form)]
        best = _best(own, f"{network.cell} without noise")
        chosen[network.cell] = {"optimiser": str(best.optimiser), **{name: float(best[name]) for name in RATE[1:]}}
        for sigma, decay, density in itertools.product(grid.sigmas, grid.decays, grid.densities):
            noise = {"noise": NoiseTable(*(Strength(sigma, decay),) * 4), "densities": Densities(density, density)}
            stack = trial(form, network, conditions=NOISY, **noise, **chosen[network.cell])
            second[stack] = {"cell": network.cell, "sigma": sigma, "decay": decay, "density": density}
    noisy = _losses(second, "noise")
    for cell, values in chosen.items():
        places: dict[str, Any] = {place: _strengths(noisy[noisy.cell == cell], cell, place) for place in PLACES}
        values["noise"] = {"density": {place: own.pop("density") for place, own in places.items()}, **places}
    return Choice(form, chosen, noiseless, noisy)
