"""What the registry says about the paper; naive forecasts with known answers; the evaluation of the exchange rate."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import tasks
from pipeline.common import paths
from pipeline.evaluation import evaluate
from pipeline.fx import rates, windows
from pipeline.tasks import fx
from tests.evaluation import fabricate


def test_every_task_is_there_with_the_papers_tables():
    regression, classification = (tasks.of(name) for name in tasks.TASKS)
    assert (regression.name, classification.name) == ("fx", "video")
    for task, measure, loss, gain in (
        (regression, "test_mse", "test_mse", -1),
        (classification, "test_accuracy", "test_cross_entropy", 1),
    ):
        assert (task.measure.name, task.loss, task.measure.gain) == (measure, loss, gain)
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
    settings = SimpleNamespace(window=4, train_end=train_end, validation_fraction=0.1)
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
    with pytest.raises(ValueError, match=r"expected more than 5 training windows for AR\(4\), found 0"):
        fx.autoregression(split(prices[:12], 6))


def test_diebold_mariano_knows_equal_and_unequal_forecasts():
    """Its formula: tests/test_numbers.py."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=2000) ** 2, random.normal(size=2000) ** 2
    assert fx.diebold_mariano(a, b)[1] > 1e-4
    assert fx.diebold_mariano(b, a + 1)[0] == pytest.approx(-fx.diebold_mariano(a + 1, b)[0])
    assert fx.diebold_mariano(a, a) == (0.0, 1.0)
    assert fx.diebold_mariano(np.ones(9), np.zeros(9)) == (np.inf, 0.0)
    with pytest.raises(ValueError, match="equal length"):
        fx.diebold_mariano(a, b[:10])


def test_the_report_compares_with_the_naive_forecasts_and_windows_of_other_days_are_refused(project):
    data = fabricate.fx_data()
    fabricate.run("fx", "lstm")
    fabricate.judge(fx.TASK, cells=["lstm"])
    page = paths.REPORT.read_text()
    assert "Yesterday&#39;s price has" in page
    assert "the condition that is best on the test data (nem-additive-output" in page
    assert "test squared error [rupees²]" in page
    (evidence,) = evaluate.gather(fx.TASK)
    other = windows.Windows(data.day_index, data.dates, data.split, data.target_raw * 2, data.last_price_raw * 2)
    windows.save(other, evidence.folder / windows.FILE)
    with pytest.raises(ValueError, match=r"expected the test days of the sequences in .*windows\.parquet"):
        fx.references(evidence)


@pytest.mark.realdata
def test_yesterdays_price_beats_the_papers_best_network(mirror):
    settings = SimpleNamespace(window=4, train_end=8000, validation_fraction=0.1)
    days = windows.split_days(rates.read(mirror / "fx" / "USD_INR.csv"), settings)
    test = days.where("test")
    assert test.sum() == 1696
    assert days.day_index[test][[0, -1]].tolist() == [8001, 9696]
    assert ((days.last_price_raw - days.target_raw)[test] ** 2).mean() == pytest.approx(0.0829, abs=5e-5)
