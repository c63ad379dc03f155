"""The engine on a GPU, and what it does so that a GPU need not wait."""

from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nem import kernels
from nem.conditions import BEYOND, CONDITIONS
from tests.training.small import engine


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_gpu_trains_the_same_noiseless_network(cell):
    cpu, gpu = (engine(cell, conditions=["none"], dtype=torch.float64, device=d).run()[0] for d in ("cpu", "cuda"))
    torch.testing.assert_close(cpu.curves, gpu.curves, rtol=1e-8, atol=1e-10, equal_nan=True)


class Reads(TorchDispatchMode):
    """Names operations that wait for a GPU: a number that Python reads, a size that depends on data."""

    found: ClassVar = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.found += [n for n in ("_local_scalar", "nonzero", "masked_select") if n in str(operation)]
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("head", ["identity", "softmax", "logistic"])
def test_steps_and_losses_read_nothing_back(head, monkeypatch):
    """So that a GPU works through an epoch without waiting for Python; the cells' way, which is a GPU's."""
    monkeypatch.setattr(kernels, "numba", None)
    one = engine(head=head, conditions=[name for name in (*CONDITIONS, *BEYOND) if not name.startswith("expected")])
    assert not any((one.train.ragged, one.test.ragged)), "known once"
    with torch.no_grad(), Reads():
        one._train_epoch()
        one.measure(one.test, outputs=True)
    assert Reads.found == []
