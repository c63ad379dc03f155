"""Compile :mod:`nem.kernels` and :mod:`nem.gaussian` for this processor; else each first process that trains does."""

import torch

from nem import Noise, NoisyLSTM, gaussian
from nem.densities import standard
from nem.stack import Batch, Networks, Size, StackDraws, StackNoise, gradients


def main() -> None:
    """Run one gradient step of one small network, a pass without one, and a layer there and back; draw."""
    networks, batch = Networks(Size("lstm", 1, 1, 1, 1, 1)), Batch.of(torch.ones(1, 1, 2, 1), torch.ones(1, 1, 1))
    gradients(networks, batch, "identity", StackNoise.of(["none"]), StackDraws())
    networks.forward(batch)
    layer = NoisyLSTM(1, 1, noise=Noise("nem", "additive", 0.1), generator=torch.Generator())
    layer(torch.ones(2, 1, 1))[0].sum().backward()
    standard("gaussian", (gaussian.MANY,), torch.empty(0), torch.Generator())


if __name__ == "__main__":
    main()
