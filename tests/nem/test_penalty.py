"""Blind gate noise on average, in float64: the error's second-order mean, and the part of it that is the penalty."""

import math

import pytest
import torch

from nem import cells
from nem.cells import GATES
from nem.conditions import MODES
from nem.noise import Draws, GateNoise
from nem.stack import Batch, Networks, Size, StackDraws, StackNoise, activations, errors, gradients, penalise
from tests.nem.stacks import CELLS, draw, generator

T, I, J = 2, 1, 2
CASES = [
    pytest.mark.parametrize(*case)
    for case in (("cell", CELLS), ("mode", MODES), ("head", ["identity", "softmax", "logistic"]))
]


def network(cell, head, mode, copies=1, groups=1, **options):
    """Groups of equal networks without noise, with it, with its penalty; a batch of copies of three sequences."""
    K = 1 if head == "identity" else 3
    made = Networks(Size(cell, groups, 3, I, J, K), torch.float64)
    for group in range(groups):
        made.initialise(group, generator(1))
    made.flat.mul_(3)
    targets = {"identity": draw(2, 3, K), "softmax": torch.eye(3), "logistic": draw(2, 3, K) > 0}[head].double()
    data = (t.repeat_interleave(copies, 0).expand(groups, *(-1,) * t.dim()) for t in (draw(3, 3, T, I), targets))
    names = ("none", f"blind-{mode}-hidden", f"expected-blind-{mode}-hidden")
    return made, Batch.of(*data), StackNoise.of(names, **options)


def gained(made, batch, head, noise, normal, sigma):
    """What blind noise and the penalty add to the noiseless gradient (G, parameters) and error (G,)."""
    strength = torch.tensor([sigma], dtype=torch.float64)
    draws = StackDraws(Draws(strength, normal), None, strength)
    loss = gradients(made, batch, head, noise, draws, 0)["loss"]
    flat = torch.cat([view.flatten(2) for view in made.by_network(made.grad).values()], 2)
    where = {condition.kind: c for c, condition in enumerate(noise.conditions)}
    return [(v[:, where[kind]] - v[:, where["none"]]) for kind in ("blind", "expected-blind") for v in (flat, loss)]


def derived(made, batch, head, mode, **options):
    """½ tr ∂²ℓ/∂δ² and its part ½ ∂ℓ/∂o·tr ∂²o/∂δ², entry by entry, each with its gradient in the parameters."""
    leaves = [view[0, 0].clone().requires_grad_() for view in made.by_network(made.flat).values()]
    W, V, U, b = leaves
    shape = (T, 1, 1, GATES[made.size.cell], J, batch.x.shape[3])
    delta, layer = (
        torch.zeros(shape, dtype=torch.float64, requires_grad=True),
        GateNoise(("blind",), (mode,), **options),
    )
    silent = layer, Draws(torch.zeros(1, dtype=torch.float64), delta.detach())
    u = cells.project(batch.x, W[None, :, None])
    h = cells.forward(made.size.cell, u, V[None, None], noise=silent, shift=delta).h
    o = (U @ h + b)[..., : batch.columns]
    error = errors(head, batch.target[..., : batch.columns], activations(head, o)).sum() / batch.columns

    def half_trace(value):
        slope = torch.autograd.grad(value, delta, create_graph=True)[0]
        entries = [(place, slope[tuple(place)]) for place in torch.ones(shape).nonzero() if place[-1] < batch.columns]
        return sum(torch.autograd.grad(e, delta, create_graph=True)[0][tuple(at)] for at, e in entries) / 2

    back = torch.autograd.grad(error, o, create_graph=True)[0]
    weight = back.detach().requires_grad_()
    curved = torch.autograd.grad(half_trace((weight * o).sum()), weight, create_graph=True)[0]
    found = []
    for value in (half_trace(error), (curved * back).sum()):
        own = torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True, allow_unused=True)
        found += [torch.cat([g.flatten() for g in own]), value.detach()]
    return found


@CASES[0]
@CASES[1]
@CASES[2]
@pytest.mark.parametrize("injection", ["forward", "pre-activation"])
def test_the_penalty_is_the_second_order_mean_but_for_the_shift_of_the_prediction(cell, mode, head, injection):
    made, batch, noise = network(cell, head, mode, injection=injection)
    whole, value, shift, part = derived(made, batch, head, mode, injection=injection)
    nothing = torch.zeros(T, 1, 1, GATES[cell], J, batch.x.shape[3], dtype=torch.float64)
    silent, quiet, slope, penalty = gained(made, batch, head, noise, nothing, 0.3)
    assert (silent == 0).all()
    assert (quiet == 0).all()
    torch.testing.assert_close(penalty[0], 0.09 * (value - part), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slope[0], 0.09 * (whole - shift), rtol=1e-9, atol=1e-12)
    assert penalty > 0
    with pytest.raises(ValueError, match="expected networks with a penalty"):
        penalise(made, batch, head, StackNoise.of(["none"] * 3), StackDraws())


@CASES[0]
@CASES[1]
@CASES[2]
def test_what_second_order_leaves_out_is_of_fourth_order(cell, mode, head):
    """Over the points ±σ√d of each axis, which have a normal vector's moments up to the third."""
    d = T * GATES[cell] * J
    made, batch, noise = network(cell, head, mode, 2 * d)
    points = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double().repeat(3, 1)
    normal = torch.zeros(T, 1, 1, GATES[cell], J, batch.x.shape[3], dtype=torch.float64)
    normal[..., : len(points)] = points.T.view(T, 1, 1, GATES[cell], J, -1)
    whole = derived(*network(cell, head, mode)[:2], head, mode)[0]
    left = [gained(made, batch, head, noise, normal, s)[0][0] - s**2 * whole for s in (0.04, 0.02)]
    assert 14 < left[0].norm() / left[1].norm() < 18
    assert left[1].norm() < 0.02 * 0.02**2 * whole.norm()


@CASES[0]
@CASES[1]
def test_blind_noise_has_that_mean(cell, mode):
    """Monte Carlo: pairs ±ε, within 5 standard errors, which tell the penalty from nothing and from half of it."""
    made, batch, noise = network(cell, "identity", mode, 4000, 10)
    half = draw(4, T, 10, 1, GATES[cell], J, batch.columns // 2)
    normal = torch.zeros(T, 10, 1, GATES[cell], J, batch.x.shape[3], dtype=torch.float64)
    normal[..., : batch.columns] = torch.stack([half, -half], -1).flatten(-2)
    mean, _, penalty, _ = gained(made, batch, "identity", noise, normal, 0.05)
    shift = 0.05**2 * derived(*network(cell, "identity", mode)[:2], "identity", mode)[2]
    error = mean.std(0) / math.sqrt(10)
    off = (mean.mean(0) - penalty[0] - shift).abs()
    assert (off <= 5 * error + 0.02 * penalty[0].norm()).all()
    assert error.norm() < 0.1 * penalty[0].norm()


def test_a_penalty_needs_a_loss():
    with pytest.raises(ValueError, match="expected-blind-additive-both, found injection 'backward'"):
        StackNoise.of(["expected-blind-additive-both"], injection="backward")
    with pytest.raises(ValueError, match=r"a penalty; use nem\.stack\.penalise"):
        GateNoise(("expected-blind",), ("additive",))
