"""The protocol of docs/why.md: which networks train, and in which order, the most telling ones first.

Repetitions from :data:`FRESH` on confirm; no other network, and so no choice of a setting, has their seeds.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from nem.cells import GATES
from nem.conditions import MODES
from pipeline.why import calibrate, table
from pipeline.why.table import EVERY, FURTHER, VARIANTS, Optimiser, Regime, Stack, Strength

FRESH = 100
MAIN = Regime()
FIRST = Strength(0.1, 0.5, 0.3, 0.5)
"""The strength at which the finding was made, with other seeds than those that confirm it."""
RUPEE = 0.0226
"""One rupee in min-max units of the training days: a deviation that nobody chose who adds N(0, 1) to raw rates."""
LEVELS = (RUPEE, 0.05, 0.1, 0.3, 1.0)
COARSE = (RUPEE, 0.1, 0.3)
DECAYS = (0.5, 0.0, 1.0)
CENTRAL = DECAYS[0]  # the decay at which all pairs of levels are tried
ELSEWHERE = (FIRST, Strength(0.05, 0.5, 0.1, 0.5), Strength(0.3, 0.5, 1.0, 0.5))
FORMS = ("all-days", "raw")
STEEPER = replace(FIRST, sigma_hidden=1.2)
"""Noise in pre-activations that moves a gate near ½ as much as :data:`FIRST` does: a sigmoid's slope is ¼ there."""
PENALISED = (FIRST, Strength(0.1, 0.0, 0.1, 0.0), Strength(1.0, 1.0, 1.0, 1.0))
"""Where blind gate noise is compared with its mean effect; the last one's first epochs are far from small noise."""
CHANGE = replace(MAIN, data="change")
RATES: dict[tuple[str, Optimiser, float], tuple[float, ...]] = {
    ("min-max", "sgd", 0.0): (0.03, 0.07, 0.1, 0.14, 0.2, 0.3),
    ("min-max", "sgd", 0.9): (0.003, 0.007, 0.01, 0.014, 0.03),
    ("min-max", "adam", 0.0): (1e-4, 3e-4, 1e-3, 3e-3),
    ("min-max", "rmsprop", 0.0): (1e-4, 1e-3),
    ("z-score", "sgd", 0.0): (0.1, 0.3, 0.5, 1.0),
    ("z-score", "sgd", 0.9): (0.03, 0.1),
    ("z-score", "adam", 0.0): (1e-4, 3e-4, 1e-3),
}
"""Learning rates that are searched at B = 64, by scaling, optimiser and momentum."""
OTHER_RATES: dict[tuple[Optimiser, float], tuple[float, ...]] = {
    ("sgd", 0.0): (0.07, 0.1, 0.14),
    ("sgd", 0.9): (0.01,),
    ("adam", 0.0): (3e-4, 1e-3),
}
"""The same at other batch sizes, min-max; those of SGD are times B / 64."""


@dataclass(frozen=True)
class Sizes:
    """How large and how often networks are trained."""

    hidden: int = 50
    epochs: int = 100  # R
    last: int = 130
    days: int | None = None  # of a generated series; ``None`` is the paper's
    train_end: int = 8000
    confirm: int = 30
    lottery: int = 50
    explore: int = 2
    search: int = 3
    predict: int = 5  # fresh repetitions at calibrated strengths
    vary: int = 1  # repetitions in other regimes and of interpretations
    others: int = 2  # regimes besides the main one
    several: int = 5  # where the task is another one
    levels: tuple[float, ...] = LEVELS
    decays: tuple[float, ...] = DECAYS
    batches: tuple[int, ...] = (256, 16)
    rates: int | None = None  # so many of each row of RATES are searched; ``None``: all
    chunk: int = 24  # stacks per worker between two looks at the clock


LONG = Sizes(confirm=60, lottery=100, explore=4, search=5, predict=30, vary=5, others=3, several=10)
QUICK = Sizes(
    hidden=3, epochs=3, last=4, days=120, train_end=90, confirm=2, lottery=3, explore=2, search=2, several=1,
    predict=2, vary=1, others=1, levels=(0.1, 0.3), decays=(0.5,), batches=(), rates=1, chunk=100,
)  # fmt: skip


def parts(source: Path, sizes: Sizes) -> Iterator[tuple[str, Iterator[Stack]] | None]:
    """Yield the whole protocol, in order; after ``None``, what follows from the table at ``source`` up to there."""
    yield "confirmation", confirmation(sizes.confirm)
    yield "strengths", exploration(sizes)
    yield "search for regimes", search(sizes)
    yield None
    rows = table.load(source)
    rows = rows[rows.repetition < FRESH]  # so that no choice knows what confirms it
    # Nor does it depend on what later parts add, or a run that goes on would ask for other networks.
    yield "calibrated strengths", calibrated(rows[rows.repetition < sizes.explore], sizes)
    yield "seed lottery", confirmation(sizes.lottery)
    yield "target `change`", _paired(CHANGE, (FIRST,), range(sizes.several))
    yield "interpretations", interpretations(sizes)
    yield "other regimes", elsewhere(rows, sizes)
    yield "further interpretations", further(sizes)


def stacks(source: Path, sizes: Sizes) -> Iterator[Stack | None]:
    """Yield the stacks of all parts, and their ``None``."""
    for part in parts(source, sizes):
        yield from part[1] if part else (None,)


def _paired(regime: Regime, strengths: tuple[Strength, ...], repetitions: range) -> Iterator[Stack]:
    """Yield all conditions at some strengths, repetition by repetition."""
    for repetition, strength, cell in itertools.product(repetitions, strengths, GATES):
        yield Stack(cell, regime, strength, EVERY, (repetition,))


def confirmation(several: int) -> Iterator[Stack]:
    """Yield the finding's setting with fresh seeds."""
    for stack in _paired(MAIN, (FIRST,), range(FRESH, FRESH + several)):
        yield replace(stack, long=True)


def pairs(sizes: Sizes) -> list[Strength]:
    """Return the strengths that the main regime is explored at: pairs of levels at one decay.

    Networks with noise in one place only are shared by pairs, so all their levels are there at every decay.
    """
    chosen = []
    for decay, output, hidden in itertools.product(sizes.decays, sizes.levels, sizes.levels):
        if decay == CENTRAL or output == hidden or {output, hidden} <= {*COARSE}:
            chosen.append(Strength(output, decay, hidden, decay))
    return chosen


def exploration(sizes: Sizes) -> Iterator[Stack]:
    """Yield all conditions over levels and decays in the main regime, one decay with all its repetitions first."""
    for decay in sizes.decays:
        strengths = tuple(own for own in pairs(sizes) if own.decay_output == decay)
        yield from _paired(MAIN, strengths, range(sizes.explore))


def regimes(sizes: Sizes) -> list[Regime]:
    """Return all regimes that are searched."""
    found = [
        Regime(data, optimiser, rate, momentum)
        for (data, optimiser, momentum), rates in RATES.items() for rate in rates[: sizes.rates]
    ]  # fmt: skip
    for batch, ((optimiser, momentum), rates) in itertools.product(sizes.batches, OTHER_RATES.items()):
        factor = batch / 64 if optimiser == "sgd" else 1.0
        # As the table writes numbers, so that a rate is found again.
        found += [Regime("min-max", optimiser, float(f"{rate * factor:.6g}"), momentum, batch) for rate in rates]
    return found


def search(sizes: Sizes) -> Iterator[Stack]:
    """Yield noiseless networks of all regimes."""
    for regime, cell in itertools.product(regimes(sizes), GATES):
        yield Stack(cell, regime, Strength(), ("none",), tuple(range(sizes.search)), probed=False)


def calibrated(rows: pd.DataFrame, sizes: Sizes) -> Iterator[Stack]:
    """Yield, for every cell and mode, the strength that the paper's blind entries make most likely; fresh seeds."""
    strengths = {(cell, mode): calibrate.most_likely(rows, MAIN, cell, mode) for cell in GATES for mode in MODES}
    for repetition, (cell, mode) in itertools.product(range(FRESH, FRESH + sizes.predict), strengths):
        if strength := strengths[cell, mode]:
            names = tuple(name for name in EVERY if mode in name)
            yield Stack(cell, MAIN, strength, ("none", *names), (repetition,))


def elsewhere(rows: pd.DataFrame, sizes: Sizes) -> Iterator[Stack]:
    """Yield all conditions in the regimes that match the paper's noiseless errors best, the main one left out."""
    for regime in [regime for regime in calibrate.matched(rows) if regime != MAIN][: sizes.others]:
        yield from _paired(regime, ELSEWHERE, range(sizes.vary))


def interpretations(sizes: Sizes) -> Iterator[Stack]:
    """Yield what each interpretation of the paper changes, at the finding's setting."""
    for repetition, cell in itertools.product(range(sizes.vary), GATES):
        yield Stack(cell, MAIN, FIRST, EVERY, (repetition,))
        for variant, (_, concerned) in VARIANTS.items():
            if concerned and variant not in FURTHER:
                yield _varied(Stack(cell, MAIN, FIRST, EVERY, (repetition,), variant))
        for data in FORMS:
            several = EVERY if data == "all-days" else ("none", *(name for name in EVERY if "multiplicative" in name))
            yield Stack(cell, replace(MAIN, data=data), FIRST, several, (repetition,))


def _varied(stack: Stack) -> Stack:
    """Return the part of a stack that its variant concerns, and the noiseless network."""
    names = tuple(name for name in stack.conditions if stack.about(name)["variant"])
    return replace(stack, conditions=("none", *(name for name in names if name != "none")))


def further(sizes: Sizes) -> Iterator[Stack]:
    """Yield blind gate noise beside its mean effect, a penalty without any noise, and more interpretations."""
    for repetition, cell in itertools.product(range(sizes.vary), GATES):
        for own in PENALISED:
            modes = MODES if own == FIRST else MODES[:1]
            names = tuple(f"{kind}-{mode}-hidden" for mode in modes for kind in ("blind", "expected-blind"))
            yield Stack(cell, MAIN, own, ("none", *names), (repetition,))
        for variant in FURTHER:
            yield _varied(Stack(cell, MAIN, FIRST, EVERY, (repetition,), variant))
        yield _varied(Stack(cell, MAIN, STEEPER, EVERY, (repetition,), "pre-activation"))


def about(regime: Regime) -> str:
    """Return a regime in words."""
    momentum = f", momentum {regime.momentum:g}" if regime.momentum else ""
    return f"{regime.optimiser} {regime.learning_rate:g}{momentum}, B {regime.batch_size}, {regime.data}"
