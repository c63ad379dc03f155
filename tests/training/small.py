"""Small data and settings that tests of training share."""

from pathlib import Path

import numpy as np
import torch

from nem.conditions import CONDITIONS
from pipeline.common import records, sequences
from pipeline.training.engine import Engine
from pipeline.training.settings import NoiseTable, Settings, Strength
from pipeline.training.train import Work


def settings(**changes):
    base = {
        "cell": "lstm", "hidden": 5, "epochs": 3, "max_epochs": 4, "batch_size": 8, "optimiser": "adam",
        "learning_rate": 0.01, "momentum": 0.0, "noise": NoiseTable(*(Strength(0.3, 0.5),) * 4),
        "conditions": CONDITIONS,
    }  # fmt: skip
    return Settings(**{**base, **changes})


def table(head="identity", count=40, *, seed=0, outputs=3, inputs=2):
    """Sequences whose target depends on their slices: two splits, a tenth for validation, a quarter for testing."""
    pool = np.random.default_rng(seed).standard_normal((count + 3, inputs)).astype(np.float32)
    index = np.arange(count)[:, None] + np.arange(3)
    targets = signal = pool[index].mean(1)
    if head == "logistic":  # labels, any number of them at once
        targets = (pool[index].max(1) > 0.5).astype(np.float32)
    elif head == "softmax":
        targets = np.eye(outputs, dtype=np.float32)[(signal[:, 0] > 0).astype(int) + (signal[:, 1] > 0.5)]
    side = np.full(count, "train", dtype="<U10")
    side[: count // 10], side[-(count // 4) :] = "validation", "test"
    return sequences.Table(
        rows=np.arange(1000, 1000 + count),
        index=index,
        targets=signal[:, :1] if head == "identity" else targets,
        group=None,
        splits={"first": side, "second": side[::-1]},
        pools={"": pool},
        head=head,
        target_scale=2.0 if head == "identity" else 1.0,
        target_offset=0.5 if head == "identity" else 0.0,
        unit="°" if head == "identity" else "",
        classes={"softmax": ("class 0", "class 1", "class 2"), "logistic": ("one", "two")}.get(head, ()),
        origin={"weights": "seeded"},
    )


def dataset(head="identity", sequences_of=(20, 9, 0)):
    whole, start, sides = table(head, 60), 0, []
    for count in sequences_of:
        chosen = torch.arange(start, start + count)
        parts = (torch.from_numpy(values)[chosen] for values in (whole.index, whole.targets, whole.rows))
        sides.append(sequences.Sequences(torch.from_numpy(whole.pools[""]), *parts) if count else None)
        start += count
    return sequences.Dataset(*sides, head, whole.target_scale, 0.5, "", (), {})


def work(folder=Path("data/sequences/sample"), **changes):
    """Work on data that are written to ``folder``; fields of the settings and of the work alike may be given."""
    fields = set(Work.__dataclass_fields__)
    own = {name: value for name, value in changes.items() if name in fields}
    if not (folder / records.ABOUT).is_file():
        sequences.write(folder, table())
    base = {
        "data": folder, "split": None, "validation": "joined", "seed": 1, "stream": "sample", "repetitions": (0, 1),
        "device": "cpu", "networks": True, "checkpoint_every": 1,
        "settings": settings(**{name: value for name, value in changes.items() if name not in fields}),
    }  # fmt: skip
    return Work(**{**base, **own})


def engine(cell="lstm", head="identity", conditions=CONDITIONS, repetitions=(0,), *, data=None, sigma=0.3,
           dtype=torch.float32, device="cpu", **changes):  # fmt: skip
    base = {"optimiser": "sgd", "learning_rate": 0.1, "noise": NoiseTable(*(Strength(sigma, 0.0),) * 4)}
    chosen = settings(**base | {"cell": cell, "conditions": tuple(conditions)} | changes)
    where = {"repetitions": repetitions, "dtype": dtype, "device": device}
    return Engine(data or dataset(head), chosen, seed=1, stream="fx", **where)
