"""Data and runs in the forms that stages write, whose every statistic is known by construction."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from nem.conditions import CONDITIONS
from pipeline.common import paths, records, seeds, sequences
from pipeline.evaluation import evaluate
from pipeline.evaluation.statistics import Bootstrap
from pipeline.fx import rates, synthetic, windows
from pipeline.training import results
from pipeline.training.engine import METRICS

BOOTSTRAP = Bootstrap(0.95, 200, 1)
EPOCHS, MAX_EPOCHS, REPETITIONS = 10, 15, 4
FAILING = ("blind-additive-output", 1, 4)
"""The network that stops after its epoch 3."""
CLASSES = ("biking", "diving", "golf_swing")
WINDOWS = SimpleNamespace(window=4, train_end=90, validation_fraction=0.1, scaling="min-max")


def fx_data():
    """Write 120 days as rates, windows and sequences; return the windows."""
    series = synthetic.generate(120, 1)
    rates.write(series, rates.RATES)
    records.write_json(paths.source_record("fx"), {"source": "synthetic", "note": "generated data"})
    return windows.write(paths.sequences("fx"), series, WINDOWS, unit="rupees")


def class_data(task, groups=True):
    """Write sequences of 3 classes x 3 groups of 8 slices: 300 numbers tell the class, the others the group.

    Sequence i of a group is its slices i, i + 1, i + 2. The random split puts every fourth sequence on the test side,
    the split by groups the last group of each class.
    """
    random = seeds.numpy_generator(5, "fabricated")
    pool = []
    for label in range(3):
        for _ in range(3):
            place = random.normal(size=2048)
            place[:300] += 0.9 * np.eye(3)[label].repeat(100)
            pool += [place + 0.1 * random.normal(size=2048) for _ in range(8)]
    index = np.array([[8 * group + start + k for k in range(3)] for group in range(9) for start in range(6)])
    rows, names = np.arange(54), [f"{group % 3:02d}" for group in range(9) for _ in range(6)]
    splits = {
        "random": np.where(rows % 4 == 0, "test", "train"),
        "groups": np.where(np.array(names) == "02", "test", "train"),
    }
    table = sequences.Table(
        rows, index, np.eye(3, dtype=np.float32)[rows // 18], names,
        splits if groups else {"random": splits["random"]}, {"": torch.tensor(np.array(pool), dtype=torch.float32)},
        "softmax", classes=CLASSES,
    )  # fmt: skip
    sequences.write(paths.sequences(task), table)
    return table


def loss(condition, repetition, epoch):
    """A noiseless loss of 1/(1 + epoch); NEM twice as fast; blind noise never gets below 0.5."""
    start = 10.0 + repetition
    if condition.startswith("nem"):
        return start / (1 + 2 * epoch)
    if condition.startswith("blind"):
        return max(start / (1 + epoch), 0.5 * start)
    return start / (1 + epoch)


def mistakes(split, condition, repetition, count):
    """How many of the test sequences a network gets wrong: NEM none, others one each and more by groups."""
    return 0 if condition.startswith("nem") else min(count, 1 + repetition + (2 if split == "groups" else 0))


def run(task, cell, split=None, *, conditions=CONDITIONS, repetitions=REPETITIONS, failing=FAILING):
    """Write one run: values are predicted 0.1 too high; a class is taken for the next, all with probability 0.8."""
    data = sequences.load(paths.sequences(task), split)
    names, targets = data.test.rows.tolist(), data.test.targets.numpy().astype(np.float64)
    classes = data.head == "softmax"
    truth = targets.argmax(1) if classes else raw_targets(task, data)
    rows, outcomes, predictions = [], [], []
    for condition in conditions:
        for repetition in range(repetitions):
            key = {"condition": condition, "repetition": repetition}
            dead = failing is not None and (condition, repetition) == failing[:2]
            wrong = mistakes(split, condition, repetition, len(names))
            for epoch in range(failing[2] if dead else MAX_EPOCHS + 1):
                value = loss(condition, repetition, epoch)
                row = dict.fromkeys(METRICS, None) | {"train_loss": value / 2, "test_loss": value}
                row |= {"acceptance_output": 0.5} if condition.startswith("nem") and epoch else {}
                right = (1 - wrong / len(names)) * min(1, (epoch + 1) / 5)
                row |= {"train_accuracy": 1.0, "test_accuracy": right} if classes else {}
                rows.append({**key, "epoch": epoch, **row})
            status = {"status": "failed" if dead else "ok", "failed_epoch": failing[2] if dead else None}
            outcomes.append(key | status)
            for place, name in enumerate([] if dead else names):
                p = np.full(len(data.classes), 0.1)
                if classes:
                    p[(truth[place] + (place < wrong)) % len(p)] = 0.8
                answer = {"probabilities": p.tolist()} if classes else {"prediction": float(truth[place]) + 0.1}
                predictions.append({**key, "row": name, **answer})
    noise = {mode: {"sigma": 0.1, "decay": 1.0} for mode in ("additive", "multiplicative")}
    record = {
        "task": task, "split": split, "cell": cell, "seed": 1, "repetitions": repetitions, "device": "cpu",
        "settings": {
            "cell": cell, "hidden": 3, "epochs": EPOCHS, "max_epochs": MAX_EPOCHS, "batch_size": 8, "optimiser": "adam",
            "learning_rate": 0.01, "momentum": 0.0, "noise": {"output": noise, "hidden": noise},
            "conditions": list(conditions),
        },
        "data": data.digest, "train_sequences": len(data.train), "test_sequences": len(data.test),
        "classes": list(data.classes), "versions": {"torch": "2", "numpy": "2", "python": "3"},
    }  # fmt: skip
    described = ("inputs", "outputs", "slices", "unit", "head", "target_scale", "target_offset")
    record |= {name: getattr(data, name) for name in described}
    folder = paths.run_folder(task, cell, split)
    records.write_table(folder / "curves.parquet", pa.Table.from_pylist(rows, schema=results.CURVES))
    records.write_table(folder / "outcomes.parquet", pa.Table.from_pylist(outcomes, schema=results.OUTCOMES))
    layout = results.predictions_schema(record)
    records.write_table(folder / "predictions.parquet", pa.Table.from_pylist(predictions, schema=layout))
    records.write_json(folder / "run.json", record)


def raw_targets(task, data):
    """Return the test targets in raw units; those of the exchange rate as they were before they were scaled."""
    if task == "fx":
        raw = windows.load(paths.sequences("fx") / "windows.parquet")
        return raw.target_raw[raw.where("test")]
    return data.test.targets[:, 0].double().numpy() * data.target_scale + data.target_offset


def judge(*tasks, cells=("lstm", "gru")):
    """Evaluate without Figures 1(a), 4, 5 and 6, which have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.geometry, "draw_geometry", lambda folder, seed: [])
        evaluate.evaluate(tasks, cells, BOOTSTRAP, "demo")


def hashes():
    """Return the SHA-256 of every result."""
    files = [file for file in paths.RESULTS.rglob("*") if file.is_file()]
    return {str(file.relative_to(paths.RESULTS)): records.sha256_of(file) for file in files}


def video_data():
    """Write sequences of the classes, and clips, features and frames of theirs: frame k of a group is of one colour."""
    from pipeline.video import clips
    from pipeline.video.features import features
    from pipeline.video.frames import codec, frames

    table = class_data("video")
    labels = table.targets.argmax(1)
    ids = [f"{CLASSES[label]}/v_{group}_01" for label, group in zip(labels, table.group, strict=True)]
    columns = [table.rows, ids, [CLASSES[label] for label in labels], table.group, 0.7 * (table.rows % 6)]
    described = pa.Table.from_arrays([pa.array(column) for column in columns], schema=clips.SCHEMA)
    records.write_table(paths.sequences("video") / "clips.parquet", described)
    videos, numbers = list(dict.fromkeys(ids)), [20 * k for k in range(8)]
    stored = {"frame_index": numbers, "timestamp_s": [0.7 * k for k in range(8)], "samples": [1] * 8}
    for number, video in enumerate(videos):
        colours = [40 * (number // 3) + 10 * k for k in range(8)]
        images = [codec.encode(np.full((299, 299, 3), colour, np.uint8), codec.LOSSLESS) for colour in colours]
        content = pa.Table.from_pydict({**stored, "image": images}, schema=frames.FRAME_SCHEMA)
        records.write_table(frames.frames_file(paths.FRAMES, video), content)
    repeated = {name: values * len(videos) for name, values in stored.items()}
    named = {"video_id": [video for video in videos for _ in range(8)], **repeated}
    features.save(paths.FEATURES, named, table.pools[""].numpy(), {})
    records.write_json(paths.source_record("video"), {"source": "synthetic", "classes": {"diving": {"clips": 4}}})
    return table
