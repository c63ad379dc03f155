"""Made-up rows of the table of docs/why.md, whose answers are known."""

import numpy as np
import pandas as pd

from nem.cells import GATES
from pipeline.why import clips, table
from pipeline.why.calibrate import paper
from pipeline.why.protocol import FIRST, FRESH, MAIN
from pipeline.why.table import COLUMNS, EVERY, Stack


def rows(stacks, mean, spread=0.05, seed=0):
    """Rows of stacks: a test error is ``mean(stack, condition)`` times a repetition's factor and a network's own."""
    random, lines = np.random.default_rng(seed), {}
    shared = random.normal(0, spread, 1000)
    for stack in stacks:
        for condition, repetition, key in stack.networks():
            error = mean(stack, condition) * np.exp(shared[repetition] + random.normal(0, spread))
            line = stack.about(condition) | {"repetition": repetition, "test_mse": error, "failed": 0.0, "last": 130}
            line |= {"level_mse": 0.8 * error, "daily_mse": 0.2 * error, "slope_train": 0.9, "slope_test": 1 / error}
            line |= {"saturation_train": 0.3, "saturation_test": 0.5, "reached": 90.0, "seed": 1.0, "commit": "made-up"}
            lines.setdefault(key, line)
    return pd.DataFrame([*lines.values()]).reindex(columns=list(COLUMNS))


def confirmed(strength, repetitions, mean, **options):
    numbers = tuple(range(FRESH, FRESH + repetitions))
    return rows([Stack(cell, MAIN, strength, EVERY, numbers) for cell in GATES], mean, **options)


def as_the_paper_if_reversed(stack, condition):
    """The paper's entries come from reversed noise; as printed, noise does the opposite."""
    own, none = paper(stack.cell, condition), paper(stack.cell, "none")
    return none**2 / own if condition in table.NEM else own


def of_clips(mean, repetitions=10, spread=0.03, seed=0):
    """The classifier's whole table: a network's error is ``mean(key, condition)`` [%] times factors as above."""
    random, shared = np.random.default_rng(seed), np.random.default_rng(seed + 1).normal(0, spread, 1000)
    sizes = clips.Sizes()
    regimes = [clips.Regime(split, *rate, sizes.epochs) for split in sizes.splits for rate in sizes.rates]
    stacks = [
        clips.Stack(cell, own, table.Strength(), "loss", ("none",), (0, 1, 2), 25) for own in regimes for cell in GATES
    ]
    pairs = tuple(table.Strength(output, 0.5, hidden, 0.5) for output, hidden in sizes.levels)
    true = regimes[2]
    stacks += clips.both(true, (FIRST,), range(FRESH, FRESH + repetitions), 32)
    stacks += clips.both(true, pairs, range(2), 25)
    lines = {}
    for stack in stacks:
        for key in stack.networks():
            far = 0.0 if stack.regime == true else 2.0
            error = mean(key, key["condition"]) * np.exp(far + shared[key["repetition"]] + random.normal(0, spread))
            line = key | {"test_error": error, "test_loss": error / 30, "train_loss": error / 40, "reached": 20.0}
            line |= {"last": float(stack.last), "failed": 0.0, "seed": 1.0, "commit": "made-up"}
            lines.setdefault(tuple(key.values()), line)
    return pd.DataFrame([*lines.values()]).reindex(columns=list(clips.COLUMNS)), true
