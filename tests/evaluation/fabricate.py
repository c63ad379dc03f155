"""Run files whose every statistic is known by construction."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline import params, paths, records, seeds
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


CLASSES = ("biking", "diving", "golf_swing")


def video_params(**training):
    content = params.Params(tasks=["video", "video_groups"]).model_dump()
    content["sources"] = ["video"]
    content["training"] |= {"repetitions": 3, **training}
    content["evaluate"]["bootstrap"] = 200
    for task in ("video", "video_groups"):
        for cell in ("lstm", "gru"):
            content["train"][task][cell] |= {"hidden": 3, "epochs": 4, "max_epochs": 6}
    return params.validate(content)


def video_data():
    """Write frames, features and clips of 3 classes x 3 groups: a feature tells the class, others the group.

    Clip i of a video is its frames i, i + 1, i + 2. The random split puts every fourth clip on the test side, the
    split by groups the last group of each class.
    """
    from pipeline.video import clips, codec, features, frames, inception

    random = seeds.numpy_generator(5, "fabricated")
    videos = [(label, group) for label in range(3) for group in range(3)]
    vectors, names, found = [], [], []
    for label, group in videos:
        video = f"{CLASSES[label]}/v_{group:02d}_01"
        place = random.normal(size=inception.WIDTH)
        images = [
            codec.encode(np.full((inception.SIZE, inception.SIZE, 3), 40 * label + 10 * k, np.uint8), codec.LOSSLESS)
            for k in range(8)
        ]
        stored = {"frame_index": [20 * k for k in range(8)], "timestamp_s": [0.7 * k for k in range(8)]}
        stored |= {"samples": [1] * 8, "image": images}
        table = pa.Table.from_pydict(stored, schema=frames.FRAME_SCHEMA)
        records.write_table(frames.frames_file(paths.FRAMES, video), table)
        first = len(vectors)
        found += [(video, label, f"{group:02d}", [first + s + k for k in range(3)], 0.7 * s) for s in range(6)]
        for _ in range(8):
            vector = place + 0.1 * random.normal(size=inception.WIDTH)
            vector[:300] += 0.9 * np.eye(3)[label].repeat(100)
            vectors.append(vector)
            names.append(video)
    columns = {
        "video_id": names,
        "frame_index": [20 * (k % 8) for k in range(len(names))],
        "timestamp_s": [0.7 * (k % 8) for k in range(len(names))],
        "samples": [1] * len(names),
        "feature": [vector.astype(np.float32).tolist() for vector in vectors],
    }
    records.write_table(paths.FEATURES_TABLE, pa.Table.from_pydict(columns, schema=features.schema()))
    count = len(found)
    made = clips.Clips(
        np.arange(count, dtype=np.int32),
        np.array([each[0] for each in found]),
        np.array([each[1] for each in found], np.int32),
        np.array([each[2] for each in found]),
        np.array([each[3] for each in found], np.int32),
        np.array([each[4] for each in found]),
        np.array(["test" if k % 4 == 0 else "train" for k in range(count)]),
        np.array(["test" if each[2] == "02" else "train" for each in found]),
        CLASSES,
    )
    clips.save(made, paths.CLIPS_TABLE)
    return made


def mistakes(task, condition, repetition, count):
    """How many of the test clips a network gets wrong: NEM none, others one each and more by groups."""
    return 0 if condition.startswith("nem") else min(count, 1 + repetition + (2 if task == "video_groups" else 0))


def video_run(settings, task, cell, failing=("blind-additive-output", 1, 3)):
    """Write one fabricated video run: its first test clips are taken for the next class, all with probability 0.8."""
    made = video_data()
    side = made.split_groups if task == "video_groups" else made.split_random
    test = np.flatnonzero(side == "test")
    rows, outcomes, predictions = [], [], []
    for condition in settings.training.conditions:
        for repetition in range(settings.training.repetitions):
            dead = failing is not None and (condition, repetition) == failing[:2]
            wrong = mistakes(task, condition, repetition, len(test))
            for epoch in range(failing[2] if dead else 7):
                row = dict.fromkeys(METRICS, None)
                value = loss(condition, repetition, epoch)
                accuracy = (len(test) - wrong) / len(test) * (epoch + 1) / 5 if epoch < 4 else 1 - wrong / len(test)
                row |= {"train_loss": value / 2, "test_loss": value, "train_accuracy": 1.0, "test_accuracy": accuracy}
                rows.append({"condition": condition, "repetition": repetition, "epoch": epoch, **row})
            status = {"status": "failed" if dead else "ok", "failed_epoch": failing[2] if dead else None}
            outcomes.append({"condition": condition, "repetition": repetition, **status})
            if dead:
                continue
            for place, clip in enumerate(test):
                p = np.full(3, 0.1)
                p[(made.label[clip] + (place < wrong)) % 3] = 0.8
                key = {"condition": condition, "repetition": repetition, "row": int(clip)}
                predictions.append({**key, "probabilities": p.tolist()})
    folder = paths.run_folder(task, cell)
    records.write_table(folder / "curves.parquet", pa.Table.from_pylist(rows, schema=CURVES))
    records.write_table(folder / "outcomes.parquet", pa.Table.from_pylist(outcomes, schema=OUTCOMES))
    layout = pa.schema(
        [
            ("condition", pa.string()),
            ("repetition", pa.int32()),
            ("row", pa.int32()),
            ("probabilities", pa.list_(pa.float32(), 3)),
        ]
    )
    records.write_table(folder / "predictions.parquet", pa.Table.from_pylist(predictions, schema=layout))
    files = (paths.CLIPS_TABLE, paths.FEATURES_TABLE)
    records.write_json(
        folder / "run.json",
        {
            "task": task,
            "cell": cell,
            "seed": settings.seed,
            "settings": settings.train.of(task, cell).model_dump(),
            "training": settings.training.model_dump(),
            "device": "cpu",
            "data": {str(each): records.sha256_of(each) for each in files},
            "inputs": 2048,
            "outputs": 3,
            "slices": 3,
            "train_sequences": int((side == "train").sum()),
            "test_sequences": len(test),
            "classes": list(CLASSES),
            "target_scale": 1.0,
            "target_offset": 0.0,
            "versions": {"torch": "2", "numpy": "2", "python": "3"},
        },
    )
    records.write_json(paths.source_record("video"), {"source": "synthetic"})
    return test
