"""Layers as people have them: stacked, in two directions, over unequal lengths, with dropout, copied and exported."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nem import Noise, NoisyGRU, NoisyLSTM, kernels, layers
from nem.densities import source
from nem.gaussian import MANY
from tests.conftest import refused
from tests.nem import stacks
from tests.nem.stacks import generator

PAIRS = pytest.mark.parametrize(("mine", "torchs"), [(NoisyLSTM, nn.LSTM), (NoisyGRU, nn.GRU)])
BOTH = pytest.mark.parametrize("mine", [NoisyLSTM, NoisyGRU])
LOUD, SILENT = Noise("nem", "additive", 0.4), Noise("blind", "multiplicative", 0.0)
DOUBLE = torch.float64
draw = partial(stacks.draw, dtype=torch.float32)


def flat(outputs):
    output, last = outputs
    output = output.data if isinstance(output, PackedSequence) else output
    return [output, *(last if isinstance(last, tuple) else (last,))]


def states(layer, seed, B, dtype=DOUBLE):
    shape = (layer.num_layers * (1 + layer.bidirectional), B, layer.hidden_size)
    h, s = (stacks.draw(seed + k, *shape, dtype=dtype).requires_grad_() for k in (0, 1))
    return h if isinstance(layer, nn.GRU) else (h, s)


def ran(layer, x, hx, **options):
    """Outputs and last states, and the gradients of input, initial states and parameters."""
    layer.zero_grad()
    x = x.detach().clone().requires_grad_()
    outputs = flat(layer(options.pop("form", lambda x: x)(x), hx, **options))
    given_ = [x, *([] if hx is None else [hx] if isinstance(hx, torch.Tensor) else hx), *layer.parameters()]
    return [*outputs, *torch.autograd.grad(sum((k + 1) * o.sin().sum() for k, o in enumerate(outputs)), given_)]


OPTIONS = st.fixed_dictionaries({
    "num_layers": st.integers(1, 3), "bidirectional": st.booleans(), "batch_first": st.booleans(),
    "bias": st.booleans(),
})  # fmt: skip
SIZES = st.tuples(*(st.integers(1, most) for most in (4, 3, 5)))


@PAIRS
@pytest.mark.parametrize("path", ["cells", "kernels"])
@given(options=OPTIONS, sizes=SIZES, form=st.sampled_from(["padded", "sorted", "unsorted", "lengths"]),
       started=st.booleans(), data=st.data())  # fmt: skip
def test_without_noise_every_form_of_it_is_torchs_layer(mine, torchs, path, options, sizes, form, started, data):
    """In training mode: noise of strength 0 goes through the cells, dropout of next to nothing through torch's kernels.

    Both load the other's parameters; outputs, last states and all gradients agree.
    """
    assume(path == "cells" or options["num_layers"] > 1)
    B, I, J = sizes
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=B, max_size=B))
    lengths = sorted(lengths, reverse=True) if form == "sorted" else lengths
    T, first = max(lengths) if form != "lengths" else 5, options["batch_first"]
    random = {"noise": SILENT} if path == "cells" else {"dropout": 1e-13}
    layer, right = mine(I, J, dtype=DOUBLE, **options, **random), torchs(I, J, dtype=DOUBLE, **options)
    right.load_state_dict(layer.state_dict())
    layer.load_state_dict(right.state_dict())
    x, hx = stacks.draw(1, *((B, T) if first else (T, B)), I), states(right, 2, B) if started else None
    pack = partial(pack_padded_sequence, lengths=lengths, batch_first=first, enforce_sorted=form == "sorted")
    if form == "padded":
        expected, found = ran(right, x, hx), ran(layer, x, hx, generator=generator())
    elif form == "lengths":
        expected = ran(right, x, hx, form=pack)
        found = ran(layer, x, hx, generator=generator(), lengths=lengths)
        packed = pack_padded_sequence(found[0], lengths, first, enforce_sorted=False)
        whole = pad_packed_sequence(packed, first, total_length=T)[0]
        assert torch.equal(found[0], whole), "nothing beyond the end"
        found[0] = packed.data
    else:
        expected, found = ran(right, x, hx, form=pack), ran(layer, x, hx, generator=generator(), form=pack)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@PAIRS
@given(options=OPTIONS, form=st.sampled_from(["padded", "packed", "lengths"]), I=st.integers(1, 3))
def test_evaluation_changes_no_bit(mine, torchs, options, form, I):
    layer, right = mine(I, 4, noise=LOUD, dropout=0.3, **options).eval(), torchs(I, 4, **options)
    right.load_state_dict(layer.state_dict())
    assert list(layer.state_dict()) == list(right.state_dict())
    x, lengths = draw(1, 3, 3, I), [2, 3, 1]
    packed = pack_padded_sequence(x, lengths, options["batch_first"], enforce_sorted=False)
    if form == "lengths":
        found, expected = layer(x, lengths=lengths), right(packed)
        expected = (pad_packed_sequence(expected[0], options["batch_first"])[0], expected[1])
    else:
        found, expected = (one(packed if form == "packed" else x) for one in (layer, right))
    assert all(torch.equal(a, b) for a, b in zip(flat(found), flat(expected), strict=True))


@BOTH
@pytest.mark.parametrize("granularity", ["slice", "neuron", "time"])
@pytest.mark.parametrize("mode", ["additive", "multiplicative", lambda s, n: s * (1.1 + n)])
def test_a_sequence_of_a_batch_is_what_it_is_alone(mine, granularity, mode):
    """Sequences of unequal length, in two layers and directions, each with its own draws: nothing beyond an end counts.

    Draws are told by the density: each layer and direction asks for them in turn.
    """
    T, B, lengths = 6, 4, [2, 6, 1, 6]
    told = [stacks.draw(k, T, 1, 1, 2 if mine is NoisyGRU else 3, 5, B) for k in range(4)]
    column, calls = [None], []

    def density(shape, **_):
        calls.append(shape)
        drawn = told[(len(calls) - 1) % 4]
        return drawn[: shape[0]] if column[0] is None else drawn[: shape[0], ..., column[0], None]

    noise = Noise("nem", mode, 0.5, density=density)
    layer = mine(3, 5, 2, bidirectional=True, noise=noise, granularity=granularity, dtype=DOUBLE)
    x = stacks.draw(9, T, B, 3)
    whole = layer(x, generator=generator(), lengths=lengths)
    acceptance = layer.acceptance
    x[2:, 0] = x[1:, 2] = 1e3
    again = layer(x, generator=generator(), lengths=lengths)
    assert all(torch.equal(a, b) for a, b in zip(flat(whole), flat(again), strict=True)), "padding matters"
    shares = []
    for b, length in enumerate(lengths):
        column[0] = b
        alone = layer(x[:length, b : b + 1], generator=generator())
        shares.append(layer.acceptance * length)
        for one, two in zip(flat(alone), flat(whole), strict=True):
            two = two[:length] if two.shape[0] == T else two
            torch.testing.assert_close(one, two[:, b : b + 1], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(sum(shares) / sum(lengths), acceptance)


@BOTH
def test_packing_and_sorting_do_not_change_the_draws(mine):
    layer, x = mine(2, 3, 2, bidirectional=True, noise=LOUD, dropout=0.5), draw(1, 4, 3, 2)
    padded, equal = layer(x, generator=generator(1)), layer(x, generator=generator(1), lengths=[4, 4, 4])
    assert all(torch.equal(a, b) for a, b in zip(flat(padded), flat(equal), strict=True))
    lengths = torch.tensor([1, 4, 2])
    one = layer(x, generator=generator(1), lengths=lengths)
    packed, last = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), generator=generator(1))
    two = (pad_packed_sequence(packed)[0], last)
    assert all(torch.equal(a, b) for a, b in zip(flat(one), flat(two), strict=True))
    # A whole sequence is among shorter ones what it is among whole ones.
    torch.testing.assert_close(one[0][:, 1], padded[0][:, 1], rtol=1e-5, atol=1e-6)


@BOTH
def test_the_compiled_deep_layer_is_the_cells_and_each_layer_has_its_own_noise(mine, monkeypatch):
    layer, x = mine(3, 6, 2, bidirectional=True, noise=LOUD), draw(1, 5, 4, 3)
    hx = states(layer, 2, 4, torch.float32)
    compiled = ran(layer, x, hx, generator=generator(7), lengths=[5, 2, 3, 5])
    monkeypatch.setattr(kernels, "numba", None)
    for one, two in zip(compiled, ran(layer, x, hx, generator=generator(7), lengths=[5, 2, 3, 5]), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)
    seen, run = [], layers.run

    def watched(own, x, start, noise, sizes):
        seen.append(noise[1].normal)
        return run(own, x, start, noise, sizes)

    monkeypatch.setattr(layers, "run", watched)
    layer(x, generator=generator(7))
    assert len(seen) == 4
    assert len({float(drawn.sum()) for drawn in seen}) == 4


@BOTH
def test_dropout_is_drawn_from_the_layers_generator_and_no_other(mine):
    layer, x = mine(2, 50, 3, dropout=0.4), draw(1, 6, 8, 2)
    before = torch.random.get_rng_state()
    refused(ValueError, r"set layer\.generator = torch\.Generator\(\) or call", layer, x)
    one, two, other = (layer(x, generator=generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert layer.acceptance is None
    chance = layers._Chance(layer, draw(1, 100, 40, 2), None, generator(3))
    mask = chance.dropped(torch.ones(100, 40, 50))
    assert set(mask.unique().tolist()) == {0.0, mask.max().item()}
    assert mask.max().item() == pytest.approx(1 / 0.6)
    assert abs((mask == 0).float().mean() - 0.4) < 6 * (0.24 / mask.numel()) ** 0.5
    rest = mine(2, 50, 2, dropout=1.0)
    hidden = rest(x, generator=generator(1))[0]
    rest.weight_ih_l1.data.mul_(100)
    assert torch.equal(hidden, rest(x, generator=generator(1))[0]), "all inputs of the second layer are 0"
    assert mine(2, 3, 1, noise=None)(x)[0].shape == (6, 8, 3), "one layer has nothing to drop"


@BOTH
def test_a_layers_own_generator_serves_every_call_and_travels_with_it(mine):
    x = draw(1, 5, 2, 3)
    layer = mine(3, 4, 2, noise=LOUD, dropout=0.2, generator=generator(5))
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    first, second = layer(x)[0], layer(x)[0]
    assert not torch.equal(first, second)
    for twin in copies:
        assert torch.equal(twin(x)[0], first)
        assert torch.equal(twin(x)[0], second)
    assert torch.equal(layer(x, generator=generator(5))[0], first), "a call's own goes first"
    assert "generator" not in layer.state_dict()

    class Last(nn.Module):
        def forward(self, outputs):
            return outputs[0][-1]

    tagger = nn.Sequential(mine(3, 4, noise=LOUD), Last(), nn.Linear(4, 2))
    refused(ValueError, r"layer\.generator", tagger, x)
    tagger[0].generator = generator(5)
    tagger(x).sum().backward()
    assert all(p.grad is not None for p in tagger.parameters())
    for given_, words in (
        (None, r"found None; pass torch\.Generator\('meta'\)"),
        (generator(), r"found one on cpu; pass"),
    ):
        refused(ValueError, words, source, given_, torch.empty(0, device="meta"), "pass {}")


@given(rows=st.integers(0, 5), batch=st.integers(0, 3), J=st.integers(1, 5), more=st.integers(0, 1),
       bidirectional=st.booleans(), num_layers=st.integers(1, 3), noisy=st.booleans())  # fmt: skip
@BOTH
def test_states_of_any_other_shape_are_refused(mine, rows, batch, J, more, bidirectional, num_layers, noisy):
    layer = mine(2, 4, num_layers, bidirectional=bidirectional, noise=LOUD if noisy else None)
    right = (num_layers * (1 + bidirectional), 2, 4)
    shape = (*([1] * more), rows, batch, J)
    h = torch.zeros(shape)
    hx = h if mine is NoisyGRU else (h, h)
    if shape == right:
        layer(draw(1, 3, 2, 2), hx, generator=generator())
    else:
        for form in (draw(1, 3, 2, 2), pack_padded_sequence(draw(1, 3, 2, 2), [3, 1])):
            with pytest.raises(ValueError, match=r"expected initial states of shape \(") as error:
                layer(form, hx, generator=generator())
            assert str(right) in str(error.value)


@BOTH
@pytest.mark.parametrize("noise", [None, LOUD])
def test_what_torch_would_not_take_is_refused_in_words(mine, noise):
    layer, x = mine(3, 4, noise=noise), draw(0, 5, 2, 3)
    call = partial(layer, generator=generator())
    h = torch.zeros(1, 2, 4)
    pair = mine is NoisyLSTM
    for wrong in (h, (h,), (h, h, h), (), (h, None), 3) if pair else ((h,), (h, h), (), 3, {"h": h}):
        refused(ValueError, "expected a pair" if pair else "expected one tensor", call, x, wrong)
    for given_ in ((x.double(), None), (x, (h.double(), h) if pair else h.double())):
        refused(ValueError, r"expected torch\.float32.*found torch\.float64; cast it", call, *given_)
    for lengths in ([5], [5, 0], [5, 6], [5.0, 2.0], [True, True], [[5, 2]], torch.tensor(5)):
        refused(ValueError, "expected 2 lengths, whole numbers from 1 to 5", call, x, lengths=lengths)
    packed = pack_padded_sequence(x, [5, 2])
    refused(ValueError, "a PackedSequence, which has its own", call, packed, lengths=[5, 2])
    refused(ValueError, r"found \(5, 3\); leave lengths out", call, x[:, 0], lengths=[5])
    refused(ValueError, "last size 3", call, pack_padded_sequence(draw(0, 5, 2, 2), [5, 2]))
    for options in ({"proj_size": 2}, {"num_layers": 0}, {"num_layers": 1.5}, {"num_layers": True}, {"dropout": 2.0}):
        refused(ValueError, "proj_size|num_layers|dropout", mine, 3, 4, noise=noise, **options)
    refused(ValueError, r"no projection: put a torch\.nn\.Linear", mine, 3, 4, 1, True, False, 0.0, False, 2)
    refused(TypeError, "nonlinearity", mine, 3, 4, nonlinearity="relu")
    refused(TypeError, "hidden_size", mine, 3)


def kind(layer, x):
    """Return the type of a layer's output, or of its error: torch's LSTM has no 16 bits without AVX-512."""
    try:
        return layer(x)[0].dtype
    except RuntimeError as error:
        return type(error)


@BOTH
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_sixteen_bits_and_autocast(mine, mode):
    x = draw(1, 6, 4, 3)
    layer = mine(3, 8, 2, bidirectional=True, noise=Noise("nem", mode, 0.3), dropout=0.1)
    whole = layer(x, generator=generator(1))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given_ in (x, x.bfloat16(), pack_padded_sequence(x, [6, 6, 6, 6])):
            mixed = layer(given_, generator=generator(1))[0]
            mixed = pad_packed_sequence(mixed)[0] if isinstance(mixed, PackedSequence) else mixed
            assert mixed.dtype == torch.float32, "the noisy pass keeps the parameters' type"
            torch.testing.assert_close(mixed, whole, rtol=0.05, atol=0.05)
        mixed.sum().backward()
        assert kind(layer.eval(), x) == kind(layer.plain(), x), "torch's kernel follows autocast in its way"
    half = layer.train().bfloat16()
    output = half(x.bfloat16(), generator=generator(1))[0]
    output.sum().backward()
    assert output.dtype == torch.bfloat16
    assert all(torch.isfinite(p.grad).all() for p in half.parameters())


@PAIRS
def test_gradients_can_be_differentiated_again(mine, torchs, monkeypatch):
    """As for a gradient penalty: the compiled form with its own decisions, against the cells and torch."""

    def penalty(layer, x, **options):
        layer.zero_grad()
        x = x.clone().requires_grad_()
        output, last = layer(x, **options)
        total = output.sin().sum() + (last if isinstance(last, torch.Tensor) else last[1]).square().sum()
        slope = torch.autograd.grad(total, x, create_graph=True)[0]
        slope.square().sum().backward()
        return [slope.detach(), x.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]

    x = draw(1, 4, 5, 3)
    loud = mine(3, 6, 2, bidirectional=True, noise=Noise("nem", "multiplicative", 0.4))
    compiled = penalty(loud, x, generator=generator(7))
    monkeypatch.setattr(kernels, "numba", None)
    for one, two in zip(compiled, penalty(loud, x, generator=generator(7)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    silent = mine(3, 6, noise=SILENT, dtype=DOUBLE)
    plain = torchs(3, 6, dtype=DOUBLE)
    plain.load_state_dict(silent.state_dict())
    for one, two in zip(penalty(silent, x.double(), generator=generator()), penalty(plain, x.double()), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@PAIRS
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:FutureWarning")
def test_the_evaluating_layer_is_exported_compiled_traced_and_scripted(mine, torchs):
    layer, x = mine(3, 4, 2, bidirectional=True, noise=LOUD, dropout=0.5).eval(), draw(1, 5, 2, 3)
    layer.flatten_parameters()
    expected = flat(layer(x))

    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    def scripted():
        """TorchScript compiles every line of a layer, so it takes torch's own."""
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(Wrapped(layer.plain())), file)
        file.seek(0)
        return torch.jit.load(file)

    def whole():
        torch._dynamo.reset()  # which has learnt above that layers break graphs, as torch's do by default
        with torch._dynamo.config.patch(allow_rnn=True):
            return torch.compile(layer, backend="eager", fullgraph=True)(x)

    forms = {
        "export": lambda: torch.export.export(layer, (x,)).module()(x),
        "compile": lambda: torch.compile(layer, backend="eager")(x),
        "whole": whole,
        "trace": lambda: torch.jit.trace(layer, (x,))(x),
        "script": lambda: scripted()(x),
    }
    for name, form in forms.items():
        for one, two in zip(flat(form()), expected, strict=True):
            torch.testing.assert_close(one, two, msg=name)
    assert type(layer.plain()) is torchs
    assert not layer.plain().training


@PAIRS
@pytest.mark.parametrize("training", [True, False])
def test_no_sequences_are_a_batch_as_they_are_for_torch(mine, torchs, training):
    layer, x = mine(3, 4, 2, noise=LOUD, generator=generator()).train(training), torch.zeros(5, 0, 3)
    for one, two in zip(flat(layer(x)), flat(torchs(3, 4, 2)(x)), strict=True):
        assert one.shape == two.shape


@BOTH
@pytest.mark.parametrize(("backend", "batch"), [
    ("eager", 2), pytest.param("aot_eager", MANY // 16, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_layer_in_training_can_be_compiled(mine, backend, batch):
    """Torch breaks the graph where noise is drawn, and traces no Numba, which draws many numbers."""
    layer, x, own = mine(3, 4, noise=LOUD, generator=generator(1)), draw(1, 2, batch, 3), generator(1)
    torch._dynamo.reset()
    compiled = flat(torch.compile(layer, backend=backend)(x))
    compiled[0].sum().backward()
    for one, two in zip(compiled, flat(layer(x, generator=own)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)
    assert torch.equal(layer.generator.get_state(), own.get_state())
