"""What NEM noise does on average, as losses and shifts: the statements of docs/theory.md, "Expected NEM noise"."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import theory
from nem.theory import regions
from tests.nem.theory.networks import draw, targets

SEEDS = st.integers(0, 10**6)
C = 1 / math.sqrt(2 * math.pi)
"""Mean of the positive half of a standard normal variable, the other half counted as 0."""
DRAWS, SIGMA = 200_000, 0.8


def laws(K):
    """Layer and mode → no noise, the gain of noise, its claimed mean, and the share of draws that passes."""
    score, y, r = draw(K, K), targets(1, "softmax", K), draw(K + 7, K)
    a, g = torch.softmax(score, -1), torch.sigmoid(score)

    def half(normal):
        return theory.expected_halfspace_noise(normal, SIGMA), 0.5

    ball = theory.expected_ball_noise(r, SIGMA), regions.regressor_additive_region(r, 0 * r).acceptance(0 * r, SIGMA)
    return {
        "classifier, additive": (0, lambda n: theory.classifier_additive_gain(n, a), *half(a.log())),
        "classifier, multiplicative": (1, lambda n: theory.classifier_multiplicative_gain(n, y, a), *half(y * a.log())),
        "regressor, additive": (0, lambda n: theory.regressor_additive_gain(n, r, torch.zeros(K)), *ball),
        "gate, additive": (0, lambda n: theory.gate_additive_gain(n, g), *half(score)),
        "gate, multiplicative": (1, lambda n: theory.gate_multiplicative_gain(n, g, g), *half(g * score)),
    }


@pytest.mark.parametrize("K", [1, 3, 11])
@pytest.mark.parametrize("layer", laws(2))
def test_expected_noise_is_the_mean_of_kept_draws(layer, K):
    """Monte Carlo, within 6 standard errors; and half-spaces keep half of the variance."""
    K += K == 1 and layer.startswith("classifier")  # one class is no choice
    none, gain, mean, share = laws(K)[layer]
    n = SIGMA * draw(K, DRAWS, K)
    kept = gain(none + n) >= 0
    n = torch.where(kept[:, None], n, 0.0)
    error = 6 * n.std(0) / math.sqrt(DRAWS)
    assert ((n.mean(0) - mean).abs() < error).all()
    assert (mean.abs() > error).any(), "no noise would pass as well"
    assert abs(kept.double().mean() - share) < 6 * 0.5 / math.sqrt(DRAWS)
    if share == 0.5:
        assert abs(n.square().mean() / (SIGMA**2 / 2) - 1) < 0.05


@given(SEEDS, st.integers(1, 5), st.floats(1e-3, 1e3))
def test_expected_noise_has_the_sign_and_limits_of_its_formula(seed, K, sigma):
    r, zero = draw(seed, 3, K), torch.zeros(3, K).double()
    ball, half = theory.expected_ball_noise(r, sigma), theory.expected_halfspace_noise(r, sigma)
    assert ((ball * r) <= 0).all(), "targets move toward predictions"
    assert (ball.norm(dim=-1) <= sigma * C * 1.0001).all()
    torch.testing.assert_close(half.norm(dim=-1), torch.full((3,), sigma * C, dtype=r.dtype))  # whatever K is
    far = theory.expected_ball_noise(r * 1e5 * sigma, sigma)
    torch.testing.assert_close(far, -half, rtol=1e-3, atol=1e-6 * sigma)
    for nothing in (theory.expected_ball_noise(zero, sigma), theory.expected_halfspace_noise(zero, sigma),
                    theory.expected_ball_noise(r, 0.0)):  # fmt: skip
        assert (nothing == 0).all()
    for function in (theory.expected_ball_noise, theory.expected_halfspace_noise):
        with pytest.raises(ValueError, match="expected sigma"):
            function(r, -sigma)


def gradient(loss, at):
    return torch.autograd.grad(loss, at)[0]


def cross_entropy(scores, y):
    return -(y * torch.log_softmax(scores, -1)).sum()


def sharpened(scores, y, sigma):
    """CE - (σ/√2π) ‖log a‖₂, the claim."""
    return cross_entropy(scores, y) - sigma * C * torch.log_softmax(scores, -1).norm()


@given(seed=SEEDS, K=st.integers(2, 12), sigma=st.floats(0, 3))
def test_additive_classifier_noise_sharpens(seed, K, sigma):
    """The expected increment, held constant, has the gradient of CE - (σ/√2π)‖log a‖₂."""
    scores, y = draw(seed, K).requires_grad_(), targets(seed, "softmax", K)
    mean = theory.expected_halfspace_noise(torch.log_softmax(scores.detach(), -1), sigma)
    actual = gradient(cross_entropy(scores, y + mean), scores)
    torch.testing.assert_close(actual, gradient(sharpened(scores, y, sigma), scores), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_the_sharpened_loss_has_no_minimum(sigma):
    """It falls without bound along the true class, however right the network is already."""
    y = torch.tensor([1.0, 0.0, 0.0]).double()
    losses = [sharpened(margin * y, y, sigma).item() for margin in (0.0, 10.0, 100.0, 1000.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < -300 * sigma
    scores = (50 * y).requires_grad_()
    assert gradient(cross_entropy(scores, y), scores).norm() < 1e-15
    assert gradient(sharpened(scores, y, sigma), scores)[0] < -0.5 * sigma


@pytest.mark.parametrize("K", [2, 11])
def test_sharpening_also_drives_what_the_network_gets_wrong(K):
    """For a confident error it points away from the truth; it loses to the cross entropy while σ < √(2π(K - 1))."""
    y, wrong = torch.eye(K).double()[:2]
    scores = (40 * wrong).requires_grad_()
    sharpening = gradient(sharpened(scores, y, 1.0) - cross_entropy(scores, y), scores)
    assert sharpening[0] > 0 > sharpening[1]
    limit = math.sqrt(2 * math.pi * (K - 1))
    below, above = (gradient(sharpened(scores, y, f * limit), scores)[0] for f in (0.99, 1.01))
    assert below < 0 < above


@given(seed=SEEDS, K=st.integers(2, 12), sigma=st.floats(0, 2))
def test_multiplicative_classifier_noise_is_a_smaller_learning_rate(seed, K, sigma):
    """The mean gradient is (1 - σ/√2π) times the noiseless one."""
    scores, y = draw(seed, K).requires_grad_(), targets(seed, "softmax", K)
    factor = 1 + theory.expected_halfspace_noise(y * torch.log_softmax(scores.detach(), -1), sigma)
    actual = gradient(cross_entropy(scores, y * factor), scores)
    torch.testing.assert_close(actual, (1 - sigma * C) * gradient(cross_entropy(scores, y), scores))


@given(seed=SEEDS, sigma=st.floats(0.05, 3))
def test_one_output_has_a_loss_in_closed_form(seed, sigma):
    """r² - (2σ/√2π)|r| + (σ²/2) erf(√2 |r|/σ)."""
    r = draw(seed, 1).requires_grad_()
    actual = gradient(((r + theory.expected_ball_noise(r.detach(), sigma)) ** 2).sum(), r)
    claim = r**2 - 2 * sigma * C * r.abs() + sigma**2 / 2 * torch.erf(math.sqrt(2) * r.abs() / sigma)
    torch.testing.assert_close(actual, gradient(claim.sum(), r), rtol=1e-9, atol=1e-12)


def test_the_gradient_never_turns_round_and_shrinks_by_36_per_cent_at_most():
    """One output, over all |r|/σ; the noise vanishes at both ends, as |r| and as 1/|r|. More outputs shrink less."""
    largest = []
    for K in (1, 2, 3, 11):
        r = torch.logspace(-4, 4, 4001 if K == 1 else 401, dtype=torch.float64)[:, None] * torch.ones(K) / math.sqrt(K)
        share = -theory.expected_ball_noise(r, 1.0) / r
        torch.testing.assert_close(share, share[:, :1].expand_as(share))  # the residual keeps its direction
        largest.append(share.max().item())
        assert max(share[0, 0].item(), share[-1, 0].item()) < 1e-3
        if K == 1:
            assert 0.359 < share.max() < 0.361
            assert 0.7 < r[share.argmax()].item() < 0.9
    assert largest == sorted(largest, reverse=True)


@given(seed=SEEDS, sigma=st.floats(0.05, 2))
def test_multiplicative_noise_of_one_output_is_additive_noise_of_width_sigma_y(seed, sigma):
    y, a, normal = draw(seed, 1), draw(seed + 1, 1), draw(seed, 100, 1)
    multiplicative = theory.regressor_multiplicative_gain(1 + sigma * normal, y, a)
    torch.testing.assert_close(multiplicative, theory.regressor_additive_gain(sigma * y * normal, y, a))


@given(seed=SEEDS, J=st.integers(1, 50))
def test_gates_move_toward_saturation(seed, J):
    """Away from 1/2, additive noise by (σ/√2π) logit g/‖logit g‖, multiplicative by g∘(σ/√2π) w/‖w‖, w = g∘logit g."""
    logit = draw(seed, J)
    g = torch.sigmoid(logit)
    for shift in (theory.expected_halfspace_noise(logit, 0.3), g * theory.expected_halfspace_noise(g * logit, 0.3)):
        assert (shift * (g - 0.5) > 0).all()
