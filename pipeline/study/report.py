"""What the study leaves behind: tables, verdicts, pictures, and the tables of ``docs/study.md`` as Markdown."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import paths, records
from pipeline.evaluation.report import Picture, render
from pipeline.evaluation.tables import write_frame
from pipeline.study import claims, data, figures, runs, summary
from pipeline.study.plan import CELLS, EVERY, REGIMES, SAME_RATE, TASKS, Study, Task

DOCUMENT = Path("docs/study.md")
IMAGES = Path("docs/images")
START, END = "<!-- results:start -->", "<!-- results:end -->"
PUBLISHED = ("claims.csv", "study.html")
ROUND_OFF = 1e-4
"""Effects smaller than this [%, points] are printed as 0."""
AXES = tuple(summary.SETTING)
PAPER_CLASSIFIER = (2048, 256, 11, 7)
"""I, J, K, T of the paper's classifier (it tried several J)."""


def rows_file(profile: str, step: str) -> Path:
    """Return where the rows of a step (``map`` or ``final``) lie."""
    return data.ROOT / profile / f"{step}.parquet"


def results(profile: str) -> Path:
    """Return the folder of a profile's results."""
    return data.ROOT / profile / "results"


def regimes(profile: str) -> pd.DataFrame:
    """Read a profile's table of settings and conditions.

    Raises:
        FileNotFoundError: there are no results.
    """
    source = results(profile) / "regimes.csv"
    if not source.is_file():
        raise FileNotFoundError(f"expected results of the study at {source}, found none; run `make study` first")
    return pd.read_csv(source, keep_default_na=False, na_values=[""])


def evidence(source: dict[str, Any]) -> dict[str, str]:
    """Return per task what its data are, in words."""
    fx, clips = source["fx"]["source"], source["clips"]["source"]
    return {
        "fx": {
            "paper": "the paper's series, a part of its days",
            "synthetic": "a SYNTHETIC series, which says nothing about the paper's",
        }[fx],
        "clips": {
            "vectors": "pseudo-clips of Inception vectors of still images, not UCF-11",
            "videos of the main pipeline": "videos of the main pipeline",
            "generated": "GENERATED vectors, which say nothing about the paper's",
        }[clips],
    }


def write(study: Study, profile: str) -> None:
    """Write tables, verdicts and pictures of a profile from its rows.

    Raises:
        FileNotFoundError: rows are missing.
        ValueError: a file is damaged.
    """
    rows = pd.concat([runs.frame(rows_file(profile, step)) for step in ("map", "final")], ignore_index=True)
    finals = rows[rows.purpose != "map"]
    source = records.read_json(data.folder(profile) / "source.json")
    theory = summary.theory(finals, study)
    tables = {
        "regimes": summary.regimes(rows, study),
        "comparisons": summary.comparisons(finals, study, REGIMES),
        "theory": theory,
        "agreement": summary.agreement(theory),
        "variants": summary.variants(finals, study),
        "claims": claims.judge(finals, study, evidence(source), PAPER_CLASSIFIER),
    }
    folder = results(profile)
    for name, table in tables.items():
        write_frame(table, folder / f"{name}.csv")
    figures.draw(tables, study, folder)
    records.write_text(folder / "study.md", markdown(tables, study, source))
    records.write_text(folder / "study.html", page(tables["claims"], study, source, sorted(folder.glob("study_*.png"))))
    count = tables["claims"].verdict.str.replace(r" only if .*", " only if …", regex=True).value_counts()
    print("study: " + ", ".join(f"{n} {name}" for name, n in count.items()))


def page(judged: pd.DataFrame, study: Study, source: dict[str, Any], pictures: list[Path]) -> str:
    """Return the verdicts and pictures as one self-contained HTML page.

    Args:
        judged: a row for each claim.
        study: the study's settings.
        source: where its data came from.
        pictures: PNG files.
    """
    rows = []
    for claim in judged.to_dict("records"):
        interval = f" [{claim['ci_low']}, {claim['ci_high']}]" if claim["ci_low"] else ""
        tone = {claims.REPRODUCED: "better", claims.CONTRADICTED: "worse"}.get(claim["verdict"], "")
        rows.append({**claim, "ours": claim["ours"] + interval, "tone": tone})
    return render(
        "study.html.j2",
        claims=rows,
        evidence={figures.TITLES[task]: words for task, words in evidence(source).items()},
        figures=[Picture.of(file) for file in pictures],
        repetitions=study.final_repetitions,
    )


def table(frame: pd.DataFrame) -> str:
    """Return a frame of text as a Markdown table."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    lines += ["| " + " | ".join(str(value).replace("|", "\\|") for value in row) + " |" for row in frame.to_numpy()]
    return "\n".join(lines)


def _is(value: Any) -> bool:  # noqa: ANN401 - a number or nothing
    return value is not None and bool(np.isfinite(value))


def _effect(row: pd.Series, name: str = "effect", low: str = "low", high: str = "high", p: str = "p_holm") -> str:
    """Return an effect with its interval, bold where its p-value is under 0.05."""
    if not _is(row.get(name)):
        return "–"
    mean, *ends = (0.0 if abs(row[each]) < ROUND_OFF else row[each] for each in (name, low, high))
    text = f"{mean:+.3g}"
    text = f"**{text}**" if _is(row.get(p)) and row[p] < claims.LEVEL else text
    return text + (f" [{ends[0]:.3g}, {ends[1]:.3g}]" if _is(row.get(low)) else "")


def _setting(row: pd.Series) -> str:
    noise = "" if row.condition == "none" else f", σ {row.sigma:g}" + (f"/e^{row.decay:g}" if row.decay else "")
    return f"{row.optimiser} {row.rate:g}{noise}"


def compared(tables: dict[str, pd.DataFrame], task: Task, split: str, regime: str, cell: str) -> str:
    """Return the Markdown table of one context: every condition at its chosen setting."""
    regimes, found = tables["regimes"], tables["comparisons"]
    mine = regimes[
        (regimes.purpose == regime) & (regimes.task == task) & (regimes.split == split) & (regimes.cell == cell)
    ]
    gains = found[
        (found.regime == regime) & (found.task == task) & (found.split == split) & (found.cell == cell)
    ].set_index(["condition", "reference", "measure"])
    lines = []
    for _, row in mine.sort_values("condition", key=lambda names: names.map(EVERY.index)).iterrows():

        def gain(reference: str, measure: str, name: str = row.condition) -> str:
            key = (name, reference, measure)
            return _effect(gains.loc[key]) if key in gains.index else ""

        kind, _, rest = row.condition.partition("-")
        others = {other: f"{other}-{rest}" for other in ("blind", "matched", "expected-nem")} if kind == "nem" else {}
        line = {"condition": f"`{row.condition}`", "chosen": _setting(row), "test loss": f"{row.test_loss:.4g}"}
        if task == "clips":
            line |= {"accuracy %": f"{100 * row.test_accuracy:.1f}", "ECE %": f"{100 * row.calibration_error:.1f}"}
        line["vs none, %"] = gain("none", "error")
        if regime == "tuned":
            line["vs none at its rate, %"] = gain(f"none, {SAME_RATE}", "error")
        if task == "clips":
            line["accuracy vs none, points"] = gain("none", "accuracy")
        line["speed-up, %"] = gain("none", "speed")
        for what, other in (("blind", "blind"), ("matched", "matched"), ("expected", "expected-nem")):
            line[f"vs {what}, %"] = gain(others[other], "error") if other in others else ""
        lines.append(line)
    return table(pd.DataFrame(lines))


def markdown(tables: dict[str, pd.DataFrame], study: Study, source: dict[str, Any]) -> str:
    """Return the results as Markdown: the part of ``docs/study.md`` that is generated."""
    words, fx, clips = evidence(source), source["fx"], source["clips"]
    out = ["### Data", ""]
    for task, name in (("fx", "Exchange rate"), ("clips", "Clips")):
        sizes = "; ".join(
            f"{split}: {n['train']} training, {n['validation']} validation, {n['test']} test sequences"
            for split, n in source[task]["sequences"].items()
        )
        out.append(f"- {name}: {words[task]}. {sizes}.")
    out.append(f"- Yesterday's price has a mean squared error of {fx['persistence']:.4g} on these test days.")
    out.append(f"- Classes: {clips['classes']}.")
    out += ["", "### Verdicts", ""]
    out += ["Where each is for, against or open, and on what data: `condition_of_verdict` in `claims.csv`.", ""]
    shown = tables["claims"].copy()
    shown["contexts"] = [_contexts(text) for text in shown.condition_of_verdict]
    shown["ours"] = [
        ours + (f" [{low}, {high}]" if low else "")
        for ours, low, high in zip(shown.ours, shown.ci_low, shown.ci_high, strict=True)
    ]
    out += [table(shown[["claim", "source", "paper", "ours", "verdict", "contexts"]]), ""]
    for task in TASKS:
        splits = list(source[task]["sequences"])
        for split in splits:
            for regime in REGIMES:
                for cell in CELLS:
                    where = f", {split} split" if len(splits) > 1 else ""
                    out += [f"### {figures.TITLES[task]}{where}, {regime}, {cell.upper()}", ""]
                    out += [compared(tables, task, split, regime, cell), ""]
    out += [
        "### Theory",
        "",
        f"Over all rates, σ and cells of the fixed grid (σ constant, {study.check_repetitions} repetitions).",
        "",
    ]
    agree = tables["agreement"].map(lambda v: f"{v:.3g}" if isinstance(v, float) else str(v))
    out += [table(agree), "", _theory(tables["theory"]), "", "### Variants", "", _variants(tables["variants"]), ""]
    return "\n".join(out)


def _contexts(text: str) -> str:
    """Return how many contexts are for, against and open, from what ``claims.csv`` says."""
    counts = re.findall(r"(for|against|open) in (\d+) of \d+", text)
    return ", ".join(f"{count} {what}" for what, count in counts) or text


def _theory(frame: pd.DataFrame) -> str:
    names = ["nem", "expected", "remainder", "matched", "rescaled", "nem_rescaled"]
    lines = []
    for _, row in frame.iterrows():
        line = {"task": row.task, "cell": row.cell, "rate": f"{row.rate:g}", "σ": f"{row.sigma:g}", "noise": row.noise}
        line |= {n: _effect(row, n, f"{n}_low", f"{n}_high", f"{n}_p") if n in row else "–" for n in names}
        lines.append(line)
    return table(pd.DataFrame(lines))


def _variants(frame: pd.DataFrame) -> str:
    lines = []
    for _, row in frame.iterrows():
        line = {"task": row.task, "cell": row.cell, "variant": row.variant, "condition": f"`{row.condition}`"}
        for what in ("none", "base"):
            line[f"vs {what}, %"] = _effect(row, f"vs_{what}", f"vs_{what}_low", f"vs_{what}_high", f"vs_{what}_p")
        line["acceptance in gates"] = f"{row.acceptance_hidden:.3g}" if _is(row.acceptance_hidden) else "–"
        lines.append(line)
    return table(pd.DataFrame(lines))


def publish(profile: str) -> None:
    """Copy a profile's verdicts and page to where the results of the main pipeline lie."""
    for name in PUBLISHED:
        records.write_bytes(paths.RESULTS / name, (results(profile) / name).read_bytes())


def document(profile: str) -> None:
    """Put a profile's results between the marks of ``docs/study.md``, and its pictures into ``docs/images``.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: the document has no marks.
    """
    source = results(profile) / "study.md"
    if not source.is_file():
        raise FileNotFoundError(f"expected results at {source}, found none; run `make study` first")
    text = DOCUMENT.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise ValueError(f"expected {START} and {END} in {DOCUMENT}, found no such marks; put them back")
    before, after = text.split(START)[0], text.split(END)[1]
    records.write_text(DOCUMENT, f"{before}{START}\n{source.read_text(encoding='utf-8')}\n{END}{after}")
    for picture in sorted(results(profile).glob("study_*.png")):
        IMAGES.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, IMAGES / picture.name)
