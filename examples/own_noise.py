"""Own noise: the NEM test asks only whether a draw makes the signal more probable, whatever law or function made it."""

import torch
from torch import Tensor, nn

from nem import Noise, NoisyGRU, nem_cross_entropy


def salt(shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw noise that is 0 but for one value in ten, of deviation 1: a density as a function, called as torch.randn."""
    values = torch.randn(shape, generator=generator, dtype=dtype, device=device)
    rare = torch.rand(shape, generator=generator, dtype=dtype, device=device) < 0.1
    return values * rare * 10**0.5


def saturate(signal: Tensor, noise: Tensor) -> Tensor:
    """Combine signal and noise in a way that is neither additive nor multiplicative, and stays between 0 and 1."""
    return (signal + noise).clamp(0, 1)


NOISES = {
    "gaussian": Noise("nem", "additive", sigma=0.1),
    "cauchy": Noise("nem", "additive", sigma=0.1, density="cauchy"),
    "salt": Noise("nem", "multiplicative", sigma=0.1, density=salt),
    "saturate": Noise("nem", saturate, sigma=0.1, density="laplace"),
}


def main() -> dict[str, tuple[float, float]]:
    """Train a classifier with each noise in its gates and targets; return clean losses and shares of accepted draws."""
    found = {}
    for name, noise in NOISES.items():
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(1)  # PyTorch draws initial weights from its global generator
        layer, head = NoisyGRU(3, 8, batch_first=True, noise=noise), nn.Linear(8, 2)
        optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
        x = torch.randn(128, 6, 3, generator=generator)
        y = (x[:, :, 0].sum(1) > 0).long()
        shares = []
        for _ in range(30):
            logits = head(layer(x, generator=generator)[0][:, -1])
            shares.append(layer.acceptance.item())
            loss = nem_cross_entropy(logits, y, noise=noise, generator=generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            clean = nem_cross_entropy(head(layer.eval()(x)[0][:, -1]), y).item()
        found[name] = (clean, sum(shares) / len(shares))
        print(f"{name:<10} clean cross entropy {clean:.3f}, accepted in the gates {found[name][1]:.0%}")
    return found


if __name__ == "__main__":
    main()
