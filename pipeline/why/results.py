"""The tables of docs/why.md, each a function of the rows that there are: empty where its part has not been run.

A *gain* is ln(noiseless error / error), of one repetition: positive where noise helps. Claims of the paper are ratios
of its entries.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from nem.cells import GATES, CellName
from nem.conditions import PLACES
from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import Bootstrap, Interval
from pipeline.why import calibrate, lottery, protocol
from pipeline.why.calibrate import paper
from pipeline.why.protocol import CHANGE, ELSEWHERE, FIRST, FORMS, FRESH, MAIN
from pipeline.why.table import BLIND, EVERY, KEY, NEM, REVERSED, VARIANTS, Regime, Stack, Strength

LEAST = 0.05
"""The smallest effect of interest: errors that differ by less than 5 % are practically the same."""
ENOUGH = 30  # repetitions without which nothing is called practically none
BOOTSTRAP = Bootstrap(0.95, 10_000, 1)
R, BEYOND = 100, -np.inf  # a speed-up that the epochs after R did not place
SHOWN = 12


def frame(rows: pd.DataFrame, stack: Stack, measure: str = "test_mse") -> pd.DataFrame:
    """Return a measure of a stack's networks, repetitions × conditions; what was not trained or failed is left out.

    Repetitions are all that the table has, if the stack says none.
    """
    numbers = stack.repetitions or tuple(sorted(rows.repetition.unique()))
    wanted = pd.DataFrame([key for *_, key in replace(stack, repetitions=numbers).networks()], columns=list(KEY))
    found = wanted.astype(rows[list(KEY)].dtypes).merge(rows[rows.failed == 0], on=list(KEY))
    wide = found.pivot(index="repetition", columns="condition", values=measure)
    return wide.reindex(columns=[name for name in stack.conditions if name in wide])


def _stack(regime: Regime, strength: Strength, variant: str = "") -> Stack:
    return Stack("lstm", regime, strength, EVERY, (), variant)


def confirmation(rows: pd.DataFrame, cell: CellName, measure: str = "test_mse") -> pd.DataFrame:
    """Return the confirmation's networks of a cell that have fresh seeds, complete repetitions only."""
    fresh = rows[rows.repetition >= FRESH]
    return frame(fresh, replace(_stack(MAIN, FIRST), cell=cell), measure).reindex(columns=list(EVERY))


def percent(gain: float | None) -> str:
    """Return the change of the error that a gain is."""
    return "–" if gain is None else f"{100 * np.expm1(-gain):+.0f} %"


def _ends(interval: Interval, form: Callable[[float | None], str], turned: bool = False) -> str:
    low, high = (interval.high, interval.low) if turned else (interval.low, interval.high)
    return f"{form(interval.mean)} [{form(low)}, {form(high)}]"


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _compared(gains: pd.DataFrame) -> Iterator[tuple[str, pd.Series, Interval, float, float]]:
    """Yield every column of gains with its interval, p-value adjusted for all columns, and that of equivalence."""
    p_values = statistics.step_down(gains.to_numpy())
    for (name, own), p in zip(gains.items(), p_values, strict=True):
        equivalent = statistics.equivalence(own.to_numpy(), -np.log(1 - LEAST))
        yield str(name), own, BOOTSTRAP.studentised(own), p, equivalent


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every condition against the noiseless network, in numbers; adjusted over 18 comparisons of a cell."""
    lines = []
    for cell in GATES:
        errors = confirmation(rows, cell).dropna()
        if len(errors) < 2:
            continue
        gains = -np.log(errors[[*EVERY[1:]]]).sub(np.log(errors["none"]), axis=0)
        for name, own, gain, p, equivalent in _compared(gains):
            claim, low, high = np.log(paper(cell, "none") / paper(cell, name)), gain.low or 0.0, gain.high or 0.0
            half = "yes" if low >= claim / 2 else "no" if high < claim / 2 else "open"
            line = {"cell": cell, "condition": name, "n": gain.n, "errors": BOOTSTRAP.studentised(errors[name])}
            line |= {"gain": gain, "better": float((own > 0).mean()), "p": p, "equivalent": equivalent}
            line |= {"detectable": statistics.detectable(own.to_numpy(), statistics.LEVEL / len(EVERY[1:]))}
            line |= {"half": half if name not in BLIND else "–"}
            verdict = statistics.verdict(gain.mean or 0.0, p, equivalent if gain.n >= ENOUGH else 1.0)
            lines.append(line | {"verdict": verdict})
    return pd.DataFrame(lines)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many of six entries are better than none, by cell and sign, beside what the paper prints."""
    found, lines = judged(rows), []
    for cell, names in itertools.product(GATES, (BLIND, NEM, REVERSED)) if len(found) else ():
        own = found[(found.cell == cell) & found.condition.isin(names)]
        if not len(own):
            continue
        best = max(own.itertuples(), key=lambda line: line.gain.mean)
        printed = min(names, key=lambda name: paper(cell, name))
        verdicts = own.verdict.value_counts()
        line = {"cell": cell.upper(), "noise": names[0].partition("-add")[0], "n": own.n.min()}
        line |= {name: verdicts.get(name, 0) for name in ("supported", "practically none", "opposite", "undecided")}
        line |= {"best": f"{_column(best.condition)}: {percent(best.gain.mean)}"}
        gain = np.log(paper(cell, "none") / paper(cell, printed))
        lines.append(line | {"the paper's best": f"{_column(printed)}: {percent(gain)}"})
    return pd.DataFrame(lines)


def _column(condition: str) -> str:
    return "-".join(condition.split("-")[-2:])


def against_none(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the confirmation: every condition against the noiseless network, which stands before them."""
    lines: list[dict[str, str]] = []
    for cell, part in found.groupby("cell", sort=False) if len(found := judged(rows)) else ():
        errors = confirmation(rows, cell).dropna().none
        spread = " to ".join(map(_number, errors.quantile([0.025, 0.975])))
        lines.append({"cell": cell.upper(), "condition": f"`none`, n = {len(errors)}, 95 % of runs {spread}"})
        lines[-1] |= {"MSE": _ends(BOOTSTRAP.studentised(errors), _number), "paper": f"{paper(cell, 'none'):.3f}"}
        for line in part.itertuples():
            shown = {"cell": cell.upper(), "condition": f"`{line.condition}`", "MSE": _ends(line.errors, _number)}
            shown |= {"paper": f"{paper(cell, line.condition):.3f}" if line.condition not in REVERSED else ""}
            shown |= {"against none": _ends(line.gain, percent, turned=True), "better in": f"{100 * line.better:.0f} %"}
            shown |= {"p": _p(line.p), "p, equivalence": _p(line.equivalent), "detectable": percent(line.detectable)}
            lines.append(shown | {"half the paper's": line.half, "better than none?": line.verdict})
    return pd.DataFrame(lines).fillna("")


def signs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return reversed against printed, and printed against blind, paired; p-values adjusted over 12 of a cell."""
    lines: list[dict[str, str]] = []
    for cell in GATES:
        logs = np.log(confirmation(rows, cell).dropna())
        if len(logs) < 2:
            continue
        pairs = [*zip(REVERSED, NEM, strict=True), *zip(NEM, BLIND, strict=True)]
        gains = pd.DataFrame({" ".join(pair): logs[pair[1]] - logs[pair[0]] for pair in pairs})
        own = {name: (_ends(gain, percent, turned=True), _p(p)) for name, _, gain, p, _ in _compared(gains)}
        for first, second in zip(pairs[:6], pairs[6:], strict=True):
            line = {"cell": cell.upper(), "noise": _column(first[0])}
            line |= dict(zip(("reversed against printed", "p"), own[" ".join(first)], strict=True))
            lines.append(line | dict(zip(("printed against blind", "p "), own[" ".join(second)], strict=True)))
    return pd.DataFrame(lines)


def speed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return median speed-ups less the noiseless network's own early passage [% of R], beside Tables 6 and 8."""
    lines = []
    for cell in GATES:
        reached = confirmation(rows, cell, "reached")
        errors = confirmation(rows, cell).dropna()
        reached = reached.reindex(errors.index)
        if not len(reached):
            continue
        percents = (100 * (R - reached) / R).fillna(BEYOND)
        own = percents.sub(percents.none, axis=0).median()
        words = {name: f"{value:+.0f}" if np.isfinite(value) else "later" for name, value in own.items()}
        for blind, printed, turned in zip(BLIND, NEM, REVERSED, strict=True):
            line = {"cell": cell.upper(), "noise": _column(blind), "none's own": f"{percents.none.median():.0f}"}
            line |= {"blind, paper": f"{paper(cell, blind, 'speed_up'):+.0f}", "blind": words[blind]}
            line |= {"NEM, paper": f"{paper(cell, printed, 'speed_up'):+.0f}", "as printed": words[printed]}
            lines.append(line | {"reversed": words[turned]})
    return pd.DataFrame(lines)


def prediction(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's NEM entries against what its noiseless and blind entries predict, for both signs.

    After the six entries of a cell their joint log likelihood ratio; modes are calibrated apart, and add up.
    """
    found, lines = calibrate.predictions(rows[rows.repetition < FRESH], MAIN), []
    if not len(found):
        return found
    by_name, total = found.set_index(["cell", "condition"]), {}
    for cell, name in itertools.product(found.cell.unique(), NEM):
        if (cell, f"reversed-{name}") not in by_name.index:
            continue
        both = {"as printed": by_name.loc[cell, name], "reversed": by_name.loc[cell, f"reversed-{name}"]}
        line = {"cell": cell.upper(), "noise": _column(name), "paper": f"{paper(cell, name):.3f}"}
        for sign, own in both.items():
            outside = "" if own.low <= own.paper <= own.high else " ✗"
            line[sign] = f"{own['median']:.3f} [{own.low:.3f}, {own.high:.3f}]{outside}"
        first, second = both.values()
        total[cell, first["mode"]] = first.joint - second.joint
        lines.append(line | {"ln ratio": f"{first.log_density - second.log_density:+.2f}"})
    for (cell, mode), ratio in [*total.items(), (("both", "together"), sum(total.values()))]:
        lines.append({"cell": cell.upper(), "noise": f"{mode}, jointly", "ln ratio": f"{ratio:+.2f}"})
    return pd.DataFrame(lines).fillna("")


def regimes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the regimes that were searched, the most likely ones first, and how many fit."""
    found = calibrate.search(rows[rows.repetition < FRESH])
    lines = []
    for line in found.head(SHOWN).astype({"batch_size": int}).to_dict("records"):
        shown = {"regime": protocol.about(Regime(**{name: line[name] for name in calibrate.SETTING}))}
        shown |= {cell.upper(): f"{line[cell]:.3f} ({paper(cell, 'none'):.3f})" for cell in GATES}
        lines.append(shown | {"log likelihood": f"{line['log_likelihood']:.2f}", "fits": "yes" if line["fits"] else ""})
    if len(found) > SHOWN:
        lines.append({"regime": f"… {len(found) - SHOWN} more", "fits": f"{int(found.fits.sum())} in all"})
    return pd.DataFrame(lines).fillna("")


def overview(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """Return, in each setting of a part, how many entries of a kind are better than none, and the mean change."""
    early, lines = rows[rows.repetition < FRESH], []
    for (words, stack), cell in itertools.product(_settings(early, part), GATES):
        logs = np.log(frame(early, replace(stack, cell=cell)))
        if "none" not in logs or len(logs.columns) < 2:
            continue
        line = {"setting": words, "cell": cell.upper(), "n": len(logs), "none": _number(np.exp(logs["none"].mean()))}
        for kind, names in {"blind": BLIND, "as printed": NEM, "reversed": REVERSED}.items():
            gains = -logs[[name for name in names if name in logs]].sub(logs["none"], axis=0).mean().dropna()
            better = f"{int((gains > 0).sum())} of {len(gains)} better"
            line[kind] = f"{better}, {percent(float(gains.mean()))}" if len(gains) else "–"
        lines.append(line)
    return pd.DataFrame(lines)


def _settings(rows: pd.DataFrame, part: str) -> Iterator[tuple[str, Stack]]:
    """Yield the settings of a part of the protocol, in words and as stacks."""
    if part == "strengths":
        for own in protocol.pairs(protocol.Sizes()):
            if own.sigma_output == own.sigma_hidden:
                yield f"σ {own.sigma_output:g}, decay {own.decay_output:g}", _stack(MAIN, own)
    elif part == "elsewhere":
        for regime, own in itertools.product(calibrate.matched(rows), ELSEWHERE):
            if regime != MAIN:
                yield f"{protocol.about(regime)}; σ {own.sigma_output:g}, {own.sigma_hidden:g}", _stack(regime, own)
    elif part == "interpretations" and ((rows.variant != "") | rows.data.isin(FORMS)).any():
        for variant in VARIANTS:
            yield variant or "as in the main regime", _stack(MAIN, FIRST, variant)
        for data in FORMS:
            yield data, _stack(replace(MAIN, data=data), FIRST)
    elif part == "change":
        yield "target `change`", _stack(CHANGE, FIRST)


def level(rows: pd.DataFrame) -> pd.DataFrame:
    """Return parts of the error, slopes and saturation of the confirmation's networks with additive noise."""
    names = {"level": "level_mse", "daily": "daily_mse", "slope, training days": "slope_train"}
    names |= {"slope, test days": "slope_test", "saturation, training days": "saturation_train"}
    names |= {"saturation, test days": "saturation_test"}
    lines = []
    for cell in GATES:
        parts = {words: confirmation(rows, cell, name) for words, name in names.items()}
        kinds = ("blind", "nem", "reversed-nem")
        for condition in ("none", *(f"{kind}-additive-{place}" for kind in kinds for place in PLACES)):
            means = {words: part[condition].mean() for words, part in parts.items()}
            if np.isfinite(means["level"]):
                line = {"cell": cell.upper(), "condition": f"`{condition}`"}
                lines.append(line | {words: _number(value) for words, value in means.items()})
        slope, rest = (parts[words].to_numpy().ravel() for words in ("slope, test days", "level"))
        known = np.isfinite(slope) & np.isfinite(rest)
        if known.sum() > 2 and np.ptp(slope[known]):
            r = np.corrcoef(slope[known], np.log(rest[known]))[0, 1]
            words = f"correlation of slope on test days and ln level: {r:.2f}, {known.sum()} networks"
            lines.append({"cell": cell.upper(), "condition": words})
    return pd.DataFrame(lines).fillna("")


def chances(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how probable it is that a table of single runs shows the paper's pattern."""
    lines = []
    for cell, (sign, names), seeds in itertools.product(GATES, lottery.SIGNS.items(), ("independent", "common")):
        errors = confirmation(rows, cell).dropna()
        for tries in (1, 5) if len(errors) >= 2 else ():
            found = lottery.pattern(errors, cell, names, tries, common=seeds == "common")
            line = {"cell": cell.upper(), "noise": sign, "seeds": seeds, "tries": tries, "n": len(errors)}
            line |= {words: f"{100 * value:.1f} %" for words, value in found.items()}
            lines.append(line | {"all six better, no effect": f"{100 * lottery.by_chance(tries):.1f} %"})
    return pd.DataFrame(lines)


TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "summary": summary, "confirmation": against_none, "signs": signs, "speed": speed, "prediction": prediction,
    "regimes": regimes, "lottery": chances, "level": level,
    **{part: partial(overview, part=part) for part in ("strengths", "elsewhere", "change", "interpretations")},
}  # fmt: skip
