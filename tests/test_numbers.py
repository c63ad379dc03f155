"""One number, one value: run files, metrics, tables, report and MLflow against a small computation of their own.

The numbers are computed once more here from curves, predictions and data with a few lines of numpy each, and nothing
of ``pipeline.evaluation`` but the paper's printed numbers. Every file of numbers and every table of the report is
compared cell by cell, found by section, heading and row; a table or file that no check knows is a failure.
"""

import csv
import itertools
import json
import shutil
import sqlite3
from contextlib import closing
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.tracking import MlflowClient
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline import params, paths, records, seeds, tracking
from pipeline.conditions import CONDITIONS
from pipeline.evaluation import evaluate, paper, style
from pipeline.training import train
from pipeline.training.engine import METRICS
from tests.evaluation import fabricate

LABELS = {"none": "RBP without noise", "blind": "RBP with blind noise", "nem": "RBP with NEM noise"}
COLUMNS = [f"{mode}-{place}" for mode in ("additive", "multiplicative") for place in ("output", "hidden", "both")]
TITLES = {"fx": "Exchange rate", "video": "Video, random split of clips", "video_groups": "Video, group-disjoint split"}
UNITS = {"fx": "test squared error [rupees²]", "video": "test accuracy [%]", "video_groups": "test accuracy [%]"}
TRACKED = ("fx", "video")
"""What is synced to MLflow: one task of each kind, since each run costs a tenth of a second."""
EXTRAS = {
    "skill vs yesterday's price": ("skill_persistence", 1),
    "test cross entropy [nats]": ("test_cross_entropy", 1),
    "calibration error [%]": ("calibration_error", 100),
    "leakage gap [points]": ("leakage_gap", 100),
}


# ----------------------------------------------------------------------------------------------- where runs come from


def settings_of(repetitions, tasks, cells=("lstm", "gru")):
    """Small settings for both halves."""
    content = params.Params(tasks=list(tasks)).model_dump()
    fx, video = fabricate.fx_params(repetitions=repetitions).model_dump(), fabricate.video_params().model_dump()
    content |= {"fx": fx["fx"], "training": fx["training"], "evaluate": fx["evaluate"], "cells": list(cells)}
    content["train"] = {"fx": fx["train"]["fx"]} | {task: video["train"][task] for task in ("video", "video_groups")}
    return params.validate(content)


def lose(task, cell, condition, repetition, epoch):
    """Let one network have failed in an epoch, as training writes it."""
    folder = paths.run_folder(task, cell)

    def rewrite(name, keep=None, change=None):
        table = records.read_table(folder / name)
        frame = table.select(["condition", "repetition"]).to_pandas()
        mine = ((frame.condition == condition) & (frame.repetition == repetition)).to_numpy()
        if change is None:
            records.write_table(folder / name, table.filter(pa.array(~mine | keep(table))))
        else:
            rows = [row | (change if hit else {}) for row, hit in zip(table.to_pylist(), mine, strict=True)]
            records.write_table(folder / name, pa.Table.from_pylist(rows, schema=table.schema))

    rewrite("curves.parquet", keep=lambda table: table["epoch"].to_numpy() < epoch)
    rewrite("predictions.parquet", keep=lambda table: np.zeros(len(table), bool))
    rewrite("outcomes.parquet", change={"status": "failed", "failed_epoch": epoch})


@pytest.fixture(scope="module")
def without_pictures():
    """Figures are no numbers of the report: they are not drawn, which is most of an evaluation's time."""

    def blank(figure, destination):
        style.plt.close(figure)
        records.write_bytes(destination, b"no picture")
        return destination

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", blank)
        patch.setattr(evaluate.geometry, "draw_geometry", lambda folder, seed: [])
        patch.setattr(tracking, "_log_model", lambda *_: None)  # has its own test
        patch.setenv("NEM_EXECUTOR", "serial")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, without_pictures, blank):
    """Both halves, truly trained, all conditions, both cells, one network lost; evaluated, and synced to MLflow."""
    folder, made = tmp_path_factory.mktemp("trained"), settings_of(2, ("fx", "video", "video_groups"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fabricate.data(made)
        fabricate.video_data()
        records.write_json(paths.source_record("video"), {"source": "synthetic"})
        for task, cell in itertools.product(made.tasks, made.cells):
            train.train(task, cell, made)
        lose("fx", "lstm", "blind-additive-output", 1, 4)
        lose("video", "gru", "nem-additive-both", 0, 3)
        evaluate.evaluate(made)
        shutil.copy(blank, folder / "mlflow.db")
        assert tracking.sync_all(settings_of(2, TRACKED)) == len(TRACKED) * len(made.cells) * len(CONDITIONS) * 2
    return folder, made


@pytest.fixture(scope="module")
def significant(tmp_path_factory, without_pictures):
    """Fabricated exchange-rate runs of ten repetitions: differences in both directions that no chance explains."""
    folder, made = tmp_path_factory.mktemp("significant"), settings_of(10, ("fx",))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for cell in made.cells:
            fabricate.run(made, cell)
        evaluate.evaluate(made)
    return folder, made


@pytest.fixture(params=["trained", "significant"])
def project(request, monkeypatch):
    folder, made = request.getfixturevalue(request.param)
    monkeypatch.chdir(folder)
    return made


@pytest.fixture
def network(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return trained[1]


# ----------------------------------------------------------------------------------------------- the same, once more


def interval(values, made):
    """Mean and percentile bootstrap interval, from the documented stream of resamples."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return (float(values[0]) if n else None), None, None, n
    if (values == values[0]).all():
        return (values[0],) * 3 + (n,)
    draws = seeds.numpy_generator(made.seed, "bootstrap", n).integers(0, n, (made.evaluate.bootstrap, n))
    tail = (1 - made.evaluate.confidence) / 2
    low, high = np.quantile(values[draws].mean(1), [tail, 1 - tail])
    return values.mean(), low, high, n


def p_value(gaps):
    """Two-sided sign-flip test over every pattern of signs."""
    if len(gaps) < 2:
        return None
    patterns = np.array(list(itertools.product([1, -1], repeat=len(gaps))))
    return float((abs(patterns @ gaps) >= abs(sum(gaps)) - 1e-12 * sum(abs(g) for g in gaps)).mean())


def holm(p_values):
    """Holm's step-down adjustment of the p-values that exist."""
    order = sorted((k for k, p in enumerate(p_values) if p is not None), key=lambda k: p_values[k])
    out, most = [None] * len(p_values), 0.0
    for rank, k in enumerate(order):
        out[k] = most = max(most, min(1.0, (len(order) - rank) * p_values[k]))
    return out


class Truth:
    """One run's numbers from its files."""

    def __init__(self, task, cell, made):
        self.task, self.cell, self.made = task, cell, made
        folder = paths.run_folder(task, cell)
        self.record = json.loads((folder / "run.json").read_text())
        self.R, self.last = (self.record["settings"][key] for key in ("epochs", "max_epochs"))
        self.repetitions = range(made.training.repetitions)
        curves = pd.read_parquet(folder / "curves.parquet")
        self.curves = {key: part.sort_values("epoch") for key, part in curves.groupby(["condition", "repetition"])}
        predictions = pd.read_parquet(folder / "predictions.parquet")
        self.predictions = {
            key: part.sort_values("row") for key, part in predictions.groupby(["condition", "repetition"])
        }
        self.fx = task == "fx"
        self.headline = "test_mse" if self.fx else "test_accuracy"
        self.loss = "test_mse" if self.fx else "test_cross_entropy"
        self.scale = 1 if self.fx else 100
        self.references = self._fx_references() if self.fx else self._video_references()

    def _fx_references(self):
        table = pd.read_parquet(paths.FX_WINDOWS)
        test = (table.split == "test").to_numpy()
        truth, before = table.target_raw.to_numpy(), table.last_price_raw.to_numpy()
        self.truth = dict(zip(table.day_index[test], truth[test], strict=True))
        prices = np.concatenate([before[:1], truth])
        X = np.stack([np.ones(len(prices) - 4), *(prices[3 - k : len(prices) - 1 - k] for k in range(4))], 1)
        side = test[3:]
        weights = np.linalg.lstsq(X[~side], prices[4:][~side], rcond=None)[0]
        steps = (truth - before)[~test]
        forecasts = {"persistence": before[test], "drift": before[test] + steps.mean(), "ar4": X[side] @ weights}
        self.naive = {name: (forecast - truth[test]) ** 2 for name, forecast in forecasts.items()}
        return {name: loss.mean() for name, loss in self.naive.items()}

    def _video_references(self):
        clips, features = pd.read_parquet(paths.CLIPS_TABLE), pd.read_parquet(paths.FEATURES_TABLE)
        side = clips.split_groups if self.task == "video_groups" else clips.split_random
        test, label = (side == "test").to_numpy(), clips.label.to_numpy()
        self.truth = dict(zip(clips.clip_id[test], label[test], strict=True))
        vectors = np.stack(features.feature)
        pooled = np.stack([vectors[list(rows)].mean(0) for rows in clips["rows"]])
        scaled = (pooled - pooled[~test].mean(0)) / np.where(pooled[~test].std(0) > 0, pooled[~test].std(0), 1)
        centres = np.stack([scaled[~test & (label == k)].mean(0) for k in range(3)])
        nearest = np.linalg.norm(scaled[test][:, None] - centres, axis=2).argmin(1)
        fitted = LogisticRegression(max_iter=1000).fit(StandardScaler().fit_transform(pooled[~test]), label[~test])
        logistic = fitted.predict(scaled[test].astype(np.float32))
        guesses = {"majority": np.bincount(label[~test]).argmax(), "nearest_centroid": nearest}
        return {
            name: (guess == label[test]).mean() for name, guess in (guesses | {"logistic_regression": logistic}).items()
        }

    def at_R(self, condition, metric):
        """One value per repetition; NaN where the network had failed."""
        found = []
        for r in self.repetitions:
            rows = self.curves.get((condition, r))
            value = [] if rows is None else rows[rows.epoch == self.R][metric].tolist()
            found.append(value[0] if value and value[0] is not None else np.nan)
        return np.array(found, float)

    def speeds(self, condition):
        """Speed-up per repetition [%]; -inf where it is censored."""
        out = []
        for r in self.repetitions:
            noiseless = self.curves["none", r]
            goal = noiseless[noiseless.epoch == self.R].test_loss.iloc[0]
            rows = self.curves.get((condition, r))
            first = [] if rows is None else rows[(rows.epoch > 0) & (rows.test_loss <= goal)].epoch.tolist()
            out.append(100 * (self.R - first[0]) / self.R if first else -np.inf)
        return np.array(out)

    def speed_up(self, condition):
        speeds, n = self.speeds(condition), len(self.repetitions)

        def median(values):
            ordered = np.sort(values)
            return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2

        settings = self.made.evaluate
        draws = seeds.numpy_generator(self.made.seed, "bootstrap-median", n).integers(0, n, (settings.bootstrap, n))
        medians = np.sort([median(speeds[draw]) for draw in draws])
        outside = int((1 - settings.confidence) / 2 * settings.bootstrap)
        censored = int(np.isinf(speeds).sum())
        mean = (None, None, None, n) if censored else interval(speeds, self.made)
        ends = (median(speeds), medians[outside], medians[-1 - outside])
        return (
            dict(zip(("mean", "ci_low", "ci_high", "n"), mean, strict=True))
            | {
                name: None if np.isinf(value) else value
                for name, value in zip(("median", "median_ci_low", "median_ci_high"), ends, strict=True)
            }
            | {"censored": censored, "censored_below": -100 * (self.last - self.R) / self.R}
        )

    def calibration(self, condition):
        out = []
        for r in self.repetitions:
            part = self.predictions.get((condition, r))
            if part is None:
                continue
            p = np.stack(part.probabilities).astype(float)
            right = p.argmax(1) == [self.truth[row] for row in part.row]
            sure = p.max(1)
            error = 0.0
            for b in range(15):
                mine = (sure * 15 >= b) & ((sure * 15 < b + 1) | (b == 14))
                error += abs(right[mine].sum() - sure[mine].sum()) / len(p)
            out.append(error)
        return np.array(out)

    def values(self, condition):
        """Every metric of ``metrics.json``, one value per repetition."""
        loss, training = self.at_R(condition, "test_loss"), self.at_R(condition, "train_loss")
        if self.fx:
            persistence = self.references["persistence"]
            found = {"test_mse": loss, "train_mse": training, "skill_persistence": 1 - loss / persistence}
        else:
            found = {"test_cross_entropy": loss, "train_cross_entropy": training}
            found |= {name: self.at_R(condition, name) for name in ("test_accuracy", "train_accuracy")}
            found["calibration_error"] = self.calibration(condition)
        for name in ("acceptance_output", "acceptance_hidden"):
            if np.isfinite(self.at_R(condition, name)).any():
                found[name] = self.at_R(condition, name)
        return found

    def failed(self, condition):
        return sum(len(self.curves.get((condition, r), ())) <= self.R for r in self.repetitions)

    def summary(self, condition):
        """What ``metrics.json`` holds of a condition, the gap between the splits left out."""
        found = {
            name: dict(zip(("mean", "ci_low", "ci_high", "n"), interval(v[np.isfinite(v)], self.made), strict=True))
            for name, v in self.values(condition).items()
        }
        lost = {"mean": self.failed(condition), "ci_low": None, "ci_high": None, "n": len(self.repetitions)}
        return found | {"speed_up_percent": self.speed_up(condition), "failed": lost}

    def differences(self, metric):
        """Per noisy condition: mean difference, interval, n, p and adjusted p."""
        names = [condition for condition in CONDITIONS if condition != "none"]
        gaps = {c: self.values(c)[metric] - self.values("none")[metric] for c in names}
        gaps = {c: gap[np.isfinite(gap)] for c, gap in gaps.items()}
        p_values = [p_value(gaps[c]) for c in names]
        rows = zip(names, p_values, holm(p_values), strict=True)
        return {c: (*interval(gaps[c], self.made), p, adjusted) for c, p, adjusted in rows}


def gap_of_splits(leaky, honest, condition):
    """Accuracy lost by whole groups on one side, with the interval of independent samples."""
    pair = [each.at_R(condition, "test_accuracy") for each in (leaky, honest)]
    first, second = (values[np.isfinite(values)] for values in pair)
    n, settings = min(len(first), len(second)), leaky.made.evaluate
    gap = first.mean() - second.mean()
    if n < 2:
        return gap, None, None, n
    stream = seeds.numpy_generator(leaky.made.seed, "bootstrap-difference", len(first), len(second))
    means = [v[stream.integers(0, len(v), (settings.bootstrap, len(v)))].mean(1) for v in (first, second)]
    tail = (1 - settings.confidence) / 2
    return gap, *np.quantile(means[0] - means[1], [tail, 1 - tail]), n


def truths(made):
    return {(task, cell): Truth(task, cell, made) for task in made.tasks for cell in made.cells}


def same(found, expected, place=""):
    """Nested numbers are equal but for the order of a sum."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), place
        assert found.keys() == expected.keys(), place
        for key in expected:
            same(found[key], expected[key], f"{place}/{key}")
    elif expected is None or (isinstance(expected, float) and np.isnan(expected)):
        assert found is None or (isinstance(found, float) and np.isnan(found)), f"{place}: {found}"
    elif isinstance(expected, str):
        assert found == expected, place
    else:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), place


def written():
    return json.loads(paths.METRICS.read_text())


# ------------------------------------------------------------------------------------- run files and metrics.json


def test_curves_end_where_predictions_say(network):
    """Training measures losses in single precision, so these agree to its round-off; accuracies are counts."""
    for truth in truths(network).values():
        lost = 0
        for (condition, r), rows in truth.curves.items():
            part = truth.predictions.get((condition, r))
            if part is None:
                lost += 1
                continue
            answers = np.array([truth.truth[row] for row in part.row])
            assert len(part) == len(truth.truth) == truth.record["test_sequences"]
            row = rows[rows.epoch == truth.R].iloc[0]
            if truth.fx:
                assert row.test_loss == pytest.approx(((part.prediction - answers) ** 2).mean(), rel=1e-4)
            else:
                p = np.stack(part.probabilities).astype(float)
                assert row.test_accuracy == pytest.approx((p.argmax(1) == answers).mean(), abs=1e-12)
                assert row.test_loss == pytest.approx(-np.log(p[np.arange(len(p)), answers]).mean(), rel=1e-4)
        assert lost == sum(truth.failed(condition) for condition in CONDITIONS)
        outcomes = pd.read_parquet(paths.run_folder(truth.task, truth.cell) / "outcomes.parquet")
        assert (outcomes.status == "failed").sum() == lost


def test_metrics_are_those_of_the_runs(project):
    every, found = truths(project), written()
    expected = {}
    for (task, cell), truth in every.items():
        expected.setdefault(task, {})[cell] = {condition: truth.summary(condition) for condition in CONDITIONS}
        expected.setdefault("baselines", {})[task] = truth.references
        if task == "video_groups":
            for condition, entry in expected[task][cell].items():
                gap = gap_of_splits(every["video", cell], truth, condition)
                entry["leakage_gap"] = dict(zip(("mean", "ci_low", "ci_high", "n"), gap, strict=True))
    same(found, expected)


# -------------------------------------------------------------------------------------------------------- CSV tables


def six(value):
    return "" if value is None else f"{value:.6g}"


def cell_source(truth, quantity, entry):
    """Value and interval of a cell of Tables 1-8 as numbers or as text that stands for a censored one."""
    if quantity == "speed_up":
        speed = entry["speed_up_percent"]
        ends = [speed[name] for name in ("median", "median_ci_low", "median_ci_high")]
        return [f"< {speed['censored_below']:.0f}" if each is None else each for each in ends]
    found = entry[truth.headline]
    return [None if found[name] is None else found[name] * truth.scale for name in ("mean", "ci_low", "ci_high")]


def tables_of(truth):
    """The paper's tables that a run rebuilds: with the condition in every cell."""
    base = "fx" if truth.fx else "video"
    for table in paper.TABLES:
        if (table.task, table.cell) == (base, truth.cell):
            yield (
                table,
                {kind: ["none" if kind == "none" else f"{kind}-{column}" for column in COLUMNS] for kind in LABELS},
            )


def test_every_csv_holds_the_metrics(project):
    every, found, checked = truths(project), written(), set()
    for (task, cell), truth in every.items():
        for table, rows in tables_of(truth):
            name = f"{'groups_' if task == 'video_groups' else ''}table_{table.number}.csv"
            checked.add(name)
            with (paths.TABLES / name).open(newline="") as file:
                read = list(csv.DictReader(file))
            assert [row["training_algorithm"] for row in read] == list(LABELS.values())
            for row, (kind, conditions) in zip(read, rows.items(), strict=True):
                for column, condition in zip(COLUMNS, conditions, strict=True):
                    source = cell_source(truth, table.quantity, found[task][cell][condition])
                    source.append(table.value(condition))
                    for part, value in zip(("", "_ci_low", "_ci_high", "_paper"), source, strict=True):
                        shown = row[column.replace("-", "_") + part]
                        assert shown == (value if isinstance(value, str) else six(value)), (name, kind, column, part)
    checked |= check_differences(every)
    if "fx" in project.tasks:
        checked |= check_forecasts(every)
    if "video" in project.tasks:
        checked |= check_classes(every) | check_gaps(every, found)
    assert {file.name for file in paths.TABLES.iterdir()} == checked
    check_plots(every)


def read_rows(name, keys, folder=None):
    """A long table's rows by their key, each value as it is written."""
    with ((folder or paths.TABLES) / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {tuple(row.pop(key) for key in keys): row for row in rows}
    assert len(found) == len(rows), f"{name}: repeated rows"
    return found


def compare_rows(name, found, expected):
    assert found.keys() == expected.keys(), name
    for key, row in expected.items():
        assert found[key].keys() == row.keys(), name
        for column, value in row.items():
            read = found[key][column]
            assert (read == "") == (value is None), (name, key, column)
            if value is not None:
                # Half a unit of the ninth digit, and the order of a sum.
                half = 0.5 * 10.0 ** (np.floor(np.log10(abs(value))) - 8) if value else 0.0
                assert abs(float(read) - value) <= half * (1 + 1e-3) + 1e-15, (name, key, column)


def check_differences(every):
    expected = {}
    for (task, cell), truth in every.items():
        for metric in dict.fromkeys((truth.headline, truth.loss)):
            for condition, row in truth.differences(metric).items():
                names = ("difference", "ci_low", "ci_high", "n", "p_value", "p_holm")
                expected[task, cell, condition, metric] = dict(zip(names, row, strict=True))
    keys = ("task", "cell", "condition", "metric")
    compare_rows("paired differences", read_rows("paired_differences.csv", keys), expected)
    return {"paired_differences.csv"}


def check_forecasts(every):
    """Diebold & Mariano's statistic with Bartlett weights and the small-sample factor, by its formula."""
    expected = {}
    for (task, cell), truth in every.items():
        for condition, (name, naive) in itertools.product(CONDITIONS, truth.naive.items() if truth.fx else ()):
            parts = [truth.predictions.get((condition, r)) for r in truth.repetitions]
            answers = np.array(list(truth.truth.values()))
            loss = np.mean([(part.prediction.to_numpy() - answers) ** 2 for part in parts if part is not None], 0)
            d, n = loss - naive, len(naive)
            lags = int(n ** (1 / 3))
            centred = d - d.mean()
            variance = sum(
                (1 if k == 0 else 2 * (1 - k / (lags + 1))) * (centred[k:] @ centred[: n - k]) / n
                for k in range(lags + 1)
            )
            statistic = d.mean() / np.sqrt(variance / n) * np.sqrt((n - 1) / n)
            expected[task, cell, condition, name] = {
                "mse": loss.mean(),
                "reference_mse": naive.mean(),
                "skill": 1 - loss.mean() / naive.mean(),
                "dm_statistic": statistic,
                "dm_p_value": 2 * stats.t.sf(abs(statistic), n - 1),
            }
    keys = ("task", "cell", "condition", "reference")
    compare_rows("forecast comparisons", read_rows("forecast_comparisons.csv", keys), expected)
    return {"forecast_comparisons.csv"}


def check_classes(every):
    accuracy, confusion = {}, {}
    for (task, cell), truth in every.items():
        if truth.fx:
            continue
        for condition in CONDITIONS:
            parts = [truth.predictions.get((condition, r)) for r in truth.repetitions]
            counts = []
            for part in (part for part in parts if part is not None):
                pairs = [
                    (truth.truth[row], int(np.argmax(p))) for row, p in zip(part.row, part.probabilities, strict=True)
                ]
                counts.append([[pairs.count((i, j)) for j in range(3)] for i in range(3)])
            counts = np.array(counts)
            for i, name in enumerate(fabricate.CLASSES):
                clips = counts[0, i].sum()
                row = interval(counts[:, i, i] / clips, truth.made)
                accuracy[task, cell, condition, name] = {"test_clips": clips} | dict(
                    zip(("accuracy", "ci_low", "ci_high", "n"), row, strict=True)
                )
                for j, other in enumerate(fabricate.CLASSES):
                    confusion[task, cell, condition, name, other] = {"count": counts[:, i, j].sum()}
    keys = ("task", "cell", "condition", "class")
    compare_rows("class accuracy", read_rows("class_accuracy.csv", keys), accuracy)
    compare_rows("confusion", read_rows("confusion.csv", (*keys, "predicted")), confusion)
    return {"class_accuracy.csv", "confusion.csv"}


def check_gaps(every, found):
    expected = {}
    names = ("gap", "ci_low", "ci_high", "n")
    for cell, condition in itertools.product(("lstm", "gru"), CONDITIONS):
        both = [found[task][cell][condition]["test_accuracy"]["mean"] for task in ("video", "video_groups")]
        gap = gap_of_splits(every["video", cell], every["video_groups", cell], condition)
        expected[cell, condition] = {"random_split": both[0], "group_split": both[1]} | dict(
            zip(names, gap, strict=True)
        )
    for name, first in every["video", "lstm"].references.items():
        second = every["video_groups", "lstm"].references[name]
        expected[name, "baseline"] = {"random_split": first, "group_split": second} | dict(
            zip(names, (first - second, None, None, 1), strict=True)
        )
    compare_rows("leakage gap", read_rows("leakage_gap.csv", ("model", "condition")), expected)
    return {"leakage_gap.csv"}


def check_plots(every):
    names = set()
    for (task, cell), truth in every.items():
        names.add(f"{task}_{cell}.csv")
        columns = ["train_loss", "test_loss"] + ([] if truth.fx else ["test_accuracy"])
        sums = {}
        for (condition, _), rows in truth.curves.items():
            for row in rows.itertuples():
                sums.setdefault((condition, str(row.epoch)), []).append([getattr(row, name) for name in columns])
        expected = {key: dict(zip(columns, np.mean(values, 0), strict=True)) for key, values in sums.items()}
        found = read_rows(f"{task}_{cell}.csv", ("condition", "epoch"), paths.PLOTS)
        compare_rows(f"plots of {task} {cell}", found, expected)
    assert {file.name for file in paths.PLOTS.iterdir()} == names


# ------------------------------------------------------------------------------------------------------ the report


class Page(HTMLParser):
    """The report's tables by section and heading, cell by cell, and its verdicts."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.verdicts = {}, {}
        self.h2 = self.h3 = self.kind = ""
        self.row = self.cell = self.note = self.table = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        named = dict(attrs).get("class", "") or ""
        if tag in ("h2", "h3"):
            self.h3 = ""
            self.kind = tag
            if tag == "h2":
                self.h2 = ""
        elif tag == "p" and named == "note":
            self.note = ""
        elif tag == "table":
            self.table = []
        elif tag == "tr":
            self.row = []
        elif tag in ("td", "th"):
            self.cell = {"tag": tag, "class": named, "": "", "ci": "", "paper": ""}
        elif tag == "span" and self.cell is not None:
            self.kind = named

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.row.append({key: value.strip() for key, value in self.cell.items()})
            self.cell = None
        elif tag == "tr":
            self.table.append(self.row)
        elif tag == "table":
            assert (self.h2, self.h3) not in self.tables, f"two tables under {self.h2!r}, {self.h3!r}"
            self.tables[self.h2, self.h3] = self.table
        elif tag == "p" and self.note is not None:
            self.verdicts.setdefault(self.h2, []).append(self.note)
            self.note = None
        if tag in ("h2", "h3", "span"):
            self.kind = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell[self.kind] += data
        elif self.note is not None:
            self.note += data
        elif self.kind in ("h2", "h3"):
            setattr(self, self.kind, getattr(self, self.kind) + data)


def body(table):
    """The rows under the heads of a table, the heads apart."""
    heads = [[cell[""] for cell in row] for row in table if row[0]["tag"] == "th"]
    return heads, [row for row in table if row[0]["tag"] == "td"]


def rounded(value, scale=1, digits=4, sign=""):
    """A number as the report shows it; text stays as it is."""
    if isinstance(value, str):
        return value
    return "–" if value is None or not np.isfinite(value) else f"{value * scale:{sign}.{digits}g}"


def test_every_table_of_the_report_shows_the_metrics(project):
    every, found = truths(project), written()
    page = Page(paths.REPORT.read_text())
    seen = {("What was run", "")}
    check_what_was_run(page, every)
    for (task, cell), truth in every.items():
        title = f"{TITLES[task]}: {cell.upper()}"
        for table, rows in tables_of(truth):
            what = {"accuracy": "test accuracy [%]", "squared_error": "mean squared test error [rupees²]"}
            heading = f"Table {table.number}: {cell.upper()}, " + what.get(
                table.quantity, "training speed-up, median [%]"
            )
            seen.add((title, heading))
            check_table(page.tables[title, heading], truth, table, rows, found[task][cell])
        seen.add((title, "Against the noiseless run, paired"))
        check_paired(page.tables[title, "Against the noiseless run, paired"], truth, found[task][cell])
        seen.add((title, "Naive baselines"))
        heads, rows = body(page.tables[title, "Naive baselines"])
        assert heads == [["baseline", UNITS[task]]]
        assert len(rows) == len(found["baselines"][task])
        assert {row[0][""]: row[1][""] for row in rows} == {
            name.replace("_", " "): rounded(value, truth.scale) for name, value in found["baselines"][task].items()
        }
    assert page.tables.keys() == seen, "a table that nothing checks"


def check_what_was_run(page, every):
    heads, rows = body(page.tables["What was run", ""])
    names = ["task", "cell", "hidden", "optimiser", "rate", "batch", "R", "repetitions", "training", "test"]
    assert heads == [names]
    expected = []
    for (task, cell), truth in every.items():
        settings = truth.record["settings"]
        chosen = [settings[key] for key in ("hidden", "optimiser", "learning_rate", "batch_size", "epochs")]
        sizes = [truth.record[key] for key in ("train_sequences", "test_sequences")]
        expected.append([str(each) for each in (task, cell, *chosen, len(truth.repetitions), *sizes)])
    assert [[cell[""] for cell in row] for row in rows] == expected


def check_table(table, truth, printed, rows, entries):
    heads, shown = body(table)
    assert heads == [
        ["Training", "Additive noise", "Multiplicative noise"],
        ["Output", "Hidden", "Output & hidden"] * 2,
    ]
    assert len(shown) == len(rows)
    for row, (kind, conditions) in zip(shown, rows.items(), strict=True):
        assert row[0][""] == LABELS[kind]
        for cell, condition in zip(row[1:], conditions, strict=True):
            value, low, high = (rounded(each) for each in cell_source(truth, printed.quantity, entries[condition]))
            where = (truth.task, truth.cell, printed.number, condition)
            assert cell[""] == value, where
            assert cell["ci"] == ("" if low == "–" else f"[{low}, {high}]"), where
            assert cell["paper"] == f"paper {rounded(printed.value(condition), digits=6)}", where


def check_paired(table, truth, entries):
    (heads,), rows = body(table)
    differences = truth.differences(truth.headline)
    extras = heads[5:-2]
    assert heads[:5] == ["condition", UNITS[truth.task], "difference", "interval", "p (Holm)"]
    assert heads[-2:] == ["acceptance out / gates", "failed"]
    assert extras == [name for name, (metric, _) in EXTRAS.items() if metric in entries["none"]]
    assert [row[0][""] for row in rows] == list(CONDITIONS)
    for row, condition in zip(rows, CONDITIONS, strict=True):
        entry = entries[condition]

        def mean(metric, entry=entry):
            return entry.get(metric, {}).get("mean")

        accepted = [rounded(mean(f"acceptance_{place}"), digits=3) for place in ("output", "hidden")]
        expected = [condition, rounded(mean(truth.headline), truth.scale)]
        tone = ""
        if condition == "none":
            expected += ["", "", ""]
        else:
            gap, low, high, _, _, adjusted = differences[condition]
            expected += [rounded(gap, truth.scale, 3, "+")]
            expected += [f"[{rounded(low, truth.scale, 3)}, {rounded(high, truth.scale, 3)}]"]
            expected += [rounded(adjusted, digits=2)]
            if adjusted is not None and adjusted < 0.05:
                tone = "better" if (gap < 0) == truth.fx else "worse"
        expected += [rounded(mean(EXTRAS[name][0]), EXTRAS[name][1], 3) for name in extras]
        expected += [" / ".join(accepted), f"{entry['failed']['mean']:.0f}/{len(truth.repetitions)}"]
        assert [cell[""] for cell in row] == expected, (truth.task, truth.cell)
        assert row[2]["class"] == tone, (truth.task, truth.cell, condition)


def test_every_verdict_counts_what_the_numbers_show(project):
    found, page = written(), Page(paths.REPORT.read_text())
    counted = 0
    for (task, cell), truth in truths(project).items():
        (text,) = page.verdicts[f"{TITLES[task]}: {cell.upper()}"]
        rows = truth.differences(truth.headline)

        def count(kind, better, rows=rows, truth=truth):
            sure = [
                row[0]
                for name, row in rows.items()
                if name.startswith(kind) and (1 if row[5] is None else row[5]) < 0.05
            ]
            return sum((gap < 0) == (truth.fx == better) for gap in sure)

        means = {c: found[task][cell][c][truth.headline]["mean"] for c in CONDITIONS}
        numbers = [count(kind, better) for kind in ("nem", "blind") for better in (True, False)]
        counted += sum(numbers)
        expected = (
            f"{cell.upper()}: noiseless {'test squared error' if truth.fx else 'test accuracy'} "
            f"{rounded(means['none'], truth.scale)}. Of 6 NEM conditions {numbers[0]} are significantly better and "
            f"{numbers[1]} significantly worse than no noise (Holm-adjusted p < 0.05); of 6 blind conditions "
            f"{numbers[2]} and {numbers[3]}."
        )
        if truth.fx:
            mean, best = min((value, name) for name, value in means.items() if value is not None)
            naive = truth.references["persistence"]
            told = "better" if mean < naive else f"{mean / naive:.1f} times worse"
            expected += (
                f" Yesterday's price has {rounded(naive)}: the best condition ({best}, {rounded(mean)}) is {told}."
            )
        assert text == expected
    # Ten fabricated repetitions are told apart, two trained ones cannot be.
    assert (counted > 0) == (project.training.repetitions == 10)


# ------------------------------------------------------------------------------------------------------------ MLflow


def test_every_slot_and_metric_of_mlflow_is_that_of_the_curves(network):
    client = MlflowClient(tracking.store())
    with closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as connection:
        rows = connection.execute("select run_uuid, key, step, value, is_nan from metrics").fetchall()
    logged = {}
    for run, key, step, value, nan in rows:
        assert not nan
        assert (run, key, step) not in logged, "logged twice"
        logged[run, key, step] = value
    left, found = set(logged), written()
    for task in TRACKED:
        experiment = client.get_experiment_by_name(f"noise-boosted-rbp/{task}").experiment_id
        runs = client.search_runs([experiment], max_results=1000)
        slots = {run.data.tags[tracking.SLOT]: run for run in runs}
        assert len(slots) == len(runs)
        wanted = {f"{task}/{cell}" for cell in network.cells}
        for cell in network.cells:
            truth, at_R = Truth(task, cell, network), {}
            for condition, r in itertools.product(CONDITIONS, truth.repetitions):
                slot = f"{task}/{cell}/{condition}/{r}"
                wanted.add(slot)
                run = slots[slot]
                axes = [run.data.params[name] for name in ("task", "cell", "condition", "repetition")]
                assert axes == [task, cell, condition, str(r)]
                curve = truth.curves.get((condition, r))
                assert run.info.status == ("FINISHED" if curve.epoch.max() == truth.last else "FAILED")
                for name in METRICS:
                    values = curve[["epoch", name]].dropna()
                    last = {f"{name}_at_R": values[values.epoch == truth.R]}
                    for key, part in ({name: values} | last).items():
                        for epoch, value in zip(part.epoch, part[name], strict=True):
                            assert logged[run.info.run_id, key, int(epoch)] == value, (slot, key, epoch)
                            left.discard((run.info.run_id, key, int(epoch)))
                            if key.endswith("_at_R"):
                                assert run.data.metrics[key] == value
                                at_R.setdefault((condition, name), []).append(value)
            for condition in CONDITIONS:
                entry = found[task][cell][condition]
                assert entry[truth.loss]["mean"] == np.mean(at_R[condition, "test_loss"])
                if not truth.fx:
                    assert entry["test_accuracy"]["mean"] == np.mean(at_R[condition, "test_accuracy"])
        assert slots.keys() == wanted
    assert not left, "metrics that the curves do not have"
