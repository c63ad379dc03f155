"""Windows: the right days, no look-ahead, a scaler that never sees a test day."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import records, sequences
from pipeline.fx import rates, synthetic, windows
from pipeline.params import FxWindows

SCALINGS = ["min-max", "z-score"]


def settings(**changes):
    return FxWindows(**{"train_end": 79, "window": 4, **changes})


def inputs(table):
    """``(N, T, 4)`` what a network is shown."""
    return table.pools[""][torch.from_numpy(table.index)].numpy()


def raw(table):
    return table.targets[:, 0] * table.target_scale + table.target_offset


@given(
    st.integers(1, 9), st.integers(20, 90), st.sampled_from(SCALINGS), st.integers(0, 50), st.floats(0, 0.5),
    st.booleans(), st.data(),
)  # fmt: skip
def test_no_training_row_knows_a_later_day(T, train_end, scaling, seed, validation, hold_out, data):
    series = synthetic.generate(120, seed)
    layout = settings(window=T, train_end=train_end, scaling=scaling, validation_fraction=validation)
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
    np.testing.assert_array_equal(table.pools[""].numpy(), ((series.values - low) / spread).astype(np.float32))


def test_splits_cover_all_days_in_order_and_the_search_holds_the_tail_out():
    series, layout = synthetic.generate(120, 1), settings(validation_fraction=0.25, scaling="min-max")
    days = windows.split_days(series, layout)
    assert days.day_index[days.where("train")].tolist() == list(range(4, 60))
    assert days.day_index[days.where("validation")].tolist() == list(range(60, 80))
    assert days.day_index[days.where("test")].tolist() == list(range(80, 120))
    held = windows.table(series, layout, hold_out=True)
    assert (held.target_offset, held.target_scale) == (series.price[:60].min(), np.ptp(series.price[:60]))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("peg", [45.1, 0.1, 7.0])
def test_a_pegged_rate_gets_scale_one(scaling, peg):
    series = synthetic.generate(120, 1)
    values = np.concatenate([np.full((80, 4), peg), series.values[80:]])
    table = windows.table(rates.Rates(series.dates, values), settings(scaling=scaling))
    assert table.target_scale == 1.0
    np.testing.assert_allclose(table.targets[76:, 0], values[80:, 3] - peg, rtol=1e-5)


def test_a_parameter_chooses_what_a_network_sees_of_a_day():
    series = synthetic.generate(120, 1)
    table, whole = windows.table(series, settings(inputs=["price", "open"])), windows.table(series, settings())
    np.testing.assert_array_equal(table.pools[""].numpy(), whole.pools[""].numpy()[:, [3, 0]])
    np.testing.assert_array_equal(table.targets, whole.targets)
    alone = rates.Rates(series.dates, np.where([False, False, False, True], series.values, np.nan))
    np.testing.assert_array_equal(windows.table(alone, settings(inputs=["price"])).targets, whole.targets)
    with pytest.raises(rates.RatesError, match=r"expected open, high, low .*set fx\.windows\.inputs to \[price\]"):
        windows.table(alone, settings())


def test_a_rate_beyond_all_scales_is_an_error():
    series = synthetic.generate(120, 1)
    values = series.values.copy()
    values[:80] = 1 + 1e-15 * np.arange(80)[:, None]
    values[100] = 1e30
    with pytest.raises(rates.RatesError, match=str(series.dates[100])):
        windows.table(rates.Rates(series.dates, values), settings(scaling="min-max"))


def test_a_date_splits_like_its_index():
    series = synthetic.generate(120, 1)
    by_date = windows.split_days(series, settings(train_end=str(series.dates[79])))
    np.testing.assert_array_equal(by_date.split, windows.split_days(series, settings()).split)
    assert windows.last_training_day(series, str(series.dates[79] + 1)) in (79, 80)


@pytest.mark.parametrize("bad", [119, 5000, "2099-01-01", "1970-01-01"])
def test_splits_that_leave_nothing_are_errors(bad):
    with pytest.raises(rates.RatesError, match="train_end"):
        windows.split_days(synthetic.generate(120, 1), settings(train_end=bad))
    with pytest.raises(rates.RatesError, match="more than T = 9"):
        windows.split_days(synthetic.generate(120, 1), settings(window=9, train_end=8))


@given(st.integers(1, 5), st.sampled_from(SCALINGS))
def test_what_is_written_loads_exactly_and_again_with_the_same_bytes(tmp_path_factory, T, scaling):
    folder, series = tmp_path_factory.mktemp("w"), synthetic.generate(60, 3)
    layout = settings(window=T, train_end=40, scaling=scaling)
    days, table = windows.write(folder, series, layout, unit="rupees"), windows.table(series, layout)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    again = windows.load(folder / windows.FILE)
    for name in ("day_index", "dates", "split", "target_raw", "last_price_raw"):
        np.testing.assert_array_equal(getattr(days, name), getattr(again, name))
    data = sequences.load(folder)
    known = days.where("train", "validation")
    np.testing.assert_array_equal(data.train.pool[data.train.index].numpy(), inputs(table)[known])
    np.testing.assert_array_equal(data.train.targets.numpy(), table.targets[known])
    assert data.test.rows.tolist() == days.day_index[days.where("test")].tolist()
    assert (data.unit, data.head, data.target_scale) == ("rupees", "identity", table.target_scale)
    windows.write(folder, series, layout, unit="rupees")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "tset", "sides"),
        ("day_index", 7, "consecutive days"),
        ("target_raw", float("nan"), "finite numbers"),
        ("last_price_raw", 1.5, "day before's price"),
        ("target_raw", None, "nulls"),
        ("target_raw", "other", "column 'target_raw'"),
        ("all", None, "readable parquet"),
    ],
)
def test_windows_that_are_damaged_or_contradict_themselves_are_refused(tmp_path, column, value, message):
    file = tmp_path / "windows.parquet"
    windows.save(windows.split_days(synthetic.generate(60, 3), settings(train_end=40)), file)
    if column == "all":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        table = records.read_table(file)
        place, cells = table.column_names.index(column), table[column].to_pylist()
        cells = ["x"] * len(cells) if value == "other" else [*cells[:10], value, *cells[11:]]
        kind = pa.string() if value == "other" else table[column].type
        records.write_table(file, table.set_column(place, column, pa.array(cells, kind)))
    with pytest.raises(ValueError, match=message):
        windows.load(file)


@pytest.mark.realdata
def test_the_papers_days(mirror):
    days = windows.split_days(rates.read(mirror / "fx" / "USD_INR.csv"), FxWindows(train_end=8000))
    test = days.where("test")
    assert days.day_index[test][[0, -1]].tolist() == [8001, 9696]
    assert ((days.last_price_raw - days.target_raw)[test] ** 2).mean() == pytest.approx(0.0829, abs=5e-5)
