"""The drop-in layers: torch's own numbers without noise, exact gradients with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nem import Noise, NoisyGRU, NoisyLSTM, fast

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
@pytest.mark.parametrize("kind", ["blind", "nem"])
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_zero_noise_changes_nothing_and_evaluation_no_bit(layer_class, kind, mode):
    quiet = layer_class(3, 4, noise=None)
    x = torch.randn(5, 2, 3, generator=generator())
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
def test_backward_injection_leaves_the_forward_pass_alone(layer_class):
    layers = [
        layer_class(3, 4, dtype=DOUBLE, noise=noise, injection="backward")
        for noise in (None, Noise("blind", "additive", 0.4), Noise("blind", "additive", 0.0))
    ]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    x = torch.randn(5, 2, 3, generator=generator(), dtype=DOUBLE)
    outputs = [layer(x, generator=generator(1))[0] for layer in layers]
    assert torch.equal(outputs[1], outputs[2])
    torch.testing.assert_close(outputs[0], outputs[1])
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
    with pytest.raises(ValueError, match="not empty"):
        NoisyGRU(3, 4)(torch.zeros(0, 2, 3))
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
    shape, J = (
        {"batched": (5, 4, I), "batch_first": (4, 5, I), "unbatched": (5, I)}[form],
        (1, 6) if form == "unbatched" else (1, 4, 6),
    )
    x, h = torch.randn(shape, generator=generator(1)), torch.randn(J, generator=generator(2))
    results = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(fast, "numba", None)
        leaves = [x.clone().requires_grad_(), h.clone().requires_grad_()]
        layer.zero_grad()
        outputs = flat(layer(leaves[0], states(layer, leaves[1]), generator=generator(7)))
        sum((k + 1) * out.sin().sum() for k, out in enumerate(outputs)).backward()
        results.append([*outputs, *(leaf.grad for leaf in leaves), *(p.grad.clone() for p in layer.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_a_retained_graph_gives_the_same_gradient_twice(layer_class):
    layer = layer_class(3, 4, noise=Noise("nem", "additive", 0.4))
    loss = layer(torch.randn(5, 2, 3, generator=generator()), generator=generator(1))[0].sin().sum()
    first, second = (torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("layer_class", [NoisyLSTM, NoisyGRU])
def test_input_gradients_are_made_only_when_asked(layer_class, monkeypatch):
    asked = []
    backward = fast.backward
    monkeypatch.setattr(fast, "backward", lambda *a, **k: asked.append((k["inputs"], k["states"])) or backward(*a, **k))
    layer = layer_class(3, 4, noise=Noise("nem", "additive", 0.4))
    for wanted in (False, True):
        x = torch.randn(5, 2, 3, generator=generator(), requires_grad=wanted)
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
    one, two = mine(3, 4), mine(3, 4)
    one.reset_parameters(generator(5))
    two.reset_parameters(generator(5))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
