"""The paper's claims, each with the comparisons that decide it, and the rules that turn numbers into a verdict.

Rules, from the smallest part up (``docs/study.md`` has them in words):

1. A *comparison* of two sides is ``for`` the claim if the effect goes its way and the exact sign-flip test, adjusted
   by Holm over the comparisons that the claim makes in one context, has p < 0.05; ``against`` if it goes the other way
   with p < 0.05; else ``open``.
2. A claim of an *amount* is ``for`` only if, besides, the interval's upper end reaches the paper's number. A claim that
   an effect is *small* is ``for`` if the interval lies within a margin, ``against`` if it lies outside, else ``open``.
3. A claim in one *context* (task, split, regime, cell) is ``against`` if any of its comparisons is; ``for`` if all are;
   else ``open``.
4. The *verdict*: ``reproduced`` if it is for in every context; ``reproduced only if …`` if in some, which are named;
   ``contradicted`` if against in every context; else ``not reproduced``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from pipeline.conditions import CONDITIONS
from pipeline.evaluation.statistics import holm
from pipeline.params import Cell
from pipeline.study.plan import CELLS, NEM, REGIMES, Study, Task
from pipeline.study.summary import UNITS, Context, Effect, Measure, Sides, contexts, effect

Status = Literal["for", "against", "open"]
LEVEL = 0.05
COLUMNS = ("claim", "source", "paper", "ours", "ci_low", "ci_high", "verdict", "condition_of_verdict")
REPRODUCED, ONLY_IF, NOT, CONTRADICTED = "reproduced", "reproduced only if", "not reproduced", "contradicted"


@dataclass(frozen=True)
class Comparison:
    """Two conditions, of which the claim says that the first is better.

    Attributes:
        better: condition, or ``cell:condition`` where cells are compared.
        worse: the other.
        measure: in what; ``score`` is accuracy for classes and error for values.
    """

    better: str
    worse: str
    measure: Measure | Literal["score"]

    def of(self, task: str) -> Measure:
        """Return the measure on a task."""
        if self.measure == "score":
            return "accuracy" if task == "clips" else "error"
        return self.measure


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        text: what it says.
        source: where.
        paper: its number, as text.
        tasks: the tasks that it is about.
        cells: the cells that it is about; ``()`` if its comparisons name theirs.
        comparisons: what must hold.
        amount: the paper's number, in the measure's unit, for a claim of an amount.
        margin: for a claim that an effect is small.
    """

    text: str
    source: str
    paper: str
    tasks: tuple[Task, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    amount: float | None = None
    margin: float | None = None


def status(gain: Effect, p: float | None, amount: float | None = None, margin: float | None = None) -> Status:
    """Return what one comparison says (rules 1 and 2).

    Args:
        gain: the effect.
        p: its adjusted p-value.
        amount: the paper's number.
        margin: largest absolute effect that counts as small; then ``p`` is not used.
    """
    if gain.value is None or gain.low is None or gain.high is None:
        return "open"
    if margin is not None:
        if -margin <= gain.low and gain.high <= margin:
            return "for"
        return "against" if gain.low > margin or gain.high < -margin else "open"
    if p is None or p >= LEVEL or gain.value == 0:
        return "open"
    if gain.value < 0:
        return "against"
    return "for" if amount is None or gain.high >= amount else "open"


def together(parts: Sequence[Status]) -> Status:
    """Return what a claim's comparisons say together (rule 3)."""
    if "against" in parts:
        return "against"
    return "for" if parts and all(part == "for" for part in parts) else "open"


def verdict(found: Sequence[Status]) -> str:
    """Return the verdict over contexts (rule 4); the text after ``only if`` is left to the caller."""
    if not found:
        return NOT
    if all(each == "for" for each in found):
        return REPRODUCED
    if "for" in found:
        return ONLY_IF
    return CONTRADICTED if all(each == "against" for each in found) else NOT


def _versus(better: Sequence[str], worse: Sequence[str], measure: Measure | Literal["score"]) -> tuple[Comparison, ...]:
    return tuple(Comparison(a, b, measure) for a, b in zip(better, worse, strict=True))


def _best(
    winner: str, measure: Measure | Literal["score"], among: Sequence[str] = CONDITIONS
) -> tuple[Comparison, ...]:
    """Return the comparisons of a winner with each of the others."""
    return tuple(Comparison(winner, other, measure) for other in among if other != winner)


def _of(kind: str, mode: str = "") -> tuple[str, ...]:
    return tuple(name for name in CONDITIONS if name.startswith(f"{kind}-{mode}"))


NEM_ADD, NEM_MUL = _of("nem", "additive"), _of("nem", "multiplicative")
BLIND, BLIND_ADD, BLIND_MUL = _of("blind"), _of("blind", "additive"), _of("blind", "multiplicative")
TOTAL, TOTAL_MUL = "nem-additive-both", "nem-multiplicative-both"
BOTH: tuple[Task, ...] = ("clips", "fx")
CLIPS: tuple[Task, ...] = ("clips",)
FX: tuple[Task, ...] = ("fx",)
LSTM: tuple[Cell, ...] = ("lstm",)
GRU: tuple[Cell, ...] = ("gru",)
LITTLE = 4.0
"""Margin of "little" and "slightly" [points]: the largest change that the paper so calls is 3.96 (Table 1)."""


def _none(names: Sequence[str], measure: Measure | Literal["score"]) -> tuple[Comparison, ...]:
    return _versus(names, ["none"] * len(names), measure)


CLAIMS: tuple[Claim, ...] = (
    Claim("The noise boost reduces training iterations (additive NEM in outputs and gates)", "abstract", "",
          BOTH, CELLS, _none([TOTAL], "speed")),
    Claim("The noise boost improves accuracy (additive NEM in outputs and gates)", "abstract", "",
          BOTH, CELLS, _none([TOTAL], "score")),
    Claim("NEM noise outperforms blind noise, in every mode and layer", "abstract", "",
          BOTH, CELLS, _versus(NEM, BLIND, "score")),
    Claim("Additive NEM noise outperforms multiplicative NEM noise in classifiers, in every layer", "abstract", "",
          CLIPS, CELLS, _versus(NEM_ADD, NEM_MUL, "accuracy")),
    Claim("Best classifier: NEM noise cuts training iterations by 60 %", "abstract, Table 2", "60 %",
          CLIPS, LSTM, _none([TOTAL], "speed"), amount=60),
    Claim("Best classifier: NEM noise raises accuracy by 9.51 points", "abstract, Table 1", "9.51 (9.49 by Table 1)",
          CLIPS, LSTM, _none([TOTAL], "accuracy"), amount=9.49),
    Claim("Best regressor: NEM noise speeds training up by 38 %", "abstract, Table 6", "38 %",
          FX, LSTM, _none([TOTAL], "speed"), amount=38),
    Claim("Best regressor: NEM noise reduces the squared error by 49.3 %", "abstract, Table 5", "49.3 %",
          FX, LSTM, _none([TOTAL], "error"), amount=49.3),
    Claim("Additive NEM noise in outputs and gates performs best of all conditions", "abstract, 6", "",
          BOTH, CELLS, _best(TOTAL, "score")),
    Claim("GRU regressors converge faster and more accurately than LSTM regressors (noiseless)", "1", "1.508 vs 2.087",
          FX, (), (Comparison("gru:none", "lstm:none", "error"),)),
    Claim("Classifiers benefit most from noise in the outputs: outputs beat gates", "5", "",
          CLIPS, CELLS, (Comparison("nem-additive-output", "nem-additive-hidden", "accuracy"),)),
    Claim("Regressors benefit most from noise in the gates: gates beat outputs", "5", "",
          FX, CELLS, (Comparison("nem-additive-hidden", "nem-additive-output", "error"),)),
    # 6.1
    Claim("Additive blind noise has little effect on an LSTM classifier's accuracy (within 4 points)", "6.1",
          "-1.71, +3.96, +2.40", CLIPS, LSTM, _none(BLIND_ADD, "accuracy"), margin=LITTLE),
    Claim("Blind noise in outputs and gates lowers an LSTM classifier's accuracy", "6.1", "-1.15 (+2.40 by Table 1)",
          CLIPS, LSTM, (Comparison("none", "blind-additive-both", "accuracy"),)),
    Claim("Additive NEM noise raises an LSTM classifier's accuracy in every layer", "6.1, Fig. 9",
          "+6.34, +8.45, +9.49", CLIPS, LSTM, _none(NEM_ADD, "accuracy")),
    Claim("Additive NEM noise beats additive blind noise in an LSTM classifier in every layer", "6.1, Fig. 9",
          "+8.05, +4.49, +7.09", CLIPS, LSTM, _versus(NEM_ADD, BLIND_ADD, "accuracy")),
    Claim("Additive NEM beats multiplicative NEM in an LSTM classifier in every layer", "6.1, Table 1",
          "+6.25, +8.40, +8.92", CLIPS, LSTM, _versus(NEM_ADD, NEM_MUL, "accuracy")),
    Claim("Multiplicative NEM noise beats multiplicative blind noise in an LSTM classifier", "Table 1",
          "+1.87, +0.33, +0.80", CLIPS, LSTM, _versus(NEM_MUL, BLIND_MUL, "accuracy")),
    Claim("An LSTM classifier's accuracy is best with additive NEM noise in outputs and gates", "6.1", "96.70 %",
          CLIPS, LSTM, _best(TOTAL, "accuracy")),
    Claim("Additive NEM noise speeds an LSTM classifier up more than multiplicative NEM noise", "6.1, Table 2",
          "40, 56, 60 vs 15, 13, 18 %", CLIPS, LSTM, _versus(NEM_ADD, NEM_MUL, "speed")),
    Claim("NEM noise speeds an LSTM classifier up more than blind noise, in every mode and layer", "6.1, Table 2", "",
          CLIPS, LSTM, _versus(NEM, BLIND, "speed")),
    Claim("The best speed-up of an LSTM classifier is additive NEM noise in outputs and gates", "6.1", "60 %",
          CLIPS, LSTM, _best(TOTAL, "speed")),
    Claim("Multiplicative NEM noise in outputs and gates takes 18 % fewer epochs (LSTM classifier)", "6.1", "18 %",
          CLIPS, LSTM, _none([TOTAL_MUL], "speed"), amount=18),
    # 6.2
    Claim("Additive NEM noise in outputs and gates raises a GRU classifier's accuracy by 3.02 points", "6.2", "3.02",
          CLIPS, GRU, _none([TOTAL], "accuracy"), amount=3.02),
    Claim("Multiplicative NEM noise in outputs and gates raises it by 2.25 points", "6.2", "2.25",
          CLIPS, GRU, _none([TOTAL_MUL], "accuracy"), amount=2.25),
    Claim("Blind noise changes a GRU classifier's accuracy only slightly (within 4 points)", "6.2", "-1.55 to +2.83",
          CLIPS, GRU, _none(BLIND, "accuracy"), margin=LITTLE),
    Claim("NEM noise beats no noise in a GRU classifier's accuracy, in every mode and layer", "6.2, Table 3",
          "+2.00 to +3.02", CLIPS, GRU, _none(NEM, "accuracy")),
    Claim("Additive NEM beats multiplicative NEM in a GRU classifier in every layer", "6.2, Table 3",
          "+0.69, +0.42, +0.77", CLIPS, GRU, _versus(NEM_ADD, NEM_MUL, "accuracy")),
    Claim("NEM noise beats multiplicative blind noise in a GRU classifier", "Table 3", "",
          CLIPS, GRU, (*_versus(NEM_ADD, BLIND_MUL, "accuracy"), *_versus(NEM_MUL, BLIND_MUL, "accuracy"))),
    Claim("NEM noise speeds up a GRU classifier in every mode and layer", "6.2, Table 4", "15 to 28 %",
          CLIPS, GRU, _none(NEM, "speed")),
    Claim("Additive NEM noise in outputs and gates takes 28 % fewer epochs (GRU classifier)", "6.2, Table 4", "28 %",
          CLIPS, GRU, _none([TOTAL], "speed"), amount=28),
    Claim("Multiplicative NEM noise in outputs and gates takes 21 % fewer epochs (GRU classifier)", "6.2, Table 4",
          "21 %", CLIPS, GRU, _none([TOTAL_MUL], "speed"), amount=21),
    Claim("The best speed-up of a GRU classifier is additive NEM noise in outputs and gates", "6.2", "28 %",
          CLIPS, GRU, _best(TOTAL, "speed")),
    # 6.3.1
    Claim("NEM noise beats no noise in an LSTM regressor, in every mode and layer", "6.3.1, Table 5",
          "1.059 to 1.636 vs 2.087", FX, LSTM, _none(NEM, "error")),
    Claim("Additive NEM noise beats additive blind noise in an LSTM regressor in every layer", "6.3.1, Fig. 12",
          "1.490, 1.636, 1.059 vs 1.689, 2.465, 2.988", FX, LSTM, _versus(NEM_ADD, BLIND_ADD, "error")),
    Claim("Multiplicative NEM noise beats multiplicative blind noise in an LSTM regressor in every layer",
          "6.3.1, Fig. 13", "1.170, 1.191, 1.147 vs 2.310, 1.756, 2.359",
          FX, LSTM, _versus(NEM_MUL, BLIND_MUL, "error")),
    Claim("Blind noise reduces an LSTM regressor's error, in outputs, gates and both", "6.3.1",
          "1.689, 2.465, 2.988 vs 2.087 (Table 5)", FX, LSTM, _none(BLIND_ADD, "error")),
    Claim("An LSTM regressor's error is least with additive NEM noise in outputs and gates", "6.3.1, Table 5", "1.059",
          FX, LSTM, _best(TOTAL, "error")),
    Claim("An LSTM regressor trains fastest with additive NEM noise in outputs and gates", "6.3.1, Table 6", "38 %",
          FX, LSTM, _best(TOTAL, "speed")),
    Claim("NEM noise speeds an LSTM regressor up in every mode and layer", "6.3.1, Table 6", "20 to 38 %",
          FX, LSTM, _none(NEM, "speed")),
    Claim("Blind noise slows an LSTM regressor down in every mode and layer", "Table 6", "-24 to -11 %",
          FX, LSTM, _versus(["none"] * len(BLIND), BLIND, "speed")),
    # 6.3.2
    Claim("NEM noise beats no noise in a GRU regressor, in every mode and layer", "6.3.2, Table 7",
          "1.151 to 1.425 vs 1.508", FX, GRU, _none(NEM, "error")),
    Claim("NEM noise beats blind noise in a GRU regressor, in every mode and layer", "6.3.2, Table 7", "",
          FX, GRU, _versus(NEM, BLIND, "error")),
    Claim("Blind noise beats no noise in a GRU regressor", "6.3.2", "1.461 to 1.566 vs 1.508 (Table 7)",
          FX, GRU, _none(BLIND, "error")),
    Claim("NEM noise in outputs and gates beats NEM noise in either alone (GRU regressor)", "6.3.2, Fig. 14",
          "1.280 vs 1.425, 1.362", FX, GRU,
          (Comparison(TOTAL, "nem-additive-output", "error"), Comparison(TOTAL, "nem-additive-hidden", "error"))),
    Claim("A GRU regressor's error is least with additive NEM noise in outputs and gates", "6.3.2, Table 7",
          "1.280 (the table's least is 1.151, multiplicative)", FX, GRU, _best(TOTAL, "error")),
    Claim("A GRU regressor trains fastest with multiplicative NEM noise in outputs and gates", "6.3.2, Table 8", "37 %",
          FX, GRU, _best(TOTAL_MUL, "speed")),
    Claim("Multiplicative NEM noise in outputs and gates speeds a GRU regressor up by 37 %", "6.3.2, Table 8", "37 %",
          FX, GRU, _none([TOTAL_MUL], "speed"), amount=37),
    Claim("Additive NEM noise in outputs and gates speeds a GRU regressor up by 32 %", "Table 8", "32 %",
          FX, GRU, _none([TOTAL], "speed"), amount=32),
    Claim("Only there does multiplicative NEM noise beat additive: speed, GRU regressor, outputs and gates", "6.3.2",
          "37 vs 32 %", FX, GRU, (Comparison(TOTAL_MUL, TOTAL, "speed"),)),
)  # fmt: skip
"""Every claim of the abstract and Section 6 (and two of Sections 1 and 5 that Section 6 rests on)."""

CHEAP = "The extra computation of NEM noise is slight (operations per training step, beside those without noise)"


def operations(inputs: int, hidden: int, outputs: int, slices: int) -> tuple[int, int]:
    """Return (arithmetic of a noiseless training step, what NEM noise in outputs and gates adds), per sequence, LSTM.

    Without noise: one multiplication and one addition per weight and slice, three times (forward pass, errors going
    back, gradients), and 40 for each hidden unit and slice (activations and the cell, both ways). With noise: 12 for
    each gate neuron and slice, and for each output neuron: a normal draw (8), scaling, the gain's product and sum, and
    the masked addition.
    """
    weights = 4 * hidden * (inputs + 1 + hidden)
    plain = slices * (6 * weights + 40 * hidden) + 6 * outputs * (hidden + 1)
    return plain, 12 * (slices * 3 * hidden + outputs)


@dataclass
class _Found:
    status: Status
    weakest: Effect
    which: Comparison
    unit: str
    name: str
    parts: list[Status] = field(default_factory=list)


def _judge(claim: Claim, context: Context, cell: Cell | None, sides: Sides, study: Study) -> _Found | None:
    def side_of(name: str) -> Any:  # noqa: ANN401 - a Side or None
        own, _, condition = name.rpartition(":")
        return sides.get(context, own or str(cell), condition)

    gains = []
    for each in claim.comparisons:
        first, second = side_of(each.better), side_of(each.worse)
        if first is None or second is None:
            return None
        gains.append(effect(first, second, each.of(context.task), study))
    adjusted = holm([gain.p for gain in gains])
    parts = [status(gain, p, claim.amount, claim.margin) for gain, p in zip(gains, adjusted, strict=True)]
    # The comparison that speaks least for the claim; where effects should be small, the largest.
    worth = [float("-inf") if g.value is None else -abs(g.value) if claim.margin else g.value for g in gains]
    k = worth.index(min(worth))
    name = ", ".join(each for each in (context.task, cell, context.name) if each)
    return _Found(
        together(parts), gains[k], claim.comparisons[k], UNITS[claim.comparisons[k].of(context.task)], name, parts
    )


def judge(rows: pd.DataFrame, study: Study, evidence: dict[str, str], sizes: tuple[int, int, int, int]) -> pd.DataFrame:
    """Return one row per claim, with the columns of ``claims.csv``.

    Args:
        rows: the finals.
        study: parameters.
        evidence: per task, what the data are.
        sizes: inputs, hidden, outputs and slices of the paper's classifier, for :func:`operations`.
    """
    sides, everywhere, found = Sides(rows, study), contexts(rows, REGIMES), []
    for number, claim in enumerate(CLAIMS, 1):
        judged = []
        for context in (each for each in everywhere if each.task in claim.tasks):
            for cell in claim.cells or (None,):
                one = _judge(claim, context, cell, sides, study)
                if one is not None:
                    judged.append(one)
        found.append(_row(number, claim, judged, evidence))
    plain, extra = operations(*sizes)
    share = 100 * extra / plain
    found.append(
        {
            "claim": f"{len(CLAIMS) + 1}. {CHEAP}", "source": "6.1", "paper": "slight", "ours": f"{share:.3g} % more",
            "ci_low": "", "ci_high": "", "verdict": REPRODUCED if share < 10 else NOT,
            "condition_of_verdict": "counted, not timed: J, I, K, T of the paper's classifier; slight means under 10 %",
        }
    )  # fmt: skip
    return pd.DataFrame(found, columns=list(COLUMNS))


def _row(number: int, claim: Claim, judged: list[_Found], evidence: dict[str, str]) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "") | {
        "claim": f"{number}. {claim.text}", "source": claim.source, "paper": claim.paper,
        "verdict": verdict([each.status for each in judged]),
    }  # fmt: skip
    data = "; ".join(evidence[task] for task in claim.tasks)
    if not judged:
        return row | {"condition_of_verdict": f"data: {data}; a condition diverged at every setting"}
    # The context that speaks most for the claim gives the numbers, so that none can be said to be hidden.
    order = {"for": 2, "open": 1, "against": 0}
    best = max(judged, key=lambda each: (order[each.status], each.weakest.value or float("-inf")))
    gain, many = best.weakest, len(claim.comparisons)
    if gain.value is not None:
        row["ours"] = f"{gain.value:+.3g} {best.unit}"
        row |= {"ci_low": _number(gain.low), "ci_high": _number(gain.high)}
    if row["verdict"] == ONLY_IF:
        row["verdict"] += " " + "; ".join(each.name for each in judged if each.status == "for")
    notes = [f"numbers: {best.name}, {best.which.better} against {best.which.worse}"]
    if many > 1:
        notes[0] += f", the weakest of {many} comparisons ({best.parts.count('for')} for)"
    for what in ("for", "against", "open"):
        names = [each.name for each in judged if each.status == what]
        if names:
            notes.append(f"{what} in {len(names)} of {len(judged)}: " + "; ".join(names))
    return row | {"condition_of_verdict": ". ".join([*notes, f"Data: {data}"])}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
