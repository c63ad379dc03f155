"""The stacked engine: paired, exact, resumable, and indifferent to a neighbour's failure."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn
from torch.nn import functional

from nem.conditions import BEYOND, CONDITIONS, PLACES
from pipeline.common import seeds
from pipeline.training.engine import METRICS, Engine
from pipeline.training.models import state_dict
from pipeline.training.settings import NoiseTable, Strength
from tests.training import small

LOSS = METRICS.index("test_loss")
CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])
HEADS = pytest.mark.parametrize("head", ["identity", "softmax"])


def engine(cell="lstm", head="identity", conditions=CONDITIONS, repetitions=(0,), *, data=None, sigma=0.3,
           dtype=torch.float32, device="cpu", **changes):  # fmt: skip
    base = {"optimiser": "sgd", "learning_rate": 0.1, "noise": NoiseTable(*(Strength(sigma, 0.0),) * 4)}
    settings = small.settings(**base | {"cell": cell, "conditions": tuple(conditions)} | changes)
    where = {"repetitions": repetitions, "dtype": dtype, "device": device}
    return Engine(data or small.dataset(head), settings, seed=1, stream="fx", **where)


def torch_twin(made, network=0):
    """The same initial network as torch modules: (recurrent layer, output layer)."""
    nets = made.networks
    own = {name: view[0, network] for name, view in nets.by_network(nets.flat).items()}
    tensors, J = state_dict(made.settings.cell, own), made.settings.hidden
    layer = (nn.LSTM if made.settings.cell == "lstm" else nn.GRU)(made.dataset.inputs, J, batch_first=True).double()
    head = nn.Linear(J, made.dataset.outputs).double()
    head.load_state_dict({name: tensors.pop(f"head.{name}") for name in ("weight", "bias")})
    layer.load_state_dict(tensors)
    return layer, head


@CELLS
@HEADS
@pytest.mark.parametrize("first_target", [None, 2])
def test_noiseless_training_is_torchs_training(cell, head, first_target):
    """Three epochs of SGD with momentum in float64, against nn.LSTM / nn.GRU, autograd and torch.optim."""
    made = engine(cell, head, ["none"], dtype=torch.float64, momentum=0.5, first_target=first_target, max_epochs=3)
    layer, out = torch_twin(made)
    layer.bias_hh_l0.requires_grad_(False)
    trainable = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, *out.parameters()]
    optimiser = torch.optim.SGD(trainable, lr=0.1, momentum=0.5)
    data, first = made.train, made.first

    def loss_of(x, y):
        outputs = out(layer(x.double())[0][:, first:])
        goal = y.double()[:, None].expand_as(outputs)
        if head == "softmax":
            return -(goal * functional.log_softmax(outputs, -1)).sum((1, 2)).mean()
        return (outputs - goal).square().sum((1, 2)).mean()

    for epoch in range(3):
        made._train_epoch()
        made.epoch += 1
        order = torch.randperm(len(data), generator=seeds.torch_generator(1, "fx", cell, 0, "batches", epoch))
        for rows in order.split(8):
            optimiser.zero_grad()
            loss_of(data.pool[data.index[rows]], data.targets[rows]).backward()
            optimiser.step()
    expected = loss_of(made.test.pool[made.test.index], made.test.targets)
    torch.testing.assert_close(made.measure(made.test)["loss"][0, 0], expected.detach(), rtol=1e-9, atol=1e-11)


@CELLS
@HEADS
def test_all_conditions_start_alike_and_zero_noise_stays_alike(cell, head):
    result = engine(cell, head, sigma=0.0).run()[0]
    assert result.conditions == CONDITIONS
    losses = result.curves[:, :, [METRICS.index("train_loss"), LOSS]]
    assert torch.equal(losses, losses[:1].expand_as(losses))
    for network in result.parameters:
        assert all(torch.equal(mine, result.parameters[0][name]) for name, mine in network.items())


@CELLS
def test_noise_matters_and_epoch_zero_does_not_know_it(cell):
    result = engine(cell).run()[0]
    assert (result.curves[:, 0, LOSS] == result.curves[0, 0, LOSS]).all()
    assert len(set(result.curves[:, -1, LOSS].tolist())) == len(CONDITIONS)
    names = [METRICS.index(f"acceptance_{place}") for place in ("hidden", "output")]
    hidden, output = (dict(zip(result.conditions, result.curves[:, -1, k].tolist(), strict=True)) for k in names)
    assert hidden["blind-additive-both"] == 1
    assert 0.3 < hidden["nem-additive-both"] < 0.7
    assert 0 < output["nem-additive-output"] < 0.7
    assert math.isnan(hidden["none"])
    assert math.isnan(output["nem-additive-hidden"])


def test_a_condition_does_not_depend_on_which_others_run_beside_it():
    every = engine(conditions=[*CONDITIONS, *BEYOND], dtype=torch.float64).run()[0]
    names = ("none", "nem-additive-both", "blind-multiplicative-hidden", "nem-multiplicative-output")
    for name in (*names, "reversed-nem-additive-both", "expected-reversed-nem-multiplicative-hidden"):
        alone = engine(conditions=dict.fromkeys(["none", name]), dtype=torch.float64).run()[0]
        mine, theirs = every.curves[every.conditions.index(name)], alone.curves[alone.conditions.index(name)]
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "rmsprop"])
def test_resuming_gives_the_same_bytes(optimiser):
    """From every epoch's state, the last and those after R included."""
    changes = {"optimiser": optimiser, "momentum": 0.0 if optimiser == "adam" else 0.9, "learning_rate": 0.01,
               "max_epochs": 5, "data": small.dataset(sequences_of=(20, 9, 7))}  # fmt: skip
    states = {}
    whole = engine(**changes).run(save_state=lambda epoch, state: states.update({epoch: copy.deepcopy(state)}))[0]
    assert sorted(states) == [1, 2, 3, 4, 5]
    for epoch, state in states.items():
        told = []
        result = engine(**changes).run(lambda state=state: state, progress=told.append)[0]
        assert told == [epoch] + [1] * (5 - epoch)
        for name in ("curves", "predictions", "validation"):
            assert torch.equal(getattr(result, name).nan_to_num(-1), getattr(whole, name).nan_to_num(-1)), name
        for mine, theirs in zip(result.parameters, whole.parameters, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine.values(), theirs.values(), strict=True))


@HEADS
def test_predictions_are_raw_and_give_what_is_measured_and_validation_changes_nothing_else(head):
    made = engine(head=head, data=small.dataset(head, (20, 9, 7)), max_epochs=3)
    result, without = made.run()[0], engine(head=head, max_epochs=3).run()[0]
    assert without.validation is None
    assert torch.equal(result.predictions, without.predictions)
    measured = made.measure(made.validation)
    names = [condition.name for condition in made.noise.conditions]
    order = [names.index(name) for name in CONDITIONS]
    torch.testing.assert_close(result.validation[:, 0], measured["loss"][0, order] * made.dataset.target_scale**2)
    if head == "softmax":
        torch.testing.assert_close(result.validation[:, 1], measured["accuracy"][0, order])
        torch.testing.assert_close(result.predictions.sum(-1), torch.ones(13, 9))
        metric = (result.predictions.argmax(-1) == made.test.targets.argmax(-1)).double().mean(-1)
    else:
        assert result.validation[:, 1].isnan().all()
        metric = (result.predictions - (made.test.targets * 2.0 + 0.5)).square().sum(-1).double().mean(-1)
    column = METRICS.index("test_accuracy") if head == "softmax" else LOSS
    torch.testing.assert_close(metric, result.curves[:, 3, column], rtol=1e-4, atol=1e-5)


def test_it_runs_in_one_thread_and_gives_the_threads_back():
    """Two threads of BLAS make small networks many times slower, and some sums depend on their number."""

    def threads():
        return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]

    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        outside = threads()
        engine(max_epochs=3).run(progress=lambda _: seen.extend(threads()))
        assert set(seen) == {1}
        assert threads() == outside
    finally:
        torch.set_num_threads(before)


@CELLS
def test_one_diverging_network_is_marked_and_disturbs_nobody(cell):
    made, reference = engine(cell), engine(cell).run()[0]
    at = reference.conditions.index("blind-additive-output")
    victim = [condition.name for condition in made.noise.conditions].index("blind-additive-output")
    step = made._train_epoch

    def poisoned():
        totals = step()
        if made.epoch == 1:
            made.networks.U[0, victim] = math.inf
        return totals

    made._train_epoch = poisoned
    result = made.run()[0]
    assert result.failed_epoch.tolist() == [2 if c == at else 0 for c in range(len(CONDITIONS))]
    assert torch.isnan(result.curves[at, 2:, LOSS]).all()
    assert torch.equal(result.curves[at, :2, LOSS], reference.curves[at, :2, LOSS])
    others = [c for c in range(len(CONDITIONS)) if c != at]
    assert torch.equal(result.curves[others, :, LOSS], reference.curves[others, :, LOSS])
    every = engine(cell, learning_rate=1e6, max_epochs=3).run()[0]
    lost = torch.isnan(every.curves[:, -1, LOSS])
    assert lost.any()
    assert torch.equal(every.failed_epoch > 0, lost)


@HEADS
def test_the_literal_delta_matters_to_noisy_classifiers_alone(head):
    loss, literal = (engine(head=head, output_delta=delta).run()[0] for delta in ("loss", "literal"))
    for c, name in enumerate(loss.conditions):
        noisy = head == "softmax" and name.endswith(("output", "both"))
        assert torch.equal(loss.predictions[c], literal.predictions[c]) != noisy, name


@CELLS
def test_sequences_share_what_they_are_told_to_share_and_slices_never_do(cell):
    """And networks without noise do not notice, nor does the draw of latents, which is no noise."""
    alone, shape = [engine(cell, one_draw_per=share) for share in ("sequence", "batch", "epoch")], (3, 1, 1, 2, 5, 8)
    for made, share in zip(alone, ("sequence", "batch", "epoch"), strict=True):
        sample, latent = made._sampler(one_per=share), made._sampler(one_per=share)("latent", shape)
        first, second = (sample("gate", (*shape[:-1], width)) for width in (8, 6))
        assert bool((first == first[..., :1]).all()) == (share != "sequence")
        assert torch.equal(first[..., :6], second) == (share == "epoch")
        assert not torch.equal(first[0], first[1])
        assert (latent[..., 1:] != latent[..., :1]).all()
    sequence, batch, epoch = (made.run()[0] for made in alone)
    for c, name in enumerate(sequence.conditions):
        same = [torch.equal(sequence.predictions[c], other.predictions[c]) for other in (batch, epoch)]
        assert same == [name == "none"] * 2, name


@CELLS
@HEADS
def test_blind_noises_mean_is_a_penalty_in_the_gates_and_nothing_in_the_outputs(cell, head):
    """In every precision and beside whatever else trains; and acceptance knows nothing of it."""
    names = [f"{kind}-multiplicative-{place}" for kind in ("expected-blind", "nem") for place in PLACES]
    result = engine(cell, head, ["none", *names]).run()[0]
    own = dict(zip(result.conditions, result.predictions, strict=True))
    assert torch.equal(own["expected-blind-multiplicative-output"], own["none"])
    assert torch.equal(own["expected-blind-multiplicative-both"], own["expected-blind-multiplicative-hidden"])
    assert not torch.equal(own["expected-blind-multiplicative-hidden"], own["none"])
    for place in ("hidden", "output"):
        shares = result.curves[:, -1, METRICS.index(f"acceptance_{place}")]
        assert [name for name, share in zip(result.conditions, shares.tolist(), strict=True) if share >= 0] == [
            f"nem-multiplicative-{where}" for where in PLACES if where in (place, "both")
        ]


@pytest.mark.parametrize("latent", ["mean-field", "sampled"])
@CELLS
def test_the_noise_benefit_is_positive_for_nem_and_nothing_for_blind_noise(cell, latent):
    """Q_N - Q of (70): not negative for each NEM draw; its mean under blind noise is 0."""
    result, off = (engine(cell, noise_benefit=on, latent=latent).run()[0] for on in (True, False))
    at = METRICS.index("noise_benefit")
    benefit = dict(zip(result.conditions, result.curves[:, :, at], strict=True))
    for name, curve in benefit.items():
        if name == "none" or name.endswith("output"):
            assert torch.isnan(curve).all(), name
        elif name.startswith("nem"):
            assert (curve > 0).all(), name
        else:
            assert curve.abs().max() < benefit["nem-" + name.removeprefix("blind-")].max()
    assert torch.equal(off.predictions, result.predictions), "measuring changes nothing"
    assert torch.isnan(off.curves[:, :, at]).all()


def test_a_first_target_beyond_the_window_and_no_test_sequences_are_errors():
    with pytest.raises(ValueError, match="first_target of at most T = 3"):
        engine(first_target=4)
    data = small.dataset()
    with pytest.raises(ValueError, match="expected at least one sequence to measure on"):
        engine(data=replace(data, test=data.test.subset(torch.arange(0)))).run()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@CELLS
def test_a_gpu_trains_the_same_noiseless_network(cell):
    cpu, gpu = (engine(cell, conditions=["none"], dtype=torch.float64, device=d).run()[0] for d in ("cpu", "cuda"))
    torch.testing.assert_close(cpu.curves, gpu.curves, rtol=1e-8, atol=1e-10, equal_nan=True)
