"""Figures 1(a), 4, 5 and 6: which noise passes the NEM test of an output layer with three neurons.

Each figure shows the boundary of the region from :mod:`pipeline.theory.regions` and random noise, told apart by the
gains that training uses. Besides the colour-blind-safe figures there are twins in the paper's blue and red, and one
page on which all four can be turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import torch
from matplotlib.ticker import MultipleLocator
from torch import Tensor

from pipeline import records, seeds, theory
from pipeline.evaluation import style
from pipeline.theory import regions
from pipeline.theory.regions import Ellipsoid, HalfSpace

Floats = npt.NDArray[np.float64]
SAMPLES = 600
"""Noise vectors per figure."""
SIGMA = 1.0
"""The paper draws N(0, I) and N(1, I)."""


@dataclass(frozen=True)
class Colours:
    """Colours of kept noise, rejected noise and boundary."""

    kept: str
    rejected: str
    surface: str


SAFE = Colours(style.COLOURS["nem"], style.COLOURS["blind"], "#999999")
PAPER = Colours("#0000FF", "#FF0000", "#C8C8C8")


@dataclass(frozen=True)
class Example:
    """One figure.

    Attributes:
        name: file name, less its ending.
        title: what it shows.
        boundary: name of the boundary surface.
        mean: the noise that leaves the signal alone: 0 for additive, 1 for multiplicative noise.
        region: where the noise passes.
        gain: ``(..., 3)`` noise → ``(...)`` log-likelihood gain.
        view: elevation and azimuth in degrees.
    """

    name: str
    title: str
    boundary: str
    mean: float
    region: HalfSpace | Ellipsoid
    gain: Callable[[Tensor], Tensor]
    view: tuple[float, float]

    def noise(self, seed: int) -> Tensor:
        """Return ``(SAMPLES, 3)`` draws of N(mean, I), from the figure's own stream."""
        generator = seeds.torch_generator(seed, "geometry", self.name)
        return self.mean + SIGMA * torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64)

    def acceptance(self) -> float:
        """Return the exact probability that a draw passes."""
        return self.region.acceptance(torch.full((3,), self.mean, dtype=torch.float64), SIGMA)


def examples() -> tuple[Example, ...]:
    """Return the paper's examples: a = [0.6, 0.3, 0.1], y = [1, 0, 0]; and a = [1, 2, 1], y = [2, 3, 2]."""
    a = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    prediction = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    target = torch.tensor([2.0, 3.0, 2.0], dtype=torch.float64)
    return (
        Example(
            "figure_1a", "Additive noise, classifier (Theorem 2)", "NEM hyperplane n·log a = 0", 0.0,
            regions.classifier_additive_region(a),
            lambda n: theory.classifier_additive_gain(n, a), (12, -52),
        ),
        Example(
            "figure_4", "Multiplicative noise, classifier (Corollary 1)", "NEM hyperplane n₁ = 1", 1.0,
            regions.classifier_multiplicative_region(y, a),
            lambda n: theory.classifier_multiplicative_gain(n, y, a), (16, -62),
        ),
        Example(
            "figure_5", "Additive noise, regressor (Theorem 3)", "NEM sphere ‖n + y − a‖ = ‖y − a‖", 0.0,
            regions.regressor_additive_region(target, prediction),
            lambda n: theory.regressor_additive_gain(n, target, prediction), (14, -50),
        ),
        Example(
            "figure_6", "Multiplicative noise, regressor (Corollary 2)", "NEM ellipsoid ‖y∘n − a‖ = ‖y − a‖", 1.0,
            regions.regressor_multiplicative_region(target, prediction),
            lambda n: theory.regressor_multiplicative_gain(n, target, prediction), (14, -50),
        ),
    )  # fmt: skip


def surface(region: HalfSpace | Ellipsoid, low: float, high: float) -> tuple[Floats, Floats, Floats]:
    """Return a grid of points on a region's boundary in three dimensions, as x, y and z.

    Args:
        region: half-space or ellipsoid.
        low: a plane is drawn over [low, high] along two of its axes.
        high: see ``low``.
    """
    if isinstance(region, Ellipsoid):
        c, r = region.centre.numpy(), region.axes.numpy()
        u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 41), np.linspace(0, np.pi, 21), indexing="ij")
        return (
            c[0] + r[0] * np.cos(u) * np.sin(v),
            c[1] + r[1] * np.sin(u) * np.sin(v),
            c[2] + r[2] * np.cos(v),
        )
    normal = region.normal.numpy()
    solved = int(np.abs(normal).argmax())
    first, second = (axis for axis in range(3) if axis != solved)
    p, q = np.meshgrid(np.linspace(low, high, 21), np.linspace(low, high, 21), indexing="ij")
    found: list[Floats] = [p, p, p]
    found[first], found[second] = p, q
    found[solved] = (region.offset - normal[first] * p - normal[second] * q) / normal[solved]
    return found[0], found[1], found[2]


def _draw(example: Example, seed: int, colours: Colours, destination: Path) -> Path:
    """Draw one figure as PNG."""
    noise = example.noise(seed)
    kept = (example.gain(noise) >= 0).numpy()
    points = noise.numpy()
    made, panels = style.figure(width=5.2, height=4.6, subplot_kw={"projection": "3d", "computed_zorder": False})
    axes: Any = panels[0]  # an Axes3D, which has no type stubs
    low, high = example.mean - 3.5, example.mean + 3.5
    x, y, z = surface(example.region, example.mean - 2.6, example.mean + 2.6)
    axes.plot_surface(x, y, z, color=colours.surface, alpha=0.25, linewidth=0.25, edgecolor="#888888", shade=False)
    for which, colour, marker, label in (
        (~kept, colours.rejected, "^", "Noise that fails the NEM test"),
        (kept, colours.kept, "o", "NEM noise"),
    ):
        axes.scatter(
            *points[which].T, s=11, color=colour, marker=marker, alpha=0.75, linewidths=0, label=label, zorder=2
        )
    axes.scatter(*[[example.mean]] * 3, s=60, color="black", marker="*", label="No noise", depthshade=False, zorder=3)
    for name in "xyz":
        getattr(axes, f"set_{name}lim")(low, high)
        getattr(axes, f"{name}axis").set_major_locator(MultipleLocator(2))
        getattr(axes, f"set_{name}label")(f"n{'₁₂₃'['xyz'.index(name)]}")
    axes.view_init(*example.view)
    axes.set_box_aspect((1, 1, 1), zoom=1.02)
    axes.set_title(f"{example.title}\n{example.boundary}; {example.acceptance():.1%} of draws pass")
    made.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return style.save(made, destination)


def _interactive(example: Example, seed: int) -> go.Figure:
    """Return one figure that can be turned."""
    noise = example.noise(seed)
    kept = (example.gain(noise) >= 0).numpy()
    points = np.round(noise.numpy(), 5)
    x, y, z = (np.round(v, 5) for v in surface(example.region, example.mean - 3.0, example.mean + 3.0))
    made = go.Figure()
    made.add_trace(
        go.Surface(
            x=x, y=y, z=z, opacity=0.35, showscale=False, name=example.boundary, hoverinfo="name",
            colorscale=[[0, SAFE.surface], [1, SAFE.surface]],
        )
    )  # fmt: skip
    for which, colour, symbol, size, name in (
        (~kept, SAFE.rejected, "diamond", 2, "fails the NEM test"),
        (kept, SAFE.kept, "circle", 4, "NEM noise"),
    ):
        px, py, pz = points[which].T.tolist()
        made.add_trace(
            go.Scatter3d(
                x=px, y=py, z=pz, mode="markers", name=name, marker={"size": size, "color": colour, "symbol": symbol}
            )
        )
    at = [example.mean]
    made.add_trace(
        go.Scatter3d(x=at, y=at, z=at, mode="markers", name="no noise", marker={"size": 6, "color": "black"})
    )
    limits = [example.mean - 3.5, example.mean + 3.5]
    made.update_layout(
        scene={**{f"{k}axis": {"title": f"n{d}", "range": limits} for k, d in zip("xyz", "₁₂₃", strict=True)},
               "aspectmode": "cube", "camera": {"eye": {"x": 1.3, "y": -1.6, "z": 0.5}}},
        margin={"l": 0, "r": 0, "t": 10, "b": 0}, height=560, template="plotly_white",
        legend={"orientation": "h", "itemsizing": "constant"},
    )  # fmt: skip
    return made


def _page(seed: int) -> str:
    """Return the page of interactive figures; it needs no network."""
    parts = []
    for number, example in enumerate(examples()):
        plot = _interactive(example, seed).to_html(
            full_html=False, include_plotlyjs=number == 0, include_mathjax=False, div_id=example.name
        )
        parts.append(
            f"<section><h2>{example.name.replace('_', ' ').capitalize()}. {example.title}</h2>"
            f"<p>{example.boundary}; {example.acceptance():.2%} of N({example.mean:g}, I) noise passes. "
            f"Drag to turn, scroll to zoom.</p>\n{plot}</section>"
        )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>NEM regions</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}</style></head>\n<body>"
        "<h1>Which noise is NEM noise?</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def draw_geometry(folder: Path, seed: int) -> list[Path]:
    """Draw Figures 1(a), 4, 5 and 6, their twins in the paper's colours, and the interactive page.

    Args:
        folder: where ``figure_*.png``, ``figure_*_paper.png`` and ``figures_geometry.html`` go.
        seed: root seed.

    Returns:
        The files, equal byte for byte for equal seeds.
    """
    made = []
    with mpl.rc_context({"grid.color": "#DDDDDD"}):  # 3-D axes know no transparent grid
        for example in examples():
            made.append(_draw(example, seed, SAFE, folder / f"{example.name}.png"))
            made.append(_draw(example, seed, PAPER, folder / f"{example.name}_paper.png"))
    page = folder / "figures_geometry.html"
    records.write_text(page, _page(seed))
    return [*made, page]
