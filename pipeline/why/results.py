"""The tables of docs/why.md, each a function of the rows that there are: empty where its part has not been run.

A *gain* is ln(noiseless error / error), of one repetition: positive where noise helps. Claims of the paper are ratios
of its entries.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nem.cells import GATES
from nem.conditions import MODES, PLACES
from nem.names import CellName
from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import Bootstrap, Interval
from pipeline.study.claims import ENOUGH, LEAST
from pipeline.study.effects import Context, Side
from pipeline.tasks import fx
from pipeline.why import calibrate, clips, lottery, protocol, table
from pipeline.why.calibrate import CLASSES, RATES, Entries, Predicted, paper
from pipeline.why.protocol import CHANGE, ELSEWHERE, FIRST, FORMS, FRESH, MAIN
from pipeline.why.table import BLIND, EVERY, KEY, NEM, REVERSED, VARIANTS, Regime, Stack, Strength

BOOTSTRAP = Bootstrap(0.95, 10_000, 1)
R, BEYOND = 100, -np.inf  # a speed-up that the epochs after R did not place
SHOWN = 6  # regimes
OVERVIEWS = ("strengths", "elsewhere", "interpretations", "change")
PASSAGES: dict[Predicted, str] = {"speed-ups": "in", "speed-ups less own": "off"}
MARKS = {"supported": " ▲", "opposite": " ▼", "practically none": " ≈", "undecided": ""}


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


def of_classes(
    rows: pd.DataFrame, cell: CellName, delta: str = clips.DELTAS[0], measure: str = "test_error"
) -> pd.DataFrame:
    """Return the same of the classifiers with one output error."""
    own = rows[(rows.repetition >= FRESH) & (rows.cell == cell) & rows.delta.isin(("", delta)) & (rows.failed == 0)]
    return own.pivot(index="repetition", columns="condition", values=measure).reindex(columns=list(EVERY))


def sides(source: Path, least: int = 5) -> dict[Context, dict[str, Side]]:
    """Return the confirmation in a table as the judge of the study's claims takes it: by cell and condition.

    There is none with fewer than ``least`` repetitions that both cells have whole. As in the study a run that is not
    there by its last epoch counts as there one later.
    """
    rows = table.load(source)
    errors = {cell: confirmation(rows, cell).dropna() for cell in GATES}
    whole = errors["lstm"].index.intersection(errors["gru"].index)
    found: dict[Context, dict[str, Side]] = {}
    for cell in GATES if len(whole) >= least else ():
        reached, last = (confirmation(rows, cell, name).loc[whole] for name in ("reached", "last"))
        speed, nothing = 100 * (R - reached.fillna(last + 1)) / R, np.full(len(whole), np.nan)
        found[Context("the paper's regime", fx.TASK.name, "days", fx.TASK.head, cell)] = {
            name: {"error": -np.log(errors[cell].loc[whole, name].to_numpy()), "speed": speed[name].to_numpy(),
                   "accuracy": nothing, "calibration": nothing}
            for name in EVERY
        }  # fmt: skip
    return found


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


Wide = Callable[[pd.DataFrame, CellName], pd.DataFrame]
"""Takes rows and a cell and returns errors, repetitions × conditions."""


def judged(rows: pd.DataFrame, wide: Wide = confirmation, entries: Entries = RATES) -> pd.DataFrame:
    """Return every condition against the noiseless network, in numbers; adjusted over 18 comparisons of a cell."""
    lines = []
    for cell in GATES:
        errors = wide(rows, cell).dropna()
        if len(errors) < 2:
            continue
        gains = -np.log(errors[[*EVERY[1:]]]).sub(np.log(errors["none"]), axis=0)
        for name, own, gain, p, equivalent in _compared(gains):
            claim = np.log(entries.value(cell, "none") / entries.value(cell, name))
            low, high = gain.low or 0.0, gain.high or 0.0
            half = "yes" if low >= claim / 2 else "no" if high < claim / 2 else "open"
            line = {"cell": cell, "condition": name, "n": gain.n, "errors": BOOTSTRAP.studentised(errors[name])}
            line |= {"gain": gain, "better": float((own > 0).mean()), "p": p, "equivalent": equivalent}
            line |= {"detectable": statistics.detectable(own.to_numpy(), statistics.LEVEL / len(EVERY[1:]))}
            line |= {"half": half if name not in BLIND else "–"}
            verdict = statistics.verdict(gain.mean or 0.0, p, equivalent if gain.n >= ENOUGH else 1.0)
            lines.append(line | {"verdict": verdict})
    return pd.DataFrame(lines)


def summary(rows: pd.DataFrame, wide: Wide = confirmation, entries: Entries = RATES) -> pd.DataFrame:
    """Return how many of six entries are better than none, by cell and sign, beside what the paper prints."""
    found, lines = judged(rows, wide, entries), []
    for cell, names in itertools.product(GATES, (BLIND, NEM, REVERSED)) if len(found) else ():
        own = found[(found.cell == cell) & found.condition.isin(names)]
        if not len(own):
            continue
        best = max(own.itertuples(), key=lambda line: line.gain.mean)
        printed = min(names, key=lambda name: entries.value(cell, name))
        verdicts = own.verdict.value_counts()
        line = {"cell": cell.upper(), "noise": names[0].partition("-add")[0], "n": own.n.min()}
        line |= {name: verdicts.get(name, 0) for name in ("supported", "practically none", "opposite", "undecided")}
        line |= {"best": f"{_column(best.condition)}: {percent(best.gain.mean)}"}
        gain = np.log(entries.value(cell, "none") / entries.value(cell, printed))
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
    """Return median speed-ups less the noiseless network's own early passage, and with it, beside Tables 6 and 8."""
    lines = []
    for cell in GATES:
        errors = confirmation(rows, cell).dropna()
        if not len(errors):
            continue
        percents = (100 * (R - confirmation(rows, cell, "reached").reindex(errors.index)) / R).fillna(BEYOND)
        less, whole = percents.sub(percents.none, axis=0).median(), percents.median()
        words = {name: f"{_speed(less[name])} ({_speed(whole[name])})" for name in EVERY}
        for blind, printed, turned in zip(BLIND, NEM, REVERSED, strict=True):
            line = {"cell": cell.upper(), "noise": _column(blind), "none's own": f"{percents.none.median():.0f}"}
            line |= {"blind, paper": f"{paper(cell, blind, 'speed_up'):+.0f}", "blind": words[blind]}
            line |= {"NEM, paper": f"{paper(cell, printed, 'speed_up'):+.0f}", "as printed": words[printed]}
            lines.append(line | {"reversed": words[turned]})
    return pd.DataFrame(lines)


def _speed(value: float) -> str:
    return f"{value:+.0f}" if np.isfinite(value) else "later"


def early(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the main regime that may choose: those without fresh seeds."""
    return table.of(rows[rows.repetition < FRESH], MAIN)


def of_delta(rows: pd.DataFrame, delta: str) -> pd.DataFrame:
    """Return the rows of the regime that the clips' protocol chose, with one output error and early seeds."""
    early, regime = rows[rows.repetition < FRESH], clips.chosen(rows)
    if regime is None:
        return early[:0]
    return early[(early[clips.SETTING] == [*vars(regime).values()]).all(axis=1) & early.delta.isin(("", delta))]


def prediction(rows: pd.DataFrame, entries: Entries = RATES, what: Predicted = "errors") -> pd.DataFrame:
    """Return the paper's entries against what its noiseless and blind entries predict, for both signs.

    After the six entries of a cell their joint log likelihood ratio; modes are calibrated apart, and add up.
    """
    found, lines = calibrate.predictions(rows, entries, what), []
    if not len(found):
        return found
    by_name, form = found.set_index(["cell", "condition"]), _number if what == "errors" else _speed
    for cell, names in itertools.product(found.cell.unique(), zip(BLIND, NEM, REVERSED, strict=True)):
        if all((cell, name) in by_name.index for name in names):
            three = [by_name.loc[cell, name] for name in names]
            line = {"cell": cell.upper(), "noise": _column(names[0])}
            line["paper: blind, NEM"] = f"{form(three[0].paper)}, {form(three[1].paper)}"
            for sign, own in zip(("blind", *lottery.SIGNS), three, strict=True):
                line[sign] = f"{form(own['median'])} [{form(own.low)}, {form(own.high)}]{' ✗' * int(own.outside)}"
            line["ln densities"] = ", ".join(f"{own.log_density:.1f}" for own in three)
            lines.append(line | {"ln ratio": f"{three[1].log_density - three[2].log_density:+.2f}"})
    joint = found.pivot_table("joint", ["cell", "mode"], "kind", "first", sort=False).reindex(columns=calibrate.KINDS)
    total = (joint["nem"] - joint["reversed-nem"]).dropna().groupby("cell", sort=False).sum()
    for cell, ratio in [*total.items(), ("lstm + gru", total.sum())]:
        lines.append({"cell": cell.upper(), "noise": "jointly", "ln ratio": f"{ratio:+.2f}"})
    return pd.DataFrame(lines).fillna("")


def passages(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the same of speed-ups, with the noiseless network's own early passage and less it."""
    parts = [prediction(early(rows), what=what).assign(**{"own passage": w}) for what, w in PASSAGES.items()]
    return pd.concat(parts)


def falsified(rows: pd.DataFrame, entries: Entries = RATES) -> pd.DataFrame:
    """Return which of the paper's entries refute each sign, and what else would: rows are of one regime.

    That is a further run where the two signs' intervals overlap least, in shares of the narrower one.
    """
    lines = []
    for what in ("errors", *PASSAGES):
        part = calibrate.predictions(rows, entries, what)
        if not len(part):
            continue
        signs = [part[part.kind == kind].reset_index(drop=True) for kind in calibrate.KINDS]
        ends = [own[["low", "high"]].clip(lower=-100) for own in signs]
        overlap = np.minimum(ends[0].high, ends[1].high) - np.maximum(ends[0].low, ends[1].low)
        k = int((overlap / np.minimum(*(end.high - end.low for end in ends))).argmin())
        for sign, own in zip(lottery.SIGNS, signs, strict=True):
            line, form, best = {"entries": what, "sign": sign}, _number if what == "errors" else _speed, own.iloc[k]
            out = "; ".join(f"{o.cell.upper()} {_column(o.condition)}" for o in own[own.outside].itertuples())
            line["outside of 95 %"] = f"{own.outside.sum()} of {len(own)}{': ' * bool(out)}{out}"
            line["ln joint"] = f"{own.drop_duplicates(['cell', 'mode']).joint.sum():.1f}"
            where = f"{best.cell.upper()} {_column(best.condition)}"
            line["a run that would refute it"] = f"{where} outside of {form(best.low)} to {form(best.high)}"
            lines.append(line)
    return pd.DataFrame(lines)


def _by_delta(of: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    parts = [(delta, of(delta)) for delta in clips.DELTAS]
    return pd.concat([pd.DataFrame(), *(part.assign(**{"output error": d}) for d, part in parts if len(part))])


def classes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every condition's accuracy [%] and cross entropy beside Tables 1 and 3, marked where judged."""
    lines: dict[str, dict[str, str]] = {name: {"condition": f"`{name}`"} for name in EVERY}
    for cell, delta in itertools.product(GATES, clips.DELTAS):
        errors, losses = (of_classes(rows, cell, delta, name).dropna() for name in ("test_error", "test_loss"))
        found = judged(rows, partial(of_classes, delta=delta), CLASSES)
        if len(errors) < 2:
            return pd.DataFrame()
        marks = found[found.cell == cell].set_index("condition").verdict.map(MARKS)
        for name, line in lines.items():
            printed = "" if name in REVERSED else f"{100 - CLASSES.value(cell, name):.2f}"
            shown = f"{100 - errors[name].mean():.2f} ({losses[name].mean():.3f}){marks.get(name, '')}"
            line |= {f"{cell.upper()}, paper": printed, f"{cell.upper()}, {delta}": shown}
    return pd.DataFrame([*lines.values()])


def regimes(
    rows: pd.DataFrame, entries: Entries = RATES, setting: tuple[str, ...] = (*calibrate.SETTING,)
) -> pd.DataFrame:
    """Return the regimes that were searched, the most likely ones first, and how many fit."""
    found, lines = calibrate.search(rows[rows.repetition < FRESH], entries, setting), []
    for line in found.head(SHOWN).to_dict("records"):
        words = (line[n] if isinstance(line[n], str) else f"{n.replace('_', ' ')} {line[n]:g}" for n in setting)
        shown = {"regime": ", ".join(words)}
        shown |= {cell.upper(): f"{line[cell]:.3f} ({entries.value(cell, 'none'):.3f})" for cell in GATES}
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
        logs = logs[logs.drop(columns="none").notna().any(axis=1)]
        line = {"setting": words, "cell": cell.upper(), "n": len(logs), "none": _number(np.exp(logs["none"].mean()))}
        for kind, names in {"blind": BLIND, "as printed": NEM, "reversed": REVERSED}.items():
            gains = -logs[[name for name in names if name in logs]].sub(logs["none"], axis=0).mean().dropna()
            better = f"{int((gains > 0).sum())} of {len(gains)} better"
            line[kind] = f"{better}, {percent(float(gains.mean()))}" if len(gains) else "–"
        lines.append(line)
    return pd.DataFrame(lines)


def settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return in how many settings of every part, of both modes each, a sign is better than none, on average.

    Gains are paired: a repetition without the noisy network says nothing of it. Networks that several settings share,
    since what these differ in does not concern them, count once.
    """
    early, lines = rows[rows.repetition < FRESH], []
    for part, cell in itertools.product(OVERVIEWS, GATES):
        logs = [np.log(frame(early, replace(stack, cell=cell))) for _, stack in _settings(early, part)]
        noisy = [own for own in logs if "none" in own and own.shape[1] > 1]
        gains = pd.DataFrame([own.rsub(own["none"], axis=0).mean() for own in noisy])
        line = {"part": part, "cell": cell.upper(), "settings": str(len(gains))}
        for place, (sign, names) in itertools.product(PLACES, lottery.SIGNS.items()):
            several = [name for name in names if name.endswith(place) and name in gains]
            own = pd.concat([pd.Series(dtype=float), *(gains[name].dropna().drop_duplicates() for name in several)])
            line[f"{place}, {sign}"] = f"{(own > 0).sum()} of {len(own)}" if len(own) else "–"
        lines += [line] if len(gains) else []
    return pd.DataFrame(lines)


def _settings(rows: pd.DataFrame, part: str) -> Iterator[tuple[str, Stack]]:
    """Yield the settings of a part of the protocol, in words and as stacks."""
    if part == "strengths":
        for own in protocol.pairs(protocol.Sizes()):
            words = f"σ {own.sigma_output:g} in outputs, {own.sigma_hidden:g} in gates, decay {own.decay_output:g}"
            yield words, _stack(MAIN, own)
    elif part == "elsewhere":
        for regime, own in itertools.product(calibrate.matched(rows), ELSEWHERE):
            if regime != MAIN:
                yield f"{protocol.about(regime)}; σ {own.sigma_output:g}, {own.sigma_hidden:g}", _stack(regime, own)
    elif part == "interpretations" and ((rows.variant != "") | rows.data.isin(FORMS)).any():
        for variant in VARIANTS:
            yield variant or "the main regime", _stack(MAIN, FIRST, variant)
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
        for condition in ("none", *(f"{kind}-additive-{place}" for kind in kinds for place in PLACES[:2])):
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


def penalty(rows: pd.DataFrame) -> pd.DataFrame:
    """Return blind gate noise beside the deterministic penalty that is its mean effect: errors and slopes on test days.

    "Share" is how much of the noise's mean gain the penalty has.
    """
    lines, early = [], rows[rows.repetition < FRESH]
    for cell, own, mode in itertools.product(GATES, protocol.PENALISED, MODES):
        names = ("none", f"blind-{mode}-hidden", f"expected-blind-{mode}-hidden")
        stack = replace(_stack(MAIN, own), cell=cell, conditions=names)
        errors = frame(early, stack).reindex(columns=list(names)).dropna()
        if not len(errors):
            continue
        slopes, means = frame(early, stack, "slope_test").loc[errors.index], np.log(errors).mean()
        line = {"cell": cell.upper(), "noise": mode, "σ, decay": f"{own.sigma_hidden:g}, {own.decay_hidden:g}"}
        line["n"] = str(len(errors))
        for words, name in zip(("none", "blind noise", "penalty"), names, strict=True):
            line[words] = f"{_number(np.exp(means[name]))} (slope {slopes[name].mean():.3f})"
        share = (means[names[0]] - means[names[2]]) / (means[names[0]] - means[names[1]])
        lines.append(line | {"share": f"{100 * share:.0f} %"})
    return pd.DataFrame(lines)


def chances(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how probable it is that a table of single runs shows the paper's pattern."""
    lines = []
    for cell, (sign, names), seeds in itertools.product(GATES, lottery.SIGNS.items(), ("independent", "common")):
        errors = confirmation(rows, cell).dropna()
        for tries in (1, 5)[: 1 if seeds == "common" else 2] if len(errors) >= 2 else ():
            found = lottery.pattern(errors, cell, names, tries, common=seeds == "common")
            line = {"cell": cell.upper(), "noise": sign, "seeds": seeds, "tries": tries, "n": len(errors)}
            line |= {words: f"{100 * value:.1f} %" for words, value in found.items()}
            lines.append(line | {"all six better, no effect": f"{100 * lottery.by_chance(tries):.1f} %"})
    return pd.DataFrame(lines)


Tables = dict[str, Callable[[pd.DataFrame], pd.DataFrame]]
TABLES: Tables = {
    "summary": summary, "confirmation": against_none, "signs": signs, "speed": speed,
    "prediction": lambda rows: prediction(early(rows)), "passages": passages,
    "falsified": lambda rows: falsified(early(rows)), "regimes": regimes, "lottery": chances, "level": level,
    "penalty": penalty,
    "settings": settings, **{part: partial(overview, part=part) for part in OVERVIEWS},
}  # fmt: skip
OF_CLIPS: Tables = {
    "clipsregimes": partial(regimes, entries=CLASSES, setting=(*clips.SETTING,)),
    "clipssummary": lambda rows: _by_delta(lambda d: summary(rows, partial(of_classes, delta=d), CLASSES)),
    "clips": classes,
    "clipsprediction": lambda rows: _by_delta(lambda d: prediction(of_delta(rows, d), CLASSES)),
    "clipsfalsified": lambda rows: _by_delta(lambda d: falsified(of_delta(rows, d), CLASSES)),
}
"""Tables of the classifier's rows, and of the others."""
