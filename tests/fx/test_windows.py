"""Rates are acquired with a record of where they came from; windows have the right days and no look-ahead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import params
from pipeline.common import paths, records, sequences
from pipeline.fx import acquire, rates, synthetic, windows
from pipeline.params import FxAcquire, FxWindows
from stages import acquire as acquire_stage
from stages import windows as windows_stage
from tests.conftest import refused

SCALINGS, TARGETS = ["min-max", "z-score"], ["price", "change"]


def settings(**changes):
    return FxWindows(**{"train_end": 79, "window": 4, **changes})


def inputs(table):
    """``(N, T, 4)`` what a network is shown."""
    return table.pools[""][table.index]


def raw(table):
    return table.targets[:, 0] * table.target_scale + table.target_offset


@given(
    st.integers(1, 9), st.integers(20, 90), st.sampled_from(SCALINGS), st.sampled_from(TARGETS), st.integers(0, 50),
    st.floats(0, 0.5), st.booleans(), st.data(),
)  # fmt: skip
def test_no_training_row_knows_a_later_day(T, train_end, scaling, target, seed, validation, hold_out, data):
    series = synthetic.generate(120, seed)
    layout = settings(window=T, train_end=train_end, scaling=scaling, target=target, validation_fraction=validation)
    before = windows.table(series, layout, hold_out=hold_out)
    side = before.splits["days"]
    known = (side == "train") if hold_out else (side != "test")
    first = int(before.rows[~known][0])
    day = data.draw(st.integers(first, 119))
    values = series.values.copy()
    values[day] = data.draw(st.floats(1e-3, 1e3))
    after = windows.table(rates.Rates(series.dates, values), layout, hold_out=hold_out)
    np.testing.assert_array_equal(inputs(before)[known], inputs(after)[known])
    np.testing.assert_array_equal(before.targets[known], after.targets[known])
    np.testing.assert_array_equal(side, after.splits["days"])
    assert (before.target_scale, before.target_offset) == (after.target_scale, after.target_offset)


@given(st.integers(1, 9), st.integers(0, 50), st.sampled_from(SCALINGS))
def test_each_target_sees_exactly_the_days_before_it(T, seed, scaling):
    series, layout = synthetic.generate(120, seed), settings(window=T, scaling=scaling)
    table, days = windows.table(series, layout), windows.split_days(series, layout)
    assert table.rows.tolist() == days.day_index.tolist() == list(range(T, 120))
    np.testing.assert_array_equal(table.index, [list(range(day - T, day)) for day in range(T, 120)])
    np.testing.assert_array_equal(days.target_raw, series.price[T:])
    np.testing.assert_array_equal(days.last_price_raw, series.price[T - 1 : -1])
    np.testing.assert_allclose(raw(table), series.price[T:], rtol=1e-5)
    fitted = series.values[:80]
    low, spread = (fitted.min(0), np.ptp(fitted, 0)) if scaling == "min-max" else (fitted.mean(0), fitted.std(0))
    np.testing.assert_array_equal(table.pools[""], ((series.values - low) / spread).astype(np.float32))


@given(st.integers(1, 9), st.integers(0, 50), st.sampled_from(SCALINGS), st.sampled_from(TARGETS))
def test_a_targets_scale_and_base_give_the_price_of_the_day(T, seed, scaling, target):
    series, layout = synthetic.generate(120, seed), settings(window=T, scaling=scaling, target=target)
    table, days = windows.table(series, layout), windows.split_days(series, layout)
    np.testing.assert_allclose(raw(table) + days.base_raw, series.price[T:], rtol=1e-6)
    np.testing.assert_array_equal(days.base_raw, days.last_price_raw if target == "change" else 0)
    if target == "change":
        known = table.targets[table.splits["days"] != "test", 0]
        assert (known.mean(), known.std()) == pytest.approx((0, 1), abs=1e-5)
        # The level is gone: the same days 40 units dearer ask for the same changes.
        dearer = windows.table(rates.Rates(series.dates, series.values + 40), layout)
        np.testing.assert_allclose(dearer.targets, table.targets, atol=1e-4)


def test_splits_cover_all_days_in_order_and_the_search_holds_the_tail_out():
    series, layout = synthetic.generate(120, 1), settings(validation_fraction=0.25, scaling="min-max")
    days = windows.split_days(series, layout)
    for side, first, end in (("train", 4, 60), ("validation", 60, 80), ("test", 80, 120)):
        assert days.day_index[days.where(side)].tolist() == list(range(first, end))
    held = windows.table(series, layout, hold_out=True)
    assert (held.target_offset, held.target_scale) == (series.price[:60].min(), np.ptp(series.price[:60]))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_pegged_rate_gets_scale_one_and_one_beyond_all_scales_is_an_error(scaling):
    series = synthetic.generate(120, 1)
    for peg in (45.1, 0.1, 7.0):
        values = np.concatenate([np.full((80, 4), peg), series.values[80:]])
        table = windows.table(rates.Rates(series.dates, values), settings(scaling=scaling))
        assert table.target_scale == 1.0
        np.testing.assert_allclose(table.targets[76:, 0], values[80:, 3] - peg, rtol=1e-5)
    values[:80] = 1 + 1e-15 * np.arange(80)[:, None]
    values[100] = 1e30
    with pytest.raises(rates.RatesError, match=str(series.dates[100])):
        windows.table(rates.Rates(series.dates, values), settings(scaling="min-max"))


def test_a_parameter_chooses_what_a_network_sees_of_a_day():
    series = synthetic.generate(120, 1)
    table, whole = windows.table(series, settings(inputs=["price", "open"])), windows.table(series, settings())
    np.testing.assert_array_equal(table.pools[""], whole.pools[""][:, [3, 0]])
    np.testing.assert_array_equal(table.targets, whole.targets)
    alone = rates.Rates(series.dates, np.where([False, False, False, True], series.values, np.nan))
    np.testing.assert_array_equal(windows.table(alone, settings(inputs=["price"])).targets, whole.targets)
    with pytest.raises(rates.RatesError, match=r"expected open, high, low .*set fx\.windows\.inputs to \[price\]"):
        windows.table(alone, settings())


def test_a_date_splits_like_its_index_and_splits_that_leave_nothing_are_errors():
    series = synthetic.generate(120, 1)
    by_date = windows.split_days(series, settings(train_end=str(series.dates[79])))
    np.testing.assert_array_equal(by_date.split, windows.split_days(series, settings()).split)
    assert windows.last_training_day(series, str(series.dates[79] + 1)) in (79, 80)
    for bad in (119, 5000, "2099-01-01", "1970-01-01"):
        refused(rates.RatesError, "train_end", windows.split_days, series, settings(train_end=bad))
    refused(rates.RatesError, "more than T = 9", windows.split_days, series, settings(window=9, train_end=8))


@given(st.integers(1, 5), st.sampled_from(SCALINGS))
def test_what_is_written_loads_exactly_and_again_with_the_same_bytes(tmp_path_factory, T, scaling):
    folder, series = tmp_path_factory.mktemp("w"), synthetic.generate(60, 3)
    layout = settings(window=T, train_end=40, scaling=scaling)
    days, table = windows.write(folder, series, layout, unit="rupees"), windows.table(series, layout)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name, column in vars(windows.load(folder / windows.FILE)).items():
        np.testing.assert_array_equal(getattr(days, name), column)
    data = sequences.load(folder)
    known = days.where("train", "validation")
    np.testing.assert_array_equal(data.train.pool[data.train.index].numpy(), inputs(table)[known])
    np.testing.assert_array_equal(data.train.targets.numpy(), table.targets[known])
    assert data.test.rows.tolist() == days.day_index[days.where("test")].tolist()
    assert (data.unit, data.head, data.target_scale) == ("rupees", "identity", table.target_scale)
    windows.write(folder, series, layout, unit="rupees")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


def test_synthetic_says_that_it_is_synthetic(project):
    acquire.acquire(FxAcquire(synthetic_days=50), 3)
    first, record = rates.RATES.read_bytes(), records.read_json(paths.source_record("fx"))
    assert (record["source"], "generated data" in record["note"]) == ("synthetic", True)
    acquire.acquire(FxAcquire(synthetic_days=50), 3)
    assert rates.RATES.read_bytes() == first


def test_anybodys_file_says_what_was_left_out_and_how_it_was_read(project, capsys):
    mine = project / "mine.csv"

    def acquired(text):
        mine.write_text(text)
        acquire.acquire(FxAcquire(source="csv", csv_path=str(mine)), 1)
        return records.read_json(paths.source_record("fx"))

    record = acquired("Date,Close,Open,High,Low\n2020-01-02,1.1,1.2,1.3,1.0\n2020-01-01,9,1.2,1.3,1.0\n")
    assert (record["file"], record["unit"], record["ohlc_violations"]) == ("mine.csv", "price units", 1)
    record = acquired("observation_date,DEXINUS\n2012-01-02,.\n2012-01-03,53.11\n2012-01-04,5285.0\n")
    assert (record["days_without_values"], record["columns"], record["read_as"]["decimal"]) == (1, ["price"], "point")
    told = capsys.readouterr().out
    lines = ("1 day(s) with open or price outside", "1 day(s) without a value", "fx.windows.inputs")
    for line in (*lines, "warning: price 53.11 is 5285.0 on 2012-01-04"):
        assert line in told
    assert rates.read(rates.RATES).columns == ["price"]
    refused(rates.RatesError, "csv_path", acquire.acquire, FxAcquire(source="csv"), 1)


def test_the_paper_file_comes_from_the_mirror_or_not_at_all(project, monkeypatch):
    records.write_text(project / "mirror" / "fx" / "USD_INR.csv", "Date,Open,High,Low,Price\n2020-01-01,1,1,1,1\n")
    monkeypatch.setenv("NEM_MIRROR", str(project / "mirror"))
    refused(OSError, "SHA-256 96d085", acquire.acquire, FxAcquire(source="paper"), 1)


@pytest.mark.realdata
def test_the_papers_series_through_the_stages(mirror, project, monkeypatch):
    monkeypatch.setenv("NEM_MIRROR", str(mirror))
    params.compose("fx")
    assert acquire_stage.main(["fx"]) == 0
    assert windows_stage.main([]) == 0
    record = records.read_json(paths.source_record("fx"))
    assert (record["rows"], record["ohlc_violations"], record["sha256"]) == (9697, 7, acquire.PAPER_SHA256)


def written(project, tasks=("fx",), train_end=60):
    changes = {"acquire": {"synthetic_days": 80}, "windows": {"train_end": train_end}}
    content = params.validate({"tasks": list(tasks), "fx": changes})
    (project / "params.yaml").write_text(params.render(content))


def test_a_task_that_is_off_is_passed_on_and_can_be_switched_on_again(project, capsys):
    written(project, tasks=["video"])
    assert acquire_stage.main(["fx"]) == windows_stage.main([]) == 0
    assert records.absent(paths.sequences("fx"))
    for read in (sequences.load, sequences.splits, sequences.read_table):
        refused(ValueError, "add it to tasks", read, paths.sequences("fx"))
    assert paths.source_record("fx").is_file()
    written(project)
    assert acquire_stage.main(["video"]) == acquire_stage.main(["fx"]) == windows_stage.main([]) == 0
    assert records.absent(paths.raw("video"))
    assert not records.absent(paths.sequences("fx"))
    assert "windows: 51 train, 6 validation, 19 test windows of 4 days" in capsys.readouterr().out
    assert sequences.load(paths.sequences("fx")).unit == "", "generated prices are in no currency"
