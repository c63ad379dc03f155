"""Run files whose every statistic is known by construction."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline import params, paths, records
from pipeline.fx import acquire, rates, windows
from pipeline.training.engine import METRICS
from pipeline.training.train import CURVES, OUTCOMES


def fx_params(**training):
    content = params.Params(sources=["fx"], video_sets=[], tasks=["fx"]).model_dump()
    content["fx"]["acquire"]["synthetic_days"] = 120
    content["fx"]["windows"]["train_end"] = 90
    content["training"] |= {"repetitions": 4, **training}
    content["evaluate"]["bootstrap"] = 200
    for cell in ("lstm", "gru"):
        sigma = {place: {"additive": 0.1, "multiplicative": 0.2} for place in ("output", "hidden")}
        content["train"]["fx"][cell] |= {"hidden": 3, "epochs": 10, "max_epochs": 15, "sigma": sigma}
    return params.validate(content)


def data(settings):
    acquire.acquire(settings.fx.acquire, settings.seed)
    windows.save(windows.make_windows(rates.read(paths.FX_RATES), settings.fx.windows), paths.FX_WINDOWS)
    return windows.load(paths.FX_WINDOWS)


def loss(condition, repetition, epoch):
    """A noiseless loss of 1/(1 + epoch); NEM twice as fast; blind noise never gets below 0.5."""
    start = 10.0 + repetition
    if condition.startswith("nem"):
        return start / (1 + 2 * epoch)
    if condition.startswith("blind"):
        return max(start / (1 + epoch), 0.5 * start)
    return start / (1 + epoch)


def run(settings, cell, failing=("blind-additive-output", 1, 4)):
    """Write one fabricated run; the network ``failing`` stops after its epoch - 1."""
    made = data(settings)
    test = made.where("test")
    truth, days = made.target_raw[test], made.day_index[test]
    rows, outcomes, predictions = [], [], []
    for condition in settings.training.conditions:
        for repetition in range(settings.training.repetitions):
            dead = failing is not None and (condition, repetition) == failing[:2]
            last = failing[2] - 1 if dead else 15
            for epoch in range(last + 1):
                row = dict.fromkeys(METRICS, None)
                value = loss(condition, repetition, epoch)
                row |= {"train_loss": value / 2, "test_loss": value, "noisy_loss": value if epoch else None}
                rows.append({"condition": condition, "repetition": repetition, "epoch": epoch, **row})
            outcomes.append(
                {
                    "condition": condition,
                    "repetition": repetition,
                    "status": "failed" if dead else "ok",
                    "failed_epoch": failing[2] if dead else None,
                }
            )
            if not dead:
                predictions += [
                    {
                        "condition": condition,
                        "repetition": repetition,
                        "row": int(day),
                        "prediction": float(value) + 0.1,
                    }
                    for day, value in zip(days, truth, strict=True)
                ]
    folder = paths.run_folder("fx", cell)
    records.write_table(folder / "curves.parquet", pa.Table.from_pylist(rows, schema=CURVES))
    records.write_table(folder / "outcomes.parquet", pa.Table.from_pylist(outcomes, schema=OUTCOMES))
    layout = pa.schema(
        [("condition", pa.string()), ("repetition", pa.int32()), ("row", pa.int32()), ("prediction", pa.float64())]
    )
    records.write_table(folder / "predictions.parquet", pa.Table.from_pylist(predictions, schema=layout))
    records.write_json(
        folder / "run.json",
        {
            "task": "fx",
            "cell": cell,
            "seed": settings.seed,
            "settings": settings.train.of("fx", cell).model_dump(),
            "training": settings.training.model_dump(),
            "device": "cpu",
            "data": {"data/fx/windows.parquet": records.sha256_of(paths.FX_WINDOWS)},
            "inputs": 4,
            "outputs": 1,
            "slices": 4,
            "train_sequences": int((~test).sum()),
            "test_sequences": int(test.sum()),
            "classes": [],
            "target_scale": made.target_scale,
            "target_offset": made.target_offset,
            "versions": {"torch": "2", "numpy": "2", "python": "3"},
        },
    )
    return np.asarray(truth)
