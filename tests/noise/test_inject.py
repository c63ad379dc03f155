"""Algorithm 1: what is injected has a gain, what has none is not, and nothing else changes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Normal

from pipeline import theory
from pipeline.conditions import BEYOND, CONDITIONS, Condition
from pipeline.noise import (
    GateStack,
    Noise,
    OutputStack,
    annealed,
    gate_increment,
    inject_gate,
    inject_output,
    output_increment,
)
from pipeline.noise.inject import apply_gate_increment

SEEDS = st.integers(0, 2**31)
KINDS = st.sampled_from(["blind", "nem"])
MODES = st.sampled_from(["additive", "multiplicative"])


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_there_are_thirteen_conditions_in_the_papers_order():
    assert len(CONDITIONS) == 13
    assert CONDITIONS[0] == "none"
    assert CONDITIONS[1:4] == ("blind-additive-output", "blind-additive-hidden", "blind-additive-both")
    assert CONDITIONS[-1] == "nem-multiplicative-both"
    assert all(Condition.parse(name).name == name for name in CONDITIONS + BEYOND)
    with pytest.raises(ValueError, match="did you mean 'nem-additive-both'"):
        Condition.parse("nem-aditive-both")
    with pytest.raises(ValueError, match="expected mode and place"):
        Condition("nem")


@given(SEEDS, st.sampled_from(["softmax", "identity"]), MODES, st.floats(0, 3), st.integers(1, 6))
def test_accepted_output_noise_makes_the_target_more_probable(seed, head, mode, sigma, K):
    outputs, normal = draw(seed, 50, K), draw(seed + 1, 50, K)
    if head == "softmax":
        target = torch.nn.functional.one_hot(torch.arange(50) % K, K).double()
        log_a = Categorical(logits=outputs).logits  # normalised by torch.distributions, independently of ours

        def log_p(y):
            return (y * log_a).sum(-1)

        activation = torch.log_softmax(outputs, -1)
    else:
        target, activation = draw(seed + 2, 50, K), outputs

        def log_p(y):
            return Normal(outputs, 1.0).log_prob(y).sum(-1)

    noisy, accepted = inject_output(target, activation, normal, head=head, kind="nem", mode=mode, sigma=sigma)
    gain = log_p(noisy) - log_p(target)
    assert (gain >= -1e-12).all()
    assert (noisy[~accepted] == target[~accepted]).all()
    blind, every = inject_output(target, activation, normal, head=head, kind="blind", mode=mode, sigma=sigma)
    assert every.all()
    assert (blind[accepted] == noisy[accepted]).all(), "no second draw"
    lost = log_p(blind) - log_p(target)
    assert (lost[~accepted] < 1e-12).all(), "what was refused would have made the target less probable"


@given(SEEDS, MODES, st.floats(0, 2), st.integers(1, 9))
def test_accepted_gate_noise_makes_the_latent_more_probable(seed, mode, sigma, J):
    logit, normal = draw(seed, 60, J), draw(seed + 1, 60, J)
    gate = torch.sigmoid(logit)
    latent = gate
    noisy, accepted = inject_gate(gate, logit, normal, kind="nem", mode=mode, sigma=sigma)
    law = Bernoulli(logits=logit, validate_args=False)
    moved = latent + sigma * normal if mode == "additive" else latent * (1 + sigma * normal)
    gain = (law.log_prob(moved) - law.log_prob(latent)).sum(-1)
    assert (gain[accepted] >= -1e-10).all()
    assert (gain[~accepted] < 1e-10).all()
    assert (noisy[~accepted] == gate[~accepted]).all()


@pytest.mark.parametrize("head", ["softmax", "identity"])
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_blind_noise_violates_the_condition_somewhere(head, mode):
    outputs, normal = draw(3, 400, 3), draw(4, 400, 3)
    target = torch.nn.functional.one_hot(torch.arange(400) % 3, 3).double()
    activation = torch.log_softmax(outputs, -1) if head == "softmax" else outputs
    blind, _ = inject_output(target, activation, normal, head=head, kind="blind", mode=mode, sigma=1.0)
    if head == "softmax":
        gain = ((blind - target) * activation).sum(-1)
    else:
        gain = theory.regressor_additive_gain(blind - target, target, outputs)
    assert 0.2 < (gain < 0).double().mean() < 0.9
    gate = torch.sigmoid(outputs)
    noisy, _ = inject_gate(gate, outputs, normal, kind="blind", mode=mode, sigma=1.0)
    assert 0.3 < (((noisy - gate) * outputs).sum(-1) < 0).double().mean() < 0.7


@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_zero_sigma_changes_no_bit(mode):
    target, activation, normal = draw(1, 9, 4), draw(2, 9, 4), draw(3, 9, 4)
    for kind in ("blind", "nem"):
        noisy, _ = inject_output(target, activation, normal, head="identity", kind=kind, mode=mode, sigma=0.0)
        assert torch.equal(noisy, target)
        gate = torch.sigmoid(activation)
        assert torch.equal(inject_gate(gate, activation, normal, kind=kind, mode=mode, sigma=0.0)[0], gate)


def sorted_axes(kinds=("nem", "matched", "blind", "expected-nem")):
    axes = [(kind, mode) for kind in kinds for mode in ("additive", "multiplicative")]
    return sorted(axes, key=lambda axis: GateStack.sort_key(*axis))


@given(SEEDS, st.floats(0.01, 2), st.integers(1, 5), st.integers(1, 3))
def test_a_stack_injects_what_single_networks_inject(seed, sigma, J, gates):
    axes = sorted_axes(("nem", "blind"))
    stack = GateStack(*zip(*axes, strict=True))
    B, C = 6, len(axes)
    logit = draw(seed, 1, C, gates, J, B)
    normal = draw(seed + 1, 1, 1, gates, J, B)
    gate = torch.sigmoid(logit)
    sigmas = torch.full((C,), sigma, dtype=torch.float64)
    increment, accepted = gate_increment(stack, logit, gate, sigmas, normal)
    noisy = gate.clone()
    apply_gate_increment(stack, noisy, increment)
    for c, (kind, mode) in enumerate(axes):
        for n in range(gates):
            one, mask = inject_gate(
                gate[0, c, n].T, logit[0, c, n].T, normal[0, 0, n].T, kind=kind, mode=mode, sigma=sigma
            )
            torch.testing.assert_close(noisy[0, c, n].T, one, rtol=1e-12, atol=1e-12)
            assert torch.equal(accepted[0, c, n, 0] > 0, mask)


@given(SEEDS, st.sampled_from(["softmax", "identity"]), st.floats(0.01, 2), st.integers(1, 5))
def test_an_output_stack_injects_what_single_networks_inject(seed, head, sigma, K):
    axes = [("none", None), *sorted_axes(("nem", "blind"))]
    stack = OutputStack(*zip(*axes, strict=True))
    B, C = 6, len(axes)
    outputs = draw(seed, 1, 1, C, K, B)
    activation = torch.log_softmax(outputs, -2) if head == "softmax" else outputs
    target = torch.nn.functional.one_hot(torch.arange(B) % K, K).double().T[None, None, None]
    normal = draw(seed + 1, 1, 1, 1, K, B)
    sigmas = torch.tensor([0.0] + [sigma] * (C - 1), dtype=torch.float64)
    increment, accepted = output_increment(stack, head, target, activation, sigmas, normal)
    assert (increment[:, :, 0] == 0).all()
    for c, (kind, mode) in enumerate(axes[1:], start=1):
        one, mask = inject_output(
            target[0, 0, 0].T, activation[0, 0, c].T, normal[0, 0, 0].T, head=head, kind=kind, mode=mode, sigma=sigma
        )
        torch.testing.assert_close((target + increment)[0, 0, c].T, one, rtol=1e-12, atol=1e-12)
        assert torch.equal(accepted[0, 0, c, 0], mask)


def test_acceptance_agrees_with_an_independent_monte_carlo():
    """Half for every half-space condition; F_K(λ; λ) for the sphere: within 6 standard errors."""
    B = 40_000
    axes = sorted_axes(("nem",))
    stack = GateStack(*zip(*axes, strict=True))
    logit = draw(5, 1, 2, 3, 8, 1).expand(1, 2, 3, 8, B)
    _, accepted = gate_increment(
        stack, logit, torch.sigmoid(logit), torch.ones(2, dtype=torch.float64), draw(6, 1, 1, 3, 8, B)
    )
    assert (accepted.mean((0, 3, 4)) - 0.5).abs().max() < 6 * 0.5 / math.sqrt(B)
    residual = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    stack = OutputStack(("nem",), ("additive",))
    target = residual.view(1, 1, 1, 3, 1).expand(1, 1, 1, 3, B)
    _, kept = output_increment(
        stack,
        "identity",
        target,
        torch.zeros_like(target),
        torch.tensor([0.4], dtype=torch.float64),
        draw(7, 1, 1, 1, 3, B),
    )
    assert abs(kept.double().mean() - theory.ball_acceptance(residual, 0.4)) < 6 * 0.5 / math.sqrt(B)


def test_matched_noise_is_thinned_like_nem_noise_but_not_selected():
    B = 40_000
    stack = GateStack(("nem", "matched"), ("additive", "additive"))
    logit = draw(5, 1, 1, 1, 6, 1).expand(1, 2, 1, 6, B)
    increment, accepted = gate_increment(
        stack, logit, torch.sigmoid(logit), torch.ones(2, dtype=torch.float64), draw(6, 1, 1, 1, 6, B),
        test_normal=draw(7, 1, 1, 1, 6, B),
    )  # fmt: skip
    rates = accepted.mean((0, 2, 3, 4))
    assert (rates - 0.5).abs().max() < 6 * 0.5 / math.sqrt(B)
    shift = increment.mean(-1)[0, :, 0] @ logit[0, 0, 0, :, 0] / logit[0, 0, 0, :, 0].norm()
    assert abs(shift[0] - 1 / math.sqrt(2 * math.pi)) < 6 / math.sqrt(B)
    assert abs(shift[1]) < 6 / math.sqrt(B)


def test_expected_noise_is_the_mean_of_nem_noise_in_both_modes():
    B = 40_000
    axes = sorted_axes(("nem", "expected-nem"))
    stack = GateStack(*zip(*axes, strict=True))
    logit = draw(5, 1, 1, 2, 6, 1).expand(1, 4, 2, 6, B)
    increment, _ = gate_increment(
        stack, logit, torch.sigmoid(logit), torch.full((4,), 0.3, dtype=torch.float64), draw(6, 1, 1, 2, 6, B)
    )
    mean = dict(zip(axes, increment.mean(-1)[0], strict=True))
    for mode in ("additive", "multiplicative"):
        assert (mean["nem", mode] - mean["expected-nem", mode]).abs().max() < 6 * 0.3 / math.sqrt(B)


@given(st.floats(0, 10), st.floats(0, 3), st.integers(0, 1000))
def test_annealing_never_grows_and_starts_at_sigma(sigma, decay, epoch):
    assert annealed(sigma, decay, 0) == sigma
    assert annealed(sigma, decay, epoch + 1) <= annealed(sigma, decay, epoch)
    assert Noise("nem", "additive", sigma, decay).at(epoch) == annealed(sigma, decay, epoch)


@pytest.mark.parametrize(
    "bad", [{"kind": "none"}, {"mode": "both"}, {"sigma": -1.0}, {"sigma": math.nan}, {"decay": -0.1}]
)
def test_a_noise_source_checks_its_arguments(bad):
    with pytest.raises(ValueError, match="expected"):
        Noise(**{"kind": "nem", "mode": "additive", "sigma": 0.1, **bad})


def test_missing_draws_are_named():
    stack = GateStack(("matched",), ("additive",))
    logit = draw(1, 1, 1, 2, 3, 4)
    with pytest.raises(ValueError, match="independent draw"):
        gate_increment(stack, logit, torch.sigmoid(logit), torch.ones(1), draw(2, 1, 1, 2, 3, 4))
    with pytest.raises(ValueError, match="sorted by mode and kind"):
        GateStack(("blind", "nem"), ("additive", "additive"))
