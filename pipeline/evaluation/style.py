"""How figures look, and how they are written so that equal content gives equal bytes."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nem.conditions import Condition
from pipeline.common import paths, records

# Okabe & Ito's palette: told apart by the colour-blind, and in print.
COLOURS = {"none": "#000000", "blind": "#D55E00", "nem": "#0072B2", "matched": "#E69F00", "expected-nem": "#009E73"}
COLOURS |= {"reversed-nem": "#CC79A7", "expected-reversed-nem": "#56B4E9", "expected-blind": "#F0E442"}
LINES = {"none": "-", "blind": "--", "nem": "-", "matched": ":", "expected-nem": "-."}
LINES |= {"reversed-nem": "-", "expected-reversed-nem": "-.", "expected-blind": "-."}
LABELS = {"none": "No noise", "blind": "Blind noise", "nem": "NEM noise", "matched": "Matched blind noise",
          "expected-nem": "Expected NEM", "reversed-nem": "Reversed NEM noise",
          "expected-reversed-nem": "Expected reversed NEM", "expected-blind": "Expected blind noise"}  # fmt: skip
PLACES = {"output": "Output layer", "hidden": "Hidden layer (gates)", "both": "Output and hidden layers"}
SHORT = {"output": "outputs", "hidden": "gates", "both": "both"}
WIDTH = 6.25  # of a whole picture [inches]: 600 px of a screen, where no word on it is smaller than 8 pt
RC: dict[str, Any] = {
    "savefig.dpi": 160, "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#E8E8E8", "legend.frameon": False, "legend.fontsize": 8,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.edgecolor": "#555555", "figure.titlesize": 10,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its PNG file, what it is, and what is to be seen on it (its caption, where that says it)."""

    file: Path
    caption: str
    seen: str = ""

    @property
    def data(self) -> str:
        """The file in base 64, to be put into a page."""
        return base64.b64encode(self.file.read_bytes()).decode()


def figure(columns: int = 1, rows: int = 1, width: float = 4.0, height: float = 3.2,
           **options: Any) -> tuple[Figure, list[Axes]]:  # noqa: ANN401 - of plt.subplots  # fmt: skip
    """Return a figure and its axes, row by row; width and height are those of one panel [inches]."""
    mpl.rcParams.update(RC)  # type: ignore[arg-type]
    size = (width * columns, height * rows)
    drawn, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    return drawn, list(axes.flat)


def save(drawn: Figure, destination: Path) -> Path:
    """Write a figure as PNG without the writer's name and version, and close it."""
    stream = io.BytesIO()
    drawn.set_dpi(RC["savefig.dpi"])
    # savefig draws twice
    FigureCanvasAgg(drawn).print_png(stream, metadata={"Software": None})  # type: ignore[no-untyped-call]
    plt.close(drawn)
    records.write_bytes(destination, stream.getvalue())
    return destination


def picture(drawn: Figure, name: str, caption: str, seen: str = "") -> Picture:
    """Write a figure of the results, called ``name``."""
    return Picture(save(drawn, paths.FIGURES / f"{name}.png"), caption, seen)


def words(condition: str) -> str:
    """Return a condition in words, such as ``NEM additive, outputs``."""
    own = Condition.parse(condition)
    label = LABELS[own.kind]
    return label if own.place is None else f"{label.replace(' noise', '')} {own.mode}, {SHORT[own.place]}"


def confusion(counts: npt.NDArray[np.int64], classes: Sequence[str], name: str, title: str) -> Picture:
    """Draw a confusion matrix ``(K, K)``, true classes by predicted ones, each row in per cent of its class."""
    names = [one.replace("_", " ") for one in classes]
    drawn, (axes,) = figure(width=WIDTH, height=min(0.42 * len(names), WIDTH - 1.6) + 1.6)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for i, j in zip(*np.nonzero(share >= 0.5), strict=True):
        colour = "white" if share[i, j] > 60 else "black"
        axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.grid(visible=False)
    axes.set(xlabel="Predicted class", ylabel="True class", title=title)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    wrong = share - np.diag(np.diag(share))
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    seen = f"{title}: {np.diag(share).mean():.0f} % of a class are right on average"
    seen += f", {names[i]} is taken for {names[j]} most often" if wrong.any() else ""
    return picture(drawn, name, f"{title}: which class was taken for which [%]", seen)
