"""Summaries of runs: every condition, every metric, with intervals, paired differences and naive baselines."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.compute as pc

from pipeline.evaluation.statistics import Bootstrap, Floats, Interval, holm, sign_flip_p_value, speed_up
from pipeline.evaluation.task import VALUES, Evidence, Outcome, Summary, Task
from pipeline.training.results import TrainedRun


def calibration_error(probabilities: Floats, labels: npt.NDArray[np.int64], bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017): Σ |accuracy - confidence| weighted by bin of confidence.

    Probabilities are ``(N, K)``, labels the ``(N,)`` true classes, bins equally wide.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    of_bin = [which == b for b in np.unique(which)]
    return float(sum(abs(correct[own].mean() - confidence[own].mean()) * own.mean() for own in of_bin))


def predicted(run: TrainedRun, condition: str) -> dict[int, Floats]:
    """Return a condition's predictions at R, ``(N, K)`` probabilities or ``(N,)`` values, by repetition that lasted.

    Test sequences are in the order of their names, values in the unit of the data.
    """
    table = run.predictions.filter(pc.equal(run.predictions["condition"], condition)).combine_chunks()
    repetition, row = (table[name].to_numpy() for name in ("repetition", "row"))
    data = np.array(table[table.column_names[-1]].to_pylist(), np.float64)
    order = np.argsort(row, kind="stable")
    return {int(r): data[order[repetition[order] == r]] for r in np.unique(repetition)}


def best_condition(run: TrainedRun) -> str | None:
    """Return the condition with the lowest mean clean *test* loss at R; ``None`` where all networks failed.

    It is the best on the test sequences, and no estimate of what it would reach on others.
    """
    losses = {condition: run.final(condition, "test_loss") for condition in run.conditions}
    alive = {condition: float(np.nanmean(loss)) for condition, loss in losses.items() if np.isfinite(loss).any()}
    return min(alive, key=lambda condition: alive[condition], default=None)


def constant_reference(evidence: Evidence) -> dict[str, float]:
    """Return the headline metric of the best constant answer: most frequent class, mean, or share of each label."""
    data = evidence.dataset
    if data.head == "logistic":
        shares = (data.train.targets.double().sum(0) + 1) / (len(data.train) + 2)  # Laplace's: none is 0 or 1
        truth = data.test.targets.double()
        logs = truth * shares.log() + (1 - truth) * (-shares).log1p()
        return {"base_rates": float(-logs.sum(1).mean())}
    if data.head == "softmax":
        most = int(data.train.targets.sum(0).argmax())
        return {"majority": float((evidence.test_classes == most).mean())}
    train, test = (part.targets.double().numpy() * data.target_scale for part in (data.train, data.test))
    return {"mean": float(((test - train.mean(0)) ** 2).sum(1).mean())}


def summarise(task: Task, evidence: Evidence, run: TrainedRun, references: dict[str, float],
              bootstrap: Bootstrap) -> Outcome:  # fmt: skip
    """Return a run's statistics, beside the headline metric of naive baselines (``references``)."""
    values = {condition: _values(task, evidence, run, condition, references) for condition in run.conditions}
    noiseless = run.curve("none", "test_loss")
    summary: Summary = {}
    for condition in run.conditions:
        speed = speed_up(run.curve(condition, "test_loss"), noiseless, run.epochs, run.max_epochs)
        summary[condition] = {
            **{name: bootstrap.mean(value).as_dict() for name, value in values[condition].items()},
            "speed_up_percent": speed.summary(bootstrap),
            "failed": Interval(float(run.failed(condition)), None, None, run.repetitions).as_dict(),
        }
    metrics = tuple(dict.fromkeys((task.measure.name, task.loss)))
    return Outcome(task, evidence, run, references, values, summary, _differences(values, metrics, bootstrap))


def _values(task: Task, evidence: Evidence, run: TrainedRun, condition: str,
            references: dict[str, float]) -> dict[str, Floats]:  # fmt: skip
    """Return a condition's metrics, one value per repetition."""
    values = {name: run.final(condition, column) for name, column in VALUES[task.head].items()}
    if task.rival is not None and task.measure.name == task.loss:
        values[f"skill_{task.rival}"] = 1.0 - values[task.loss] / references[task.rival]
    if task.head == "softmax":
        truth, probabilities = evidence.test_classes, predicted(run, condition)
        values["calibration_error"] = np.array([calibration_error(p, truth) for p in probabilities.values()])
    shares = {f"acceptance_{place}": run.final(condition, f"acceptance_{place}") for place in ("output", "hidden")}
    return values | {name: share for name, share in shares.items() if np.isfinite(share).any()}


def _differences(values: dict[str, dict[str, Floats]], metrics: tuple[str, ...], bootstrap: Bootstrap) -> pd.DataFrame:
    """Return paired differences to the noiseless condition; p-values are adjusted within a metric."""
    frames = []
    for metric in metrics:
        gaps = {name: own[metric] - values["none"][metric] for name, own in values.items() if name != "none"}
        p_values = [sign_flip_p_value(gap[np.isfinite(gap)]) for gap in gaps.values()]
        intervals = ((name, metric, *bootstrap.mean(gap).as_dict().values()) for name, gap in gaps.items())
        frame = pd.DataFrame(intervals, columns=["condition", "metric", "difference", "ci_low", "ci_high", "n"])
        frames.append(frame.assign(p_value=p_values, p_holm=holm(p_values)))
    return pd.concat(frames)
