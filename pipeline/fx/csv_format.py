"""How a file of rates is written: encoding, separator, header, order of dates and decimal mark, decided once per file.

Of all ways to read the whole file, those are kept under which every row makes sense. Where two are left that differ, or
none, :class:`RatesError` shows both readings and names the parameter of ``fx.acquire.csv`` that decides.
"""

import codecs
import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FEATURES = ("open", "high", "low", "price")
"""Inputs per day, in the paper's order (Section 6.3)."""
WHERE = "fx.acquire.csv"  # the parameters that decide
MAX_ROWS = 300_000  # 800 years of days: more are no daily rates
MAX_COLUMNS = 1000  # those after them are not looked at

# Names as `plain` leaves them: of most tools, and of investing.com in the languages of its users.
with Path(__file__).with_name("headers.csv").open(encoding="utf-8", newline="") as _file:
    _KNOWN = {name: row["column"] for row in csv.DictReader(_file) for name in row["names"].split()}
_LETTERS = str.maketrans({"ı": "i", "ł": "l", "ø": "o"})
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
_CODEPAGES = ("cp1252", "cp1250", "cp1251", "cp1254")
MISSING = {"", "null", ".", "-", "--", "n/a", "#n/a", "na", "nan", "none", "nd"}  # as tools write for holidays
_DAY = re.compile(r"(?a)(\d{1,4}|[A-Za-z]{3,9})\.?([-/. ])\s*(\d{1,2}|[A-Za-z]{3,9})\.?,?([-/. ])\s*(\d{4}|\d{1,2})\.?")
_TIME = re.compile(r"(?ai)[T ]\s*(\d{1,2}):\d\d(:\d\d([.,]\d+)?)?( ?[AP]M)?( ?(Z|UTC|GMT|(GMT|UTC)?[+-]\d\d:?\d\d))?$")
_ORDERS = {"ymd": (0, 1, 2), "dmy": (2, 1, 0), "mdy": (2, 0, 1)}  # places of year, month and day
# Groups of thousands have three digits or, but for the last one, two as in India; no number begins with a group of 0.
_NUMBER = r"[+-]?([1-9]\d{{0,2}}([{0}]\d{{2,3}})*[{0}]\d{{3}}|\d+)?([{1}]\d*)?([eE][+-]?\d+)?"
_NUMBERS = {
    name: (re.compile(_NUMBER.format(groups, mark), re.ASCII), str.maketrans(mark, ".", groups))
    for name, mark, groups in (("point", ".", ",'’ \xa0\u202f"), ("comma", ",", ".'’ \xa0\u202f"))
}
_FIGURE = re.compile(r"[+-]?\d[\d.,'’ \xa0\u202f]*", re.ASCII)


class RatesError(ValueError):
    """A file of rates that cannot be used; the message says what was expected, what was found, and what to do."""


@dataclass(frozen=True)
class Form:
    """What is known of a file beforehand (``fx.acquire.csv`` in ``params.yaml``); "auto" is decided from the file."""

    date_order: str = "auto"  # ymd, dmy, mdy
    decimal: str = "auto"  # point, comma
    separator: str = "auto"  # comma, semicolon, tab, bar
    encoding: str = "auto"
    price: str = "auto"  # the name of the column


@dataclass(frozen=True)
class Sheet:
    """The cells of a file: names of columns, places of date, price and what there is of the rest, numbered rows."""

    header: list[str]
    place: dict[str, int]
    rows: list[tuple[int, list[str]]]
    separator: str


def plain(name: str) -> str:
    """Return a column's name in lower case, without accents, brackets, full stops and a number before it."""
    letters = unicodedata.normalize("NFKD", name.strip().casefold().translate(_LETTERS))
    text = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return "_".join(re.sub(r"^\d+\. |[<>*.\ufeff]", "", unicodedata.normalize("NFC", text)).split())


def texts(content: bytes, form: Form, name: str) -> dict[str, str]:
    """Return the texts that a file may hold, by encoding; one where it has a mark, is UTF-8, or a parameter says so."""
    zeros = [content[place:2000:2].count(0) for place in (0, 1)]
    if form.encoding != "auto":
        choices = [form.encoding]
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        choices = ["utf-16"]
    elif max(zeros) > len(content[:2000]) // 4:
        choices = ["utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"]
    else:
        choices = ["utf-8", *_CODEPAGES]
    decoded: dict[str, str] = {}
    for encoding in choices:
        if "utf-8" not in decoded:
            with suppress(UnicodeError, LookupError):
                decoded[encoding] = content.decode(encoding).removeprefix("\ufeff")
    if not decoded:
        cure = "set fx.acquire.csv.encoding to the right one, or save the file as UTF-8"
        raise RatesError(f"expected text in {name}, found none by the encoding {choices[0]}; {cure}")
    return decoded


def sheet(candidates: dict[str, str], form: Form, name: str) -> tuple[str, Sheet]:
    """Return encoding and cells of the text whose header is understood; RatesError: none, several, no CSV, too long."""
    understood: dict[tuple[str, ...], tuple[str, str, tuple[int, list[str], dict[str, int]]]] = {}
    faults: list[tuple[int, str]] = []
    for encoding, whole in candidates.items():
        if "\0" in whole:
            raise RatesError(f"expected text in {name}, found a NUL character; is it a CSV file?")
        line, _, rest = whole[:20].partition("\n")
        declared = re.fullmatch(r'"?sep=([,;|\t])"?\r?', line)  # as Excel writes and reads
        text = "\n" + rest + whole[20:] if declared else whole
        separators = [SEPARATORS[form.separator]] if form.separator != "auto" else list(SEPARATORS.values())
        for separator in [declared[1]] if declared else separators:
            first: list[tuple[int, list[str]]] = []
            try:
                with suppress(csv.Error):
                    first.extend(islice(_rows(text, separator), 10))
                header = _header(first, form, name)
            except RatesError as error:
                faults.append((max((len(row) for _, row in first), default=0), str(error)))
            else:
                at = (separator, *(f"{column} {place}" for column, place in header[2].items()))
                understood.setdefault(at, (encoding, text, header))
    if not understood:
        lines = (f"\n  {encoding}: {text[:200].partition(chr(10))[0]!r}" for encoding, text in candidates.items())
        by = f". It is not UTF-8; set fx.acquire.csv.encoding to what makes sense of its first line:{''.join(lines)}"
        raise RatesError(max(faults, key=lambda pair: pair[0])[1] + by * (len(candidates) > 1))
    most = max(map(len, understood))
    understood = {at: way for at, way in understood.items() if len(at) == most}
    if len(understood) > 1:
        lines = (f"\n  {encoding}, {at[0]!r}: {', '.join(at[1:])}" for at, (encoding, *_) in understood.items())
        found = f"found {len(understood)}; set {WHERE}.encoding or {WHERE}.separator:{''.join(lines)}"
        raise RatesError(f"expected one way to read the header of {name}, {found}")
    [(at, (encoding, text, (number, names, place)))] = understood.items()
    try:
        rows = list(islice(_rows(text, at[0]), MAX_ROWS))
    except csv.Error as error:
        raise RatesError(f"expected CSV in {name}, found: {error}; export it again") from error
    if len(rows) == MAX_ROWS:
        raise RatesError(f"expected fewer than {MAX_ROWS} rows, one a day, found more in {name}; export daily rates")
    while not names[-1]:
        names.pop()
    return encoding, Sheet(names, place, [(line, row) for line, row in rows if line > number], at[0])


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that hold anything, each with its number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    for number, row in enumerate(reader, start=1):
        cells = [cell.strip() for cell in row[:MAX_COLUMNS]]
        if any(cells):
            yield number, cells


def _header(first: Sequence[tuple[int, list[str]]], form: Form, name: str) -> tuple[int, list[str], dict[str, int]]:
    """Return the number of the last row of the header, the columns' names and their places."""
    if not first:
        raise RatesError(f"expected a header line and rows in {name}, found an empty file")
    # yfinance writes the columns' names, the ticker and the name of the index, each in a row of its own.
    index = [number for number, row in first if plain(row[0]) == "date" and len(row) > 1 and not any(row[1:])]
    named = [row for _, row in first if index and plain(row[0]) == "price"]
    if named:
        return index[0], named[0], _columns(["date", *named[0][1:]], form, name)
    faults: list[tuple[int, RatesError]] = []
    for number, row in first:
        try:
            return number, row, _columns(row, form, name)
        except RatesError as error:
            faults.append((len({_KNOWN.get(plain(cell)) for cell in row}), error))
    raise max(faults, key=lambda pair: pair[0])[1]


def _columns(header: list[str], form: Form, name: str) -> dict[str, int]:
    """Return the place of the date, the price and what there is of the rest."""
    names, chosen = [plain(cell) for cell in header], plain(form.price)
    kinds = [_KNOWN.get(column, column) for column in names]
    if chosen != "auto":
        kinds = ["price" if n == chosen else "" if k == "price" else k for n, k in zip(names, kinds, strict=True)]
    others = [at for at, kind in enumerate(kinds) if kind not in ("date", *FEATURES, "")]
    if chosen == "auto" and len(others) == 1 and not set(FEATURES) & set(kinds):
        kinds[others[0]] = "price"  # FRED and the ECB name the one column of values after the series
    # Of several dates, such as day and time, the first counts.
    twice = [column for column in FEATURES if kinds.count(column) > 1]
    lacking = [column for column in ("date", "price") if column not in kinds]
    if twice or lacking:
        listed = ", ".join(twice or lacking).replace("price", "price (or close)")
        cure = f"name the price in {WHERE}.price, export one series or call the columns date, open, high, low and price"
        found = f"{'more in' if twice else 'columns'} {', '.join(header)[:200]!r}; {cure}"
        raise RatesError(f"expected {'one' if twice else 'a'} column {listed} in {name}, found {found}")
    return {column: kinds.index(column) for column in ("date", *FEATURES) if column in kinds}


def _parts(cell: str) -> list[str]:
    """Return the three parts of a date, a month's name as "m" and its number, without time of day."""
    text = _TIME.sub("", cell)
    if len(text) == 8 and text.isascii() and text.isdigit():
        return [text[:4], text[4:6], text[6:]]
    match = _DAY.fullmatch(text.strip())
    return [_month(match[group]) for group in (1, 3, 5)] if match and match[2] == match[4] else []


def _month(part: str) -> str:
    name = part.lower()
    return part if part.isdigit() else next((f"m{k}" for k, m in enumerate(_MONTHS, 1) if m.startswith(name)), "m0")


def _date(parts: list[str], order: str) -> date | None:
    """Return the date of parts in an order of year, month and day; years of two digits are those from 1969 to 2068."""
    year, month, day = (parts[place] for place in _ORDERS[order]) if parts else ("", "", "")
    if len(year) not in (2, 4) or not (year + day).isdigit():
        return None
    century = 0 if len(year) == 4 else 1900 if int(year) > 68 else 2000
    with suppress(ValueError):
        return date(century + int(year), int(month.strip("m")), int(day))
    return None


def dates(cells: Sequence[tuple[int, str]], form: Form, name: str) -> tuple[str, list[date | None]]:
    """Return the order of a file's dates, and the dates of its cells (None: a fault).

    An order that no parameter gives must make a date of every cell and sort the file, newest or oldest first, unless
    the dates tell it themselves: by a month's name, or a year of four digits in front. A ``RatesError`` says that
    several orders do so and differ, or none.
    """
    parts = [_parts(cell) for _, cell in cells]
    times = {int(match[1]): cell for _, cell in cells if (match := _TIME.search(cell))}
    late, early = times.get(23) or times.get(22), times.get(0) or times.get(1)
    if late and early:  # a change of zone may have moved days
        cause = "summer time moved days across midnight; export dates in the market's own zone, or without times"
        raise RatesError(f"expected one time of day in {name}, found both {late!r:.40} and {early!r:.40}: {cause}")
    readings = {o: [_date(p, o) for p in parts] for o in ([form.date_order] if form.date_order != "auto" else _ORDERS)}
    best = max(readings, key=lambda order: len(cells) - readings[order].count(None))
    whole = {order: days for order, days in readings.items() if None not in days}
    if form.date_order != "auto" or not whole:
        return best, readings[best]
    kept = {order: days for order, days in whole.items() if days in (sorted(days), sorted(days, reverse=True))}  # type: ignore[type-var]
    told = bool(kept) or all(len(p[0]) == 4 or "m" in "".join(p) for p in parts)
    left = kept or whole
    if "dmy" in left and all("." in cell[:3] or "m" in p[1] for (_, cell), p in zip(cells, parts, strict=True)):
        return "dmy", left["dmy"]  # nobody writes month.day.year or year-name-day
    if told and len({tuple(days) for days in left.values()}) == 1:
        return next(iter(left.items()))
    differ = next((k for k, days in enumerate(zip(*whole.values(), strict=True)) if len(set(days)) > 1), 0)
    shown = ""
    for o, days in whole.items():
        some = list(zip(cells, days, strict=True))[differ : differ + 3]
        shown += f"\n  {o}: " + ", ".join(f"row {number} {cell!r:.30} is {day}" for (number, cell), day in some)
    what = "several" if kept else "none that sorts its rows, newest or oldest first"
    raise RatesError(f"expected one way to read the dates of {name}, found {what}; set {WHERE}.date_order:{shown}")


def _number(cell: str, mark: str) -> float:
    """Return a cell's number by a decimal mark ("point" or "comma"); NaN for words and other scripts' digits."""
    form, table = _NUMBERS[mark]
    with suppress(ValueError):
        return float(cell.translate(table)) if form.fullmatch(cell) else math.nan
    return math.nan


def numbers(cells: Sequence[str], others: Iterable[str], form: Form, name: str, *, machine: bool) -> tuple[str, Floats]:
    """Return the decimal mark of a file's numbers, by which all cells are numbers or else most, and the numbers.

    Of ``others``, all other cells, changes in percent and volumes may tell the mark where prices do not. ``machine``:
    MetaTrader wrote it, with points: 115.123 is no 115 thousand. RatesError: both marks make as many, other numbers.
    """
    readings = {mark: np.array([_number(cell, mark) for cell in cells]) for mark in _NUMBERS}
    point, comma = readings["point"], readings["comma"]
    differ = np.flatnonzero((point != comma) & ~(np.isnan(point) & np.isnan(comma)))
    valid = {mark: int(np.isfinite(values).sum()) for mark, values in readings.items()}
    chosen = form.decimal if form.decimal != "auto" else max(valid, key=lambda mark: valid[mark])
    if form.decimal == "auto" and valid["point"] == valid["comma"] and len(differ):
        figures = {cell for cell in (other.rstrip("%KMBkmb ") for other in others) if _FIGURE.fullmatch(cell)}
        by = {mark: {cell for cell in figures if math.isfinite(_number(cell, mark))} for mark in _NUMBERS}
        telling = [mark for mark in by if by[mark] - by["comma" if mark == "point" else "point"]]
        if len(telling) == 1 and valid["point"] == len(cells):
            chosen = telling[0]
        elif not machine or any("," in cells[at] for at in differ.tolist()):
            shown = ""
            for mark, values in readings.items():
                shown += f"\n  {mark}: " + ", ".join(f"{cells[at]!r:.30} is {values[at]}" for at in differ[:3].tolist())
            raise RatesError(f"expected one way to read the numbers of {name}, found two; set {WHERE}.decimal:{shown}")
    return chosen, readings[chosen]
