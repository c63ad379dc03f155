"""One way of training, its settings, and the search: results know no worker, deal or kill; finished work is kept."""

import copy
import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem.conditions import CONDITIONS
from pipeline import params
from pipeline.common import jobs, kept, paths, records, sequences
from pipeline.fx import rates, synthetic
from pipeline.training import results, settings, train, tune
from pipeline.training.engine import METRICS, Repetition
from stages import tune as stage
from tests.conftest import ROOT, refused
from tests.training import small

FEW = ("none", "nem-additive-both", "blind-multiplicative-hidden")
pytestmark = pytest.mark.usefixtures("project")


def both_splits(**changes):
    first = small.work(**changes)
    return [first, replace(first, split="second")]


def contents(folder):
    return {str(f.relative_to(folder)): records.sha256_of(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def collect(work, keep="test"):
    return {(one, repetition.number): repetition for one, repetition in train.run(work, label="test", keep=keep)}


def equal(a, b):
    names = ("curves", "failed_epoch", "predictions")
    return all(torch.equal(getattr(a, name).nan_to_num(-7), getattr(b, name).nan_to_num(-7)) for name in names)


def test_files_do_not_depend_on_executor_workers_or_split_order(monkeypatch):
    """And live tracking sees every repetition once."""
    work = both_splits(conditions=FEW, repetitions=(0, 1, 2))
    written, everyone = [], {("lstm", split, number) for split in (None, "second") for number in range(3)}
    for kind, workers in (("serial", "1"), ("process", "2"), ("process", "3")):
        monkeypatch.setenv("NEM_EXECUTOR", kind)
        monkeypatch.setenv("NEM_WORKERS", workers)
        seen = []
        train.train("sample", work, lambda of, to=seen: lambda one: to.append((of["cell"], of["split"], one.number)))
        written.append(contents(paths.RUNS))
        assert (set(seen), len(seen)) == (everyone, 6)
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == 2 * (4 + len(FEW))
    assert not (paths.CHECKPOINTS / "train" / "sample" / "lstm").exists()
    run, other = results.load("sample", "lstm"), results.load("sample", "lstm", "second")
    assert (run.conditions, run.repetitions) == (list(FEW), 3)
    assert len(run.curve("none", "test_loss")[2]) == 5
    assert len(run.predictions) == 3 * 3 * 10
    assert run.predictions["row"].to_pylist()[:10] == list(range(1030, 1040))
    assert (run.record["split"], other.record["split"]) == (None, "second")
    # Both splits start from the same weights, and train on other sequences; repetitions start from their own.
    assert other.final("none", "test_loss")[0] != run.final("none", "test_loss")[0]
    assert len({curve[0] for curve in run.curve("none", "test_loss")}) == 3


@given(st.integers(1, 17), st.sampled_from([1, 2, 4, 13]), st.integers(1, 16))
def test_every_core_is_busy_with_any_number_of_repetitions(repetitions, conditions, workers):
    numbers, most = list(range(repetitions)), math.ceil(repetitions / workers)
    dealt = train.deal(numbers, conditions, "cpu", most, workers)
    assert [number for stack in dealt for number in stack] == numbers
    assert max(map(len, dealt)) * conditions <= max(train.STACK, conditions)
    # The busiest worker has no more repetitions than it must have, where long stacks go first.
    loads = [0] * workers
    for stack in sorted(map(len, dealt), reverse=True):
        loads[loads.index(min(loads))] += stack
    assert max(loads) == most
    assert train.deal(numbers, conditions, "cuda", repetitions) == [tuple(numbers)]


@pytest.mark.parametrize("inputs", [2, 300])
def test_few_repetitions_are_dealt_by_condition_and_nobody_notices(monkeypatch, inputs):
    names = ("none", "nem-additive-both", "blind-multiplicative-hidden")
    sequences.write(Path("data/sequences/sample"), small.table(inputs=inputs))
    work, found, trained, before = small.work(conditions=names, networks=True), [], [], train._train_stack

    def noting(stack):
        trained.append((stack.work.settings.conditions, stack.repetitions))
        return before(stack)

    monkeypatch.setattr(train, "_train_stack", noting)
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    for repetitions, keep in (((0,), "one"), ((0, 1, 2), "three")):
        for workers, together in (("1", keep), ("2", f"{keep} dealt"), ("1", f"{keep} dealt")):
            monkeypatch.setenv("NEM_WORKERS", workers)
            found.append(collect([replace(work, repetitions=repetitions)], together))
        assert all(equal(one[key], found[-3][key]) for one in found[-2:] for key in found[-3])
        assert [own.conditions for own in found[-2].values()] == [names] * len(repetitions)
    halves = [(names[:1], (0,)), (names[1:], (0,)), (names[:1], (0, 1, 2)), (names[1:], (0, 1, 2))]
    assert sorted(stack for stack in trained if stack[0] != names) == sorted(halves)
    assert sum(len(stack[1]) for stack in trained if stack[0] == names) == 4, "what was joined is found as a whole"


def test_finished_repetitions_are_kept_and_trained_once(monkeypatch):
    monkeypatch.setenv("NEM_WORKERS", "1")
    work = small.work(conditions=FEW, repetitions=(0, 1, 2), networks=False)
    trained, before = [], train._train_stack
    monkeypatch.setattr(train, "_train_stack", lambda stack: trained.append(stack.repetitions) or before(stack))
    first = collect([work])
    once = len(trained)
    again = collect([work, work])
    assert len(trained) == once
    assert all(equal(first[name], again[name]) for name in first)
    more = replace(work, repetitions=(0, 1, 2, 3))
    assert equal(collect([more])[more, 1], first[work, 1])
    assert trained[once:] == [(3,)]
    for file in (paths.CHECKPOINTS / "test").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert equal(collect([work])[work, 0], first[work, 0])
    assert sorted(n for stack in trained[once + 1 :] for n in stack) == [0, 1, 2]


def alike(**changes):
    """Works that differ in rate and strength alone."""
    base = small.work(conditions=("none", "nem-additive-both"), networks=False, **changes)
    noise = [settings.NoiseTable(*(settings.Strength(sigma, 0.5),) * 4) for sigma in (0.1, 0.4)]
    several = [replace(base.settings, learning_rate=rate, noise=own) for rate in (0.03, 0.01) for own in noise]
    return [replace(base, settings=own) for own in several]


def test_works_that_differ_in_rate_and_strength_alone_form_stacks_that_nobody_notices(monkeypatch):
    """Nor where a run ends and goes on; a half-trained state is of its own stack alone."""
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.setenv("NEM_WORKERS", "1")
    monkeypatch.setattr(train, "STACK", 13)
    works, stacks, before, put = alike(), [], train._train_stack, kept.Kept.put
    other = small.work(conditions=works[0].settings.conditions, momentum=0.5, optimiser="sgd", networks=False)
    apart = {}
    for one in (*works, other):
        for number in one.repetitions:
            alone = replace(one, repetitions=(number,))
            apart[one, number] = collect([alone], "apart")[alone, number]
    monkeypatch.setattr(train, "_train_stack", lambda stack: stacks.append(stack.pairs) or before(stack))
    together = collect([*works, other])
    assert sorted(map(len, stacks)) == [2, 4, 4]
    assert {pair for stack in stacks for pair in stack} == together.keys() == apart.keys()
    assert all(equal(together[pair], apart[pair]) for pair in apart)
    assert not equal(apart[works[0], 0], apart[works[1], 0])
    assert not equal(apart[works[0], 0], apart[works[2], 0])
    for workers, goes_on in (("1", True), ("8", False)):
        calls, epochs, keep = itertools.count(1), [], f"again {workers}"

        def ending(self, name, content, calls=calls):
            put(self, name, content)
            if next(calls) == 2:
                raise KeyboardInterrupt

        monkeypatch.setenv("NEM_WORKERS", "1")
        monkeypatch.setattr(kept.Kept, "put", ending)
        with pytest.raises(KeyboardInterrupt):
            collect(works, keep)
        monkeypatch.setattr(kept.Kept, "put", put)
        monkeypatch.setenv("NEM_WORKERS", workers)
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "progress", epochs.append)
            resumed = collect(works, keep)
        assert all(equal(one, apart[pair]) for pair, one in resumed.items())
        assert epochs.count(0) == (1 if goes_on else 8)  # stacks that began anew
        assert sum(epochs) == 8 * 4


def test_each_work_of_a_stack_keeps_its_own_best_networks_and_is_named_where_the_stack_is_lost(capsys):
    works = [replace(one, networks=True) for one in alike()[:2]]
    stack = train._Stack(tuple((one, number) for number in (1, 0) for one in works), kept.Kept("job", 1))
    trained = [Repetition(**kept.unpack(content)) for content in train._train_stack(stack)]
    for one in works:
        own = [made for (other, _), made in zip(stack.pairs, trained, strict=True) if other == one]
        assert [bool(made.parameters[0]) for made in own] == [made is train.best_of(own, 0, 3) for made in own]
    lost = [Repetition(**kept.unpack(content)) for content in train._failed(stack)]
    assert [made.number for made in lost] == [1, 1, 0, 0]
    assert all(made.failed_epoch.tolist() == [1, 1] for made in lost)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line, sigma in zip(lines, (0.1, 0.4), strict=True):
        assert "repetitions (1, 0) of lstm, sample, split first, learning rate 0.03" in line
        assert f"'sigma': {sigma}" in line


def test_a_gpus_stack_has_all_of_a_work_and_of_several_works_what_its_memory_holds():
    works = alike()
    few = train._fit(works[0])
    assert 1000 < few < 10_000
    wide = replace(works[0], settings=replace(works[0].settings, hidden=1000, batch_size=4096))
    assert train._fit(wide) < few / 100
    assert train._fit(replace(wide, repetitions=tuple(range(500)))) == 500


def test_another_work_meets_no_kept_repetition():
    changes = {"seed": 2, "stream": "other", "split": "second", "validation": "apart", "stride": 2, "hidden": 6}
    base, *others = (small.work(conditions=("none",), **c) for c in ({}, *({k: v} for k, v in changes.items())))
    collect([base])
    stores = [kept.Kept("test", [kept.code_digest(train.CODE), train._key(work)]) for work in (base, *others)]
    assert [one.has("repetition 0") for one in stores] == [True] + [False] * len(changes)
    before = train._key(base)
    sequences.write(base.data, small.table(seed=1))
    assert train._key(base) != before


def test_the_code_that_decides_a_repetition_is_in_its_key():
    """All that the engine imports of this project, but for what reads and writes files, and what a cluster is."""
    listing = "import sys, pipeline.training.engine; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", listing], cwd=ROOT, text=True).split()
    own = {name for name in loaded if name.startswith(("nem.", "pipeline."))}
    rest = ("common", "training", *(f"common.{name}" for name in ("records", "paths", "cluster", "machine")))
    files = {f"pipeline.{name}" for name in rest}
    # For those who build networks of their own.
    theirs = {f"nem.{name}" for name in ("layers", "directions", "losses", "many", "theory")}
    assert own - files - theirs <= set(train.CODE)
    assert not any(name.startswith(("pipeline.evaluation", "pipeline.tracking")) for name in train.CODE)


def test_training_sequences_are_taken_by_stride():
    work = small.work(stride=3, validation="apart")
    everything = sequences.load(work.data, validation="apart")
    data = train.dataset(work)
    assert data.train.rows.tolist() == everything.train.rows.tolist()[::3]
    assert data.validation.rows.tolist() == everything.validation.rows.tolist()
    (repetition,) = collect([replace(work, repetitions=(0,))]).values()
    assert repetition.validation.shape == (len(CONDITIONS), 2)
    assert repetition.validation[:, 0].isfinite().all()
    train._train_stack(train._Stack(((replace(work, checkpoint_every=None), 0),), kept.Kept("job", 1)))
    assert not (paths.CHECKPOINTS / "job").exists(), "a job that keeps no states writes nothing"


def test_a_training_that_ends_anywhere_goes_on_to_the_same_bytes(monkeypatch):
    """By an exception that nobody catches; for kills, whose moment nobody chooses: tests/faults."""
    work = both_splits(conditions=("none", "nem-additive-both"))
    train.train("sample", work)
    whole, put = contents(paths.RUNS), kept.Kept.put
    for after in (2, 4, 5, 9):
        for file in paths.RUNS.rglob("*.*"):
            file.unlink()
        calls, epochs = itertools.count(1), []

        def ending(self, name, content, calls=calls, after=after):
            put(self, name, content)
            if next(calls) == after:
                raise KeyboardInterrupt

        monkeypatch.setattr(kept.Kept, "put", ending)
        with pytest.raises(KeyboardInterrupt):
            train.train("sample", work)
        monkeypatch.setattr(kept.Kept, "put", put)
        monkeypatch.setattr(jobs, "progress", epochs.append)
        train.train("sample", work)
        assert contents(paths.RUNS) == whole
        assert 0 < sum(epochs) <= 2 * 2 * 4  # what is gone on with counts from where it was
        assert not any((paths.CHECKPOINTS / "train").rglob("*.*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_not_replaced_silently():
    refused(ValueError, "expected a CUDA device", jobs.device, "cuda")
    assert jobs.device("auto") == "cpu"


def repetition(number, losses, failed=()):
    curves = torch.full((len(losses), 2, len(METRICS)), torch.nan, dtype=torch.float64)
    curves[:, 1, METRICS.index("test_loss")] = torch.tensor(losses, dtype=torch.float64)
    failed_epoch = torch.tensor([int(c in failed) for c in range(len(losses))])
    parameters = [{"W": torch.full((2,), 10.0 * number + c)} for c in range(len(losses))]
    return Repetition(number, tuple("abc"), curves, failed_epoch, torch.zeros(3, 1, 1), None, parameters)


def several():
    losses = ([3.0, 1.0, 9.0], [2.0, 1.0, 9.0], [2.5, 4.0, 9.0])
    return [repetition(number, own, {2}) for number, own in enumerate(losses)]


def test_only_the_best_networks_are_kept_in_whatever_order_they_come():
    for order in itertools.permutations(range(3)):
        trained, arrived = several(), []
        for number in order:
            arrived.append(trained[number])
            train.keep_best(arrived, 1)
        held = {(one.number, c) for one in arrived for c in range(3) if one.parameters[c]}
        assert held == {(1, 0), (0, 1)}
        assert [train.best_of(arrived, c, 1) is None for c in range(3)] == [False, False, True]


def test_tables_end_where_a_network_failed():
    trained = several()[:1]
    trained[0].curves[:, 0, METRICS.index("test_loss")] = 5.0
    trained[0].curves[2, 1] = torch.nan
    record = {"settings": {"epochs": 1}, "classes": [], "outputs": 1}
    tables = train.tables(record, trained, small.dataset(sequences_of=(2, 1, 0)))
    curves = tables["curves"].to_pandas()
    assert curves.groupby("condition").epoch.max().tolist() == [1, 1, 0]
    assert curves.noise_benefit.isna().all()
    assert tables["outcomes"].to_pylist()[2] == {
        "condition": "c", "repetition": 0, "status": "failed", "failed_epoch": 1,
    }  # fmt: skip


def test_few_groups_are_the_first_of_each_class_for_as_many_steps():
    table = small.table("softmax")
    sequences.write(Path("grouped"), replace(table, group=[str(k % 12) for k in range(len(table.rows))]))
    whole = train.dataset(small.work(Path("grouped"), validation="apart"))
    one, other = (train.dataset(small.work(Path("grouped"), validation="apart", groups=k)) for k in (1, 2))
    assert len(whole.train) == len(one.train) == len(other.train)
    assert torch.equal(one.test.index, whole.test.index)
    seen = []
    for data in (whole, one, other):
        rows = zip(data.train.targets.argmax(1).tolist(), data.train.rows.tolist(), strict=True)
        seen.append({(k, row % 1000 % 12) for k, row in rows})
    for count, groups in ((1, seen[1]), (2, seen[2])):
        of_class = {k: sorted(g for c, g in seen[0] if c == k)[:count] for k, _ in seen[0]}
        assert groups == {(k, g) for k, several in of_class.items() for g in several}
    refused(ValueError, "expected 40 groups", train.dataset, small.work(Path("grouped"), groups=40))


def test_shuffled_sequences_have_the_same_slices_in_another_order():
    kept, tested, shuffled = (
        train.dataset(small.work(order=order)) for order in ("kept", "shuffled for testing", "shuffled")
    )
    assert torch.equal(tested.train.index, kept.train.index)
    for side, moved in ((tested.test, kept.test), (shuffled.train, kept.train), (shuffled.test, kept.test)):
        assert torch.equal(side.index.sort(1).values, moved.index.sort(1).values)
        assert not torch.equal(side.index, moved.index)
        assert torch.equal(side.targets, moved.targets)
    assert torch.equal(shuffled.test.index, tested.test.index)


GRID = tune.Grid((("sgd", 0.1, 0.0), ("adam", 0.01, 0.0)), (0.1, 0.3), (0.0,), ("gaussian", "laplace"), 2)


@pytest.fixture
def search(project):
    def run(change=lambda table: table, head="identity"):
        table, forms = small.table(head), {"plain": Path("plain"), "large": Path("large")}
        for folder, scale in zip(forms.values(), (1, 30), strict=True):
            sequences.write(folder, change(replace(table, pools={"": table.pools[""] * scale})))
        work = small.work(forms["plain"], networks=False, checkpoint_every=None)
        cells = [small.settings(cell=cell, hidden=3, epochs=2, max_epochs=3) for cell in ("lstm", "gru")]
        return tune.tune(forms, cells, work, GRID)

    return run


def other_test_targets(table):
    test = table.splits["first"] == "test"
    noise = np.random.default_rng(1).uniform(0.1, 10, table.targets.shape).astype(np.float32)
    return replace(table, targets=np.where(test[:, None], noise, table.targets))


def test_test_sequences_change_nothing_and_the_best_is_chosen(search):
    choice, again = search(), search(other_test_targets)
    assert (choice.data, choice.networks) == (again.data, again.networks)
    assert choice.noiseless.equals(again.noiseless)
    assert choice.noisy.equals(again.noisy)
    assert (len(choice.noiseless), len(choice.noisy)) == (2 * 2 * 2, 2 * 2 * 2 * len(tune.NOISY))
    sums = choice.noiseless.groupby(["data", "cell"]).validation_loss.min().groupby("data").sum()
    assert choice.data == sums.idxmin()
    for cell, chosen in choice.networks.items():
        rows = choice.noiseless[(choice.noiseless.cell == cell) & (choice.noiseless.data == choice.data)]
        best = rows.loc[rows.validation_loss.idxmin()]
        assert (chosen["optimiser"], chosen["learning_rate"]) == (best.optimiser, best.learning_rate)
        rows = choice.noisy[(choice.noisy.cell == cell) & choice.noisy.condition.str.endswith("hidden")]
        sums = rows.groupby(["density", "condition"]).validation_loss.min().groupby("density").sum()
        assert chosen["noise"]["density"]["hidden"] == sums.idxmin()
        rows = rows[(rows.density == sums.idxmin()) & (rows.condition == "nem-additive-hidden")]
        assert chosen["noise"]["hidden"]["additive"]["sigma"] == rows.loc[rows.validation_loss.idxmin()].sigma
        assert (rows.lowest <= rows.validation_loss).all()
        # What was chosen is what a task's network takes for one cell.
        network = {name: value for name, value in small.settings().as_dict().items() if name != "cell"}
        assert settings.of({}, network | chosen, cell).learning_rate == best.learning_rate


def test_classes_are_searched_and_data_without_validation_and_networks_that_all_fail_refused(search):
    assert search(head="softmax").noiseless.validation_loss.between(0, 10).all()

    def joined(table):
        return replace(table, splits={"first": np.where(table.splits["first"] == "test", "test", "train")})

    refused(ValueError, "validation sequence", search, joined)
    refused(ValueError, "finite", search, lambda table: replace(table, targets=table.targets * np.float32(1e30)))


def test_the_stage_writes_tables_and_overrides(project, monkeypatch, capsys):
    monkeypatch.setattr(tune.Grid, "__init__", lambda self: self.__dict__.update(GRID.__dict__))
    content = params.Params(tasks=["fx"]).model_dump()
    content["fx"]["windows"]["train_end"] = 90
    content["train"]["fx"] |= {"hidden": 3, "epochs": 2, "max_epochs": 2, "batch_size": 32}
    monkeypatch.setattr(params, "load", lambda: params.validate(content))
    rates.write(synthetic.generate(120, 1), rates.RATES)
    records.write_json(paths.source_record("fx"), {"source": "synthetic"})
    assert stage.main([]) == 0, capsys.readouterr().err
    text = (project / "docs/tuning_fx.md").read_text()
    assert "make tune TASK=fx" in text
    assert text.count("\n| ") == 2 * 2 * 2 + 2 * 2 * 2 * 4 + 4
    assert "scaling:" in capsys.readouterr().out
    assert not [place for place in paths.CHECKPOINTS.iterdir() if place.name.startswith("tune")]


SHARED = {
    "repetitions": 3, "device": "auto", "checkpoint_every": 25,
    "conditions": ["none", "nem-additive-output"], "hidden_injection": "backward", "latent": "sampled",
    "granularity": "time", "gate_clamp": True, "output_delta": "literal", "first_target": None, "probe": 9,
    "noise_benefit": True,
}  # fmt: skip
STRENGTH = {"sigma": 0.5, "decay": 1}
NOISE = {
    "density": {"output": "gaussian", "hidden": "laplace"},
    **{place: {mode: dict(STRENGTH) for mode in settings.MODES} for place in settings.PLACES},
}
NETWORK = {
    "hidden": 50, "epochs": 4, "max_epochs": 6, "batch_size": 64, "optimiser": "adam", "learning_rate": 0.003,
    "momentum": 0.0, "noise": NOISE,
}  # fmt: skip


def test_settings_are_a_plain_dictionary_or_a_key():
    lstm = settings.of(SHARED, NETWORK, "lstm")
    assert (lstm.cell, lstm.hidden) == ("lstm", 50)
    assert lstm.as_dict()["noise"] == NOISE
    assert (lstm.densities.output, lstm.densities.of("hidden")) == ("gaussian", "laplace")
    assert (lstm.conditions, lstm.latent, lstm.probe) == (("none", "nem-additive-output"), "sampled", 9)
    assert hash(lstm) == hash(settings.of(copy.deepcopy(SHARED), copy.deepcopy(NETWORK), "lstm"))
    plain = json.loads(json.dumps(lstm.as_dict()))
    assert plain == lstm.as_dict()
    assert settings.of({}, {name: value for name, value in plain.items() if name != "cell"}, "lstm") == lstm


@pytest.mark.parametrize(("place", "right"), [("output", True), ("hidden", False), ("both", False)])
def test_means_in_closed_form_are_of_gaussian_noise(place, right):
    shared = SHARED | {"conditions": ["none", f"expected-nem-additive-{place}"], "granularity": "slice"}
    if right:  # there is Laplace noise in the gates alone
        assert settings.of(shared, NETWORK, "gru").densities.hidden == "laplace"
    else:
        refused(ValueError, r"noise\.density\.hidden gaussian for expected-nem", settings.of, shared, NETWORK, "gru")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("hidden", 0, "hidden"), ("hidden", True, "hidden"), ("epochs", 2.5, "epochs"), ("max_epochs", 3, "max_epochs"),
        ("optimiser", "lion", "optimiser"), ("learning_rate", "fast", "learning_rate"),
        ("learning_rate", float("nan"), "learning_rate"), ("momentum", -1, "momentum"),
        ("noise.hidden.additive.sigma", -1.0, r"noise\.hidden_additive\.sigma"),
        ("noise.density.hidden", "normal", r"densities\.hidden"),
        ("noise.output.additive.decay", None, r"noise\.output_additive\.decay"),
        ("batch_size", None, "batch_size"), ("granularity", "all", "granularity"), ("conditions", [], "conditions"),
        ("conditions", ["none", "none"], "conditions"), ("first_target", 0, "first_target"),
        ("output_delta", "b21", "output_delta"), ("one_draw_per", "day", "one_draw_per"),
        ("output_test", "49", "output_test"),
        ("hiden", 3, "hiden"), ("cell", "rnn", "'lstm' or 'gru'"),
    ],
)  # fmt: skip
def test_every_fault_names_its_parameter(place, value, words):
    network = copy.deepcopy(NETWORK)
    *parents, last = place.split(".")
    if place != "cell":
        reduce(getitem, parents, network)[last] = value
    refused(ValueError, words, settings.of, SHARED, network, "lstm" if place != "cell" else value)
