"""How a file is written is decided once for all of it: the right numbers, or one error that shows both readings."""

import csv
import io
import re
import time
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.fx import csv_format, rates
from pipeline.fx.csv_format import Form, RatesError

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
SOURCES = {
    "Yahoo": "Date,Open,High,Low,Close,Adj Close,Volume\n2022-12-28,82.5,82.9,82.25,82.75,82.75,0\n"
    "2022-12-29,82.75,83.0,82.5,82.6,82.6,0\n2022-12-30,82.6,82.8,82.4,82.5,82.5,0\n",
    "yfinance": "Price,Close,High,Low,Open,Volume\nTicker,INR=X,INR=X,INR=X,INR=X,INR=X\nDate,,,,,\n"
    "2022-12-28,82.75,82.9,82.25,82.5,0\n2022-12-29,82.6,83.0,82.5,82.75,0\n2022-12-30,82.5,82.8,82.4,82.6,0\n",
    "yfinance by ticker": "Ticker,INR=X,INR=X,INR=X,INR=X\nPrice,Open,High,Low,Close\nDate,,,,\n"
    "2022-12-28,82.5,82.9,82.25,82.75\n2022-12-29,82.75,83.0,82.5,82.6\n2022-12-30,82.6,82.8,82.4,82.5\n",
    "zones": "Datetime,Open,High,Low,Close\n2022-12-28 00:00:00+00:00,82.5,82.9,82.25,82.75\n"
    "2022-12-29T00:00:00Z,82.75,83.0,82.5,82.6\n2022-12-30 00:00:00+05:30,82.6,82.8,82.4,82.5\n",
    "Alpha Vantage": "timestamp,open,high,low,close\n2022-12-30,82.6000,82.8000,82.4000,82.5000\n"
    "2022-12-29,82.7500,83.0000,82.5000,82.6000\n2022-12-28,82.5000,82.9000,82.2500,82.7500\n",
    "Dukascopy": "Gmt time,Open,High,Low,Close,Volume\n28.12.2022 00:00:00.000 GMT+0100,82.5,82.9,82.25,82.75,1.5\n"
    "29.12.2022 00:00:00.000 GMT+0100,82.75,83.0,82.5,82.6,2.25\n"
    "30.12.2022 00:00:00.000 GMT+0100,82.6,82.8,82.4,82.5,3\n",
    "MetaTrader": "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
    "2022.12.28\t00:00:00\t82.500\t82.900\t82.250\t82.750\t1\t0\t5\n"
    "2022.12.29\t00:00:00\t82.750\t83.000\t82.500\t82.600\t1\t0\t5\n"
    "2022.12.30\t00:00:00\t82.600\t82.800\t82.400\t82.500\t1\t0\t5\n",
    "Excel": "sep=;\nDatum;Schlusskurs;Eröffnung;Hoch;Tief\n28.12.2022;82,75;82,5;82,9;82,25\n"
    "29.12.2022;82,6;82,75;83,0;82,5\n30.12.2022;82,5;82,6;82,8;82,4\n",
    "month names": "Date,Open,High,Low,Close\n28-Dec-22,82.5,82.9,82.25,82.75\n29-Dec-22,82.75,83,82.5,82.6\n"
    "30-Dec-22,82.6,82.8,82.4,82.5\n",
    "holidays": "Date,Open,High,Low,Close,Volume\n2022-12-26,null,null,null,null,null\n"
    "2022-12-28,82.5,82.9,82.25,82.75,0\n2022-12-29,82.75,83,82.5,82.6,0\n2022-12-30,82.6,82.8,82.4,82.5,0\n",
    "preamble": "Some Bank\nExported for you\n\nDate,Open,High,Low,Last\n2022-12-28,82.5,82.9,82.25,82.75\n"
    "2022-12-29,82.75,83,82.5,82.6\n2022-12-30,82.6,82.8,82.4,82.5\n",
    "three decimals and a change": '"Date","Price","Open","High","Low","Change %"\n'
    '"30.12.2022","82,500","82,600","82,800","82,400","-0,12%"\n"29.12.2022","82,600","82,750","83,000","82,500","0,1%"\n'
    '"28.12.2022","82,750","82,500","82,900","82,250","0,25%"\n',
}


@pytest.mark.parametrize("source", SOURCES)
def test_files_of_the_usual_sources(source):
    series = rates.parse(SOURCES[source])
    assert series.dates.tolist() == DAYS
    np.testing.assert_array_equal(series.values, VALUES)
    assert series.left_out == (source == "holidays")


@pytest.mark.parametrize(
    "text",
    [
        "observation_date,DEXINUS\n2022-12-26,.\n2022-12-28,82.7500\n2022-12-29,82.6000\n2022-12-30,82.5000\n",
        "observation_date,DEXINUS\n2022-12-26,\n2022-12-28,82.75\n2022-12-29,82.60\n2022-12-30,82.5\n",
        '"DATE","TIME PERIOD","Indian rupee/Euro (EXR.D.INR.EUR.SP00.A)"\n"2022-12-26","26 Dec 2022",""\n'
        '"2022-12-28","28 Dec 2022","82.75"\n"2022-12-29","29 Dec 2022","82.6"\n"2022-12-30","30 Dec 2022","82.5"\n',
    ],
)
def test_one_column_of_values_is_the_price(text):
    series = rates.parse(text)
    assert (series.dates.tolist(), series.price.tolist()) == (DAYS, [82.75, 82.6, 82.5])
    assert (series.columns, series.left_out) == (["price"], 1)


def test_of_many_columns_a_parameter_names_the_price():
    text = "Date,USD,INR,\n2022-12-30,1.0666,88.1710,\n2022-12-29,1.0649,88.1245,\n"
    with pytest.raises(RatesError, match=r"column price.*'Date, USD, INR, '; name the .*fx\.acquire\.csv\.price"):
        rates.parse(text)
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
    text = low_days()
    assert str(rates.parse(text, form=Form(date_order="dmy")).dates[1]) == "2023-02-02"
    assert str(rates.parse(text, form=Form(date_order="mdy")).dates[1]) == "2023-02-02"
    assert str(rates.parse(text, form=Form(date_order="mdy")).dates[0]) == "2023-01-02"
    assert len(rates.parse(low_days(days=(1, 14, 3)), form=Form(date_order="dmy"))) == 3
    comma = AMBIGUOUS["decimal comma"][0]
    assert rates.parse(comma, form=Form(decimal="comma")).price.tolist() == [82.717]
    assert rates.parse(comma, form=Form(decimal="point")).price.tolist() == [82717.0]


def test_a_day_above_twelve_or_the_order_of_rows_tells_the_order_of_dates():
    assert rates.parse(low_days(days=(1, 2, 13))).read_as["date_order"] == "dmy"
    assert rates.parse(low_days("%m/%d/%Y", days=(13, 2, 1))).read_as["date_order"] == "mdy"
    assert rates.parse(low_days("%d.%m.%Y")).read_as["date_order"] == "dmy"
    text = "Date,Close\n01/02/2023,1.5\n02/02/2023,1.5\n01/03/2023,1.5\n"
    assert str(rates.parse(text).dates[2]) == "2023-03-01"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Date,Close\n2022-12-30,82,5\n2022-12-29,82,6\n", r"expected 2 cells, found 3; quote .*1 more: rows 3"),
        ("Date,Close\n2022-12-30 09:00,82.5\n2022-12-30 10:00,82.6\n", r"one row per day, .*in row 2 already; export"),
        ("Date,Close\n2022-06-30 23:00:00,82.5\n2022-12-01 00:00:00,82.6\n", "across midnight"),
        ("Päivä,Viimeisin\n30.12.2022,82.5\n", "column date, price .*call the columns date"),
        ("Date,Close\nnull,null\n2022-12-30,null\n", r"at least one row .*\(2 without a value\)"),
        ("Price,Close,Close\nTicker,INR=X,EUR=X\nDate,,\n2022-12-30,82.5,1.1\n", "one column price .*one series"),
    ],
)  # fmt: skip
def test_one_cause_is_told_once_with_its_cure(text, message):
    with pytest.raises(RatesError, match=message) as caught:
        rates.parse(text)
    assert len(str(caught.value).splitlines()) <= 3
    assert "remove" not in str(caught.value)
    assert "delete" not in str(caught.value)


def test_encodings(tmp_path):
    file, text = tmp_path / "mine.csv", SOURCES["Excel"]
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "cp1250", "cp1254"):
        file.write_bytes(text.encode(encoding))
        np.testing.assert_array_equal(rates.read(file).values, VALUES)
        if "-le" not in encoding:
            np.testing.assert_array_equal(rates.read(file, Form(encoding=encoding)).values, VALUES)
    file.write_bytes("Päivä;Hinta\n30.12.2022;82,5\n".encode("cp1252"))
    with pytest.raises(
        RatesError, match=r"(?s)not UTF-8; set fx\.acquire\.csv\.encoding .*cp1252: 'Päivä.*cp1251: 'Pдivд"
    ):
        rates.read(file)
    with pytest.raises(RatesError, match="no-such"):
        rates.read(file, Form(encoding="no-such"))


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

    rows = [
        [
            (date(2021, 12, 1) + timedelta(day)).strftime(order),
            text(price),
            text(opening),
            text(high),
            text(low),
            "",
            "0",
        ]
        for day, (opening, high, low, price) in zip(days, values, strict=True)
    ]
    stream, quoting = io.StringIO(), draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    character = csv_format.SEPARATORS[separator]
    stream.write(draw(st.sampled_from(["", f"sep={character}\n"])))
    writer = csv.writer(
        stream, delimiter=character, quoting=quoting, lineterminator=draw(st.sampled_from(["\n", "\r\n"]))
    )
    writer.writerows([names, *(rows if draw(st.booleans()) else rows[::-1])])
    encoding = draw(
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "cp1254", "cp1251", "cp1250"])
    )
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


def test_ten_thousand_rows_take_less_than_a_second():
    days = [date(1990, 1, 1) + timedelta(day) for day in range(10_000)]
    text = "Datum;Zuletzt;Eröffn.;Hoch;Tief\n" + "".join(
        f"{day:%d.%m.%Y};82,717;82,815;82,900;82,640\n" for day in days
    )
    began = time.process_time()
    assert len(rates.parse(text, form=Form(decimal="comma"))) == 10_000
    with pytest.raises(RatesError, match="decimal"):
        rates.parse(text)
    assert time.process_time() - began < 2


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "form", "days", "first", "price"),
    [
        ("decimal_comma_3", Form(decimal="comma"), 3, "2022-12-28", 82.856),
        ("dmy", Form(), 129, "2022-01-03", 74.0),
        ("dmy_low_days", Form(), 4, "2023-02-01", 81.8),
        ("yfinance_multirow", Form(), 3, "2023-01-02", 82.72),
        ("fred", Form(), 2, "2012-01-03", 53.11),
        ("tz", Form(), 129, "2022-01-03", 74.0),
    ],
)
def test_the_cases_that_people_met(mirror, name, form, days, first, price):
    file = mirror / "cases" / "fx" / f"fx_{name}.csv"
    series = rates.read(file, form)
    assert (len(series), str(series.dates[0]), series.price[0]) == (days, first, price)
    if form != Form():
        with pytest.raises(RatesError, match=r"csv\.decimal"):
            rates.read(file)
