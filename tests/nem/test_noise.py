"""Algorithm 1: what is injected has a gain, what has none is not, and nothing else changes."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence
from torch.nn import functional

from nem import theory
from nem.conditions import MODES
from nem.noise import EXPECTED as MEANS
from nem.noise import Draws, GateNoise, Noise, OutputNoise, annealed, decide, stacked
from tests.conftest import refused
from tests.nem.stacks import AXES, draw, generator

SEEDS = st.integers(0, 2**31)
HEADS = st.sampled_from(["softmax", "identity", "logistic"])
EXPECTED = [(kind, mode) for kind in MEANS for mode in MODES]
DOUBLE, LIKELY = torch.float64, "likelihood"


def gates(axes, sigma, seed, *, n=2, J=3, B=6, G=1, logit=None, **options):
    """A stack of gates, all with the same σ: layer, logits, gates, draws."""
    layer = GateNoise(*stacked(axes), **options)
    logit = draw(seed, G, len(axes), n, J, B) if logit is None else logit
    shape = (G, 1, n, J, B)
    uniform = torch.rand(shape, generator=generator(seed + 3), dtype=DOUBLE)
    sigmas = torch.full((len(axes),), sigma, dtype=DOUBLE)
    return layer, logit, torch.sigmoid(logit), Draws(sigmas, draw(seed + 1, *shape), draw(seed + 2, *shape), uniform)


def outputs(axes, head, sigma, seed, *, K=3, B=6, S=1, **options):
    """A stack of output layers: layer, targets, activations, draws."""
    layer = OutputNoise(*stacked(axes), **options)
    score = draw(seed, S, 1, len(axes), K, B)
    activation = torch.log_softmax(score, -2) if head == "softmax" else score
    classes = torch.nn.functional.one_hot(torch.arange(B) % K, K).to(DOUBLE).t()
    drawn = draw(seed + 3, K, B)
    target = {"softmax": classes, "identity": drawn, "logistic": (drawn > 0).double()}[head][None, None, None]
    sigmas = torch.tensor([0.0 if kind == "none" else sigma for kind, _ in axes], dtype=DOUBLE)
    return layer, target, activation, Draws(sigmas, draw(seed + 1, S, 1, 1, K, B), draw(seed + 2, S, 1, 1, K, B))


def right(kind, taken, gain, error):
    """What is injected makes the data more probable, and what is refused would not have; reversed, less probable."""
    if kind == "blind":
        assert taken.all()
    else:
        gain = -gain if kind == "reversed-nem" else gain
        assert (gain[taken] >= -error).all()
        assert (gain[~taken] < error).all()


@given(SEEDS, HEADS, st.floats(0.01, 3), st.integers(1, 6))
def test_accepted_output_noise_makes_the_target_more_probable(seed, head, sigma, K):
    layer, target, activation, draws = outputs([("none", None), *AXES], head, sigma, seed, K=K, B=50)
    increment, accepted = layer.increments(head, target, activation, draws)
    score = activation.mT
    laws = {"softmax": Categorical, "logistic": partial(Bernoulli, validate_args=False)}
    law = laws[head](logits=score) if head in laws else Normal(score, 1.0)

    def log_p(y):  # by torch.distributions, independently of ours
        y = y.mT
        return (y * law.logits).sum(-1) if head == "softmax" else law.log_prob(y).sum(-1)

    assert (increment[:, :, 0] == 0).all(), "no noise for the noiseless network"
    for c, (kind, mode) in enumerate(AXES, start=1):
        lever, taken = sigma if mode == "additive" else sigma * target, accepted[:, :, c, 0]
        blind = (lever * draws.normal)[:, :, 0]
        assert torch.equal(increment[:, :, c], torch.where(taken.unsqueeze(-2), blind, 0.0))
        tested = draws.test if kind == "matched" else draws.normal
        gain = (log_p((target + lever * tested).expand_as(activation)) - log_p(target.expand_as(activation)))[:, :, c]
        right(kind, taken, gain, 1e-12)


@pytest.mark.parametrize("injection", ["forward", "pre-activation"])
@given(SEEDS, st.floats(0, 2), st.integers(1, 9))
def test_accepted_gate_noise_makes_the_latent_more_probable(injection, seed, sigma, J):
    """With noise in what a gate receives: the latent's mean is moved to what the noisy gate is."""
    layer, logit, gate, draws = gates(AXES, sigma, seed, J=J, B=40, injection=injection)
    increment, accepted = layer.increments(logit, gate, draws)
    noisy = layer.moved(logit, gate, increment)
    law = Bernoulli(logits=logit, validate_args=False)
    for c, (kind, mode) in enumerate(AXES):

        def moved(draw, scale, signal=gate if injection == "forward" else logit, additive=mode == "additive"):
            signal = signal + scale * draw * (1 if additive else signal)
            return signal if injection == "forward" else torch.sigmoid(signal)

        # The sign of a gain that is linear in the draw does not depend on σ.
        tested = moved(draws.test if kind == "matched" else draws.normal, 1 if injection == "forward" else sigma)
        gain = (law.log_prob(tested) - law.log_prob(gate)).sum(-2)
        taken = accepted[:, c, :, 0]
        right(kind, taken, gain[:, c], 1e-10)
        expected = torch.where(taken.unsqueeze(-2), moved(draws.normal, sigma)[:, c], gate[:, c])
        torch.testing.assert_close(noisy[:, c], expected, rtol=1e-12, atol=1e-12)


@given(SEEDS, st.floats(0.01, 2))
def test_a_gates_own_mean_is_never_more_probable_under_a_noisy_gate(seed, sigma):
    """Why that is the gain: the likelihood ratio of noise as a parameter, log p(g; o + n) - log p(g; o), is -KL."""
    logit, n = draw(seed, 50), sigma * draw(seed + 1, 50)
    gate, old, new = torch.sigmoid(logit), Bernoulli(logits=logit), Bernoulli(logits=logit + n)
    ratio = (gate * n) - (functional.softplus(logit + n) - functional.softplus(logit))
    torch.testing.assert_close(ratio, -kl_divergence(old, new), rtol=1e-6, atol=1e-12)
    assert (ratio < 0).all()
    assert torch.equal(gate, old.mean)


@pytest.mark.parametrize(("test", "mean"), [("printed", 1), ("printed-centred", 0)])
@given(SEEDS, st.floats(0.01, 3), st.integers(1, 4))
def test_49_as_printed_tests_by_its_own_formula_and_concerns_nothing_else(test, mean, seed, sigma, K):
    layer, y, a, draws = outputs(AXES, "identity", sigma, seed, K=K, B=50, test=test)
    (increment, accepted), plain = (t.increments("identity", y, a, draws) for t in (layer, replace(layer, test=LIKELY)))
    classes = outputs(AXES, "softmax", sigma, seed, K=K, test=test)
    assert torch.equal(classes[0].increments("softmax", *classes[1:])[0],
                       replace(classes[0], test=LIKELY).increments("softmax", *classes[1:])[0])  # fmt: skip
    for c, (kind, mode) in enumerate(AXES):
        if mode == "additive":
            assert torch.equal(increment[:, :, c], plain[0][:, :, c])
            continue
        n = mean + sigma * (draws.test if kind == "matched" else draws.normal)
        printed = ((2 * y + 2 * n - a) * n).sum(-2)[:, :, c]
        right(kind, accepted[:, :, c, 0], -printed, 1e-12)
        blind = (y * (1 + sigma * draws.normal) - y)[:, :, 0]
        expected = torch.where(accepted[:, :, c], blind, 0.0)
        torch.testing.assert_close(increment[:, :, c], expected, rtol=1e-9, atol=1e-12)


def test_49_as_printed_refuses_nearly_all_noise_of_mean_1():
    """With one output it wants n between 0 and a/2 - y, which is negative for a prediction near a positive target."""
    layer, _, _, draws = outputs([("nem", "multiplicative")], "identity", 0.3, 1, K=1, B=20_000, test="printed")
    y, off = (torch.rand(1, 1, 1, 1, 20_000, generator=generator(k), dtype=DOUBLE) for k in (1, 2))
    assert layer.increments("identity", y, y + 0.1 * (off - 0.5), draws)[1].double().mean() < 1e-3


@pytest.mark.parametrize("granularity", ["slice", "neuron", "time"])
@given(SEEDS, HEADS, st.floats(0.01, 3), st.integers(2, 4))
def test_nem_and_reversed_noise_add_up_to_blind_noise(granularity, seed, head, sigma, K):
    """In networks that are alike: of the same draws, each that has a gain is injected by exactly one of the two."""
    axes = [(kind, mode) for kind in ("nem", "reversed-nem", "blind") for mode in MODES]
    layer, target, score, draws = outputs(axes, head, sigma, seed, K=K, B=9, S=3, granularity=granularity)
    alike = score[:, :, :1].expand_as(score)
    nem, reverse, blind = layer.increments(head, target, alike, draws)[0].split(2, 2)
    assert torch.equal(nem + reverse, blind)
    layer, logit, _, draws = gates(axes, sigma, seed, J=K, B=9, G=2, granularity=granularity)
    alike = logit[:, :1].expand_as(logit)
    nem, reverse, blind = layer.increments(alike, torch.sigmoid(alike), draws)[0].split(2, 1)
    assert torch.equal(nem + reverse, blind)


def test_zero_sigma_changes_no_bit():
    for head in ("softmax", "identity", "logistic"):
        layer, target, activation, draws = outputs(AXES + (EXPECTED if head != "identity" else []), head, 0.0, 1)
        increment, _ = layer.increments(head, target, activation, draws)
        assert torch.equal(target + increment, target.expand_as(activation))
    layer, logit, gate, draws = gates(AXES + EXPECTED, 0.0, 1)
    assert torch.equal(layer.moved(logit, gate, *layer.increments(logit, gate, draws)), gate)


def test_granularities_decide_on_a_neuron_a_slice_or_all_slices():
    layer = {g: OutputNoise(("nem",), ("additive",), g) for g in ("slice", "neuron", "time")}
    values = torch.tensor([[3.0, -1.0], [-4.0, 1.0]])  # slices, neurons
    signal = values.view(2, 1, 1, 2, 1)
    draws = Draws(torch.ones(1), signal)
    accepted = {g: decide(layer[g], lambda draw: draw, draws, signal)[:, 0, 0, :, 0] for g in layer}
    assert accepted["neuron"].tolist() == [[True, False], [False, True]]
    assert accepted["slice"].tolist() == [[True], [False]]
    assert accepted["time"].tolist() == [[False], [False]]


def test_sampled_latents_test_what_they_sampled():
    layer, logit, gate, draws = gates([("nem", "multiplicative")], 0.5, 4, B=200, latent="sampled")
    _, accepted = layer.increments(logit, gate, draws)
    latent = (draws.uniform < gate).to(DOUBLE)
    gain = theory.gate_additive_gain_from_logit(*(t.mT for t in (latent * draws.normal, logit)))
    assert torch.equal(accepted[..., 0, :], gain >= 0)


def test_matched_noise_is_thinned_like_nem_noise_but_not_selected():
    B = 40_000
    logit = draw(5, 1, 1, 1, 6, 1).expand(1, 2, 1, 6, B)
    axes = [("nem", "additive"), ("matched", "additive")]
    layer, logit, gate, draws = gates(axes, 1.0, 6, n=1, J=6, B=B, logit=logit)
    increment, accepted = layer.increments(logit, gate, draws)
    assert (accepted.double().mean((0, 2, 3, 4)) - 0.5).abs().max() < 6 * 0.5 / math.sqrt(B)
    shift = increment.mean(-1)[0, :, 0] @ logit[0, 0, 0, :, 0] / logit[0, 0, 0, :, 0].norm()
    assert abs(shift[0] - 1 / math.sqrt(2 * math.pi)) < 6 / math.sqrt(B)
    assert abs(shift[1]) < 6 / math.sqrt(B)


@pytest.mark.parametrize("granularity", ["slice", "neuron"])
def test_expected_noise_is_the_mean_of_nem_and_of_reversed_noise_in_both_modes(granularity):
    B = 40_000
    axes = [(prefix + kind, mode) for mode in MODES for kind in ("nem", "reversed-nem") for prefix in ("", "expected-")]
    logit = draw(5, 1, 1, 2, 6, 1).expand(1, 8, 2, 6, B)
    layer, logit, gate, draws = gates(axes, 0.3, 6, J=6, B=B, logit=logit, granularity=granularity)
    mean = layer.increments(logit, gate, draws)[0].mean(-1)[0]
    assert (mean[::2] - mean[1::2]).abs().max() < 6 * 0.3 / math.sqrt(B)
    for head, K in (("softmax", 3), ("logistic", 3), ("identity", 1 if granularity == "slice" else 3)):
        layer, target, activation, _ = outputs(axes, head, 0.3, 8, K=K, B=1, granularity=granularity)
        wide = [target.expand(1, 1, 1, K, B), activation[:, :, :1].expand(1, 1, 8, K, B)]
        draws = Draws(torch.full((8,), 0.3, dtype=DOUBLE), draw(9, 1, 1, 1, K, B))
        mean = layer.increments(head, *wide, draws)[0].mean(-1)[0, 0]
        assert (mean[:4:2] - mean[1:4:2]).abs().max() < 6 * 0.3 / math.sqrt(B)
        assert (mean[4::2] - mean[5::2]).abs().max() < 6 * 0.3 * wide[0].abs().max() / math.sqrt(B)


@pytest.mark.parametrize(("axes", "needed"), [(AXES, ["normal", "test", "uniform"]), (EXPECTED, ["uniform"])])
def test_a_layer_draws_what_it_needs_in_a_fixed_order(axes, needed):
    names = []
    GateNoise(*stacked(axes), latent="sampled").draws(torch.ones(len(axes)), names.append)
    assert names == needed
    layer, logit, gate, draws = gates(EXPECTED, 0.3, 1)
    increment, accepted = layer.increments(logit, gate, Draws(draws.sigma, None))
    assert torch.equal(increment, layer.increments(logit, gate, draws)[0])
    assert accepted.all()


@given(st.floats(0, 10), st.floats(0, 3), st.integers(0, 1000))
def test_annealing_never_grows_and_starts_at_sigma(sigma, decay, epoch):
    assert annealed(sigma, decay, 0) == sigma
    assert annealed(sigma, decay, epoch + 1) <= annealed(sigma, decay, epoch)
    assert Noise("nem", "additive", sigma, decay).at(epoch) == annealed(sigma, decay, epoch)


def test_bad_sources_missing_draws_and_modes_are_named():
    for bad in (
        {"kind": "none"},
        {"kind": "expected-blind"},
        {"mode": "both"},
        {"sigma": -1.0},
        {"sigma": math.nan},
        {"decay": -0.1},
    ):
        refused(ValueError, "expected", Noise, **{"kind": "nem", "mode": "additive", "sigma": 0.1, **bad})
    layer, logit, gate, draws = gates([("matched", "multiplicative")], 0.1, 1, latent="sampled")
    some = {"uniform": draws.uniform}
    for words, given_ in (("uniform", {"normal": gate}), ("an independent", some | {"normal": gate}), ("normal", some)):
        with pytest.raises(ValueError, match=rf"expected (standard )?{words} draw"):
            layer.increments(logit, gate, Draws(draws.sigma, **{"normal": None, **given_}))
    refused(ValueError, "expected a mode for every kind", OutputNoise, ("nem", "none"), ("additive", "additive"))
    for kind in MEANS:
        refused(ValueError, "expected granularity slice or neuron", GateNoise, (kind,), ("additive",), "time")
        refused(ValueError, "expected the test 'likelihood'", OutputNoise, (kind,), ("additive",), test="printed")
        both = "expected neither expected noise nor latent 'sampled'"
        refused(ValueError, both, GateNoise, (kind,), ("additive",), injection="pre-activation")
    refused(ValueError, both, GateNoise, ("nem",), ("multiplicative",), latent="sampled", injection="pre-activation")
    layer, target, activation, draws = outputs([("expected-nem", "multiplicative")], "identity", 0.1, 1)
    refused(ValueError, "expected one output", layer.increments, "identity", target, activation, draws)
