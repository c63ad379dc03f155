"""A pool larger than memory trains: it stays mapped, and a batch reads its own rows only."""

from pathlib import Path

import pytest
import torch

from pipeline.common.sequences import Dataset, Sequences
from pipeline.training.engine import METRICS, Engine
from tests.training import small

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
    # Sparse: only what is written takes room.
    pool = torch.from_file(str(tmp_path / "pool"), shared=True, size=ROWS * INPUTS).view(ROWS, INPUTS)
    pool[index] = 0.05 * torch.randn(*index.shape, INPUTS, generator=generator) + 0.05 * targets[:, :1, None]

    def part(first):
        chosen = torch.arange(first, first + CLIPS)
        return Sequences(pool, index[chosen], targets[chosen], chosen)

    data = Dataset(part(0), part(CLIPS), None, "softmax", 1.0, 0.0, "", ("a", "b"), {})
    before = {kind: resident_mib(kind) for kind in ("Anon", "File")}
    settings = small.settings(cell="gru", epochs=15, max_epochs=15, conditions=("none", "nem-additive-both"))
    engine = Engine(data, settings, seed=1, stream="video", repetitions=[0])
    trained = engine.run()[0]
    assert {part.pool.data_ptr() for part in (engine.train, engine.test, engine.probe)} == {pool.data_ptr()}
    assert trained.curves[0, 15, METRICS.index("test_accuracy")] > 0.8
    assert resident_mib("Anon") - before["Anon"] < 500
    assert resident_mib("File") - before["File"] < 500
