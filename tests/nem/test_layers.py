"""The drop-in layers and losses: torch's own numbers without noise, exact gradients with it."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nem import Noise, NoisyGRU, NoisyLSTM, fast, kernels, nem_cross_entropy, nem_mse_loss, theory
from nem.noise import GateNoise
from tests.conftest import refused
from tests.nem import stacks
from tests.nem.stacks import generator

PAIRS = pytest.mark.parametrize(("mine", "torchs"), [(NoisyLSTM, nn.LSTM), (NoisyGRU, nn.GRU)])
BOTH = pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
MODES = pytest.mark.parametrize("mode", ["additive", "multiplicative"])
LOUD = Noise("nem", "additive", 0.4, decay=1.0)
DOUBLE = torch.float64
draw = partial(stacks.draw, dtype=torch.float32)


def states(layer, value):
    return value if isinstance(layer, nn.GRU) else (value, 0.5 * value)


def flat(outputs):
    output, last = outputs
    return [output, *(last if isinstance(last, tuple) else (last,))]


def ran(layer, x, h, **options):
    """Outputs and last states of a layer, and the gradients of all that it took."""
    layer.zero_grad()
    x, h = x.clone().requires_grad_(), None if h is None else h.clone().requires_grad_()
    outputs = flat(layer(x, None if h is None else states(layer, h), **options))
    sum((k + 1) * out.sin().sum() for k, out in enumerate(outputs)).backward()
    return [*outputs, x.grad, *([] if h is None else [h.grad]), *(p.grad.clone() for p in layer.parameters())]


@PAIRS
@given(*(st.integers(1, most) for most in (6, 7, 5, 4)), *[st.booleans()] * 3)
def test_without_noise_it_is_torchs_layer(mine, torchs, T, J, I, B, bias, batch_first, initial):
    torch_layer, layer = (kind(I, J, bias=bias, batch_first=batch_first, dtype=DOUBLE) for kind in (torchs, mine))
    layer.load_state_dict(torch_layer.state_dict())
    assert list(layer.state_dict()) == list(torch_layer.state_dict())
    x = stacks.draw(1, *((B, T) if batch_first else (T, B)), I)
    h = stacks.draw(2, 1, B, J) if initial else None
    for one, two in zip(ran(layer, x, h), ran(torch_layer, x, h), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@BOTH
@pytest.mark.parametrize("kind", ["blind", "nem", "reversed-nem"])
@MODES
def test_zero_noise_changes_nothing_and_evaluation_no_bit(layer_class, kind, mode):
    x, quiet = draw(0, 5, 2, 3), layer_class(3, 4)
    zero, loud = (layer_class(3, 4, noise=Noise(kind, mode, sigma)) for sigma in (0.0, 0.5))
    for layer in (zero, loud):
        layer.load_state_dict(quiet.state_dict())
    expected = flat(quiet(x))
    for a, b in zip(flat(zero(x, generator=generator(1))), expected, strict=True):  # torch's kernel and ours
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert not torch.equal(loud(x, generator=generator(1))[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(flat(loud.eval()(x)), expected, strict=True))


@BOTH
def test_a_seed_is_a_sequence_and_a_missing_one_an_error(layer_class):
    layer, x = layer_class(3, 4, noise=LOUD), draw(0, 5, 2, 3)
    refused(ValueError, r"torch\.Generator", layer, x)
    first = layer(x, generator=generator(1))[0]
    assert torch.equal(first, layer(x, generator=generator(1))[0])
    assert not torch.equal(first, layer(x, generator=generator(2))[0])
    assert 0 < layer.acceptance < 1
    assert torch.isfinite(layer_class(3, 4, noise=Noise("expected-nem", "additive", 0.4))(x)[0]).all(), "draws nothing"
    layer.set_epoch(10**6)
    assert torch.allclose(layer(x, generator=generator(1))[0], layer.eval()(x)[0], atol=1e-5)


@BOTH
@pytest.mark.parametrize("noise", [None, LOUD])
def test_shapes_are_checked(layer_class, noise):
    """Two layers' states, another batch, an unbatched state: none of them is cut or stretched."""
    layer = layer_class(3, 4, noise=noise)
    cases = [((5, 2, 3), shape, r"\(1, 2, 4\)") for shape in ((2, 2, 4), (1, 1, 4), (1, 4), (1, 2, 3))]
    for given_, shape, right in [*cases, ((5, 3), (1, 2, 4), r"\(1, 4\)")]:
        with pytest.raises(ValueError, match=rf"expected initial states of shape {right}"):
            layer(torch.zeros(given_), states(layer, torch.zeros(shape)), generator=generator())
    for shape in ((5, 2, 2), (0, 2, 3)):
        refused(ValueError, "last size 3, not empty", layer, torch.zeros(shape), generator=generator())
    refused(ValueError, "hidden_size of at least 1", layer_class, 3, 0)


@PAIRS
@pytest.mark.parametrize(("I", "J"), [(3, 6), (3, 1), (kernels.FEW + 9, 6)])
@pytest.mark.parametrize("form", ["batched", "batch_first", "unbatched"])
def test_the_compiled_layer_is_the_cells(mine, torchs, I, J, form, monkeypatch):
    """With initial states, and gradients into every input: nothing but rounding depends on the form."""
    layer = mine(I, J, batch_first=form == "batch_first", noise=Noise("nem", "multiplicative", 0.4))
    layer.load_state_dict(torchs(I, J).state_dict())
    x = draw(1, *{"batched": (5, 4, I), "batch_first": (4, 5, I), "unbatched": (5, I)}[form])
    h = draw(2, *((1, J) if form == "unbatched" else (1, 4, J)))
    compiled = ran(layer, x, h, generator=generator(7))
    monkeypatch.setattr(kernels, "numba", None)
    for one, two in zip(compiled, ran(layer, x, h, generator=generator(7)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)


@BOTH
def test_input_gradients_are_made_only_when_asked_and_twice_over_a_retained_graph(layer_class, monkeypatch):
    asked, backward = [], fast.backward
    monkeypatch.setattr(fast, "backward", lambda *a, **k: asked.append((k["inputs"], k["states"])) or backward(*a, **k))
    layer = layer_class(3, 4, noise=LOUD)
    for wanted in (False, True):
        x = draw(0, 5, 2, 3).requires_grad_(wanted)
        loss, to = layer(x, generator=generator(1))[0].sin().sum(), [*layer.parameters(), *([x] if wanted else [])]
        first, second = (torch.autograd.grad(loss, to, retain_graph=True) for _ in range(2))
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert asked == [(False, False)] * 2 + [(True, False)] * 2


def test_gru_noise_acts_on_the_papers_update_gate():
    """z = 1 - z_torch: with z at 1/2, torch's own gate would move the other way."""
    layer = NoisyGRU(1, 1, bias=False, noise=Noise("blind", "additive", 0.2), dtype=DOUBLE)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor([[0.0], [0.0], [1.0]]))  # r = z = 1/2
        layer.weight_hh_l0.zero_()
    h = layer(torch.ones(1, 1, dtype=DOUBLE), generator=generator(1))[0][0, 0]
    normal = stacks.draw(1, 2)[0]
    torch.testing.assert_close(h, (0.5 + 0.2 * normal) * torch.tanh(torch.ones((), dtype=DOUBLE)))


@PAIRS
def test_it_is_torchs_layer_to_whoever_asks(mine, torchs):
    layer = mine(3, 4, noise=LOUD, granularity="time", latent="sampled", injection="backward", clamp=True)
    layer(draw(0, 5, 40, 3), generator=generator(1))[0].sum().backward()
    assert 0.3 < layer.acceptance < 1
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    assert isinstance(layer, torchs)
    assert "noise=Noise" in repr(layer)
    gates = GateNoise(("nem",), ("additive",), *layer._choices)
    assert (gates.granularity, gates.latent, gates.injection, gates.clamp) == ("time", "sampled", "backward", True)
    one, two = mine(3, 4), mine(3, 4)
    for fresh in (one, two):
        fresh.reset_parameters(generator(5))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


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


@MODES
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
    refused(ValueError, "expected output_delta loss or literal, found 'b21'", ran, "b21")


def test_losses_check_shapes_and_generators():
    refused(ValueError, "expected integer classes", nem_cross_entropy, torch.zeros(3, 2), torch.zeros(4))
    refused(ValueError, "expected a target", nem_mse_loss, torch.zeros(3, 2), torch.zeros(3, 1))
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
