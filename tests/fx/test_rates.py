"""How a file of rates is read: the right numbers, one error that shows both readings, or every fault with its place."""

import csv
import io
import re
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.fx import csv_format, rates, synthetic
from pipeline.fx.csv_format import Form, RatesError
from tests.conftest import refused

DAYS = [date(2022, 12, 28), date(2022, 12, 29), date(2022, 12, 30)]
VALUES = [[82.5, 82.9, 82.25, 82.75], [82.75, 83.0, 82.5, 82.6], [82.6, 82.8, 82.4, 82.5]]
HEADERS = {
    "en": ("Date", "Price", "Open", "High", "Low", "Vol.", "Change %"),
    "de": ("Datum", "Zuletzt", "Eröffn.", "Hoch", "Tief", "Vol.", "+/- %"),
    "fr": ("Date", "Dernier", "Ouv.", "Plus Haut", "Plus Bas", "Vol.", "Variation %"),
    "es": ("Fecha", "Último", "Apertura", "Máximo", "Mínimo", "Vol.", "% var."),
    "it": ("Data", "Ultimo", "Apertura", "Massimo", "Minimo", "Vol.", "Var. %"),
    "pt": ("Data", "Último", "Abertura", "Máxima", "Mínima", "Vol.", "Var%"),
    "nl": ("Datum", "Laatste", "Open", "Hoog", "Laag", "Vol.", "Verschil %"),
    "pl": ("Data", "Ostatnio", "Otwarcie", "Max.", "Min.", "Wol.", "Zmiana%"),
    "tr": ("Tarih", "Şimdi", "Açılış", "Yüksek", "Düşük", "Hac.", "Fark %"),
    "ru": ("Дата", "Цена", "Откр.", "Макс.", "Мин.", "Объём", "Изм. %"),
}
ROWS = [dict(zip("dohlc", (day, *values), strict=True)) for day, values in zip(DAYS, VALUES, strict=True)]
ROWS = [row | {name.upper(): f"{row[name]:.2f}".replace(".", ",") for name in "ohlc"} for row in ROWS]


def source(header, row):
    """A file of the days and values above; capitals have a decimal comma."""
    return header + "\n" + "".join(row.format(**values) + "\n" for values in ROWS)


SOURCES = {
    "Yahoo": source("Date,Open,High,Low,Close,Adj Close,Volume", "{d},{o},{h},{l},{c},{c},0"),
    "yfinance": source("Price,Close,High,Low,Open,Volume\nTicker,INR=X,INR=X,INR=X,INR=X,INR=X\nDate,,,,,",
                       "{d},{c},{h},{l},{o},0"),
    "yfinance by ticker": source("Ticker,INR=X,INR=X,INR=X,INR=X\nPrice,Open,High,Low,Close\nDate,,,,",
                                 "{d},{o},{h},{l},{c}"),
    "zones": "Datetime,Open,High,Low,Close\n2022-12-28 00:00:00+00:00,82.5,82.9,82.25,82.75\n"
    "2022-12-29T00:00:00Z,82.75,83.0,82.5,82.6\n2022-12-30 00:00:00+05:30,82.6,82.8,82.4,82.5\n",
    "Alpha Vantage": source("timestamp,open,high,low,close", "{d},{o:.4f},{h:.4f},{l:.4f},{c:.4f}"),
    "Dukascopy": source("Gmt time,Open,High,Low,Close", "{d:%d.%m.%Y} 00:00:00.000 GMT+0100,{o},{h},{l},{c}"),
    "MetaTrader": source("<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
                         "{d:%Y.%m.%d}\t00:00:00\t{o:.3f}\t{h:.3f}\t{l:.3f}\t{c:.3f}\t1\t0\t5"),
    "Excel": source("sep=;\nDatum;Schlusskurs;Eröffnung;Hoch;Tief", "{d:%d.%m.%Y};{C};{O};{H};{L}"),
    "holidays": source("Date,Open,High,Low,Close\n2022-12-26,null,null,null,null", "{d},{o},{h},{l},{c}"),
    "preamble": source("Some Bank\nExported for you\n\nDate,Open,High,Low,Last", "{d},{o},{h},{l},{c}"),
    "three decimals and a change": '"Date","Price","Open","High","Low","Change %"\n'
    '"30.12.2022","82,500","82,600","82,800","82,400","-0,12%"\n"29.12.2022","82,600","82,750","83,000","82,500","0,1%"\n'
    '"28.12.2022","82,750","82,500","82,900","82,250","0,25%"\n',
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_files_of_the_usual_sources(name):
    series = rates.parse(SOURCES[name])
    assert series.dates.tolist() == DAYS
    np.testing.assert_array_equal(series.values, VALUES)
    assert series.left_out == (name == "holidays")


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("observation_date,DEXINUS\n2022-12-26,.", "{d},{c:.4f}"),
        ("observation_date,DEXINUS\n2022-12-26,", "{d},{c}"),
        ('"DATE","TIME PERIOD","Indian rupee/Euro (EXR.D.INR.EUR.SP00.A)"\n"2022-12-26","26 Dec 2022",""',
         '"{d}","{d:%d %b %Y}","{c}"'),
    ],
)  # fmt: skip
def test_one_column_of_values_is_the_price(header, row):
    series = rates.parse(source(header, row))
    assert (series.dates.tolist(), series.price.tolist()) == (DAYS, [82.75, 82.6, 82.5])
    assert (series.columns, series.left_out) == (["price"], 1)


def test_of_many_columns_a_parameter_names_the_price():
    text = "Date,USD,INR,\n2022-12-30,1.0666,88.1710,\n2022-12-29,1.0649,88.1245,\n"
    refused(RatesError, r"column price.*'Date, USD, INR, '; name the .*fx\.acquire\.csv\.price", rates.parse, text)
    assert rates.parse(text, form=Form(price="INR")).price.tolist() == [88.1245, 88.171]
    adjusted = rates.parse(SOURCES["Yahoo"].replace("82.75,0", "80.5,0"), form=Form(price="Adj Close"))
    assert adjusted.price[0] == 80.5


def low_days(order="%d/%m/%Y", days=(1, 2, 3)):
    rows = [f"{date(2023, 2, day).strftime(order)},81.9,82.1,81.6,81.8" for day in days]
    return "\n".join(["Date,Open,High,Low,Price", *rows]) + "\n"


AMBIGUOUS = {
    "dates": (low_days(), "date_order", r"dmy: row 2 '01/02/2023' is 2023-02-01.*\n.*mdy: row 2 .* is 2023-01-02"),
    "two-digit years": (low_days("%d-%m-%y"), "date_order", r"ymd: .*is 2001-02-23.*\n.*dmy: .*is 2023-02-01"),
    "unsorted": (low_days(days=(1, 14, 3, 20)), "date_order", r"none that sorts its rows.*\n.*dmy: row 2"),
    "decimal comma": (
        'Date,Price,Open,High,Low\n30.12.2022,"82,717","82,815","82,900","82,640"\n', "decimal",
        r"point: '82,815' is 82815.0.*\n.*comma: '82,815' is 82.815",
    ),
    "points between thousands": (
        "Datum;Zuletzt\n30.12.2022;15.432\n29.12.2022;15.500\n", "decimal", r"point: '15.432' is 15.*\n.*is 15432.0",
    ),
    "both marks": ("Date,Close\n2022-12-29,1.5\n2022-12-30,\"1,5\"\n", "decimal", r"point: '1.5' is 1.5.*\n.*nan"),
}  # fmt: skip


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_can_be_read_two_ways_is_refused_with_both_and_the_parameter(case):
    text, parameter, message = AMBIGUOUS[case]
    with pytest.raises(RatesError, match=r"(?s)expected one way to read .*" + message) as caught:
        rates.parse(text)
    assert f"set fx.acquire.csv.{parameter}" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_the_parameter_decides():
    assert len(rates.parse(low_days(days=(1, 14, 3)), form=Form(date_order="dmy"))) == 3
    for decimal, price in (("comma", 82.717), ("point", 82717.0)):
        assert rates.parse(AMBIGUOUS["decimal comma"][0], form=Form(decimal=decimal)).price.tolist() == [price]


def test_a_day_above_twelve_or_the_order_of_rows_tells_the_order_of_dates():
    for order, days in (("%d/%m/%Y", (1, 2, 13)), ("%m/%d/%Y", (13, 2, 1)), ("%d.%m.%Y", (1, 2, 3))):
        assert rates.parse(low_days(order, days)).read_as["date_order"] == DATES[order]
    text = "Date,Close\n01/02/2023,1.5\n02/02/2023,1.5\n01/03/2023,1.5\n"
    assert str(rates.parse(text).dates[2]) == "2023-03-01"


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "cp1250", "cp1254")


def test_encodings(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_bytes("Päivä;Hinta\n30.12.2022;82,5\n".encode("cp1252"))
    both = r"(?s)not UTF-8; set fx\.acquire\.csv\.encoding .*cp1252: 'Päivä.*cp1251: 'Pдivд"
    refused(RatesError, both, rates.read, file)
    refused(RatesError, "no-such", rates.read, file, Form(encoding="no-such"))
    refused(FileNotFoundError, r"fx\.acquire", rates.read, tmp_path / "none.csv")


MARKS = {"point": (".", ["", ",", " ", "'"]), "comma": (",", ["", ".", "\xa0", " "])}
DATES = {
    "%Y-%m-%d": "ymd", "%Y/%m/%d": "ymd", "%Y.%m.%d": "ymd", "%Y%m%d": "ymd", "%d.%m.%Y": "dmy", "%d/%m/%Y": "dmy",
    "%d-%m-%Y": "dmy", "%m/%d/%Y": "mdy", "%m-%d-%Y": "mdy", "%b %d, %Y": "mdy", "%d %B %Y": "dmy", "%d-%b-%y": "dmy",
    "%d/%m/%y": "dmy", "%y-%m-%d": "ymd", "%Y-%m-%d 00:00:00+01:00": "ymd", "%Y-%m-%dT12:30:00Z": "ymd",
    "%d.%m.%Y 00:00:00.000": "dmy",
}  # fmt: skip


@st.composite
def written(draw):
    """Rates, and a file of them in one of all ways that the reader knows; with what a parameter would say."""
    days = draw(st.lists(st.integers(0, 400), min_size=1, max_size=30, unique=True).map(sorted))
    decimals, scale = draw(st.integers(0, 5)), draw(st.sampled_from([1, 100, 10**5, 10**7]))
    number = st.integers(1, 10**decimals * scale).map(lambda n: n / 10**decimals)
    values = draw(st.lists(st.tuples(number, number, number, number), min_size=len(days), max_size=len(days)))
    order, mark = draw(st.sampled_from(sorted(DATES))), draw(st.sampled_from(sorted(MARKS)))
    point, groups = MARKS[mark]
    group, separator = draw(st.sampled_from(groups)), draw(st.sampled_from(sorted(csv_format.SEPARATORS)))
    names = HEADERS[draw(st.sampled_from(sorted(HEADERS)))]

    def text(value):
        return f"{value:,.{decimals}f}".replace(".", "#").replace(",", group).replace("#", point)

    dates = [(date(2021, 12, 1) + timedelta(day)).strftime(order) for day in days]
    rows = [[day, *(text(row[k]) for k in (3, 0, 1, 2)), "", "0"] for day, row in zip(dates, values, strict=True)]
    stream, quoting = io.StringIO(), draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    character = csv_format.SEPARATORS[separator]
    stream.write(draw(st.sampled_from(["", f"sep={character}\n"])))
    end, encoding = draw(st.sampled_from(["\n", "\r\n"])), draw(st.sampled_from([*ENCODINGS, "cp1251"]))
    writer = csv.writer(stream, delimiter=character, quoting=quoting, lineterminator=end)
    writer.writerows([names, *(rows if draw(st.booleans()) else rows[::-1])])
    known = {"date_order": DATES[order], "decimal": mark, "separator": separator, "encoding": encoding}
    return days, values, stream.getvalue(), Form(**known)


@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(written())
def test_every_way_of_writing_reads_back_or_is_refused_with_both_readings(tmp_path_factory, case):
    days, values, text, form = case
    file = tmp_path_factory.getbasetemp() / "written.csv"
    try:
        file.write_bytes(text.encode(form.encoding))
    except UnicodeEncodeError:  # this language has no such encoding
        file.write_text(text)
        form = Form(form.date_order, form.decimal, form.separator)
    want = [np.datetime64("2021-12-01") + day for day in days]
    for known in (Form(), form):
        try:
            series = rates.read(file, known)
        except RatesError as error:
            message = str(error)
            assert known != form, message
            assert "expected one way to read the" in message
            assert len(message.splitlines()) in (3, 4)
            assert re.search(r"set fx\.acquire\.csv\.(date_order|decimal):", message)
        else:
            assert series.dates.tolist() == [day.tolist() for day in want]
            np.testing.assert_array_equal(series.values, values)


NO_PRICES = ("-1", "0", "inf", "1e999", "1e31", "1e-320", "=cmd|' /C calc'!A0", "１", '"68,8"', '"1,2,3"')
GOOD = "Date,Open,High,Low,Price\n2011-02-09,1,3,0.5,2\n2011-02-08,1.5,3,1,2.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("Date,Open,High,Low\n", "column price"),
        ("Date,Open,High,Low,Price\n", "at least one row"),
        (GOOD + "2011-02-30,1,1,1,1\n", "row 4, column date"),
        (GOOD + "2011-02-09,1,1,1,1\n", "stands in row 2 already"),
        *((GOOD + f"2011-02-10,{open_},1,1,1\n", "row 4, column open") for open_ in NO_PRICES),
        (GOOD + "2011-02-10,1,1,1,nan\n", "row 4, column price"),
        *((GOOD + f"{day},1,1,1,1\n", "row 4, column date") for day in ("２０１１-02-10", "201102", "2011029")),
        (GOOD + "2011-02-10,1,1\n", "expected 5 cells"),
        (GOOD + "2011-02-10,1,234.5,1,1,1\n", "row 4: expected 5 cells, found 6"),
        (GOOD + "\u202e2011-02-10,1,1,1,1\n", r"column date.*u202e2011"),
        ("Date,Open,Open,High,Low,Price\n", "one column open"),
        ("Date,Open,High,Low,Price,Close\n", r"one column price \(or close\)"),
        (GOOD + '2011-02-10,"1,1,1,1\n', "expected CSV"),
        (GOOD + "\0", "NUL"),
        ("Date,Close\n2022-12-30,82,5\n2022-12-29,82,6\n", r"expected 2 cells, found 3; quote .*1 more: rows 3"),
        ("Date,Close\n2022-12-30 09:00,82.5\n2022-12-30 10:00,82.6\n", r"one row per day, .*in row 2 already; export"),
        ("Date,Close\n2022-06-30 23:00:00,82.5\n2022-12-01 00:00:00,82.6\n", "across midnight"),
        ("Päivä,Viimeisin\n30.12.2022,82.5\n", "column date, price .*call the columns date"),
        ("Date,Close\nnull,null\n2022-12-30,null\n", r"at least one row .*\(2 without a value\)"),
        ("Price,Close,Close\nTicker,INR=X,EUR=X\nDate,,\n2022-12-30,82.5,1.1\n", "one column price .*one series"),
    ],
)  # fmt: skip
def test_every_fault_is_named_once_with_its_cure(text, message):
    with pytest.raises(RatesError, match=message) as caught:
        rates.parse(text)
    assert len(str(caught.value).splitlines()) <= 3
    assert not re.search("remove|delete", str(caught.value))


def test_a_cause_that_many_rows_have_is_told_once(monkeypatch):
    with pytest.raises(RatesError, match="has 50 fault") as caught:
        rates.parse("Date,Open,High,Low,Price\n" + "x,1,1,1,1\n" * 50)
    assert "row 2, column date" in str(caught.value)
    assert "and 49 more: rows 3, 4" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    monkeypatch.setattr(csv_format, "MAX_ROWS", 40)
    refused(RatesError, "fewer than 40 rows", rates.parse, "Date,Open,High,Low,Price\n" + "x,1,1,1,1\n" * 50)


@pytest.mark.parametrize(
    ("text", "value"), [('"1,234.5"', 1234.5), ('"12,34,567.5"', 1234567.5), ("1e2", 100.0), (".5", 0.5), ("7.", 7.0)]
)
def test_numbers_as_people_write_them(text, value):
    """And headers, spare separators at the end of a row, and rows in any order."""
    series = rates.parse(GOOD.replace("Price", "CLOSE") + f"2011-02-10,{text},1,1,1,,\n")
    assert (series.values[:, 0].tolist(), series.price.tolist()) == ([1.5, 1.0, value], [2.5, 2.0, 1.0])


@given(st.integers(64, 500), st.integers(0, 100))
def test_the_synthetic_series_looks_like_a_managed_rate_and_reads_back_exactly(tmp_path_factory, days, seed):
    series, file = synthetic.generate(days, seed), tmp_path_factory.getbasetemp() / "rates.csv"
    rates.write(series, file)
    again = rates.read(file)
    np.testing.assert_array_equal(series.values, again.values)
    np.testing.assert_array_equal(series.dates, again.dates)
    assert len(series) == days
    assert (series.values > 0).all()
    assert (np.diff(series.dates) > np.timedelta64(0, "D")).all()
    early = series.values[: days // 5]
    assert (early == early[:, :1]).all(), "early days have one quote"
    assert (synthetic.generate(days, seed).values == series.values).all()
    assert not (synthetic.generate(days, seed + 1).values == series.values).all()
