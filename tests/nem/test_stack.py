"""Stacks of networks: one layout, paired draws, and gradients that are those of the loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import CONDITIONS, cells, fast
from nem.conditions import BEYOND, Condition
from nem.fast import LANES
from nem.stack import Batch, Networks, Size, StackNoise, activations, errors, gradients
from tests.nem.stacks import CELLS, draw

EVERY = (*CONDITIONS, *BEYOND)
T, I, J, B = 4, 3, 5, 7


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stack(cell="lstm", head="identity", names=CONDITIONS, *, G=2, dtype=torch.float64, sigma=0.3, first=-1, **options):
    """Networks, a batch, their noise, its draws."""
    K = 1 if head == "identity" else 3
    networks = Networks(Size(cell, G, len(names), I, J, K), dtype)
    for group in range(G):
        networks.initialise(group, seeded(group))
    targets = draw(2, G, B, K) if head == "identity" else torch.eye(3)[torch.arange(G * B).view(G, B) % 3]
    batch = Batch.of(draw(1, G, B, T, I), targets.to(dtype))
    noise = StackNoise.of(names, **options)
    sigmas = {layer: noise.sigma(layer, lambda layer, mode: sigma, networks.flat) for layer in ("hidden", "output")}
    streams = {}

    def sample(name, shape):
        generator = streams.setdefault(name, seeded(len(name)))
        return (torch.rand if name == "latent" else torch.randn)(shape, generator=generator, dtype=dtype)

    return networks, batch, noise, noise.draws(networks, batch, sigmas, sample, first)


def test_a_batch_is_padded_and_a_group_starts_alike():
    networks, batch, *_ = stack()
    assert batch.x.shape == (T, 2, I + 1, LANES)
    assert batch.columns == B
    assert (batch.x[:, :, -1, :B] == 1).all()
    assert (batch.x[..., B:] == 0).all()
    assert (batch.target[..., B:] == 0).all()
    for view in networks.by_network(networks.flat).values():
        assert (view == view[:, :1]).all()
        assert not torch.equal(view[0], view[1])
    networks.zero(networks.flat, 1, 2)
    for name, view in networks.by_network(networks.flat).items():
        assert (view[1, 2] == 0).all(), name
        assert (view[1, 3] != 0).any()
    networks.W += 1
    assert networks.flat[: networks.W.numel()].min() > 0, "views of one buffer"


def test_conditions_are_sorted_with_gate_noise_first():
    noise = StackNoise.of(EVERY)
    names = [condition.name for condition in noise.conditions]
    assert sorted(names) == sorted(EVERY)
    assert len(noise) == len(EVERY)
    assert all(Condition.parse(name).in_hidden == (c < len(noise.gates)) for c, name in enumerate(names))
    sigma = noise.sigma("output", lambda layer, mode: {"additive": 1.0, "multiplicative": 2.0}[mode])
    for value, condition in zip(sigma.tolist(), noise.conditions, strict=True):
        assert value == (0 if not condition.in_output else 1 if condition.mode == "additive" else 2)
    quiet = StackNoise.of(["none"])
    assert quiet.gates is quiet.output is None


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", ["identity", "softmax"])
@pytest.mark.parametrize(("injection", "delta"), [("forward", "loss"), ("backward", "loss"), ("forward", "literal")])
@given(first=st.integers(-T, T - 1))
def test_gradients_are_those_of_the_mean_noisy_error(cell, head, injection, delta, first):
    """Of all parameters, against autograd through the whole objective with the noise held fixed.

    The literal delta of a softmax has the objective log Σ exp o - Σ (y + n) o.
    """
    networks, batch, noise, draws = stack(cell, head, EVERY, first=first, injection=injection)
    means = gradients(networks, batch, head, noise, draws, first, output_delta=delta)
    leaf = networks.flat.clone().requires_grad_()
    W, V, U, b = networks.views(leaf).values()
    h = cells.forward(cell, cells.project(batch.x, W), V, noise=(noise.gates, draws.gates)).h[first % T :]
    outputs = U @ h + b
    activation = activations(head, outputs)
    with torch.no_grad():
        increment, _ = noise.output.increments(head, batch.target, activation, draws.output)
    loss = errors(head, batch.target + increment, activation)[..., :B].sum(0).mean(-1)
    torch.testing.assert_close(means["loss"], loss.detach())
    if delta == "literal" and head == "softmax":
        error = outputs.logsumexp(-2) - ((batch.target + increment) * outputs).sum(-2)
        loss = error[..., :B].sum(0).mean(-1)
    loss.sum().backward()
    torch.testing.assert_close(networks.grad, leaf.grad, rtol=1e-9, atol=1e-11)
    assert means["output"].shape == loss.shape
    assert means["hidden"].shape == (2, len(noise.gates))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_the_compiled_gradients_are_the_cells(cell, head, monkeypatch):
    results = []
    for numba in (fast.numba, None):
        monkeypatch.setattr(fast, "numba", numba)
        names = [*CONDITIONS, "reversed-nem-additive-both", "reversed-nem-multiplicative-both"]
        networks, batch, noise, draws = stack(cell, head, names, dtype=torch.float32, first=1)
        means = gradients(networks, batch, head, noise, draws, 1, output_delta="literal")
        results.append([networks.grad, *means.values(), networks.forward(batch.x)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
