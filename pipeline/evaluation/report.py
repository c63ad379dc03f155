"""One self-contained HTML page: what came out, on which data, how it compares with the paper and with doing nothing."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from nem.conditions import Condition, Mode
from nem.noise import Noise
from pipeline.common import paths, records
from pipeline.evaluation import charts, documents, figures, style, tables
from pipeline.evaluation.metrics import best_condition
from pipeline.evaluation.statistics import LEVEL, Bootstrap
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import COLUMNS, Outcome

GENERATED = "synthetic"  # the source of data that were made up
Ends = tuple[float, float]


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
    head = head if better else "No NEM condition is better than no noise"
    first = (head, [sure, ahead]) if not limits else (
        "Too few repetitions to tell NEM noise from no noise", [limits[0], ahead])  # fmt: skip
    pairs = nem.merge(blind, on=["run", "pair"], suffixes=("", "_blind"))
    won = int((pairs.gain > pairs.gain_blind).sum())
    second = ["Pairs have the same mode, place and σ; ahead means the better mean."]
    if not limits:
        ruined = int((blind.tone == "worse").sum())
        second.append(f"Significantly worse than no noise: {ruined} of {len(blind)} with blind noise, {worse} of "
                      f"{len(nem)} with NEM noise.")  # fmt: skip
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
    if not outcome.task.source or outcome.evidence.source.get("source") != outcome.task.source:
        return {}
    table = next(table for table in outcome.tables if table.quantity == quantity)
    return {condition: table.value(condition) for condition in outcome.run.conditions}


def shifts(outcome: Outcome, condition: str) -> list[str]:
    """Return the length of NEM noise's mean in outputs and in gates, at the first epoch and at R, as text.

    It is σ/√2π (``nem.theory.expected_halfspace_noise``), in units of σ; of squared errors that is its upper limit
    (``expected_ball_noise``). Of noise that is not selected it is 0.
    """
    own, texts = Condition.parse(condition), []
    for place, there in (("output", own.in_output), ("hidden", own.in_hidden)):
        if not there or own.mode is None:
            texts.append("–")
            continue
        if "nem" not in own.kind:
            texts.append("0")
            continue
        mode: Mode = own.mode
        setting = outcome.run.record["settings"]["noise"][place][mode]
        noise = Noise(own.kind, mode, setting["sigma"], setting["decay"])
        ends = [noise.at(epoch) / math.sqrt(2 * math.pi) for epoch in (0, outcome.run.epochs - 1)]
        texts.append(" → ".join(dict.fromkeys(short(end, 1, 2) for end in ends)))
    return texts


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Return what the tables of a run show of each condition."""
    measure, limit, rows = outcome.task.measure, too_few(outcome), []
    pairs = {row.condition: row for row in judged(outcome).itertuples()}
    paper, theirs = printed(outcome, measure.quantity), printed(outcome, "speed_up")
    speed_table = next(table for table in outcome.tables if table.quantity == "speed_up")
    bounds = {c: _ends(summary["speed_up_percent"]) for c, summary in outcome.summary.items()}
    for condition, summary in outcome.summary.items():
        pair, speed, word = pairs.get(condition), "", ""
        if pair is not None:
            word = pair.tone or ("too few" if limit else "not told apart")
            gap = (paper.get(condition) or np.nan) - (paper.get("none") or np.nan)
            word += "" if math.isnan(gap) else f"; paper: {'better' if gap * measure.gain > 0 else 'worse'}"
            (low, high), (least, most) = bounds[condition], bounds["none"]
            speed = "sooner" if low > most else "later" if high < least else "not told apart"
            speed = "too few" if limit else speed
        rows.append({
            "condition": condition, "words": style.words(condition), "kind": Condition.parse(condition).kind,
            "own": summary[measure.name], "pair": pair, "verdict": word, "paper": paper.get(condition),
            "accepted": [summary.get(f"acceptance_{p}", {}).get("mean") for p in ("output", "hidden")],
            "shift": shifts(outcome, condition), "speed": tables.entry(speed_table, outcome, condition),
            "speed_paper": theirs.get(condition), "speed_verdict": speed, "failed": int(summary["failed"]["mean"] or 0),
            "more": [(summary.get(name, {}).get("mean"), scale) for name, (_, scale) in outcome.columns.items()],
        })  # fmt: skip
    return rows


def _ends(speed: Mapping[str, Any]) -> Ends:
    """Return the ends of a speed-up's interval: -inf where censored, everything where there is none."""
    if speed["n"] < 2:
        return -math.inf, math.inf
    low, high = (speed[f"median_ci_{end}"] for end in ("low", "high"))
    return -math.inf if low is None else low, -math.inf if high is None else high


def _run(outcome: Outcome, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return what the page shows of one run."""
    measure, alive = outcome.task.measure, judged(outcome).dropna(subset=["gain"])
    means = [summary[measure.name]["mean"] or 0.0 for summary in outcome.summary.values()]
    paper = printed(outcome, measure.quantity)
    first, second = (next((t for t in outcome.tables if t.quantity == q), None) for q in (measure.quantity, "speed_up"))
    wanted = {measure.curve: outcome.label}
    if measure.name != outcome.task.loss:
        wanted["test_loss"] = COLUMNS[outcome.task.loss][0]
    nem = alive[alive.condition.str.startswith("nem-")]
    best = nem.condition.iloc[int(nem.gain.argmax())] if len(nem) else "none"
    return {
        "outcome": outcome, "id": f"{outcome.name}-{outcome.run.cell}", "verdict": verdict(outcome),
        "tables": (first, second), "rows": _rows(outcome), "limit": too_few(outcome),
        "paper": bool(paper), "printed": max((len(f"{v:g}".partition(".")[2]) for v in paper.values() if v), default=0),
        "forest": charts.forest(outcome, paper), "figures": figures.draw(outcome),
        "curves": [charts.curves(outcome, bootstrap, metric, label) for metric, label in wanted.items()],
        "legend": charts.legend(outcome.run.conditions),
        "decimals": decimals(mean * measure.scale for mean in means),
        "shown": {"none", best, best.replace("nem-", "blind-")},
    }  # fmt: skip


def _leaks(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return, for each run with a leakage gap, that gap beside both splits' accuracies, and the baselines' ones."""
    found = []
    for honest in outcomes:
        if "leakage_gap" not in honest.summary["none"]:
            continue
        other = (o for o in outcomes if o.task is honest.task and o.run.cell == honest.run.cell and o is not honest)
        leaky = next(other)
        name, rows = honest.task.measure.name, []
        for condition, summary in honest.summary.items():
            means = [o.summary[condition][name]["mean"] for o in (leaky, honest)]
            rows.append((style.words(condition), *means, summary["leakage_gap"]))
        for model, value in leaky.references.items():
            gap = {"mean": value - honest.references[model], "ci_low": None, "ci_high": None}
            rows.append((honest.task.called(model), value, honest.references[model], gap))
        found.append({"leaky": leaky, "honest": honest, "rows": rows})
    return found


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """Return a page of one of this package's templates; a value that it names and nobody gives is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=jinja2.select_autoescape(["j2"]), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"short": lambda *shown: short(*shown).replace("-", "−"), "number": tables.number}
    environment.filters |= {"condition": style.words, "fixed": fixed}
    environment.globals |= {"kind": lambda name: Condition.parse(name).kind, "category": documents.category}
    return environment.get_template(template).render(**values)


def write(outcomes: Sequence[Outcome], further: Sequence[Picture], geometry: Sequence[Picture], bootstrap: Bootstrap,
          profile: str) -> None:  # fmt: skip
    """Draw every run's pictures and write ``report.html`` with them, and with those that belong to no run."""
    by_task = {outcome.task.name: outcome for outcome in outcomes}
    runs = {id(outcome): _run(outcome, bootstrap) for outcome in outcomes}
    claims = documents.claims()
    page = render(
        "report.html.j2", profile=profile, bootstrap=bootstrap, findings=findings(outcomes), further=further,
        geometry=geometry, level=LEVEL, leaks=_leaks(outcomes), errata=documents.errata(), claims=claims,
        conditions=dict.fromkeys(condition for outcome in outcomes for condition in outcome.run.conditions),
        verdicts=Counter(documents.category(claim["verdict"]) for claim in claims or ()),
        places={key: [runs[id(outcome)] for outcome in own] for key, own in _places(outcomes).items()},
        sources={outcome.task.title: outcome.evidence.source for outcome in by_task.values()},
        generated=[o.task.title for o in by_task.values() if o.evidence.source.get("source") == GENERATED],
        notes=[note for outcome in by_task.values() if (note := outcome.task.note(outcome.evidence.source))],
    )  # fmt: skip
    records.write_text(paths.REPORT, page)
