"""Windows: the right days, no look-ahead, a scaler that never sees a test day."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fx import baselines, rates, synthetic, windows
from pipeline.params import FxWindows


def settings(**changes):
    return FxWindows(**{"train_end": 79, "window": 4, **changes})


@given(
    st.integers(1, 9), st.integers(20, 90), st.sampled_from(["min-max", "z-score"]), st.integers(0, 50),
    st.floats(0, 0.5), st.data(),
)  # fmt: skip
def test_no_training_row_knows_a_test_day(T, train_end, scaling, seed, validation, data):
    series = synthetic.generate(120, seed)
    layout = settings(window=T, train_end=train_end, scaling=scaling, validation_fraction=validation)
    before = windows.make_windows(series, layout)
    day = data.draw(st.integers(train_end + 1, 119))
    values = series.values.copy()
    values[day] = data.draw(st.floats(1e-3, 1e3))
    after = windows.make_windows(rates.Rates(series.dates, values), layout)
    train = before.where("train", "validation")
    for name in ("inputs", "target", "target_raw", "last_price_raw", "day_index", "split"):
        np.testing.assert_array_equal(getattr(before, name)[train], getattr(after, name)[train])
    np.testing.assert_array_equal(before.scaler.offset, after.scaler.offset)
    np.testing.assert_array_equal(before.scaler.scale, after.scaler.scale)


@given(st.integers(1, 9), st.integers(0, 50), st.sampled_from(["min-max", "z-score"]))
def test_each_target_sees_exactly_the_days_before_it(T, seed, scaling):
    series = synthetic.generate(120, seed)
    made = windows.make_windows(series, settings(window=T, scaling=scaling))
    assert made.day_index.tolist() == list(range(T, 120))
    for row in (0, len(made) // 2, len(made) - 1):
        day = made.day_index[row]
        expected = made.scaler.apply(series.values[day - T : day])
        np.testing.assert_allclose(made.inputs[row], expected, rtol=1e-6, atol=1e-6)
        assert made.target_raw[row] == series.price[day]
        assert made.last_price_raw[row] == series.price[day - 1]
        back = made.target[row, 0] * made.target_scale + made.target_offset
        assert back == pytest.approx(series.price[day], rel=1e-5)


def test_splits_cover_all_days_in_order():
    made = windows.make_windows(synthetic.generate(120, 1), settings(validation_fraction=0.25))
    days = {split: made.day_index[made.where(split)] for split in windows.SPLITS}
    assert days["train"].tolist() == list(range(4, 60))
    assert days["validation"].tolist() == list(range(60, 80))
    assert days["test"].tolist() == list(range(80, 120))
    assert windows.first_validation_day(synthetic.generate(120, 1), settings(validation_fraction=0.25)) == 60


def test_the_search_fits_its_scaler_before_the_validation_tail():
    series = synthetic.generate(120, 1)
    fitted = windows.make_windows(series, settings(scaling="min-max"), fit_through=59)
    assert fitted.scaler.offset[3] == series.price[:60].min()
    assert fitted.scaler.scale[3] == np.ptp(series.price[:60])


@pytest.mark.parametrize("scaling", ["min-max", "z-score"])
@pytest.mark.parametrize("peg", [45.1, 0.1, 7.0])
def test_a_pegged_rate_gets_scale_one(scaling, peg):
    series = synthetic.generate(120, 1)
    values = np.concatenate([np.full((80, 4), peg), series.values[80:]])
    made = windows.make_windows(rates.Rates(series.dates, values), settings(scaling=scaling))
    assert made.target_scale == 1.0
    np.testing.assert_allclose(made.target[made.where("test"), 0], values[80:, 3] - peg, rtol=1e-5)


def test_a_rate_beyond_all_scales_is_an_error():
    series = synthetic.generate(120, 1)
    values = series.values.copy()
    values[:80] = 1 + 1e-15 * np.arange(80)[:, None]
    values[100] = 1e30
    with pytest.raises(rates.RatesError, match=str(series.dates[100])):
        windows.make_windows(rates.Rates(series.dates, values), settings(scaling="min-max"))


def test_a_date_splits_like_its_index():
    series = synthetic.generate(120, 1)
    by_date = windows.make_windows(series, settings(train_end=str(series.dates[79])))
    by_index = windows.make_windows(series, settings())
    np.testing.assert_array_equal(by_date.split, by_index.split)
    saturday = str(series.dates[79] + 1)
    assert windows.last_training_day(series, saturday) in (79, 80)


@pytest.mark.parametrize("bad", [119, 5000, "2099-01-01", "1970-01-01", "yesterday", "NaT"])
def test_splits_that_leave_nothing_are_errors(bad):
    with pytest.raises(rates.RatesError, match="train_end"):
        windows.make_windows(synthetic.generate(120, 1), settings(train_end=bad))


def test_too_few_days_for_the_window():
    with pytest.raises(rates.RatesError, match="more than T = 9"):
        windows.make_windows(synthetic.generate(120, 1), settings(window=9, train_end=8))


@given(st.integers(1, 5), st.sampled_from(["min-max", "z-score"]))
def test_saved_windows_load_exactly(tmp_path_factory, T, scaling):
    file = tmp_path_factory.mktemp("w") / "windows.parquet"
    made = windows.make_windows(synthetic.generate(60, 3), settings(window=T, train_end=40, scaling=scaling))
    windows.save(made, file)
    first = file.read_bytes()
    again = windows.load(file)
    for name in ("day_index", "dates", "split", "inputs", "target", "target_raw", "last_price_raw"):
        np.testing.assert_array_equal(getattr(made, name), getattr(again, name))
    np.testing.assert_array_equal(made.scaler.scale, again.scaler.scale)
    windows.save(again, file)
    assert file.read_bytes() == first


def test_another_parquet_file_is_refused(tmp_path):
    import pyarrow as pa

    from pipeline import records

    file = tmp_path / "other.parquet"
    records.write_table(file, pa.table({"a": [1]}))
    with pytest.raises(ValueError, match="run stage fx_windows again"):
        windows.load(file)
    made = windows.make_windows(synthetic.generate(60, 3), settings(train_end=40))
    windows.save(made, file)
    broken = bytearray(file.read_bytes())
    broken[len(broken) // 2 :] = b""
    file.write_bytes(bytes(broken))
    with pytest.raises(ValueError, match="readable parquet"):
        windows.load(file)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "tset", "splits"),
        ("day_index", 7, "consecutive days"),
        ("target_raw", float("nan"), "finite numbers"),
        ("target", 0.25, "stored scaler"),
        ("last_price_raw", 1.5, "day before's price"),
        ("target", None, "nulls"),
        ("inputs", [float("inf")] * 16, "finite numbers"),
        ("inputs", [None] * 16, "nulls"),
    ],
)
def test_windows_that_contradict_themselves_are_refused(tmp_path, column, value, message):
    import pyarrow as pa

    from pipeline import records

    file = tmp_path / "windows.parquet"
    windows.save(windows.make_windows(synthetic.generate(60, 3), settings(train_end=40)), file)
    table = records.read_table(file)
    place = table.column_names.index(column)
    cells = table[column].to_pylist()
    cells[10] = value
    records.write_table(file, table.set_column(place, table.schema.field(column), pa.array(cells, table[column].type)))
    with pytest.raises(ValueError, match=message):
        windows.load(file)


@pytest.mark.parametrize(
    "change",
    [
        {"window": "0"},
        {"window": "5"},
        {"window": "-4"},
        {"window": "99999999999999999999"},
        {"window": "four"},
        {"scaler": "{"},
        {"scaler": "[]"},
        {"scaler": '{"kind": "log", "offset": [0, 0, 0, 0], "scale": [1, 1, 1, 1]}'},
        {"scaler": '{"kind": "z-score", "offset": [0, 0, 0], "scale": [1, 1, 1]}'},
        {"scaler": '{"kind": "z-score", "offset": [0, 0, 0, 0], "scale": [1, 1, 1, 0]}'},
        {"scaler": '{"kind": "z-score", "offset": [0, 0, 0, NaN], "scale": [1, 1, 1, 1]}'},
        {"scaler": '{"kind": "z-score", "offset": [0, 0, 0, 0], "scale": [1, 1, 1, 1]}'},
    ],
)
def test_another_scaler_is_noticed(tmp_path, change):
    from pipeline import records

    file = tmp_path / "windows.parquet"
    windows.save(windows.make_windows(synthetic.generate(60, 3), settings(train_end=40)), file)
    records.write_table(file, records.read_table(file), change)
    with pytest.raises(ValueError, match=r"windows\.parquet"):
        windows.load(file)


def test_baselines_on_series_whose_answers_are_known():
    days = np.arange("2000-01-01", "2000-06-01", dtype="datetime64[D]")
    line = 10 + 0.5 * np.arange(len(days))
    made = windows.make_windows(rates.Rates(days, np.repeat(line[:, None], 4, 1)), settings(train_end=99))
    truth = made.target_raw[made.where("test")]
    np.testing.assert_allclose(truth - baselines.persistence(made), 0.5)
    np.testing.assert_allclose(baselines.drift(made), truth)
    random = np.random.default_rng(1)
    ar = np.full(len(days), 10.0)
    for t in range(4, len(days)):
        ar[t] = 2 + 0.5 * ar[t - 1] + 0.2 * ar[t - 2] + 0.1 * ar[t - 4] + random.normal(0, 1e-3)
    made = windows.make_windows(rates.Rates(days, np.repeat(ar[:, None], 4, 1)), settings(train_end=99))
    assert np.abs(baselines.autoregression(made) - made.target_raw[made.where("test")]).max() < 0.01


def test_diebold_mariano_knows_equal_and_unequal_forecasts():
    random = np.random.default_rng(0)
    a, b = random.normal(size=2000) ** 2, random.normal(size=2000) ** 2
    assert baselines.diebold_mariano(a, b).p_value > 1e-4
    worse = baselines.diebold_mariano(a + 1, b)
    assert worse.statistic > 5
    assert worse.p_value < 1e-6
    assert baselines.diebold_mariano(b, a + 1).statistic == pytest.approx(-worse.statistic)
    same = baselines.diebold_mariano(a, a)
    assert (same.statistic, same.p_value) == (0.0, 1.0)
    with pytest.raises(ValueError, match="equal length"):
        baselines.diebold_mariano(a, b[:10])


@pytest.mark.realdata
def test_yesterdays_price_beats_the_papers_best_network(mirror):
    series = rates.read(mirror / "fx" / "USD_INR.csv")
    made = windows.make_windows(series, FxWindows(train_end=8000))
    test = made.where("test")
    assert test.sum() == 1696
    assert made.day_index[test][[0, -1]].tolist() == [8001, 9696]
    error = ((baselines.persistence(made) - made.target_raw[test]) ** 2).mean()
    assert error == pytest.approx(0.0829, abs=5e-5)
    assert baselines.skill(1.059, error) < -11
