"""Small random networks and data for the theory tests; every draw comes from the given seed."""

from dataclasses import fields

import torch

from nem.theory.recursions import GRUParameters, LSTMParameters

CELLS = {"lstm": LSTMParameters, "gru": GRUParameters}


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters(cell, seed, I=2, J=3, K=2, scale=0.7):
    def shape(name):
        if name.startswith("W"):
            return (J, I)
        if name.startswith("V"):
            return (J, J)
        return {"U_y": (K, J), "b_y": (K,)}.get(name, (J,))

    kind = CELLS[cell]
    return kind(**{f.name: scale * draw(seed * 100 + k, *shape(f.name)) for k, f in enumerate(fields(kind))})


def leaves(p):
    """The same parameters as leaves of a graph."""
    return type(p)(**{f.name: getattr(p, f.name).clone().requires_grad_() for f in fields(p)})


def autograd(loss, p):
    """Gradient per parameter name; zeros where the loss does not depend on it."""
    names = [f.name for f in fields(p)]
    slopes = torch.autograd.grad(loss, [getattr(p, name) for name in names], allow_unused=True)
    return {name: torch.zeros_like(getattr(p, name)) if g is None else g for name, g in zip(names, slopes, strict=True)}


def error(steps, target, head, t0):
    """E(Θ), summed over slices t0 … T, outputs and batch: cross entropy (39) or squared error (43)."""
    scores, target = torch.stack([step["o_y"] for step in steps[t0 - 1 :]]), target[t0 - 1 :]
    if head == "softmax":
        return -(target * torch.log_softmax(scores, -1)).sum()
    return (target - scores).square().sum()
