"""The stacked engine: paired, exact, resumable, and its pool read row by row; and the files and networks of a run."""

import copy
import itertools
import json
import math
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save
from threadpoolctl import threadpool_info
from torch import nn
from torch.nn import functional

from nem import NoisyGRU, NoisyLSTM
from nem.conditions import BEYOND, CONDITIONS, PLACES
from nem.noise import GateNoise
from pipeline.common import paths, records, seeds, sequences
from pipeline.common.sequences import Dataset, Sequences
from pipeline.training import models, results, train
from pipeline.training.engine import METRICS, Engine
from pipeline.training.models import state_dict
from pipeline.training.settings import Densities
from tests.conftest import refused
from tests.training import small
from tests.training.small import engine

LOSS = METRICS.index("test_loss")
CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])
HEADS = pytest.mark.parametrize("head", ["identity", "softmax", "logistic"])


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
        if head == "logistic":
            return functional.binary_cross_entropy_with_logits(outputs, goal, reduction="none").sum((1, 2)).mean()
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


COMPILED = ("none", "blind-additive-both", "nem-multiplicative-both", "nem-additive-output")
GENERAL = (*COMPILED, "expected-nem-additive-hidden", "expected-blind-multiplicative-hidden", "matched-additive-both")
RULES = [("identity", ("sgd", 0.0)), ("softmax", ("sgd", 0.9)), ("logistic", ("adam", 0.0)),
         ("identity", ("adam", 0.0)), ("softmax", ("rmsprop", 0.9))]  # fmt: skip


@pytest.mark.parametrize(("conditions", "head", "rule"), [
    pytest.param(own, *rule, id=f"{kind}-{k}", marks=[pytest.mark.slow] * (kind == "general" and k > 1))
    for kind, own in (("compiled", COMPILED), ("general", GENERAL)) for k, rule in enumerate(RULES)
])  # fmt: skip
@CELLS
def test_groups_of_several_rates_and_strengths_train_as_they_do_alone(cell, head, conditions, rule):
    """To the bit, beside a group that diverges, and from a state in the middle."""
    changes = {"conditions": conditions, "noise_benefit": True, "optimiser": rule[0], "momentum": rule[1],
               "data": small.dataset(head, (20, 9, 7))}  # fmt: skip
    kinds = [(0.003, 0.2), (0.003, 0.5), (3e38, 0.2), (0.01, 0.2)]
    groups = [(kinds[k], number) for k, number in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (0, 1))]
    alone = [engine(cell, head, sigma=s, learning_rate=rate, repetitions=[n], **changes) for (rate, s), n in groups]

    def together():
        made, data = [one.settings for one in alone], alone[0].dataset
        return Engine(data, made, seed=1, stream="fx", repetitions=[number for _, number in groups])

    states = {}
    whole = together().run(save_state=lambda epoch, state: states.update({epoch: copy.deepcopy(state)}))
    resumed = together().run(lambda: states[2])
    apart = [one.run()[0] for one in alone]
    for found in (whole, resumed):
        for mine, theirs in zip(found, apart, strict=True):
            assert mine.number == theirs.number
            for name in ("curves", "failed_epoch", "predictions", "validation"):
                assert getattr(mine, name).numpy().tobytes() == getattr(theirs, name).numpy().tobytes(), name
            for one, other in zip(mine.parameters, theirs.parameters, strict=True):
                assert all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in other)
    assert [bool(result.failed_epoch.any()) for result in apart] == [kind == kinds[2] for kind, _ in groups]
    assert len({result.curves[:, -1].numpy().tobytes() for result in apart}) == len(groups)


def test_groups_that_differ_in_more_are_refused():
    own = [engine(momentum=momentum).settings for momentum in (0.0, 0.5)]
    for several in (own, own[:1], []):
        refused(ValueError, "2 settings that differ in learning rate", Engine, small.dataset(), several, seed=1,
                stream="fx", repetitions=[0, 1])  # fmt: skip


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
    if head != "identity":
        torch.testing.assert_close(result.validation[:, 1], measured["accuracy"][0, order])
    if head == "softmax":
        torch.testing.assert_close(result.predictions.sum(-1), torch.ones(13, 9))
        metric = (result.predictions.argmax(-1) == made.test.targets.argmax(-1)).double().mean(-1)
    elif head == "logistic":
        assert 0 < result.predictions.min() < result.predictions.max() < 1
        metric = ((result.predictions > 0.5) == (made.test.targets > 0)).double().mean((-1, -2))
    else:
        assert result.validation[:, 1].isnan().all()
        metric = (result.predictions - (made.test.targets * 2.0 + 0.5)).square().sum(-1).double().mean(-1)
    column = LOSS if head == "identity" else METRICS.index("test_accuracy")
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


@CELLS
def test_a_place_draws_from_its_own_density_and_nothing_else_notices(cell):
    plain, other = (engine(cell, densities=Densities(hidden=law)).run()[0] for law in ("gaussian", "student-t"))
    for c, name in enumerate(plain.conditions):
        same = name == "none" or name.endswith("output")
        assert torch.equal(plain.predictions[c], other.predictions[c]) == same, name
    made = engine(cell, densities=Densities("uniform", "cauchy"))
    sample, shape = made._sampler(), (1, 1, 1, 1, 20_000)
    drawn = {name: sample(name, shape).abs() for name in ("gate", "gate-test", "output", "output-test")}
    assert all((drawn[name].max() < 3**0.5) == name.startswith("output") for name in drawn)
    assert all(abs(drawn[name].median() - 1) < 0.05 for name in ("gate", "gate-test"))


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


def test_each_slice_of_the_noise_benefit_has_draws_of_its_own(monkeypatch):
    seen, plain = [], GateNoise.increments
    monkeypatch.setattr(GateNoise, "increments", lambda self, *given: seen.append(given[-1]) or plain(self, *given))
    engine("lstm", noise_benefit=True, latent="sampled", conditions=["nem-additive-hidden"]).run()
    measured = [values for draws in seen for values in (draws.normal, draws.test, draws.uniform) if len(values) == 3]
    assert len(measured) >= 6
    assert all(not torch.equal(one, two) for values in measured for one, two in itertools.combinations(values, 2))


def test_a_first_target_beyond_the_window_is_an_error():
    refused(ValueError, "first_target of at most T = 3", engine, first_target=4)


def resident_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssFile:"))) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts pages as Linux does")
def test_training_reads_a_mapped_pool_row_by_row(tmp_path):
    """Of 16 GiB, in a sparse file."""
    rows, inputs = 1 << 21, 2048
    pool = torch.from_file(str(tmp_path / "pool"), shared=True, size=rows * inputs).view(rows, inputs)
    index = torch.randperm(rows, generator=torch.Generator().manual_seed(1))[: 80 * 3].view(80, 3)
    sides = [Sequences(pool, index[own], torch.eye(2)[own % 2], own) for own in torch.arange(80).split(40)]
    data, before = Dataset(*sides, None, "softmax", 1.0, 0.0, "", ("a", "b"), {}), resident_mib()
    made = engine("gru", data=data, conditions=("none", "nem-additive-both"))
    made.run()
    assert {part.pool.data_ptr() for part in (made.train, made.test, made.probe)} == {pool.data_ptr()}
    assert resident_mib() - before < 500


@pytest.fixture
def run(project):
    train.train("sample", [small.work(cell="gru", conditions=("none", "nem-additive-output"))])
    folder = paths.run_folder("sample", "gru")
    return folder, records.read_json(folder / "run.json")


def changed(record, path, value=None):
    """Return a copy whose key at ``path`` has another value, or (``None``) is missing."""
    new = copy.deepcopy(record)
    *parents, last = path.split(".")
    node = reduce(getitem, parents, new)
    del node[last]
    node |= {} if value is None else {last: value}
    return new


def refuse(file, *words):
    with pytest.raises(ValueError, match=file.replace(".", r"\.")) as error:
        results.load("sample", "gru")
    assert all(word in str(error.value) for word in ("expected", "found", "run", *words)), error.value
    assert "delete" not in str(error.value)


def test_what_training_wrote_is_read(run):
    folder, record = run
    trained = results.load("sample", "gru")
    assert trained.record == record
    assert record.keys() >= {"task", "split", "cell", "seed", "settings", "repetitions", "data", "unit", "head"}
    assert (trained.epochs, trained.max_epochs, trained.repetitions, trained.failed("none")) == (3, 4, 2, 0)
    assert np.array_equal(trained.final("none", "test_loss"), [c[3] for c in trained.curve("none", "test_loss")])
    names = {f"{condition}.safetensors" for condition in trained.conditions}
    assert {file.name for file in (folder / "models").iterdir()} == names
    refused(FileNotFoundError, "train@sample-gru", results.load, "sample", "gru", "groups")


def test_labels_are_written_read_and_predicted_as_probabilities_of_each(project):
    folder = Path("data/sequences/sample")
    sequences.write(folder, small.table("logistic"))
    train.train("sample", [small.work(conditions=("none", "nem-additive-both"))])
    trained = results.load("sample", "lstm")
    assert (trained.record["head"], trained.record["classes"]) == ("logistic", ["one", "two"])
    frame = trained.predictions.to_pandas()
    rows = frame[(frame.condition == "none") & (frame.repetition == 0)]
    network = models.load(paths.run_folder("sample", "lstm") / "models/none.safetensors")
    assert network.about["head"] == "logistic"
    whole = frame[(frame.condition == "none") & (frame.repetition == network.about["repetition"])]
    test = sequences.load(folder).test
    found = network.predict(test.pool[test.index].numpy())
    np.testing.assert_allclose(found, np.stack(whole.probabilities), rtol=1e-4, atol=1e-5)
    right = (np.stack(rows.probabilities) > 0.5) == (test.targets.numpy() > 0.5)
    assert trained.final("none", "test_accuracy")[0] == pytest.approx(right.mean())


def test_a_record_without_a_key_with_a_value_of_another_type_or_of_another_run(run):
    folder, record = run
    cases = [(content, []) for content in ({}, [], None, 1, "run")]
    for path, types in results.RECORD.items():
        cases.append((changed(record, path), [path, "found none", "dvc repro train@sample-gru"]))
        cases += [(changed(record, path, v), [path]) for v in (True, [1] if types is not list else {"a": 1})]
    for key, value, name in (("cell", "lstm", "sample lstm"), ("split", "groups", "sample_groups gru")):
        cases.append((changed(record, key, value), ["a run of sample gru", f"one of {name}"]))
    for content, words in cases:
        records.write_json(folder / "run.json", content)
        refuse("run.json", "dvc repro", *words)


@pytest.mark.parametrize("name", ["curves", "outcomes", "predictions"])
def test_tables_without_a_column_or_with_a_column_of_another_type(run, name):
    folder, _ = run
    file = folder / f"{name}.parquet"
    table = records.read_table(file)
    for place, column in enumerate(table.column_names):
        records.write_table(file, table.drop_columns([column]))
        refuse(file.name, repr(column), "no such column")
        records.write_table(file, table.set_column(place, column, pa.array([["x"]] * len(table))))
        refuse(file.name, repr(column))

    file.unlink()
    refused(FileNotFoundError, file.name, results.load, "sample", "gru")


def trained(cell, head, folder):
    """Return a dataset, one trained repetition, and a description of its networks."""
    sequences.write(folder, small.table(head))
    data = sequences.load(folder)
    settings = small.settings(cell=cell, conditions=("none",))
    about = {"cell": cell, "inputs": 2, "hidden": 5, "outputs": data.outputs, "classes": [*data.classes], "head": head}
    return data, Engine(data, settings, seed=1, stream="sample", repetitions=[0]).run()[0], about


@pytest.mark.parametrize(("cell", "ours", "theirs"), [("lstm", NoisyLSTM, nn.LSTM), ("gru", NoisyGRU, nn.GRU)])
@HEADS
def test_a_loaded_network_predicts_what_the_engine_did(cell, ours, theirs, head, tmp_path):
    """And its tensors have torch's names; equal content gives equal bytes."""
    data, repetition, about = trained(cell, head, tmp_path)
    for name, described in (("m", about), ("again", dict(reversed(about.items())))):
        models.save(tmp_path / name, repetition.parameters[0], described)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    network, x = models.load(tmp_path / "m"), data.test.pool[data.test.index]
    assert network.about == about
    expected = repetition.predictions[0]
    if head == "identity":
        expected = (expected - data.target_offset) / data.target_scale
    np.testing.assert_allclose(network.predict(x.numpy()), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(network.layer, ours)
    layer, tensors = theirs(2, 5, batch_first=True), load_file(tmp_path / "m")
    assert all(torch.equal(tensors.pop(f"head.{n}"), getattr(network.head, n)) for n in ("weight", "bias"))
    layer.load_state_dict(tensors)
    torch.testing.assert_close(layer(x)[0], network.layer(x)[0])


def test_a_model_says_how_it_was_chosen_and_what_it_reads(project):
    work = small.work(conditions=("none", "nem-additive-both"), repetitions=(0, 1, 2))
    train.train("sample", [work])
    network = models.load(project / "data/runs/sample/lstm/models/nem-additive-both.safetensors")
    assert network.about["repetition"] in (0, 1, 2)
    expected = {
        "chosen_by": "test loss at epoch 3", "condition": "nem-additive-both", "origin": {"weights": "seeded"},
        "task": "sample", "split": None, "unit": "°", "slices": 3, "first_target": 3, "target_scale": 2.0,
    }  # fmt: skip
    assert network.about.items() >= expected.items()


def test_other_files_and_shapes_are_refused(tmp_path):
    refused(FileNotFoundError, "dvc repro train", models.load, tmp_path / "none.safetensors")
    _, repetition, about = trained("gru", "identity", tmp_path)
    tensors, file = models.state_dict("gru", repetition.parameters[0]), tmp_path / "m"
    descriptions = [None, "{", "3", "{}", *(json.dumps(about | {"cell": cell}) for cell in ("lstm", "rnn"))]
    contents = [save(tensors, None if text is None else {"model": text}) for text in descriptions]
    for content in (*contents, save({"W": torch.zeros(1)}, {"model": json.dumps(about)}), b"x" * 50):
        file.write_bytes(content)
        refused(ValueError, r"(?s)expected a trained network in .*dvc repro train", models.load, file)
    models.save(file, repetition.parameters[0], about)
    for shape in ((1, 2, 3), (2, 2)):
        with pytest.raises(ValueError, match=r"expected inputs of shape \(N, T, 2\)"):
            models.load(file).predict(np.zeros(shape, np.float32))
