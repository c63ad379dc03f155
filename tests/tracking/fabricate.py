"""A finished training whose numbers nobody trained, written as training writes it."""

import numpy as np
import torch

from pipeline.common import paths, records
from pipeline.common.sequences import Dataset, Sequences
from pipeline.training import results, settings, train
from pipeline.training.engine import METRICS, Repetition

CONDITIONS = ["none", "blind-additive-output", "nem-additive-both"]
FAILED = ("blind-additive-output", 1)
R, MAX_EPOCHS, NUMBERS = 10, 15, 2
NOISE = {p: {m: {"sigma": 0.1, "decay": 1.0} for m in ("additive", "multiplicative")} for p in ("output", "hidden")}


def record(conditions=CONDITIONS, split=None, **network):
    shared = {"conditions": conditions, "hidden_injection": "forward", "latent": "mean-field"}
    own = {"hidden": 3, "epochs": R, "max_epochs": MAX_EPOCHS, "batch_size": 8, "optimiser": "sgd", "momentum": 0.0}
    chosen = settings.of(shared, own | {"learning_rate": 0.01, "noise": NOISE} | network, "lstm")
    return {
        "task": "fx", "split": split, "cell": "lstm", "seed": 1, "settings": chosen.as_dict(), "repetitions": NUMBERS,
        "device": "cpu", "data": {"sequences.parquet": "0" * 64, "pool.safetensors": "1" * 64}, "inputs": 4,
        "outputs": 1, "slices": 4, "train_sequences": 8, "test_sequences": 2, "classes": [], "head": "identity",
        "unit": "INR", "target_scale": 1.0, "target_offset": 0.0, "versions": {"torch": torch.__version__},
    }  # fmt: skip


def repetition(number, about, shift=0.0):
    """What training hands over for one repetition; equal numbers for equal arguments."""
    random = np.random.default_rng(number)
    conditions = about["settings"]["conditions"]
    curves = random.random((len(conditions), MAX_EPOCHS + 1, len(METRICS))) + shift
    curves[:, :, METRICS.index("noise_benefit")] = np.nan
    failed = torch.zeros(len(conditions), dtype=torch.int64)
    for c, condition in enumerate(conditions):
        if (condition, number) == FAILED:
            curves[c, 6:, METRICS.index("test_loss")], failed[c] = np.nan, 6
    draw = torch.Generator().manual_seed(number)
    shapes = {"W": (5, 12), "V": (12, 3), "U": (1, 3), "b": (1, 1)}
    network = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    predictions = torch.zeros(len(conditions), 2, 1)
    return Repetition(
        number, tuple(conditions), torch.from_numpy(curves), failed, predictions, None, [network] * len(conditions)
    )


def write(about, shift=0.0):
    """Write ``data/runs/fx/lstm``."""
    side = Sequences(torch.zeros(4, 4), torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 1), torch.arange(2))
    data = Dataset(side, side, None, "identity", 1.0, 0.0, "INR", (), about["data"], {})
    train.write(about, [repetition(number, about, shift) for number in range(NUMBERS)], data)
    assert results.load("fx", "lstm", about["split"]).record == records.read_json(
        paths.run_folder("fx", "lstm", about["split"]) / "run.json"
    )
