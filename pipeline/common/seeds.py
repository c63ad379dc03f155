"""One seed tree for the whole project: no draw comes from a global generator.

A stream is named by a path such as ``("fx", "lstm", 3, "gate-noise", epoch)``. Its seed is a hash of the name and of
the root seed, and depends on nothing else. Conditions never enter a name, which is what pairs them: they share initial
weights, batch order and the underlying standard normal draws (common random numbers).
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_of(root: int, *name: str | int) -> int:
    """Return the 63-bit seed of the stream ``name`` under ``root``; ``("a", "bc")`` and ``("ab", "c")`` differ."""
    text = "\x1f".join([str(root), *(f"{type(part).__name__}:{part}" for part in name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(root: int, *name: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a fresh torch generator for a stream; those of different devices give different numbers for one seed."""
    import torch  # takes a second, and some who draw need numpy's alone

    return torch.Generator(device=device).manual_seed(seed_of(root, *name))


def numpy_generator(root: int, *name: str | int) -> np.random.Generator:
    """Return a fresh numpy generator (PCG64) for a stream."""
    return np.random.Generator(np.random.PCG64(seed_of(root, *name)))
