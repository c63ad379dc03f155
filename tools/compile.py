"""Compile :mod:`nem.kernels` for this processor; else each process of the first training does, in ten seconds."""

import torch

from nem.stack import Batch, Networks, Size, StackDraws, StackNoise, gradients


def main() -> None:
    """Run one gradient step of one small network, and a pass without one."""
    networks, batch = Networks(Size("lstm", 1, 1, 1, 1, 1)), Batch.of(torch.ones(1, 1, 2, 1), torch.ones(1, 1, 1))
    gradients(networks, batch, "identity", StackNoise.of(["none"]), StackDraws())
    networks.forward(batch.x)


if __name__ == "__main__":
    main()
