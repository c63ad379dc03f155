"""Why the paper saw what it saw: train what the committed table lacks, and draw docs/why.md from it.

A killed run, another machine or a reader goes on from the table. QUICK=1 shows the path with tiny networks on generated
data; LONG=1 asks for more seeds.
"""

import os
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.common import command, paths

ROWS, PAGE = Path("docs/why/rows.csv"), Path("docs/why.md")
QUICK = paths.CHECKPOINTS / "why-quick"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "--minutes": {"type": float, "help": "begin nothing more after so many minutes"},
    "--show": {"metavar": "NAME", "help": "print one table of the page, and train nothing"},
    "--check": {"type": int, "metavar": "N", "help": "train N repetitions of the table again, and compare"},
    "--add": {"type": Path, "metavar": "FILE", "help": "take in the rows that another machine finished"},
}


@command.stage("why", ARGUMENTS)
def main(minutes: float | None, show: str | None, check: int | None, add: Path | None) -> None:
    """Do what is asked for; without arguments, all."""
    from pipeline.why import networks, protocol, table

    sizes, source = (protocol.LONG if os.environ.get("LONG") else protocol.Sizes()), ROWS
    if os.environ.get("QUICK"):
        sizes, source = protocol.QUICK, QUICK / ROWS.name
    params.use_mirror(params.load())
    if add:
        table.save(table.add(table.load(source), table.load(add)), source)
    networks.fill(protocol.stacks(source, sizes), source, sizes, minutes)
