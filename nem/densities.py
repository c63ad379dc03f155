"""Densities of noise: what a draw is before σ scales it.

The paper's theorems hold for any density, since a draw is tested and not its law. Here are five, and any function that
draws. σ is the noise's standard deviation wherever it has one, so that noises of one σ have the same power:

- ``gaussian``: N(0, σ²), the paper's.
- ``uniform``: on (-√3 σ, √3 σ).
- ``laplace``: of scale σ/√2; tails fall exponentially.
- ``student-t``: 3 degrees of freedom, scaled to deviation σ; its density falls as 1/x⁴ (others: :class:`StudentT`).
- ``cauchy``: has no deviation; σ is its scale: half of all draws lie within ±σ. Its density falls as 1/x².
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from nem import gaussian
from nem.names import DensityName

Density = DensityName | Callable[..., Tensor]
"""A name, or a function called as ``torch.randn`` is: ``draw(shape, generator=…, dtype=…, device=…)``, of scale 1."""

DENSITIES: tuple[DensityName, ...] = get_args(DensityName)


@dataclass(frozen=True)
class StudentT:
    """Student's t with so many degrees of freedom: of standard deviation 1 above 2 of them, of scale 1 else.

    A number that is not positive is a ValueError.
    """

    degrees: float = 3.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.degrees) and self.degrees > 0):
            raise ValueError(f"expected degrees of freedom above 0, found {self.degrees}")

    def __call__(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Draw by Bailey's polar method, exact for every number of degrees: √(ν (U^(-2/ν) - 1)) cos 2πV."""
        u, v = torch.rand((2, *shape), generator=generator, dtype=dtype, device=device).unbind(0)
        # Of 1 - u, which is never 0, since u is never 1.
        radius = torch.expm1(torch.log1p(-u) * (-2 / self.degrees)).mul(self.degrees).sqrt()
        deviation = math.sqrt(self.degrees / (self.degrees - 2)) if self.degrees > 2 else 1.0
        return radius * torch.cos(2 * math.pi * v) / deviation


def checked(density: Density) -> Density:
    """Return a density; a ValueError says that it is none."""
    if not callable(density) and density not in DENSITIES:
        raise ValueError(f"expected one of {', '.join(DENSITIES)}, or a function that draws, found {density!r}")
    return density


def standard(density: Density, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None,
             out: Tensor | None = None) -> Tensor:  # fmt: skip
    """Return draws of scale 1 in type and place of ``like``, in ``out`` if given, of that shape and in one piece.

    A ValueError says that a function's draws have another shape.
    """
    if density == "gaussian":
        if generator is not None and gaussian.serves(generator, *shape, like=like):
            drawn = torch.empty(shape, dtype=like.dtype, device=like.device) if out is None else out
            return gaussian.fill(drawn, generator)
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device, out=out)
    # 16 bits would leave 256 values of a uniform variable.
    dtype = torch.promote_types(like.dtype, torch.float32)

    def uniform(*more: int) -> Tensor:
        return torch.rand((*more, *shape), generator=generator, dtype=dtype, device=like.device)

    if callable(density):
        drawn = density(shape, generator=generator, dtype=dtype, device=like.device)
        if not isinstance(drawn, Tensor) or tuple(drawn.shape) != tuple(shape) or drawn.device != like.device:
            found = (*drawn.shape, str(drawn.device)) if isinstance(drawn, Tensor) else type(drawn).__name__
            raise ValueError(f"expected the density to draw shape {tuple(shape)} on {like.device}, found {found}")
    elif density == "uniform":
        drawn = (2 * uniform() - 1) * math.sqrt(3)
    elif density == "laplace":  # the difference of two exponential variables
        one, two = (-torch.log1p(-uniform(2))).unbind(0)
        drawn = (one - two) / math.sqrt(2)
    elif density == "student-t":
        drawn = StudentT()(shape, generator=generator, dtype=dtype, device=like.device)
    else:
        drawn = torch.tan(math.pi * (uniform() - 0.5))
    return drawn.to(like.dtype) if out is None else out.copy_(drawn)


def source(generator: torch.Generator | None, like: Tensor, remedy: str) -> torch.Generator:
    """Return the generator of a pass on the device of ``like``; a ValueError says that there is none, or another's.

    ``remedy`` says what to do, with ``{}`` where a generator is to stand.
    """
    device = like.device.type
    right = "torch.Generator()" if device == "cpu" else f"torch.Generator({device!r})"
    if generator is None:
        raise ValueError(f"expected a torch.Generator for what is random, found None; {remedy.format(right)}")
    if generator.device.type != device:
        raise ValueError(f"expected a torch.Generator on {device}, found one on {generator.device}; pass {right}")
    return generator
