"""One number, one value: metrics, tables, plots and report against the files of runs.

Which epoch, column, scale and place a number has is decided once more here; the statistics have tests of their own. A
table or a file that no check knows is a failure.
"""

import html
import json
import math
import re
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from nem.conditions import CONDITIONS
from pipeline import tasks
from pipeline.common import paths, records
from pipeline.evaluation import figures, metrics, statistics
from pipeline.fx import windows
from pipeline.tasks.fx import forecasts
from pipeline.training.engine import METRICS
from tests.evaluation import fabricate
from tests.evaluation.fabricate import BOOTSTRAP, EPOCHS, MAX_EPOCHS

RUNS = {"fx": ("fx", None, 10), "video": ("video", None, 3), "video_groups": ("video", "groups", 3)}
"""Name in results → task, further split, repetitions: ten are told apart, three cannot be."""
CELLS, NOISY = ("lstm", "gru"), [name for name in CONDITIONS if name != "none"]
COLUMNS = [f"{mode}-{place}" for mode in ("additive", "multiplicative") for place in ("output", "hidden", "both")]
LABELS = {"none": "RBP without noise", "blind": "RBP with blind noise", "nem": "RBP with NEM noise"}
EXTRAS = {"skill_persistence": 1, "leakage_gap": 100, "test_cross_entropy": 1, "calibration_error": 100}
"""Further columns of the report: metric → shown number per stored number, in the order of the columns."""
NAMES = {"fx": {"mse": "loss"}, "video": {"cross_entropy": "loss", "accuracy": "accuracy"}}
"""Metric → column of the curves."""


def scatter(folder, random):
    """Let no two numbers of a run be equal."""
    for name in ("curves", "predictions"):
        file = folder / f"{name}.parquet"
        schema, frame = records.read_table(file).schema, pd.read_parquet(file)
        for column in (column for column in (*METRICS, "prediction") if column in frame):
            frame[column] *= random.uniform(0.95, 1.05, len(frame))
        if name == "curves":
            frame["acceptance_hidden"] = frame.acceptance_output * random.random(len(frame))
        elif "probabilities" in frame:
            frame["probabilities"] = list(random.dirichlet(np.ones(3), len(frame)).astype(np.float32))
        records.write_table(file, pa.Table.from_pandas(frame, schema, preserve_index=False))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    random = np.random.default_rng(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda outcome: [])  # pictures are no numbers
        patch.chdir(tmp_path_factory.mktemp("numbers"))
        fabricate.fx_data()
        records.write_json(paths.source_record("fx"), {"source": "paper", "unit": "rupees"})  # with the paper's numbers
        fabricate.video_data()
        for (task, split, repetitions), cell in product(RUNS.values(), CELLS):
            fabricate.run(task, cell, split, repetitions=repetitions)
            scatter(paths.run_folder(task, cell, split), random)
        fabricate.judge(tasks.of("fx"), tasks.of("video"))
        yield {(name, cell): Truth(name, cell) for name in RUNS for cell in CELLS}


class Truth:
    """One run's numbers from its files, and its part of ``metrics.json``."""

    def __init__(self, name, cell):
        (self.task, self.split, self.repetitions), self.cell = RUNS[name], cell
        folder, self.fx = paths.run_folder(self.task, cell, self.split), self.task == "fx"
        self.record = json.loads((folder / "run.json").read_text())
        self.curves, self.predictions = (pd.read_parquet(folder / f"{n}.parquet") for n in ("curves", "predictions"))
        self.networks = dict(iter(self.curves.sort_values("epoch").groupby(["condition", "repetition"])))
        self.headline, self.scale = ("test_mse", 1) if self.fx else ("test_accuracy", 100)
        found = json.loads(paths.METRICS.read_text())
        self.entries, self.references = found[name][cell], found["baselines"][name]
        table = pd.read_parquet(paths.sequences(self.task) / "sequences.parquet")
        table = table[table[f"split_{'days' if self.fx else self.split or 'random'}"] == "test"].set_index("row")
        self.truth = table.target.map(np.argmax)
        if self.fx:
            self.days = windows.load(paths.sequences("fx") / windows.FILE)
            self.truth = pd.Series(self.days.target_raw, self.days.day_index)[table.index]

    def curve(self, condition, column):
        return [self.networks[condition, r][column].to_numpy() for r in range(self.repetitions)]

    def at_R(self, condition, column):
        return np.array([own[EPOCHS] if len(own) > EPOCHS else np.nan for own in self.curve(condition, column)])

    def answers(self, condition):
        """Predictions ``(N,)`` or ``(N, K)`` of each repetition that did not fail, and the truth."""
        for _, part in self.predictions[self.predictions.condition == condition].groupby("repetition"):
            yield np.stack(part[part.columns[-1]].to_numpy()).astype(float), self.truth[part.row].to_numpy()

    def values(self, condition):
        sides = product(NAMES[self.task].items(), ("test", "train"))
        out = {f"{side}_{metric}": self.at_R(condition, f"{side}_{column}") for (metric, column), side in sides}
        if self.fx:
            out["skill_persistence"] = 1 - out["test_mse"] / self.references["persistence"]
        else:
            out["calibration_error"] = np.array([metrics.calibration_error(*pair) for pair in self.answers(condition)])
        shares = {name: self.at_R(condition, name) for name in ("acceptance_output", "acceptance_hidden")}
        return out | {name: share for name, share in shares.items() if np.isfinite(share).any()}

    def summary(self, condition):
        """What ``metrics.json`` holds of a condition, the gap between the splits left out."""
        pair = (self.curve(name, "test_loss") for name in (condition, "none"))
        lost = float(np.isnan(self.at_R(condition, "test_loss")).sum())
        return {name: BOOTSTRAP.mean(values).as_dict() for name, values in self.values(condition).items()} | {
            "speed_up_percent": statistics.speed_up(*pair, EPOCHS, MAX_EPOCHS).summary(BOOTSTRAP),
            "failed": statistics.Interval(lost, None, None, self.repetitions).as_dict(),
        }

    def differences(self, metric):
        """Per noisy condition: mean difference, interval, n, p and adjusted p."""
        gaps = {c: self.values(c)[metric] - self.values("none")[metric] for c in NOISY}
        p_values = [statistics.sign_flip_p_value(gap[np.isfinite(gap)]) for gap in gaps.values()]
        for (c, gap), p, holm in zip(gaps.items(), p_values, statistics.holm(p_values), strict=True):
            mean, *rest = BOOTSTRAP.mean(gap).as_dict().items()
            yield {"condition": c, "metric": metric, "difference": mean[1], **dict(rest), "p_value": p, "p_holm": holm}

    def tables(self):
        """Yield the paper's tables of a run, and by kind and column value, interval and the paper's number."""
        for table in (table for table in tasks.of(self.task).tables if table.cell == self.cell):
            rows = {}
            for kind, column in product(LABELS, COLUMNS):
                condition = "none" if kind == "none" else f"{kind}-{column}"
                speed, mean = self.entries[condition]["speed_up_percent"], self.entries[condition][self.headline]
                values = [
                    None if v is None else v * self.scale for v in (mean["mean"], mean["ci_low"], mean["ci_high"])
                ]
                if table.quantity == "speed_up":
                    values = [speed[name] for name in ("median", "median_ci_low", "median_ci_high")]
                    values = [f"< {speed['censored_below']:.0f}" if v is None else v for v in values]
                rows[kind, column] = [*values, table.value(condition)]
            yield table, rows


def gap_of_splits(project, cell, condition):
    pair = (project[name, cell].at_R(condition, "test_accuracy") for name in ("video", "video_groups"))
    return BOOTSTRAP.difference(*pair).as_dict()


def test_metrics_are_those_of_the_runs(project):
    for (name, cell), truth in project.items():
        expected = {c: truth.summary(c) for c in CONDITIONS}
        for c in CONDITIONS if truth.split else ():
            expected[c]["leakage_gap"] = gap_of_splits(project, cell, c)
        given, wanted = (pd.json_normalize(content).loc[0].to_dict() for content in (truth.entries, expected))
        assert given == {k: v if v is None else pytest.approx(v, rel=1e-9, abs=1e-12) for k, v in wanted.items()}, name
        if truth.fx:
            test = truth.days.where("test")
            naive = ((truth.days.last_price_raw - truth.days.target_raw)[test] ** 2).mean()
            assert truth.references["persistence"] == pytest.approx(naive)


def check(name, expected, keys, folder=paths.TABLES):
    """A long table holds these rows, to its nine digits."""
    given, wanted = pd.read_csv(folder / f"{name}.csv"), pd.DataFrame(expected)
    given, wanted = (frame.set_index(keys).sort_index(axis=0).sort_index(axis=1) for frame in (given, wanted))
    pd.testing.assert_frame_equal(given, wanted, check_dtype=False, check_index_type=False, rtol=5.1e-9)
    return f"{name}.csv"


def test_every_csv_holds_the_numbers(project):
    gaps, naive, leaks, checked = [], [], [], {"class_accuracy.csv", "confusion.csv"}  # known answers: test_evaluate.py
    for (name, cell), truth in project.items():
        for table, rows in truth.tables():
            checked.add(file := f"{'groups_' if truth.split else ''}table_{table.number}.csv")
            read = pd.read_csv(paths.TABLES / file, dtype=str, keep_default_na=False, index_col=0)
            for (kind, column), values in rows.items():
                wanted = [v if isinstance(v, str) else "" if v is None else f"{v:.6g}" for v in values]
                own = [column.replace("-", "_") + part for part in ("", "_ci_low", "_ci_high", "_paper")]
                parts = own if truth.fx else own[:3]  # the clips are not the paper's
                assert read.loc[LABELS[kind], parts].tolist() == wanted[: len(parts)], (file, kind, column)
                assert truth.fx or own[3] not in read.columns
        columns = ["train_loss", "test_loss", *([] if truth.fx else ["test_accuracy"])]
        means = truth.curves.pivot_table(columns, ["condition", "epoch"]).reset_index()
        means["run"] = f"{name} {cell}"
        check(f"{name}_{cell}", means, ["condition", "epoch"], paths.PLOTS)
        run = {"task": name, "cell": cell}
        for metric in dict.fromkeys((truth.headline, next(iter(truth.values("none"))))):
            gaps += [run | row for row in truth.differences(metric)]
        for c, (reference, forecast) in product(CONDITIONS, forecasts(truth.days).items() if truth.fx else ()):
            loss = np.mean([(values - answers) ** 2 for values, answers in truth.answers(c)], 0)
            other = (forecast - truth.truth.to_numpy()) ** 2
            naive.append(run | {"condition": c, "reference": reference} | compared(loss, other))
        if truth.split:
            both = [project["video", cell], truth]
            sides = [[one.entries[c]["test_accuracy"]["mean"] for one in both] for c in CONDITIONS]
            ends = [list(gap_of_splits(project, cell, c).values()) for c in CONDITIONS]
            leaks += [(cell, c, *side, *end) for c, side, end in zip(CONDITIONS, sides, ends, strict=True)]
    for model in truth.references:
        first, second = (one.references[model] for one in both)
        leaks.append((model, "baseline", first, second, first - second, None, None, 1))
    names = ["model", "condition", "random_split", "group_split", "gap", "ci_low", "ci_high", "n"]
    checked.add(check("leakage_gap", pd.DataFrame(leaks, columns=names), names[:2]))
    checked.add(check("paired_differences", gaps, ["task", "cell", "condition", "metric"]))
    checked.add(check("forecast_comparisons", naive, ["task", "cell", "condition", "reference"]))
    assert {file.name for file in paths.TABLES.iterdir()} == checked
    assert {file.stem for file in paths.PLOTS.iterdir()} == {f"{name}_{cell}" for name, cell in project}


def compared(loss, naive):
    """Diebold & Mariano's statistic with Bartlett weights and the small-sample factor, by its formula."""
    d, n = loss - naive, len(naive)
    centred, lags = d - d.mean(), int(n ** (1 / 3))
    weights = [1.0, *(2 * (1 - k / (lags + 1)) for k in range(1, lags + 1))]
    variance = sum(w * (centred[k:] @ centred[: n - k]) / n for k, w in enumerate(weights))
    statistic = d.mean() / np.sqrt(variance / n) * np.sqrt((n - 1) / n)
    errors = {"mse": loss.mean(), "reference_mse": naive.mean(), "skill": 1 - loss.mean() / naive.mean()}
    return errors | {"dm_statistic": statistic, "dm_p_value": 2 * stats.t.sf(abs(statistic), n - 1)}


def shown(value, scale=1, digits=4):
    """A number as the report shows it; a text that stands for a censored one stays as it is."""
    if isinstance(value, str):
        return value.replace(" ", "")
    return "–" if value is None or not np.isfinite(value) else f"{value * scale:.{digits}g}"


def aligned(values, scale, decimals, sign=""):
    """Numbers with so many decimals; one that is rounded to 0 has no sign."""
    texts = ["–" if v is None else f"{v * scale:{sign}.{decimals}f}" for v in values]
    return [text if text.strip("+-0.") else text.strip("+-") for text in texts]


def numbers(content):
    """The numbers of a text, as they are written."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", content)).replace("< ", "<").replace("−", "-")
    return re.findall(r"<?(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?|–", text)


def read_report(page):
    """Per section the numbers of its verdict, and those in each row of its tables, the first cell left out."""
    found = {}
    for name, content in re.findall(r'<section id="([\w-]+)"[^>]*>(.*?)(?=<section id=|</main>)', page, re.S):
        tables = re.findall(r'<div class="scroll".*?</table>', content, re.S)
        rows = [[numbers(row) for row in re.findall(r"<tr[^>]*>.*?</t[dh]>(.*?)</tr>", part, re.S)] for part in tables]
        told = re.search(r'<p class="note">(.*?)</p>', content, re.S)
        found[name] = numbers(told[1]) if told else [], [[row for row in part if row] for part in rows]
    return found


def shifts(truth, condition):
    """The length of NEM noise's mean, σ/√2π, at the first epoch and at R."""
    kind, mode, place = condition.split("-") if condition != "none" else ("none", "", "")
    for layer in ("output", "hidden"):
        setting = truth.record["settings"]["noise"][layer].get(mode)
        if place not in (layer, "both"):
            yield "–"
        elif kind == "blind":
            yield "0"
        else:
            ends = [setting["sigma"] / epoch ** setting["decay"] / np.sqrt(2 * np.pi) for epoch in (1, EPOCHS)]
            yield from dict.fromkeys(shown(end, 1, 2) for end in ends)


def test_every_table_and_verdict_of_the_report_shows_the_numbers(project):
    found, sure, sizes = read_report(paths.REPORT.read_text()), {}, []
    for (name, cell), truth in project.items():
        own, scale, settings = truth.entries, truth.scale, truth.record["settings"]
        told, (first, second) = found[f"{name}-{cell}"]
        sizes.append([str(truth.record[f"{side}_sequences"]) for side in ("train", "test")])
        sizes[-1] += [*map(str, (settings["hidden"], settings["learning_rate"], settings["batch_size"]))]
        sizes[-1] += [str(EPOCHS), str(truth.repetitions)]
        means = {c: own[c][truth.headline]["mean"] for c in CONDITIONS}
        places = max(0, 2 - math.floor(math.log10(min(abs(mean * scale) for mean in means.values()))))
        gaps, tones = {row["condition"]: row for row in truth.differences(truth.headline)}, {}
        (_, errors), (_, speeds) = truth.tables()
        for c, row, other in zip(CONDITIONS, first, second, strict=True):
            key = ("none", "additive-output") if c == "none" else tuple(c.split("-", 1))
            value, speed, gap = own[c][truth.headline], speeds[key], gaps.get(c)
            printed = [[f"{errors[key][3]:.3f}"], [f"{speed[3]:.0f}"]] if truth.fx else [[], []]
            ends = ("ci_low", "ci_high")
            wanted = printed[0] + aligned([value["mean"], *map(value.get, ends)], scale, places)
            if gap:
                wanted += aligned([gap["difference"]], scale, places, "+")
                wanted += [*aligned(map(gap.get, ends), scale, places), shown(gap["p_holm"], 1, 2)]
                better = (gap["difference"] < 0) == truth.fx
                tones[c] = (gap["p_holm"] < 0.05 and truth.repetitions >= 9) * (1 if better else -1)
            accepted = (own[c].get(f"acceptance_{place}", {}).get("mean") for place in ("output", "hidden"))
            assert row == [*wanted, *aligned(accepted, 100, 1), *shifts(truth, c)], (name, cell, c)
            more = [shown(own[c].get(m, {}).get("mean"), k, 3) for m, k in EXTRAS.items() if m in own["none"]]
            wanted = [*printed[1], *(shown(v, 1, 3) for v in speed[:3]), *more]
            assert other == [*wanted, f"{own[c]['failed']['mean']:.0f}", str(truth.repetitions)], (name, cell, c)
        kinds = [[tone for c, tone in tones.items() if c.startswith(kind)] for kind in ("nem", "blind")]
        counts = [[str(k) for k in (len(kind), kind.count(1), kind.count(-1))] for kind in kinds]
        wanted = [*counts[0], "<0.05", *counts[1]] if truth.fx else [str(truth.repetitions), "12", "<0.05", "9"]
        if truth.fx:
            best, naive = min(means.values()), truth.references["persistence"]
            wanted += [shown(naive), shown(best), *([] if best < naive else [f"{best / naive:.1f}"])]
        assert told == [shown(means["none"], scale), *wanted]
        sure[name, cell] = sum(map(abs, tones.values()))
    assert found["result"][1] == [sizes]
    naive = [[[shown(v, truth.scale)] for v in truth.references.values()] for (_, cell), truth in project.items()
             if cell == CELLS[0]]  # fmt: skip
    for number, name in enumerate(RUNS):
        naive[number] += [
            [shown(project[name, c].entries["none"][project[name, c].headline]["mean"], project[name, c].scale)]
            for c in CELLS
        ]
    assert [*map(sorted, found["baselines"][1])] == [*map(sorted, naive)]
    for cell, rows in zip(CELLS, found["leakage"][1], strict=True):
        for condition, row in zip(CONDITIONS, rows, strict=False):
            gap = gap_of_splits(project, cell, condition)
            entries = (project[name, cell].entries[condition] for name in ("video", "video_groups"))
            both = (entry["test_accuracy"]["mean"] for entry in entries)
            wanted = [*aligned(both, 100, 1), *aligned([gap["mean"]], 100, 1, "+")]
            assert row == wanted + aligned([gap["ci_low"], gap["ci_high"]], 100, 1)
        assert len(rows) == len(CONDITIONS) + len(project["video", cell].references)
    assert min(sure["fx", cell] for cell in CELLS) > 0 == max(sure[name, cell] for name, cell in sure if name != "fx")
