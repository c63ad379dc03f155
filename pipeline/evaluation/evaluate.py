"""The evaluation of everything that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import paths, records
from pipeline.evaluation import figures, metrics, report, tables
from pipeline.fx import rates, windows
from pipeline.params import Params
from pipeline.training import results


def evaluate(params: Params) -> None:
    """Write metrics, tables, figures and the report of all tasks and cells of ``params``.

    Args:
        params: the project's parameters; what is evaluated follows from them, not from what lies about.

    Raises:
        FileNotFoundError: a run or a data file is missing.
        ValueError: one of them is damaged.
    """
    outcomes: list[metrics.Outcome] = []
    drawn: dict[tuple[str, str], list[Path]] = {}
    references: dict[str, dict[str, float]] = {}
    if "fx" in params.tasks:
        outcomes += _fx(params, drawn, references)
    tables.write(outcomes)
    figures.plot_data(outcomes)
    content: dict[str, Any] = {}
    for outcome in outcomes:
        content.setdefault(outcome.run.task, {})[outcome.run.cell] = outcome.summary
    records.write_json(paths.METRICS, {**content, "baselines": references})
    report.write(outcomes, params, drawn, [])
    print(f"evaluate: {len(outcomes)} run(s); see {paths.REPORT}")
    for outcome in outcomes:
        print("  " + report.verdict(outcome))


def _fx(
    params: Params, drawn: dict[tuple[str, str], list[Path]], references: dict[str, dict[str, float]]
) -> list[metrics.Outcome]:
    series, made = rates.read(paths.FX_RATES), windows.load(paths.FX_WINDOWS)
    errors, losses = metrics.fx_references(made)
    references["fx"] = errors
    outcomes = []
    compared = []
    for cell in params.cells:
        run = results.load("fx", cell)
        outcomes.append(metrics.summarise(run, params.evaluate, params.seed, errors))
        compared.append(metrics.forecast_comparisons(run, made, losses))
    tables.write_frame(metrics.stack(compared), paths.TABLES / "forecast_comparisons.csv")
    last = windows.last_training_day(series, params.fx.windows.train_end)
    files = figures.fx_figures(outcomes, series, last, made, params.fx.acquire.source)
    for outcome in outcomes:
        cell = outcome.run.cell
        mine = {"lstm": ("figure_10", "figure_11", "figure_12", "figure_13"), "gru": ("figure_14",)}[cell]
        drawn["fx", cell] = [f for f in files if f.stem.startswith(mine) or f.stem == f"overview_fx_{cell}"]
    return outcomes
