"""Data and runs in the forms that stages write, whose every statistic is known by construction."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from nem.stack import Networks, Size
from pipeline.common import paths, records, seeds, sequences
from pipeline.evaluation import evaluate
from pipeline.evaluation.statistics import Bootstrap
from pipeline.fx import rates, synthetic, windows
from pipeline.params import FxWindows
from pipeline.training import train
from pipeline.training.engine import METRICS, Repetition
from tests.training import small

BOOTSTRAP = Bootstrap(0.95, 200, 1)
EPOCHS, MAX_EPOCHS, REPETITIONS = 10, 15, 4
FAILING = ("blind-additive-output", 1, 4)
"""The network that stops after its epoch 3."""
CLASSES = ("biking", "diving", "golf_swing")
WINDOWS = FxWindows(window=4, train_end=90, validation_fraction=0.1, scaling="min-max")


def fx_data(target="price"):
    series = synthetic.generate(120, 1)
    rates.write(series, rates.RATES)
    records.write_json(paths.source_record("fx"), {"source": "synthetic", "note": "generated data"})
    return windows.write(paths.sequences("fx"), series, WINDOWS.model_copy(update={"target": target}), unit="rupees")


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
    splits = {"random": np.where(rows % 4 == 0, "test", "train")}
    splits |= {"groups": np.where(np.array(names) == "02", "test", "train")} if groups else {}
    table = sequences.Table(
        rows, index, np.eye(3, dtype=np.float32)[rows // 18], names,
        splits, {"": np.array(pool, np.float32)},
        "softmax", classes=CLASSES,
    )  # fmt: skip
    sequences.write(paths.sequences(task), table)
    return table


def loss(condition, repetition, epoch):
    """A noiseless loss of 1/(1 + epoch); NEM twice as fast; blind noise never gets below 0.5."""
    start, speed = 10.0 + repetition, 2 if condition.startswith("nem") else 1
    return max(start / (1 + speed * epoch), 0.5 * start if condition.startswith("blind") else 0)


def mistakes(split, condition, repetition, count):
    """How many of the test sequences a network gets wrong: NEM none, others one each and more by groups."""
    return 0 if condition.startswith("nem") else min(count, 1 + repetition + (2 if split == "groups" else 0))


def repetition(number, split, data, truth, conditions, failing, shift):
    """What training hands over: values are 0.1 too high; a class is taken for the next, all with probability 0.8."""
    epochs, count = np.arange(MAX_EPOCHS + 1), len(conditions)
    curves, failed = np.full((count, len(epochs), len(METRICS)), np.nan), torch.zeros(count, dtype=torch.int64)
    answers = np.tile(truth[:, None] + 0.1, (count, 1, 1))
    if data.head == "softmax":
        answers = np.zeros((count, len(truth), data.outputs))
    for c, condition in enumerate(conditions):
        losses = np.array([loss(condition, number, epoch) for epoch in epochs]) + shift
        columns = {"train_loss": losses / 2, "test_loss": losses}
        if condition.startswith("nem"):
            columns["acceptance_output"] = np.where(epochs, 0.5, np.nan)
        if data.head == "softmax":
            wrong = mistakes(split, condition, number, len(truth))
            right = (1 - wrong / len(truth)) * np.minimum(1, (epochs + 1) / 5)
            columns |= {"train_accuracy": np.ones(len(epochs)), "test_accuracy": right}
            said = (truth + (np.arange(len(truth)) < wrong)) % data.outputs
            answers[c] = np.where(np.eye(data.outputs)[said], 0.8, 0.1)
        for name, column in columns.items():
            curves[c, :, METRICS.index(name)] = column
        if (condition, number) == failing[:2]:
            failed[c], curves[c, failing[2] :] = failing[2], np.nan
    return Repetition(number, conditions, torch.from_numpy(curves), failed, torch.from_numpy(answers), None, [])


def run(task, cell, split=None, *, repetitions=REPETITIONS, failing=FAILING, shift=0.0, about=None, **settings):
    """Write one run, whose ``failing`` network (condition, repetition) stops before an epoch.

    Losses are ``shift`` too high, and ``about`` changes the record. Return that, and the repetitions.
    """
    chosen = small.settings(cell=cell, hidden=3, epochs=EPOCHS, max_epochs=MAX_EPOCHS, **settings)
    work = small.work(paths.sequences(task), settings=chosen, split=split, repetitions=tuple(range(repetitions)))
    data, conditions = train.dataset(work), tuple(chosen.conditions)
    truth = data.test.targets.argmax(1).numpy()
    if data.head == "identity":
        raw = windows.load(paths.sequences(task) / windows.FILE)  # prices as they were before they were scaled
        truth = (raw.target_raw - raw.base_raw)[raw.where("test")]
    trained = [repetition(number, split, data, truth, conditions, failing, shift) for number in work.repetitions]
    networks = Networks(Size(cell, 1, 1, data.inputs, 3, data.outputs))
    networks.initialise(0, torch.Generator().manual_seed(1))
    for one in trained:
        one.parameters += [{n: v[0, 0] for n, v in networks.by_network(networks.flat).items()} for _ in conditions]
    record = train.run_record(task, work) | (about or {})
    train.write(record, trained, data)
    return record, trained


def judge(*tasks, cells=("lstm", "gru")):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.geometry, "draw_geometry", lambda folder, seed: [])
        evaluate.evaluate(tasks, cells, BOOTSTRAP, "demo")


def hashes():
    files = [file for file in paths.RESULTS.rglob("*") if file.is_file()]
    return {str(file.relative_to(paths.RESULTS)): records.sha256_of(file) for file in files}


def video_data():
    """Write sequences of the classes, and clips, features and frames of theirs: frame k of a group is of one colour."""
    from pipeline.video import clips
    from pipeline.video.features import table as features
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
    features.save(paths.FEATURES, named, table.pools[""], {})
    records.write_json(paths.source_record("video"), {"source": "synthetic", "classes": {"diving": {"clips": 4}}})
    return table
