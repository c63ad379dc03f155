"""Made-up rows of the table of docs/why.md, whose answers are known."""

import numpy as np
import pandas as pd

from nem.cells import GATES
from pipeline.why import table
from pipeline.why.calibrate import paper
from pipeline.why.protocol import FRESH, MAIN
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
