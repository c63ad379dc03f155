"""Daily open, high, low and closing rates: reading anybody's CSV file, and refusing what cannot be used.

:mod:`pipeline.fx.csv_format` finds out how it is written. Days whose open or price leave [low, high] are kept and
counted: the paper's series has 7.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.common import paths, records
from pipeline.fx import csv_format
from pipeline.fx.csv_format import FEATURES, Floats, Form, RatesError

RATES = paths.raw("fx") / "rates.csv"
"""The acquired series, as :func:`write` writes it."""

ANY, OWN = Form(), Form("ymd", "point", "comma", "utf-8")  # OWN: as :func:`write` writes
MAX_BYTES = 16 << 20  # a larger file is refused unread: 16 MiB hold some 800 years of days
MORE_ROWS = 10  # numbers of rows that a message lists for one cause
PRICES = (1e-30, 1e30)  # smallest and largest price: wider than any currency's, and safe to square in float64


@dataclass(frozen=True)
class Rates:
    """A series of daily rates, oldest day first."""

    dates: npt.NDArray[np.datetime64]  # (N,) days, strictly increasing
    values: Floats  # (N, 4) open, high, low, price [units of the quoted currency]; NaN where a file has none
    read_as: dict[str, str] = field(default_factory=dict)  # encoding, separator, order of dates, decimal mark
    left_out: int = 0  # days without any value that the file has, such as holidays

    def __len__(self) -> int:
        """Number of days."""
        return len(self.dates)

    @property
    def columns(self) -> list[str]:
        """Which of open, high, low and price there are."""
        return [FEATURES[at] for at in np.flatnonzero(np.isfinite(self.values).all(axis=0))]

    @property
    def price(self) -> Floats:
        """``(N,)`` price of each day, the paper's "average price"."""
        return self.values[:, FEATURES.index("price")]

    @property
    def ohlc_violations(self) -> int:
        """Days whose open or price is below the low or above the high."""
        opening, high, low, price = self.values.T
        return int(((opening < low) | (opening > high) | (price < low) | (price > high)).sum())


def read(source: Path, form: Form | None = None) -> Rates:
    """Read a CSV file of daily rates with a header; ``form`` is what is known of how it is written.

    A ``FileNotFoundError`` says that there is none, a ``RatesError`` that the file is too large, not CSV, lacks a
    column, could be read two ways, or has faults, all named.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected rates at {source}, found no file; check fx.acquire in params.yaml")
    if source.stat().st_size > MAX_BYTES:
        raise RatesError(f"expected a file under {MAX_BYTES} bytes, found {source.stat().st_size} in {source.name}")
    form = form or (OWN if source == RATES else ANY)
    return parse(csv_format.texts(source.read_bytes(), form, source.name), source.name, form)


def parse(texts: str | dict[str, str], name: str = "rates", form: Form = ANY) -> Rates:
    """Read rates from CSV text, or that of several decodings which makes sense; a RatesError is as of :func:`read`."""
    encoding, sheet = csv_format.sheet({"text": texts} if isinstance(texts, str) else texts, form, name)
    columns = [column for column in FEATURES if column in sheet.place]
    places, at_date, width = [sheet.place[column] for column in columns], sheet.place["date"], len(sheet.header)
    faults = defaultdict[str, list[str]](list)
    rows: list[tuple[int, list[str]]] = []
    for number, row in sheet.rows:
        # More cells than columns: an unquoted 1,234.5 would shift all columns after it.
        if len(row) < width or any(row[width:]):
            cause = f"{{}}: expected {width} cells, found {{}}; quote numbers that hold the separator"
            faults[cause].append(f"{number} {len(row)}")
        elif not all(row[at].lower() in csv_format.MISSING for at in places):
            rows.append((number, row))
    left_out = len(sheet.rows) - len(rows) - sum(map(len, faults.values()))
    order, days = csv_format.dates([(number, row[at_date]) for number, row in rows], form, name)
    others = [cell for _, row in rows for at, cell in enumerate(row) if at not in (at_date, *places)]
    cells = [row[at] for _, row in rows for at in places]
    decimal, flat = csv_format.numbers(cells, others, form, name, machine=sheet.header[0].startswith("<"))
    values, seen = flat.reshape(len(rows), len(places)), dict[date, int]()
    values[~((values >= PRICES[0]) & (values <= PRICES[1]))] = np.nan
    for (number, row), day in zip(rows, days, strict=True):
        if day is None:
            cause = f"{{}}, column date: expected a date such as 2011-02-09 (order {order}), found {{}}"
            faults[cause].append(f"{number} {row[at_date]!r:.40}")
        elif seen.setdefault(day, number) != number:
            cause = "{}, column date: expected one row per day, found {} already; export daily rates"
            faults[cause].append(f"{number} that {day} stands in row {seen[day]}")
    for at, which in np.argwhere(np.isnan(values)):
        cause = f"{{}}, column {columns[which]}: expected a positive finite number (decimal {decimal}), found {{}}"
        faults[cause].append(f"{rows[at][0]} {rows[at][1][places[which]]!r:.40}")
    if faults:
        raise RatesError(_listed(faults, name))
    if not rows:
        raise RatesError(f"expected at least one row in {name}, found none ({left_out} without a value)")
    dates, four = np.array(days, dtype="datetime64[D]"), np.full((len(rows), len(FEATURES)), np.nan)
    four[:, [FEATURES.index(column) for column in columns]] = values
    read_as = {"encoding": encoding, "separator": sheet.separator, "date_order": order, "decimal": decimal}
    oldest_first = np.argsort(dates)
    return Rates(dates[oldest_first], four[oldest_first], read_as, left_out)


def _listed(faults: dict[str, list[str]], name: str) -> str:
    """Return a message that tells each cause once, with its first row and the numbers of some others."""
    lines = [f"{name} has {sum(map(len, faults.values()))} fault(s); correct the file, or how fx.acquire.csv reads it:"]
    for cause, places in faults.items():
        (number, found), *others = (place.split(" ", 1) for place in places)
        more = ", ".join(other for other, _ in others[:MORE_ROWS]) + ", …" * (len(others) > MORE_ROWS)
        lines.append(cause.format(f"row {number}", found) + f" (and {len(others)} more: rows {more})" * bool(others))
    return "\n  ".join(lines)


def write(rates: Rates, destination: Path) -> None:
    """Write rates as CSV: the columns that there are, ISO dates, oldest day first, shortest exact decimals."""
    there = [at for at in range(len(FEATURES)) if FEATURES[at] in rates.columns]
    rows = zip(rates.dates, rates.values[:, there].tolist(), strict=True)
    lines = [f"{day}," + ",".join(map(repr, row)) for day, row in rows]
    records.write_text(destination, "\n".join([",".join(["date", *rates.columns]), *lines]) + "\n")
