"""What the study leaves behind: tables, verdicts, pictures, and a page that shows them."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline.common import paths, records
from pipeline.evaluation import report
from pipeline.evaluation.statistics import LEVEL, Bootstrap
from pipeline.evaluation.tables import markdown, write_frame
from pipeline.params import Params
from pipeline.study import claims, effects, figures, grid, saturation
from pipeline.tasks import TASKS

CLAIMS, PLACE = "The paper's claims", ["task", "cell", "split", "purpose"]


def evidence(task: str) -> str:
    """Return what a task's data are, in words."""
    record = records.read_json(paths.source_record(task))
    generated = "GENERATED data, which say nothing about the paper's" if record["source"] == "synthetic" else ""
    return ". ".join(words for words in (f"source {record['source']}", generated, TASKS[task].note(record)) if words)


def sections(compared: pd.DataFrame, verdicts: pd.DataFrame, saturated: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return short tables by heading: what ``docs/study.md`` quotes, and the page but for the claims."""
    own = compared[compared.purpose.isin(grid.REGIMES) & (compared.reference == "none")]
    lines = []
    for (*place, measure), part in own.groupby([*PLACE, "measure"], sort=False):
        line = dict(zip(PLACE, place, strict=True)) | {"measure": effects.UNITS[measure]}
        for kind in ("nem", "blind"):
            sure = part[part.condition.str.startswith(kind + "-") & (part.p_holm < LEVEL)]
            line[f"{kind} better, worse of 6"] = f"{(sure.value > 0).sum()}, {(sure.value < 0).sum()}"
        best = part.loc[part[part.condition.isin(grid.NEM)].value.idxmax()]
        line["best NEM condition"] = f"{best.condition}: {best.value:+.3g} [{best.low:.3g}, {best.high:.3g}]"
        lines.append(line)
    found = {"Against the noiseless network at its own best setting": pd.DataFrame(lines)}
    fits = effects.log_ratios(compared).groupby(["task", "cell", "noise"], sort=False)
    ratios = [(*key, part.nem.corr(part["expected-nem"]), len(part)) for key, part in fits]
    heads = ["task", "cell", "noise", "correlation of log ratios", "settings"]
    found["NEM noise and its closed-form mean"] = pd.DataFrame(ratios, columns=heads)
    if len(saturated):
        text = saturated.test_accuracy.map("{:.1f}".format) + " (" + saturated.test_loss.map("{:.3f}".format) + ")"
        named = saturated.assign(text=text)
        wide = named.pivot_table("text", ["task", "model", "condition"], "training", "first", sort=False)
        few = wide[[name for name in wide if name.startswith(grid.BY_GROUPS)]]
        found["Few groups to learn from: test accuracy [%] (cross entropy)"] = few.reset_index()
        orders = wide[[saturation.ALL, *(name for name in wide if name.startswith(grid.BY_ORDER))]].dropna()
        found["Slices out of order: test accuracy [%] (cross entropy)"] = orders.reset_index()
        heads, whole = ["task", "model", "condition", *saturation.SCORES], saturated.training == saturation.ALL
        found["Clips and whole recordings, calibration [%]"] = saturated.loc[whole, heads]
    return found | {CLAIMS: verdicts[["claim", "paper", "shown", "verdict"]].rename(columns={"shown": "ours"})}


def write(rows: pd.DataFrame, params: Params, folder: Path, results: Path, first: claims.Sides) -> None:
    """Write the comparisons and pictures of all rows into a folder, verdicts and page to where results go."""
    bootstrap = Bootstrap(params.evaluate.confidence, params.evaluate.bootstrap, params.seed)
    titles = {task: TASKS[task].title for task in rows.task.unique()}
    about = {task: evidence(task) for task in titles}
    compared = effects.comparisons(rows, bootstrap)
    verdicts = claims.judge(rows, bootstrap, about, first)
    write_frame(compared, folder / "comparisons.csv")
    write_frame(verdicts, results / "claims.csv")
    intervals = (" [" + verdicts.ci_low + ", " + verdicts.ci_high + "]").where(verdicts.ci_low != "", "")
    verdicts["shown"] = verdicts.ours + intervals
    pictures = figures.draw(compared, titles, folder)
    saturated = saturation.table(saturation.of(rows), bootstrap)
    if len(saturated):
        pictures += saturation.draw(saturated, folder)
        write_frame(saturated, folder / "saturation.csv")
    parts = sections(compared, verdicts, saturated)
    told = "\n".join(f"- {titles[task]}: {words}" for task, words in about.items())
    shown = (f"![{picture.seen}]({picture.file.name})" for picture in pictures)
    text = "\n\n".join((told, *(f"### {heading}\n\n{markdown(part)}" for heading, part in parts.items()), *shown))
    records.write_text(folder / "summary.md", f"{text}\n")
    tones = {claims.SUPPORTED: "better", claims.OPPOSITE: "worse"}
    shown = verdicts.assign(tone=verdicts.verdict.map(tones).fillna(""), ours=verdicts.shown)
    page = report.render(
        "study.html.j2", claims=shown.to_dict("records"), figures=pictures,
        evidence={titles[task]: words for task, words in about.items()}, repetitions=params.study.repetitions.final,
        parts={heading: part for heading, part in parts.items() if heading != CLAIMS},
    )  # fmt: skip
    records.write_text(results / "study.html", page)
    count = Counter(re.sub(r" only if .*", " only if …", verdict) for verdict in verdicts.verdict)
    print("study: " + ", ".join(f"{n} {name}" for name, n in count.most_common()))
