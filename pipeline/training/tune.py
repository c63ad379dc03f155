"""Choosing hyperparameters on the validation tail of the training days; test days are never read.

Two steps, as a user would take them. First the noiseless network: optimiser, learning rate, momentum and scaling,
by its squared error on the validation days after R epochs. Then, with those fixed, the strength and annealing of the
noise per place and mode, by the validation error of the NEM condition: that gives NEM noise its best chance, and
blind noise then gets the same strength, so that the two differ in selection alone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pipeline import paths, seeds
from pipeline.fx import rates, windows
from pipeline.params import Cell, CellTraining, FxWindows, Params
from pipeline.training import executor
from pipeline.training.engine import METRICS, Engine
from pipeline.training.problem import from_windows

OPTIMISERS: tuple[tuple[Literal["sgd", "adam", "rmsprop"], float, float], ...] = (
    *(("sgd", rate, momentum) for rate in (0.01, 0.03, 0.1, 0.3) for momentum in (0.0, 0.9)),
    *(("adam", rate, 0.0) for rate in (3e-4, 1e-3, 3e-3)),
    *(("rmsprop", rate, 0.0) for rate in (3e-4, 1e-3)),
)
SCALINGS: tuple[Literal["min-max", "z-score"], ...] = ("min-max", "z-score")
SIGMAS = (0.05, 0.1, 0.2, 0.5)
DECAYS = (0.0, 0.5, 1.0)
NOISY = ("nem-additive-output", "nem-additive-hidden", "nem-multiplicative-output", "nem-multiplicative-hidden")
REPETITIONS = 3


@dataclass(frozen=True)
class Trial:
    """One setting to try.

    Attributes:
        cell: the recurrent cell.
        scaling: scaler of the windows.
        settings: the rest.
        conditions: noise conditions to train with it.
        params: the project's parameters.
        epochs: R of the trial.
    """

    cell: Cell
    scaling: Literal["min-max", "z-score"]
    settings: CellTraining
    conditions: tuple[str, ...]
    params: Params


def run_trial(trial: Trial) -> dict[str, dict[str, float | None]]:
    """Train one setting; return, per condition, mean and spread of the validation error at R [rupees²]."""
    layout = FxWindows.model_validate({**trial.params.fx.windows.model_dump(), "scaling": trial.scaling})
    series = rates.read(paths.FX_RATES)
    made = windows.make_windows(series, layout, fit_through=windows.first_validation_day(series, layout) - 1)
    training = trial.params.training.model_copy(update={"conditions": list(trial.conditions), "probe": 256})
    engine = Engine(
        from_windows(made, ("train",), ("validation",), {}),
        trial.cell,
        trial.settings,
        training,
        # Seeds of their own: what is chosen here must not know the repetitions that are reported.
        seed=seeds.seed_of(trial.params.seed, "tune"),
        task="fx",
        repetitions=list(range(REPETITIONS)),
        device="cpu",
    )
    results = engine.run(None, lambda epochs: executor.progress(epochs))
    found = {}
    for c, condition in enumerate(trial.conditions):
        last = [float(each.curves[c, trial.settings.epochs, METRICS.index("test_loss")]) for each in results]
        finite = all(math.isfinite(value) for value in last)
        found[condition] = {
            "validation_mse": sum(last) / len(last) if finite else None,
            "lowest": min(last) if finite else None,
            "highest": max(last) if finite else None,
        }
    return found


def _search(trials: list[Trial], label: str) -> list[dict[str, dict[str, float | None]]]:
    found: dict[int, dict[str, dict[str, float | None]]] = {}
    total = sum(trial.settings.max_epochs for trial in trials)
    found.update(executor.run(run_trial, trials, total=total, label=label))
    return [found[number] for number in range(len(trials))]


def _settings(base: CellTraining, **changes: Any) -> CellTraining:  # noqa: ANN401 - any field
    return CellTraining.model_validate({**base.model_dump(), "max_epochs": base.epochs, **changes})


def tune_fx(params: Params) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Search for both cells.

    Args:
        params: the project's parameters; epochs, batch size and network size are kept.

    Returns:
        The chosen settings as overrides of ``params.yaml``, and the tables of both steps.
    """
    first = [
        Trial(
            cell,
            scaling,
            _settings(params.train.of("fx", cell), optimiser=o, learning_rate=rate, momentum=m),
            ("none",),
            params,
        )
        for cell in params.cells
        for scaling, (o, rate, m) in itertools.product(SCALINGS, OPTIMISERS)
    ]
    noiseless = pd.DataFrame(
        {
            "cell": trial.cell,
            "scaling": trial.scaling,
            "optimiser": trial.settings.optimiser,
            "learning_rate": trial.settings.learning_rate,
            "momentum": trial.settings.momentum,
            **result["none"],
        }
        for trial, result in zip(first, _search(first, "noiseless"), strict=True)
    )
    # One scaling for both cells, since they share the windows: the one with the lower sum of the cells' best errors.
    best = noiseless.groupby(["scaling", "cell"]).validation_mse.min().unstack().sum(axis=1)
    scaling = str(best.idxmin())
    overrides: dict[str, Any] = {"fx": {"windows": {"scaling": scaling}}, "train": {"fx": {}}}
    second: list[Trial] = []
    chosen: dict[str, CellTraining] = {}
    for cell in params.cells:
        rows = noiseless[(noiseless.cell == cell) & (noiseless.scaling == scaling)]
        row = rows.loc[rows.validation_mse.astype(float).idxmin()]
        picked = {
            "optimiser": row.optimiser,
            "learning_rate": float(row.learning_rate),
            "momentum": float(row.momentum),
        }
        chosen[cell] = _settings(params.train.of("fx", cell), **picked)
        overrides["train"]["fx"][cell] = dict(picked)
        for sigma, decay in itertools.product(SIGMAS, DECAYS):
            each = {"additive": sigma, "multiplicative": sigma}, {"additive": decay, "multiplicative": decay}
            noise = {
                "sigma": {"output": each[0], "hidden": each[0]},
                "decay": {"output": each[1], "hidden": each[1]},
            }
            second.append(Trial(cell, scaling, _settings(chosen[cell], **noise), NOISY, params))  # type: ignore[arg-type]
    noisy = pd.DataFrame(
        {
            "cell": trial.cell,
            "condition": condition,
            "sigma": trial.settings.sigma.output.additive,
            "decay": trial.settings.decay.output.additive,
            **values,
        }
        for trial, result in zip(second, _search(second, "noise"), strict=True)
        for condition, values in result.items()
    )
    for cell in params.cells:
        strengths: dict[str, dict[str, float]] = {"output": {}, "hidden": {}}
        decays: dict[str, dict[str, float]] = {"output": {}, "hidden": {}}
        for condition in NOISY:
            _, mode, place = condition.split("-")
            rows = noisy[(noisy.cell == cell) & (noisy.condition == condition)]
            row = rows.loc[rows.validation_mse.astype(float).idxmin()]
            strengths[place][mode], decays[place][mode] = float(row.sigma), float(row.decay)
        overrides["train"]["fx"][cell] |= {"sigma": strengths, "decay": decays}
    return overrides, noiseless, noisy
