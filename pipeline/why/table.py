"""The committed table of finished networks, a line each, and what one line's key is.

What does not concern a condition is no part of its key: the noiseless network has no strength, one with noise in its
outputs no strength of gates. So no network is ever trained twice under two names.
"""

import io
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from nem.conditions import CONDITIONS, MODES, Condition
from nem.names import CellName
from pipeline.common import records
from pipeline.training import settings

Optimiser = Literal["sgd", "adam", "rmsprop"]
NEM = tuple(name for name in CONDITIONS if name.startswith("nem"))
BLIND = tuple(name for name in CONDITIONS if name.startswith("blind"))
REVERSED = tuple(f"reversed-{name}" for name in NEM)
EVERY = (*CONDITIONS, *REVERSED)
PRINTED = ("*nem-multiplicative-output", "*nem-multiplicative-both")  # what (49) concerns
# What the paper leaves open beyond the regime: fields of the settings, and which conditions they concern.
VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "": ({}, ()),
    "backward": ({"hidden_injection": "backward"}, ("*-hidden", "*-both")),
    "sampled": ({"latent": "sampled"}, ("*nem-multiplicative-hidden", "*nem-multiplicative-both")),
    "neuron": ({"granularity": "neuron"}, ("*nem-*-hidden", "*nem-*-both")),
    "time": ({"granularity": "time"}, ("*nem-*-hidden", "*nem-*-both")),
    "clamp": ({"gate_clamp": True}, ("*-hidden", "*-both")),
    "every-slice": ({"first_target": 1}, ("*",)),
    "pre-activation": ({"hidden_injection": "pre-activation"}, ("*-hidden", "*-both")),
    "per-batch": ({"one_draw_per": "batch"}, ("*-*",)),
    "per-epoch": ({"one_draw_per": "epoch"}, ("*-*",)),
    "printed-49": ({"output_test": "printed"}, PRINTED),
    "printed-49-centred": ({"output_test": "printed-centred"}, PRINTED),
}
FURTHER = ("pre-activation", "per-batch", "per-epoch", "printed-49", "printed-49-centred")
"""Variants of the protocol's last part."""


@dataclass(frozen=True)
class Regime:
    """All that decides the noiseless network but cell and seed."""

    data: str = "min-max"  # see pipeline.why.networks.sequences_of
    optimiser: Optimiser = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    batch_size: int = 64


@dataclass(frozen=True)
class Strength:
    """Noise of outputs and gates: deviation σ / (1 + epoch)^decay, the same for additive and multiplicative noise."""

    sigma_output: float = 0.0
    decay_output: float = 0.0
    sigma_hidden: float = 0.0
    decay_hidden: float = 0.0

    def of(self, condition: Condition) -> "Strength":
        """Return what of it concerns a condition."""
        output = astuple(self)[:2] if condition.in_output else (0.0, 0.0)
        return Strength(*output, *(astuple(self)[2:] if condition.in_hidden else (0.0, 0.0)))

    def table(self) -> settings.NoiseTable:
        """Return it as training takes it."""
        return settings.NoiseTable(**{
            f"{place}_{mode}": settings.Strength(getattr(self, f"sigma_{place}"), getattr(self, f"decay_{place}"))
            for place in settings.PLACES for mode in MODES
        })  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """Networks that train side by side: conditions × repetitions at one setting."""

    cell: CellName
    regime: Regime
    strength: Strength
    conditions: tuple[str, ...]
    repetitions: tuple[int, ...]
    variant: str = ""
    long: bool = False  # train on beyond R, which places negative speed-ups
    probed: bool = True  # measure slopes and saturation; for one repetition only

    def about(self, condition: str) -> dict[str, Any]:
        """Return a network's key but for its repetition, by column."""
        own = self.strength.of(Condition.parse(condition))
        concerned = any(fnmatch(condition, pattern) for pattern in VARIANTS[self.variant][1])
        varied = {"variant": self.variant if concerned else "", "condition": condition}
        return {"cell": self.cell, **asdict(self.regime), **asdict(own), **varied}

    def networks(self) -> Iterator[tuple[str, int, tuple[Any, ...]]]:
        """Yield condition, repetition and key of every network."""
        for condition in self.conditions:
            about = self.about(condition)
            for repetition in self.repetitions:
                yield condition, repetition, tuple((about | {"repetition": repetition})[name] for name in KEY)


KEY = (*Stack("lstm", Regime(), Strength(), (), ()).about("none"), "repetition")
MEASURES = (
    "test_mse",  # squared rupees at R, on all test days
    "train_mse",
    "level_mse",  # its part that a cubic of yesterday's price explains: the level shift
    "daily_mse",  # the rest
    "reached",  # first epoch at which the noiseless loss at R was reached; empty: not by ``last``
    "acceptance_output", "acceptance_hidden",  # at R
    "slope_train", "slope_test",  # change of the prediction per change of all inputs: 1 follows a level shift
    "saturation_train", "saturation_test",  # mean |2g - 1| over gates
)  # fmt: skip
COLUMNS = (*KEY, *MEASURES, "last", "failed", "seed", "commit")
TEXTS = ("cell", "data", "optimiser", "variant", "condition", "commit", "split", "delta")
Names = tuple[str, ...]


def load(source: Path, columns: Names = COLUMNS, key: Names = KEY) -> pd.DataFrame:
    """Return a table of some columns, those of the key first; an empty one if there is no file.

    Raises:
        ValueError: columns are missing, or a network stands in it twice.
    """
    kinds = {name: str if name in TEXTS else float for name in columns}
    if not source.is_file():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    measures = columns[len(key) : columns.index("last")]
    try:
        table = pd.read_csv(source, dtype=kinds, keep_default_na=False, na_values={n: [""] for n in measures})
        table = table[list(columns)]
    except (KeyError, ValueError) as error:
        raise ValueError(f"expected the columns of networks in {source}, found {error}; restore it") from error
    if table.duplicated(list(key)).any():
        raise ValueError(f"expected every network once in {source}, found some twice; restore the file")
    return table


def save(table: pd.DataFrame, destination: Path, key: Names = KEY) -> None:
    """Write the table in the order of its keys, whole or not at all."""
    text = io.StringIO()
    table.sort_values(list(key)).to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
    records.write_text(destination, text.getvalue())


def add(table: pd.DataFrame, rows: pd.DataFrame, columns: Names = COLUMNS, key: Names = KEY) -> pd.DataFrame:
    """Return the table with rows in it; of a network that both have, the table's row stays."""
    both = pd.concat([table, rows[list(columns)]]) if len(table) else rows
    return both.drop_duplicates(list(key), ignore_index=True)


def keys(table: pd.DataFrame, key: Names = KEY) -> set[tuple[Any, ...]]:
    """Return the keys of all rows."""
    return set(table[list(key)].itertuples(index=False, name=None))


def lacking(stack: Stack, there: set[tuple[Any, ...]]) -> Stack | None:
    """Return the part of a stack that is not there, with the noiseless network, whose loss is to be reached."""
    missing = [(condition, repetition) for condition, repetition, key in stack.networks() if key not in there]
    if not missing:
        return None
    names, numbers = ({pair[k] for pair in missing} for k in (0, 1))
    conditions = tuple(name for name in stack.conditions if name in names or name == "none")
    return replace(stack, conditions=conditions, repetitions=tuple(n for n in stack.repetitions if n in numbers))


def of(table: pd.DataFrame, regime: Regime) -> pd.DataFrame:
    """Return the rows of a regime, as the paper has it."""
    chosen = table.variant == ""
    for name, value in asdict(regime).items():
        chosen &= table[name] == value
    return table[chosen]
