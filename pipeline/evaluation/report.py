"""One self-contained HTML page: what was run, what came out, how it compares with the paper and with doing nothing."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pipeline import paths, records
from pipeline.evaluation import paper, tables
from pipeline.evaluation.metrics import Outcome
from pipeline.params import Params

CAPTIONS = {
    "figure_1a": "Figure 1(a): additive NEM noise in softmax outputs and its hyperplane",
    "figure_1b": "Figure 1(b): additive noise in the outputs, LSTM classifier",
    "figure_4": "Figure 4: multiplicative NEM noise in softmax outputs",
    "figure_5": "Figure 5: additive NEM noise in identity outputs and its sphere",
    "figure_6": "Figure 6: multiplicative NEM noise in identity outputs and its ellipsoid",
    "figure_7": "Figure 7: the sampled frames of a diving clip",
    "figure_9": "Figure 9: test accuracy of LSTM classifiers, additive noise",
    "figure_9_gru": "Figure 9's twin for GRU classifiers",
    "figure_9_multiplicative": "Figure 9's twin for multiplicative noise",
    "figure_9_gru_multiplicative": "Figure 9's twin for GRU classifiers and multiplicative noise",
    "figure_1b_gru": "Figure 1(b)'s twin for GRU classifiers",
    "study_map_clips": "Classifiers on clips: where NEM noise lowers the test loss, and by how much",
    "study_map_fx": "Exchange rate: where NEM noise lowers the test loss, and by how much",
    "study_against_noiseless": "Every condition at its chosen setting against the noiseless network at its own",
    "study_theory": "What NEM noise did against what its closed-form mean predicts",
    "leakage_gap": "Accuracy on the random split of clips, and where whole groups (or images) are on one side",
    "figure_10": "Figure 10: the series, training and test days",
    "figure_11": "Figure 11: LSTM predictions and their errors on the test days",
    "figure_12": "Figure 12: LSTM regressors, additive noise",
    "figure_13": "Figure 13: LSTM regressors, multiplicative noise",
    "figure_14": "Figure 14: GRU regressors, additive noise",
    "figure_14_multiplicative": "Figure 14's twin: GRU regressors, multiplicative noise",
}
SPEED_UP_NOTE = (
    "100 (R - r)/R, where r is the first epoch at which the test loss reaches the noiseless run's loss at R. A loss "
    "that fluctuates gets there early by chance: the noiseless row, 0 by the paper's reading, shows how much that is."
)
TITLES = {"fx": "Exchange rate", "video": "Video, random split of clips", "video_groups": "Video, group-disjoint split"}
PSEUDO_TITLES = {
    "video": "Pseudo-clips of image vectors, random split of clips",
    "video_groups": "Pseudo-clips of image vectors, image-disjoint split",
}


def title(task: str, *, vectors: bool) -> str:
    """Return a task's name in words.

    Args:
        task: the task.
        vectors: whether its clips are pseudo-clips of images.
    """
    return (PSEUDO_TITLES if vectors else {}).get(task, TITLES[task])


@dataclass(frozen=True)
class Picture:
    """A figure, inlined."""

    caption: str
    data: str

    @classmethod
    def of(cls, file: Path) -> Picture:
        """Read a PNG file."""
        stem = file.stem.removeprefix("groups_")
        caption = CAPTIONS.get(stem, stem.replace("_", " ").capitalize())
        if stem != file.stem:
            caption += " (group-disjoint split)"
        return cls(caption, base64.b64encode(file.read_bytes()).decode())


def _short(value: float | None, scale: float = 1.0, digits: int = 4) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value * scale:.{digits}g}"


def _table(table: paper.Table, outcome: Outcome) -> dict[str, Any]:
    what = {
        "accuracy": "test accuracy [%]",
        "squared_error": "mean squared test error [rupees²]",
        "speed_up": "training speed-up, median [%]",
    }[table.quantity]
    rows = []
    for label, kind in tables.ROWS:
        cells = []
        for column in paper.COLUMNS:
            found = tables.entry(table, outcome, "none" if kind == "none" else f"{kind}-{column}")
            cells.append(
                {
                    "value": _rounded(found[""]),
                    "low": _rounded(found["_ci_low"]),
                    "high": _rounded(found["_ci_high"]),
                    "paper": found["_paper"],
                }
            )
        rows.append({"label": label, "cells": cells})
    note = SPEED_UP_NOTE if table.quantity == "speed_up" else ""
    return {"title": f"Table {table.number}: {table.cell.upper()}, {what}", "rows": rows, "note": note}


def _rounded(text: str) -> str:
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def verdict(outcome: Outcome) -> str:
    """Say in one paragraph what the numbers show, whatever they show."""
    run, fx = outcome.run, outcome.run.task == "fx"
    name, scale = ("test squared error", 1.0) if fx else ("test accuracy", 100.0)
    part = outcome.differences[outcome.differences.metric == outcome.metric]
    sign = -1 if fx else 1
    nem, blind = (part[part.condition.str.startswith(f"{kind}-")] for kind in ("nem", "blind"))

    def count(rows: Any, better: bool) -> int:  # noqa: ANN401 - a pandas frame
        gain = rows.difference.to_numpy(float) * sign
        sure = rows.p_holm.to_numpy(float) < 0.05
        return int(((gain > 0 if better else gain < 0) & sure).sum())

    base = outcome.summary["none"][outcome.metric]["mean"]
    text = (
        f"{run.cell.upper()}: noiseless {name} {_short(base, scale)}. Of {len(nem)} NEM conditions {count(nem, True)} "
        f"are significantly better and {count(nem, False)} significantly worse than no noise (Holm-adjusted p < 0.05); "
        f"of {len(blind)} blind conditions {count(blind, True)} and {count(blind, False)}."
    )
    if fx and base is not None:
        best = min(
            (each[outcome.metric]["mean"], c)
            for c, each in outcome.summary.items()
            if each[outcome.metric]["mean"] is not None
        )
        reference = outcome.references["persistence"]
        text += (
            f" Yesterday's price has {_short(reference)}: the best condition ({best[1]}, {_short(best[0])}) is "
            f"{'better' if best[0] < reference else f'{best[0] / reference:.1f} times worse'}."  # type: ignore[operator]
        )
    return text


def _extras(outcome: Outcome) -> list[tuple[str, str, float]]:
    """Return metric, heading and scale of the columns that stand beside a task's headline metric."""
    every = [
        ("skill_persistence", "skill vs yesterday's price", 1.0),
        ("test_cross_entropy", "test cross entropy [nats]", 1.0),
        ("calibration_error", "calibration error [%]", 100.0),
        ("leakage_gap", "leakage gap [points]", 100.0),
    ]
    return [each for each in every if each[0] in outcome.summary["none"]]


def _section(outcome: Outcome, figures: list[Path], vectors: bool) -> dict[str, Any]:
    run, fx = outcome.run, outcome.run.task == "fx"
    scale = 1.0 if fx else 100.0
    part = outcome.differences[outcome.differences.metric == outcome.metric].set_index("condition")
    conditions = []
    for name in run.conditions:
        summary = outcome.summary[name]
        row = {
            "name": name,
            "value": _short(summary[outcome.metric]["mean"], scale),
            "failed": f"{run.failed(name)}/{run.repetitions}",
            "extras": [
                _short(summary.get(metric, {}).get("mean"), factor, 3) for metric, _, factor in _extras(outcome)
            ],
            "acceptance": " / ".join(
                _short(summary.get(f"acceptance_{place}", {}).get("mean"), digits=3) for place in ("output", "hidden")
            ),
            "difference": "",
            "interval": "",
            "p": "",
            "tone": "",
        }
        if name in part.index:
            d = part.loc[name]
            gap = None if d.difference is None or not np.isfinite(d.difference) else float(d.difference)
            row["difference"] = "–" if gap is None else f"{gap * scale:+.3g}"
            row["interval"] = f"[{_short(d.ci_low, scale, 3)}, {_short(d.ci_high, scale, 3)}]"
            row["p"] = _short(d.p_holm, digits=2)
            if gap is not None and d.p_holm is not None and d.p_holm < 0.05:
                row["tone"] = "better" if (gap < 0) == fx else "worse"
        conditions.append(row)
    return {
        "title": f"{title(run.task, vectors=vectors)}: {run.cell.upper()}",
        "verdict": verdict(outcome),
        "metric": "test squared error [rupees²]" if fx else "test accuracy [%]",
        "extras": [heading for _, heading, _ in _extras(outcome)],
        "tables": [_table(table, outcome) for table in paper.tables_of(run.task, run.cell)],
        "conditions": conditions,
        "references": {name.replace("_", " "): _short(value, scale) for name, value in outcome.references.items()},
        "figures": [Picture.of(file) for file in figures],
    }


def _words(value: Any) -> str:  # noqa: ANN401 - a value of a source's record
    """Return a value of a source's record as text: ``diving (4 clips, 2 groups), …`` where it is nested."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(
        f"{name} ({', '.join(f'{count} {what}' for what, count in each.items())})"
        if isinstance(each, dict)
        else f"{name} {each}"
        for name, each in value.items()
    )


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever the template shows
    """Return one of this package's pages; a value that its template names and nobody gives is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**values)


def write(
    outcomes: list[Outcome], params: Params, figures: dict[tuple[str, str], list[Path]], extra: list[Path]
) -> None:
    """Write ``report.html``.

    Args:
        outcomes: the runs.
        params: the project's parameters.
        figures: per (task, cell), its figures.
        extra: figures that belong to no run.
    """
    sources = {name: records.read_json(paths.source_record(name)) for name in params.sources}
    vectors = any(source["source"] == "vectors" for source in sources.values())
    about = {
        name: {key.replace("_", " "): _words(value) for key, value in each.items()} for name, each in sources.items()
    }
    page = render(
        "report.html.j2",
        profile=params.profile,
        seed=params.seed,
        confidence=f"{100 * params.evaluate.confidence:g}",
        outcomes=outcomes,
        sources=about,
        demo=any(source.get("source") == "synthetic" for source in sources.values()),
        pseudo=vectors,
        sections=[_section(each, figures.get((each.run.task, each.run.cell), []), vectors) for each in outcomes],
        extra=[Picture.of(file) for file in extra],
    )
    records.write_text(paths.REPORT, page)
