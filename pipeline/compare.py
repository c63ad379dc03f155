"""Noise conditions side by side on anybody's arrays, in a notebook or a script: no DVC, no files that stay.

Example::

    from pipeline.compare import compare

    compare(x, y, conditions=("none", "nem-additive-both"), repetitions=10, cell="gru", epochs=50, hidden=20)
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nem.conditions import CONDITIONS
from pipeline import tasks
from pipeline.common import jobs, sequences
from pipeline.evaluation import metrics, report
from pipeline.evaluation.statistics import Bootstrap
from pipeline.evaluation.task import VALUES, Evidence, Outcome
from pipeline.own import arrays, split
from pipeline.params import Params, validate
from pipeline.training import settings as networks
from pipeline.training import train
from pipeline.training.engine import Engine
from pipeline.training.results import TrainedRun

NAME = "own"
MEAN = {"mean": "", "ci_low": "_low", "ci_high": "_high"}  # parts of an interval → endings of a column's name


def chosen(options: dict[str, Any], **shared: Any) -> Params:  # noqa: ANN401 - any parameter
    """Return parameters of a comparison: options are some of ``own.sequences``, ``train.own`` and ``training``.

    A :class:`pipeline.sections.ParamsError` names what is unknown or out of range.
    """
    content = Params().model_dump()
    content["training"] |= {name: shared[name] for name in ("conditions", "repetitions")}
    content["seed"], content["cells"], network = shared["seed"], [shared["cell"]], content["train"][NAME]
    network |= dict.fromkeys(("epochs", "max_epochs"), shared["epochs"])
    places = (content[NAME]["sequences"], content["training"], network)
    for name, value in options.items():
        next((place for place in places if name in place), network)[name] = value
    return validate(content, "compare")


def compare(x: Any, y: Any, group: Any = None, *, conditions: Sequence[str] = CONDITIONS,  # noqa: ANN401
            repetitions: int = 10, cell: str = "lstm", epochs: int = 100, seed: int = 1, **options: Any,  # noqa: ANN401
            ) -> pd.DataFrame:  # fmt: skip
    """Train paired networks under noise conditions, and return what each does on test sequences, a row a condition.

    ``x`` is ``(N, T, I)``, or N arrays ``(T, I)`` of any lengths; ``y`` is ``(N,)`` names or numbers of classes,
    ``(N,)`` or ``(N, K)`` values, or ``(N, K)`` zeros and ones; ``group`` is ``(N,)``: no group is then on both sides.
    ``options`` are parameters by name, as in docs/parameters.md: of ``own.sequences`` (head, split, test_fraction, …),
    ``train.own`` (hidden, learning_rate, noise, …) and ``training`` (latent, device, …).

    Columns: ``metric`` that is compared, its mean over repetitions at the last epoch with a bootstrap interval
    (``low``, ``high``); ``difference`` to no noise, paired, with its interval; ``p_holm``, of an exact sign-flip test,
    adjusted over the conditions; ``verdict``; shares of draws ``accepted`` in outputs and gates; further metrics; how
    many ``repetitions`` there are and ``failed``.

    Raises:
        OwnError: arrays that are no sequences, or cannot be split; the message says what to do.
        ParamsError: an option that there is none of, or out of range.
    """
    fixed = {"conditions": list(conditions), "repetitions": repetitions, "epochs": epochs}
    params = chosen(options, seed=seed, cell=cell, **fixed)
    table = split.table(arrays.of_arrays(x, y, group), params.own.sequences, seed)
    network = networks.of(params.training.model_dump(), params.train.of(NAME, cell), cell)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sequences.write(place, table)
        device = jobs.device(params.training.device)
        work = train.Work(place, None, "joined", network, seed, NAME, tuple(range(repetitions)), device)
        outcome = _outcome(work, Bootstrap(params.evaluate.confidence, params.evaluate.bootstrap, seed))
    return _frame(outcome)


def _outcome(work: train.Work, bootstrap: Bootstrap) -> Outcome:
    """Train all repetitions in this process, and return the run with its statistics."""
    data, record, trained = train.dataset(work), train.run_record(NAME, work), []
    for numbers in train.deal(work.repetitions, len(work.settings.conditions), work.device, len(work.repetitions)):
        engine = Engine(data, work.settings, seed=work.seed, stream=NAME, repetitions=numbers, device=work.device)
        trained += engine.run()
    frames = train.tables(record, trained, data)
    curves, outcomes = (frames[name].to_pandas() for name in ("curves", "outcomes"))
    run = TrainedRun(NAME, work.settings.cell, record, curves, outcomes, frames["predictions"])
    evidence, task = Evidence(work.data, sequences.splits(work.data)[0], None, data, {}), tasks.of(NAME).of(data.head)
    return metrics.summarise(task, evidence, run, metrics.constant_reference(evidence), bootstrap)


def _frame(outcome: Outcome) -> pd.DataFrame:
    """Return an outcome as a table, a row per condition."""
    measure, judged = outcome.task.measure, report.judged(outcome).set_index("condition")
    none, limit, rows = dict.fromkeys(judged.columns), report.too_few(outcome), []
    further = [name for name in VALUES[outcome.task.head] if name != measure.name]
    further += [name for name in outcome.columns if name not in further]
    for condition, own in outcome.summary.items():
        pair = judged.loc[condition] if condition in judged.index else none
        word = pair["tone"] or ("too few repetitions" if limit else "not told apart")
        rows.append({
            "condition": condition, "metric": measure.name,
            **{name.replace("ci_", ""): own[measure.name][name] for name in MEAN},
            **{f"difference{ending}": pair["difference" if name == "mean" else name] for name, ending in MEAN.items()},
            "p_holm": pair["p_holm"], "verdict": "" if pair is none else word,
            **{f"accepted_{place}": own.get(f"acceptance_{at}", {}).get("mean")
               for at, place in (("output", "outputs"), ("hidden", "gates"))},
            **{name: own[name]["mean"] for name in further},
            "repetitions": own[measure.name]["n"], "failed": int(own["failed"]["mean"] or 0),
        })  # fmt: skip
    numbers = [name for name in rows[0] if name not in ("condition", "metric", "verdict", "repetitions", "failed")]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))
