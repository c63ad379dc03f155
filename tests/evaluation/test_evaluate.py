"""From fabricated runs to every file of the evaluation, with numbers that agree."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from pipeline import paths, records
from pipeline.conditions import CONDITIONS
from pipeline.evaluation import evaluate, metrics, paper, report
from pipeline.training import results
from tests.evaluation import fabricate


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One evaluation that the tests of this file read."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = fabricate.fx_params()
        for cell in ("lstm", "gru"):
            fabricate.run(settings, cell)
        evaluate.evaluate(settings)
    return folder, settings


@pytest.fixture
def evaluated(whole, monkeypatch):
    monkeypatch.chdir(whole[0])
    return whole[1]


def test_every_file_is_there_and_two_evaluations_are_equal_bytes(evaluated):
    wanted = {"metrics.json", "report.html"} | {f"tables/table_{n}.csv" for n in (5, 6, 7, 8)}
    wanted |= {f"figures/figure_{n}.png" for n in ("10", "11", "12", "13", "14", "14_multiplicative")}
    wanted |= {
        "tables/paired_differences.csv",
        "tables/forecast_comparisons.csv",
        "plots/fx_lstm.csv",
        "plots/fx_gru.csv",
    }
    found = {str(f.relative_to(paths.RESULTS)): records.sha256_of(f) for f in paths.RESULTS.rglob("*") if f.is_file()}
    assert wanted <= set(found)
    evaluate.evaluate(evaluated)
    again = {str(f.relative_to(paths.RESULTS)): records.sha256_of(f) for f in paths.RESULTS.rglob("*") if f.is_file()}
    assert found == again


def test_metrics_tables_curves_and_report_agree(evaluated):
    content = json.loads(paths.METRICS.read_text())
    curves = pd.read_parquet(paths.run_folder("fx", "lstm") / "curves.parquet")
    page = paths.REPORT.read_text()
    with (paths.TABLES / "table_5.csv").open() as file:
        rows = {row["training_algorithm"]: row for row in csv.DictReader(file)}
    for condition in CONDITIONS:
        at_R = curves[(curves.condition == condition) & (curves.epoch == 10)].test_loss
        entry = content["fx"]["lstm"][condition]["test_mse"]
        assert entry["mean"] == pytest.approx(at_R.mean(), rel=1e-12)
        assert entry["n"] == len(at_R)
        kind, _, column = condition.partition("-")
        label = {"none": "RBP without noise", "blind": "RBP with blind noise", "nem": "RBP with NEM noise"}[kind]
        column = column.replace("-", "_") or "additive_output"
        assert float(rows[label][column]) == pytest.approx(entry["mean"], rel=1e-5)
        assert f"{entry['mean']:.4g}" in page
    assert float(rows["RBP with NEM noise"]["additive_both_paper"]) == 1.059
    assert float(rows["RBP without noise"]["additive_output_paper"]) == 2.087


def test_failures_and_censoring_are_told(evaluated):
    content = json.loads(paths.METRICS.read_text())["fx"]["lstm"]
    assert content["blind-additive-output"]["failed"]["mean"] == 1.0
    assert content["blind-additive-output"]["test_mse"]["n"] == 3
    speed = content["blind-additive-hidden"]["speed_up_percent"]
    assert speed["censored"] == 4
    assert speed["mean"] is None
    # NEM is twice as fast: it reaches the noiseless loss of epoch 10 at epoch 5.
    assert content["nem-additive-both"]["speed_up_percent"]["mean"] == pytest.approx(50.0)
    assert content["none"]["speed_up_percent"]["mean"] == 0.0
    with (paths.TABLES / "table_6.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [rows[1]["additive_hidden" + part] for part in ("", "_ci_low", "_ci_high")] == ["< -50"] * 3
    assert [float(rows[2]["additive_both" + part]) for part in ("", "_ci_low", "_ci_high")] == [50.0] * 3
    assert content["nem-additive-both"]["speed_up_percent"]["median_ci_low"] == 50.0
    page = paths.REPORT.read_text()
    assert "&lt; -50" in page
    assert "1/4" in page


def test_baselines_stand_beside_every_result(evaluated):
    content = json.loads(paths.METRICS.read_text())
    persistence = content["baselines"]["fx"]["persistence"]
    assert set(content["baselines"]["fx"]) == {"persistence", "drift", "ar4"}
    entry = content["fx"]["gru"]["none"]
    assert entry["skill_persistence"]["mean"] == pytest.approx(1 - entry["test_mse"]["mean"] / persistence)
    compared = pd.read_csv(paths.TABLES / "forecast_comparisons.csv")
    assert len(compared) == 2 * 13 * 3
    assert compared.mse.to_numpy() == pytest.approx(0.01)


def test_differences_are_paired(evaluated):
    rows = pd.read_csv(paths.TABLES / "paired_differences.csv")
    nem = rows[(rows.condition == "nem-additive-both") & (rows.cell == "lstm")].iloc[0]
    gaps = [fabricate.loss("nem", r, 10) - fabricate.loss("none", r, 10) for r in range(4)]
    assert nem.difference == pytest.approx(np.mean(gaps))
    assert nem.p_value == pytest.approx(2 / 16)
    assert nem.p_holm >= nem.p_value
    assert (rows.n[rows.condition == "blind-additive-output"] == 3).all()


def test_demo_results_say_that_they_mean_nothing(evaluated):
    assert "generated data" in paths.REPORT.read_text()


def test_the_page_needs_no_network(evaluated):
    page = paths.REPORT.read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page


def test_missing_and_damaged_runs_are_named(project):
    settings = fabricate.fx_params()
    fabricate.run(settings, "lstm")
    with pytest.raises(FileNotFoundError, match="train@fx-gru"):
        evaluate.evaluate(settings)
    file = paths.run_folder("fx", "lstm") / "curves.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"curves\.parquet"):
        results.load("fx", "lstm")


def test_a_verdict_counts_both_directions(project):
    settings = fabricate.fx_params(repetitions=10)
    fabricate.run(settings, "lstm", failing=None)
    run = results.load("fx", "lstm")
    outcome = metrics.summarise(run, settings.evaluate, 1, {"persistence": 0.5})
    text = report.verdict(outcome)
    assert "Of 6 NEM conditions 6 are significantly better and 0 significantly worse" in text
    assert "of 6 blind conditions 0 and 6" in text


def test_the_papers_tables_are_complete():
    assert [t.number for t in paper.TABLES] == list(range(1, 9))
    for table in paper.TABLES:
        assert len(table.blind) == len(table.nem) == len(paper.COLUMNS) == 6
        assert all(table.value(c) is not None for c in CONDITIONS)
        assert table.value("matched-additive-both") is None
    assert paper.TABLES[0].value("nem-additive-both") == 96.70
    assert paper.TABLES[4].value("none") == 2.087
    assert paper.TABLES[7].value("nem-multiplicative-both") == 37


def test_calibration_error_of_known_forecasts():
    p = np.array([[0.8, 0.2]] * 10)
    right = np.array([0] * 8 + [1] * 2)
    assert metrics.calibration_error(p, right) == pytest.approx(0.0)
    assert metrics.calibration_error(p, np.zeros(10, int)) == pytest.approx(0.2)
