"""Windows of T days that predict the next day's price (Section 6.3), split by day, scaled on training days only.

Target day i is predicted from days i - T … i - 1. A window belongs to the split of its target day: training days run
from 0 to ``train_end`` (the paper: 8000), test days follow (8001 … 9696), and the tail of the training days is the
validation set on which hyperparameters are chosen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import records
from pipeline.fx.rates import FEATURES, Rates, RatesError
from pipeline.params import FxWindows

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Scaler:
    """An affine map per column: scaled = (raw - offset) / scale.

    Attributes:
        kind: ``min-max`` (training days map to [0, 1]) or ``z-score`` (to mean 0, deviation 1).
        offset: ``(4,)`` in raw units.
        scale: ``(4,)`` in raw units, positive.
    """

    kind: Literal["min-max", "z-score"]
    offset: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, values: npt.NDArray[np.float64], kind: Literal["min-max", "z-score"]) -> Scaler:
        """Fit to ``(N, 4)`` raw values; a constant column gets scale 1."""
        if kind == "min-max":
            offset, scale = values.min(0), values.max(0) - values.min(0)
        else:
            offset, scale = values.mean(0), values.std(0)
        # Not scale > 0: the standard deviation of a constant 45.1 is 1e-14.
        return cls(kind, offset, np.where(np.ptp(values, 0) > 0, scale, 1.0))

    def apply(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Scale ``(..., 4)`` raw values."""
        scaled: npt.NDArray[np.float64] = (values - self.offset) / self.scale
        return scaled


@dataclass(frozen=True)
class Windows:
    """Windows of all target days, oldest first.

    Attributes:
        day_index: ``(N,)`` int32 0-based index of the target day in the series.
        dates: ``(N,)`` ``datetime64[D]`` of the target day.
        split: ``(N,)`` names of the target day's split.
        inputs: ``(N, T, 4)`` float32 scaled open, high, low, price of the T days before.
        target: ``(N, 1)`` float32 scaled price of the target day.
        target_raw: ``(N,)`` float64 price of the target day [rupees].
        last_price_raw: ``(N,)`` float64 price of the day before [rupees].
        scaler: fitted on training days.
    """

    day_index: npt.NDArray[np.int32]
    dates: npt.NDArray[np.datetime64]
    split: npt.NDArray[np.str_]
    inputs: npt.NDArray[np.float32]
    target: npt.NDArray[np.float32]
    target_raw: npt.NDArray[np.float64]
    last_price_raw: npt.NDArray[np.float64]
    scaler: Scaler

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.day_index)

    def where(self, *splits: Split) -> npt.NDArray[np.bool_]:
        """Return the mask of windows in any of ``splits``."""
        return np.isin(self.split, splits)

    @property
    def target_scale(self) -> float:
        """Rupees per scaled unit of the target."""
        return float(self.scaler.scale[FEATURES.index("price")])

    @property
    def target_offset(self) -> float:
        """Rupees at scaled target 0."""
        return float(self.scaler.offset[FEATURES.index("price")])


def last_training_day(rates: Rates, train_end: int | str) -> int:
    """Return the 0-based index of the last training day.

    Args:
        rates: the series.
        train_end: a day index, or an ISO date (the last day on or before it counts).

    Raises:
        RatesError: no such day, or no test day after it.
    """
    if isinstance(train_end, str):
        try:
            limit = np.datetime64(train_end, "D")
        except ValueError as error:
            raise RatesError(
                f"expected fx.windows.train_end as a day index or ISO date, found {train_end!r}"
            ) from error
        if np.isnat(limit):
            raise RatesError(f"expected fx.windows.train_end as a day index or ISO date, found {train_end!r}")
        last = int(np.searchsorted(rates.dates, limit, side="right")) - 1
    else:
        last = train_end
    if not 0 <= last < len(rates) - 1:
        raise RatesError(
            f"expected fx.windows.train_end within days 0 to {len(rates) - 2} ({rates.dates[0]} to {rates.dates[-2]}), "
            f"found {train_end!r}; choose an earlier day or acquire more data"
        )
    return last


def make_windows(rates: Rates, settings: FxWindows, fit_through: int | None = None) -> Windows:
    """Return the windows of a series.

    Args:
        rates: the series.
        settings: window length, split and scaling.
        fit_through: last day (0-based) that the scaler sees; ``None`` is the last training day. ``make tune`` passes
            the last day before the validation tail.

    Raises:
        RatesError: too few days for the window or the split, or a rate beyond all scales.
    """
    T, last = settings.window, last_training_day(rates, settings.train_end)
    if last < T:
        raise RatesError(f"expected more than T = {T} training days, found {last + 1}; raise train_end or lower window")
    tail = round(settings.validation_fraction * (last + 1))
    first_validation = last + 1 - tail
    scaler = Scaler.fit(rates.values[: (last if fit_through is None else fit_through) + 1], settings.scaling)
    days = np.arange(T, len(rates))
    rows = days[:, None] + np.arange(-T, 0)
    with np.errstate(over="ignore"):
        scaled = scaler.apply(rates.values).astype(np.float32)
    beyond = np.flatnonzero(~np.isfinite(scaled).all(1))
    if len(beyond):
        raise RatesError(
            f"expected rates that the scaler of the training days can hold, found {rates.values[beyond[0]].tolist()} "
            f"on {rates.dates[beyond[0]]}; check that day, or choose a later train_end"
        )
    price = FEATURES.index("price")
    return Windows(
        days.astype(np.int32),
        rates.dates[days],
        np.where(days > last, "test", np.where(days >= first_validation, "validation", "train")),
        scaled[rows],
        scaled[days, price : price + 1],
        rates.price[days],
        rates.price[days - 1],
        scaler,
    )


def first_validation_day(rates: Rates, settings: FxWindows) -> int:
    """Return the 0-based index of the first day of the validation tail."""
    last = last_training_day(rates, settings.train_end)
    return last + 1 - round(settings.validation_fraction * (last + 1))


def schema(window: int) -> pa.Schema:
    """Return the parquet schema of windows of ``window`` days."""
    return pa.schema(
        [
            ("day_index", pa.int32()),
            ("date", pa.date32()),
            ("split", pa.string()),
            ("inputs", pa.list_(pa.float32(), window * len(FEATURES))),
            ("target", pa.float32()),
            ("target_raw", pa.float64()),
            ("last_price_raw", pa.float64()),
        ]
    )


def save(windows: Windows, destination: Path) -> None:
    """Write windows as parquet, the scaler in the schema's metadata."""
    count, T, features = windows.inputs.shape
    layout = schema(T)
    inputs = pa.FixedSizeListArray.from_arrays(pa.array(windows.inputs.reshape(-1)), T * features)
    columns = [
        pa.array(windows.day_index),
        pa.array(windows.dates.astype("datetime64[D]")),
        pa.array(windows.split.tolist(), pa.string()),
        inputs,
        pa.array(windows.target[:, 0]),
        pa.array(windows.target_raw),
        pa.array(windows.last_price_raw),
    ]
    table = pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, layout, strict=True)], schema=layout)
    scaler = {"kind": windows.scaler.kind, "offset": list(windows.scaler.offset), "scale": list(windows.scaler.scale)}
    records.write_table(destination, table, {"scaler": json.dumps(scaler), "window": str(T), "rows": str(count)})


def load(source: Path) -> Windows:
    """Read windows that :func:`save` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or not of windows.
    """
    table = records.read_table(source)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    try:
        T, stored = int(metadata["window"]), json.loads(metadata["scaler"])
        scaler = Scaler(stored["kind"], np.array(stored["offset"], float), np.array(stored["scale"], float))
        FxWindows(window=T, scaling=stored["kind"])
        if scaler.offset.shape != (len(FEATURES),) or scaler.scale.shape != scaler.offset.shape:
            raise ValueError("scaler of other columns")
        if not (np.isfinite(scaler.offset).all() and np.isfinite(scaler.scale).all() and (scaler.scale > 0).all()):
            raise ValueError("scaler with a value that is not finite and positive")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"expected windows with a scaler in {source}, found other metadata ({error!r}); run stage fx_windows again"
        ) from error
    records.check_schema(table, schema(T), source)
    inputs = table["inputs"].combine_chunks().flatten()
    if any(table[name].null_count for name in schema(T).names) or inputs.null_count:
        raise ValueError(f"expected a value in every cell of {source}, found nulls; run stage fx_windows again")
    loaded = Windows(
        table["day_index"].to_numpy(),
        table["date"].to_numpy().astype("datetime64[D]"),
        np.array(table["split"].to_pylist(), dtype=str),
        inputs.to_numpy().reshape(-1, T, len(FEATURES)).copy(),
        table["target"].to_numpy().reshape(-1, 1).copy(),
        table["target_raw"].to_numpy(),
        table["last_price_raw"].to_numpy(),
        scaler,
    )
    _check(loaded, source)
    return loaded


def _check(windows: Windows, source: Path) -> None:
    """Hold the columns against each other: metadata has no checksum, and another scaler would mean other rupees."""
    price = FEATURES.index("price")
    with np.errstate(all="ignore"):
        target = ((windows.target_raw - windows.scaler.offset[price]) / windows.scaler.scale[price]).astype(np.float32)
    sound = {
        "consecutive days": (np.diff(windows.day_index) == 1).all() and (np.diff(windows.dates).astype(int) > 0).all(),
        f"splits {SPLITS}": np.isin(windows.split, SPLITS).all(),
        "finite numbers": np.isfinite(windows.inputs).all() and np.isfinite(windows.target_raw).all(),
        "the day before's price": (windows.last_price_raw[1:] == windows.target_raw[:-1]).all(),
        "targets scaled by the stored scaler": (windows.target[:, 0] == target).all(),
    }
    broken = [what for what, holds in sound.items() if not holds]
    if broken:
        raise ValueError(f"expected {' and '.join(broken)} in {source}, found otherwise; run stage fx_windows again")
