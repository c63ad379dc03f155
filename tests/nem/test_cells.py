"""The cells against torch's, against Appendices B.2 and C.2, and against finite differences, in float64."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nem import cells
from nem.cells import Start
from nem.directions import stacked
from nem.theory import recursions
from tests.nem.stacks import AXES, CELLS, NETWORKS, draw, noise, parts

MODULES = {"lstm": nn.LSTM, "gru": nn.GRU}
BOTH = pytest.mark.parametrize("cell", CELLS)
BLOCKS = {
    "lstm": (("gamma", "phi", "omega", "c"), ("gamma", "phi", "omega", "c")),
    "gru": (("c", "z", "r"), ("z", "r", "c")),
}
"""Row blocks of W and of V."""


def run(cell, x, W, V, **options):
    return cells.forward(cell, cells.project(x, W), V, **options)


def papers(cell, W, V, U, b):
    """One network's W (I + 1, rows) and V (rows, J) as the paper's parameters."""
    named = {"U_y": U, "b_y": b}
    for block, w in zip(BLOCKS[cell][0], W.T.chunk(len(BLOCKS[cell][0])), strict=True):
        gate = "x" if block == "c" else block
        named |= {f"W_{gate}": w[:, :-1], f"b_{gate}": w[:, -1]}
    for block, v in zip(BLOCKS[cell][1], V.chunk(len(BLOCKS[cell][1])), strict=True):
        named[f"V_{'h' if block == 'c' else block}"] = v
    return recursions.Parameters(**named)


@BOTH
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
def test_the_noiseless_cell_is_torchs(cell, T, I, J, B, started, seed):
    module = MODULES[cell](I, J, dtype=torch.float64)
    for k, parameter in enumerate(module.parameters()):
        parameter.data = draw(seed + k, *parameter.shape)
    x, h, s = draw(seed + 5, T, B, I), draw(seed + 6, B, J), draw(seed + 7, B, J)
    hx = ((h[None], s[None]) if cell == "lstm" else h[None]) if started else None
    output, last = module(x, hx)
    W, V, bias = stacked(cell, *module.parameters())
    sequence = torch.cat([x.mT, torch.ones(T, 1, B, dtype=torch.float64)], 1).unsqueeze(1)
    start = Start(h.T[None, None], s.T[None, None], bias) if started else Start(bias=bias)
    done = run(cell, sequence, W, V, start=start)
    torch.testing.assert_close(done.h[:, 0, 0].mT, output, rtol=1e-11, atol=1e-12)
    if cell == "lstm":
        torch.testing.assert_close(done.s[0, 0].T, last[1][0], rtol=1e-11, atol=1e-12)


@BOTH
@given(T=st.integers(1, 4), G=st.integers(1, 2), I=st.integers(1, 3), J=st.integers(1, 4), B=st.integers(1, 3),
       seed=st.integers(0, 10**6), data=st.data())  # fmt: skip
def test_gradients_of_a_noisy_stack_are_those_of_the_appendices(cell, T, G, I, J, B, seed, data):
    """Each network of a stack, noisy ones included, against the recursions forward in time of B.2 and C.2."""
    first, K = data.draw(st.integers(0, T - 1)), 2
    x, W, V = (t.requires_grad_() for t in parts(cell, T, G, I, J, B, seed))
    U, b, target = draw(seed + 8, K, J), draw(seed + 9, K), draw(seed + 10, T, B, K)
    (layer, draws), increments = noise(cell, T, G, J, B, seed), []
    decided = type(layer)(layer.kinds, layer.modes)
    watched = lambda *given: increments.append(layer.increments(*given)) or increments[-1]  # noqa: E731
    object.__setattr__(decided, "increments", watched)
    done = run(cell, x, W, V, noise=(decided, draws))
    outputs = torch.einsum("kj,tgcjb->tgcbk", U, done.h) + b
    ((outputs - target[:, None, None]).square()[first:].sum() + 0 * V.sum()).backward()  # T = 1 does not use V
    for g, c in itertools.product(range(G), range(NETWORKS)):
        p = papers(cell, W[g, :, c].detach(), V[g, c].detach(), U, b)
        deltas = [[d.T for d in delta[g, c]] for delta, _ in increments] if c < len(AXES) else None
        mode = AXES[c][1] if c < len(AXES) else "additive"
        right = recursions.gradients(x[:, g, :-1].detach().mT, target, p, "identity", first + 1, deltas, mode)
        mine = papers(cell, W.grad[g, :, c], V.grad[g, c], right.U_y, right.b_y)
        for name, value in vars(right).items():
            torch.testing.assert_close(getattr(mine, name), value, rtol=1e-9, atol=1e-10)


@BOTH
@pytest.mark.parametrize("clamp", [False, True])
def test_gradients_are_those_of_the_noisy_function(cell, clamp):
    """gradcheck: masks and increments are constants almost everywhere."""
    x, W, V = parts(cell, 3, 1, 2, 2, 2, 11)
    h, s, bias = draw(1, 1, NETWORKS, 2, 2), draw(2, 1, NETWORKS, 2, 2), draw(3, 1, NETWORKS, 2, 1)
    given = [t.requires_grad_() for t in (x, W, V, h, s, bias)]
    layer, draws = noise(cell, 3, 1, 2, 2, 5, clamp=clamp)

    def function(x, W, V, h, s, bias):
        start = Start(h, s if cell == "lstm" else None, bias if cell == "gru" else None)
        return run(cell, x, W, V, start=start, noise=(layer, draws)).h

    assert torch.autograd.gradcheck(function, given, eps=1e-7, atol=1e-5)


@BOTH
def test_backward_injection_is_clean_forward_and_noisy_backward(cell):
    """One slice by hand: every occurrence of a gate in the backward recursion is the noisy one, n(1 - n) included."""
    J, B = 3, 4
    x, W, V = parts(cell, 1, 1, 2, J, B, 3, C=1)
    state, s0 = draw(1, 1, 1, J, B), draw(2, 1, 1, J, B)
    layer, draws = noise(cell, 1, 1, J, B, 7, axes=[("blind", "additive")], sigma=0.3, injection="backward")
    W.requires_grad_()
    start = Start(state, s0)
    done = run(cell, x, W, V, start=start, noise=(layer, draws))
    clean = run(cell, x, W, V, start=start)
    assert torch.equal(done.h, clean.h)
    done.h.sum().backward()
    u, v = cells.project(x, W.detach())[0, 0, 0], V[0, 0] @ state[0, 0]
    n = 0.3 * draws.normal[0, 0, 0]
    if cell == "lstm":
        now = cells.lstm_step(u, v, s0[0, 0])
        i, f, o = now.a_gamma + n[0], now.a_phi + n[1], now.a_omega + n[2]
        ds = o * (1 - now.a_s**2)
        rows = (ds * now.a_c * i * (1 - i), ds * s0[0, 0] * f * (1 - f), now.a_s * o * (1 - o))
        rows += (ds * i * (1 - now.a_c**2),)
    else:
        now = cells.gru_step(u, v, state[0, 0])
        z, r = now.a_z + n[0], now.a_r + n[1]
        dc = z * (1 - now.a_c**2)
        rows = (dc, (now.a_c - state[0, 0]) * z * (1 - z), dc * now.v * r * (1 - r))
    torch.testing.assert_close(W.grad[0, :, 0], x[0, 0] @ torch.cat(rows).T, rtol=1e-11, atol=1e-12)


@BOTH
@pytest.mark.parametrize("injection", ["forward", "backward"])
def test_zero_noise_is_no_noise(cell, injection):
    (x, W, V), silent = parts(cell, 3, 2, 2, 4, 5, 1), noise(cell, 3, 2, 4, 5, 2, sigma=0.0, injection=injection)
    V.requires_grad_()
    zero, none = (run(cell, x, W, V, noise=given).h for given in (silent, None))
    assert torch.equal(zero, none)
    gradients = [torch.autograd.grad(h.sin().sum(), V)[0] for h in (zero, none)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@BOTH
def test_granularity_time_sums_the_gains_of_a_clean_pass(cell):
    T, J, B = 4, 3, 50
    x, W, V = parts(cell, T, 1, 2, J, B, 1, C=1)
    layer, draws = noise(cell, T, 1, J, B, 2, axes=[("nem", "additive")], granularity="time")
    logits = run(cell, x, W, V, keep_logits=True).logits
    accepted = (logits * draws.normal).sum((0, -2))[0, 0] >= 0
    done, clean, refused = run(cell, x, W, V, noise=(layer, draws)), run(cell, x, W, V), ~accepted.any(0)
    torch.testing.assert_close(done.acceptance[0, 0], accepted.double().mean())
    assert refused.any()
    torch.testing.assert_close(done.h[..., refused], clean.h[..., refused])
    assert not torch.allclose(done.h, clean.h)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@BOTH
def test_a_gpu_runs_the_same_noisy_stack(cell):
    def values(device):
        x, W, V = (t.to(device).requires_grad_() for t in parts(cell, 3, 2, 2, 4, 5, 1))
        layer, draws = noise(cell, 3, 2, 4, 5, 2)
        moved = type(draws)(*(t.to(device) for t in (draws.sigma, draws.normal, draws.test, draws.uniform)))
        done = run(cell, x, W, V, noise=(layer, moved))
        done.h.sum().backward()
        return [t.cpu() for t in (done.h, done.acceptance, x.grad, W.grad, V.grad)]

    for mine, theirs in zip(values("cuda"), values("cpu"), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
