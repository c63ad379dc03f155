"""The few numbers that compare experiments: what ``dvc metrics diff``, ``dvc exp show`` and the console print."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nem.conditions import Condition
from pipeline.evaluation.report import judged, needed, too_few
from pipeline.evaluation.task import GENERATED, Outcome

Numbers = dict[str, float | int | None]


def of_run(outcome: Outcome) -> Numbers:
    """Return a run's headline without noise, its means over the blind and the NEM conditions, and its best mean.

    They are in the units of ``metrics.json``. ``better`` and ``worse`` count the NEM conditions that surely differ from
    no noise, ``None`` where no number of them could, with fewer ``repetitions`` than are ``needed``;
    ``speed_up_percent`` is the median of the NEM conditions' medians, ``None`` if that is censored.
    """
    measure, verdicts = outcome.task.measure, judged(outcome)
    means = {name: own[measure.name]["mean"] for name, own in outcome.summary.items()}
    alive = {name: value for name, value in means.items() if value is not None}
    nem = [name for name in outcome.summary if Condition.parse(name).kind == "nem"]
    tones = verdicts[verdicts.condition.isin(nem)].tone.tolist()
    speeds = [outcome.summary[name]["speed_up_percent"]["median"] for name in nem]
    middle = float(np.median([-np.inf if speed is None else speed for speed in speeds])) if speeds else -np.inf
    numbers: Numbers = {"none": means["none"]}
    for kind in ("blind", "nem"):
        own = [value for name, value in alive.items() if Condition.parse(name).kind == kind]
        numbers[kind] = float(np.mean(own)) if own else None
    numbers["best"] = measure.gain * max(measure.gain * value for value in alive.values()) if alive else None
    numbers |= {tone: None if too_few(outcome) else tones.count(tone) for tone in ("better", "worse")}
    numbers |= {"repetitions": outcome.run.repetitions, "needed": needed(max(len(outcome.run.conditions) - 1, 1))}
    return numbers | {"speed_up_percent": middle if np.isfinite(middle) else None}


def build(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Numbers]]:
    """Return what ``summary.json`` holds: task (and split) → cell → numbers."""
    content: dict[str, dict[str, Numbers]] = {}
    for outcome in outcomes:
        content.setdefault(outcome.name, {})[outcome.run.cell] = of_run(outcome)
    return content


def printed(content: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the summary as lines for a console, a run each."""
    lines = [f"{'task':<14}{'cell':<6}{'none':>10}{'blind':>10}{'NEM':>10}{'best':>10}  NEM against none"]
    for name, cells in content.items():
        for cell, own in cells.items():
            numbers = "".join(
                f"{'–' if own[k] is None else format(own[k], '.4g'):>10}" for k in ("none", "blind", "nem", "best")
            )
            few = f"too few repetitions to tell: {own['repetitions']} of {own['needed']}"
            told = few if own["better"] is None else f"{own['better']} better, {own['worse']} worse"
            lines.append(f"{name:<14}{cell:<6}{numbers}  {told}")
    return "\n".join(lines)


def generated(sources: Mapping[str, str]) -> str:
    """Return a line for a console about the tasks whose data were made up, by the sources of all; empty without any."""
    names = [name for name, source in sources.items() if source == GENERATED]
    return f"Generated data ({', '.join(names)}): they cannot show an effect of noise.\n" if names else ""
