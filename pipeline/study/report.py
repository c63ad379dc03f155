"""What the study leaves behind: tables, verdicts, pictures, and a page that shows them."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline.common import paths, records
from pipeline.evaluation import report
from pipeline.evaluation.statistics import Bootstrap
from pipeline.evaluation.tables import write_frame
from pipeline.params import Params
from pipeline.study import claims, effects, figures
from pipeline.tasks import TASKS


def evidence(task: str) -> str:
    """Return what a task's data are, in words."""
    record = records.read_json(paths.source_record(task))
    generated = "GENERATED data, which say nothing about the paper's" if record["source"] == "synthetic" else ""
    return ". ".join(words for words in (f"source {record['source']}", generated, TASKS[task].note(record)) if words)


def write(rows: pd.DataFrame, params: Params, folder: Path, results: Path) -> None:
    """Write the comparisons and pictures of all rows into a folder, the verdicts and the page to where results go."""
    bootstrap = Bootstrap(params.evaluate.confidence, params.evaluate.bootstrap, params.seed)
    titles = {task: TASKS[task].title for task in rows.task.unique()}
    about = {task: evidence(task) for task in titles}
    compared = effects.comparisons(rows, bootstrap)
    verdicts = claims.judge(rows, bootstrap, about)
    write_frame(compared, folder / "comparisons.csv")
    write_frame(verdicts, results / "claims.csv")
    pictures = figures.draw(compared, titles, folder)
    tones = {claims.REPRODUCED: "better", claims.CONTRADICTED: "worse"}
    intervals = (" [" + verdicts.ci_low + ", " + verdicts.ci_high + "]").where(verdicts.ci_low != "", "")
    shown = verdicts.assign(tone=verdicts.verdict.map(tones).fillna(""), ours=verdicts.ours + intervals)
    page = report.render(
        "study.html.j2", claims=shown.to_dict("records"), figures=pictures,
        evidence={titles[task]: words for task, words in about.items()}, repetitions=params.study.repetitions.final,
    )  # fmt: skip
    records.write_text(results / "study.html", page)
    count = Counter(re.sub(r" only if .*", " only if …", verdict) for verdict in verdicts.verdict)
    print("study: " + ", ".join(f"{n} {name}" for name, n in count.most_common()))
