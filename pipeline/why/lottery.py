"""The seed lottery: how often a table of single runs shows the paper's pattern, whatever the truth is on average."""

import math

import numpy as np
import pandas as pd

from nem.conditions import CONDITIONS
from pipeline.common import seeds
from pipeline.why.calibrate import paper
from pipeline.why.table import BLIND, NEM, REVERSED

TABLES = 20_000
"""Tables that are drawn."""
TRIES = (1, 2, 3, 5, 10)
SIGNS = {"as printed": NEM, "reversed": REVERSED}


def draw(errors: pd.DataFrame, names: tuple[str, ...], tries: int, common: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return drawn tables: noiseless entries ``(N,)`` and entries with noise ``(N, k)``, each the best of its tries.

    ``errors`` are finished repetitions × conditions. A table takes repetitions at random: one for every entry and try,
    or (``common``) one for all entries of a try. The noiseless network is trained once, with the first try's seed.
    """
    random = seeds.numpy_generator(0, "lottery", tries, int(common))
    shape = (TABLES, tries, 1 if common else len(names) + 1)
    places = np.broadcast_to(random.integers(0, len(errors), shape), (TABLES, tries, len(names) + 1))
    values = errors[["none", *names]].to_numpy()
    drawn = values[places, np.arange(len(names) + 1)]
    return drawn[:, 0, 0], drawn[:, :, 1:].min(1)


def pattern(
    errors: pd.DataFrame, cell: str, names: tuple[str, ...], tries: int = 1, *, common: bool = False
) -> dict[str, float]:
    """Return the probability of each part of the paper's pattern, and of all of them together.

    All six NEM entries are better than none; the entry that is best in the paper's table is best of all 13; and it
    takes off at least as large a share of the noiseless error as the paper's best one does.
    """
    none, noisy = draw(errors, (*names, *BLIND), tries, common)
    printed = [paper(cell, name) for name in names]
    k = int(np.argmin(printed))
    parts = {
        "all six better": (noisy[:, : len(names)] < none[:, None]).all(1),
        "the paper's best is best": (noisy[:, k] < none) & (noisy.argmin(1) == k),
        "gap as large": 1 - noisy[:, k] / none >= 1 - printed[k] / paper(cell, CONDITIONS[0]),
    }
    parts["whole pattern"] = np.logical_and.reduce([*parts.values()])
    return {words: float(held.mean()) for words, held in parts.items()}


def by_chance(tries: int, entries: int = 6) -> float:
    """Return the probability that all entries are better than none if noise does nothing and seeds are independent.

    The best of m runs beats one run of quantile v with probability 1 - vᵐ, and ∫(1 - vᵐ)ᵏ dv = k! / Π (i + 1/m) over
    i = 1 … k: 1/(k + 1) for one try each.
    """
    return math.prod(i / (i + 1 / tries) for i in range(1, entries + 1))
