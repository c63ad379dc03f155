"""The compiled form against the cells, and the laws that a stack of networks must keep bit for bit."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import cells, fast
from nem.fast import Workspace
from nem.noise import GateNoise
from tests.nem import stacks
from tests.nem.stacks import AXES, CELLS, NETWORKS

pytest.importorskip("numba")
BOTH = pytest.mark.parametrize("cell", CELLS)
B = fast.LANES
draw = partial(stacks.draw, dtype=torch.float32)
parts = partial(stacks.parts, B=B, dtype=torch.float32)
noise = partial(stacks.noise, B=B, dtype=torch.float32)


def compiled(cell, x, W, V, grad_h, **options):
    """Return hidden states, gradients of W and V, and the acceptance."""
    done = fast.forward(cell, x, (W, V), **options)
    h, gradients = done.h.clone(), (torch.full_like(W, math.nan), torch.full_like(V, math.nan))
    fast.backward(cell, done, grad_h, gradients)
    return [h, *gradients, done.acceptance]


@BOTH
@pytest.mark.parametrize("noisy", [True, False])
@given(T=st.integers(1, 4), G=st.integers(1, 2), I=st.sampled_from([1, 3, fast.FEW, fast.FEW + 5]), J=st.integers(1, 7),
       scale=st.sampled_from([1, 1, 40]), seed=st.integers(0, 10**6), data=st.data())  # fmt: skip
def test_the_compiled_form_is_the_cell(cell, noisy, T, G, I, J, scale, seed, data):
    """Of saturated neurons too, which large inputs make; with noise, rounding would decide some of its tests."""
    first = data.draw(st.integers(0, T - 1))
    x, W, V = parts(cell, T, G, I, J, seed=seed)
    x[:, :, :-1] *= 1 if noisy else scale
    injected = noise(cell, T, G, J, seed=seed) if noisy else None
    grad_h = draw(seed + 9, T - first, G, NETWORKS, J, B) / B
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
    grad_h = draw(9, 1, 2, 1, 50, B).expand(-1, -1, NETWORKS, -1, -1).contiguous()
    zero = noise(cell, 4, 2, 50, seed=1, sigma=0.0)
    silent, quiet = (compiled(cell, x, W, V, grad_h, noise=injected)[:3] for injected in (zero, None))
    assert all(torch.equal(one, two) for one, two in zip(silent, quiet, strict=True))
    for values, axis in zip(quiet, (2, 2, 1), strict=True):  # of h, of gradients of W and of V
        assert torch.equal(values, values.narrow(axis, 0, 1).expand_as(values)), "equal networks"


@BOTH
@pytest.mark.parametrize("inputs", [4, fast.FEW + 6])
def test_a_network_does_not_depend_on_its_neighbours(cell, inputs):
    """Alone, beside others, and beside one that has diverged: the same bits."""
    x, W, V = parts(cell, 3, 1, inputs, 20, seed=4)
    grad_h = draw(8, 3, 1, NETWORKS, 20, B)

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
            assert torch.equal(stack[0][:, :, c], h[:, :, 0])
            assert torch.equal(stack[2][:, c], grad_V[:, 0])
            # One product serves all networks of a group where inputs are many: BLAS may round by its size.
            error = 0 if inputs <= fast.FEW else 1e-5
            torch.testing.assert_close(stack[1][:, :, c], grad_W[:, :, 0], rtol=0, atol=error)
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
    x = torch.zeros(1, 1, 2, B)
    assert fast.serves(x, None)
    assert not fast.serves(x.double(), None)

    def serves(kind="nem", mode="additive", **options):
        return fast.serves(x, GateNoise((kind,), (mode,), **options))

    assert all(serves(kind) for kind in ("nem", "blind", "matched", "reversed-nem"))
    assert serves(latent="sampled")
    others = ({"granularity": "neuron"}, {"granularity": "time"}, {"injection": "backward"}, {"clamp": True},
              {"injection": "pre-activation"})  # fmt: skip
    means = ({"kind": "expected-nem"}, {"kind": "expected-reversed-nem"})
    for options in (*others, *means, {"mode": "multiplicative", "latent": "sampled"}):
        assert not serves(**options)
    monkeypatch.setattr(fast, "numba", None)
    assert not fast.serves(x, None), "without numba, everything goes through the cells"
