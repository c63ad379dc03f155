"""Theorems 2-5, Corollaries 1-4: every gain is the log-likelihood ratio that the proofs ask for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal

from nem import theory
from tests.nem.theory.networks import draw

SEEDS = st.integers(0, 2**31)


def categorical(y, log_a):
    """log p(y) of the one-shot multinomial, as (A.5) continues it to noisy y: Π a_k^{y_k}."""
    return (y * log_a).sum(-1)


@given(SEEDS, st.integers(1, 12))
def test_classifier_gains_are_log_likelihood_ratios(seed, K):
    log_a, n = torch.log_softmax(draw(seed, 7, K), -1), draw(seed + 1, 7, K)
    y = torch.nn.functional.one_hot(torch.arange(7) % K, K).double()
    a = log_a.exp()
    torch.testing.assert_close(theory.classifier_additive_gain(n, a), categorical(y + n, log_a) - categorical(y, log_a))
    torch.testing.assert_close(
        theory.classifier_multiplicative_gain(n, y, a), categorical(y * n, log_a) - categorical(y, log_a)
    )


@given(SEEDS, st.integers(1, 12))
def test_regressor_gains_are_twice_log_likelihood_ratios(seed, K):
    y, a, n = draw(seed, 7, K), draw(seed + 1, 7, K), draw(seed + 2, 7, K)

    def log_p(value):
        return Normal(a, 1.0).log_prob(value).sum(-1)

    torch.testing.assert_close(theory.regressor_additive_gain(n, y, a), 2 * (log_p(y + n) - log_p(y)))
    torch.testing.assert_close(theory.regressor_multiplicative_gain(n, y, a), 2 * (log_p(y * n) - log_p(y)))


@given(SEEDS, st.integers(1, 12))
def test_gate_gains_are_bernoulli_log_likelihood_ratios(seed, J):
    logit, n = draw(seed, 7, J), draw(seed + 1, 7, J)
    z = (draw(seed + 2, 7, J) > 0).double()
    gate = Bernoulli(logits=logit, validate_args=False)

    def log_p(value):
        return gate.log_prob(value).sum(-1)

    g = torch.sigmoid(logit)
    torch.testing.assert_close(theory.gate_additive_gain(n, g), log_p(z + n) - log_p(z))
    torch.testing.assert_close(theory.gate_multiplicative_gain(n, z, g), log_p(z * n) - log_p(z))


@given(SEEDS, st.integers(1, 6))
def test_no_noise_gains_exactly_nothing(seed, K):
    y, a = draw(seed, 4, K), torch.softmax(draw(seed + 1, 4, K), -1)
    zero, one = torch.zeros_like(y), torch.ones_like(y)
    for gain in (
        theory.classifier_additive_gain(zero, a),
        theory.classifier_multiplicative_gain(one, y, a),
        theory.regressor_additive_gain(zero, y, a),
        theory.regressor_multiplicative_gain(one, y, a),
        theory.gate_additive_gain(zero, a),
        theory.gate_multiplicative_gain(one, y, a),
    ):
        assert (gain == 0).all()


def test_saturated_gates_gain_infinitely_and_zero_noise_does_not():
    n = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    gate = torch.tensor([1.0, 0.0])
    assert theory.gate_additive_gain(n, gate).tolist() == [math.inf, -math.inf, 0.0]
    assert theory.classifier_additive_gain(n, torch.tensor([0.0, 1.0])).tolist() == [-math.inf, math.inf, 0.0]


def test_the_papers_multiplicative_regressor_condition_fails_without_noise():
    """(49) as printed: (2y + 2n - a)ᵀn <= 0 at n = 1 must hold with equality, and does not (docs/errata.md)."""
    y, a, n = torch.tensor([2.0, 3.0, 2.0]), torch.tensor([1.0, 2.0, 1.0]), torch.ones(3)
    assert ((2 * y + 2 * n - a) * n).sum().item() == 16.0
    assert theory.regressor_multiplicative_gain(n, y, a).item() == 0.0


@given(SEEDS, st.integers(1, 5), st.floats(1e-3, 1e3))
def test_expected_noise_has_the_sign_and_limits_of_its_formula(seed, K, sigma):
    r = draw(seed, 3, K)
    ball = theory.expected_ball_noise(r, sigma)
    assert ((ball * r) <= 0).all(), "targets move toward predictions"
    assert (ball.norm(dim=-1) <= sigma / math.sqrt(2 * math.pi) * 1.0001).all()
    assert (theory.expected_ball_noise(torch.zeros(3, K), sigma) == 0).all()
    assert (theory.expected_halfspace_noise(torch.zeros(3, K), sigma) == 0).all()
    assert (theory.expected_ball_noise(r, 0.0) == 0).all()
    assert (theory.halfspace_acceptance(r) == 0.5).all()
    assert (theory.halfspace_acceptance(0 * r) == 1).all()
    assert (theory.ball_acceptance(r, 0.0) == 1).all()
    assert (theory.ball_acceptance(0 * r, sigma) == 0).all()
    half = theory.expected_halfspace_noise(r, sigma)
    torch.testing.assert_close(half.norm(dim=-1), torch.full((3,), sigma / math.sqrt(2 * math.pi), dtype=r.dtype))
    far = theory.expected_ball_noise(r * 1e5 * sigma, sigma)
    torch.testing.assert_close(far, -half, rtol=1e-3, atol=1e-6 * sigma)


def test_negative_sigma_is_an_error():
    with pytest.raises(ValueError, match="expected sigma"):
        theory.expected_ball_noise(torch.ones(2), -1.0)
