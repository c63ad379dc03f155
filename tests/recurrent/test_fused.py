"""The fused form against the general kernels, and the laws that a stack of networks must keep bit for bit."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.noise.inject import GateStack
from pipeline.recurrent import fused, kernels
from pipeline.recurrent.kernels import BLOCKS, GATES, GateDraws, Workspace

CELLS = ["lstm", "gru"]
AXES = sorted(
    itertools.product(("nem", "matched", "blind"), ("additive", "multiplicative")),
    key=lambda axis: GateStack.sort_key(*axis),
)
B = 32
"""The engine pads batches to multiples of this."""


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


NETWORKS = len(AXES) + 1


def parts(cell, T, G, I, J, seed, C=NETWORKS):
    """Return x, W, V of a stack."""
    rows = BLOCKS[cell] * J
    x = torch.cat([draw(seed, T, G, I, B), torch.ones(T, G, 1, B)], 2)
    return x, draw(seed + 1, G, I + 1, C, rows) / math.sqrt(I), draw(seed + 2, G, C, rows, J) / math.sqrt(J)


def noise(cell, T, G, J, seed, axes=AXES, sigma=None):
    shape = (T, G, 1, GATES[cell], J, B)
    sigma = torch.linspace(0.1, 0.4, len(axes)) if sigma is None else torch.full((len(axes),), sigma)
    return GateDraws(GateStack(*zip(*axes, strict=True)), sigma, draw(seed + 3, *shape), draw(seed + 4, *shape))


def both(cell, x, W, V, draws, grad_h, first):
    """Return hidden states, both gradients and the acceptance, fused and by the general kernels."""
    T = len(x)
    found = fused.forward(cell, x, W, V, draws=draws)
    one = [found.h.clone(), torch.full_like(W, math.nan), torch.full_like(V, math.nan), found.acceptance]
    fused.backward(cell, found, V, grad_h, one[1], one[2])
    general, back = (getattr(kernels, f"{cell}_{name}") for name in ("forward", "backward"))
    run = general(x, W, V, draws=draws)
    two = [run.h, torch.empty_like(W), torch.empty_like(V), run.acceptance]
    back(run, W, V, grad_h, first, two[1], two[2])
    assert len(grad_h) == T - first
    return one, two


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("noisy", [True, False])
@given(
    T=st.integers(1, 4), G=st.integers(1, 2), I=st.sampled_from([1, 3, fused.FEW, fused.FEW + 5]),
    J=st.integers(1, 7), seed=st.integers(0, 10**6), data=st.data(),
)  # fmt: skip
def test_fused_and_general_kernels_agree(cell, noisy, T, G, I, J, seed, data):
    first = data.draw(st.integers(0, T - 1))
    x, W, V = parts(cell, T, G, I, J, seed)
    draws = noise(cell, T, G, J, seed) if noisy else None
    grad_h = draw(seed + 5, T - first, G, len(AXES) + 1, J, B) / B
    one, two = both(cell, x, W, V, draws, grad_h, first)
    for mine, theirs in zip(one[:3], two[:3], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=5e-5)
    if noisy:
        assert torch.equal(one[3], two[3])
    else:
        assert one[3] is two[3] is None


@pytest.mark.parametrize("cell", CELLS)
def test_sigma_zero_no_noise_and_no_draws_are_the_same_bits(cell):
    x, W, V = parts(cell, 4, 2, 4, 50, 1)
    W, V = (each[:, :, :1].expand_as(each).contiguous() if each is W else each[:, :1].expand_as(each).contiguous()
            for each in (W, V))  # fmt: skip
    grad_h = draw(9, 1, 2, 1, 50, B).expand(-1, -1, len(AXES) + 1, -1, -1).contiguous()
    seen = []
    for draws in (noise(cell, 4, 2, 50, 1, sigma=0.0), None):
        run = fused.forward(cell, x, W, V, draws=draws)
        h, grads = run.h.clone(), (torch.empty_like(W), torch.empty_like(V))
        fused.backward(cell, run, V, grad_h, *grads)
        seen.append((h, *grads))
    for one, two in zip(*seen, strict=True):
        assert torch.equal(one, two)
    h, grad_W, grad_V = seen[0]
    for c in range(len(AXES) + 1):
        assert torch.equal(h[:, :, c], h[:, :, 0])
        assert torch.equal(grad_V[:, c], grad_V[:, 0])
        assert torch.equal(grad_W[:, :, c], grad_W[:, :, 0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("inputs", [4, fused.FEW + 6])
def test_a_network_does_not_depend_on_its_neighbours(cell, inputs):
    """Alone, beside others, and beside one that has diverged: the same bits."""
    x, W, V = parts(cell, 3, 1, inputs, 20, 4)
    grad_h = draw(8, 3, 1, len(AXES) + 1, 20, B)

    def train(chosen):
        axes = [AXES[c] for c in chosen if c < len(AXES)]
        draws = noise(cell, 3, 1, 20, 4, axes, 0.3) if axes else None
        w, v = W[:, :, chosen].contiguous(), V[:, chosen].contiguous()
        run = fused.forward(cell, x, w, v, draws=draws)
        out = [run.h.clone(), torch.empty_like(w), torch.empty_like(v)]
        fused.backward(cell, run, v, grad_h[:, :, chosen].contiguous(), out[1], out[2])
        return out

    whole = train(list(range(len(AXES) + 1)))
    V[:, 0] = math.nan
    beside = train(list(range(len(AXES) + 1)))
    for c in range(1, len(AXES) + 1):
        h, grad_W, grad_V = train([c])
        for every in (whole, beside):
            assert torch.equal(every[0][:, :, c], h[:, :, 0])
            assert torch.equal(every[2][:, c], grad_V[:, 0])
            # One product serves all networks of a group where inputs are many: BLAS may round by its size.
            torch.testing.assert_close(every[1][:, :, c], grad_W[:, :, 0], rtol=0, atol=0 if inputs <= 64 else 1e-5)
    assert torch.isnan(beside[0][1:, :, 0]).all()
    assert not torch.isnan(beside[0][:, :, 1:]).any()


@pytest.mark.parametrize("cell", CELLS)
def test_two_slots_give_the_hidden_states_of_all(cell):
    x, W, V = parts(cell, 5, 1, 4, 9, 7)
    whole = fused.forward(cell, x, W, V).h.clone()
    assert torch.equal(fused.forward(cell, x, W, V, keep=False).h, whole)


@pytest.mark.parametrize("cell", CELLS)
def test_a_workspace_carries_nothing_over(cell):
    space = Workspace()
    x, W, V = parts(cell, 4, 2, 4, 9, 7)
    fresh = fused.forward(cell, x, W, V).h.clone()
    fused.forward(cell, x * math.nan, W, V, draws=noise(cell, 4, 2, 9, 3), workspace=space)
    assert torch.equal(fused.forward(cell, x, W, V, workspace=space).h, fresh)


def test_one_slice_leaves_recurrent_weights_alone():
    for cell in CELLS:
        x, W, V = parts(cell, 1, 1, 2, 3, 5)
        run = fused.forward(cell, x, W, V)
        grad_V = torch.full_like(V, math.nan)
        fused.backward(cell, run, V, draw(1, 1, 1, len(AXES) + 1, 3, B), torch.empty_like(W), grad_V)
        assert torch.count_nonzero(grad_V) == 0


def test_tanh_and_sigmoid_are_accurate_and_bounded():
    """Through one gate and one state, since the functions exist only inside compiled loops."""
    values = torch.cat([torch.linspace(-20, 20, 4096 * 8), torch.tensor([0.0, math.inf, -math.inf])])
    values = torch.nn.functional.pad(values, (0, -len(values) % B))
    x = torch.stack([values.view(-1, B), torch.ones(len(values) // B, B)], 1)[None]
    G = x.shape[1]
    W = torch.zeros(G, 2, 1, 4)
    W[:, 0] = 1
    run = fused.forward("lstm", x, W, torch.zeros(G, 1, 4, 1))
    exact = x[0, :, 0].double().numpy()
    gate, candidate = (run.act[0, :, 0, row].double().numpy() for row in (0, 3))
    with np.errstate(over="ignore"):
        assert np.abs(gate - 1 / (1 + np.exp(-exact))).max() < 3e-7
    assert np.abs(candidate - np.tanh(exact)).max() < 5e-7
    assert np.abs(candidate).max() <= 1
    assert 0 <= gate.min() <= gate.max() <= 1
    small = (np.abs(exact) < 1) & (exact != 0)
    assert np.abs(candidate[small] / np.tanh(exact[small]) - 1).max() < 5e-7


def test_what_is_served():
    x = torch.zeros(1, 1, 2, B)
    assert fused.serves(x, None)
    assert not fused.serves(x.double(), None)

    def stack(kind="nem", mode="additive", **options):
        return GateDraws(GateStack((kind,), (mode,), **options), torch.zeros(1), None)

    for kind in ("blind", "nem", "matched"):
        assert fused.serves(x, stack(kind))
    assert not fused.serves(x, stack("expected-nem"))
    for option in ({"granularity": "neuron"}, {"granularity": "time"}, {"injection": "backward"}, {"clamp": True}):
        assert not fused.serves(x, stack(**option))
    assert fused.serves(x, stack(latent="sampled"))
    assert not fused.serves(x, stack(mode="multiplicative", latent="sampled"))
