"""The form of the paper's Tables 1-8; ``pipeline/tasks`` has the numbers that it prints. Nothing is computed from them.

Source: O. Adigun, B. Kosko, "Noise-boosted recurrent backpropagation", Neurocomputing 559 (2023) 126438.
"""

from dataclasses import dataclass
from typing import Literal

from nem.conditions import MODES, PLACES

Quantity = Literal["accuracy", "squared_error", "cross_entropy", "speed_up"]
# Mode and place in the tables' column order; training algorithm and kind of noise in their row order.
COLUMNS: tuple[str, ...] = tuple(f"{mode}-{place}" for mode in MODES for place in PLACES)
ROWS = (("RBP without noise", "none"), ("RBP with blind noise", "blind"), ("RBP with NEM noise", "nem"))


@dataclass(frozen=True)
class PaperTable:
    """A table in the paper's form."""

    number: int | None  # the paper's; None where it has no such table, and no rows
    task: str
    cell: str
    quantity: Quantity
    baseline: float | None = None  # the noiseless value that the paper prints; for speed-ups 0, by definition
    blind: tuple[float, ...] = ()  # the blind row, in the order of COLUMNS
    nem: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.task}_{self.cell}_{self.quantity}" if self.number is None else f"table_{self.number}"

    def value(self, condition: str) -> float | None:
        """Return the paper's entry for a noise condition, if it has one."""
        kind, _, column = condition.partition("-")
        row = {"blind": self.blind, "nem": self.nem}.get(kind, ())
        return self.baseline if kind == "none" else dict(zip(COLUMNS, row, strict=False)).get(column)
