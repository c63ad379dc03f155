"""One self-contained HTML page: what was run, what came out, how it compares with the paper and with doing nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from pipeline.common import paths, records
from pipeline.evaluation import figures, tables
from pipeline.evaluation.metrics import best_condition
from pipeline.evaluation.statistics import Bootstrap
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import Outcome

SIGNIFICANT = 0.05


def short(value: float | None, scale: float = 1.0, digits: int = 4, sign: str = "") -> str:
    """Return a shown number with so many significant digits; a dash for none."""
    return "–" if value is None or not np.isfinite(value) else f"{value * scale:{sign}.{digits}g}"


def judged(outcome: Outcome) -> pd.DataFrame:
    """Return the paired differences of the headline with their ``tone``: surely ``better``, ``worse``, or empty."""
    measure, rows = outcome.task.measure, outcome.differences
    rows = rows[rows.metric == measure.name]
    gain, sure = rows.difference.astype(float) * measure.gain, rows.p_holm.astype(float) < SIGNIFICANT
    return rows.assign(tone=np.select([sure & (gain > 0), sure & (gain < 0)], ["better", "worse"], ""))


def verdict(outcome: Outcome) -> str:
    """Say in one paragraph what the numbers show, whatever they show."""
    task, measure, rows = outcome.task, outcome.task.measure, judged(outcome)
    nem, blind = (rows[rows.condition.str.startswith(f"{kind}-")].tone.tolist() for kind in ("nem", "blind"))
    text = (
        f"Noiseless {measure.words} {short(outcome.summary['none'][measure.name]['mean'], measure.scale)}. Of "
        f"{len(nem)} NEM conditions {nem.count('better')} are significantly better and {nem.count('worse')} "
        f"significantly worse than no noise (Holm-adjusted p < {SIGNIFICANT}); of {len(blind)} blind conditions "
        f"{blind.count('better')} and {blind.count('worse')}."
    )
    best = best_condition(outcome.run)
    if task.rival is not None and measure.name == task.loss and best is not None:
        reference, lowest = outcome.references[task.rival], outcome.summary[best][measure.name]["mean"] or 0.0
        shown = "better" if lowest < reference else f"{lowest / reference:.1f} times worse"
        text += f" {task.called(task.rival).capitalize()} has {short(reference)}: the condition that is best on the "
        text += f"test data ({best}, {short(lowest)}) is {shown}."
    return text


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """Return a page of one of this package's templates; a value that it names and nobody gives is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"short": short, "number": tables.number}
    return environment.get_template(template).render(**values)


def write(outcomes: Sequence[Outcome], further: Sequence[Picture], bootstrap: Bootstrap, profile: str) -> None:
    """Draw every run's pictures and write ``report.html`` with them, and with ``further`` ones that have no run."""
    by_task = {outcome.task.name: outcome for outcome in outcomes}
    sections = [
        {
            "outcome": outcome,
            "verdict": verdict(outcome),
            "tables": [(table, tables.build(table, outcome)) for table in outcome.tables],
            "pairs": {row.condition: row for row in judged(outcome).itertuples()},
            "figures": figures.draw(outcome),
        }
        for outcome in outcomes
    ]
    page = render(
        "report.html.j2", profile=profile, bootstrap=bootstrap, sections=sections, further=further,
        sources={name: outcome.evidence.source for name, outcome in by_task.items()},
        notes=[note for outcome in by_task.values() if (note := outcome.task.note(outcome.evidence.source))],
    )  # fmt: skip
    records.write_text(paths.REPORT, page)
