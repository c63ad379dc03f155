"""Other noise: the law of every density, Algorithm 1 under heavy tails, and combinations of signal and noise."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Bernoulli, Normal

from nem import Noise, NoisyGRU, NoisyLSTM, cells, gaussian, nem_cross_entropy, nem_mse_loss
from nem.conditions import MODES
from nem.densities import DENSITIES, StudentT, standard
from nem.noise import EXPECTED, Draws, GateNoise, OutputNoise
from tests.conftest import refused
from tests.nem.stacks import AXES, draw, generator, parts

DOUBLE = torch.float64
LAWS = {
    "gaussian": stats.norm(),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "laplace": stats.laplace(scale=1 / math.sqrt(2)),
    "student-t": stats.t(3, scale=1 / math.sqrt(3)),
    "cauchy": stats.cauchy(),
    StudentT(1.5): stats.t(1.5),
    StudentT(8): stats.t(8, scale=math.sqrt(6 / 8)),
}
ALPHA, COUNT = 1e-6, 100_000
SEEDS = st.integers(0, 2**31)
LAW = pytest.mark.parametrize("density", LAWS, ids=str)


def add(signal, noise):
    return signal + noise


def scaled(signal, noise):
    return signal * (1 + noise)


def powered(signal, noise):
    """A combination of neither kind, of which no noise changes the signal too."""
    return (signal + noise) * torch.exp(noise) + 0.1 * torch.sin(3 * signal)


@LAW
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_draws_have_their_law(density, dtype):
    """By Kolmogorov and Smirnov: a right one fails once in a million seeds; σ is the deviation where there is one."""
    assert set(DENSITIES) <= set(LAWS)
    drawn = standard(density, (COUNT,), torch.empty(0, dtype=dtype), generator(1))
    assert drawn.dtype == dtype
    assert torch.isfinite(drawn).all()
    assert torch.equal(drawn, standard(density, (COUNT,), torch.empty(0, dtype=dtype), generator(1)))
    assert stats.kstest(drawn.numpy(), LAWS[density].cdf).pvalue > ALPHA
    halves = drawn.view(2, -1)
    # Neighbours know nothing of each other, in size either (ranks: some have no moments).
    for one, two in (halves, halves.abs()):
        assert stats.spearmanr(one, two).pvalue > ALPHA
    if density not in ("cauchy", StudentT(1.5)):
        assert LAWS[density].std() == pytest.approx(1)
    assert all(stats.kstest(drawn.numpy(), LAWS[name].cdf).pvalue < ALPHA for name in LAWS if name != density)


@given(seed=SEEDS, before=st.integers(0, 2000), more=st.integers(0, 3000))
@example(seed=0, before=0, more=0)
@example(seed=0, before=624, more=16)
def test_many_gaussian_draws_are_torchs_to_rounding_and_leave_its_generator_as_torch_does(seed, before, more):
    """That is an oracle for the Mersenne Twister, and float64 one for what becomes of its bits."""
    (mine, torchs, uniform), count = (generator(seed) for _ in range(3)), gaussian.MANY + more
    for one in (mine, torchs, uniform):
        torch.rand(before, generator=one)
    assert gaussian.serves(mine, count, like=torch.empty(0))
    drawn = standard("gaussian", (count,), torch.empty(0), mine)
    assert torch.allclose(drawn, torch.randn(count, generator=torchs), atol=4e-6, rtol=0)
    assert torch.equal(mine.get_state(), torchs.get_state())
    u, v = torch.rand(count // 16 * 16, generator=uniform).double().view(-1, 2, 8).unbind(1)
    radius, turn = (-2 * torch.log1p(-u)).sqrt(), 2 * math.pi * v
    exact = torch.stack([radius * torch.cos(turn), radius * torch.sin(turn)], 1).flatten()
    kept = len(exact) if count % 16 == 0 else count - 16  # the last 16 are of words of their own
    assert (drawn[:kept] - exact[:kept]).abs().max() < 2.5e-7 * radius.max()


def test_normal_draws_at_the_ends_of_the_uniform_ones():
    u = np.float32([0, 2**-24, 0.5, 1 - 2**-24])
    u, v = (part.ravel().copy() for part in np.meshgrid(u, np.float32([*np.arange(0, 1, 0.125), 1 - 2**-24])))
    radius, turn = np.sqrt(-2 * np.log1p(-u.astype(float))), 2 * math.pi * v.astype(float)
    gaussian._polar(u, v)
    assert np.abs(u - radius * np.cos(turn)).max() < 2e-6
    assert np.abs(v - radius * np.sin(turn)).max() < 2e-6


def test_where_torch_maps_or_fakes_it_draws_itself():
    like, shape = torch.empty(0), (gaussian.MANY,)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda x: x + standard("gaussian", shape, like, generator(1)))(torch.zeros(2, 1))
    each = torch.vmap(lambda x: x + standard("gaussian", shape, like, generator(1)), randomness="different")
    assert not torch.equal(*each(torch.zeros(2, 1)))
    with FakeTensorMode():
        assert standard("gaussian", shape, torch.empty(0), generator(1)).shape == shape


def test_threads_that_share_a_generator_get_draws_of_their_own_and_autograd_sees_a_buffer_change():
    own, like, interval = generator(1), torch.empty(0), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(lambda _: standard("gaussian", (20_000,), like, own)[0].item(), range(200)))
    finally:
        sys.setswitchinterval(interval)
    assert len(set(drawn)) == 200
    weight, buffer = torch.ones(gaussian.MANY, requires_grad=True), torch.zeros(gaussian.MANY)
    total = (weight * buffer).sum()
    standard("gaussian", buffer.shape, like, own, buffer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_few_gaussian_draws_are_torchs_bit_for_bit_and_16_bits_are_rounded_last():
    like = torch.empty(0, dtype=torch.float32)
    assert torch.equal(standard("gaussian", (9,), like, generator(1)), torch.randn(9, generator=generator(1)))
    for density in LAWS:
        half = standard(density, (500,), like.bfloat16(), generator(1))
        assert half.dtype == torch.bfloat16
        if density != "gaussian":
            assert torch.equal(half, standard(density, (500,), like, generator(1)).bfloat16())
    assert torch.equal(standard(torch.randn, (9,), like, generator(1)), torch.randn(9, generator=generator(1)))


@LAW
@pytest.mark.parametrize("head", ["softmax", "identity", "logistic"])
@given(seed=SEEDS, sigma=st.floats(0.01, 3))
def test_noise_is_accepted_exactly_where_it_has_a_gain_whatever_its_law(density, head, seed, sigma):
    """Of the outputs, with the paper's modes and with functions of signal and noise."""
    K, B = 3, 40
    score, target = draw(seed, 1, 1, 1, K, B), torch.eye(K, dtype=DOUBLE)[torch.arange(B) % K].T[None, None, None]
    activation = torch.log_softmax(score, -2) if head == "softmax" else score
    laws = {"softmax": lambda y: y * activation, "logistic": Bernoulli(logits=score, validate_args=False).log_prob,
            "identity": Normal(score, 1.0).log_prob}  # fmt: skip
    noise = sigma * standard(density, (1, 1, 1, K, B), score, generator(seed))
    for mode, combine in (("additive", add), ("multiplicative", scaled), (add, add), (powered, powered)):
        for kind in ("nem", "reversed-nem", "blind"):
            layer = OutputNoise((kind,), (mode,))
            draws = layer.draws(torch.tensor([sigma], dtype=DOUBLE), lambda _: noise / sigma)
            increment, accepted = layer.increments(head, target, activation, draws)
            gain = (laws[head](combine(target, noise)) - laws[head](target)).sum(-2, keepdim=True)
            clear = gain.abs() > 1e-9 * (1 + gain.abs())
            right = {"nem": gain >= 0, "reversed-nem": gain <= 0, "blind": gain == gain}[kind]
            assert torch.equal(accepted[clear], right[clear])
            expected = torch.where(accepted, combine(target, noise), target)
            torch.testing.assert_close(target + increment, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("injection", ["forward", "pre-activation"])
@pytest.mark.parametrize("latent", ["mean-field", "sampled"])
@given(seed=SEEDS, sigma=st.floats(0.01, 2))
def test_a_combination_in_gates_is_tested_by_the_latents_likelihood(injection, latent, seed, sigma):
    if injection == "pre-activation" and latent == "sampled":
        refused(ValueError, "latent 'sampled'", GateNoise, ("nem",), (powered,), "slice", latent, injection)
        return
    logit, noise = draw(seed, 1, 2, 2, 3, 20), sigma * draw(seed + 1, 1, 1, 2, 3, 20)
    gate, uniform = torch.sigmoid(logit), torch.rand(1, 1, 2, 3, 20, generator=generator(seed), dtype=DOUBLE)
    layer = GateNoise(("nem", "blind"), (powered, powered), "slice", latent, injection)
    draws = Draws(torch.full((2,), sigma, dtype=DOUBLE), noise / sigma, None, uniform)
    increment, accepted = layer.increments(logit, gate, draws)
    log_p = Bernoulli(logits=logit, validate_args=False).log_prob
    if injection == "forward":
        z, noisy = gate if latent == "mean-field" else (uniform < gate).double(), powered(gate, noise)
        gain = (log_p(powered(z, noise)) - log_p(z)).sum(-2, keepdim=True)
    else:
        noisy = torch.sigmoid(powered(logit, noise))
        gain = (log_p(noisy) - log_p(gate)).sum(-2, keepdim=True)
    clear = gain.abs() > 1e-9
    assert accepted[:, 1].all()
    assert torch.equal(accepted[:, 0][clear[:, 0]], (gain >= 0)[:, 0][clear[:, 0]])
    moved = layer.moved(logit, gate, increment, accepted)
    torch.testing.assert_close(moved, torch.where(accepted, noisy, gate), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("injection", ["forward", "backward", "pre-activation"])
def test_a_combination_that_is_one_of_the_papers_gives_the_papers_network(cell, injection):
    """In the cells, with gradients: through φ for noise in front."""
    x, W, V = parts(cell, 3, 2, 2, 4, 5, 1, C=len(AXES))
    shape = (3, 2, 1, 3 if cell == "lstm" else 2, 4, 5)
    draws = Draws(torch.full((len(AXES),), 0.3, dtype=DOUBLE), draw(3, *shape), draw(4, *shape))

    def ran(modes):
        W_leaf = W.clone().requires_grad_()
        layer = GateNoise(tuple(kind for kind, _ in AXES), modes, injection=injection)
        h = cells.forward(cell, cells.project(x, W_leaf), V, noise=(layer, draws)).h
        return h, torch.autograd.grad(h.sin().sum(), W_leaf)[0]

    named = tuple(mode for _, mode in AXES)
    for one, two in zip(ran(named), ran(tuple(add if m == "additive" else scaled for m in named)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
@LAW
def test_layers_and_losses_draw_from_the_density(layer_class, density):
    x, logits, labels = draw(1, 3, 50, 2), draw(2, 50, 4), torch.arange(50) % 4
    for mode in (*MODES, powered):
        layer = layer_class(2, 3, noise=Noise("nem", mode, 0.3, density=density), dtype=DOUBLE)
        layer(x, generator=generator(1))[0].sum().backward()
        assert 0 < layer.acceptance < 1
        assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    noise = Noise("blind", "additive", 0.3, density=density)
    drawn = standard(density, (50, 4), logits, generator(3))
    noisy = torch.nn.functional.one_hot(labels, 4) + 0.3 * drawn
    right = -(noisy * torch.log_softmax(logits, -1)).sum(-1).mean()
    torch.testing.assert_close(nem_cross_entropy(logits, labels, noise=noise, generator=generator(3)), right)
    right = (logits - (logits.flip(0) + 0.3 * drawn)).square().sum(-1).mean()
    torch.testing.assert_close(nem_mse_loss(logits, logits.flip(0), noise=noise, generator=generator(3)), right)


@pytest.mark.parametrize("wrong", [lambda s, n: s.sum(), lambda s, n: s[..., :1], lambda s, n: 0.0])
def test_a_mode_that_returns_another_shape_is_refused(wrong):
    """A sum would be broadcast, and silently be another noise."""
    noise, words = Noise("blind", wrong, 0.3), r"expected the mode, a function, to return a tensor of shape .*found"
    refused(ValueError, words, nem_mse_loss, draw(1, 4, 3), draw(2, 4, 3), noise=noise, generator=generator(1))
    for kind in ("blind", "nem"):
        layer = NoisyGRU(2, 3, noise=Noise(kind, wrong, 0.3), dtype=DOUBLE)
        refused(ValueError, words, layer, draw(1, 3, 5, 2), generator=generator(1))


def test_what_is_no_density_and_what_has_no_closed_form_is_refused():
    refused(ValueError, "gaussian, uniform, laplace, student-t, cauchy, or a function", Noise, "nem", "additive", 1.0,
            density="normal")  # fmt: skip
    for kind in EXPECTED:
        refused(ValueError, f"closed form.*use kind '{kind[9:]}'", Noise, kind, "additive", 1.0, density="laplace")
        refused(ValueError, "closed form", Noise, kind, add, 1.0)
        refused(ValueError, "closed form", OutputNoise, (kind,), (add,))
    for degrees in (0, -1, math.nan, math.inf):
        refused(ValueError, "degrees of freedom above 0", StudentT, degrees)
    for wrong in (lambda shape, **_: torch.zeros(2), lambda shape, **_: 0.0):
        refused(ValueError, r"expected the density to draw shape \(3,\)", standard, wrong, (3,), torch.empty(0), None)
