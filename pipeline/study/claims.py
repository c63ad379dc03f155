"""The judge of the paper's claims, which ``claims.csv`` has as data; ``docs/study.md`` has the rules in words.

A *comparison* speaks for or against a claim, or for no effect (:func:`status`), all of them in a *context* (task,
split, regime, cell) together (:func:`together`); the *verdict* sums contexts up, the paper's own regime before others.
"""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from nem.conditions import CONDITIONS
from pipeline.evaluation.statistics import LEVEL, Bootstrap, Floats, equivalence, step_down
from pipeline.study.effects import UNITS, Context, Effect, Measure, Side, contexts, effect, side
from pipeline.study.grid import REGIMES

Status = Literal["for", "none", "against", "open"]
COLUMNS = ("claim", "source", "paper", "ours", "ci_low", "ci_high", "verdict", "condition_of_verdict")
SUPPORTED, ONLY_IF, NONE = "supported", "supported only if", "practically none"
OPPOSITE, UNDECIDED = "opposite", "undecided"
LEAST = 0.05  # the smallest effect of interest: a share of the noiseless test loss, of its share of errors, or of R
ENOUGH = 30  # repetitions without which nothing is practically none
HEADS = {"classes": ("softmax",), "values": ("identity",), "both": ("softmax", "identity")}
SCORE: dict[str, Measure] = {"softmax": "accuracy", "identity": "error"}  # what claims of "accuracy" are judged by
# Operations per sequence: six per weight and slice, 40 for each hidden unit and slice. Noise adds 12 for each neuron
# that it meets: a normal draw (8), scaling, the gain's product and sum, the masked addition.
NOISELESS, ADDED = 7 * (6 * 4 * 256 * (2048 + 1 + 256) + 40 * 256) + 6 * 11 * (256 + 1), 12 * (7 * 3 * 256 + 11)
COUNTED = {
    "claim": "The extra computation of NEM noise is slight (operations per training step)", "source": "6.1",
    "paper": "slight", "ours": f"{100 * ADDED / NOISELESS:.3g} % more", "verdict": SUPPORTED,
    "condition_of_verdict": "counted, not timed: the paper's LSTM classifier with I 2048, J 256, K 11, T 7",
}  # fmt: skip
ORDER: dict[Status, int] = {"for": 3, "open": 2, "none": 1, "against": 0}
Sides = Mapping[Context, Mapping[str, Side]]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, a line of ``claims.csv``; its comparisons must all hold."""

    claim: str
    source: str  # section
    paper: str  # the paper's number
    about: str  # see HEADS
    cells: str
    measure: str  # speed, or score: see SCORE
    comparisons: str  # see expand
    amount: str = ""  # that must be reached, in the measure's unit
    margin: str = ""  # within which effects must lie


def expand(text: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of conditions, or of ``cell:condition`` of another cell, that ``better > worse; …`` stands for.

    A pattern is all conditions that it matches. Two patterns of equally many are paired in order (so that
    ``nem-* > blind-*`` compares within each mode and layer), of different numbers, or of none, are a ValueError; a
    single condition is paired with every other one.
    """
    pairs: list[tuple[str, str]] = []
    for part in text.split(";"):
        better, worse = map(_matching, part.partition(" > ")[::2])
        better = better * len(worse) if len(better) == 1 else better
        worse = worse * len(better) if len(worse) == 1 else worse
        if not better or len(better) != len(worse):
            raise ValueError(f"expected patterns of equally many conditions, found {part.strip()!r}; see claims.csv")
        pairs += [(first, second) for first, second in zip(better, worse, strict=True) if first != second]
    return tuple(pairs)


def _matching(pattern: str) -> list[str]:
    """Return the conditions that a pattern means, of another cell under its name."""
    cell, colon, condition = pattern.strip().rpartition(":")
    return [cell + colon + name for name in CONDITIONS if fnmatch(name, condition)]


def load() -> tuple[Claim, ...]:
    """Return every claim of the abstract and Section 6 (and two of Sections 1 and 5 that Section 6 rests on)."""
    with Path(__file__).with_name("claims.csv").open(encoding="utf-8", newline="") as file:
        return tuple(Claim(**line) for line in csv.DictReader(file))


def status(gain: Effect, p: float, equivalent: float = 1.0, below: float = 1.0, half: float | None = None) -> Status:
    """Return what one comparison says, with its p-value adjusted over the claim's comparisons in one context.

    ``equivalent`` is the p-value of "not within the smallest effect of interest", ``below`` that of "not within
    ``half``" of the paper's amount, above which the interval must lie where the claim has one. Where the better side
    failed alone, nothing speaks for a claim or for no effect.
    """
    if gain.value is None or gain.low is None:
        return "open"
    if p < LEVEL and gain.value < 0 and equivalent >= LEVEL:
        return "against"
    if gain.failed or min(equivalent, below) < LEVEL:
        return "open" if gain.failed else "none"
    return "for" if p < LEVEL and gain.value > 0 and (half is None or gain.low >= half) else "open"


def small(gain: Effect, equivalent: float, margin: float) -> Status:
    """Return the same of a claim that an effect lies within a margin; ``equivalent``: that it does not."""
    if gain.low is not None and gain.high is not None and (gain.low > margin or gain.high < -margin):
        return "against"
    return "for" if equivalent < LEVEL and not gain.failed else "open"


def together(parts: Sequence[Status]) -> Status:
    """Return what a claim's comparisons say together: ``against`` if any is, ``for`` or ``none`` if all are."""
    return "against" if "against" in parts else parts[0] if len(set(parts)) == 1 else "open"


def verdict(first: Sequence[Status], after: Sequence[Status] = ()) -> str:
    """Return the verdict over contexts that come first, without any over those after, which only qualify support."""
    judged = {*(first or after)}
    if "for" in judged:  # the text after ``only if`` is left to the caller
        return SUPPORTED if {*first, *after} == {"for"} else ONLY_IF
    return UNDECIDED if not judged or "open" in judged else OPPOSITE if "against" in judged else NONE


@dataclass(frozen=True)
class Judgement:
    """What one context says of a claim: its status, each comparison's, and the comparison that says least for it."""

    name: str
    status: Status
    parts: list[Status]
    weakest: Effect
    pair: tuple[str, str]
    unit: str
    first: bool  # in the paper's regime, or of a task that has no such context


def judge(rows: pd.DataFrame, bootstrap: Bootstrap, evidence: Mapping[str, str], first: Sides) -> pd.DataFrame:
    """Return one row per claim, judged in the paper's regime (``first``) and in those of the rows."""
    everywhere = {**first} | {
        context: {name: side(own, by_name["none"]) for name, own in by_name.items()}
        for context, by_name in contexts(rows[rows.purpose.isin(REGIMES)])
    }
    lines, own = [], {context.task for context in first}
    for number, claim in enumerate(load(), 1):
        judged = (_judged(claim, at, everywhere, bootstrap, at in first or at.task not in own) for at in everywhere)
        judgements = [judgement for judgement in judged if judgement]
        tasks = sorted({context.task for context in everywhere if context.head in HEADS[claim.about]})
        data = "; ".join(evidence.get(task, "docs/why/rows.csv") for task in tasks)
        lines.append(_line(f"{number}. {claim.claim}", claim, judgements, data))
    counted = {**COUNTED, "claim": f"{len(lines) + 1}. {COUNTED['claim']}"}
    return pd.DataFrame([*lines, counted], columns=list(COLUMNS)).fillna("")


def _judged(claim: Claim, context: Context, everywhere: Sides, bootstrap: Bootstrap, first: bool) -> Judgement | None:
    """Judge a claim in one context, if it is about it and its conditions were trained there."""
    own = dict(everywhere[context])
    for other, several in everywhere.items():
        if other._replace(cell=context.cell) == context:
            own |= {f"{other.cell}:{name}": one for name, one in several.items()}
    pairs = expand(claim.comparisons)
    about = context.head in HEADS[claim.about] and context.cell in claim.cells.split()
    if not about or not own.keys() >= {*itertools.chain(*pairs)}:
        return None
    measure: Measure = SCORE[context.head] if claim.measure == "score" else "speed"
    amount, margin = (float(text) if text else None for text in (claim.amount, claim.margin))
    gains = [effect(own[better], own[worse], measure, bootstrap) for better, worse in pairs]
    values = np.column_stack([own[better][measure] - own[worse][measure] for better, worse in pairs])
    whole = values[np.isfinite(values).all(1)]
    p_values = step_down(whole) if len(whole) > 1 else [1.0] * len(pairs)
    errors = 100 - float(np.nanmean(own["none"]["accuracy"])) if measure == "accuracy" else 100.0

    def within(column: Floats, percent: float) -> float:
        known, limit = column[np.isfinite(column)], -np.log1p(-percent / 100) if measure == "error" else percent
        return equivalence(known, limit) if len(known) >= ENOUGH else 1.0

    half = (amount or 0) / 2
    parts: list[Status] = [
        status(gain, p, within(column, LEAST * errors), within(column, half), half or None) if margin is None
        else small(gain, within(column, margin), margin)
        for gain, p, column in zip(gains, p_values, values.T, strict=True)
    ]  # fmt: skip
    # The comparison that speaks least for the claim; where effects should be small, the largest.
    worth = [float("-inf") if g.value is None else -abs(g.value) if margin else g.value for g in gains]
    k = worth.index(min(worth))
    name = ", ".join((context.task, context.cell, context.split, context.purpose))
    return Judgement(name, together(parts), parts, gains[k], pairs[k], UNITS[measure], first)


def _line(text: str, claim: Claim, judgements: Sequence[Judgement], data: str) -> dict[str, str]:
    """Return a claim's row of the table."""
    line = dict.fromkeys(COLUMNS, "") | {"claim": text, "source": claim.source, "paper": claim.paper}
    line["verdict"] = verdict(*([j.status for j in judgements if j.first == own] for own in (True, False)))
    if not judgements:
        what = f"a condition diverged at every setting. Data: {data}" if data else "no data of this kind"
        return line | {"condition_of_verdict": what}
    # The context that speaks most for the claim, of the paper's regime if any, gives the numbers: none are hidden.
    best = max(judgements, key=lambda j: (j.first, ORDER[j.status], j.weakest.value or float("-inf")))
    gain, note = best.weakest, f"numbers: {best.name}, {' against '.join(best.pair)}"
    if gain.value is not None:
        line["ours"] = f"{gain.value:+.3g} {best.unit}"
        line |= {n: "" if v is None else f"{v:.3g}" for n, v in (("ci_low", gain.low), ("ci_high", gain.high))}
    if len(best.parts) > 1:
        note += f", the weakest of {len(best.parts)} comparisons ({best.parts.count('for')} for)"
    notes = [note + (f", {gain.failed} of {gain.n + gain.failed} repetitions failed" if gain.failed else "")]
    for what in ORDER:
        if names := [judgement.name for judgement in judgements if judgement.status == what]:
            notes.append(f"{what} in {len(names)} of {len(judgements)}: " + "; ".join(names))
            if what == "for" and line["verdict"] == ONLY_IF:
                line["verdict"] += " " + "; ".join(names)
    return line | {"condition_of_verdict": ". ".join([*notes, f"Data: {data}"])}
