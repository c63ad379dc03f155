"""From fabricated runs of the tasks, and of one that nobody knows, to every file of the evaluation."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from nem.conditions import Kind
from pipeline import tasks
from pipeline.common import paths, records, sequences
from pipeline.evaluation import evaluate, metrics, report, style
from pipeline.evaluation.task import Task
from pipeline.fx import rates, windows
from pipeline.params import FxWindows
from pipeline.tasks import fx, video
from pipeline.training import results
from tests.conftest import refused
from tests.evaluation import fabricate
from tools import closing, readme

OWN = Task("gestures", "Own gestures", "softmax")
"""A further task: nothing but a name and a head."""
ALL = (fx.TASK, video.TASK, OWN)
CELLS = ("lstm", "gru")
CONDITIONS = ["none", "blind-additive-output", "blind-additive-both", "nem-additive-output", "nem-additive-both"]
SPLITS = {"video": None, "video_groups": "groups"}


@pytest.fixture(scope="module", autouse=True)
def _evaluated(tmp_path_factory):
    """One evaluation of all tasks that the tests of this file read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("evaluated"))
        fabricate.class_data("gestures", groups=False)
        fabricate.fx_data()
        fabricate.video_data()
        for cell in CELLS:
            fabricate.run("gestures", cell)
            fabricate.run("fx", cell)
            for split in SPLITS.values():
                fabricate.run("video", cell, split, conditions=CONDITIONS, repetitions=3)
        fabricate.judge(*ALL)
        yield


def table(name):
    return pd.read_csv(paths.TABLES / f"{name}.csv", dtype=str, index_col=0, keep_default_na=False).T


def test_every_file_is_there():
    tables = ["paired_differences", "forecast_comparisons", "class_accuracy", "confusion", "leakage_gap"]
    tables += [f"table_{n}" for n in range(1, 9)] + [f"groups_table_{n}" for n in range(1, 5)]
    wanted = {"metrics.json", "summary.json", "report.html", "figures/figure_7.png"}
    wanted |= {f"tables/{name}.csv" for name in tables}
    wanted |= {f"figures/figure_{n}.png" for n in ("10", "11", "12", "13", "14", "14_multiplicative")}
    for prefix in ("", "groups_"):
        names = ("9", "9_multiplicative", "1b", "9_gru", "9_gru_multiplicative", "1b_gru")
        wanted |= {f"figures/{prefix}figure_{name}.png" for name in names}
    for cell in CELLS:
        for task in ("fx", "gestures", *SPLITS):
            wanted |= {f"plots/{task}_{cell}.csv", f"figures/overview_{task}_{cell}.png"}
        wanted |= {f"figures/confusion_{name}_{task}_{cell}.png" for task in SPLITS for name in video.SHOWN}
        wanted |= {f"figures/curves_gestures_{cell}_{mode}.png" for mode in ("additive", "multiplicative")}
        wanted |= {f"tables/gestures_{cell}_{quantity}.csv" for quantity in ("accuracy", "speed_up")}
    assert wanted == set(fabricate.hashes())


@pytest.mark.slow
def test_two_evaluations_are_equal_bytes():
    before = fabricate.hashes()
    fabricate.judge(*ALL)
    assert before == fabricate.hashes()


def test_a_new_task_has_metrics_tables_and_its_part_of_the_report():
    content, page = json.loads(paths.METRICS.read_text()), paths.REPORT.read_text()
    assert set(content) == {"fx", "gestures", *SPLITS, "baselines"}
    assert content["baselines"]["gestures"] == {"majority": pytest.approx(4 / 14)}  # most training clips are divers
    entry = content["gestures"]["gru"]
    rows, speeds = table("gestures_gru_accuracy"), table("gestures_gru_speed_up")
    assert float(rows["RBP with NEM noise"]["additive_both"]) == 100
    assert float(speeds["RBP with NEM noise"]["additive_both"]) == 50
    assert not [name for name in rows["RBP with NEM noise"].index if name.endswith("_paper")]
    section = page[page.index('<section id="gestures-gru"') :]
    assert 'class="paper"' not in page
    assert "Generated data (Exchange rate, " in page
    differences = pd.read_csv(paths.TABLES / "paired_differences.csv")
    assert set(differences.metric[differences.task == "gestures"]) == {"test_accuracy", "test_cross_entropy"}
    means = {metric: entry["none"][metric]["mean"] for metric in ("test_accuracy", "calibration_error")}
    right = [1 - fabricate.mistakes(None, "none", r, 14) / 14 for r in range(4)]
    gaps = [abs(0.8 - share) for share in right]  # all answers are given with probability 0.8
    assert means == {"test_accuracy": pytest.approx(np.mean(right)), "calibration_error": pytest.approx(np.mean(gaps))}
    assert f"<td>{100 * np.mean(right):.1f} <span" in section


def test_the_summary_compares_experiments_with_few_numbers(capsys):
    content, metrics_of = json.loads(paths.SUMMARY.read_text()), json.loads(paths.METRICS.read_text())
    own, everything = content["gestures"]["gru"], metrics_of["gestures"]["gru"]
    means = {name: numbers["test_accuracy"]["mean"] for name, numbers in everything.items()}
    assert own["none"] == means["none"]
    assert (own["nem"], own["best"]) == (1.0, 1.0)
    assert own["blind"] == pytest.approx(np.mean([means[name] for name in means if name.startswith("blind")]))
    # Four repetitions of twelve conditions cannot be significant; NEM is twice as fast.
    assert (own["better"], own["worse"], own["speed_up_percent"]) == (None, None, 50)
    assert (own["repetitions"], own["needed"]) == (4, 9)
    errors = (numbers["test_mse"]["mean"] for numbers in metrics_of["fx"]["gru"].values())
    assert content["fx"]["gru"]["best"] == min(errors)
    # Two tasks, one of two splits: at most 60 numbers in all.
    assert 3 * len(CELLS) * len(own) <= 60
    records.write_json(paths.TIMES, {"train fx gru": 12.5, "track": 3})
    paths.PIPELINE.write_text("stages: {train: {}}")
    closing.main()
    printed = capsys.readouterr().out
    assert re.search(r"gestures +gru +0\.\d+ .* 1 +1 +too few repetitions to tell: 4 of 9\n", printed)
    assert printed.startswith("Generated data (fx, video): they cannot show an effect of noise.\n")
    assert "ran: train fx gru 12.5\n" in printed
    per_run = {name: 3 if name in SPLITS else 4 for name in metrics_of if name != "baselines"}
    count = sum(per_run[name] * len(conditions) for name in per_run for conditions in metrics_of[name].values())
    assert f"in MLflow: {count}\n" in printed


def test_runs_of_other_data_missing_runs_and_unknown_tasks_are_named(project):
    """Damaged ones: tests/faults."""
    table = fabricate.class_data("gestures", groups=False)
    fabricate.run("gestures", "lstm")
    refused(FileNotFoundError, "train@gestures-gru", fabricate.judge, OWN)
    sequences.write(paths.sequences("gestures"), replace(table, pools={"": table.pools[""] + 1}))
    told = r"found a run of other data \(about.json, pool.safetensors\); run `dvc"
    refused(ValueError, told, fabricate.judge, OWN, cells=["lstm"])
    refused(ValueError, r"expected one of the tasks .*found 'fax'", tasks.of, "fax")


def test_predictions_come_back_in_order_and_where_all_networks_failed_none_is_best(project):
    fabricate.class_data("gestures", groups=False)
    fabricate.run("gestures", "lstm")
    (evidence,) = evaluate.gather(OWN)
    predictions = metrics.predicted(results.load("gestures", "lstm"), "blind-additive-output")
    assert sorted(predictions) == [0, 2, 3]
    assert predictions[0].shape == (14, 3)
    assert (predictions[0].argmax(1) != evidence.test_classes).tolist() == [True] + [False] * 13
    assert metrics.best_condition(results.load("gestures", "lstm")).startswith("nem")
    fabricate.run("gestures", "lstm", conditions=("none",), repetitions=1, failing=("none", 0, 1))
    run = results.load("gestures", "lstm")
    assert metrics.best_condition(run) is None
    assert metrics.predicted(run, "none") == {}


def test_a_template_misses_no_value_and_every_kind_has_a_look():
    assert all(set(look) == set(get_args(Kind)) for look in (style.COLOURS, style.LINES, style.LABELS))
    sheet = Path(report.__file__).with_name("page.css").read_text()
    assert all(f".k-{kind}" in sheet for kind in get_args(Kind))
    refused(Exception, "'conditions' is undefined", report.render, "report.html.j2", words="a < b")
    assert report.short(math.nan) == "–"


def accuracies(split, condition):
    test = 18 if split == "groups" else 14
    dead = {1} if condition == "blind-additive-output" else set()
    return [1 - fabricate.mistakes(split, condition, r, test) / test for r in range(3) if r not in dead]


def test_errors_by_class_add_up_to_the_accuracies():
    content = json.loads(paths.METRICS.read_text())
    read = [pd.read_csv(paths.TABLES / f"{name}.csv") for name in ("class_accuracy", "confusion")]
    tables = [table.set_index(["task", "cell", "condition"]).sort_index() for table in read]
    for (task, split), condition in itertools.product(SPLITS.items(), CONDITIONS):
        part, counts = (table.loc[task, "lstm", condition] for table in tables)
        within = (part.accuracy * part.test_clips).sum() / part.test_clips.sum()
        assert within == pytest.approx(content[task]["lstm"][condition]["test_accuracy"]["mean"])
        assert within == pytest.approx(np.mean(accuracies(split, condition)))
        right = counts[counts["class"] == counts.predicted]["count"].sum()
        assert right / counts["count"].sum() == pytest.approx(within)


def test_baselines_learn_the_class_and_are_flattered_by_leaking_groups():
    """Groups are told apart by 2,048 numbers and classes by 300 of them: whoever saw the group has it easy."""
    naive = json.loads(paths.METRICS.read_text())["baselines"]
    assert naive["video_groups"]["majority"] == pytest.approx(1 / 3)
    assert 1 / 3 < naive["video_groups"]["logistic_regression"] <= naive["video"]["logistic_regression"] == 1.0


def test_baselines_see_no_test_clip():
    """Test clips change places with those of other classes: fits must not change, so accuracies must."""
    _, evidence = evaluate.gather(video.TASK)
    before, data = video.references(evidence), evidence.dataset
    moved = replace(data, test=replace(data.test, index=data.test.index.roll(6, 0)))
    after = video.references(replace(evidence, dataset=moved))
    assert after["majority"] == before["majority"]
    assert after["logistic_regression"] < before["logistic_regression"]
    one = replace(data, train=data.train.subset((data.train.targets[:, 0] == 1).nonzero().flatten()))
    refused(ValueError, "expected training clips of two classes", video.references, replace(evidence, dataset=one))


def test_figure_7_shows_the_frames_of_its_clip():
    name, video_id, rows = video.example_clip(paths.sequences("video"))
    assert (name, video_id.split("/")[0]) == ("diving", "diving")
    images = video.example_images(video_id, [row + 2 for row in rows])
    assert images.shape == (3, 299, 299, 3)
    assert [int(image[0, 0, 0]) for image in images] == [40 + 10 * k for k in (2, 3, 4)]
    # Features that were acquired have no frames, and only the paper's own have its numbers.
    (evidence, _) = evaluate.gather(video.TASK)
    load = results.load("video", "lstm")
    captions = {}
    for source in ("synthetic", "ucf11", "features"):
        seen = replace(evidence, source={"source": source})
        drawn = video.example(metrics.summarise(video.TASK, seen, load, {"majority": 0.5}, fabricate.BOOTSTRAP))
        captions[source] = [picture.caption[:9] for picture in drawn]
    assert captions == {"synthetic": ["The 3 sam"], "ucf11": ["Figure 7:"], "features": []}


def test_the_readme_gets_one_table_of_real_results_and_what_has_none_stays(tmp_path, monkeypatch):
    """Columns: two splits, the paper's, speed-ups, the paper's; of the LSTM, then of the GRU."""
    head, tail = "<!-- fx:start -->\nkept\n<!-- fx:end -->\n<!-- video:start -->\n", "<!-- video:end -->\nend\n"
    for name in ("README", "RESULTS", "STUDY"):
        (tmp_path / name).write_text(f"{head}old text\n{tail}")
        monkeypatch.setattr(readme, name, tmp_path / name)
    assert readme.main() == 0
    assert readme.README.read_text() == f"{head}old text\n{tail}", "generated data are no results"
    source = records.read_json(paths.source_record("video")) | {"source": "ucf101"}
    (tmp_path / "source.json").write_text(json.dumps(source))
    own = paths.source_record
    monkeypatch.setattr(paths, "source_record", lambda name: tmp_path / "source.json" if name == "video" else own(name))
    assert readme.main() == 0
    text = readme.README.read_text()
    assert (text[: len(head)], text[-len(tail) :]) == (head, tail)
    block = text[len(head) : -len(tail)]
    rows = {line.split(" | ")[0][2:]: line[2:-2].split(" | ")[1:] for line in block.splitlines() if line[:1] == "|"}
    splits = [f"LSTM, {words}" for words in video.TASK.splits.values()]
    assert [*rows][2:] == [f"`{name}`" for name in CONDITIONS]
    assert rows["condition"][:5] == [*splits, "paper", "speed-up", "paper"]
    assert [rows[f"`{name}`"][k] for name in CONDITIONS for k in (2, 4, 7, 9)] == (
        "87.21 0 92.1 0 85.5 -8 93.83 26 89.61 20 94.93 16 93.55 40 94.92 26 96.7 60 95.12 28".split()  # noqa: SIM905
    )
    for name, (column, split) in itertools.product(CONDITIONS, enumerate((None, "groups"))):
        found = rows[f"`{name}`"][column]
        assert float(found.split()[0]) == pytest.approx(100 * np.mean(accuracies(split, name)), abs=0.051)
        assert ("1 failed" in found) == (name == "blind-additive-output")
    assert rows["`nem-additive-both`"][3] == "50; 50"
    assert rows["`blind-additive-both`"][3] == "< -50; < -50"
    assert "majority 33.3" in block.split("group-disjoint split: ")[1].split("\n")[0]


def test_every_task_is_there_with_the_papers_tables():
    regression, own, classification = (tasks.of(name) for name in tasks.TASKS)
    assert (regression.name, own.name, classification.name) == ("fx", "own", "video")
    assert not own.tables
    facts = [(task.measure.name, task.loss, task.measure.gain) for task in (regression, classification)]
    assert facts == [("test_mse", "test_mse", -1), ("test_accuracy", "test_cross_entropy", 1)]
    labels = [regression.measure.label("rupees"), regression.measure.label(""), classification.measure.label("")]
    assert labels == ["test squared error [rupees²]", "test squared error", "test accuracy [%]"]
    tables = [*classification.tables, *regression.tables]
    assert [table.name for table in tables] == [f"table_{number}" for number in range(1, 9)]
    assert all(len(table.blind) == len(table.nem) == 6 for table in tables)
    assert tables[0].value("matched-additive-both") is None
    right = {0: ("nem-additive-both", 96.70), 1: ("none", 0), 4: ("none", 2.087), 7: ("nem-multiplicative-both", 37)}
    assert all(tables[k].value(condition) == value for k, (condition, value) in right.items())


def split(prices, train_end):
    days = np.arange("2000-01-01", "2000-06-01", dtype="datetime64[D]")[: len(prices)]
    settings = FxWindows(train_end=train_end)
    return windows.split_days(rates.Rates(days, np.repeat(prices[:, None], 4, 1)), settings)


def test_forecasts_of_series_whose_answers_are_known():
    random, prices = np.random.default_rng(1), np.full(150, 10.0)
    for t in range(4, 150):
        prices[t] = 2 + 0.5 * prices[t - 1] + 0.2 * prices[t - 2] + 0.1 * prices[t - 4] + random.normal(0, 1e-3)
    days = split(prices, 99)
    naive, test = fx.forecasts(days), days.day_index[days.where("test")]
    assert naive["persistence"].tolist() == prices[test - 1].tolist()
    np.testing.assert_allclose(naive["drift"], prices[test - 1] + np.diff(prices[3 : test[0]]).mean())
    assert np.abs(naive["ar4"] - prices[test]).max() < 0.01
    refused(ValueError, r"expected more than 5 training windows .*found 0", fx.autoregression, split(prices[:12], 6))


def test_diebold_mariano_knows_equal_and_unequal_forecasts():
    """Its formula: tests/test_numbers.py."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=2000) ** 2, random.normal(size=2000) ** 2
    assert fx.diebold_mariano(a, b)[1] > 1e-4
    assert fx.diebold_mariano(b, a + 1)[0] == pytest.approx(-fx.diebold_mariano(a + 1, b)[0])
    assert fx.diebold_mariano(a, a) == (0.0, 1.0)
    assert fx.diebold_mariano(np.ones(9), np.zeros(9)) == (np.inf, 0.0)
    refused(ValueError, "equal length", fx.diebold_mariano, a, b[:10])


def test_the_report_compares_with_the_naive_forecasts_and_windows_of_other_days_are_refused(project):
    data = fabricate.fx_data()
    fabricate.run("fx", "lstm")
    fabricate.judge(fx.TASK, cells=["lstm"])
    page = paths.REPORT.read_text()
    assert "Yesterday&#39;s price has" in page
    assert "the condition that is best on the test data (nem-additive-output" in page
    named = ("rupees", "Table 5", "Figure 11: ", "2.087")
    assert not [words for words in named if words in page], "generated data have no unit and no number of the paper"
    for source, unit, shown in (("csv", "euros", []), ("paper", "rupees", list(named))):
        records.write_json(paths.source_record("fx"), {"source": source})
        fabricate.run("fx", "lstm", about={"unit": unit})
        fabricate.judge(fx.TASK, cells=["lstm"])
        page = (
            paths.REPORT.read_text().partition('<section id="geometry"')[0]
            + paths.REPORT.read_text().partition('<section id="figures"')[2]
        )
        assert f"test squared error [{unit}²]" in page
        assert [words for words in named if words in page] == shown
        table, picture = ("table_5", "figure_11") if shown else ("fx_lstm_squared_error", "predictions_fx")
        assert ("_paper" in (paths.TABLES / f"{table}.csv").read_text()) == bool(shown)
        assert (paths.FIGURES / f"{picture}.png").is_file()
    (evidence,) = evaluate.gather(fx.TASK)
    other = replace(data, target_raw=data.target_raw * 2, last_price_raw=data.last_price_raw * 2)
    windows.save(other, evidence.folder / windows.FILE)
    refused(ValueError, r"expected the test days of the sequences in .*windows\.parquet", fx.references, evidence)


def test_of_a_predicted_change_the_price_is_compared(project):
    """Fabricated networks are 0.1 off; with changes as target they still forecast prices, and rivals are the same."""
    skills = []
    for target in ("price", "change"):
        fabricate.fx_data(target)
        fabricate.run("fx", "lstm")
        fabricate.judge(fx.TASK, cells=["lstm"])
        skills.append(pd.read_csv(paths.RESULTS / "tables/forecast_comparisons.csv", comment="#"))
    np.testing.assert_allclose(skills[1].mse, 0.01, rtol=1e-3)
    np.testing.assert_allclose(skills[0].reference_mse, skills[1].reference_mse)
    np.testing.assert_allclose(skills[0].skill, skills[1].skill, rtol=1e-3)


@pytest.mark.realdata
def test_yesterdays_price_beats_the_papers_best_network(mirror):
    settings = FxWindows(train_end=8000)
    days = windows.split_days(rates.read(mirror / "fx" / "USD_INR.csv"), settings)
    test = days.where("test")
    assert test.sum() == 1696
    assert days.day_index[test][[0, -1]].tolist() == [8001, 9696]
    assert ((days.last_price_raw - days.target_raw)[test] ** 2).mean() == pytest.approx(0.0829, abs=5e-5)
