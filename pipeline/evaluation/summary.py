"""The few numbers that compare experiments: what ``dvc metrics diff``, ``dvc exp show`` and the console print."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nem.conditions import Condition
from pipeline.evaluation.report import judged
from pipeline.evaluation.task import Outcome

Numbers = dict[str, float | int | None]


def of_run(outcome: Outcome) -> Numbers:
    """Return a run's headline without noise, its means over the blind and the NEM conditions, and its best mean.

    They are in the units of ``metrics.json``. ``better`` and ``worse`` count the NEM conditions that surely differ from
    no noise; ``speed_up_percent`` is the median of the NEM conditions' medians, ``None`` if that is censored.
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
    numbers |= {"better": tones.count("better"), "worse": tones.count("worse")}
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
            lines.append(f"{name:<14}{cell:<6}{numbers}  {own['better']} better, {own['worse']} worse")
    return "\n".join(lines)
