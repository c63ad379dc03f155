"""What NEM noise does on average, as losses and shifts: the statements of docs/theory.md, "Expected NEM noise"."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from nem import theory
from nem.conditions import MODES
from nem.noise import Draws, OutputNoise
from nem.stack import error_gradient
from nem.theory import regions
from tests.nem.theory.networks import draw, targets

SEEDS, SIGNS = st.integers(0, 10**6), st.sampled_from([1, -1])
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
        "logistic, additive": (0, lambda n: theory.logistic_additive_gain(n, g), *half(score)),
        "logistic, multiplicative": (1, lambda n: theory.logistic_multiplicative_gain(n, y, g), *half(y * score)),
        "gate, additive": (0, lambda n: theory.gate_additive_gain(n, g), *half(score)),
        "gate, multiplicative": (1, lambda n: theory.gate_multiplicative_gain(n, g, g), *half(g * score)),
    }


@pytest.mark.parametrize("K", [1, 3, 11])
@pytest.mark.parametrize("layer", laws(2))
@pytest.mark.parametrize("reverse", [False, True])
def test_expected_noise_is_the_mean_of_kept_draws(reverse, layer, K):
    """Monte Carlo, within 6 standard errors; and half-spaces keep half of the variance. Reversed, minus the mean."""
    K += K == 1 and layer.startswith("classifier")  # one class is no choice
    none, gain, mean, share = laws(K)[layer]
    n = SIGMA * draw(K, DRAWS, K)
    kept = gain(none + n) >= 0
    if reverse:
        kept, mean, share = gain(none + n) <= 0, -mean, 1 - share
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


@given(seed=SEEDS, K=st.integers(2, 12), sigma=st.floats(0, 3), sign=SIGNS)
def test_additive_classifier_noise_sharpens(seed, K, sigma, sign):
    """The expected increment, held constant, has the gradient of CE - (σ/√2π)‖log a‖₂; reversed, of CE + …"""
    scores, y = draw(seed, K).requires_grad_(), targets(seed, "softmax", K)
    mean = sign * theory.expected_halfspace_noise(torch.log_softmax(scores.detach(), -1), sigma)
    actual = gradient(cross_entropy(scores, y + mean), scores)
    torch.testing.assert_close(actual, gradient(sharpened(scores, y, sign * sigma), scores), rtol=1e-9, atol=1e-12)


@given(seed=SEEDS, K=st.integers(1, 12), sigma=st.floats(0.01, 3), sign=SIGNS)
def test_additive_logistic_noise_sharpens_too(seed, K, sigma, sign):
    """The mean gradient is that of the double cross entropy less (σ/√2π)‖logit a‖₂, which has no minimum."""
    scores, y = draw(seed, K).requires_grad_(), targets(seed, "logistic", K)
    mean = sign * theory.expected_halfspace_noise(scores.detach(), sigma)

    def double(o, target):
        return functional.binary_cross_entropy_with_logits(o, target, reduction="sum")

    def claim(o):
        return double(o, y) - sign * sigma * C * o.norm()

    torch.testing.assert_close(gradient(double(scores, y + mean), scores), gradient(claim(scores), scores))
    sure = (40 * (2 * y - 1)).requires_grad_()  # where the clean gradient is 0
    torch.testing.assert_close(gradient(claim(sure), sure), -sign * sigma * C / K**0.5 * (2 * y - 1))


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
    assert gradient(sharpened(scores, y, -sigma), scores)[0] > 0.5 * sigma, (
        "a penalty has one: it turns the network back"
    )
    at_first = (0 * y).requires_grad_()
    assert gradient(sharpened(at_first, y, -sigma), at_first)[0] < -0.5


@pytest.mark.parametrize("K", [2, 11])
def test_sharpening_also_drives_what_the_network_gets_wrong(K):
    """For a confident error it points away from the truth.

    The true class's logit rises all the same while σ < √(2π(K - 1)), but the wrong winner's lead over it shrinks only
    while σ < 2√(2π(K - 1))/K: 7.93 and 1.44 for K = 11.
    """
    y, wrong = torch.eye(K).double()[:2]
    scores = (40 * wrong).requires_grad_()
    sharpening = gradient(sharpened(scores, y, 1.0) - cross_entropy(scores, y), scores)
    assert sharpening[0] > 0 > sharpening[1]
    limit = math.sqrt(2 * math.pi * (K - 1))
    below, above = (gradient(sharpened(scores, y, f * limit), scores)[0] for f in (0.99, 1.01))
    assert below < 0 < above
    assert K != 11 or [round(limit, 2), round(2 * limit / K, 2)] == [7.93, 1.44]
    shrinks, grows = (gradient(sharpened(scores, y, f * 2 * limit / K), scores) for f in (0.99, 1.01))
    assert shrinks[1] - shrinks[0] > 0 > grows[1] - grows[0]


@given(seed=SEEDS, K=st.integers(2, 12), sigma=st.floats(0, 2), sign=SIGNS)
def test_multiplicative_classifier_noise_is_a_smaller_learning_rate(seed, K, sigma, sign):
    """The mean gradient is (1 - σ/√2π) times the noiseless one; reversed, (1 + σ/√2π) times."""
    scores, y = draw(seed, K).requires_grad_(), targets(seed, "softmax", K)
    factor = 1 + sign * theory.expected_halfspace_noise(y * torch.log_softmax(scores.detach(), -1), sigma)
    actual = gradient(cross_entropy(scores, y * factor), scores)
    torch.testing.assert_close(actual, (1 - sign * sigma * C) * gradient(cross_entropy(scores, y), scores))


def test_a_smaller_gradient_is_a_smaller_rate_for_sgd_and_nothing_for_adam():
    """Gradients times 0.6 move SGD 0.6 as far, with momentum too; Adam's and RMSprop's step has no scale."""
    gradients = draw(1, 20, 5)

    def moved(optimiser, factor, **options):
        at = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        stepper = optimiser([at], lr=0.01, **options)
        for at.grad in factor * gradients:
            stepper.step()
        return at.detach()

    kinds = ((torch.optim.SGD, {"momentum": 0.9}, 0.6), (torch.optim.Adam, {}, 1.0), (torch.optim.RMSprop, {}, 1.0))
    for optimiser, options, share in kinds:
        whole, smaller = (moved(optimiser, factor, **options) for factor in (1.0, 0.6))
        torch.testing.assert_close(smaller, share * whole, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["nem", "reversed-nem"])
def test_the_mean_output_error_has_a_closed_form_with_either_delta(kind, mode):
    """Monte Carlo through Algorithm 1, within 6 standard errors: a(1 + ΣE n) - y - E n, and literally a - y - E n."""
    K, sign = 5, 1 if kind == "nem" else -1
    log_a, y = torch.log_softmax(2 * draw(3, K), -1), targets(1, "softmax", K)
    target, score = (values.view(1, 1, 1, K, 1).expand(-1, -1, -1, -1, DRAWS) for values in (y, log_a))
    noise = Draws(torch.tensor([SIGMA]).double(), draw(4, 1, 1, 1, K, DRAWS))
    noisy = target + OutputNoise((kind,), (mode,)).increments("softmax", target, score, noise)[0]
    lever = torch.ones(K) if mode == "additive" else y
    mean = sign * lever * theory.expected_halfspace_noise(lever * log_a, SIGMA)
    for delta, factor in (("loss", 1 + mean.sum()), ("literal", 1.0)):
        errors = error_gradient("softmax", noisy, score, delta)[0, 0, 0]
        error = 6 * errors.std(-1) / math.sqrt(DRAWS) + 1e-12
        assert ((errors.mean(-1) - (log_a.exp() * factor - y - mean)).abs() < error).all()
        assert ((errors.mean(-1) - (log_a.exp() - y)).abs() > error).any(), "no noise would pass as well"


def literal(scores, y, sigma, lever=1):
    """The mean of the literal output error: a - y - E n."""
    log_a = torch.log_softmax(scores, -1)
    return log_a.exp() - y - lever * theory.expected_halfspace_noise(lever * log_a, sigma)


@given(seed=SEEDS, K=st.integers(3, 12), sigma=st.floats(0.1, 2))
def test_the_literal_additive_error_lowers_every_output_and_is_no_gradient(seed, K, sigma):
    """By σ/√2π to √K σ/√2π in all, and more where the class is less probable; its Jacobian is not symmetric."""
    scores, y = draw(seed, K), targets(seed, "softmax", K)
    a = torch.softmax(scores, -1)
    pushes = literal(scores, y, sigma) - (a - y)
    assert (pushes > 0).all(), "descent subtracts them"
    assert torch.equal(pushes.argsort(), a.argsort(descending=True))
    assert sigma * C <= pushes.sum() <= math.sqrt(K) * sigma * C * (1 + 1e-12)
    slope = torch.autograd.functional.jacobian(lambda at: literal(at, y, sigma), scores)
    assert (slope - slope.T).abs().max() > 1e-4 * sigma


@pytest.mark.parametrize("K", [2, 11, 101])
def test_the_loss_sharpens_K_times_as_much_as_the_literal_error(K):
    """Push on the margin of a confident network, right or wrong: (σ/√2π) K/√(K - 1) and (σ/√2π)/√(K - 1)."""
    y, scores = targets(1, "softmax", K), (60 * torch.eye(K).double()[0]).requires_grad_()
    own = gradient(cross_entropy(scores, y), scores)
    for pushes, factor in ((gradient(sharpened(scores, y, 1.0), scores), K), (literal(scores.detach(), y, 1.0), 1)):
        torch.testing.assert_close(
            (pushes - own)[1:] - (pushes - own)[0], torch.full((K - 1,), factor * C / math.sqrt(K - 1)).double()
        )


@given(seed=SEEDS, K=st.integers(2, 12), sigma=st.floats(0, 2), sign=SIGNS)
def test_the_literal_multiplicative_error_is_label_smoothing_and_a_shift(seed, K, sigma, sign):
    """Targets (1 - ε)y + ε/K with ε = σ/√2π, and all outputs lowered by ε/K; reversed, ε is negative."""
    scores, y = draw(seed, K), targets(seed, "softmax", K)
    actual = (1 - sign) * (torch.softmax(scores, -1) - y) + sign * literal(scores, y, sigma, y)
    epsilon = sign * sigma * C
    smooth = scores.clone().requires_grad_()
    claim = gradient(cross_entropy(smooth, (1 - epsilon) * y + epsilon / K), smooth) + epsilon / K
    torch.testing.assert_close(actual, claim)


@given(seed=SEEDS, sigma=st.floats(0.05, 3), sign=SIGNS)
def test_one_output_has_a_loss_in_closed_form(seed, sigma, sign):
    """r² - (2σ/√2π)|r| + (σ²/2) erf(√2 |r|/σ); reversed, r² plus the same."""
    r = draw(seed, 1).requires_grad_()
    actual = gradient(((r + sign * theory.expected_ball_noise(r.detach(), sigma)) ** 2).sum(), r)
    noise = sigma**2 / 2 * torch.erf(math.sqrt(2) * r.abs() / sigma) - 2 * sigma * C * r.abs()
    torch.testing.assert_close(actual, gradient((r**2 + sign * noise).sum(), r), rtol=1e-9, atol=1e-12)


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


def test_the_drift_of_gates_adds_up_faster_than_their_noise():
    """Over N draws the mean adds as N, the noise as √N: it prevails after N = πJ draws, however wide the layer is."""
    J, runs = 16, 4000
    N = round(4 * math.pi * J)
    total, logit = torch.zeros(runs, J).double(), torch.ones(J).double()
    for k in range(N):
        n = draw(k, runs, J)
        total += torch.where((theory.gate_additive_gain_from_logit(n, logit) >= 0)[:, None], n, 0.0)
    ratio = total.mean(0) / total.std(0)
    assert (ratio - 2).abs().max() < 6 * math.sqrt((1 + 2**2 / 2) / runs) + 0.03
