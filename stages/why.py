"""Why the paper saw what it saw: train what the committed table lacks, and write docs/why.md and its appendix from it.

A killed run, another machine or a reader goes on from the table. QUICK=1 shows the path with tiny networks on generated
data; LONG=1 asks for more seeds. ``--minutes 0`` trains nothing, and writes the page.
"""

import os
import time
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.common import command, paths

ROWS = Path("docs/why/rows.csv")
PAGES: tuple[Path, ...] = (Path("docs/why.md"), Path("docs/why/tables.md"))
QUICK = paths.CHECKPOINTS / "why-quick"
SAME = 1e-3
"""Share of an error by which other machines may differ (docs/reproducibility.md has what was measured)."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "--minutes": {"type": float, "help": "begin nothing more after so many minutes"},
    "--show": {"metavar": "NAME", "help": "print one table of the pages, and train nothing"},
    "--check": {"type": int, "metavar": "N", "help": "train N repetitions of the confirmation again, and compare"},
    "--only": {"choices": ("rates", "clips"), "help": "train networks of one kind of data"},
    "--add": {"type": Path, "metavar": "FILE", "help": "take in the rows that another machine finished"},
}


@command.stage("why", ARGUMENTS)
def main(minutes: float | None, show: str | None, check: int | None, only: str | None, add: Path | None) -> None:
    """Do what is asked for; without arguments, all."""
    from pipeline.why import clips, networks, page, protocol, table

    sizes, source, written = (protocol.LONG if os.environ.get("LONG") else protocol.Sizes()), ROWS, PAGES
    if os.environ.get("QUICK"):
        sizes, source, written = protocol.QUICK, QUICK / ROWS.name, tuple(QUICK / page.name for page in PAGES)
    if show:
        print(page.shown(show, source, sizes))
        return
    params.use_mirror(params.load())
    if check:
        both = networks.check(source, sizes, check)
        both["off"] = (both.test_mse_again / both.test_mse - 1).abs()
        print(both.to_string(index=False))
        if (both.off > SAME).any():
            raise ValueError(
                f"expected the errors of {source} within {SAME:g}, found {both.off.max():.2g} off; see above"
            )
        return
    if add:
        table.save(table.add(table.load(source), table.load(add)), source)
    begun = time.monotonic()
    if only != "clips":
        networks.fill(protocol.stacks(source, sizes), source, sizes, minutes)
    if only != "rates":
        left = None if minutes is None else minutes - (time.monotonic() - begun) / 60
        clips.fill(source.with_name(page.CLIPS), page.sizes_of_clips(sizes), left)
    page.write(dict(zip(PAGES, written, strict=True)), source, sizes)
