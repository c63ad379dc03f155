"""Stage evaluate: metrics, the paper's tables and figures, and the report."""

from __future__ import annotations

import sys

from pipeline import cli, params
from pipeline.evaluation import evaluate


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; return the exit status."""
    return cli.run("evaluate", lambda: evaluate.evaluate(params.load()))


if __name__ == "__main__":
    sys.exit(main())
