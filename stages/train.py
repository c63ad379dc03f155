"""Stage train: all noise conditions and repetitions of one cell on one task."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from pipeline import cli, params
from pipeline.training import train


def main(arguments: list[str] | None = None) -> int:
    """Run the stage for a task and a cell; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=get_args(params.Task))
    parser.add_argument("cell", choices=get_args(params.Cell))
    options = parser.parse_args(arguments)

    def work() -> None:
        from pipeline import tracking

        train.train(options.task, options.cell, params.load(), tracking.live)

    return cli.run("train", work)


if __name__ == "__main__":
    sys.exit(main())
