"""One way of training: its results know no worker, no deal, no kill; finished work is kept, and voided by code."""

import itertools
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nem.conditions import CONDITIONS
from pipeline.common import jobs, kept, paths, records, sequences
from pipeline.training import results, train
from pipeline.training.engine import METRICS, Repetition
from tests.training import small

ROOT = Path(__file__).parent.parent.parent
FEW = ("none", "nem-additive-both", "blind-multiplicative-hidden")


@pytest.fixture(autouse=True)
def _serial(project, monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")


def both_splits(**changes):
    first = small.work(**changes)
    return [first, replace(first, split="second")]


def contents(folder):
    return {str(f.relative_to(folder)): records.sha256_of(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def collect(work, keep="test"):
    return {(one, repetition.number): repetition for one, repetition in train.run(work, label="test", keep=keep)}


def equal(a, b):
    """Whether two repetitions are equal to the bit."""
    return all(
        torch.equal(torch.nan_to_num(getattr(a, name), nan=-7.0), torch.nan_to_num(getattr(b, name), nan=-7.0))
        for name in ("curves", "failed_epoch", "predictions")
    )


def test_files_do_not_depend_on_executor_workers_or_split_order(monkeypatch):
    work = both_splits(conditions=FEW, repetitions=(0, 1, 2))
    written = []
    for kind, workers in (("serial", "1"), ("process", "2"), ("process", "3")):
        monkeypatch.setenv("NEM_EXECUTOR", kind)
        monkeypatch.setenv("NEM_WORKERS", workers)
        train.train("sample", work)
        written.append(contents(paths.RUNS))
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


def test_a_repetition_does_not_depend_on_the_deal(monkeypatch):
    work = small.work(conditions=FEW, repetitions=tuple(range(6)))
    monkeypatch.setenv("NEM_WORKERS", "1")
    stacked = collect([work], "one")
    monkeypatch.setattr(train, "STACK", 1)
    alone = collect([work], "two")
    assert stacked.keys() == alone.keys()
    assert all(equal(stacked[name], alone[name]) for name in stacked)


@pytest.mark.parametrize(("repetitions", "conditions"), [*itertools.product((1, 2, 3, 5, 10, 17), (1, 2, 4, 13))])
def test_every_core_is_busy_with_any_number_of_repetitions(repetitions, conditions):
    numbers = list(range(repetitions))
    for workers in (1, 2, 4, 8, 16):
        dealt = train.deal(numbers, conditions, "cpu", math.ceil(repetitions / workers))
        assert [number for stack in dealt for number in stack] == numbers
        assert max(len(stack) for stack in dealt) * conditions <= max(train.STACK, conditions)
        # The busiest worker has no more repetitions than it must have.
        rounds = math.ceil(len(dealt) / workers)
        assert rounds * len(dealt[0]) <= math.ceil(repetitions / workers) + len(dealt[0]) - 1
    assert train.deal(numbers, conditions, "cuda", 1) == [tuple(numbers)]


def test_live_tracking_sees_every_repetition_once():
    seen = []
    live = lambda record: lambda repetition: seen.append((record["cell"], record["split"], repetition.number))  # noqa: E731
    train.train("sample", both_splits(conditions=FEW, repetitions=(0, 1, 2)), live)
    assert sorted(seen, key=str) == sorted((("lstm", s, n) for s in (None, "second") for n in range(3)), key=str)


def test_finished_repetitions_are_kept_and_trained_once(monkeypatch):
    work = small.work(conditions=FEW, repetitions=(0, 1, 2), networks=False)
    trained = []
    before = train._train_stack
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
            file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert equal(collect([work])[work, 0], first[work, 0])
    assert sorted(n for stack in trained[once + 1 :] for n in stack) == [0, 1, 2]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2}, {"stream": "other"}, {"split": "second"}, {"validation": "apart"}, {"stride": 2}, {"hidden": 6}],
)
def test_another_work_meets_no_kept_repetition(changes):
    base, other = small.work(conditions=("none",)), small.work(conditions=("none",), **changes)
    collect([base])
    store = [kept.Kept("test", [kept.code_digest(train.CODE), train._key(work)]) for work in (base, other)]
    assert [one.has("repetition 0") for one in store] == [True, False]
    before = train._key(base)
    sequences.write(base.data, small.table(seed=1))
    assert train._key(base) != before


def test_the_code_that_decides_a_repetition_is_in_its_key():
    """All that the engine imports of this project, but for what reads and writes files."""
    listing = "import sys, pipeline.training.engine; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    own = {name for name in loaded if name.startswith(("nem.", "pipeline."))}
    files = {f"pipeline.{name}" for name in ("common", "training", "common.records", "common.paths")}
    # Layers and losses are for those who build networks of their own.
    assert own - files - {"nem.layers", "nem.losses", "nem.theory"} <= set(train.CODE)
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


_KILLED = """
import os, signal
from pipeline.common import kept
from pipeline.training import train
from tests.training.test_train import both_splits

saved = 0
before = kept.Kept.put

def put(self, name, content):
    global saved
    before(self, name, content)
    saved += 1
    if saved == {after}:
        os.kill(os.getpid(), signal.SIGKILL)

kept.Kept.put = put
train.train("sample", both_splits(conditions=("none", "nem-additive-both")))
"""


def test_a_killed_training_goes_on_to_the_same_bytes(project):
    work = both_splits(conditions=("none", "nem-additive-both"))
    train.train("sample", work)
    whole = contents(paths.RUNS)
    environment = os.environ | {"NEM_EXECUTOR": "serial", "PYTHONPATH": str(ROOT)}
    for after in (2, 4, 5, 9):
        for file in paths.RUNS.rglob("*.*"):
            file.unlink()
        killed = subprocess.run([sys.executable, "-c", _KILLED.format(after=after)], env=environment, check=False)
        assert killed.returncode == -signal.SIGKILL
        epochs = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs, "progress", epochs.append)
            train.train("sample", work)
        assert contents(paths.RUNS) == whole
        assert sum(epochs) <= 2 * 2 * 4  # what is gone on with counts from where it was
        assert not (paths.CHECKPOINTS / "train").exists() or not any((paths.CHECKPOINTS / "train").rglob("*.*"))


def test_a_job_that_keeps_no_states_writes_nothing(project):
    work = small.work(conditions=("none",), repetitions=(0,), checkpoint_every=None)
    train._train_stack(train._Stack(work, (0,), kept.Kept("test", 1)))
    assert not paths.CHECKPOINTS.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_not_replaced_silently():
    with pytest.raises(ValueError, match="expected a CUDA device"):
        train.resolve_device("cuda")
    assert train.resolve_device("auto") == "cpu"


def repetition(number, losses, failed=()):
    """A repetition with one network per loss."""
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


def test_a_packed_repetition_comes_back():
    for one in several():
        one.parameters[1] = {}
        back = train._unpacked(train._packed(one))
        assert equal(one, back)
        assert (back.number, back.conditions, back.validation) == (one.number, one.conditions, None)
        assert [network.keys() for network in back.parameters] == [network.keys() for network in one.parameters]
        assert torch.equal(back.parameters[2]["W"], one.parameters[2]["W"])


def test_tables_end_where_a_network_failed():
    trained = several()[:1]
    trained[0].curves[:, 0, METRICS.index("test_loss")] = 5.0
    trained[0].curves[2, 1] = torch.nan
    curves = train.curves_table(trained).to_pandas()
    assert curves.groupby("condition").epoch.max().tolist() == [1, 1, 0]
    assert curves.noise_benefit.isna().all()
    assert train.outcomes_table(trained).to_pylist()[2] == {
        "condition": "c", "repetition": 0, "status": "failed", "failed_epoch": 1,
    }  # fmt: skip


def test_few_groups_are_the_first_of_each_class_for_as_many_steps(project):
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
    with pytest.raises(ValueError, match="expected 40 groups"):
        train.dataset(small.work(Path("grouped"), groups=40))


def test_shuffled_sequences_have_the_same_slices_in_another_order(project):
    kept, tested, shuffled = (
        train.dataset(small.work(order=order)) for order in ("kept", "shuffled for testing", "shuffled")
    )
    assert torch.equal(tested.train.index, kept.train.index)
    for side, moved in ((tested.test, kept.test), (shuffled.train, kept.train), (shuffled.test, kept.test)):
        assert torch.equal(side.index.sort(1).values, moved.index.sort(1).values)
        assert not torch.equal(side.index, moved.index)
        assert torch.equal(side.targets, moved.targets)
    assert torch.equal(shuffled.test.index, tested.test.index)
