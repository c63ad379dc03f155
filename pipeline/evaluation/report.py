"""One self-contained HTML page: what came out, on which data, how it compares with the paper and with doing nothing."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from nem.conditions import Condition
from nem.noise import Noise
from pipeline.common import paths, records
from pipeline.evaluation import charts, documents, figures, style, tables
from pipeline.evaluation.metrics import best_condition
from pipeline.evaluation.statistics import LEVEL, Bootstrap
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import COLUMNS, GENERATED, Outcome


def short(value: float | None, scale: float = 1.0, digits: int = 4, sign: str = "") -> str:
    """Return a shown number with so many significant digits; a dash for none."""
    return "–" if value is None or not np.isfinite(value) else f"{value * scale:{sign}.{digits}g}"


def fixed(value: float | None, scale: float, decimals: int, sign: str = "") -> str:
    """Return a shown number with so many decimals, so that a column of them is aligned; a dash for none."""
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{value * scale:{sign}.{decimals}f}".replace("-", "−")
    return text if text.strip("+−0.") else text.strip("+−")


def decimals(values: Iterable[float]) -> int:
    """Return how many decimals give the least of these numbers three significant digits."""
    least = min((abs(value) for value in values if value), default=1.0)
    return max(0, 2 - math.floor(math.log10(least)))


def needed(comparisons: int) -> int:
    """Return the fewest repetitions at which one of so many comparisons can be significant.

    Of n pairs the sign-flip test has no p-value below 2/2ⁿ, which Holm multiplies by the number of comparisons.
    """
    return next(n for n in itertools.count(2) if comparisons * 2 / 2**n < LEVEL)


def too_few(outcome: Outcome) -> str:
    """Say that no difference of this run can be significant, where that is so."""
    count, least = len(outcome.run.conditions) - 1, needed(max(len(outcome.run.conditions) - 1, 1))
    if outcome.run.repetitions >= least:
        return ""
    return (f"With {outcome.run.repetitions} repetitions no difference can be significant: for {count} conditions and "
            f"Holm-adjusted p < {LEVEL} it takes {least}.")  # fmt: skip


def judged(outcome: Outcome) -> pd.DataFrame:
    """Return the paired differences of the headline with their ``tone``: surely ``better``, ``worse``, or empty."""
    measure, rows = outcome.task.measure, outcome.differences
    rows = rows[rows.metric == measure.name]
    gain, sure = rows.difference.astype(float) * measure.gain, rows.p_holm.astype(float) < LEVEL
    return rows.assign(gain=gain, tone=np.select([sure & (gain > 0), sure & (gain < 0)], ["better", "worse"], ""))


def verdict(outcome: Outcome) -> str:
    """Say in one paragraph what the numbers show, whatever they show."""
    task, measure, rows = outcome.task, outcome.task.measure, judged(outcome)
    text = f"Noiseless {measure.words} {short(outcome.summary['none'][measure.name]['mean'], measure.scale)}. "
    nem, blind = (rows[rows.condition.str.startswith(f"{kind}-")].tone.tolist() for kind in ("nem", "blind"))
    text += too_few(outcome) or (
        f"Of {len(nem)} NEM conditions {nem.count('better')} are significantly better and {nem.count('worse')} "
        f"significantly worse than no noise (Holm-adjusted p < {LEVEL}); of {len(blind)} blind conditions "
        f"{blind.count('better')} and {blind.count('worse')}."
    )
    best = best_condition(outcome.run)
    if task.rival is not None and measure.name == task.loss and best is not None:
        reference, lowest = outcome.references[task.rival], outcome.summary[best][measure.name]["mean"] or 0.0
        shown = "better" if lowest < reference else f"{lowest / reference:.1f} times worse"
        text += f" {task.called(task.rival).capitalize()} has {short(reference)}: the condition that is best on the "
        text += f"test data ({best}, {short(lowest)}) is {shown}."
    return text


def findings(outcomes: Sequence[Outcome]) -> list[tuple[str, list[str]]]:
    """Return three findings, headline and sentences: NEM against no noise, NEM against blind noise, baselines."""
    found = pd.concat([judged(outcome).assign(run=k) for k, outcome in enumerate(outcomes)])
    found = found.assign(pair=found.condition.str.partition("-")[2])
    nem, blind = (found[found.condition.str.startswith(f"{kind}-")] for kind in ("nem", "blind"))
    limits = [text for outcome in outcomes if (text := too_few(outcome))]
    better, worse = (int((nem.tone == tone).sum()) for tone in ("better", "worse"))
    ahead = f"By its mean, NEM noise is ahead of no noise in {(nem.gain > 0).sum()} of {len(nem)} comparisons."
    sure = f"Significantly better: {better} of {len(nem)}, significantly worse: {worse} (Holm-adjusted p < {LEVEL})."
    head = f"NEM noise is better than no noise in {better} of {len(nem)} comparisons"
    head = "Too few repetitions to tell NEM noise from no noise" if limits else head if better else (
        "No NEM condition is better than no noise")  # fmt: skip
    first = (head, [limits[0] if limits else sure, ahead])
    pairs = nem.merge(blind, on=["run", "pair"], suffixes=("", "_blind"))
    won, ruined = int((pairs.gain > pairs.gain_blind).sum()), int((blind.tone == "worse").sum())
    second = ["Pairs have the same mode, place and σ; ahead means the better mean."] + [
        f"Significantly worse than no noise: {ruined} of {len(blind)} with blind noise, {worse} of {len(nem)} with NEM."
    ] * (not limits)  # fmt: skip
    lost, told = 0, []
    for (title, _), own in _places(outcomes).items():
        measure, baseline = own[0].task.measure, charts.baseline(own[0])
        level, parts = own[0].references[baseline], []
        for outcome in own:
            means = [summary[measure.name]["mean"] for summary in outcome.summary.values()]
            best = max((measure.gain * mean for mean in means if mean is not None), default=-math.inf)
            lost += best < measure.gain * level
            parts.append(f"{outcome.run.cell.upper()} {short(measure.gain * best, measure.scale, 3)}")
        told.append(f"{title}, {own[0].label}: {own[0].task.called(baseline)} {short(level, measure.scale, 3)}; best "
                    f"condition {', '.join(parts)}.")  # fmt: skip
    head = f"A naive baseline beats all conditions in {lost} of {len(outcomes)} runs"
    head = "No network is needed to do better" if lost == len(outcomes) else head if lost else (
        "In every run some condition beats the naive baseline")  # fmt: skip
    return [first, (f"NEM noise is ahead of blind noise in {won} of {len(pairs)} pairs", second), (head, told)]


def _places(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Return the runs of each task and split, by title and name."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.title.rpartition(":")[0], outcome.name), []).append(outcome)
    return groups


def printed(outcome: Outcome, quantity: str) -> dict[str, float | None]:
    """Return the paper's number of every condition; empty unless the data are the paper's own."""
    if not outcome.paper:
        return {}
    table = next(table for table in outcome.tables if table.quantity == quantity)
    return {condition: table.value(condition) for condition in outcome.run.conditions}


def shifts(outcome: Outcome, condition: str) -> list[str]:
    """Return the length of NEM noise's mean in outputs and in gates, at the first epoch and at R, as text.

    It is σ/√2π (``nem.theory.expected_halfspace_noise``), in units of σ; of squared errors that is its upper limit
    (``expected_ball_noise``). Of noise that is not selected it is 0, of other densities than the Gaussian a dash.
    """
    own, texts = Condition.parse(condition), []
    for place, there in (("output", own.in_output), ("hidden", own.in_hidden)):
        if own.mode is None or not there or "nem" not in own.kind:
            texts.append("0" if there else "–")
            continue
        setting = outcome.run.record["settings"]["noise"][place][own.mode]
        if outcome.run.record["settings"]["noise"]["density"][place] != "gaussian":
            texts.append("–")  # no closed form
            continue
        noise = Noise(own.kind, own.mode, setting["sigma"], setting["decay"])
        ends = [noise.at(epoch) / math.sqrt(2 * math.pi) for epoch in (0, outcome.run.epochs - 1)]
        texts.append(" → ".join(dict.fromkeys(short(end, 1, 2) for end in ends)))
    return texts


def _row(outcome: Outcome, condition: str, pair: Any) -> dict[str, Any]:  # noqa: ANN401 - a row of judged()
    """Return what the tables of a run say of a condition besides its numbers; ``pair`` is its difference, if any."""
    measure, limit, word, speed, alike = outcome.task.measure, too_few(outcome), "", "", ""
    paper = printed(outcome, measure.quantity)
    if pair is not None:
        word = pair.tone or ("too few" if limit else "not told apart")
        gap = ((paper.get(condition) or np.nan) - (paper.get("none") or np.nan)) * measure.gain
        alike = "open" if not pair.tone else "yes" if (gap > 0) == (pair.tone == "better") else "no"
        speeds = (outcome.summary[name]["speed_up_percent"] for name in (condition, "none"))
        ends = ([-math.inf if v is None else v for v in (s["median_ci_low"], s["median_ci_high"])] for s in speeds)
        (low, high), (least, most) = ends  # a missing end is censored
        speed = "too few" if limit else "sooner" if low > most else "later" if high < least else "not told apart"
    table = next(table for table in outcome.tables if table.quantity == "speed_up")
    return {"condition": condition, "pair": pair, "verdict": word, "alike": alike, "paper": paper.get(condition),
            "shift": shifts(outcome, condition), "speed": tables.entry(table, outcome, condition),
            "speed_paper": printed(outcome, "speed_up").get(condition), "speed_verdict": speed}  # fmt: skip


def _run(outcome: Outcome, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return what the page shows of one run."""
    measure, differences = outcome.task.measure, judged(outcome)
    means = (summary[measure.name]["mean"] or 0.0 for summary in outcome.summary.values())
    pairs, paper = {row.condition: row for row in differences.itertuples()}, printed(outcome, measure.quantity)
    wanted = {measure.curve: outcome.label}
    if measure.name != outcome.task.loss:
        wanted["test_loss"] = COLUMNS[outcome.task.loss][0]
    nem = differences[differences.condition.str.startswith("nem-")].dropna(subset=["gain"])
    best = nem.condition.iloc[int(nem.gain.argmax())] if len(nem) else "none"
    return {
        "outcome": outcome, "id": f"{outcome.name}-{outcome.run.cell}", "verdict": verdict(outcome),
        "rows": [_row(outcome, condition, pairs.get(condition)) for condition in outcome.summary],
        "tables": [next(t for t in outcome.tables if t.quantity == q) for q in (measure.quantity, "speed_up")],
        "paper": bool(paper), "printed": max((len(f"{v:g}".partition(".")[2]) for v in paper.values() if v), default=0),
        "forest": charts.forest(outcome, paper), "figures": figures.draw(outcome),
        "curves": [charts.curves(outcome, bootstrap, metric, label) for metric, label in wanted.items()],
        "legend": charts.legend(outcome.run.conditions),
        "decimals": decimals(mean * measure.scale for mean in means),
        "shown": {"none", best, best.replace("nem-", "blind-")},
    }  # fmt: skip


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """Return a page of one of this package's templates; a value that it names and nobody gives is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=jinja2.select_autoescape(["j2"]),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"short": lambda *shown: short(*shown).replace("-", "−"), "number": tables.number,
                            "condition": style.words, "fixed": fixed}  # fmt: skip
    environment.globals["kind"] = lambda name: Condition.parse(name).kind
    return environment.get_template(template).render(**values)


def write(outcomes: Sequence[Outcome], further: Sequence[Picture], geometry: Sequence[Picture], bootstrap: Bootstrap,
          profile: str) -> None:  # fmt: skip
    """Draw every run's pictures and write ``report.html`` with them, and with those that belong to no run."""
    by_task = {outcome.task.name: outcome for outcome in outcomes}
    runs = {id(outcome): _run(outcome, bootstrap) for outcome in outcomes}
    claims, honest = documents.claims(), [o for o in outcomes if "leakage_gap" in o.summary["none"]]
    leaks = [(o, one) for one in honest for o in outcomes if o.task.name == one.task.name and o.run.cell == one.run.cell
             and o is not one]  # fmt: skip
    page = render(
        "report.html.j2", profile=profile, bootstrap=bootstrap, findings=findings(outcomes), further=further,
        geometry=geometry, level=LEVEL, leaks=leaks, errata=documents.errata(), claims=claims,
        conditions=dict.fromkeys(condition for outcome in outcomes for condition in outcome.run.conditions),
        verdicts=Counter(claim["kind"] for claim in claims or ()),
        places={key: [runs[id(outcome)] for outcome in own] for key, own in _places(outcomes).items()},
        sources={outcome.task.title: outcome.evidence.source for outcome in by_task.values()},
        generated=[o.task.title for o in by_task.values() if o.source == GENERATED],
        notes=[note for outcome in by_task.values() if (note := outcome.task.note(outcome.evidence.source))],
    )  # fmt: skip
    records.write_text(paths.REPORT, page)
