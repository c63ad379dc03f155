"""Figures 1(a), 4, 5 and 6: which noise passes the NEM test of an output layer with three neurons."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from torch import Tensor

from nem.theory import regions
from nem.theory.regions import Ellipsoid, HalfSpace
from pipeline.common import seeds
from pipeline.evaluation import style
from pipeline.evaluation.statistics import Floats
from pipeline.evaluation.style import Picture

SAMPLES = 600  # noise vectors per figure, of N(0, I) or N(1, I) as in the paper


def examples() -> dict[str, tuple[str, float, HalfSpace | Ellipsoid]]:
    """Return the paper's figures: file name → what it shows, the noise that leaves the signal alone, the region."""
    a, y, prediction, target = torch.tensor([[0.6, 0.3, 0.1], [1, 0, 0], [1, 2, 1], [2, 3, 2]], dtype=torch.float64)
    return {
        "figure_1a": ("Additive noise, classifier (Theorem 2)\nNEM hyperplane n·log a = 0",
            0.0, regions.classifier_additive_region(a)),
        "figure_4": ("Multiplicative noise, classifier (Corollary 1)\nNEM hyperplane n₁ = 1",
            1.0, regions.classifier_multiplicative_region(y, a)),
        "figure_5": ("Additive noise, regressor (Theorem 3)\nNEM sphere ‖n + y − a‖ = ‖y − a‖",
            0.0, regions.regressor_additive_region(target, prediction)),
        "figure_6": ("Multiplicative noise, regressor (Corollary 2)\nNEM ellipsoid ‖y∘n − a‖ = ‖y − a‖",
            1.0, regions.regressor_multiplicative_region(target, prediction)),
    }  # fmt: skip


def surface(region: HalfSpace | Ellipsoid, low: float, high: float) -> Floats:
    """Return a grid of points ``(3, P, Q)`` on a region's boundary; a plane's over [low, high] along two axes."""
    if isinstance(region, Ellipsoid):
        u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 41), np.linspace(0, np.pi, 21), indexing="ij")
        ball = np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)])
        return np.asarray(region.centre.numpy()[:, None, None] + region.axes.numpy()[:, None, None] * ball)
    normal, grid = region.normal.numpy(), np.zeros((3, 21, 21))
    solved = int(np.abs(normal).argmax())
    grid[np.arange(3) != solved] = np.meshgrid(*2 * [np.linspace(low, high, 21)], indexing="ij")
    grid[solved] = (region.offset - np.tensordot(normal, grid, 1)) / normal[solved]
    return grid


def draw_geometry(folder: Path, seed: int) -> list[Picture]:
    """Draw the four figures into a folder; equal seeds give equal bytes."""
    pictures = []
    for name, (words, mean, region) in examples().items():
        generator = seeds.torch_generator(seed, "geometry", name)
        noise = mean + torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64)
        share = region.acceptance(torch.full((3,), mean, dtype=torch.float64), 1.0)
        file = style.save(_draw(noise, mean, region, f"{words}; {share:.1%} of draws pass"), folder / f"{name}.png")
        head, _, edge = words.partition("\n")
        seen = f"{SAMPLES} noise vectors of three neurons around {mean:g}; {share:.1%} pass, on one side of a grey "
        seen += edge.removeprefix("NEM ")
        pictures.append(Picture(file, f"{name.replace('_', ' ').capitalize()}: {head}; {edge}", seen))
    return pictures


def _draw(noise: Tensor, mean: float, region: HalfSpace | Ellipsoid, title: str) -> Figure:
    """Draw a region's boundary and noise ``(N, 3)`` around ``mean``."""
    kept = region.contains(noise)
    drawn, panels = style.figure(width=5.2, height=4.6, subplot_kw={"projection": "3d", "computed_zorder": False})
    axes: Any = panels[0]  # an Axes3D, which has no type stubs
    axes.plot_surface(*surface(region, mean - 2.6, mean + 2.6), color="#999999", alpha=0.3, shade=False)
    for points, kind, marker, label in (
        (noise[~kept], "blind", "^", "Noise that fails the NEM test"),
        (noise[kept], "nem", "o", "NEM noise"),
        (torch.full((1, 3), mean), "none", "*", "No noise"),
    ):
        size, colour = 60 if kind == "none" else 11, style.COLOURS[kind]
        axes.scatter(*points.T.numpy(), s=size, color=colour, marker=marker, alpha=0.75, linewidths=0, label=label)
    for name, digit in zip("xyz", "₁₂₃", strict=True):
        getattr(axes, f"set_{name}lim")(mean - 3.5, mean + 3.5)
        getattr(axes, f"{name}axis").set_major_locator(MultipleLocator(2))
        getattr(axes, f"set_{name}label")(f"n{digit}")
    axes.view_init(14, -54)
    axes.set_box_aspect((1, 1, 1), zoom=1.02)
    axes.set_title(title)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawn
