"""The drop-in layers: torch's own numbers without noise, exact gradients with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.noise import Noise
from pipeline.recurrent import NoisyGRU, NoisyLSTM, nem_cross_entropy, nem_mse_loss

PAIRS = [(NoisyLSTM, nn.LSTM), (NoisyGRU, nn.GRU)]
DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def states(layer, value):
    return value if isinstance(layer, (NoisyGRU, nn.GRU)) else (value, 0.5 * value)


def flat(outputs):
    output, last = outputs
    return [output, *(last if isinstance(last, tuple) else (last,))]


@pytest.mark.parametrize(("mine", "torchs"), PAIRS)
@given(
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_without_noise_it_is_torchs_layer(mine, torchs, T, J, I, B, bias, batch_first, initial):
    torch_layer = torchs(I, J, bias=bias, batch_first=batch_first, dtype=DOUBLE)
    layer = mine(I, J, bias=bias, batch_first=batch_first, dtype=DOUBLE)
    layer.load_state_dict(torch_layer.state_dict())
    assert list(layer.state_dict()) == list(torch_layer.state_dict())
    x = torch.randn(*((B, T) if batch_first else (T, B)), I, generator=generator(1), dtype=DOUBLE)
    h = torch.randn(1, B, J, generator=generator(2), dtype=DOUBLE)
    found, expected = [], []
    for each, store in ((layer, found), (torch_layer, expected)):
        x_leaf, h_leaf = x.clone().requires_grad_(), h.clone().requires_grad_()
        outputs = flat(each(x_leaf, states(each, h_leaf)) if initial else each(x_leaf))
        sum((k + 1) * out.sin().sum() for k, out in enumerate(outputs)).backward()
        store += [*outputs, x_leaf.grad, *([h_leaf.grad] if initial else []), *(p.grad for p in each.parameters())]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("mine", "torchs"), PAIRS)
def test_unbatched_input_and_single_precision(mine, torchs):
    torch_layer, layer = torchs(3, 4), mine(3, 4)
    layer.load_state_dict(torch_layer.state_dict())
    x = torch.randn(5, 3, generator=generator())
    for a, b in zip(flat(layer(x)), flat(torch_layer(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
@pytest.mark.parametrize("kind", ["blind", "nem", "matched"])
@pytest.mark.parametrize("clamp", [False, True])
def test_gradients_are_those_of_the_noisy_function(layer_class, mode, kind, clamp):
    """gradcheck in float64: masks and increments are constants almost everywhere."""
    layer = layer_class(2, 3, dtype=DOUBLE, noise=Noise(kind, mode, 0.3), clamp=clamp)
    layer.reset_parameters(generator(1))
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 2, generator=generator(2), dtype=DOUBLE, requires_grad=True)

    def function(x, *values):
        outputs = torch.func.functional_call(
            layer, dict(zip(names, values, strict=True)), (x,), {"generator": generator(7)}
        )
        return tuple(flat(outputs))

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x, *values), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
@pytest.mark.parametrize("kind", ["blind", "nem"])
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_zero_noise_and_evaluation_change_no_bit(layer_class, kind, mode):
    quiet = layer_class(3, 4, noise=None)
    x = torch.randn(5, 2, 3, generator=generator())
    zero = layer_class(3, 4, noise=Noise(kind, mode, 0.0))
    loud = layer_class(3, 4, noise=Noise(kind, mode, 0.5))
    for layer in (zero, loud):
        layer.load_state_dict(quiet.state_dict())
    expected = flat(quiet(x))
    assert all(torch.equal(a, b) for a, b in zip(flat(zero(x, generator=generator(1))), expected, strict=True))
    assert not torch.equal(loud(x, generator=generator(1))[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(flat(loud.eval()(x)), expected, strict=True))


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_backward_injection_leaves_the_forward_pass_alone(layer_class):
    layers = [
        layer_class(3, 4, dtype=DOUBLE, noise=noise, injection="backward")
        for noise in (None, Noise("blind", "additive", 0.4), Noise("blind", "additive", 0.0))
    ]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    x = torch.randn(5, 2, 3, generator=generator(), dtype=DOUBLE)
    outputs = [layer(x, generator=generator(1))[0] for layer in layers]
    assert torch.equal(outputs[0], outputs[1])
    for out in outputs:
        out.sin().sum().backward()
    grads = [layer.weight_hh_l0.grad for layer in layers]
    assert not torch.allclose(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_a_seed_is_a_sequence_and_a_missing_one_an_error(layer_class):
    layer = layer_class(3, 4, noise=Noise("nem", "additive", 0.4, decay=1.0))
    x = torch.randn(5, 2, 3, generator=generator())
    with pytest.raises(ValueError, match=r"torch\.Generator"):
        layer(x)
    first = layer(x, generator=generator(1))[0]
    assert torch.equal(first, layer(x, generator=generator(1))[0])
    assert not torch.equal(first, layer(x, generator=generator(2))[0])
    assert 0 < layer.acceptance < 1
    layer.set_epoch(10**6)
    assert torch.allclose(layer(x, generator=generator(1))[0], layer.eval()(x)[0], atol=1e-5)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
@pytest.mark.parametrize("granularity", ["slice", "neuron", "time"])
@pytest.mark.parametrize("latent", ["mean-field", "sampled"])
def test_every_option_runs_and_accepts_some(layer_class, granularity, latent):
    for mode in ("additive", "multiplicative"):
        layer = layer_class(3, 6, noise=Noise("nem", mode, 0.4), granularity=granularity, latent=latent)
        out = layer(torch.randn(5, 40, 3, generator=generator()), generator=generator(1))[0]
        out.sum().backward()
        assert 0.3 < layer.acceptance < 1
        assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    expected = layer_class(3, 6, noise=Noise("expected-nem", "additive", 0.4))
    assert torch.isfinite(expected(torch.randn(5, 4, 3, generator=generator()))[0]).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="last size 3"):
        NoisyLSTM(3, 4)(torch.zeros(5, 2, 2))
    with pytest.raises(ValueError, match="hidden_size of at least 1"):
        NoisyGRU(3, 0)


@given(st.integers(1, 6), st.integers(1, 5))
def test_losses_without_noise_are_torchs(B, K):
    logits = torch.randn(B, K, generator=generator(B), dtype=DOUBLE)
    labels = torch.arange(B) % K
    torch.testing.assert_close(nem_cross_entropy(logits, labels), nn.functional.cross_entropy(logits, labels))
    codes = nn.functional.one_hot(labels, K)
    torch.testing.assert_close(nem_cross_entropy(logits, codes), nn.functional.cross_entropy(logits, labels))
    target = torch.randn(B, K, generator=generator(K), dtype=DOUBLE)
    torch.testing.assert_close(nem_mse_loss(logits, target), nn.functional.mse_loss(logits, target) * K)


@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_nem_noise_never_raises_the_noisy_loss_above_the_clean_one(mode):
    """By construction: which is why clean losses have to be reported."""
    logits = torch.randn(64, 5, generator=generator(1))
    labels = torch.arange(64) % 5
    for seed in range(20):
        noisy = nem_cross_entropy(logits, labels, noise=Noise("nem", mode, 0.5), generator=generator(seed))
        assert noisy <= nem_cross_entropy(logits, labels) + 1e-6
        target = torch.randn(64, 5, generator=generator(2))
        noisy = nem_mse_loss(logits, target, noise=Noise("nem", mode, 0.5), generator=generator(seed))
        assert noisy <= nem_mse_loss(logits, target) + 1e-5


def test_the_noisy_cross_entropy_has_its_closed_form_gradient():
    """a·Σ(y + n) - (y + n), not a - (y + n): noisy targets do not sum to 1 (docs/errata.md on (B.21))."""
    logits = torch.randn(7, 4, generator=generator(1), dtype=DOUBLE, requires_grad=True)
    labels = torch.arange(7) % 4
    nem_cross_entropy(logits, labels, noise=Noise("blind", "additive", 0.5), generator=generator(3)).backward()
    noisy = nn.functional.one_hot(labels, 4) + 0.5 * torch.randn(7, 4, generator=generator(3), dtype=DOUBLE)
    a = torch.softmax(logits.detach(), -1)
    torch.testing.assert_close(logits.grad, (a * noisy.sum(-1, keepdim=True) - noisy) / 7)
    assert not torch.allclose(logits.grad, (a - noisy) / 7)


def test_losses_check_shapes_and_generators():
    with pytest.raises(ValueError, match="expected integer classes"):
        nem_cross_entropy(torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="expected a target"):
        nem_mse_loss(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"torch\.Generator"):
        nem_mse_loss(torch.zeros(3, 2), torch.zeros(3, 2), noise=Noise("nem", "additive", 0.1))
