"""Small random networks and data for the theory tests; every draw comes from the given seed."""

import torch
from torch.nn import functional

from nem.theory import gem, recursions
from tests.nem.stacks import draw

CELLS = {"lstm": ("x", "gamma", "phi", "omega"), "gru": ("x", "z", "r")}
HEADS = ("softmax", "identity", "logistic")


def targets(seed, head, *shape):
    if head == "identity":
        return draw(seed, *shape)
    if head == "logistic":
        return (draw(seed, *shape) > 0).double()
    return torch.nn.functional.one_hot(draw(seed, *shape).argmax(-1), shape[-1]).double()


def parameters(cell, seed, I=2, J=3, K=2, scale=0.7):
    shapes = {}
    for block in CELLS[cell]:
        shapes |= {f"W_{block}": (J, I), f"V_{'h' if block == 'x' else block}": (J, J), f"b_{block}": (J,)}
    shapes |= {"U_y": (K, J), "b_y": (K,)}
    return recursions.Parameters(
        **{name: scale * draw(seed * 100 + k, *shape) for k, (name, shape) in enumerate(shapes.items())}
    )


def network(seed, head, I=2, J=3, K=3, B=5, scale=1.0):
    shapes = ((J, I), (J,), (K, J), (K,))
    net = gem.SigmoidNetwork(*(scale * draw(seed + k, *shape) for k, shape in enumerate(shapes)), head)
    return net, draw(seed + 9, B, I), targets(seed + 10, head, B, K)


def tensors(p):
    return {name: value for name, value in vars(p).items() if isinstance(value, torch.Tensor)}


def leaves(p):
    return type(p)(**vars(p) | {name: value.clone().requires_grad_() for name, value in tensors(p).items()})


def moved(p, seed, scale):
    near = {name: t + scale * draw(seed + k, *t.shape) for k, (name, t) in enumerate(tensors(p).items())}
    return type(p)(**vars(p) | near)


def autograd(loss, p):
    """Gradient per parameter name; zeros where the loss does not depend on it."""
    values = tensors(p)
    slopes = torch.autograd.grad(loss, list(values.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(t) if slope is None else slope
        for (name, t), slope in zip(values.items(), slopes, strict=True)
    }


def error_gradient(x, target, p, head, t0, increments=None, mode="additive"):
    """∂E/∂θ by autograd; E is (39) or (43), summed over slices t0 … T, outputs and batch."""
    q = leaves(p)
    scores = torch.stack([step["o_y"] for step in recursions.forward(x, q, increments, mode)[t0 - 1 :]])
    if head == "softmax":
        return autograd(-(target[t0 - 1 :] * torch.log_softmax(scores, -1)).sum(), q)
    if head == "logistic":  # torch's, independently of ours
        return autograd(functional.binary_cross_entropy_with_logits(scores, target[t0 - 1 :], reduction="sum"), q)
    return autograd((target[t0 - 1 :] - scores).square().sum(), q)
