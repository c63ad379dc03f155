"""Reading rates: any sane file in, every fault named with row and column."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fx import csv_format, rates, synthetic

GOOD = "Date,Open,High,Low,Price\n2011-02-09,1,3,0.5,2\n2011-02-08,1.5,3,1,2.5\n"


def test_oldest_first_whatever_the_order_and_the_dates():
    newest = (
        '"Date","Price","Open","High","Low","Change %"\n'
        '"Feb 09, 2011","2","1","3","0.5","1"\n"Feb 08, 2011","2.5","1.5","3","1","2"\n'
    )
    a, b = rates.parse(GOOD), rates.parse(newest)
    assert a.dates.tolist() == b.dates.tolist()
    assert a.dates[0] < a.dates[1]
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.price, [2.5, 2.0])
    close = rates.parse(GOOD.replace("Price", "close").replace("2011-02-09,1,", '2011-02-09,"1,000",').upper().lower())
    assert close.values[1, 0] == 1000.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("Date,Open,High,Low\n", "column price"),
        ("Date,Open,High,Low,Price\n", "at least one row"),
        (GOOD + "2011-02-30,1,1,1,1\n", "row 4, column date"),
        (GOOD + "2011-02-09,1,1,1,1\n", "stands in row 2 already"),
        (GOOD + "2011-02-10,1,1,1,nan\n", "row 4, column price"),
        (GOOD + "2011-02-10,1,-1,1,1\n", "row 4, column high"),
        (GOOD + "2011-02-10,1,1,0,1\n", "row 4, column low"),
        (GOOD + "2011-02-10,1,1,inf,1\n", "row 4, column low"),
        (GOOD + "2011-02-10,1e999,1,1,1\n", "row 4, column open"),
        (GOOD + "2011-02-10,=cmd|' /C calc'!A0,1,1,1\n", "row 4, column open"),
        (GOOD + "2011-02-10,１,1,1,1\n", "row 4, column open"),
        (GOOD + "２０１１-02-10,1,1,1,1\n", "row 4, column date"),
        (GOOD + "2011-02-10,1,1\n", "expected 5 cells"),
        (GOOD + "2011-02-10,1,234.5,1,1,1\n", "row 4: expected 5 cells, found 6"),
        (GOOD + '2011-02-10,"68,8",1,1,1\n', "row 4, column open"),
        (GOOD + '2011-02-10,"1,2,3",1,1,1\n', "row 4, column open"),
        (GOOD + "2011-02-10,1,1,1e-320,1\n", "row 4, column low"),
        (GOOD + "2011-02-10,1,1e31,1,1\n", "row 4, column high"),
        (GOOD + "201102,1,1,1,1\n", "row 4, column date"),
        (GOOD + "2011029,1,1,1,1\n", "row 4, column date"),
        (GOOD + "\u202e2011-02-10,1,1,1,1\n", r"column date.*u202e2011"),
        ("Date,Open,Open,High,Low,Price\n", "one column open"),
        ("Date,Open,High,Low,Price,Close\n", r"one column price \(or close\)"),
        (GOOD + '2011-02-10,"1,1,1,1\n', "expected CSV"),
        (GOOD + "\0", "NUL"),
    ],
)
def test_every_fault_is_named(text, message):
    with pytest.raises(rates.RatesError, match=message):
        rates.parse(text)


def test_a_cause_that_many_rows_have_is_told_once(monkeypatch):
    with pytest.raises(rates.RatesError, match="has 50 fault") as caught:
        rates.parse("Date,Open,High,Low,Price\n" + "x,1,1,1,1\n" * 50)
    assert "row 2, column date" in str(caught.value)
    assert "and 49 more: rows 3, 4" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    monkeypatch.setattr(csv_format, "MAX_ROWS", 40)
    with pytest.raises(rates.RatesError, match="fewer than 40 rows"):
        rates.parse("Date,Open,High,Low,Price\n" + "x,1,1,1,1\n" * 50)


@pytest.mark.parametrize(
    ("text", "value"), [('"1,234.5"', 1234.5), ('"12,34,567.5"', 1234567.5), ("1e2", 100.0), (".5", 0.5), ("7.", 7.0)]
)
def test_numbers_as_people_write_them(text, value):
    assert rates.parse(GOOD + f"2011-02-10,{text},1,1,1\n").values[2, 0] == value


def test_spare_separators_at_the_end_of_a_row_are_fine():
    assert len(rates.parse(GOOD.replace("\n2011-02-08", ",,\n2011-02-08"))) == 2


def test_files_are_checked_before_they_are_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"fx\.acquire"):
        rates.read(tmp_path / "none.csv")
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"Date,Hinta\xff,Kurssi\xff")
    with pytest.raises(rates.RatesError, match="UTF-8"):
        rates.read(bad)
    bad.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert len(rates.read(bad)) == 2, "a byte order mark is fine"
    monkeypatch.setattr(rates, "MAX_BYTES", 4)
    with pytest.raises(rates.RatesError, match="under 4 bytes"):
        rates.read(bad)


def test_violations_are_counted_and_kept():
    series = rates.parse(GOOD + "2011-02-10,5,3,1,2\n")
    assert series.ohlc_violations == 1
    assert len(series) == 3


@given(st.integers(32, 400), st.integers(0, 1000))
def test_written_rates_read_back_exactly(tmp_path_factory, days, seed):
    series = synthetic.generate(days, seed)
    file = tmp_path_factory.mktemp("rates") / "rates.csv"
    rates.write(series, file)
    again = rates.read(file)
    np.testing.assert_array_equal(series.values, again.values)
    np.testing.assert_array_equal(series.dates, again.dates)


@given(st.integers(64, 500), st.integers(0, 100))
def test_the_synthetic_series_looks_like_a_managed_rate(days, seed):
    series = synthetic.generate(days, seed)
    assert len(series) == days
    assert (series.values > 0).all()
    assert (np.diff(series.dates) > np.timedelta64(0, "D")).all()
    early = series.values[: days // 5]
    assert (early == early[:, :1]).all(), "early days have one quote"
    assert (synthetic.generate(days, seed).values == series.values).all()
    assert not (synthetic.generate(days, seed + 1).values == series.values).all()


@given(st.text(max_size=200))
def test_arbitrary_text_gives_rates_or_an_error_that_says_why(text):
    try:
        rates.parse(text)
    except rates.RatesError as error:
        assert str(error)


@pytest.mark.realdata
def test_the_papers_series(mirror):
    series = rates.read(mirror / "fx" / "USD_INR.csv")
    assert len(series) == 9697
    assert str(series.dates[0]) == "1980-01-02"
    assert str(series.dates[-1]) == "2017-08-10"
    assert str(series.dates[8000]) == "2011-02-09"
    assert series.ohlc_violations == 7
    assert (series.price[:8001].min(), series.price[:8001].max()) == (7.68, 51.97)
    assert (series.price[8001:].min(), series.price[8001:].max()) == (44.07, 68.805)
