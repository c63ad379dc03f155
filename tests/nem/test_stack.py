"""Stacks of networks: layout, paired draws, gradients, names of conditions; the compiled form against the cells."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import CONDITIONS, cells, fast, kernels
from nem.conditions import BEYOND, MODES, PLACES, Condition
from nem.fast import Workspace
from nem.noise import GateNoise
from nem.stack import Batch, Networks, Size, StackNoise, activations, errors, gradients
from tests.nem import stacks
from tests.nem.stacks import AXES, CELLS, NETWORKS, draw, generator

EVERY = (*CONDITIONS, *BEYOND)
T, I, J, B = 4, 3, 5, 7
HEADS = pytest.mark.parametrize("head", ["identity", "softmax", "logistic"])


def stack(cell="lstm", head="identity", names=CONDITIONS, *, G=2, dtype=torch.float64, first=-1, **options):
    K = 1 if head == "identity" else 3
    networks = Networks(Size(cell, G, len(names), I, J, K), dtype)
    for group in range(G):
        networks.initialise(group, generator(group))
    targets = draw(2, G, B, K) if head != "softmax" else torch.eye(3)[torch.arange(G * B).view(G, B) % 3]
    targets = (targets > 0) if head == "logistic" else targets
    batch = Batch.of(draw(1, G, B, T, I), targets.to(dtype))
    noise = StackNoise.of(names, **options)
    sigmas = {layer: noise.sigma(layer, lambda layer, mode: 0.3, networks.flat) for layer in ("hidden", "output")}
    streams = {}

    def sample(name, shape):
        stream = streams.setdefault(name, generator(len(name)))
        return (torch.rand if name == "latent" else torch.randn)(shape, generator=stream, dtype=dtype)

    return networks, batch, noise, noise.draws(networks, batch, sigmas, sample, first)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ("",)),
        ({"granularity": "time"}, ("expected",)),
        ({"granularity": "neuron", "latent": "sampled"}, ("expected-blind",)),
        ({"injection": "backward", "clamp": True}, ("expected-blind",)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_padded_before_its_first_slice_trains_as_it_does_alone(cell, dtype, options, kinds):
    names = [name for name in EVERY if not any(kind and name.startswith(kind) for kind in kinds)]
    lengths, alone = [4, 2, 3], []
    networks, batch, noise, draws = stack(cell, "softmax", names, G=1, dtype=dtype, **options)
    inputs, targets = batch.x[:, :, :I].permute(1, 3, 0, 2)[:, :3], batch.target[0, :, 0].transpose(1, 2)[:, :3]
    for b, n in enumerate(lengths):
        one = Batch.of(inputs[:, b : b + 1, T - n :], targets[:, b : b + 1])
        own = draws._replace(
            gates=draws.gates.map(lambda d, b=b, n=n: d[T - n :, ..., b : b + 1].expand_as(d[T - n :])),
            output=draws.output.map(lambda d, b=b: d[..., b : b + 1].expand(d.shape)),
        )
        means = gradients(networks, one, "softmax", noise, own)
        alone.append((networks.grad.clone(), means))
    real = torch.tensor([[t >= T - n for t in range(T)] for n in lengths])[None]
    inputs = inputs.where(real[..., None], 1e9)  # what is padding is not looked at
    means = gradients(networks, Batch.of(inputs, targets, real=real), "softmax", noise, draws)
    close = partial(torch.testing.assert_close, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-6)
    close(networks.grad * 3, sum(grad for grad, _ in alone))
    for name in ("loss", "output"):
        close(means[name] * 3, sum(own[name] for _, own in alone))
    injected = sum(n * own["hidden"] for n, (_, own) in zip(lengths, alone, strict=True))
    close(means["hidden"] * sum(lengths), injected)


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cell", CELLS)
@given(slices=st.integers(1, 30), ragged=st.booleans(), count=st.sampled_from([1, 3, 32]), seed=st.integers(0, 99))
def test_sequences_that_share_slices_train_as_those_with_slices_of_their_own(cell, dtype, slices, ragged, count, seed):
    """And a group is the same, bit for bit, whatever others it trains beside."""
    names, pool = ["none", "nem-additive-both", "blind-multiplicative-hidden"], draw(seed, slices, I).to(dtype)
    networks, _, noise, draws = stack(cell, "identity", names, dtype=dtype)
    index = torch.randint(slices, (2, count, T), generator=generator(seed))
    before = torch.arange(T) < torch.randint(T, (2, count, 1), generator=generator(seed))
    index = index.masked_fill(before & ragged, -1)
    targets, columns = draw(seed + 1, 2, count, 1).to(dtype), count + -count % kernels.LANES
    draws = draws._replace(gates=draws.gates.map(lambda d: d[..., :1].expand(*d.shape[:-1], columns)),
                           output=draws.output.map(lambda d: d[..., :1].expand(*d.shape[:-1], columns)))  # fmt: skip

    def train(batch):
        networks.grad.fill_(math.nan)
        means = gradients(networks, batch, "identity", noise, draws)
        parts = {name: part.clone() for name, part in networks.by_network(networks.grad).items()}
        return parts | means | {"h": networks.forward(batch).transpose(0, 1).clone()}

    shared = train(Batch.sharing(pool, index, targets, Workspace()))
    apart = train(Batch.of(pool[index], targets, real=index >= 0))
    for name, right in apart.items():
        torch.testing.assert_close(shared[name], right, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-5)
    other = train(Batch.sharing(pool, torch.stack([index[0], index[0] * 0]), targets, Workspace()))
    assert all(torch.equal(one[0], other[name][0]) for name, one in shared.items())
    alone = networks.forward(Batch.sharing(pool, index[:1], targets[:1], Workspace())).transpose(0, 1)
    assert torch.equal(alone[0], shared["h"][0]), "one group's inputs are those of all"


@pytest.mark.parametrize("cell", CELLS)
@HEADS
def test_the_compiled_gradients_are_the_cells(cell, head, monkeypatch):
    """Output neurons included, and those apart: for noise that only the cells' output neurons have."""
    names = [*CONDITIONS, *(f"{kind}-{mode}-both" for kind in ("matched", "reversed-nem") for mode in MODES)]
    for delta, first in (("literal", 1), ("loss", -1)):
        results = []
        for numba, outputs in ((kernels.numba, True), (kernels.numba, False), (None, True)):
            monkeypatch.setattr(kernels, "numba", numba)
            monkeypatch.setattr(fast, "serves_targets", lambda _, outputs=outputs: outputs)
            networks, batch, noise, draws = stack(cell, head, names, dtype=torch.float32, first=first)
            networks.grad.fill_(math.nan)
            means = gradients(networks, batch, head, noise, draws, first, output_delta=delta)
            everything = networks.views(networks.grad) | means | {"h": networks.forward(batch)}
            results.append(everything)
        for name, right in results[-1].items():
            for mine in results[:-1]:
                torch.testing.assert_close(mine[name], right, rtol=1e-4, atol=1e-5)


@HEADS
def test_gains_of_nothing_are_not_negative(head):
    networks, batch, noise, draws = stack("lstm", head, ["nem-additive-output"], dtype=torch.float32)
    silent = replace(draws.output, sigma=torch.zeros(1))
    assert (gradients(networks, batch, head, noise, draws._replace(output=silent))["output"] == 1).all()


@pytest.mark.parametrize("head", ["softmax", "logistic"])
def test_outputs_next_to_0_and_1_are_exact(head):
    """Of class 0 or of no label, with inputs of output neurons that float32 would round away."""
    networks, batch, noise, draws = stack("lstm", head, ["nem-multiplicative-output"], dtype=torch.float32)
    networks.U.zero_(), networks.b.copy_(torch.tensor([20.0, 6.0, -17.0])[:, None])
    batch.target.zero_()[..., 0, :] = float(head == "softmax")
    means, o = gradients(networks, batch, head, noise, draws), networks.b[0, 0].double()
    if head == "softmax":
        log_a, factor = torch.log_softmax(o, 0)[0], 0.3 * draws.output.normal[0, :, 0, 0, :B]
        taken = factor <= 0  # since log a < 0
        torch.testing.assert_close(means["output"][:, 0], taken.float().mean(-1))
        loss = -(log_a * (1 + factor * taken)).mean(-1)
        torch.testing.assert_close(
            means["loss"][:, 0].double(), loss, rtol=0.1, atol=0
        )  # float32 has one digit of 1 - a
    else:
        torch.testing.assert_close(networks.grad_b[0, 0].double(), torch.sigmoid(o), rtol=1e-5, atol=0)


def test_draws_that_are_missing_or_of_another_size_are_refused():
    names = ["nem-additive-output", "matched-additive-output"]
    networks, batch, noise, draws = stack(names=names, dtype=torch.float32, first=1)
    for missing in ("normal", "test"):
        with pytest.raises(ValueError, match="found None"):
            few = replace(draws.output, **{missing: None})
            gradients(networks, batch, "identity", noise, draws._replace(output=few), 1)
    with pytest.raises(RuntimeError, match="expand"):
        gradients(networks, batch, "identity", noise, draws)


BOTH = pytest.mark.parametrize("cell", CELLS)
draw32 = partial(stacks.draw, dtype=torch.float32)
parts = partial(stacks.parts, B=kernels.LANES, dtype=torch.float32)
noise = partial(stacks.noise, B=kernels.LANES, dtype=torch.float32)


def compiled(cell, x, W, V, grad_h, **options):
    """Return hidden states, gradients of W and V, and the acceptance."""
    done = fast.forward(cell, x, (W, V), **options)
    h, gradients = done.h.clone(), (torch.full_like(W, math.nan), torch.full_like(V, math.nan))
    fast.backward(cell, done, grad_h, gradients)
    return [h, *gradients, done.acceptance]


@given(rows=st.integers(1, 30), columns=st.integers(1, 70), terms=st.integers(0, 200), turned=st.booleans(),
       adding=st.booleans(), seed=st.integers(0, 10**6))  # fmt: skip
def test_bits_of_a_product_depend_on_its_row_and_its_column_alone(rows, columns, terms, turned, adding, seed):
    """Not on the product's size, nor on whether it is made in one go; and memory beside it is left alone."""
    draw = np.random.default_rng(seed)
    shapes = (rows, terms), (terms, columns), (rows, columns)
    a, b, before = (draw.standard_normal(shape, np.float32) for shape in shapes)
    given_a = np.pad(np.ascontiguousarray(a.T) if turned else a, ((0, 0), (0, 3)))[:, : rows if turned else terms]
    space = np.full((rows + 2, columns + 5), np.nan, np.float32)
    out = space[1:-1, :columns]
    out[:] = before if adding else np.nan
    kernels.product(given_a, turned, b, out, adding)
    assert np.isnan(space[[0, -1]]).all()
    assert np.isnan(space[:, columns:]).all()
    right = a.astype(float) @ b + before * adding
    size = np.abs(a).astype(float) @ np.abs(b) + np.abs(before)
    roundings = min(terms, kernels.DEPTH) + terms // kernels.DEPTH + 2
    assert (np.abs(out - right) <= roundings * 2.0**-24 * size).all()
    row, column = draw.integers(rows), draw.integers(columns)
    cut = kernels.DEPTH * draw.integers(terms // kernels.DEPTH + 1)
    alone = before[row : row + 1, column : column + 1] * np.float32(adding)
    for part in (slice(0, cut), slice(cut, terms)):
        kernels.product(a[row : row + 1, part], False, b[part, column : column + 1], alone, True)
    assert alone == out[row, column]


@BOTH
@pytest.mark.parametrize("noisy", [True, False])
@given(T=st.integers(1, 4), G=st.integers(1, 2), J=st.sampled_from([1, 2, 7, 70]), scale=st.sampled_from([1, 1, 40]),
       I=st.sampled_from([1, 3, kernels.FEW, kernels.FEW + 5]), seed=st.integers(0, 10**6), data=st.data())  # fmt: skip
def test_the_compiled_form_is_the_cell(cell, noisy, T, G, I, J, scale, seed, data):
    """Of saturated neurons too, which large inputs make; with noise, rounding would decide some of its tests."""
    first = data.draw(st.integers(0, T - 1))
    x, W, V = parts(cell, T, G, I, J, seed=seed)
    x[:, :, :-1] *= 1 if noisy else scale
    injected = noise(cell, T, G, J, seed=seed) if noisy else None
    grad_h = draw32(seed + 9, T - first, G, NETWORKS, J, kernels.LANES) / kernels.LANES
    mine = compiled(cell, x, W, V, grad_h, noise=injected)
    W_leaf, V_leaf = W.clone().requires_grad_(), V.clone().requires_grad_()
    done = cells.forward(cell, cells.project(x, W_leaf), V_leaf, noise=injected)
    done.h[first:].backward(grad_h)
    right = [done.h, W_leaf.grad, torch.zeros_like(V) if V_leaf.grad is None else V_leaf.grad]
    for one, two in zip(mine[:3], right, strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=2e-4, atol=5e-5)
    if noisy:
        torch.testing.assert_close(mine[3], done.acceptance)
    else:
        assert mine[3] is done.acceptance is None


@BOTH
def test_sigma_zero_no_noise_and_no_draws_are_the_same_bits(cell):
    x, W, V = parts(cell, 4, 2, 4, 50, seed=1)
    W, V = W[:, :, :1].expand_as(W).contiguous(), V[:, :1].expand_as(V).contiguous()
    grad_h = draw32(9, 1, 2, 1, 50, kernels.LANES).expand(-1, -1, NETWORKS, -1, -1).contiguous()
    zero = noise(cell, 4, 2, 50, seed=1, sigma=0.0)
    silent, quiet = (compiled(cell, x, W, V, grad_h, noise=injected)[:3] for injected in (zero, None))
    assert all(torch.equal(one, two) for one, two in zip(silent, quiet, strict=True))
    for values, axis in zip(quiet, (2, 2, 1), strict=True):  # of h, of gradients of W and of V
        assert torch.equal(values, values.narrow(axis, 0, 1).expand_as(values)), "equal networks"


@BOTH
@pytest.mark.parametrize("inputs", [4, kernels.FEW + 6])
def test_a_network_does_not_depend_on_its_neighbours(cell, inputs):
    """Alone, beside others, and beside one that has diverged: the same bits."""
    x, W, V = parts(cell, 3, 1, inputs, 20, seed=4)
    grad_h = draw32(8, 3, 1, NETWORKS, 20, kernels.LANES)

    def train(chosen):
        axes = [AXES[c] for c in chosen if c < len(AXES)]
        injected = noise(cell, 3, 1, 20, seed=4, axes=axes, sigma=0.3) if axes else None
        w, v = W[:, :, chosen].contiguous(), V[:, chosen].contiguous()
        return compiled(cell, x, w, v, grad_h[:, :, chosen].contiguous(), noise=injected)

    whole = train(list(range(NETWORKS)))
    V[:, 0] = math.nan
    beside = train(list(range(NETWORKS)))
    for c in range(1, NETWORKS):
        h, grad_W, grad_V, _ = train([c])
        for stack in (whole, beside):
            for one, two in zip((stack[0][:, :, c], stack[1][:, :, c], stack[2][:, c]),
                                (h[:, :, 0], grad_W[:, :, 0], grad_V[:, 0]), strict=True):  # fmt: skip
                assert torch.equal(one, two)
    assert torch.isnan(beside[0][1:, :, 0]).all()
    assert not torch.isnan(beside[0][:, :, 1:]).any()


@BOTH
def test_a_workspace_carries_nothing_over_and_two_slots_suffice_forward(cell):
    space = Workspace()
    x, W, V = parts(cell, 4, 2, 4, 9, seed=7)
    fresh = fast.forward(cell, x, (W, V)).h.clone()
    fast.forward(cell, x * math.nan, (W, V), noise=noise(cell, 4, 2, 9, seed=3), space=space)
    for keep in (True, False):
        assert torch.equal(fast.forward(cell, x, (W, V), space=space, keep=keep).h, fresh)


def test_what_is_served(monkeypatch):
    x = torch.zeros(1, 1, 2, kernels.LANES)
    assert fast.serves(x, None)
    assert not fast.serves(x.double(), None)

    def serves(kind="nem", mode="additive", **options):
        return fast.serves(x, GateNoise((kind,), (mode,), **options))

    assert all(serves(kind) for kind in ("nem", "blind", "matched", "reversed-nem"))
    assert serves(latent="sampled")
    others = (
        {"granularity": "neuron"}, {"granularity": "time"}, {"clamp": True}, {"injection": "backward"},
        {"injection": "pre-activation"},
    )  # fmt: skip
    means = ({"kind": "expected-nem"}, {"kind": "expected-reversed-nem"})
    for options in (*others, *means, {"mode": "multiplicative", "latent": "sampled"}):
        assert not serves(**options)
    monkeypatch.setattr(kernels, "numba", None)
    assert not fast.serves(x, None), "without numba, everything goes through the cells"
