"""The stacked engine: paired, exact, resumable, and indifferent to a neighbour's failure."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import seeds
from pipeline.conditions import BEYOND, CONDITIONS
from pipeline.training import checkpoint
from pipeline.training.engine import METRICS, Engine
from tests import problems

LOSS = METRICS.index("test_loss")


def engine(cell="lstm", head="identity", conditions=None, repetitions=(0,), dtype=torch.float32, seed=1, **changes):
    names = list(CONDITIONS if conditions is None else conditions)
    shared = {
        k: changes.pop(k)
        for k in ("first_target", "hidden_injection", "granularity", "latent", "noise_benefit")
        if k in changes
    }
    return Engine(
        problems.problem(head, outputs=1 if head == "identity" else 3),
        cell,
        problems.settings(**changes),
        problems.training(conditions=names, **shared),
        seed=seed,
        task="fx",
        repetitions=list(repetitions),
        dtype=dtype,
    )


def torch_twin(made, network=0):
    """The same initial network as torch modules in float64: (recurrent layer, output layer)."""
    J, nets = made.settings.hidden, made.networks
    W, V = nets.W[0, :, network].T, nets.V[0, network]
    layer_class = nn.LSTM if made.cell == "lstm" else nn.GRU
    layer, head = (
        layer_class(made.problem.inputs, J, batch_first=True).double(),
        nn.Linear(J, made.problem.outputs).double(),
    )
    blocks, bias, recurrent = [w[:, :-1] for w in W.split(J)], [w[:, -1] for w in W.split(J)], V.split(J)
    if made.cell == "lstm":  # kernel order i, f, o, c; torch's i, f, c, o
        order = (0, 1, 3, 2)
        W_t, b_t, V_t = ([part[k] for k in order] for part in (blocks, bias, recurrent))
    else:  # kernel order W: c, z, r and V: z, r, c; torch's r, z, c with z = 1 - z
        W_t, b_t, V_t = (
            [blocks[2], -blocks[1], blocks[0]],
            [bias[2], -bias[1], bias[0]],
            [recurrent[1], -recurrent[0], recurrent[2]],
        )
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.cat(W_t))
        layer.bias_ih_l0.copy_(torch.cat(b_t))
        layer.weight_hh_l0.copy_(torch.cat(V_t))
        layer.bias_hh_l0.zero_()
        head.weight.copy_(nets.U[0, network])
        head.bias.copy_(nets.b[0, network, :, 0])
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
    for epoch in range(3):
        made._train_epoch()
        made.epoch += 1
        order = torch.randperm(len(data), generator=seeds.torch_generator(1, "fx", cell, 0, "batches", epoch))
        for rows in order.split(8):
            x, y = data.pool[data.index[rows]].double(), data.targets[rows].double()
            outputs = out(layer(x)[0][:, first:])
            goal = y[:, None].expand_as(outputs)
            if head == "softmax":
                loss = -(goal * functional.log_softmax(outputs, -1)).sum((1, 2)).mean()
            else:
                loss = (outputs - goal).square().sum((1, 2)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    x, y = made.test.pool[made.test.index].double(), made.test.targets.double()
    outputs = out(layer(x)[0][:, first:])
    goal = y[:, None].expand_as(outputs)
    expected = (
        -(goal * functional.log_softmax(outputs, -1)).sum((1, 2)).mean()
        if head == "softmax"
        else (outputs - goal).square().sum((1, 2)).mean()
    )
    torch.testing.assert_close(made.measure(made.test)["loss"][0, 0], expected.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("head", ["identity", "softmax"])
def test_all_conditions_start_alike_and_zero_noise_stays_alike(cell, head):
    made = engine(cell, head, sigma=problems.everywhere(0.0))
    result = made.run()[0]
    assert result.conditions == CONDITIONS
    none = result.curves[0]
    for c in range(len(CONDITIONS)):
        for k in (METRICS.index("train_loss"), LOSS):
            assert torch.equal(result.curves[c, :, k], none[:, k]), result.conditions[c]
        assert all(
            torch.equal(a, b) for a, b in zip(result.parameters[c].values(), result.parameters[0].values(), strict=True)
        )


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
    for name in ("none", "nem-additive-both", "blind-multiplicative-hidden", "nem-multiplicative-output"):
        alone = engine(conditions=dict.fromkeys(["none", name]), dtype=torch.float64).run()[0]
        mine, theirs = every.curves[every.conditions.index(name)], alone.curves[alone.conditions.index(name)]
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11, equal_nan=True)


def test_repetitions_differ_and_do_not_depend_on_the_deal():
    together = engine(repetitions=(0, 1), dtype=torch.float64).run()
    assert not torch.equal(together[0].curves[0, 0], together[1].curves[0, 0])
    alone = engine(repetitions=(1,), dtype=torch.float64).run()[0]
    torch.testing.assert_close(together[1].curves, alone.curves, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "rmsprop"])
def test_resuming_gives_the_same_bytes(optimiser, tmp_path):
    changes = {
        "optimiser": optimiser,
        "momentum": 0.0 if optimiser == "adam" else 0.9,
        "learning_rate": 0.01,
        "max_epochs": 5,
    }
    whole = engine(**changes).run()[0]

    class Killed(BaseException):
        pass

    def kill(after):
        count = 0

        def progress(_):
            nonlocal count
            count += 1
            if count == after:
                raise Killed

        return progress

    for after in (1, 3, 4):
        folder = tmp_path / str(after)
        with pytest.raises(Killed):
            engine(**changes).run(folder, kill(after))
        resumed = engine(**changes)
        result = resumed.run(folder)[0]
        assert torch.equal(result.curves.nan_to_num(-1), whole.curves.nan_to_num(-1))
        assert torch.equal(result.predictions, whole.predictions)
        assert all(
            torch.equal(a, b)
            for mine, theirs in zip(result.parameters, whole.parameters, strict=True)
            for a, b in zip(mine.values(), theirs.values(), strict=True)
        )


def test_a_damaged_checkpoint_only_costs_time(tmp_path):
    whole = engine().run()[0]
    (tmp_path / "0.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header at all")
    assert torch.equal(engine().run(tmp_path)[0].predictions, whole.predictions)


def test_checkpoints_belong_to_settings_and_code(monkeypatch):
    first = checkpoint.folder("fx", "lstm", {"a": 1})
    assert first == checkpoint.folder("fx", "lstm", {"a": 1})
    assert first != checkpoint.folder("fx", "lstm", {"a": 2})
    monkeypatch.setattr(checkpoint, "code_digest", lambda: "other code")
    assert first != checkpoint.folder("fx", "lstm", {"a": 1})


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_one_diverging_network_is_marked_and_disturbs_nobody(cell):
    made = engine(cell)
    victim = made.stack.conditions.index(next(c for c in made.stack.conditions if c.name == "blind-additive-output"))
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
        names = [*CONDITIONS, *(BEYOND if granularity != "time" else ())]
        made = engine("gru", head, names, granularity=granularity, hidden_injection=injection, first_target=2)
        result = made.run()[0]
        assert torch.isfinite(result.curves[:, :, LOSS]).all()


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


def test_raw_units_and_predictions():
    result = engine().run()[0]
    made = engine()
    assert made.problem.target_scale == 2.0
    scaled = made.measure(made.test)["loss"][0, made.stack.conditions.index(made.stack.conditions[-1])]
    torch.testing.assert_close(result.curves[0, 0, LOSS], scaled.double() * 4)
    truth = made.test.targets[:, 0] * 2.0 + 0.5
    error = (result.predictions[:, :, 0] - truth).square().mean(-1)
    torch.testing.assert_close(error.double(), result.curves[:, 3, LOSS], rtol=1e-4, atol=1e-5)


def test_probabilities_sum_to_one_and_give_the_reported_accuracy():
    result = engine(head="softmax").run()[0]
    made = engine(head="softmax")
    torch.testing.assert_close(result.predictions.sum(-1), torch.ones(13, 9))
    right = (result.predictions.argmax(-1) == made.test.targets.argmax(-1)).double().mean(-1)
    torch.testing.assert_close(right, result.curves[:, 3, METRICS.index("test_accuracy")])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_gpu_trains_the_same_noiseless_network(cell):
    cpu = engine(cell, conditions=["none"], dtype=torch.float64).run()[0]
    gpu = Engine(
        problems.problem(), cell, problems.settings(), problems.training(conditions=["none"]), seed=1, task="fx",
        repetitions=[0], device="cuda", dtype=torch.float64,
    ).run()[0]  # fmt: skip
    torch.testing.assert_close(cpu.curves, gpu.curves, rtol=1e-8, atol=1e-10, equal_nan=True)
