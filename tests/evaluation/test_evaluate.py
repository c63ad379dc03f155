"""From fabricated runs of a task that nobody knows to every file of the evaluation; tests/test_numbers.py counts."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from nem.conditions import CONDITIONS, Kind
from pipeline import tasks
from pipeline.common import paths, sequences
from pipeline.evaluation import evaluate, metrics, report, style
from pipeline.evaluation.task import Task
from pipeline.training import results
from tests.evaluation import fabricate

OWN = Task("gestures", "Own gestures", "softmax")
"""A third task: nothing but a name and a head."""
FX = tasks.of("fx")
CELLS = ("lstm", "gru")
pytestmark = pytest.mark.usefixtures("evaluated")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One evaluation of all tasks that the tests of this file read."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fabricate.class_data("gestures", groups=False)
        fabricate.fx_data()
        for cell in CELLS:
            fabricate.run("gestures", cell)
            fabricate.run("fx", cell)
        fabricate.judge(FX, OWN)
    return folder


@pytest.fixture
def evaluated(whole, monkeypatch):
    monkeypatch.chdir(whole)


def table(name):
    return pd.read_csv(paths.TABLES / f"{name}.csv", dtype=str, index_col=0, keep_default_na=False).T


def test_every_file_is_there_and_two_evaluations_are_equal_bytes():
    tables = ("paired_differences", "forecast_comparisons", *(f"table_{n}" for n in (5, 6, 7, 8)))
    wanted = {"metrics.json", "report.html", *(f"tables/{name}.csv" for name in tables)}
    wanted |= {f"figures/figure_{n}.png" for n in ("10", "11", "12", "13", "14", "14_multiplicative")}
    for cell in CELLS:
        wanted |= {f"plots/{task}_{cell}.csv" for task in ("fx", "gestures")}
        wanted |= {f"figures/overview_{task}_{cell}.png" for task in ("fx", "gestures")}
        wanted |= {f"figures/curves_gestures_{cell}_{mode}.png" for mode in ("additive", "multiplicative")}
        wanted |= {f"tables/gestures_{cell}_{quantity}.csv" for quantity in ("accuracy", "speed_up")}
    before = fabricate.hashes()
    assert wanted == set(before)
    fabricate.judge(FX, OWN)
    assert before == fabricate.hashes()


def test_a_new_task_has_metrics_tables_and_its_part_of_the_report():
    content, page = json.loads(paths.METRICS.read_text()), paths.REPORT.read_text()
    assert set(content) == {"fx", "gestures", "baselines"}
    assert content["baselines"]["gestures"] == {"majority": pytest.approx(4 / 14)}  # most training clips are divers
    entry = content["gestures"]["gru"]
    rows, speeds = table("gestures_gru_accuracy"), table("gestures_gru_speed_up")
    assert float(rows["RBP with NEM noise"]["additive_both"]) == 100
    assert float(speeds["RBP with NEM noise"]["additive_both"]) == 50
    assert not rows["RBP with NEM noise"]["additive_both_paper"]
    section = page[page.index('<section id="gestures-gru"') :]
    assert 'class="paper"' not in page
    assert "Generated data (Exchange rate)." in page
    differences = pd.read_csv(paths.TABLES / "paired_differences.csv")
    assert set(differences.metric[differences.task == "gestures"]) == {"test_accuracy", "test_cross_entropy"}
    for condition in CONDITIONS:
        dead = {1} if condition == "blind-additive-output" else set()
        right = [1 - fabricate.mistakes(None, condition, r, 14) / 14 for r in range(4) if r not in dead]
        assert entry[condition]["test_accuracy"]["mean"] == pytest.approx(np.mean(right))
        # All answers are given with probability 0.8.
        assert entry[condition]["calibration_error"]["mean"] == pytest.approx(
            np.mean([abs(0.8 - share) for share in right]), abs=1e-6
        )
        assert f"<td>{100 * np.mean(right):.1f} <span" in section


def test_runs_of_other_data_missing_runs_and_unknown_tasks_are_named(project):
    """Damaged ones: tests/faults."""
    table = fabricate.class_data("gestures", groups=False)
    fabricate.run("gestures", "lstm")
    with pytest.raises(FileNotFoundError, match="train@gestures-gru"):
        fabricate.judge(OWN)
    sequences.write(paths.sequences("gestures"), replace(table, pools={"": table.pools[""] + 1}))
    with pytest.raises(ValueError, match=r"found a run of other data \(about.json, pool.safetensors\); run `dvc"):
        fabricate.judge(OWN, cells=["lstm"])
    with pytest.raises(ValueError, match=r"expected one of the tasks .*found 'fax'"):
        tasks.of("fax")


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
    with pytest.raises(Exception, match="'conditions' is undefined"):
        report.render("report.html.j2", words="a < b")
    assert report.short(math.nan) == "–"
