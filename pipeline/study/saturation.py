"""Is a task of classes saturated? Few groups to learn from, slices out of order, a classifier that sees no order."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from nem.conditions import Condition
from pipeline.common import jobs
from pipeline.common.sequences import Dataset
from pipeline.evaluation import style
from pipeline.evaluation.statistics import Bootstrap
from pipeline.study.grid import BY_GROUPS, BY_ORDER, Entry
from pipeline.study.rows import ROWS, scores
from pipeline.tasks import TASKS
from pipeline.training import train

LOGISTIC = "logistic regression"
PENALTIES = tuple(10.0**k for k in range(-4, 3))  # C, the inverse strength of the L2 penalty
ALL = f"{BY_GROUPS}all"
SCORES = {"test_accuracy": 100, "recording_accuracy": 100, "test_loss": 1, "calibration_error": 100}
"""What the table has, and the shown number per stored one."""


def logistic(data: Dataset) -> npt.NDArray[np.float64]:
    """Return probabilities ``(N, K)`` of the test sequences by multinomial logistic regression on their mean slice.

    The mean is standardised; the penalty is the one with the least cross entropy on the validation sequences.
    """
    from sklearn.linear_model import LogisticRegression  # takes seconds to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if data.validation is None:
        raise ValueError("expected validation sequences to choose a penalty on, found none; keep some apart")
    x, held, test = data.train.means(), data.validation.means(), data.test.means()
    labels, truth = data.train.targets.argmax(1).numpy(), data.validation.targets.argmax(1).numpy()
    with jobs.one_thread():  # sums differ with the number of threads, and results must not
        models = [LogisticRegression(C=penalty, max_iter=2000) for penalty in PENALTIES]
        fits = [make_pipeline(StandardScaler(), model).fit(x, labels) for model in models]
        guesses = [_all_classes(fit, held, data.outputs) for fit in fits]
        known = [np.clip(guess[np.arange(len(truth)), truth], 1e-12, None) for guess in guesses]
        losses = [-np.log(likelihoods).mean() for likelihoods in known]
        return _all_classes(fits[int(np.argmin(losses))], test, data.outputs)


def _all_classes(model: Any, x: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float64]:  # noqa: ANN401
    """Return a model's probabilities of all classes, 0 of those that it never saw."""
    out = np.zeros((len(x), count))
    out[:, model.classes_] = model.predict_proba(x)
    return out


def baseline(entries: Sequence[Entry]) -> pa.Table:
    """Return a row for logistic regression on the data of every learning curve among the entries, and on all groups."""
    table = []
    curves = {(e.task, e.purpose, e.work.data): e.work for e in entries if e.purpose.startswith(BY_GROUPS)}
    curves |= {(task, ALL, folder): replace(work, groups=None) for (task, _, folder), work in curves.items()}
    for (task, purpose, folder), work in curves.items():
        data = train.dataset(work)
        probabilities, labels = logistic(data), data.test.targets.argmax(1).numpy()
        known = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)
        right = probabilities.argmax(1) == labels
        row: dict[str, Any] = {"test_loss": float(-np.log(known).mean()), "test_accuracy": float(right.mean())}
        row |= {"purpose": purpose, "task": task, "split": work.split, "head": data.head, "cell": LOGISTIC,
                "condition": "none", "repetition": 0, "failed": False}  # fmt: skip
        table.append({**row, **scores(probabilities, data, TASKS[task].recordings(folder))})
    return pa.Table.from_pylist(table, schema=ROWS)


def of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that this is about: few groups and shuffled slices, and the tuned networks on all groups."""
    few = rows[rows.purpose.str.startswith((BY_GROUPS, BY_ORDER))]
    whole = rows[rows.purpose == "tuned"].merge(few[["task", "split"]].drop_duplicates())
    whole = whole[whole.condition.isin(few.condition)]
    return pd.concat([few, whole.assign(purpose=ALL)], ignore_index=True)


def table(rows: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return accuracies, losses and calibration with intervals [% and nats]: a row per training, model, condition."""
    lines = []
    for (task, cell, training, condition), own in rows.groupby(["task", "cell", "purpose", "condition"], sort=False):
        line = {"task": task, "training": training, "model": cell, "condition": condition, "n": len(own)}
        for name, scale in SCORES.items():
            interval = bootstrap.mean(scale * own[name].to_numpy(float))
            line |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        lines.append(line)
    return pd.DataFrame(lines)


def draw(table: pd.DataFrame, folder: Path) -> list[style.Picture]:
    """Draw learning curves over the number of groups, of every task."""
    pictures = []
    for task, own in table[table.training.str.startswith(BY_GROUPS)].groupby("task", sort=False):
        steps = list(dict.fromkeys(own.training))
        models = [model for model in dict.fromkeys(own.model) if model != LOGISTIC]
        drawn, axes = style.figure(len(models), 2, style.WIDTH / len(models), 2.6, sharex=True, sharey="row")
        panels = itertools.product(("test_accuracy", "test_loss"), models)
        for axis, (measure, model) in zip(axes, panels, strict=True):
            for (cell, condition), line in own[own.model.isin((model, LOGISTIC))].groupby(["model", "condition"]):
                kind = Condition.parse(condition).kind
                drawing: dict[str, Any] = {"color": style.COLOURS[kind], "label": style.LABELS[kind], "linewidth": 1.0}
                if cell == LOGISTIC:
                    drawing = {"color": "#777777", "label": LOGISTIC, "linestyle": "--"}
                axis.plot([steps.index(t) for t in line.training], line[measure], marker=".", **drawing)
            axis.set_xticks(range(len(steps)), [step.removeprefix(BY_GROUPS) for step in steps])
            axis.set(title=model.upper(), xlabel="groups of each class" if measure == "test_loss" else "")
        axes[0].set_ylabel("test accuracy [%]")
        axes[len(models)].set_ylabel("test cross entropy [nats]")
        lines = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        drawn.legend(lines.values(), lines, loc="outside lower center", ncols=4)
        title = f"{TASKS[task].title}: every condition with few groups to learn from"
        ends = own[(own.condition == "none") & own.training.isin((steps[0], steps[-1]))].groupby("model").test_accuracy
        seen = "; ".join(f"{model} {' to '.join(map('{:.0f}'.format, values))}" for model, values in ends)
        told = f"{title}. Test accuracy without noise from the fewest to the most groups, in %: {seen}"
        pictures.append(style.Picture(style.save(drawn, folder / f"study_groups_{task}.png"), title, told))
    return pictures
