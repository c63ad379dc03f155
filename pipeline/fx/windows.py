"""Windows of T days that predict the next day's price (Section 6.3), split by day, scaled on training days only.

Target day i is predicted from days i - T … i - 1, and decides the side: training days run from 0 to ``train_end`` (the
paper: 8000), test days follow (8001 … 9696); the tail of the training days is for choosing hyperparameters.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.common import records, sequences
from pipeline.common.sequences import Side
from pipeline.fx.csv_format import FEATURES, Floats, RatesError
from pipeline.fx.rates import Rates

if TYPE_CHECKING:
    from pipeline.params import FxWindows

FILE = "windows.parquet"
SPLIT = "days"
PRICE = FEATURES.index("price")
COLUMNS = [("day_index", pa.int32()), ("date", pa.date32()), ("split", pa.string())]
VALUES = ("target_raw", "last_price_raw", "base_raw")
SCHEMA = pa.schema([*COLUMNS, *((name, pa.float64()) for name in VALUES)])


@dataclass(frozen=True)
class Scaler:
    """An affine map per column: scaled = (raw - offset) / scale."""

    offset: Floats  # (4,) in raw units
    scale: Floats  # (4,) in raw units, positive

    @classmethod
    def fit(cls, values: Floats, kind: Literal["min-max", "z-score"]) -> "Scaler":
        """Fit to ``(N, 4)`` raw values: to [0, 1], or to mean 0, deviation 1; a constant column gets scale 1."""
        if kind == "min-max":
            offset, scale = values.min(0), values.max(0) - values.min(0)
        else:
            offset, scale = values.mean(0), values.std(0)
        # Not scale > 0: the standard deviation of a constant 45.1 is 1e-14.
        return cls(offset, np.where(np.ptp(values, 0) > 0, scale, 1.0))

    def apply(self, values: Floats) -> Floats:
        """Scale ``(..., 4)`` raw values."""
        return np.asarray((values - self.offset) / self.scale)


@dataclass(frozen=True)
class Windows:
    """All N target days, oldest first, in raw units."""

    day_index: npt.NDArray[np.int32]  # (N,) 0-based index of the target day in the series
    dates: npt.NDArray[np.datetime64]  # (N,) of the target day, in days
    split: npt.NDArray[np.str_]  # (N,) the target day's side
    target_raw: Floats  # (N,) price of the target day [units of the rates]
    last_price_raw: Floats  # (N,) price of the day before [units of the rates]
    base_raw: Floats  # (N,) what a network's output adds to, for a price: 0, or of changes the last price [same]

    def where(self, *sides: Side) -> npt.NDArray[np.bool_]:
        """Return the mask of windows on any of ``sides``."""
        return np.isin(self.split, sides)


def last_training_day(rates: Rates, train_end: int | str) -> int:
    """Return the 0-based last training day, at or before ``train_end``; RatesError: none, or no test day after it."""
    if isinstance(train_end, str):
        last = int(np.searchsorted(rates.dates, np.datetime64(train_end), side="right")) - 1
    else:
        last = train_end
    if not 0 <= last < len(rates) - 1:
        raise RatesError(
            f"expected fx.windows.train_end as a day index or ISO date within days 0 to {len(rates) - 2} "
            f"({rates.dates[0]} to {rates.dates[-2]}), found {train_end!r}; choose an earlier day or acquire more data"
        )
    return last


def split_days(rates: Rates, settings: "FxWindows") -> Windows:
    """Return the target days of a series with their sides; too few for the window or the split are a ``RatesError``."""
    T, last = settings.window, last_training_day(rates, settings.train_end)
    if last < T:
        raise RatesError(f"expected more than T = {T} training days, found {last + 1}; raise train_end or lower window")
    first_validation = last + 1 - round(settings.validation_fraction * (last + 1))
    days = np.arange(T, len(rates))
    side = np.where(days > last, "test", np.where(days >= first_validation, "validation", "train"))
    last_price = rates.price[days - 1]
    base = last_price if settings.target == "change" else np.zeros(len(days))
    return Windows(days.astype(np.int32), rates.dates[days], side, rates.price[days], last_price, base)


def table(rates: Rates, settings: "FxWindows", *, unit: str = "", hold_out: bool = False) -> sequences.Table:
    """Return the windows of a series as sequences of scaled days: ``(D, I)`` the chosen I inputs of all D days.

    ``unit`` is that of the rates. With ``hold_out`` the scaler is fitted on the days before the validation tail, as is
    right for choosing on that tail, else on all training days. A ``RatesError`` refuses too few days for the window or
    the split, an input that is not there, or a rate beyond all scales.
    """
    windows, lacking = split_days(rates, settings), [name for name in settings.inputs if name not in rates.columns]
    if lacking:
        raise RatesError(
            f"expected {', '.join(lacking)} of each day, as fx.windows.inputs says, found {', '.join(rates.columns)}; "
            f"set fx.windows.inputs to [{', '.join(rates.columns)}], or acquire a file that has the rest"
        )
    unseen = windows.where("test", *(["validation"] if hold_out else []))  # type: ignore[arg-type]
    scaler = Scaler.fit(rates.values[: windows.day_index[unseen][0]], settings.scaling)
    with np.errstate(over="ignore"):
        scaled = scaler.apply(rates.values).astype(np.float32)
    inputs = [FEATURES.index(name) for name in settings.inputs]
    beyond = np.flatnonzero(~np.isfinite(scaled[:, [*inputs, PRICE]]).all(1))
    if len(beyond):
        raise RatesError(
            f"expected rates that the scaler of the training days can hold, found {rates.values[beyond[0]].tolist()} "
            f"on {rates.dates[beyond[0]]}; check that day, or choose a later train_end"
        )
    days, offset, scale = windows.day_index.astype(np.int64), scaler.offset[PRICE], scaler.scale[PRICE]
    targets = scaled[days, PRICE : PRICE + 1]
    if settings.target == "change":
        change = windows.target_raw - windows.base_raw
        known = change[~unseen]
        offset, scale = known.mean(), known.std() if np.ptp(known) > 0 else 1.0
        targets = ((change - offset) / scale).astype(np.float32)[:, None]
    return sequences.Table(
        rows=days, index=days[:, None] + np.arange(-settings.window, 0), targets=targets,
        group=None, splits={SPLIT: windows.split}, head="identity", unit=unit,
        pools={"": np.ascontiguousarray(scaled[:, inputs])},
        target_scale=float(scale), target_offset=float(offset),
    )  # fmt: skip


def write(folder: Path, rates: Rates, settings: "FxWindows", *, unit: str = "", hold_out: bool = False) -> Windows:
    """Write what :func:`table` returns to a folder, and the windows in raw units beside it; return these."""
    scaled, windows = table(rates, settings, unit=unit, hold_out=hold_out), split_days(rates, settings)
    save(windows, folder / FILE)
    sequences.write(folder, scaled)
    return windows


def save(windows: Windows, destination: Path) -> None:
    """Write windows in raw units as parquet."""
    days = windows.dates.astype("datetime64[D]")
    columns = [windows.day_index, days, windows.split.tolist(), *(getattr(windows, name) for name in VALUES)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    records.write_table(destination, pa.Table.from_arrays(arrays, schema=SCHEMA))


def load(source: Path) -> Windows:
    """Read windows that :func:`save` wrote; a FileNotFoundError or ValueError says that they are missing or damaged."""
    stored = records.read_table(source, SCHEMA)
    index, days, *values = (stored[name].to_numpy() for name in SCHEMA.names if name != "split")
    return Windows(index, days.astype("datetime64[D]"), np.array(stored["split"].to_pylist(), str), *values)
