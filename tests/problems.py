"""Small problems and settings that tests of training share."""

from __future__ import annotations

import torch
from torch.nn import functional

from pipeline.conditions import CONDITIONS
from pipeline.params import CellTraining, ModeValues, PlaceValues, Training
from pipeline.training.problem import Problem, Sequences


def everywhere(value):
    modes = ModeValues(additive=value, multiplicative=value)
    return PlaceValues(output=modes, hidden=modes)


def settings(**changes):
    base = {
        "hidden": 5,
        "epochs": 3,
        "max_epochs": 4,
        "batch_size": 8,
        "learning_rate": 0.1,
        "sigma": everywhere(0.3),
        "decay": everywhere(0.0),
    }
    return CellTraining(**{**base, **changes})


def training(**changes):
    return Training(**{"repetitions": 2, "conditions": list(CONDITIONS), "checkpoint_every": 2, **changes})


def problem(head="identity", sequences=20, slices=3, inputs=2, outputs=1, seed=0):
    """Sequences whose target depends on their slices; test sequences differ from training sequences."""
    generator = torch.Generator().manual_seed(seed)

    def part(count, first):
        pool = torch.randn(count * slices, inputs, generator=generator)
        index = torch.arange(count * slices).view(count, slices)
        signal = pool.view(count, slices, inputs).mean(1)
        if head == "softmax":
            labels = (signal[:, 0] > 0).long() + (signal[:, -1] > 0.5).long()
            targets = functional.one_hot(labels % outputs, outputs).float()
        else:
            targets = signal[:, :1].repeat(1, outputs) + 0.1 * torch.arange(outputs)
        return Sequences(pool, index, targets, torch.arange(first, first + count))

    classes = tuple(f"class {k}" for k in range(outputs)) if head == "softmax" else ()
    return Problem(
        part(sequences, 0), part(9, 1000), head, 2.0 if head == "identity" else 1.0, 0.5, classes, {"data/x": "0" * 64}
    )
