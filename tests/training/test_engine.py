"""The stacked engine: paired, exact, resumable, and indifferent to a neighbour's failure."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn
from torch.nn import functional

from nem.conditions import BEYOND, CONDITIONS
from pipeline.common import seeds
from pipeline.training.engine import METRICS, Engine
from pipeline.training.models import state_dict
from pipeline.training.settings import NoiseTable, Strength
from tests.training import small

LOSS = METRICS.index("test_loss")


def engine(cell="lstm", head="identity", conditions=CONDITIONS, repetitions=(0,), *, data=None, sigma=0.3,
           dtype=torch.float32, **changes):  # fmt: skip
    base = {"optimiser": "sgd", "learning_rate": 0.1, "noise": NoiseTable(*(Strength(sigma, 0.0),) * 4)}
    settings = small.settings(**base | {"cell": cell, "conditions": tuple(conditions)} | changes)
    return Engine(data or small.dataset(head), settings, seed=1, stream="fx", repetitions=repetitions, dtype=dtype)


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


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("head", ["identity", "softmax"])
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


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_all_conditions_start_alike_and_zero_noise_stays_alike(cell, head):
    made = engine(cell, head, sigma=0.0)
    result = made.run()[0]
    assert result.conditions == CONDITIONS
    none = result.curves[0]
    for c in range(len(CONDITIONS)):
        for k in (METRICS.index("train_loss"), LOSS):
            assert torch.equal(result.curves[c, :, k], none[:, k]), result.conditions[c]
        pairs = zip(result.parameters[c].values(), result.parameters[0].values(), strict=True)
        assert all(torch.equal(mine, noiseless) for mine, noiseless in pairs)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_noise_matters_and_epoch_zero_does_not_know_it(cell):
    result = engine(cell).run()[0]
    assert (result.curves[:, 0, LOSS] == result.curves[0, 0, LOSS]).all()
    last = result.curves[:, -1, LOSS]
    assert len(set(last.tolist())) == len(CONDITIONS)
    acceptance = dict(zip(result.conditions, result.curves[:, -1], strict=True))
    hidden, output = METRICS.index("acceptance_hidden"), METRICS.index("acceptance_output")
    assert acceptance["blind-additive-both"][hidden] == 1
    assert 0.3 < acceptance["nem-additive-both"][hidden] < 0.7
    assert 0 < acceptance["nem-additive-output"][output] < 0.7
    assert math.isnan(acceptance["none"][hidden])
    assert math.isnan(acceptance["nem-additive-hidden"][output])


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


@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_a_validation_part_is_measured_at_epoch_R_and_changes_nothing_else(head):
    data = small.dataset(head, (20, 9, 7))
    with_part, without = engine(head=head, data=data).run()[0], engine(head=head).run()[0]
    assert without.validation is None
    assert torch.equal(with_part.predictions, without.predictions)
    assert with_part.validation.shape == (len(CONDITIONS), 2)
    assert with_part.validation.dtype == torch.float64
    made = engine(head=head, data=data, max_epochs=3)
    made.run()
    measured = made.measure(made.validation)
    names = [condition.name for condition in made.noise.conditions]
    order = [names.index(name) for name in CONDITIONS]
    scale = made.dataset.target_scale**2
    torch.testing.assert_close(with_part.validation[:, 0], measured["loss"][0, order] * scale)
    if head == "softmax":
        torch.testing.assert_close(with_part.validation[:, 1], measured["accuracy"][0, order])
    else:
        assert with_part.validation[:, 1].isnan().all()


def test_it_runs_in_one_thread_and_gives_the_threads_back():
    """Two threads of BLAS make small networks many times slower, and some sums depend on their number."""
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        blas = [pool["num_threads"] for pool in threadpool_info()]
        threads = lambda _: seen.extend([torch.get_num_threads(), *(p["num_threads"] for p in threadpool_info())])  # noqa: E731
        engine(max_epochs=3).run(progress=threads)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        assert [pool["num_threads"] for pool in threadpool_info()] == blas
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_one_diverging_network_is_marked_and_disturbs_nobody(cell):
    made = engine(cell)
    victim = [condition.name for condition in made.noise.conditions].index("blind-additive-output")
    reference = engine(cell).run()[0]
    step = made._train_epoch

    def poisoned():
        totals = step()
        if made.epoch == 1:
            made.networks.U[0, victim] = math.inf
        return totals

    made._train_epoch = poisoned
    result = made.run()[0]
    at = result.conditions.index("blind-additive-output")
    assert result.failed_epoch[at] == 2
    assert (result.failed_epoch != 0).sum() == 1
    assert torch.isnan(result.curves[at, 2:, LOSS]).all()
    assert torch.isfinite(result.curves[at, :2, LOSS]).all()
    others = [c for c in range(len(CONDITIONS)) if c != at]
    assert torch.equal(result.curves[others, :, LOSS], reference.curves[others, :, LOSS])


def test_a_huge_learning_rate_fails_every_network_with_its_epoch():
    result = engine(learning_rate=1000.0, epochs=3, max_epochs=3).run()[0]
    assert (result.failed_epoch[torch.isnan(result.curves[:, -1, LOSS])] > 0).all()


@pytest.mark.parametrize("granularity", ["slice", "neuron", "time"])
@pytest.mark.parametrize("injection", ["forward", "backward"])
def test_every_choice_trains_every_condition(granularity, injection):
    for head in ("identity", "softmax"):
        names = [*CONDITIONS, *(n for n in BEYOND if granularity != "time" or not n.startswith("expected"))]
        made = engine("gru", head, names, granularity=granularity, hidden_injection=injection, first_target=2)
        result = made.run()[0]
        assert torch.isfinite(result.curves[:, :, LOSS]).all()


@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_the_literal_delta_matters_to_noisy_classifiers_alone(head):
    loss, literal = (engine(head=head, output_delta=delta).run()[0] for delta in ("loss", "literal"))
    for c, name in enumerate(loss.conditions):
        noisy = head == "softmax" and name.endswith(("output", "both"))
        assert torch.equal(loss.predictions[c], literal.predictions[c]) != noisy, name


@pytest.mark.parametrize("latent", ["mean-field", "sampled"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_noise_benefit_is_positive_for_nem_and_nothing_for_blind_noise(cell, latent):
    """Q_N - Q of (70): not negative for each NEM draw; its mean under blind noise is 0."""
    result = engine(cell, noise_benefit=True, latent=latent).run()[0]
    at = METRICS.index("noise_benefit")
    found = dict(zip(result.conditions, result.curves[:, :, at], strict=True))
    for name, curve in found.items():
        if name.startswith("nem") and not name.endswith("output"):
            assert (curve > 0).all(), name
        elif name.startswith("blind") and not name.endswith("output"):
            assert curve.abs().max() < found["nem-" + name.removeprefix("blind-")].max()
        else:
            assert torch.isnan(curve).all(), name
    off = engine(cell, latent=latent).run()[0]
    assert torch.equal(off.predictions, result.predictions), "measuring changes nothing"
    assert torch.isnan(off.curves[:, :, at]).all()


def test_first_target_beyond_the_window_is_an_error():
    with pytest.raises(ValueError, match="first_target of at most T = 3"):
        engine(first_target=4)


@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_predictions_are_raw_and_give_the_reported_metric(head):
    made = engine(head=head)
    result = made.run()[0]
    truth = made.test.targets if head == "softmax" else made.test.targets * 2.0 + 0.5
    if head == "softmax":
        torch.testing.assert_close(result.predictions.sum(-1), torch.ones(13, 9))
        metric = (result.predictions.argmax(-1) == truth.argmax(-1)).double().mean(-1)
    else:
        metric = (result.predictions - truth).square().sum(-1).double().mean(-1)
    name = "test_accuracy" if head == "softmax" else "test_loss"
    torch.testing.assert_close(metric, result.curves[:, 3, METRICS.index(name)], rtol=1e-4, atol=1e-5)


def test_no_test_sequences_are_an_error():
    data = small.dataset()
    with pytest.raises(ValueError, match="expected at least one sequence to measure on"):
        engine(data=replace(data, test=data.test.subset(torch.arange(0)))).run()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_gpu_trains_the_same_noiseless_network(cell):
    cpu = engine(cell, conditions=["none"], dtype=torch.float64).run()[0]
    settings = engine(cell, conditions=["none"]).settings
    gpu = Engine(
        small.dataset(), settings, seed=1, stream="fx", repetitions=[0], device="cuda", dtype=torch.float64
    ).run()[0]
    torch.testing.assert_close(cpu.curves, gpu.curves, rtol=1e-8, atol=1e-10, equal_nan=True)
