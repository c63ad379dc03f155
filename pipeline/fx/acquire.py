"""Acquiring the exchange-rate series: synthetic, the paper's own, or anybody's file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common import download, paths, records
from pipeline.fx import rates, synthetic
from pipeline.fx.csv_format import FEATURES, Form, RatesError

if TYPE_CHECKING:
    from pipeline.params import FxAcquire

PAPER_URL = "https://raw.githubusercontent.com/neelabhpant/Deep-Learning-in-Python/master/USD_INR.csv"
PAPER_SHA256 = "96d085f998b114413340fcb9155c9a511310b3341030e4e6473ad20c7d7b515f"
"""The paper's 9,697 days, 1980-01-02 to 2017-08-10, as a public repository keeps them (originally investing.com)."""
PAPER_MIRROR = "fx/USD_INR.csv"


def paper_series() -> tuple[rates.Rates, Mapping[str, object]]:
    """Return the paper's series and where it came from; a ``DownloadError`` says that it is not to be had."""
    file = paths.CHECKPOINTS / "downloads" / Path(PAPER_MIRROR).name
    origin = download.fetch(PAPER_URL, file, sha256=PAPER_SHA256, mirror_path=PAPER_MIRROR)
    return rates.read(file), origin


def acquire(settings: "FxAcquire", seed: int) -> None:
    """Write the series to :data:`rates.RATES` and its provenance beside it; ``seed`` is the root of the seed tree.

    Errors are a ``RatesError``, a ``FileNotFoundError`` (source ``csv``), or a ``DownloadError`` (the paper's file).
    """
    unit = {"paper": "rupees", "csv": settings.unit}.get(settings.source, "")  # what was generated is in no unit
    record: dict[str, object] = {"source": settings.source, "unit": unit}
    if settings.source == "synthetic":
        series = synthetic.generate(settings.synthetic_days, seed)
        record |= {"seed": seed, "note": "generated data: nothing computed from it says anything about real rates"}
    elif settings.source == "paper":
        series, origin = paper_series()
        record |= origin
    else:
        if settings.csv_path is None:
            raise RatesError("expected fx.acquire.csv_path with source csv, found none; name your file there")
        original = Path(settings.csv_path)
        series = rates.read(original, Form(**settings.csv.model_dump()))
        record |= {"file": original.name, "sha256": records.sha256_of(original), "read_as": series.read_as}
        record |= {"columns": series.columns, "days_without_values": series.left_out}
    rates.write(series, rates.RATES)
    days = {"rows": len(series), "first_date": str(series.dates[0]), "last_date": str(series.dates[-1])}
    records.write_json(paths.source_record("fx"), {**record, **days, "ohlc_violations": series.ohlc_violations})
    print(f"fx: {len(series)} days, {series.dates[0]} to {series.dates[-1]}, source {settings.source}")
    if series.left_out:
        print(f"fx: {series.left_out} day(s) without a value, such as holidays, left out")
    if len(series.columns) < len(FEATURES):
        print(f"fx: the file has {', '.join(series.columns)} only; name these in fx.windows.inputs")
    steps = series.price[1:] / series.price[:-1]
    for at in np.flatnonzero((steps > 10) | (steps < 0.1))[:1]:
        before, after = series.price[at : at + 2]
        print(f"fx: warning: price {before} is {after} on {series.dates[at + 1]}; check fx.acquire.csv.decimal")
    if series.ohlc_violations:
        print(f"fx: {series.ohlc_violations} day(s) with open or price outside [low, high]; kept")
