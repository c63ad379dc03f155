"""The losses: torch's own without noise, the paper's with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nem import Noise, nem_cross_entropy, nem_mse_loss, theory
from tests.nem.stacks import generator

DOUBLE = torch.float64
MODES = pytest.mark.parametrize("mode", ["additive", "multiplicative"])


@given(st.integers(1, 6), st.integers(1, 5))
def test_losses_without_noise_are_torchs(B, K):
    logits = torch.randn(B, K, generator=generator(B), dtype=DOUBLE)
    labels = torch.arange(B) % K
    torch.testing.assert_close(nem_cross_entropy(logits, labels), nn.functional.cross_entropy(logits, labels))
    codes = nn.functional.one_hot(labels, K)
    torch.testing.assert_close(nem_cross_entropy(logits, codes), nn.functional.cross_entropy(logits, labels))
    target = torch.randn(B, K, generator=generator(K), dtype=DOUBLE)
    torch.testing.assert_close(nem_mse_loss(logits, target), nn.functional.mse_loss(logits, target) * K)


@MODES
@pytest.mark.parametrize("loss", [nem_cross_entropy, nem_mse_loss])
def test_nem_noise_never_raises_the_noisy_loss_above_the_clean_one_and_fades(loss, mode):
    """By construction: which is why clean losses have to be reported."""
    output, target = torch.randn(64, 5, generator=generator(1)), torch.randn(64, 5, generator=generator(2))
    target = target.argmax(-1) if loss is nem_cross_entropy else target
    clean, noise = loss(output, target), Noise("nem", mode, 0.5, decay=2.0)
    for seed in range(20):
        assert loss(output, target, noise=noise, generator=generator(seed)) < clean
    late = loss(output, target, noise=noise, epoch=10**5, generator=generator(3))
    torch.testing.assert_close(late, clean, rtol=1e-4, atol=1e-6)


def test_the_noisy_cross_entropy_has_its_closed_form_gradient():
    """a·Σ(y + n) - (y + n), not a - (y + n): noisy targets do not sum to 1 (docs/errata.md on (B.21))."""
    logits = torch.randn(7, 4, generator=generator(1), dtype=DOUBLE, requires_grad=True)
    labels = torch.arange(7) % 4
    nem_cross_entropy(logits, labels, noise=Noise("blind", "additive", 0.5), generator=generator(3)).backward()
    noisy = nn.functional.one_hot(labels, 4) + 0.5 * torch.randn(7, 4, generator=generator(3), dtype=DOUBLE)
    a = torch.softmax(logits.detach(), -1)
    torch.testing.assert_close(logits.grad, (a * noisy.sum(-1, keepdim=True) - noisy) / 7)
    assert not torch.allclose(logits.grad, (a - noisy) / 7)


@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_the_literal_delta_has_the_losses_value_and_b21s_gradient(mode):
    def ran(delta):
        logits = torch.randn(7, 4, generator=generator(1), dtype=DOUBLE, requires_grad=True)
        noise = Noise("reversed-nem", mode, 0.5)
        loss = nem_cross_entropy(logits, labels, noise=noise, generator=generator(3), output_delta=delta)
        return loss.item(), torch.softmax(logits.detach(), -1), torch.autograd.grad(loss, logits)[0] * 7

    labels = torch.arange(7) % 4
    (value, a, exact), (same, _, literal) = ran("loss"), ran("literal")
    assert value == same > 0
    surplus = literal.sum(-1, keepdim=True)  # of the literal delta: 1 - Σ(y + n)
    assert surplus.abs().max() > 0.1
    torch.testing.assert_close(literal, exact + a * surplus)
    with pytest.raises(ValueError, match="expected output_delta loss or literal, found 'b21'"):
        ran("b21")


def test_losses_check_shapes_and_generators():
    with pytest.raises(ValueError, match="expected integer classes"):
        nem_cross_entropy(torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="expected a target"):
        nem_mse_loss(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"torch\.Generator"):
        nem_mse_loss(torch.zeros(3, 2), torch.zeros(3, 2), noise=Noise("nem", "additive", 0.1))


@MODES
def test_expected_noise_needs_no_generator_and_moves_targets_by_its_mean(mode):
    logits, labels = torch.randn(7, 4, generator=generator(1), dtype=DOUBLE), torch.arange(7) % 4
    expected = nem_cross_entropy(logits, labels, noise=Noise("expected-nem", mode, 0.5))
    log_a, codes = torch.log_softmax(logits, -1), nn.functional.one_hot(labels, 4).double()
    normal = log_a if mode == "additive" else codes * log_a
    mean = theory.expected_halfspace_noise(normal, 0.5) * (1 if mode == "additive" else codes)
    torch.testing.assert_close(expected, -((codes + mean) * log_a).sum(-1).mean())
