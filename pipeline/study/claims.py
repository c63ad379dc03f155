"""The judge of the paper's claims, which ``claims.csv`` has as data; ``docs/study.md`` has the rules in words.

A *comparison* speaks for or against a claim (:func:`status`), all of them in a *context* (task, split, regime, cell)
together (:func:`together`), and the *verdict* sums contexts up.
"""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import pandas as pd

from nem.conditions import CONDITIONS
from pipeline.evaluation.statistics import LEVEL, Bootstrap, holm
from pipeline.study.effects import UNITS, Context, Effect, Measure, Side, contexts, effect, side
from pipeline.study.grid import REGIMES

Status = Literal["for", "against", "open"]
COLUMNS = ("claim", "source", "paper", "ours", "ci_low", "ci_high", "verdict", "condition_of_verdict")
REPRODUCED, ONLY_IF, NOT, CONTRADICTED = "reproduced", "reproduced only if", "not reproduced", "contradicted"
HEADS = {"classes": ("softmax",), "values": ("identity",), "both": ("softmax", "identity")}
SCORE: dict[str, Measure] = {"softmax": "accuracy", "identity": "error"}  # what claims of "accuracy" are judged by
# Operations per sequence: six per weight and slice, 40 for each hidden unit and slice. Noise adds 12 for each neuron
# that it meets: a normal draw (8), scaling, the gain's product and sum, the masked addition.
NOISELESS, ADDED = 7 * (6 * 4 * 256 * (2048 + 1 + 256) + 40 * 256) + 6 * 11 * (256 + 1), 12 * (7 * 3 * 256 + 11)
COUNTED = {
    "claim": "The extra computation of NEM noise is slight (operations per training step)", "source": "6.1",
    "paper": "slight", "ours": f"{100 * ADDED / NOISELESS:.3g} % more", "verdict": REPRODUCED,
    "condition_of_verdict": "counted, not timed: the paper's LSTM classifier with I 2048, J 256, K 11, T 7",
}  # fmt: skip
ORDER: dict[Status, int] = {"for": 2, "open": 1, "against": 0}


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


def status(gain: Effect, p: float | None, amount: float | None = None, margin: float | None = None) -> Status:
    """Return what one comparison says, with its p-value Holm-adjusted over the claim's comparisons in one context.

    The effect must go the claim's way and the better side not have failed alone. An ``amount`` must be within reach of
    the interval; an effect is small if its interval lies within a ``margin``.
    """
    if gain.value is None or gain.low is None or gain.high is None:
        return "open"
    if margin is not None:
        inside, outside = -margin <= gain.low and gain.high <= margin, gain.low > margin or gain.high < -margin
        return "against" if outside else "for" if inside and not gain.failed else "open"
    if p is None or p >= LEVEL or gain.value == 0:
        return "open"
    if gain.value < 0:
        return "against"
    return "for" if (amount is None or gain.high >= amount) and not gain.failed else "open"


def together(parts: Sequence[Status]) -> Status:
    """Return what a claim's comparisons say together: ``against`` if any is, ``for`` if all are."""
    return "against" if "against" in parts else "for" if parts and set(parts) == {"for"} else "open"


def verdict(statuses: Sequence[Status]) -> str:
    """Return the verdict over contexts; the text after ``only if`` is left to the caller."""
    if "for" in statuses:
        return REPRODUCED if set(statuses) == {"for"} else ONLY_IF
    return CONTRADICTED if statuses and set(statuses) == {"against"} else NOT


@dataclass(frozen=True)
class Judgement:
    """What one context says of a claim: its status, each comparison's, and the comparison that says least for it."""

    name: str
    status: Status
    parts: list[Status]
    weakest: Effect
    pair: tuple[str, str]
    unit: str


def judge(rows: pd.DataFrame, bootstrap: Bootstrap, evidence: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per claim, from the rows of the regimes; ``evidence`` says what the data of each task are."""
    everywhere = {
        context: {name: side(own, by_name["none"]) for name, own in by_name.items()}
        for context, by_name in contexts(rows[rows.purpose.isin(REGIMES)])
    }
    lines = []
    for number, claim in enumerate(load(), 1):
        judgements = [j for context in everywhere if (j := _judged(claim, context, everywhere, bootstrap))]
        tasks = sorted({context.task for context in everywhere if context.head in HEADS[claim.about]})
        lines.append(_line(f"{number}. {claim.claim}", claim, judgements, "; ".join(evidence[task] for task in tasks)))
    counted = {**COUNTED, "claim": f"{len(lines) + 1}. {COUNTED['claim']}"}
    return pd.DataFrame([*lines, counted], columns=list(COLUMNS)).fillna("")


def _judged(claim: Claim, context: Context, everywhere: Mapping[Context, Mapping[str, Side]], bootstrap: Bootstrap
            ) -> Judgement | None:  # fmt: skip
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
    adjusted = holm([gain.p for gain in gains])
    parts = [status(gain, p, amount, margin) for gain, p in zip(gains, adjusted, strict=True)]
    # The comparison that speaks least for the claim; where effects should be small, the largest.
    worth = [float("-inf") if g.value is None else -abs(g.value) if margin else g.value for g in gains]
    k = worth.index(min(worth))
    name = ", ".join((context.task, context.cell, context.split, context.purpose))
    return Judgement(name, together(parts), parts, gains[k], pairs[k], UNITS[measure])


def _line(text: str, claim: Claim, judgements: Sequence[Judgement], data: str) -> dict[str, str]:
    """Return a claim's row of the table."""
    line = dict.fromkeys(COLUMNS, "") | {"claim": text, "source": claim.source, "paper": claim.paper}
    line["verdict"] = verdict([judgement.status for judgement in judgements])
    if not judgements:
        what = f"a condition diverged at every setting. Data: {data}" if data else "no data of this kind"
        return line | {"condition_of_verdict": what}
    # The context that speaks most for the claim gives the numbers, so that none can be said to be hidden.
    best = max(judgements, key=lambda judgement: (ORDER[judgement.status], judgement.weakest.value or float("-inf")))
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
