"""docs/why.md, its appendix and pictures, from the committed table: all but what stands between marks is by hand."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nem.cells import GATES
from nem.conditions import Condition
from pipeline.common import records
from pipeline.evaluation import style
from pipeline.evaluation.tables import markdown
from pipeline.why import calibrate, clips, lottery, protocol, results, table
from pipeline.why.calibrate import paper
from pipeline.why.protocol import Sizes
from pipeline.why.table import EVERY, NEM, REVERSED

MARKS = re.compile(r"(<!-- ([a-z]+):start -->\n).*?(<!-- \2:end -->)", re.DOTALL)
NOTHING = "*Not run yet.*"
CLIPS = "clips.csv"  # beside the other table
POINTS = 8  # of the least letters, on a page that shows a picture 600 pixels wide


def progress(source: Path, sizes: Sizes) -> pd.DataFrame:
    """Return how many networks of each part of the protocol the table has."""
    there, lines = table.keys(rows := table.load(source)), []
    seen: set[tuple[Any, ...]] = set()
    for part in protocol.parts(source, sizes):
        asked = {key for stack in (part[1] if part else ()) if stack for *_, key in stack.networks()} - seen
        if part:
            count = f"{len(asked)}" if asked else "– (follows from earlier parts)"
            lines.append({"part": part[0], "networks": count, "trained": len(asked & there)})
        seen |= asked
    of_clips = clips.load(source.with_name(CLIPS))
    there |= table.keys(of_clips, clips.KEY)
    for name, stacks in clips.parts(source.with_name(CLIPS), sizes_of_clips(sizes)):
        asked = {tuple(key.values()) for stack in stacks for key in stack.networks()}
        lines.append({"part": f"clips, {name}", "networks": f"{len(asked)}", "trained": len(asked & there)})
    commits = ", ".join(f"`{name}`" for name in sorted({*rows.commit, *of_clips.commit})) or "–"
    failed = f"{int(rows.failed.sum() + of_clips.failed.sum())} of them failed; made by {commits}"
    trained = len(rows) + len(of_clips)
    return pd.DataFrame([*lines, {"part": f"in the tables ({failed})", "networks": "", "trained": trained}])


def sizes_of_clips(sizes: Sizes) -> clips.Sizes:
    """Return the sizes of the classifier's half."""
    return clips.QUICK if sizes == protocol.QUICK else clips.Sizes()


def finding(rows: pd.DataFrame) -> str:
    """Return what the exchange rates' rows say, in three sentences; :data:`NOTHING` with fewer than two repetitions."""
    found = results.judged(rows)
    if found.cell.nunique() < len(GATES) if len(found) else True:
        return NOTHING
    count, best = {}, []
    for sign, names in lottery.SIGNS.items():
        own = found[found.condition.isin(names)].groupby("cell", sort=False).verdict
        better, worse = (" and ".join(f"{(part == v).sum()}" for _, part in own) for v in ("supported", "opposite"))
        count[sign] = f"better than none in {better} of six places (LSTM and GRU) and worse in {worse}"
    for cell in GATES:
        own, none = found[(found.cell == cell) & found.condition.isin(REVERSED)], paper(cell, "none")
        gain = max(interval.mean for interval in own.gain)
        printed = 100 * (min(paper(cell, name) for name in NEM) / none - 1)
        best.append(f"the {cell.upper()}'s error by {results.percent(gain)} (the paper: {printed:+.0f} %)")
    words = [
        f"In {found.n.min()} paired repetitions with fresh seeds, where noiseless errors are the paper's, NEM noise as "
        f"printed is {count['as printed']}; with the inequality reversed it is {count['reversed']}.",
        f"The best reversed noise changes {' and '.join(best)}.",
    ]
    early = calibrate.predictions(results.early(rows))
    if len(early) and early[early.kind == "nem"].cell.nunique() == len(GATES):
        joint = early.drop_duplicates(["cell", "mode", "kind"]).groupby("kind").joint.sum()
        out = early[early.kind != "blind"].groupby("kind").outside.sum()
        words.append(
            "Predicted from the paper's noiseless and blind entries alone, "
            f"{out['nem']} of its {len(NEM) * len(GATES)} NEM errors lie outside of the 95 % intervals as printed and "
            f"{out['reversed-nem']} reversed; the log likelihood ratio is {joint['nem'] - joint['reversed-nem']:+.1f}, "
            "where less than 0 speaks for the reversed sign."
        )
    else:
        words.append("Whether the paper's noiseless and blind entries predict its NEM entries has not been run.")
    return " ".join(words)


def shown(name: str, source: Path, sizes: Sizes) -> str:
    """Return one table of the page as Markdown; a ValueError says that there is none of this name."""
    if name not in NAMES:
        raise ValueError(f"expected the name of a table of the page, found {name!r}; use one of {', '.join(NAMES)}")
    if name == "abstract":
        return finding(table.load(source))
    if name in results.OF_CLIPS:
        found = results.OF_CLIPS[name](clips.load(source.with_name(CLIPS)))
    else:
        found = progress(source, sizes) if name == "progress" else results.TABLES[name](table.load(source))
    return markdown(found) if len(found) else NOTHING


NAMES = ("progress", "abstract", *results.TABLES, *results.OF_CLIPS)


def write(pages: dict[Path, Path], source: Path, sizes: Sizes) -> None:
    """Put tables between the marks of pages, each into the file that it maps to, and draw pictures beside the table.

    Raises:
        ValueError: a page has marks of a table that there is none of, or the table is damaged.
    """
    for page, destination in pages.items():
        text = page.read_text(encoding="utf-8")
        filled = MARKS.sub(lambda match: f"{match[1]}{shown(match[2], source, sizes)}\n{match[3]}", text)
        records.write_text(destination, filled)
    rows = table.load(source)
    if any(len(results.confirmation(rows, cell).dropna()) >= 2 for cell in GATES):
        strips(rows, source.with_name("confirmation.png"))
        chances(rows, source.with_name("lottery.png"))


def strips(rows: pd.DataFrame, destination: Path) -> None:
    """Draw every network of the confirmation, and the paper's entries as crosses."""
    drawn, panels = style.figure(len(GATES), width=3.1, height=4.6, sharey=True)
    for cell, axes in zip(GATES, panels, strict=True):
        errors = results.confirmation(rows, cell).dropna()
        offsets = np.linspace(-0.25, 0.25, max(len(errors), 1))
        for row, name in enumerate(EVERY):
            colour = style.COLOURS[Condition.parse(name).kind]
            axes.scatter(errors[name], row + offsets, s=6, color=colour, alpha=0.5, linewidths=0)
            axes.plot([errors[name].mean()] * 2, [row - 0.35, row + 0.35], color=colour, linewidth=2)
            light = {"color": "black", "alpha": 0.35} if name in REVERSED else {"color": "black"}
            axes.plot(paper(cell, name), row, "x", markersize=6, **light)
        if len(errors):
            axes.axvline(errors.none.mean(), color="#555555", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="Test MSE [rupees²]", title=f"{cell.upper()}, {len(errors)} repetitions")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", labelsize=POINTS, labelrotation=90)
    panels[0].set_yticks(range(len(EVERY)), EVERY, fontsize=POINTS)
    panels[0].invert_yaxis()
    style.save(drawn, destination)


def chances(rows: pd.DataFrame, destination: Path) -> None:
    """Draw how probable it is that all six entries are better than none, against the tries per entry."""
    drawn, panels = style.figure(len(GATES), width=3.1, height=3.6, sharey=True)
    colours = {"as printed": style.COLOURS["nem"], "reversed": style.COLOURS["reversed-nem"]}
    for cell, axes in zip(GATES, panels, strict=True):
        errors = results.confirmation(rows, cell).dropna()
        for (sign, names), common in itertools.product(lottery.SIGNS.items(), (False, True)):
            if len(errors) >= 2:
                found = [lottery.pattern(errors, cell, names, m, common=common) for m in lottery.TRIES]
                label = f"{sign}, {'common' if common else 'independent'} seeds"
                values = [one["all six better"] for one in found]
                axes.plot(lottery.TRIES, values, "o--" if common else "o-", color=colours[sign], label=label)
        nothing = [*map(lottery.by_chance, lottery.TRIES)]
        axes.plot(lottery.TRIES, nothing, ":", color="#555555", label="noise does nothing")
        axes.set(xscale="log", xlabel="Tries per entry, the best printed", ylim=(-0.03, 1.03))
        axes.set_title(f"{cell.upper()}, n = {len(errors)} repetitions")
        axes.set_xticks(lottery.TRIES, map(str, lottery.TRIES))
        axes.minorticks_off()
    panels[0].set_ylabel("P(all six NEM entries better)")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=POINTS)
    style.save(drawn, destination)
