"""The numbers that the paper prints in Tables 1-8, for comparison only: nothing is computed from them.

Source: O. Adigun, B. Kosko, "Noise-boosted recurrent backpropagation", Neurocomputing 559 (2023) 126438.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.params import Cell

Quantity = Literal["accuracy", "squared_error", "speed_up"]
COLUMNS: tuple[str, ...] = (
    "additive-output",
    "additive-hidden",
    "additive-both",
    "multiplicative-output",
    "multiplicative-hidden",
    "multiplicative-both",
)
"""Mode and place, in the tables' column order."""


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Attributes:
        number: 1-8.
        task: ``video`` or ``fx``.
        cell: the recurrent cell.
        quantity: what its entries are.
        unit: ``%`` or ``rupees²``.
        baseline: the noiseless value; ``None`` for speed-ups, where it is 0 by definition.
        blind: the blind row, in :data:`COLUMNS` order.
        nem: the NEM row.
    """

    number: int
    task: Literal["video", "fx"]
    cell: Cell
    quantity: Quantity
    unit: str
    baseline: float | None
    blind: tuple[float, ...]
    nem: tuple[float, ...]

    def value(self, condition: str) -> float | None:
        """Return the paper's entry for a noise condition, if it has one."""
        if condition == "none":
            return self.baseline if self.quantity != "speed_up" else 0.0
        kind, _, column = condition.partition("-")
        row = {"blind": self.blind, "nem": self.nem}.get(kind)
        return None if row is None or column not in COLUMNS else row[COLUMNS.index(column)]


TABLES: tuple[Table, ...] = (
    Table(
        1, "video", "lstm", "accuracy", "%", 87.21,
        (85.50, 91.17, 89.61, 85.43, 86.93, 86.98),
        (93.55, 95.66, 96.70, 87.30, 87.26, 87.78),
    ),
    Table(2, "video", "lstm", "speed_up", "%", None, (-8, 26, 20, -6, 3, 9), (40, 56, 60, 15, 13, 18)),
    Table(
        3, "video", "gru", "accuracy", "%", 92.10,
        (93.83, 93.62, 94.93, 93.03, 90.55, 92.17),
        (94.92, 94.52, 95.12, 94.23, 94.10, 94.35),
    ),
    Table(4, "video", "gru", "speed_up", "%", None, (26, 11, 16, 10, -10, 8), (26, 15, 28, 20, 18, 21)),
    Table(
        5, "fx", "lstm", "squared_error", "rupees²", 2.087,
        (1.689, 2.465, 2.988, 2.310, 1.756, 2.359),
        (1.490, 1.636, 1.059, 1.170, 1.191, 1.147),
    ),
    Table(6, "fx", "lstm", "speed_up", "%", None, (-24, -12, -24, -11, -24, -11), (20, 36, 38, 31, 30, 29)),
    Table(
        7, "fx", "gru", "squared_error", "rupees²", 1.508,
        (1.566, 1.463, 1.461, 1.558, 1.483, 1.461),
        (1.425, 1.362, 1.280, 1.422, 1.161, 1.151),
    ),
    Table(8, "fx", "gru", "speed_up", "%", None, (-10, 10, 4, -10, 18, 22), (28, 27, 32, 18, 36, 37)),
)  # fmt: skip


def tables_of(task: str, cell: str) -> tuple[Table, ...]:
    """Return the paper's tables for a task and cell; the group-disjoint video task shares the video tables."""
    base = "video" if task.startswith("video") else task
    return tuple(table for table in TABLES if (table.task, table.cell) == (base, cell))
