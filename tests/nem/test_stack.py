"""Stacks of networks: one layout, paired draws, and gradients that are those of the loss; the conditions' names."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import CONDITIONS, cells, fast
from nem.conditions import BEYOND, MODES, PLACES, Condition
from nem.stack import Batch, Networks, Size, StackNoise, activations, errors, gradients
from tests.nem.stacks import CELLS, draw, generator

EVERY = (*CONDITIONS, *BEYOND)
T, I, J, B = 4, 3, 5, 7
HEADS = pytest.mark.parametrize("head", ["identity", "softmax"])


def stack(cell="lstm", head="identity", names=CONDITIONS, *, G=2, dtype=torch.float64, first=-1, **options):
    """Networks, a batch, their noise, its draws."""
    K = 1 if head == "identity" else 3
    networks = Networks(Size(cell, G, len(names), I, J, K), dtype)
    for group in range(G):
        networks.initialise(group, generator(group))
    targets = draw(2, G, B, K) if head == "identity" else torch.eye(3)[torch.arange(G * B).view(G, B) % 3]
    batch = Batch.of(draw(1, G, B, T, I), targets.to(dtype))
    noise = StackNoise.of(names, **options)
    sigmas = {layer: noise.sigma(layer, lambda layer, mode: 0.3, networks.flat) for layer in ("hidden", "output")}
    streams = {}

    def sample(name, shape):
        stream = streams.setdefault(name, generator(len(name)))
        return (torch.rand if name == "latent" else torch.randn)(shape, generator=stream, dtype=dtype)

    return networks, batch, noise, noise.draws(networks, batch, sigmas, sample, first)


def test_the_papers_conditions_are_thirteen_and_a_wrong_name_or_axis_is_an_error():
    own = [f"{kind}-{mode}-{place}" for kind in ("blind", "nem") for mode in MODES for place in PLACES]
    assert ("none", *own) == CONDITIONS
    assert (MODES, PLACES) == (("additive", "multiplicative"), ("output", "hidden", "both"))
    assert [Condition.parse(name).name for name in EVERY] == list(dict.fromkeys(EVERY))
    beyond = ("matched", "expected-nem", "reversed-nem", "expected-reversed-nem", "expected-blind")
    assert tuple(f"{kind}-{mode}-{place}" for kind in beyond for mode in MODES for place in PLACES) == BEYOND
    with pytest.raises(ValueError, match="did you mean 'nem-additive-both'"):
        Condition.parse("nem-aditive-both")
    for axes in (("nem",), ("none", "additive")):
        with pytest.raises(ValueError, match="expected mode and place"):
            Condition(*axes)


def test_conditions_are_sorted_with_gate_noise_first():
    noise = StackNoise.of(EVERY)
    names = [condition.name for condition in noise.conditions]
    assert sorted(names) == sorted(EVERY)
    noisy, mean = len(noise.gates), len(noise.penalty)
    assert [name.endswith(("hidden", "both")) for name in names] == [c < noisy + mean for c in range(len(noise))]
    assert all(name.startswith("expected-blind") for name in names[noisy : noisy + mean])
    assert noise.sigma("hidden", lambda layer, mode: 1.0).tolist() == [1.0] * (noisy + mean)
    sigma = noise.sigma("output", lambda layer, mode: {"additive": 1.0, "multiplicative": 2.0}[mode])
    for value, name in zip(sigma.tolist(), names, strict=True):
        noisy = name.endswith(("output", "both")) and not name.startswith("expected-blind")
        assert value == (0 if not noisy else 1 if "-additive-" in name else 2)
    quiet = StackNoise.of(["none"])
    assert quiet.gates is quiet.output is None


@pytest.mark.parametrize("cell", CELLS)
@HEADS
@pytest.mark.parametrize(
    ("injection", "delta"),
    [("forward", "loss"), ("backward", "loss"), ("forward", "literal"), ("pre-activation", "loss")],
)
@given(first=st.integers(-T, T - 1), granularity=st.sampled_from(["slice", "neuron", "time"]))
def test_gradients_are_those_of_the_mean_noisy_error(cell, head, injection, delta, first, granularity):
    """Of all parameters, against autograd through the whole objective with the noise held fixed.

    The literal delta of a softmax has the objective log Σ exp o - Σ (y + n) o.
    """
    means = granularity != "time" and injection != "pre-activation"
    names = [name for name in EVERY if not name.startswith("expected" if not means else "expected-blind")]
    options = {"first": first, "injection": injection, "granularity": granularity}
    networks, batch, noise, draws = stack(cell, head, names, **options)
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
@HEADS
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
