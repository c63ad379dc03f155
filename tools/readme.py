"""Put the present results into the README as facts: ``make docs`` after ``make repro PROFILE=fx``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pipeline import params, paths, records
from pipeline.conditions import CONDITIONS
from pipeline.evaluation import paper

README = Path("README.md")
START, END = "<!-- results:start -->", "<!-- results:end -->"
IMAGES = Path("docs/images")


def table(cell: str, content: dict[str, dict[str, dict[str, float | None]]], digits: int = 3) -> str:
    """Return one cell's results as Markdown: ours with interval, and the paper's."""
    printed = {t.quantity: t for t in paper.tables_of("fx", cell)}
    heads = ("condition", "test MSE [rupees²]", "paper", "skill vs yesterday's price", "speed-up", "paper")
    rows = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for condition in (name for name in CONDITIONS if name in content):
        summary = content[condition]
        mse, speed, skill = summary["test_mse"], summary["speed_up_percent"], summary["skill_persistence"]
        middle, bound = speed["median"], speed["censored_below"]
        fast = f"{middle:.0f} %" if middle is not None else f"< {bound:.0f} %"
        rows.append(
            f"| `{condition}` | {mse['mean']:.{digits}f} [{mse['ci_low']:.{digits}f}, {mse['ci_high']:.{digits}f}] "
            f"| {printed['squared_error'].value(condition)} | {skill['mean']:.1f} | {fast} "
            f"| {printed['speed_up'].value(condition):g} % |"
        )
    return "\n".join(rows)


def main() -> int:
    """Rewrite the README's result section; return the exit status."""
    settings = params.load()
    if settings.fx.acquire.source != "paper":
        print("expected results of the paper's series (make repro PROFILE=fx), found generated data", file=sys.stderr)
        return 1
    content = records.read_json(paths.METRICS)
    naive, level = content["baselines"]["fx"], 100 * settings.evaluate.confidence
    parts = [
        f"{settings.training.repetitions} paired repetitions, mean and {level:g} % bootstrap interval. Yesterday's "
        f"price (persistence) has a test MSE of {naive['persistence']:.4f}, a linear AR(4) {naive['ar4']:.4f}. "
        "Speed-ups are medians; the noiseless one is not 0, since its own loss fluctuates and passes its last value "
        "early.",
    ]
    for cell in settings.cells:
        numbers = "5, 6" if cell == "lstm" else "7, 8"
        parts += [f"**{cell.upper()}** (Tables {numbers})", table(cell, content["fx"][cell])]
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    records.write_text(README, before + START + "\n" + "\n\n".join(parts) + "\n" + END + after)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in ("overview_fx_lstm", "overview_fx_gru", "figure_12"):
        shutil.copyfile(paths.FIGURES / f"{name}.png", IMAGES / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
