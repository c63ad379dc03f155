"""Compile :mod:`nem.fast` for this processor, once; else each process of the first training does, for ten seconds."""

import torch

from nem.stack import Batch, Networks, Size, StackDraws, StackNoise, gradients


def main() -> None:
    """Run one gradient step of one small network."""
    batch = Batch.of(torch.ones(1, 1, 2, 1), torch.ones(1, 1, 1))
    gradients(Networks(Size("lstm", 1, 1, 1, 1, 1)), batch, "identity", StackNoise.of(["none"]), StackDraws())


if __name__ == "__main__":
    main()
