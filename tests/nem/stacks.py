"""Small random stacks that tests of the cells and of their compiled form share."""

import math

import torch

from nem.cells import BLOCKS, GATES
from nem.noise import Draws, GateNoise, stacked

CELLS = ["lstm", "gru"]
AXES = [(kind, mode) for mode in ("additive", "multiplicative") for kind in ("nem", "matched", "blind", "reversed-nem")]
NETWORKS = len(AXES) + 1
"""One network per kind and mode, and one without noise."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def parts(cell, T, G, I, J, B, seed, *, C=NETWORKS, dtype=torch.float64):
    rows = BLOCKS[cell] * J
    x = torch.cat([draw(seed, T, G, I, B, dtype=dtype), torch.ones(T, G, 1, B, dtype=dtype)], 2)
    W = draw(seed + 1, G, I + 1, C, rows, dtype=dtype) / math.sqrt(I)
    return x, W, draw(seed + 2, G, C, rows, J, dtype=dtype) / math.sqrt(J)


def noise(cell, T, G, J, B, seed, *, axes=AXES, sigma=None, dtype=torch.float64, **options):
    """Return gate noise in the first networks of each group, with its draws."""
    shape = (T, G, 1, GATES[cell], J, B)
    strengths = torch.linspace(0.1, 0.4, len(axes), dtype=dtype)
    strengths = strengths if sigma is None else torch.full_like(strengths, sigma)
    uniform = torch.rand(shape, generator=generator(seed + 5), dtype=dtype)
    normal, test = (draw(seed + k, *shape, dtype=dtype) for k in (3, 4))
    return GateNoise(*stacked(axes), **options), Draws(strengths, normal, test, uniform)
