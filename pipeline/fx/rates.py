"""Daily open, high, low and closing rates: reading anybody's CSV file, and refusing what cannot be used.

Any file with columns Date, Open, High, Low and Price (or Close) will do, newest or oldest day first. Every fault
names its row and column. Days whose open or price leave [low, high] are kept and counted: the paper's series has 7.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.common import paths, records

RATES = paths.raw("fx") / "rates.csv"
"""The acquired series, as :func:`write` writes it."""

FEATURES = ("open", "high", "low", "price")
"""Inputs per day, in the paper's order (Section 6.3)."""

MAX_BYTES = 16 << 20  # a larger file is refused unread: 16 MiB hold some 800 years of days
MAX_FAULTS = 20  # faults listed in one message
TOO_MANY = 1000  # faults after which the rest of a file is not read
PRICES = (1e-30, 1e30)  # smallest and largest price: wider than any currency's, and safe to square in float64

_DATES = ("%Y-%m-%d", "%b %d, %Y", "%d %b %Y", "%Y/%m/%d", "%d.%m.%Y", "%Y%m%d", "%B %d, %Y", "%m/%d/%Y")
_COMPACT = re.compile(r"\d{5,7}")
# A decimal comma (68,8) must not pass for a thousands separator; groups of two digits are Indian (1,00,000.5).
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{2,3})*,\d{3}|\d+)?(\.\d*)?([eE][+-]?\d+)?", re.ASCII)


class RatesError(ValueError):
    """A file of rates that cannot be used; the message lists the faults with row and column."""


@dataclass(frozen=True)
class Rates:
    """A series of daily rates, oldest day first.

    Attributes:
        dates: ``(N,)`` ``datetime64[D]``, strictly increasing.
        values: ``(N, 4)`` float64 open, high, low, price [units of the quoted currency].
    """

    dates: npt.NDArray[np.datetime64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Number of days."""
        return len(self.dates)

    @property
    def price(self) -> npt.NDArray[np.float64]:
        """``(N,)`` price of each day, the paper's "average price"."""
        return self.values[:, FEATURES.index("price")]

    @property
    def ohlc_violations(self) -> int:
        """Days whose open or price is below the low or above the high."""
        opening, high, low, price = self.values.T
        outside = (opening < low) | (opening > high) | (price < low) | (price > high)
        return int(outside.sum())


def _parse_date(text: str) -> date | None:
    """Return a date in one of the forms that are known."""
    # strptime reads 201112 as 2 January 2011.
    if text.isascii() and not _COMPACT.fullmatch(text):
        for form in _DATES:
            with suppress(ValueError):
                return datetime.strptime(text, form).date()
    return None


def _parse_number(text: str) -> float | None:
    """Return a plain decimal price; thousands separators are accepted, words and other scripts' digits are not."""
    value = math.nan
    if _NUMBER.fullmatch(text):
        with suppress(ValueError):
            value = float(text.replace(",", ""))
    return value if PRICES[0] <= value <= PRICES[1] else None


def read(source: Path) -> Rates:
    """Read a CSV file of daily rates: UTF-8, with a header line.

    Raises:
        FileNotFoundError: there is no such file.
        RatesError: the file is too large, not CSV, lacks a column, or has faulty rows, all named.
    """
    if not source.is_file():
        raise FileNotFoundError(
            f"expected a CSV file of rates at {source}, found none; check fx.acquire in params.yaml"
        )
    if source.stat().st_size > MAX_BYTES:
        raise RatesError(f"expected a file under {MAX_BYTES} bytes, found {source.stat().st_size} in {source.name}")
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RatesError(f"expected UTF-8 text in {source.name}, found {error}; save the file as UTF-8") from error
    return parse(text, source.name)


def parse(text: str, name: str = "rates") -> Rates:
    """Read rates from CSV text; ``name`` is the file's name in messages.

    Raises:
        RatesError: as :func:`read`.
    """
    if "\0" in text:
        raise RatesError(f"expected text in {name}, found a NUL character; is it a CSV file?")
    try:
        return _parse_rows(csv.reader(io.StringIO(text, newline=""), strict=True), name)
    except csv.Error as error:
        raise RatesError(f"expected CSV in {name}, found: {error}") from error


def _parse_rows(cells: Iterable[list[str]], name: str) -> Rates:
    """Read rows, header first; name the faults of all of them together."""
    rows = ((number, row) for number, row in enumerate(cells, start=1) if any(cell.strip() for cell in row))
    _, first = next(rows, (0, None))
    if first is None:
        raise RatesError(f"expected a header line and rows in {name}, found an empty file")
    header = [cell.strip().lower() for cell in first]
    place = _columns(header, name)
    faults: list[str] = []
    seen: dict[date, int] = {}
    days: dict[date, list[float]] = {}
    for number, row in rows:
        if len(faults) >= TOO_MANY:
            break
        # More cells than columns: an unquoted 1,234.5 would shift all columns after it.
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            faults.append(f"row {number}: expected {len(header)} cells, found {len(row)}")
            continue
        texts = {column: row[at].strip() for column, at in place.items()}
        day = _parse_date(texts["date"])
        if day is None:
            faults.append(f"row {number}, column date: expected a date such as 2011-02-09, found {texts['date']!r:.40}")
            continue
        if day in seen:
            faults.append(f"row {number}, column date: {day} stands in row {seen[day]} already")
            continue
        seen[day] = number
        numbers = {column: _parse_number(texts[column]) for column in FEATURES}
        days[day] = [value for value in numbers.values() if value is not None]
        faults += [
            f"row {number}, column {column}: expected a positive finite number such as 1,234.5, "
            f"found {texts[column]!r:.40}"
            for column, value in numbers.items() if value is None
        ]  # fmt: skip
    if faults:
        more = f"\n  and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        listed = "\n  ".join(faults[:MAX_FAULTS])
        count = f"{len(faults)} or more" if len(faults) >= TOO_MANY else len(faults)
        raise RatesError(f"{name} has {count} fault(s); mend or remove these rows:\n  {listed}{more}")
    if not days:
        raise RatesError(f"expected at least one row under the header of {name}, found none")
    dates, values = zip(*sorted(days.items()), strict=True)
    return Rates(np.array(dates, dtype="datetime64[D]"), np.array(values, dtype=np.float64))


def _columns(header: list[str], name: str) -> dict[str, int]:
    """Return the place of every column that is needed."""
    twice = [column for column in ("date", *FEATURES, "close") if header.count(column) > 1]
    if {"price", "close"} <= set(header):
        twice.append("price (or close)")
    if twice:
        raise RatesError(f"expected one column {', '.join(twice)} in {name}, found more; rename or remove one")
    known = {"price" if column == "close" else column: place for place, column in enumerate(header)}
    missing = [column for column in ("date", *FEATURES) if column not in known]
    if missing:
        listed = ", ".join("price (or close)" if column == "price" else column for column in missing)
        raise RatesError(f"expected a column {listed} in {name}, found columns {', '.join(header)[:200]!r}")
    return {column: known[column] for column in ("date", *FEATURES)}


def write(rates: Rates, destination: Path) -> None:
    """Write rates as CSV: ISO dates, oldest day first, shortest exact decimals."""
    rows = (f"{day}," + ",".join(map(repr, row)) for day, row in zip(rates.dates, rates.values.tolist(), strict=True))
    records.write_text(destination, "\n".join(["date," + ",".join(FEATURES), *rows]) + "\n")
