"""The drop-in layers: torch's own numbers without noise, exact gradients with it."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nem import Noise, NoisyGRU, NoisyLSTM, fast
from tests.nem import stacks

PAIRS = [(NoisyLSTM, nn.LSTM), (NoisyGRU, nn.GRU)]
DOUBLE = torch.float64
draw = partial(stacks.draw, dtype=torch.float32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def states(layer, value):
    return value if isinstance(layer, (NoisyGRU, nn.GRU)) else (value, 0.5 * value)


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


@pytest.mark.parametrize(("mine", "torchs"), PAIRS)
@given(*(st.integers(1, most) for most in (6, 7, 5, 4)), *[st.booleans()] * 3)
def test_without_noise_it_is_torchs_layer(mine, torchs, T, J, I, B, bias, batch_first, initial):
    torch_layer = torchs(I, J, bias=bias, batch_first=batch_first, dtype=DOUBLE)
    layer = mine(I, J, bias=bias, batch_first=batch_first, dtype=DOUBLE)
    layer.load_state_dict(torch_layer.state_dict())
    assert list(layer.state_dict()) == list(torch_layer.state_dict())
    x = torch.randn(*((B, T) if batch_first else (T, B)), I, generator=generator(1), dtype=DOUBLE)
    h = torch.randn(1, B, J, generator=generator(2), dtype=DOUBLE)
    for one, two in zip(*(ran(module, x, h if initial else None) for module in (layer, torch_layer)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
@pytest.mark.parametrize("kind", ["blind", "nem", "reversed-nem"])
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_zero_noise_changes_nothing_and_evaluation_no_bit(layer_class, kind, mode):
    quiet = layer_class(3, 4, noise=None)
    x = draw(0, 5, 2, 3)
    zero = layer_class(3, 4, noise=Noise(kind, mode, 0.0))
    loud = layer_class(3, 4, noise=Noise(kind, mode, 0.5))
    for layer in (zero, loud):
        layer.load_state_dict(quiet.state_dict())
    expected = flat(quiet(x))
    for a, b in zip(flat(zero(x, generator=generator(1))), expected, strict=True):  # torch's kernel and ours
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert not torch.equal(loud(x, generator=generator(1))[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(flat(loud.eval()(x)), expected, strict=True))


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_a_seed_is_a_sequence_and_a_missing_one_an_error(layer_class):
    layer = layer_class(3, 4, noise=Noise("nem", "additive", 0.4, decay=1.0))
    x = draw(0, 5, 2, 3)
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
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_every_option_runs_and_accepts_some(layer_class, granularity, mode):
    for kind in ("nem", "reversed-nem"):
        layer = layer_class(3, 6, noise=Noise(kind, mode, 0.4), granularity=granularity, latent="sampled")
        layer(draw(0, 5, 40, 3), generator=generator(1))[0].sum().backward()
        assert 0.3 < layer.acceptance < 1
        assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
        expected = layer_class(3, 6, noise=Noise(f"expected-{kind}", mode, 0.4))
        assert torch.isfinite(expected(draw(0, 5, 4, 3))[0]).all()


def test_shapes_are_checked():
    for shape in ((5, 2, 2), (0, 2, 3)):
        with pytest.raises(ValueError, match="last size 3, not empty"):
            NoisyLSTM(3, 4)(torch.zeros(shape))
    with pytest.raises(ValueError, match="hidden_size of at least 1"):
        NoisyGRU(3, 0)
    with pytest.raises(TypeError, match="num_layers"):
        NoisyLSTM(3, 4, num_layers=2)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
@pytest.mark.parametrize("noise", [None, Noise("nem", "additive", 0.1)])
def test_a_state_of_another_shape_is_an_error(layer_class, noise):
    """Two layers' states, another batch, an unbatched state: none of them is cut or stretched."""
    layer = layer_class(3, 4, noise=noise)
    for shape in ((2, 2, 4), (1, 1, 4), (1, 4), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"expected initial states of shape \(1, 2, 4\)"):
            layer(torch.zeros(5, 2, 3), states(layer, torch.zeros(shape)), generator=generator())
    with pytest.raises(ValueError, match=r"expected initial states of shape \(1, 4\)"):
        layer(torch.zeros(5, 3), states(layer, torch.zeros(1, 2, 4)), generator=generator())


@pytest.mark.parametrize(("mine", "torchs"), PAIRS)
@pytest.mark.parametrize("I", [3, fast.FEW + 9])
@pytest.mark.parametrize("form", ["batched", "batch_first", "unbatched"])
def test_the_compiled_layer_is_the_cells(mine, torchs, I, form, monkeypatch):
    """With initial states, and gradients into every input: nothing but rounding depends on the form."""
    layer = mine(I, 6, batch_first=form == "batch_first", noise=Noise("nem", "multiplicative", 0.4))
    layer.load_state_dict(torchs(I, 6).state_dict())
    x = draw(1, *{"batched": (5, 4, I), "batch_first": (4, 5, I), "unbatched": (5, I)}[form])
    h = draw(2, *((1, 6) if form == "unbatched" else (1, 4, 6)))
    compiled = ran(layer, x, h, generator=generator(7))
    monkeypatch.setattr(fast, "numba", None)
    for one, two in zip(compiled, ran(layer, x, h, generator=generator(7)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_a_retained_graph_gives_the_same_gradient_twice(layer_class):
    layer = layer_class(3, 4, noise=Noise("nem", "additive", 0.4))
    loss = layer(draw(0, 5, 2, 3), generator=generator(1))[0].sin().sum()
    first, second = (torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_input_gradients_are_made_only_when_asked(layer_class, monkeypatch):
    asked = []
    backward = fast.backward
    monkeypatch.setattr(fast, "backward", lambda *a, **k: asked.append((k["inputs"], k["states"])) or backward(*a, **k))
    layer = layer_class(3, 4, noise=Noise("nem", "additive", 0.4))
    for wanted in (False, True):
        x = draw(0, 5, 2, 3).requires_grad_(wanted)
        layer(x, generator=generator(1))[0].sum().backward()
    assert asked == [(False, False), (True, False)]


def test_gru_noise_acts_on_the_papers_update_gate():
    """z = 1 - z_torch: with z at 1/2, torch's own gate would move the other way."""
    layer = NoisyGRU(1, 1, bias=False, noise=Noise("blind", "additive", 0.2), dtype=DOUBLE)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor([[0.0], [0.0], [1.0]]))  # r = z = 1/2
        layer.weight_hh_l0.zero_()
    h = layer(torch.ones(1, 1, dtype=DOUBLE), generator=generator(1))[0][0, 0]
    normal = torch.randn(1, 1, 1, 2, 1, 1, generator=generator(1), dtype=DOUBLE)
    torch.testing.assert_close(h, (0.5 + 0.2 * normal[0, 0, 0, 0, 0, 0]) * torch.tanh(torch.ones((), dtype=DOUBLE)))


@pytest.mark.parametrize(("mine", "torchs"), PAIRS)
def test_it_is_torchs_layer_to_whoever_asks(mine, torchs):
    layer = mine(3, 4, noise=Noise("nem", "additive", 0.2))
    assert isinstance(layer, torchs)
    assert "noise=Noise" in repr(layer)
    told = mine(3, 4, noise=layer.noise, granularity="time", latent="sampled", injection="backward", clamp=True)
    gates = told._draws(layer.noise, 1, 1, generator())[0]
    assert (gates.granularity, gates.latent, gates.injection, gates.clamp) == ("time", "sampled", "backward", True)
    one, two = mine(3, 4), mine(3, 4)
    one.reset_parameters(generator(5))
    two.reset_parameters(generator(5))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
