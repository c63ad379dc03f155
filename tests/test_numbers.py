"""One number, one value: run files, metrics, tables, report and MLflow against a small computation of their own.

The numbers are computed once more here from curves, predictions and data with a few lines of numpy each, and nothing
of ``pipeline.evaluation``. Every file of numbers and every table of the report is compared cell by cell, found by
heading and row; a table or file that no check knows is a failure. How statistics are made has tests of its own.
"""

import csv
import html
import json
import re
import shutil
import sqlite3
from contextlib import closing
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.tracking import MlflowClient
from safetensors.numpy import load_file
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.multitest import multipletests

from nem.conditions import CONDITIONS
from pipeline import params, tasks, tracking
from pipeline.common import paths, records, seeds
from pipeline.evaluation import evaluate, style
from pipeline.training.engine import METRICS
from stages import evaluate as evaluation
from stages import train as training
from tests.evaluation import fabricate

RUNS = {"fx": ("fx", None), "video": ("video", None), "video_groups": ("video", "groups")}
"""Name in results → task and further split."""
TITLES = {"fx": "Exchange rate", "video": "Video, random split of clips", "video_groups": "Video, group-disjoint split"}
CELLS, NOISY = ("lstm", "gru"), [name for name in CONDITIONS if name != "none"]
COLUMNS = [f"{mode}-{place}" for mode in ("additive", "multiplicative") for place in ("output", "hidden", "both")]
LABELS = {"none": "RBP without noise", "blind": "RBP with blind noise", "nem": "RBP with NEM noise"}
EXTRAS = {"skill_persistence": 1, "leakage_gap": 100, "test_cross_entropy": 1, "calibration_error": 100}
"""Further columns of the report: metric → shown number per stored number, in the order of the columns."""
MEAN, REST = "mean", ("ci_low", "ci_high", "n")
TRACKED = (("fx", "lstm"), ("video_groups", "gru"))
"""What is synced to MLflow: one of each kind, since each run costs a tenth of a second."""
NETWORK = ["condition", "repetition"]


def configure(names, repetitions):
    content = params.Params(tasks=names).model_dump()
    content["training"]["repetitions"], content["evaluate"]["bootstrap"] = repetitions, 200
    for name in names:
        content["train"][name] |= {"hidden": 3, "epochs": 10, "max_epochs": 15}
    paths.PARAMS.write_text(params.render(params.validate(content)))


def lose(folder, network, epoch):
    """Let one network have failed in an epoch, as training writes it."""
    lost = {"status": "failed", "failed_epoch": epoch}
    keeps = {"curves": lambda row: row["epoch"] < epoch, "predictions": lambda row: False, "outcomes": bool}
    for name, keep in keeps.items():
        table = records.read_table(folder / f"{name}.parquet")
        rows = [(row, network == tuple(row[key] for key in NETWORK)) for row in table.to_pylist()]
        rows = [row | (lost if own and name == "outcomes" else {}) for row, own in rows if not own or keep(row)]
        records.write_table(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema=table.schema))


@pytest.fixture(scope="module", params=["trained", "significant"])
def project(request, tmp_path_factory, blank):
    """Truly trained runs, some lost, and synced to MLflow; or fabricated ones with differences that no chance makes."""
    with pytest.MonkeyPatch.context() as patch:
        # Pictures are no numbers, and take most of an evaluation's time; logged networks have their own test.
        patch.setattr(
            style, "save", lambda drawn, place: records.write_bytes(place, b"") or style.plt.close(drawn) or place
        )
        patch.setattr(evaluate.geometry, "draw_geometry", lambda folder, seed: [])
        patch.setattr(tracking, "_log_model", lambda *_: None)
        patch.setattr(tracking, "live", None)
        patch.setenv("NEM_EXECUTOR", "serial")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(tmp_path_factory.mktemp(request.param))
        fabricate.fx_data()
        configure(["fx"], 10)
        if request.param == "trained":
            fabricate.video_data()
            configure(["fx", "video"], 2)
            assert [training.main([task, cell]) for task in ("fx", "video") for cell in CELLS] == [0] * 4
            lose(paths.run_folder("fx", "lstm"), ("blind-additive-output", 1), 4)
            lose(paths.run_folder("video", "gru"), ("nem-additive-both", 0), 3)
        for cell in CELLS if request.param == "significant" else ():
            fabricate.run("fx", cell, repetitions=10)
        assert evaluation.main([]) == 0
        if request.param == "trained":
            shutil.copy(blank, "mlflow.db")
            tracking.sync([(RUNS[name][0], cell, RUNS[name][1]) for name, cell in TRACKED])
        yield {(n, c): Truth(n, c) for n in RUNS for c in CELLS if paths.run_folder(RUNS[n][0], c).exists()}


def interval(values, name=MEAN):
    """Mean and 95 % percentile bootstrap interval, from the documented stream of resamples."""
    values = np.asarray(values, float)[np.isfinite(values)]
    n = len(values)
    if n < 2 or (values == values[0]).all():
        middle = float(values[0]) if n else None
        return {name: middle, **dict.fromkeys(REST[:2], middle if n > 1 else None), "n": n}
    draws = seeds.numpy_generator(1, "bootstrap", n).integers(0, n, (200, n))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return {name: values.mean(), "ci_low": low, "ci_high": high, "n": n}


def p_value(gaps):
    """Two-sided sign-flip test over every pattern of signs."""
    patterns = np.array(list(product([1, -1], repeat=len(gaps))))
    return float((abs(patterns @ gaps) >= abs(sum(gaps)) * (1 - 1e-12)).mean()) if len(gaps) > 1 else None


class Truth:
    """One run's numbers from its files."""

    def __init__(self, name, cell):
        (self.task, self.split), self.name, self.cell = RUNS[name], name, cell
        folder = paths.run_folder(self.task, cell, self.split)
        self.record = json.loads((folder / "run.json").read_text())
        self.R, self.last = (self.record["settings"][key] for key in ("epochs", "max_epochs"))
        self.repetitions = range(self.record["repetitions"])
        read = (pd.read_parquet(folder / f"{file}.parquet").groupby(NETWORK) for file in ("curves", "predictions"))
        self.curves, self.predictions = ({key: p.sort_values(p.columns[2]) for key, p in own} for own in read)
        self.fx = self.task == "fx"
        self.headline, self.scale = ("test_mse", 1) if self.fx else ("test_accuracy", 100)
        self.naive = self._forecasts() if self.fx else {}
        self.references = {n: losses.mean() for n, losses in self.naive.items()} if self.fx else self._classifiers()

    def _forecasts(self):
        """Squared errors of the naive forecasts."""
        table = pd.read_parquet(paths.sequences("fx") / "windows.parquet")
        test, truth, before = (table.split == "test").to_numpy(), *table[["target_raw", "last_price_raw"]].to_numpy().T
        self.truth = dict(zip(table.day_index[test], truth[test], strict=True))
        prices = np.concatenate([before[:1], truth])
        X = np.stack([np.ones(len(prices) - 4), *(prices[3 - k : len(prices) - 1 - k] for k in range(4))], 1)
        weights = np.linalg.lstsq(X[~test[3:]], prices[4:][~test[3:]], rcond=None)[0]
        drift = before[test] + (truth - before)[~test].mean()
        forecasts = {"persistence": before[test], "drift": drift, "ar4": X[test[3:]] @ weights}
        return {name: (forecast - truth[test]) ** 2 for name, forecast in forecasts.items()}

    def _classifiers(self):
        """Accuracies of classifiers of mean features."""
        table = pd.read_parquet(paths.sequences("video") / "sequences.parquet")
        pool = load_file(paths.sequences("video") / "pool.safetensors")["vectors"]
        test, label = (table[f"split_{self.split or 'random'}"] == "test").to_numpy(), np.stack(table.target).argmax(1)
        self.truth, known = dict(zip(table.row[test], label[test], strict=True)), label[~test]
        pooled = pool[np.stack(table["index"])].mean(1)
        scaler = StandardScaler().fit(pooled[~test])
        seen, asked = scaler.transform(pooled[~test]), scaler.transform(pooled[test])
        centres = np.stack([seen[known == k].mean(0) for k in range(3)])
        guesses = {"majority": np.bincount(known).argmax()}
        guesses["nearest_centroid"] = np.linalg.norm(asked[:, None] - centres, axis=2).argmin(1)
        guesses["logistic_regression"] = LogisticRegression(max_iter=1000).fit(seen, known).predict(asked)
        return {name: (guess == label[test]).mean() for name, guess in guesses.items()}

    def at_R(self, condition, metric):
        """One value per repetition; NaN where the network had failed."""
        rows = (self.curves[condition, r] for r in self.repetitions)
        return np.array([own[metric].iloc[self.R] if len(own) > self.R else np.nan for own in rows], float)

    def speed_up(self, condition):
        """Of each repetition [%], -inf where it is censored; quantiles are never interpolated."""
        speeds, n = np.full(len(self.repetitions), -np.inf), len(self.repetitions)
        for r in self.repetitions:
            goal = self.curves["none", r].test_loss.iloc[self.R]
            first = np.flatnonzero(self.curves[condition, r].test_loss.to_numpy()[1:] <= goal)[:1]
            speeds[r] = 100 * (self.R - first[0] - 1) / self.R if len(first) else -np.inf
        draws = seeds.numpy_generator(1, "bootstrap-median", n).integers(0, n, (200, n))
        ordered = np.sort(np.concatenate([speeds[None], speeds[draws]]), 1)
        medians = (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2
        ends = dict(
            zip(
                ("median", "median_ci_low", "median_ci_high"),
                (medians[0], *np.sort(medians[1:])[[5, 194]]),
                strict=True,
            )
        )
        censored = int(np.isinf(speeds).sum())
        mean = dict.fromkeys((MEAN, *REST[:2])) | {"n": n} if censored else interval(speeds)
        about = {"censored": censored, "censored_below": -100 * (self.last - self.R) / self.R}
        return mean | {name: None if np.isinf(end) else end for name, end in ends.items()} | about

    def answers(self, condition):
        """Per repetition that did not fail: predictions ``(N,)`` or ``(N, K)``, and the truth."""
        for part in (self.predictions[condition, r] for r in self.repetitions if (condition, r) in self.predictions):
            values = part.prediction.to_numpy() if self.fx else np.stack(part.probabilities).astype(float)
            yield values, np.array([self.truth[row] for row in part.row])

    def calibration(self, condition):
        for p, truth in self.answers(condition):
            gaps, bins = (p.argmax(1) == truth) - p.max(1), np.minimum((p.max(1) * 15).astype(int), 14)
            yield sum(abs(gaps[bins == b].sum()) for b in range(15)) / len(p)

    def values(self, condition):
        """Every metric of ``metrics.json``, one value per repetition; the loss on test data is first."""
        named = {"mse": "loss"} if self.fx else {"cross_entropy": "loss", "accuracy": "accuracy"}
        out = {
            f"{side}_{m}": self.at_R(condition, f"{side}_{c}") for m, c in named.items() for side in ("test", "train")
        }
        if self.fx:
            out["skill_persistence"] = 1 - out["test_mse"] / self.references["persistence"]
        else:
            out["calibration_error"] = np.array(list(self.calibration(condition)))
        shares = {name: self.at_R(condition, name) for name in ("acceptance_output", "acceptance_hidden")}
        return out | {name: share for name, share in shares.items() if np.isfinite(share).any()}

    def summary(self, condition):
        """What ``metrics.json`` holds of a condition, the gap between the splits left out."""
        lost = sum(len(self.curves[condition, r]) <= self.R for r in self.repetitions)
        failed = {MEAN: lost, "ci_low": None, "ci_high": None, "n": len(self.repetitions)}
        means = {name: interval(values) for name, values in self.values(condition).items()}
        return means | {"speed_up_percent": self.speed_up(condition), "failed": failed}

    def differences(self, metric):
        """Per noisy condition: mean difference, interval, n, p and adjusted p."""
        gaps = {c: self.values(c)[metric] - self.values("none")[metric] for c in NOISY}
        rows = {c: interval(g, "difference") | {"p_value": p_value(g[np.isfinite(g)])} for c, g in gaps.items()}
        several = [row["p_value"] for row in rows.values() if row["p_value"] is not None]
        adjusted = iter(multipletests(several, method="holm")[1])
        return {c: row | {"p_holm": None if row["p_value"] is None else next(adjusted)} for c, row in rows.items()}

    def tables(self, entries):
        """Yield the paper's tables of a run: table, and by kind and column value, interval and the paper's number."""
        for table in (t for t in tasks.of(self.task).tables if t.cell == self.cell):
            rows = {}
            for kind, column in product(LABELS, COLUMNS):
                condition = "none" if kind == "none" else f"{kind}-{column}"
                speed, mean = entries[condition]["speed_up_percent"], entries[condition][self.headline]
                values = [v if v is None else v * self.scale for v in (mean[MEAN], mean["ci_low"], mean["ci_high"])]
                if table.quantity == "speed_up":
                    values = [speed[n] for n in ("median", "median_ci_low", "median_ci_high")]
                    values = [f"< {speed['censored_below']:.0f}" if v is None else v for v in values]
                rows[kind, column] = [*values, table.value(condition)]
            yield table, rows


def gap_of_splits(leaky, honest, condition, name=MEAN):
    """Accuracy lost by whole groups on one side, with the interval of independent samples."""
    first, second = (
        values[np.isfinite(values)] for values in (t.at_R(condition, "test_accuracy") for t in (leaky, honest))
    )
    n, ends = min(len(first), len(second)), (None, None)
    if n > 1:
        stream = seeds.numpy_generator(1, "bootstrap-difference", len(first), len(second))
        means = [v[stream.integers(0, len(v), (200, len(v)))].mean(1) for v in (first, second)]
        ends = np.quantile(means[0] - means[1], [0.025, 0.975])
    return {name: first.mean() - second.mean(), "ci_low": ends[0], "ci_high": ends[1], "n": n}


def metrics():
    return json.loads(paths.METRICS.read_text())


def read_rows(file, keys):
    """A long table's rows by their key, each value as it is written."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    by_key = {tuple(row.pop(key) for key in keys): row for row in rows}
    assert len(by_key) == len(rows), f"{file}: repeated rows"
    return by_key


def check_rows(name, keys, expected, folder=paths.TABLES):
    """A long table holds these numbers, to its nine digits and the order of a sum."""
    rows = read_rows(folder / f"{name}.csv", keys)
    given = {k: {c: float(v) if v else None for c, v in row.items()} for k, row in rows.items()}
    assert given.keys() == expected.keys(), name
    for key, row in expected.items():
        near = {c: None if v is None else pytest.approx(v, rel=5.1e-9, abs=1e-15) for c, v in row.items()}
        assert given[key] == near, (name, key)
    return f"{name}.csv"


def shown(value, scale=1, digits=4, sign=""):
    """A number as the report shows it; a text that stands for a censored one stays as it is."""
    if isinstance(value, str):
        return value.replace(" ", "")
    return "–" if value is None or not np.isfinite(value) else f"{value * scale:{sign}.{digits}g}"


def numbers(words):
    """The numbers of a text, as they are written."""
    return re.findall(r"<?(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?|–", words.replace("< ", "<"))


def read_report(page):
    """The report's tables as rows of text by their headings, and what the first paragraph under a heading says."""
    tables, told = {}, {}
    for section, content in re.findall(r"<h2>(.*?)</h2>(.*?)(?=<h2>|$)", page, re.S):
        told[section] = text("".join(re.findall(r"<p[^>]*>(.*?)</p>", content, re.S)[:1]))
        for heading, part in re.findall(r"(?:^|<h3>(.*?)</h3>)(.*?)(?=<h3>|$)", content, re.S):
            for table in re.findall(r"<table>(.*?)</table>", part, re.S):
                assert (section, heading) not in tables, f"two tables under {section}, {heading}"
                rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
                cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in rows]
                tables[section, text(heading)] = [[text(cell) for cell in row] for row in cells]
    return tables, told


def text(content):
    return html.unescape(re.sub(r"<[^>]+>", " ", content))


def test_curves_end_where_predictions_say(project):
    """Training measures losses in single precision, so these agree to its round-off; accuracies are counts."""
    for truth in project.values():
        for (condition, r), part in truth.predictions.items():
            row, answers = truth.curves[condition, r].iloc[truth.R], np.array([truth.truth[row] for row in part.row])
            assert len(part) == truth.record["test_sequences"]
            if truth.fx and len(truth.repetitions) == 2:
                assert row.test_loss == pytest.approx(((part.prediction - answers) ** 2).mean(), rel=1e-4)
            elif not truth.fx:
                p = np.stack(part.probabilities).astype(float)
                assert row.test_accuracy == pytest.approx((p.argmax(1) == answers).mean(), abs=1e-12)
                assert row.test_loss == pytest.approx(-np.log(p[np.arange(len(p)), answers]).mean(), rel=1e-4)


def test_metrics_are_those_of_the_runs(project):
    expected = {"baselines": {name: truth.references for (name, _), truth in project.items()}}
    for (name, cell), truth in project.items():
        entries = expected.setdefault(name, {})[cell] = {c: truth.summary(c) for c in CONDITIONS}
        if truth.split:
            for c in CONDITIONS:
                entries[c]["leakage_gap"] = gap_of_splits(project["video", cell], truth, c)
    given, wanted = (pd.json_normalize(content).loc[0].to_dict() for content in (metrics(), expected))
    # But for the order of a sum.
    assert given == {key: v if v is None else pytest.approx(v, rel=1e-9, abs=1e-12) for key, v in wanted.items()}


def test_every_csv_holds_the_numbers(project):
    found, checked = metrics(), set()
    for (name, cell), truth in project.items():
        for table, rows in truth.tables(found[name][cell]):
            file = f"{'groups_' if truth.split else ''}table_{table.number}.csv"
            checked.add(file)
            read = read_rows(paths.TABLES / file, ["training_algorithm"])
            for (kind, column), values in rows.items():
                wanted = [v if isinstance(v, str) else "" if v is None else f"{v:.6g}" for v in values]
                parts = (column.replace("-", "_") + part for part in ("", "_ci_low", "_ci_high", "_paper"))
                assert [read[LABELS[kind],][part] for part in parts] == wanted, (file, kind, column)
        columns = ["train_loss", "test_loss", *([] if truth.fx else ["test_accuracy"])]
        every = pd.concat([own[["condition", "epoch", *columns]] for own in truth.curves.values()])
        means = every.groupby(["condition", "epoch"]).mean()
        expected = {(c, str(epoch)): dict(zip(columns, row, strict=True)) for (c, epoch), *row in means.itertuples()}
        check_rows(f"{name}_{cell}", ("condition", "epoch"), expected, paths.PLOTS)
    assert {file.stem for file in paths.PLOTS.iterdir()} == {f"{name}_{cell}" for name, cell in project}
    gaps, forecasts, leaks, of_classes = {}, {}, {}, {"class_accuracy.csv", "confusion.csv"}
    for key, truth in project.items():
        for metric in {truth.headline, next(iter(truth.values("none")))}:
            gaps |= {(*key, c, metric): row for c, row in truth.differences(metric).items()}
        for c, (name, naive) in product(CONDITIONS, truth.naive.items()):
            loss = np.mean([(values - answers) ** 2 for values, answers in truth.answers(c)], 0)
            forecasts[(*key, c, name)] = compared(loss, naive)
        for c in CONDITIONS if truth.split else ():
            pair = project["video", truth.cell], truth
            means = (np.nanmean(one.at_R(c, "test_accuracy")) for one in pair)
            sides = dict(zip(("random_split", "group_split"), means, strict=True))
            leaks[truth.cell, c] = sides | gap_of_splits(*pair, c, "gap")
        for model, second in truth.references.items() if truth.split else ():
            first = project["video", truth.cell].references[model]
            ends = {"gap": first - second, "ci_low": None, "ci_high": None, "n": 1}
            leaks[model, "baseline"] = {"random_split": first, "group_split": second} | ends
    place = ("task", "cell", "condition")
    checked.add(check_rows("paired_differences", (*place, "metric"), gaps))
    checked.add(check_rows("forecast_comparisons", (*place, "reference"), forecasts))
    checked |= {check_rows("leakage_gap", ("model", "condition"), leaks)} if leaks else set()
    # Errors by class have known answers in tests/tasks.
    assert {file.name for file in paths.TABLES.iterdir()} - of_classes == checked


def compared(loss, naive):
    """Diebold & Mariano's statistic with Bartlett weights and the small-sample factor, by its formula."""
    d, n = loss - naive, len(naive)
    centred, lags = d - d.mean(), int(n ** (1 / 3))
    weights = [1.0, *(2 * (1 - k / (lags + 1)) for k in range(1, lags + 1))]
    variance = sum(w * (centred[k:] @ centred[: n - k]) / n for k, w in enumerate(weights))
    statistic = d.mean() / np.sqrt(variance / n) * np.sqrt((n - 1) / n)
    errors = {"mse": loss.mean(), "reference_mse": naive.mean(), "skill": 1 - loss.mean() / naive.mean()}
    return errors | {"dm_statistic": statistic, "dm_p_value": 2 * stats.t.sf(abs(statistic), n - 1)}


def test_every_table_and_verdict_of_the_report_shows_the_numbers(project):
    found, counted, expected = metrics(), 0, {}
    tables, told = read_report(paths.REPORT.read_text())
    for (name, cell), truth in project.items():
        title, own, settings = f"{TITLES[name]}: {cell.upper()}", found[name][cell], truth.record["settings"]
        sizes = [settings["hidden"], settings["learning_rate"], settings["batch_size"], truth.R, len(truth.repetitions)]
        row = [*sizes, truth.record["train_sequences"], truth.record["test_sequences"]]
        expected.setdefault(("What was run", ""), []).append([str(value) for value in row])
        for table, rows in truth.tables(own):
            (heading,) = (h for h in tables if h[0] == title and h[1].startswith(f"Table {table.number}:"))
            for kind in LABELS:
                cells = [shown(v, 1, 6 if k == 3 else 4) for c in COLUMNS for k, v in enumerate(rows[kind, c])]
                expected.setdefault(heading, []).append([cell for cell in cells if cell != "–"])
        gaps, tones = truth.differences(truth.headline), {}
        for c in CONDITIONS:
            gap, mean = gaps.get(c), {metric: entry["mean"] for metric, entry in own[c].items()}
            row = [shown(mean[truth.headline], truth.scale)]
            if gap:
                row += [shown(gap["difference"], truth.scale, 3, "+")]
                row += [shown(gap[end], truth.scale, 3) for end in ("ci_low", "ci_high")] + [shown(gap["p_holm"], 1, 2)]
                sure = gap["p_holm"] is not None and gap["p_holm"] < 0.05
                tones[c] = sure * (1 if (gap["difference"] < 0) == truth.fx else -1)
            row += [shown(mean.get(metric), scale, 3) for metric, scale in EXTRAS.items() if metric in own["none"]]
            row += [shown(mean.get(f"acceptance_{place}"), 1, 3) for place in ("output", "hidden")]
            row += [f"{mean['failed']:.0f}", str(len(truth.repetitions))]
            expected.setdefault((title, "Against the noiseless run, paired"), []).append(row)
        expected[title, "Naive baselines"] = [[shown(v, truth.scale)] for v in truth.references.values()]
        kinds = [[tone for c, tone in tones.items() if c.startswith(kind)] for kind in ("nem", "blind")]
        counts = [[str(k) for k in (len(kind), kind.count(1), kind.count(-1))] for kind in kinds]
        wanted = [shown(own["none"][truth.headline]["mean"], truth.scale), *counts[0], "<0.05", *counts[1]]
        if truth.fx:
            best, naive = min(own[c]["test_mse"]["mean"] for c in CONDITIONS), truth.references["persistence"]
            wanted += [shown(naive), shown(best), *([] if best < naive else [f"{best / naive:.1f}"])]
        assert numbers(told[title]) == wanted
        counted += sum(map(abs, tones.values()))
    assert tables.keys() == expected.keys(), "a table that nothing checks"
    for heading, rows in expected.items():
        given = [numbers(" ".join(row[1:])) for row in tables[heading]]
        assert [row for row in given if row] == rows, heading
    # Ten fabricated repetitions are told apart, two trained ones cannot be.
    assert (counted > 0) == (len(project) == 2)


def test_every_slot_and_metric_of_mlflow_is_that_of_the_curves(project):
    if len(project) == 2:
        pytest.skip("fabricated runs are not synced")
    with closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as connection:
        rows = connection.execute("select run_uuid, key, step, value, is_nan from metrics").fetchall()
    logged = {(run, key, step): value for run, key, step, value, _ in rows}
    assert len(logged) == len(rows), "logged twice"
    assert not any(nan for *_, nan in rows)
    client, expected = MlflowClient(tracking.store()), {}
    for name, cell in TRACKED:
        truth = project[name, cell]
        runs = client.search_runs([client.get_experiment_by_name(f"noise-boosted-rbp/{name}").experiment_id])
        runs = [run for run in runs if run.data.metrics]
        axes = [[run.data.params[key] for key in ("task", "cell", *NETWORK)] for run in runs]
        assert sorted(axes) == sorted([name, cell, c, str(r)] for c in CONDITIONS for r in truth.repetitions)
        for run in runs:
            curve = truth.curves[run.data.params["condition"], int(run.data.params["repetition"])]
            assert run.info.status == ("FINISHED" if curve.epoch.max() == truth.last else "FAILED")
            for metric in METRICS:
                for epoch, value in curve[["epoch", metric]].dropna().itertuples(index=False):
                    expected[run.info.run_id, metric, int(epoch)] = value
                    if epoch == truth.R:
                        expected[run.info.run_id, f"{metric}_at_R", int(epoch)] = value
                        assert run.data.metrics[f"{metric}_at_R"] == value
    assert logged == expected
