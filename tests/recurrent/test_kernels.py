"""The fast kernels against the plain cells: one definition of the mathematics, held together to float64 round-off."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.noise.inject import GateStack, gate_increment
from pipeline.recurrent.kernels import (
    BLOCKS,
    GATES,
    GateDraws,
    gru_backward,
    gru_forward,
    lstm_backward,
    lstm_forward,
)
from pipeline.theory import cells

DOUBLE = torch.float64
AXES = sorted(
    [(kind, mode) for kind in ("nem", "blind") for mode in ("additive", "multiplicative")],
    key=lambda axis: GateStack.sort_key(*axis),
)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def reference(cell, W, V, U, b):
    """Return the plain cell's parameters from one network's kernel layout: W (I + 1, rows), V (rows, J)."""
    J = V.shape[1]
    blocks = W.T.split(J)
    W_parts, bias, V_parts = [w[:, :-1] for w in blocks], [w[:, -1] for w in blocks], V.split(J)
    if cell == "lstm":
        order = (3, 0, 1, 2)
        parts = [each for k in order for each in (W_parts[k], V_parts[k], bias[k])]
        return cells.LSTMParameters(*parts, U, b)
    parts = [W_parts[0], V_parts[2], bias[0], W_parts[1], V_parts[0], bias[1], W_parts[2], V_parts[1], bias[2]]
    return cells.GRUParameters(*parts, U, b)


def stack_and_reference(cell, T, G, I, J, B, K, seed, first):
    """Gradients of every network of a noisy stack, by kernel and by autograd through the plain cells."""
    C, rows = len(AXES) + 1, BLOCKS[cell] * J
    W, V = draw(seed, G, I + 1, C, rows), draw(seed + 1, G, C, rows, J)
    U, b = draw(seed + 2, K, J), draw(seed + 3, K)
    x = torch.cat([draw(seed + 4, T, G, I, B), torch.ones(T, G, 1, B, dtype=DOUBLE)], 2)
    target = draw(seed + 5, T, B, K)
    stack = GateStack(*zip(*AXES, strict=True))
    sigma = torch.linspace(0.1, 0.4, len(AXES), dtype=DOUBLE)
    normal = draw(seed + 6, T, G, 1, GATES[cell], J, B)
    draws = GateDraws(stack, sigma, normal)
    run = (lstm_forward if cell == "lstm" else gru_forward)(x, W, V, draws=draws)
    outputs = torch.einsum("kj,tgcjb->tgckb", U, run.h) + b.view(1, 1, 1, K, 1)
    goal = target.permute(0, 2, 1)[:, None, None]
    grad_h = torch.einsum("kj,tgckb->tgcjb", U, 2 * (outputs - goal))[first:]
    grad_W, grad_V = torch.empty_like(W), torch.empty_like(V)
    (lstm_backward if cell == "lstm" else gru_backward)(run, W, V, grad_h, first, grad_W, grad_V)
    worst = 0.0
    for g in range(G):
        for c in range(C):
            W_leaf, V_leaf = W[g, :, c].clone().requires_grad_(), V[g, c].clone().requires_grad_()
            p = reference(cell, W_leaf, V_leaf, U, b)
            increments, mode = None, "additive"
            if c < len(AXES):
                mode = AXES[c][1]
                increments = noisy_increments(
                    cell, x[:, g, :-1].permute(0, 2, 1), p, normal[:, g, 0], sigma[c], *AXES[c]
                )
            steps = cells.forward(x[:, g, :-1].permute(0, 2, 1), p, increments, mode)
            cells.error(steps, target, "identity", first + 1).backward()
            for t in range(T):
                worst = max(worst, (steps[t]["a_h"].T - run.h[t, g, c]).abs().max().item())
            scale = 1 + W_leaf.grad.abs().max().item()
            worst = max(worst, (W_leaf.grad - grad_W[g, :, c]).abs().max().item() / scale)
            if T > 1:
                worst = max(worst, (V_leaf.grad - grad_V[g, c]).abs().max().item() / scale)
    return worst


def noisy_increments(cell, x, p, normal, sigma, kind, mode):
    """Decide increments slice by slice with the plain cell and the one-network stack."""
    stack = GateStack((kind,), (mode,))
    names = ("o_gamma", "o_phi", "o_omega") if cell == "lstm" else ("o_z", "o_r")
    decided = []
    with torch.no_grad():
        for t in range(len(x)):
            logits = cells.forward(x[: t + 1], p, [*decided, None], mode)[t]
            logit = torch.stack([logits[name].T for name in names])[None, None]
            delta, _ = gate_increment(stack, logit, torch.sigmoid(logit), sigma.view(1), normal[t][None, None])
            decided.append(tuple(each.T for each in delta[0, 0]))
    return decided


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@given(
    st.integers(1, 4), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2),
    st.integers(0, 10**6), st.data(),
)  # fmt: skip
def test_kernel_and_plain_cells_agree(cell, T, G, I, J, B, K, seed, data):
    first = data.draw(st.integers(0, T - 1))
    assert stack_and_reference(cell, T, G, I, J, B, K, seed, first) < 1e-11


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_network_does_not_depend_on_its_neighbours(cell):
    """Nor on how many groups a stack has, up to the rounding of vector tails: work is dealt by repetition alone."""
    rows, J, I, B, T = BLOCKS[cell] * 5, 5, 4, 8, 3
    forward = lstm_forward if cell == "lstm" else gru_forward
    W = draw(1, 2, I + 1, 3, rows).float()
    V = draw(2, 2, 3, rows, J).float()
    x = draw(3, T, 2, I + 1, B).float()
    whole = forward(x, W, V).h
    for g in range(2):
        alone = forward(x[:, g : g + 1].contiguous(), W[g : g + 1].contiguous(), V[g : g + 1].contiguous()).h
        torch.testing.assert_close(alone[:, 0], whole[:, g], rtol=1e-5, atol=1e-6)
