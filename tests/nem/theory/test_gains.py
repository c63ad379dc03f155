"""Theorems 2-5, Corollaries 1-4: every gain is the log-likelihood ratio that the proofs ask for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal

from nem import theory
from tests.nem.theory.networks import draw, targets


def classifier(y, score, n):
    """Likelihood: the one-shot multinomial Π a_k^{y_k}, as (A.5) continues it to noisy y."""
    a = torch.softmax(score, -1)
    gains = theory.classifier_additive_gain(n, a), theory.classifier_multiplicative_gain(n, y, a)
    return gains, lambda value: (value * a.log()).sum(-1)


def regressor(y, a, n):
    """Twice the log-likelihood, so that nothing but squares is left."""
    gains = theory.regressor_additive_gain(n, y, a), theory.regressor_multiplicative_gain(n, y, a)
    return gains, lambda value: 2 * Normal(a, 1.0).log_prob(value).sum(-1)


def logistic(y, logit, n):
    """Likelihood: independent Bernoulli labels, Π a^y (1 - a)^(1 - y), continued to noisy y."""
    a = torch.sigmoid(logit)
    gains = theory.logistic_additive_gain(n, a), theory.logistic_multiplicative_gain(n, y, a)
    return gains, lambda value: Bernoulli(logits=logit, validate_args=False).log_prob(value).sum(-1)


def gate(z, logit, n):
    g = torch.sigmoid(logit)
    gains = theory.gate_additive_gain(n, g), theory.gate_multiplicative_gain(n, z, g)
    return gains, lambda value: Bernoulli(logits=logit, validate_args=False).log_prob(value).sum(-1)


@pytest.mark.parametrize("layer", [classifier, regressor, logistic, gate])
@given(seed=st.integers(0, 2**31), K=st.integers(1, 12))
def test_gains_are_log_likelihood_ratios(layer, seed, K):
    """And no noise, 0 or 1, gains exactly nothing."""
    head = {regressor: "identity", logistic: "logistic"}.get(layer, "softmax")
    y, signal, n = targets(seed, head, 7, K), draw(seed + 1, 7, K), draw(seed + 2, 7, K)
    (additive, multiplicative), log_p = layer(y, signal, n)
    torch.testing.assert_close(additive, log_p(y + n) - log_p(y))
    torch.testing.assert_close(multiplicative, log_p(y * n) - log_p(y))
    assert (layer(y, signal, torch.zeros_like(n))[0][0] == 0).all()
    assert (layer(y, signal, torch.ones_like(n))[0][1] == 0).all()


def test_saturated_gates_gain_infinitely_and_zero_noise_does_not():
    n = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert theory.gate_additive_gain(n, torch.tensor([1.0, 0.0])).tolist() == [math.inf, -math.inf, 0.0]
    assert theory.classifier_additive_gain(n, torch.tensor([0.0, 1.0])).tolist() == [-math.inf, math.inf, 0.0]
