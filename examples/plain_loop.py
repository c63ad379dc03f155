"""A plain PyTorch loop: the next value of a noisy wave, with NEM noise in the gates and in the targets, or without."""

import torch
from torch import Tensor, nn

from nem import Noise, NoisyLSTM, nem_mse_loss


def waves(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs ``(count, 12, 1)`` and the values ``(count, 1)`` that follow."""
    time = torch.arange(13) * 0.5 + 6 * torch.rand(count, 1, generator=generator)
    values = torch.sin(time) + 0.1 * torch.randn(time.shape, generator=generator)
    return values[:, :-1, None], values[:, -1:]


def train(noise: Noise | None, seed: int = 1, epochs: int = 15) -> float:
    """Train one network, and return its squared error on waves that it has not seen."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # PyTorch draws initial weights from its global generator
    layer, head = NoisyLSTM(1, 16, batch_first=True, noise=noise), nn.Linear(16, 1)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)
    data = waves(256, generator)
    for epoch in range(epochs):
        layer.set_epoch(epoch)  # the noise is annealed
        for x, y in zip(*(part.split(32) for part in data), strict=True):
            prediction = head(layer(x, generator=generator)[0][:, -1])
            loss = nem_mse_loss(prediction, y, noise=noise, epoch=epoch, generator=generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    layer.eval()  # always noiseless
    x, y = waves(256, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return nem_mse_loss(head(layer(x)[0][:, -1]), y).item()


def main() -> dict[str, float]:
    """Compare one network of each kind; which is better is a question for many: examples/compare.ipynb."""
    noises = {"none": None, "blind": Noise("blind", "additive", 0.1), "nem": Noise("nem", "additive", 0.1, decay=1.0)}
    errors = {name: train(noise) for name, noise in noises.items()}
    for name, error in errors.items():
        print(f"{name:<6} test squared error {error:.4f}")
    return errors


if __name__ == "__main__":
    main()
