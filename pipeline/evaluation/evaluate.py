"""The evaluation of everything that was trained."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.common import paths, records, sequences
from pipeline.evaluation import geometry, metrics, report, summary, tables
from pipeline.evaluation.statistics import Bootstrap
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import Evidence, Outcome, Task
from pipeline.training import results
from pipeline.training.results import TrainedRun


def evaluate(tasks: Sequence[Task], cells: Sequence[str], bootstrap: Bootstrap, profile: str) -> None:
    """Write metrics, tables, figures and the report of all tasks and cells.

    The bootstrap's seed also draws the noise of the geometric figures; the profile is for the report. A
    ``FileNotFoundError`` says that a run or a data file is missing, a ``ValueError`` that one of them is damaged, or a
    run was trained on other data than are there now.
    """
    outcomes: list[Outcome] = []
    further: list[Picture] = []
    for task in tasks:
        own: list[Outcome] = []
        for evidence in gather(task):
            naive = (task.references or metrics.constant_reference)(evidence)
            seen = task.of(evidence.dataset.head, str(evidence.source.get("title", "")))
            own += [metrics.summarise(seen, evidence, load(task, c, evidence), naive, bootstrap) for c in cells]
        further += task.conclude(own, bootstrap)
        outcomes += own
    tables.write(outcomes)
    content: dict[str, Any] = {"baselines": {outcome.name: outcome.references for outcome in outcomes}}
    for outcome in outcomes:
        content.setdefault(outcome.name, {})[outcome.run.cell] = outcome.summary
    records.write_json(paths.METRICS, content)
    records.write_json(paths.SUMMARY, summary.build(outcomes))
    report.write(outcomes, further, geometry.draw_geometry(paths.FIGURES, bootstrap.seed), bootstrap, profile)
    print(f"evaluate: {len(outcomes)} run(s); see {paths.REPORT}")
    print(summary.generated({outcome.task.name: outcome.source for outcome in outcomes}), end="")
    for outcome in outcomes:
        print(f"  {outcome.title}. {report.verdict(outcome)}")


def gather(task: Task) -> Iterator[Evidence]:
    """Read the data of every split of a task; a file that is missing or damaged is an error."""
    folder, record = paths.sequences(task.name), paths.source_record(task.name)
    source = records.read_json(record) if record.is_file() else {}
    for number, split in enumerate(sequences.splits(folder)):
        yield Evidence(folder, split, split if number else None, sequences.load(folder, split), source)


def load(task: Task, cell: str, evidence: Evidence) -> TrainedRun:
    """Read a run; one of other data, in whatever file, than those by which it would be judged is a ``ValueError``."""
    run = results.load(task.name, cell, evidence.further)
    trained, present = run.record["data"], evidence.dataset.digest
    others = sorted(name for name in {**trained, **present} if trained.get(name) != present.get(name))
    if others:
        found = f"found a run of other data ({', '.join(others)}); run `dvc repro train@{task.name}-{cell}`"
        name = paths.run_name(task.name, evidence.further)
        raise ValueError(f"expected {name} {cell} to be trained on {evidence.folder} as it is now, {found}")
    return run
