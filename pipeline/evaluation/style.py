"""How figures look, and how they are written so that equal content gives equal bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline import records

# Okabe & Ito's palette: told apart by the colour-blind, and in print.
COLOURS = {"none": "#000000", "blind": "#D55E00", "nem": "#0072B2", "matched": "#E69F00", "expected-nem": "#009E73"}
LINES = {"none": "-", "blind": "--", "nem": "-", "matched": ":", "expected-nem": "-."}
LABELS = {
    "none": "No noise",
    "blind": "Blind noise",
    "nem": "NEM noise",
    "matched": "Matched blind noise",
    "expected-nem": "Expected NEM",
}
PLACES = {"output": "Output layer", "hidden": "Hidden layer (gates)", "both": "Output and hidden layers"}

RC: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "noise-boosted-rbp",
}


def figure(
    columns: int = 1,
    rows: int = 1,
    width: float = 4.0,
    height: float = 3.2,
    **options: Any,  # noqa: ANN401 - of plt.subplots
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row."""
    mpl.rcParams.update(RC)  # type: ignore[arg-type]
    made, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
        **options,
    )
    return made, list(axes.flat)


def save(made: Figure, destination: Path) -> Path:
    """Write a figure as PNG without the writer's name and version, and close it."""
    stream = io.BytesIO()
    made.savefig(stream, format="png", metadata={"Software": None})
    plt.close(made)
    records.write_bytes(destination, stream.getvalue())
    return destination
