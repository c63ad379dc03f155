"""What NEM noise does on average, as losses and shifts: the statements of docs/theory.md, "Expected NEM noise"."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import theory
from tests.nem.theory.networks import draw

SEEDS = st.integers(0, 10**6)
C = 1 / math.sqrt(2 * math.pi)
"""Mean of the positive half of a standard normal variable, the other half counted as 0."""
DRAWS = 200_000


def gradient(loss, at):
    return torch.autograd.grad(loss, at)[0]


def one_hot(seed, K):
    return torch.eye(K, dtype=torch.float64)[seed % K]


def cross_entropy(scores, y):
    return -(y * torch.log_softmax(scores, -1)).sum()


def sharpened(scores, y, sigma):
    """CE - (σ/√2π) ‖log a‖₂, the claim."""
    return cross_entropy(scores, y) - sigma * C * torch.log_softmax(scores, -1).norm()


def smaller_residual(r, sigma):
    """r² - (2σ/√2π)|r| + (σ²/2) erf(√2 |r|/σ), the claim for one output."""
    return r**2 - 2 * sigma * C * r.abs() + sigma**2 / 2 * torch.erf(math.sqrt(2) * r.abs() / sigma)


@given(seed=SEEDS, K=st.integers(2, 12), sigma=st.floats(0, 3))
def test_additive_classifier_noise_sharpens(seed, K, sigma):
    """The expected increment, held constant, has the gradient of CE - (σ/√2π)‖log a‖₂."""
    scores, y = draw(seed, K).requires_grad_(), one_hot(seed, K)
    log_a = torch.log_softmax(scores, -1)
    mean = theory.expected_halfspace_noise(log_a.detach(), sigma)
    actual = gradient(cross_entropy(scores, y + mean), scores)
    torch.testing.assert_close(actual, gradient(sharpened(scores, y, sigma), scores), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("K", [2, 3, 11])
def test_mean_gradient_of_additive_classifier_noise(K):
    """Monte Carlo, within 6 standard errors: a Σ(y + n) - (y + n), averaged over kept and rejected draws."""
    scores, y, sigma = draw(K, K).requires_grad_(), one_hot(1, K), 0.8
    claim = gradient(sharpened(scores, y, sigma), scores)
    a = torch.softmax(scores.detach(), -1)
    n = sigma * draw(K, DRAWS, K)
    n = torch.where(theory.classifier_additive_gain(n, a)[:, None] >= 0, n, 0.0)
    gradients = a * (1 + n.sum(-1, keepdim=True)) - (y + n)
    error = 6 * gradients.std(0) / math.sqrt(DRAWS)
    assert ((gradients.mean(0) - claim).abs() < error).all()
    assert ((a - y - claim).abs() > error).any(), "the noiseless gradient would pass as well"


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_the_sharpened_loss_has_no_minimum(sigma):
    """It falls without bound along the true class, however right the network is already."""
    y = torch.tensor([1.0, 0.0, 0.0]).double()
    margins = torch.tensor([0.0, 10.0, 100.0, 1000.0]).double()
    losses = [sharpened(m * y, y, sigma).item() for m in margins]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < -300 * sigma
    scores = (50 * y).requires_grad_()
    assert gradient(cross_entropy(scores, y), scores).norm() < 1e-15
    assert gradient(sharpened(scores, y, sigma), scores)[0] < -0.5 * sigma


@pytest.mark.parametrize("K", [2, 3, 11])
def test_sharpening_also_drives_what_the_network_gets_wrong(K):
    """For a confident error it points away from the truth; it loses to the cross entropy while σ < √(2π(K - 1))."""
    y, wrong = torch.eye(K).double()[0], torch.eye(K).double()[1]
    scores = (40 * wrong).requires_grad_()
    sharpening = gradient(sharpened(scores, y, 1.0) - cross_entropy(scores, y), scores)
    assert sharpening[0] > 0 > sharpening[1]
    limit = math.sqrt(2 * math.pi * (K - 1))
    below, above = (gradient(sharpened(scores, y, f * limit), scores)[0] for f in (0.99, 1.01))
    assert below < 0 < above


@pytest.mark.parametrize("K", [2, 11])
def test_multiplicative_classifier_noise_is_a_smaller_learning_rate(K):
    """The mean gradient is (1 - σ/√2π) times the noiseless one."""
    scores, y, sigma = draw(K + 20, K), one_hot(3, K), 0.9
    a = torch.softmax(scores, -1)
    n = 1 + sigma * draw(K, DRAWS, K)
    n = torch.where(theory.classifier_multiplicative_gain(n, y, a)[:, None] >= 0, n, 1.0)
    target = y * n
    gradients = a * target.sum(-1, keepdim=True) - target
    error = 6 * gradients.std(0) / math.sqrt(DRAWS)
    assert ((gradients.mean(0) - (1 - sigma * C) * (a - y)).abs() < error).all()
    mean = 1 + theory.expected_halfspace_noise(y * a.log(), sigma)
    torch.testing.assert_close(y * mean, (1 - sigma * C) * y)


@given(seed=SEEDS, sigma=st.floats(0.05, 3))
def test_one_output_has_a_loss_in_closed_form(seed, sigma):
    r = draw(seed, 1).requires_grad_()
    mean = theory.expected_ball_noise(r.detach(), sigma)
    actual = gradient(((r + mean) ** 2).sum(), r)
    torch.testing.assert_close(actual, gradient(smaller_residual(r, sigma).sum(), r), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("K", [1, 3, 11])
def test_mean_gradient_of_additive_regressor_noise(K):
    """-2 (r + mean), a shorter residual in the same direction, within 6 standard errors of Monte Carlo."""
    r, sigma = draw(K + 7, K), 0.8
    n = sigma * draw(K, DRAWS, K)
    n = torch.where(theory.regressor_additive_gain(n, r, torch.zeros(K))[:, None] >= 0, n, 0.0)
    error = 6 * n.std(0) / math.sqrt(DRAWS)
    shorter = r + theory.expected_ball_noise(r, sigma)
    assert ((r + n.mean(0) - shorter).abs() < error).all()
    assert 0 < shorter.norm() < r.norm()
    torch.testing.assert_close(shorter / shorter.norm(), r / r.norm())


def test_the_gradient_never_turns_round_and_shrinks_by_36_per_cent_at_most():
    """One output, over all |r|/σ; the noise vanishes at both ends, as |r| and as 1/|r|. More outputs shrink less."""
    r = torch.logspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    share = -theory.expected_ball_noise(r, 1.0) / r
    assert 0.359 < share.max() < 0.361
    assert 0.7 < r[share.argmax()].item() < 0.9
    assert max(share[0].item(), share[-1].item()) < 1e-3
    largest = [share.max().item()]
    for K in (2, 3, 11):
        s = torch.logspace(-2, 2, 401, dtype=torch.float64)[:, None] * torch.ones(K).double() / math.sqrt(K)
        largest.append((-theory.expected_ball_noise(s, 1.0)[:, 0] / s[:, 0]).max().item())
    assert largest == sorted(largest, reverse=True)


@given(seed=SEEDS, sigma=st.floats(0.05, 2))
def test_multiplicative_noise_of_one_output_is_additive_noise_of_width_sigma_y(seed, sigma):
    y, a = draw(seed, 1), draw(seed + 1, 1)
    normal = draw(seed, 100, 1)
    multiplicative = theory.regressor_multiplicative_gain(1 + sigma * normal, y, a)
    additive = theory.regressor_additive_gain(sigma * y * normal, y, a)
    torch.testing.assert_close(multiplicative, additive)


@pytest.mark.parametrize("J", [1, 4, 50])
def test_gates_move_toward_saturation(J):
    """Additive: mean shift (σ/√2π) logit g/‖logit g‖; kept draws halve the variance, σ²J/2."""
    logit, sigma = draw(J, J), 0.3
    g = torch.sigmoid(logit)
    n = sigma * draw(J, DRAWS, J)
    n = torch.where(theory.gate_additive_gain(n, g)[:, None] >= 0, n, 0.0)
    claim = sigma * C * logit / logit.norm()
    torch.testing.assert_close(theory.expected_halfspace_noise(logit, sigma), claim)
    assert ((n.mean(0) - claim).abs() < 6 * sigma / math.sqrt(DRAWS)).all()
    assert (claim * (g - 0.5) > 0).all(), "away from 1/2"
    assert abs(n.square().sum(-1).mean() / (sigma**2 * J / 2) - 1) < 0.05


@pytest.mark.parametrize("J", [1, 4, 50])
def test_multiplied_gates_move_toward_saturation_too(J):
    """Multiplicative, mean field: the factor's mean is 1 + (σ/√2π) (g∘logit g)/‖g∘logit g‖."""
    logit, sigma = draw(J + 1, J), 0.3
    g = torch.sigmoid(logit)
    n = 1 + sigma * draw(J, DRAWS, J)
    n = torch.where(theory.gate_multiplicative_gain(n, g, g)[:, None] >= 0, n, 1.0)
    claim = g * (1 + sigma * C * g * logit / (g * logit).norm())
    assert (((g * n).mean(0) - claim).abs() < 6 * sigma / math.sqrt(DRAWS)).all()
    assert ((claim - g) * (g - 0.5) > 0).all()


@pytest.mark.parametrize("J", [10, 50, 250])
def test_the_mean_shift_of_one_gate_falls_as_the_root_of_their_number(J):
    """The shift of the whole layer is σ/√2π long whatever J is; the noise itself is σ√(J/2) long."""
    logit = draw(J, 20, J)
    shift = theory.expected_halfspace_noise(logit, 1.0)
    torch.testing.assert_close(shift.norm(dim=-1), torch.full((20,), C, dtype=torch.float64))
    torch.testing.assert_close(shift.square().mean().sqrt(), torch.tensor(C / math.sqrt(J)).double())
