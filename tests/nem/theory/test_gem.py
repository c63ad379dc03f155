"""Theorem 1 by exact enumeration: log p = Q + H, the gradient identity, and EM's ascent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Normal

from nem.theory import gem, recursions
from tests.nem.theory.networks import CELLS, HEADS, autograd, draw, leaves, moved, network, parameters, targets


def model(name, head, seed):
    """A layer of neurons or the gates of a slice: parameters, and the table as a function of them."""
    if name == "layer":
        net, x, y = network(seed, head, J=1 + seed % 6)
        return net, lambda p: p.table(x, y)
    x, y = draw(seed + 1, 3, 2, 2), targets(seed + 2, head, 3, 2, 2)
    return parameters(name, seed, J=2), lambda p: gem.gate_table(p, x, y, head, 1 + seed % 3)


def test_states_are_all_states():
    for J in (1, 2, 5):
        assert sorted(gem.states(J).tolist()) == sorted([float(n >> k & 1) for k in range(J)] for n in range(2**J))
    for J in (0, 21):
        with pytest.raises(ValueError, match="latents to enumerate"):
            gem.states(J)


@given(st.integers(0, 10**6))
def test_densities_are_those_of_torch_distributions(seed):
    logit, z, score, y = draw(seed, 4, 3), gem.states(3)[:4], draw(seed + 1, 4, 3), draw(seed + 2, 4, 3)
    hot = targets(seed + 3, "softmax", 4, 3)
    torch.testing.assert_close(gem.log_prior(z, logit), Bernoulli(logits=logit).log_prob(z).sum(-1))
    right = Categorical(logits=score).log_prob(hot.argmax(-1))
    torch.testing.assert_close(gem.log_likelihood(hot, score, "softmax"), right)
    torch.testing.assert_close(gem.log_likelihood(y, score, "identity"), Normal(score, 1.0).log_prob(y).sum(-1))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["layer", *CELLS])
@given(seed=st.integers(0, 10**6))
def test_log_likelihood_is_surrogate_plus_entropy_and_so_are_their_gradients(name, head, seed):
    """(13)-(15), (72) at Θⁿ and elsewhere, with H least at Θⁿ; there ∇ log p = ∇Q for every parameter (18), (55)."""
    here, table = model(name, head, seed)
    theta = leaves(here)
    joint_n = table(theta)
    frozen, joint = joint_n.detach(), table(moved(here, seed + 50, 1.0))
    for at in (joint_n, joint):
        total = gem.surrogate(at, frozen) + gem.entropy(at, frozen)
        torch.testing.assert_close(total, gem.log_evidence(at), rtol=1e-12, atol=1e-12)
    least = gem.entropy(joint_n, frozen)
    assert (least >= -1e-12).all()
    assert (least <= gem.entropy(joint, frozen) + 1e-12).all()
    of_log_p = autograd(gem.log_evidence(joint_n).sum(), theta)
    for parameter, of_q in autograd(gem.surrogate(joint_n, frozen).sum(), theta).items():
        torch.testing.assert_close(of_q, of_log_p[parameter], rtol=0, atol=1e-10, msg=parameter)
    assert max(g.abs().max() for g in autograd(gem.entropy(joint_n, joint).sum(), theta).values()) > 1e-6, "elsewhere"


@pytest.mark.parametrize("head", HEADS)
def test_full_m_steps_ascend(head):
    """(16): log p rises by at least what Q rises; (17): it never falls. Each of ten iterations finds a maximum of Q."""
    net, x, y = network(1, head, B=24, scale=0.5)
    first = gem.log_evidence(net.table(x, y)).sum()
    for k in range(10):
        joint_n = net.table(x, y)
        new = leaves(gem.maximise(net, x, y))
        joint = new.table(x, y)
        q = gem.surrogate(joint, joint_n).sum()
        gain_q = q - gem.surrogate(joint_n, joint_n).sum()
        gain_p = (gem.log_evidence(joint) - gem.log_evidence(joint_n)).sum()
        assert gain_p + 1e-9 >= gain_q >= 0
        assert max(g.abs().max() for g in autograd(q, new).values()) < 1e-4
        assert gem.surrogate(moved(new, 900 + 7 * k, 0.1).table(x, y), joint_n).sum() < q
        net = new
    assert gem.log_evidence(net.table(x, y)).sum() > first + 0.1, "EM went nowhere"


@pytest.mark.parametrize("cell", CELLS)
def test_gates_that_equal_their_mean_give_the_deterministic_network(cell):
    p, x = parameters(cell, 6), draw(3, 2, 4, 2)
    first, second = recursions.forward(x, p)
    score = gem.gated_score(p, first, x[1], torch.sigmoid(gem.gate_logits(second)))
    torch.testing.assert_close(score, second["o_y"])


def test_theorem_1_speaks_of_the_latent_model_not_of_its_mean_field():
    """∇ log Σ_z p(y, z) is not backpropagation's gradient, which puts E z for z; saturation joins them."""
    gaps = []
    for scale in (1.0, 40.0):
        net, x, y = network(2, "softmax", B=4)
        theta = leaves(gem.SigmoidNetwork(scale * net.W, scale * net.b, net.U, net.c, "softmax"))
        exact = autograd(gem.log_evidence(theta.table(x, y)).sum(), theta)["U"]
        mean = torch.sigmoid(x @ theta.W.T + theta.b)
        mean_field = autograd(gem.log_likelihood(y, mean @ theta.U.T + theta.c, "softmax").sum(), theta)["U"]
        gaps.append(((exact - mean_field).norm() / exact.norm()).item())
    assert gaps[0] > 0.05
    assert gaps[1] < gaps[0] / 3


def test_the_posterior_of_the_gates_is_not_their_prior():
    """(A.27) writes p(z | y, x) as Π g^z (1 - g)^(1 - z), which is the prior (60); y is evidence about z."""
    net, x, y = network(3, "softmax")
    posterior = gem.log_posterior(net.table(x, y))
    prior = gem.log_prior(gem.states(3)[:, None], x @ net.W.T + net.b)
    for law in (prior, posterior):
        torch.testing.assert_close(law.exp().sum(0), torch.ones(5).double())
    assert (posterior - prior).abs().max() > 0.1
