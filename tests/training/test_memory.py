"""A pool larger than memory trains: it stays mapped, and a batch reads its own rows only."""

import copy
import random
from pathlib import Path

import pytest
import torch

from pipeline.training import train
from pipeline.training.engine import METRICS, Engine, Repetition
from pipeline.training.problem import Problem, Sequences
from tests import problems

ROWS, INPUTS, CLIPS, T = 1 << 21, 2048, 40, 3
"""A pool of 16 GiB."""


def resident_mib(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"Rss{kind}:")) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts pages as Linux does")
def test_training_reads_a_mapped_pool_row_by_row(tmp_path):
    generator = torch.Generator().manual_seed(1)
    index = torch.randperm(ROWS, generator=generator)[: 2 * CLIPS * T].view(2 * CLIPS, T)
    targets = torch.eye(2)[torch.arange(2 * CLIPS) % 2]
    with (tmp_path / "pool").open("wb") as file:
        file.truncate(ROWS * INPUTS * 4)  # sparse: only what is written takes room
        for rows, target in zip(index.tolist(), targets, strict=True):
            for row in rows:
                file.seek(row * INPUTS * 4)
                file.write((0.05 * torch.randn(INPUTS, generator=generator) + 0.05 * target[0]).numpy().tobytes())
    pool = torch.from_file(str(tmp_path / "pool"), shared=True, size=ROWS * INPUTS).view(ROWS, INPUTS)

    def part(first):
        chosen = torch.arange(first, first + CLIPS)
        return Sequences(pool, index[chosen], targets[chosen], chosen)

    made = Problem(part(0), part(CLIPS), "softmax", 1.0, 0.0, ("a", "b"), {})
    before = {kind: resident_mib(kind) for kind in ("Anon", "File")}
    settings = problems.settings(optimiser="adam", learning_rate=0.01, epochs=15, max_epochs=15)
    training = problems.training(conditions=["none", "nem-additive-both"])
    engine = Engine(made, "gru", settings, training, seed=1, task="video", repetitions=[0])
    found = engine.run()[0]
    assert {each.pool.data_ptr() for each in (engine.train, engine.test, engine.probe)} == {pool.data_ptr()}
    assert found.curves[0, 15, METRICS.index("test_accuracy")] > 0.8
    assert resident_mib("Anon") - before["Anon"] < 500
    assert resident_mib("File") - before["File"] < 500


def repetition(number, losses, failed=()):
    """A repetition with one network per loss."""
    curves = torch.full((len(losses), 2, len(METRICS)), torch.nan, dtype=torch.float64)
    curves[:, 1, METRICS.index("test_loss")] = torch.tensor(losses, dtype=torch.float64)
    failed_epoch = torch.tensor([int(c in failed) for c in range(len(losses))])
    parameters = [{"W": torch.full((2,), 10.0 * number + c)} for c in range(len(losses))]
    return Repetition(number, tuple("abc"), curves, failed_epoch, torch.zeros(3, 1, 1), parameters)


def test_only_the_best_networks_are_kept_in_whatever_order_they_come():
    made = [
        repetition(0, [3.0, 1.0, 9.0], {2}),
        repetition(1, [2.0, 1.0, 9.0], {2}),
        repetition(2, [2.5, 4.0, 9.0], {2}),
    ]
    for seed in range(6):
        order, kept = copy.deepcopy(made), []
        random.Random(seed).shuffle(order)
        for each in order:
            kept.append(each)
            train.keep_best(kept, 1)
        held = {(each.number, c) for each in kept for c in range(3) if each.parameters[c]}
        assert held == {(1, 0), (0, 1)}
        assert [train.best_of(kept, c, 1) is None for c in range(3)] == [False, False, True]
