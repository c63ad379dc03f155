"""Theorem 1 by exact enumeration: log p = Q + H, the gradient identity, and EM's ascent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Normal

from nem.theory import gem, recursions
from tests.nem.theory.networks import autograd, draw, leaves, parameters

HEADS = ("softmax", "identity")
SEEDS = st.integers(0, 10**6)


def targets(seed, head, *shape):
    if head == "identity":
        return draw(seed, *shape)
    return torch.nn.functional.one_hot(draw(seed, *shape).argmax(-1), shape[-1]).double()


def network(seed, head, I=2, J=3, K=3, B=5, scale=1.0):
    shapes = ((J, I), (J,), (K, J), (K,))
    net = gem.SigmoidNetwork(*(scale * draw(seed + k, *shape) for k, shape in enumerate(shapes)), head)
    return net, draw(seed + 9, B, I), targets(seed + 10, head, B, K)


def tensors(net):
    return net.W, net.b, net.U, net.c


def free(net):
    return gem.SigmoidNetwork(*(t.clone().requires_grad_() for t in tensors(net)), net.head)


@pytest.mark.parametrize("J", [1, 2, 5])
def test_states_are_all_states(J):
    actual = gem.states(J)
    assert actual.shape == (2**J, J)
    assert len({tuple(row) for row in actual.tolist()}) == 2**J
    assert set(actual.unique().tolist()) == {0.0, 1.0}


def test_latents_that_cannot_be_enumerated_are_errors():
    for J in (0, 21):
        with pytest.raises(ValueError, match="latents to enumerate"):
            gem.states(J)


@given(SEEDS)
def test_densities_are_those_of_torch_distributions(seed):
    logit, z, score, y = draw(seed, 4, 3), gem.states(3)[:4], draw(seed + 1, 4, 3), draw(seed + 2, 4, 3)
    torch.testing.assert_close(gem.log_prior(z, logit), Bernoulli(logits=logit).log_prob(z).sum(-1))
    hot = targets(seed + 3, "softmax", 4, 3)
    torch.testing.assert_close(
        gem.log_likelihood(hot, score, "softmax"), Categorical(logits=score).log_prob(hot.argmax(-1))
    )
    torch.testing.assert_close(gem.log_likelihood(y, score, "identity"), Normal(score, 1.0).log_prob(y).sum(-1))


@pytest.mark.parametrize("head", HEADS)
@given(seed=SEEDS, J=st.integers(1, 6))
def test_log_likelihood_is_surrogate_plus_entropy(head, seed, J):
    """(13)-(15), at Θⁿ and at any other Θ; and H is least at Θⁿ (Jensen)."""
    here, x, y = network(seed, head, J=J)
    there, *_ = network(seed + 50, head, J=J)
    joint, joint_n = there.table(x, y), here.table(x, y)
    for table in (joint, joint_n):
        total = gem.surrogate(table, joint_n) + gem.entropy(table, joint_n)
        torch.testing.assert_close(total, gem.log_evidence(table), rtol=1e-12, atol=1e-12)
    assert (gem.entropy(joint_n, joint_n) <= gem.entropy(joint, joint_n) + 1e-12).all()
    assert (gem.entropy(joint_n, joint_n) >= -1e-12).all()


@pytest.mark.parametrize("head", HEADS)
@given(seed=SEEDS, J=st.integers(1, 6))
def test_gradient_of_log_likelihood_is_gradient_of_surrogate(head, seed, J):
    """(18)-(19), parameter by parameter; the gradient of H vanishes at Θⁿ and nowhere else."""
    net, x, y = network(seed, head, J=J)
    theta = free(net)
    joint = theta.table(x, y)
    frozen = joint.detach()
    pairs = zip(
        torch.autograd.grad(gem.log_evidence(joint).sum(), tensors(theta), retain_graph=True),
        torch.autograd.grad(gem.surrogate(joint, frozen).sum(), tensors(theta), retain_graph=True),
        torch.autograd.grad(gem.entropy(joint, frozen).sum(), tensors(theta), retain_graph=True),
        strict=True,
    )
    for of_log_p, of_q, of_h in pairs:
        torch.testing.assert_close(of_q, of_log_p, rtol=0, atol=1e-10)
        assert of_h.abs().max() < 1e-10
    elsewhere = network(seed + 50, head, J=J)[0].table(x, y)
    moved = torch.autograd.grad(gem.entropy(joint, elsewhere).sum(), tensors(theta))
    assert max(g.abs().max() for g in moved) > 1e-6


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", [1, 2])
def test_full_m_steps_ascend(head, seed):
    """(16): log p rises by at least what Q rises; (17): it never falls. Ten EM iterations."""
    net, x, y = network(seed, head, J=3, B=24, scale=0.5)
    first = last = gem.log_evidence(net.table(x, y)).sum()
    for _ in range(10):
        new = gem.maximise(net, x, y)
        joint, joint_n = new.table(x, y), net.table(x, y)
        gain_q = (gem.surrogate(joint, joint_n) - gem.surrogate(joint_n, joint_n)).sum()
        gain_p = (gem.log_evidence(joint) - gem.log_evidence(joint_n)).sum()
        assert gain_q >= 0
        assert gain_p >= gain_q - 1e-9
        net, last = new, gem.log_evidence(joint).sum()
    assert last > first + 0.1, "EM went nowhere"


@pytest.mark.parametrize("head", HEADS)
def test_the_m_step_is_a_maximum(head):
    net, x, y = network(4, head, J=2, B=24, scale=0.5)
    frozen = net.table(x, y)
    top = gem.maximise(net, x, y)
    theta = free(top)
    best = gem.surrogate(theta.table(x, y), frozen).sum()
    assert max(g.abs().max() for g in torch.autograd.grad(best, tensors(theta))) < 1e-4
    for seed in range(20):
        other = gem.SigmoidNetwork(
            *(t + 0.1 * draw(900 + 7 * seed + k, *t.shape) for k, t in enumerate(tensors(top))), head
        )
        assert gem.surrogate(other.table(x, y), frozen).sum() < best


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("t", [1, 3])
def test_the_identities_hold_for_the_gates_of_recurrent_cells(cell, head, t):
    """(55): ∇ log p(y(t)) = ∇Q(t), through time, for every parameter; and log p = Q + H (72)."""
    p = leaves(parameters(cell, 5, J=2))
    x, y = draw(1, 3, 2, 2), targets(2, head, 3, 2, 2)
    joint = gem.gate_table(p, x, y, head, t)
    assert joint.shape == (2 ** (6 if cell == "lstm" else 4), 2)
    frozen = joint.detach()
    torch.testing.assert_close(
        gem.surrogate(joint, frozen) + gem.entropy(joint, frozen), gem.log_evidence(joint), rtol=1e-12, atol=1e-12
    )
    joint = gem.gate_table(p, x, y, head, t)
    of_log_p = autograd(gem.log_evidence(joint).sum(), p)
    joint = gem.gate_table(p, x, y, head, t)
    of_q = autograd(gem.surrogate(joint, frozen).sum(), p)
    for name, value in of_log_p.items():
        torch.testing.assert_close(of_q[name], value, rtol=0, atol=1e-10)
    assert max(g.abs().max() for g in of_q.values()) > 1e-2


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_that_equal_their_mean_give_the_deterministic_network(cell):
    p, x = parameters(cell, 6), draw(3, 2, 4, 2)
    steps = recursions.forward(x, p)
    mean = torch.sigmoid(gem.gate_logits(steps[1]))
    torch.testing.assert_close(gem.gated_score(p, steps[0], x[1], mean), steps[1]["o_y"])


def test_theorem_1_speaks_of_the_latent_model_not_of_its_mean_field():
    """∇ log Σ_z p(y, z) is not backpropagation's gradient, which puts E z for z; saturation joins them."""
    gaps = []
    for scale in (1.0, 40.0):
        net, x, y = network(2, "softmax", B=4)
        theta = free(gem.SigmoidNetwork(scale * net.W, scale * net.b, net.U, net.c, "softmax"))
        (exact,) = torch.autograd.grad(gem.log_evidence(theta.table(x, y)).sum(), theta.U)
        mean = torch.sigmoid(x @ theta.W.T + theta.b)
        (mean_field,) = torch.autograd.grad(gem.log_likelihood(y, mean @ theta.U.T + theta.c, "softmax").sum(), theta.U)
        gaps.append(((exact - mean_field).norm() / exact.norm()).item())
    assert gaps[0] > 0.05
    assert gaps[1] < gaps[0] / 3


def test_the_posterior_of_the_gates_is_not_their_prior():
    """(A.27) writes p(z | y, x) as Π g^z (1 - g)^(1 - z), which is the prior (60); y is evidence about z."""
    net, x, y = network(3, "softmax")
    posterior = gem.log_posterior(net.table(x, y))
    prior = gem.log_prior(gem.states(3)[:, None], x @ net.W.T + net.b)
    torch.testing.assert_close(prior.exp().sum(0), torch.ones(5).double())
    torch.testing.assert_close(posterior.exp().sum(0), torch.ones(5).double())
    assert (posterior - prior).abs().max() > 0.1
