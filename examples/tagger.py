"""A tagger of sequences of several lengths: does each slice stand between neighbours whose sum is positive?

A network that reads in one direction cannot know; one that reads in both can. Padding is never seen.
"""

import torch
from torch import Tensor, nn

from nem import Noise, NoisyLSTM, nem_cross_entropy


def sentences(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded inputs ``(count, 12, 1)``, tags ``(count, 12)``, and lengths ``(count,)`` of 4 to 12 slices."""
    x, lengths = torch.randn(count, 12, 1, generator=generator), torch.randint(4, 13, (count,), generator=generator)
    x[torch.arange(12) >= lengths[:, None]] = 0
    around = nn.functional.pad(x[..., 0], (1, 1))
    return x, (around[:, :-2] + around[:, 2:] > 0).long(), lengths


class Tagger(nn.Module):
    """An LSTM in both directions, with noise in its gates, and a linear layer on every slice."""

    def __init__(self, noise: Noise | None, generator: torch.Generator) -> None:
        super().__init__()
        self.layer = NoisyLSTM(1, 16, batch_first=True, bidirectional=True, noise=noise, generator=generator)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits ``(N, 2)`` of all N slices that there are."""
        there = torch.arange(x.shape[1]) < lengths[:, None]
        return self.head(self.layer(x, lengths=lengths)[0][there])


def train(noise: Noise | None, seed: int = 1, epochs: int = 8) -> float:
    """Train one tagger, and return the share of tags that it gets right in sentences that it has not seen."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # PyTorch draws initial weights from its global generator
    tagger = Tagger(noise, generator)
    optimiser = torch.optim.Adam(tagger.parameters(), lr=0.03)
    data = sentences(256, generator)
    for epoch in range(epochs):
        tagger.layer.set_epoch(epoch)
        for x, tags, lengths in zip(*(part.split(32) for part in data), strict=True):
            logits, target = tagger(x, lengths), tags[torch.arange(12) < lengths[:, None]]
            loss = nem_cross_entropy(logits, target, noise=noise, epoch=epoch, generator=generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    x, tags, lengths = sentences(256, torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = tagger.eval()(x, lengths).argmax(1)
    return (said == tags[torch.arange(12) < lengths[:, None]]).double().mean().item()


def main() -> dict[str, float]:
    """Train one tagger without noise and one with NEM noise in gates and tags."""
    found = {"none": train(None), "nem": train(Noise("nem", "additive", sigma=0.1, decay=1.0))}
    for name, accuracy in found.items():
        print(f"{name:<5} tags that are right {accuracy:.1%}")
    return found


if __name__ == "__main__":
    main()
