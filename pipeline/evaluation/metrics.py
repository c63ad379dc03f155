"""Summaries of runs: every condition, every metric, with intervals, paired differences and naive baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.statistics import Interval, SpeedUp, holm, mean_interval, sign_flip_p_value, speed_up
from pipeline.fx import baselines
from pipeline.fx.windows import Windows
from pipeline.params import Evaluate
from pipeline.training.results import Run

Floats = npt.NDArray[np.float64]
Summary = dict[str, dict[str, dict[str, float | int | None]]]
"""Condition → metric → {mean, ci_low, ci_high, n, …}."""


@dataclass(frozen=True)
class Outcome:
    """One run with its statistics.

    Attributes:
        run: the run.
        metric: the task's headline metric: ``test_mse`` (fx) or ``test_accuracy`` (video).
        values: per condition and metric, one value per repetition (NaN where the network failed).
        speed_ups: per condition.
        summary: per condition and metric, mean and interval.
        differences: paired differences to the noiseless condition, one row per condition.
        references: named baselines of the headline metric.
    """

    run: Run
    metric: str
    values: dict[str, dict[str, Floats]]
    speed_ups: dict[str, SpeedUp]
    summary: Summary
    differences: pd.DataFrame
    references: dict[str, float]


def calibration_error(probabilities: Floats, labels: npt.NDArray[np.int64], bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017): Σ |accuracy - confidence| weighted by bin.

    Args:
        probabilities: ``(N, K)``.
        labels: ``(N,)`` true classes.
        bins: equal-width bins of confidence.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[which == b].mean() - confidence[which == b].mean()) * (which == b).mean() for b in np.unique(which)
    ]
    return float(sum(gaps))


def _predicted(run: Run, condition: str, column: str) -> dict[int, tuple[npt.NDArray[np.int64], Floats]]:
    """Return ``{repetition: (rows, values)}``, rows ascending; repetitions that had failed by R are not there."""
    table = run.predictions.filter(pc.equal(run.predictions["condition"], condition)).combine_chunks()
    repetition, row = (table[name].to_numpy() for name in ("repetition", "row"))
    values = table[column].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        data = values.flatten().to_numpy(zero_copy_only=False).reshape(len(row), values.type.list_size)
    else:
        data = values.to_numpy(zero_copy_only=False)
    found = {}
    for r in np.unique(repetition):
        mine = np.flatnonzero(repetition == r)
        mine = mine[np.argsort(row[mine], kind="stable")]
        found[int(r)] = row[mine].astype(np.int64), data[mine].astype(np.float64)
    return found


def probabilities(run: Run, condition: str) -> dict[int, tuple[npt.NDArray[np.int64], Floats]]:
    """Return ``{repetition: (clips (N,), probabilities (N, K))}`` of a video run."""
    return _predicted(run, condition, "probabilities")


def forecasts(run: Run, condition: str) -> dict[int, Floats]:
    """Return ``{repetition: (N,) predicted prices}`` of an exchange-rate run, test days in order [rupees]."""
    return {r: values for r, (_, values) in _predicted(run, condition, "prediction").items()}


def fx_references(windows: Windows) -> tuple[dict[str, float], dict[str, Floats]]:
    """Return mean squared errors and daily squared errors of the naive forecasts [rupees²]."""
    truth = windows.target_raw[windows.where("test")]
    found = {
        "persistence": baselines.persistence(windows),
        "drift": baselines.drift(windows),
        f"ar{baselines.AR_LAGS}": baselines.autoregression(windows),
    }
    losses = {name: (forecast - truth) ** 2 for name, forecast in found.items()}
    return {name: float(loss.mean()) for name, loss in losses.items()}, losses


def summarise(
    run: Run, settings: Evaluate, seed: int, references: dict[str, float], labels: dict[int, int] | None = None
) -> Outcome:
    """Return a run's statistics.

    Args:
        run: the run.
        settings: confidence level and resamples.
        seed: root of the seed tree.
        references: the task's naive baselines.
        labels: class of each test clip (video only).
    """
    fx = run.task == "fx"
    metric = "test_mse" if fx else "test_accuracy"
    noiseless = run.curve("none", "test_loss")
    values: dict[str, dict[str, Floats]] = {}
    speeds: dict[str, SpeedUp] = {}
    summary: Summary = {}
    for condition in run.conditions:
        loss, train = run.final(condition, "test_loss"), run.final(condition, "train_loss")
        found = (
            {"test_mse": loss, "train_mse": train} if fx else {"test_cross_entropy": loss, "train_cross_entropy": train}
        )
        if fx:
            found["skill_persistence"] = np.array([baselines.skill(each, references["persistence"]) for each in loss])
        else:
            found["test_accuracy"] = run.final(condition, "test_accuracy")
            found["train_accuracy"] = run.final(condition, "train_accuracy")
            if labels is not None:
                found["calibration_error"] = np.array(
                    [
                        calibration_error(p, np.array([labels[int(row)] for row in rows]))
                        for rows, p in probabilities(run, condition).values()
                    ]
                )
        for name in ("acceptance_output", "acceptance_hidden"):
            share = run.final(condition, name)
            if np.isfinite(share).any():
                found[name] = share
        values[condition] = found
        speeds[condition] = speed_up(run.curve(condition, "test_loss"), noiseless, run.epochs, run.max_epochs)
        summary[condition] = {name: _interval(each, settings, seed).as_dict() for name, each in found.items()}
        summary[condition]["speed_up_percent"] = _speed(speeds[condition], settings, seed)
        summary[condition]["failed"] = {
            "mean": float(run.failed(condition)),
            "ci_low": None,
            "ci_high": None,
            "n": run.repetitions,
        }
    return Outcome(run, metric, values, speeds, summary, _differences(run, values, metric, settings, seed), references)


def _interval(values: Floats, settings: Evaluate, seed: int) -> Interval:
    return mean_interval(values[np.isfinite(values)], settings.confidence, settings.bootstrap, seed)


def _finite(value: float | None) -> float | None:
    return None if value is None or np.isneginf(value) else value


def _speed(speed: SpeedUp, settings: Evaluate, seed: int) -> dict[str, float | int | None]:
    """Return a speed-up's summary: the mean exists only where nothing is censored, the median always.

    An end of the median's interval that is censored is ``None``; ``censored_below`` says where it lies.
    """
    whole = (
        Interval(None, None, None, len(speed.percent)) if speed.censored else _interval(speed.percent, settings, seed)
    )
    low, high = speed.median_interval(settings.confidence, settings.bootstrap, seed) or (None, None)
    return {
        **whole.as_dict(),
        "median": _finite(speed.median),
        "median_ci_low": _finite(low),
        "median_ci_high": _finite(high),
        "censored": speed.censored,
        "censored_below": speed.bound,
    }


def _differences(
    run: Run, values: dict[str, dict[str, Floats]], metric: str, settings: Evaluate, seed: int
) -> pd.DataFrame:
    """Return paired differences to the noiseless condition in the headline metric and the clean loss."""
    rows: list[dict[str, Any]] = []
    loss = "test_mse" if run.task == "fx" else "test_cross_entropy"
    for name in dict.fromkeys((metric, loss)):
        part: list[dict[str, Any]] = []
        for condition in run.conditions:
            if condition == "none":
                continue
            gap = values[condition][name] - values["none"][name]
            gap = gap[np.isfinite(gap)]
            found = mean_interval(gap, settings.confidence, settings.bootstrap, seed)
            part.append(
                {
                    "task": run.task,
                    "cell": run.cell,
                    "condition": condition,
                    "metric": name,
                    "difference": found.mean,
                    "ci_low": found.low,
                    "ci_high": found.high,
                    "n": found.n,
                    "p_value": sign_flip_p_value(gap),
                }
            )
        for row, p in zip(part, holm([row["p_value"] for row in part]), strict=True):
            row["p_holm"] = p
        rows += part
    return pd.DataFrame(rows)


def forecast_comparisons(run: Run, windows: Windows, losses: dict[str, Floats]) -> pd.DataFrame:
    """Return Diebold-Mariano comparisons of every condition with every naive forecast.

    A condition's daily loss is its squared error averaged over repetitions.
    """
    truth = windows.target_raw[windows.where("test")]
    rows = []
    for condition in run.conditions:
        found = forecasts(run, condition)
        if not found:
            continue
        loss = np.mean([(each - truth) ** 2 for each in found.values()], 0)
        for name, reference in losses.items():
            test = baselines.diebold_mariano(loss, reference)
            rows.append(
                {
                    "task": run.task,
                    "cell": run.cell,
                    "condition": condition,
                    "reference": name,
                    "mse": float(loss.mean()),
                    "reference_mse": float(reference.mean()),
                    "skill": baselines.skill(float(loss.mean()), float(reference.mean())),
                    "dm_statistic": test.statistic,
                    "dm_p_value": test.p_value,
                }
            )
    return pd.DataFrame(rows)


def stack(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all frames that have any."""
    kept = [frame for frame in frames if len(frame)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()
