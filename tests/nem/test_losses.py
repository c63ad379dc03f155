"""Losses in torch's layouts and with its options; noise in them by their own likelihood."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from nem import Noise, nem_binary_cross_entropy, nem_cross_entropy, nem_mse_loss, theory
from nem.conditions import MODES
from tests.conftest import refused
from tests.nem.stacks import draw, generator

KINDS = ("nem", "reversed-nem", "blind")
SHAPES = st.lists(st.integers(1, 4), max_size=2).map(tuple)
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])


def same(mine, right, logits):
    """Value and gradient."""
    torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(loss.sin().sum(), logits, retain_graph=True)[0] for loss in (mine, right)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 5), st.integers(1, 5), SHAPES, REDUCTIONS, *[st.booleans()] * 3, st.integers(0, 10**6))
def test_cross_entropy_is_torchs_in_torchs_layout_and_ours(B, K, more, reduction, codes, weighted, literal, seed):
    logits = draw(seed, B, K, *more).requires_grad_()
    numbers = draw(seed + 1, B, *more).mul(3).long() % K
    ignored = draw(seed + 2, B, *more) > 0.8
    weight = draw(seed + 3, K).exp() if weighted else None
    target = torch.softmax(draw(seed + 4, B, K, *more), 1) if codes else torch.where(ignored, 77, numbers)
    options = {"weight": weight, "reduction": reduction} | ({} if codes else {"ignore_index": 77})
    right = functional.cross_entropy(logits, target, **options)
    delta = "loss" if weighted else ("literal" if literal else "loss")
    mine = nem_cross_entropy(logits, target, dim=1, output_delta=delta, **options)
    if not codes and bool(ignored.all()) and reduction == "mean":
        assert mine.isnan() == right.isnan()
        return
    same(mine, right, logits)
    moved = logits.movedim(1, -1)
    ours = nem_cross_entropy(moved, target.movedim(1, -1) if codes else target, **options)
    same(ours, right, logits)


@given(st.integers(1, 5), st.integers(1, 5), SHAPES, REDUCTIONS, *[st.booleans()] * 2, st.integers(0, 10**6))
def test_double_cross_entropy_and_squared_error_are_torchs_summed_over_outputs(
    B, K, more, reduction, weighted, present, seed
):
    logits = draw(seed, B, K, *more).mul(5).requires_grad_()
    labels, wide = (draw(seed + 1, B, K, *more) > 0).double(), (K, *[1] * len(more))
    weight, pos = (draw(seed + k, K).exp() if on else None for k, on in ((2, weighted), (3, present)))
    broad = [None if part is None else part.view(wide) for part in (weight, pos)]
    right = functional.binary_cross_entropy_with_logits(logits, labels, broad[0], None, None, "none", broad[1])
    own = {"mean": lambda x: x.sum(1).mean(), "sum": torch.sum, "none": lambda x: x.sum(1)}[reduction]
    for form in (labels, labels.bool(), labels.long()):
        mine = nem_binary_cross_entropy(logits, form, dim=1, weight=weight, pos_weight=pos, reduction=reduction)
        same(mine, own(right), logits)
    ours = nem_binary_cross_entropy(
        logits.movedim(1, -1), labels.movedim(1, -1), weight=weight, pos_weight=pos, reduction=reduction
    )
    same(ours, own(right), logits)
    right = functional.mse_loss(logits, labels, reduction="none")
    same(nem_mse_loss(logits, labels, dim=1, reduction=reduction), own(right), logits)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@given(seed=st.integers(0, 10**6), K=st.integers(1, 4))
def test_noise_is_tested_by_the_likelihood_of_the_loss_itself(kind, mode, weighted, seed, K):
    """Minus the loss is the log-likelihood, so injected NEM noise never raises it, position by position.

    Without weights the gains are the theory's.
    """
    B, T, sigma = 3, 4, 0.7
    logits, labels = draw(seed, B, K, T), (draw(seed + 1, B, K, T) > 0).double()
    numbers = draw(seed + 2, B, T).mul(3).long() % K
    weight = draw(seed + 3, K).exp() if weighted else None
    noise = Noise(kind, mode, sigma)
    n = sigma * draw(seed + 4, B, T, K)
    codes = functional.one_hot(numbers, K).double()
    scores, y = logits.movedim(1, -1), labels.movedim(1, -1)
    none, heads = {"noise": None}, {
        nem_cross_entropy: (numbers, codes, {"weight": weight}),
        nem_binary_cross_entropy: (labels, y, {"weight": weight, "pos_weight": weight}),
        nem_mse_loss: (labels, y, {}),
    }  # fmt: skip
    for loss, (target, clean, options) in heads.items():
        call = partial(loss, logits, target, dim=1, reduction="none", **options)
        before, after = call(**none), call(noise=noise, generator=generator(seed + 4))
        moved = clean + n if mode == "additive" else clean * (1 + n)
        blind = call(noise=Noise("blind", mode, sigma), generator=generator(seed + 4))
        gain = before - blind
        taken = {"nem": gain >= 0, "reversed-nem": gain <= 0, "blind": gain == gain}[kind]
        torch.testing.assert_close(after, torch.where(taken, blind, before), rtol=1e-9, atol=1e-9)
        if not weighted:
            a = {nem_cross_entropy: torch.softmax(scores, -1), nem_binary_cross_entropy: torch.sigmoid(scores)}.get(
                loss
            )
            own = {
                nem_cross_entropy: lambda m, a=a: theory.classifier_additive_gain(m, a),
                nem_binary_cross_entropy: lambda m, a=a: theory.logistic_additive_gain(m, a),
                nem_mse_loss: lambda m: theory.regressor_additive_gain(m, y, scores),
            }[loss](moved - clean)
            torch.testing.assert_close(gain, own, rtol=1e-8, atol=1e-9)


def test_ignored_positions_receive_no_gradient_whatever_the_noise():
    logits, numbers = draw(1, 6, 3).requires_grad_(), torch.tensor([0, -100, 2, -100, 1, 0])
    for delta in ("loss", "literal"):
        loss = nem_cross_entropy(logits, numbers, noise=Noise("blind", "additive", 1.0), generator=generator(1),
                                 output_delta=delta)  # fmt: skip
        slope = torch.autograd.grad(loss, logits)[0]
        assert ((slope == 0).all(-1) == (numbers == -100)).all()


def test_noisy_logistic_targets_have_the_closed_form_gradient_and_mean():
    """a - (y + n): no sum of targets occurs (docs/theory.md, "Logistic outputs")."""
    logits, labels = draw(1, 7, 4).requires_grad_(), (draw(2, 7, 4) > 0).double()
    noise = Noise("blind", "additive", 0.5)
    nem_binary_cross_entropy(logits, labels, noise=noise, generator=generator(3)).backward()
    n = 0.5 * draw(3, 7, 4)
    torch.testing.assert_close(logits.grad, (torch.sigmoid(logits.detach()) - labels - n) / 7)
    for mode in MODES:
        expected = nem_binary_cross_entropy(logits, labels, noise=Noise("expected-nem", mode, 0.5))
        lever = logits.detach() * (labels if mode == "multiplicative" else 1)
        mean = theory.expected_halfspace_noise(lever, 0.5) * (labels if mode == "multiplicative" else 1)
        right = functional.binary_cross_entropy_with_logits(logits, labels + mean, reduction="none").sum(-1).mean()
        torch.testing.assert_close(expected, right)


@pytest.mark.parametrize("dim", [-1, 1])
def test_several_labels_at_once_are_sent_to_their_own_loss(dim):
    logits = draw(1, 5, 3, 3)
    for codes in (torch.ones(5, 3, 3), torch.zeros(5, 3, 3), torch.eye(3).expand(5, 3, 3) * 2,
                  torch.tensor([2.0, -1.0, 0.0]).expand(5, 3, 3)):  # fmt: skip
        refused(ValueError, "sum to 1.*use nem_binary_cross_entropy", nem_cross_entropy, logits, codes, dim=dim)
    soft = torch.full((5, 3, 3), 1 / 3)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert math.isfinite(nem_cross_entropy(logits.to(dtype), soft.to(dtype), dim=dim))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 4), max_size=4), st.integers(-5, 4))
def test_shapes_that_do_not_fit_are_errors_and_others_are_not(shape, other, dim):
    logits, target = torch.zeros(shape), torch.zeros(other)
    inside = -len(shape) <= dim < len(shape)
    axis = dim % len(shape)
    fits = {
        nem_cross_entropy: [(target.long(), inside and other == shape[:axis] + shape[axis + 1 :])],
        nem_binary_cross_entropy: [(target, inside and shape == other)],
        nem_mse_loss: [(target, inside and shape == other)],
    }  # fmt: skip
    for loss, cases in fits.items():
        for given_, right in cases:
            if right:
                assert torch.isfinite(loss(logits, given_, dim=dim))
            else:
                refused(ValueError, "expected", loss, logits, given_, dim=dim)


@pytest.mark.parametrize("noise", [None, *(Noise("nem", mode, 0.3) for mode in MODES)])
@pytest.mark.parametrize("output_delta", ["loss", "literal"])
def test_a_class_that_a_mask_rules_out_takes_no_part(noise, output_delta):
    """As in torch's loss: logits of -inf are what masks of actions and of vocabularies write."""
    logits, right = (draw(3, 6, 4).masked_fill(torch.arange(4) == 2, -math.inf).requires_grad_() for _ in range(2))
    numbers = torch.tensor([0, 1, 3, 3, 0, 1])
    loss = nem_cross_entropy(logits, numbers, noise=noise, generator=generator(1), output_delta=output_delta)
    functional.cross_entropy(right, numbers).backward()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[:, 2].any()
    if noise is None:
        torch.testing.assert_close(logits.grad, right.grad)
    ruled_out = nem_cross_entropy(logits, numbers * 0 + 2, reduction="none")
    assert (ruled_out == math.inf).all(), "a target there costs what it costs in torch"


def test_whole_numbers_are_values_too():
    prediction, counts = draw(1, 5, 2), torch.arange(10).reshape(5, 2)
    noise = Noise("nem", "additive", 0.3)
    losses = [nem_mse_loss(prediction, y, noise=noise, generator=generator(1)) for y in (counts, counts.double())]
    torch.testing.assert_close(*losses)
    assert losses[0] < nem_mse_loss(prediction, counts)


def test_every_other_fault_is_named():
    logits, numbers = torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long)
    refused(ValueError, r"torch's \(B, K, …\) has dim=1", nem_cross_entropy, logits, numbers)
    refused(
        ValueError, "from 0 to 2, or ignore_index -100, found 3 to 3", nem_cross_entropy, logits, numbers + 3, dim=1
    )
    refused(ValueError, "found -1 to -1", nem_cross_entropy, logits, numbers - 1, dim=1)
    refused(ValueError, r"weight of shape \(3,\), found \(4,\)", nem_cross_entropy, logits, numbers, dim=1,
            weight=torch.ones(4))  # fmt: skip
    refused(ValueError, r"\(B\.21\) has none", nem_cross_entropy, logits, numbers, dim=1, weight=torch.ones(3),
            output_delta="literal")  # fmt: skip
    refused(TypeError, "label_smoothing; leave it out", nem_cross_entropy, logits, numbers, label_smoothing=0.1)
    refused(TypeError, "no options but reduction, found weight", nem_mse_loss, logits, logits, weight=torch.ones(3))
    refused(ValueError, r"pos_weight of shape \(4,\)", nem_binary_cross_entropy, logits, logits,
            pos_weight=torch.ones(3))  # fmt: skip
    refused(ValueError, "labels between 0 and 1, found 2 to 2", nem_binary_cross_entropy, logits, logits + 2)
    for loss in (nem_cross_entropy, nem_binary_cross_entropy, nem_mse_loss):
        refused(ValueError, "reduction mean, sum or none", loss, logits, logits, reduction="max")
        refused(ValueError, "an axis of", loss, logits, logits, dim=3)
    for loss, target in ((nem_binary_cross_entropy, logits), (nem_cross_entropy, numbers)):
        refused(ValueError, r"torch\.Generator", loss, logits, target, dim=1, noise=Noise("nem", "additive", 0.1))
