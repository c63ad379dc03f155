"""Choose the exchange-rate hyperparameters on validation days; write the tables and print what to put into a profile.

Not a stage of the default pipeline: its result is committed as facts in ``profiles/`` and ``docs/tuning.md``.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from pipeline import cli, params, records
from pipeline.training import tune

DESTINATION = Path("docs/tuning.md")


def _markdown(frame: pd.DataFrame) -> str:
    shown = frame.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))
    lines = ["| " + " | ".join(shown.columns) + " |", "|" + " --- |" * len(shown.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in shown.itertuples(index=False)]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the search; return the exit status."""

    def work() -> None:
        settings = params.load()
        overrides, noiseless, noisy = tune.tune_fx(settings)
        stream = io.StringIO()
        YAML().dump(overrides, stream)
        text = (
            "# Hyperparameters of the exchange-rate task\n\n"
            f"Written by `make tune` (profile `{settings.profile}`, source `{settings.fx.acquire.source}`). Errors are "
            f"mean squared errors in rupees² on the validation tail of the training days after R epochs, "
            f"over {tune.REPETITIONS} repetitions with seeds of their own (mean, lowest, highest)."
            " Test days were not read.\n\n"
            f"## Chosen\n\n```yaml\n{stream.getvalue()}```\n\n"
            "## Step 1: the noiseless network\n\n"
            f"{_markdown(noiseless.sort_values(['cell', 'validation_mse']))}\n\n"
            "## Step 2: strength and annealing of the noise\n\n"
            "Chosen by the NEM condition's own validation error; blind noise gets the same strength.\n\n"
            f"{_markdown(noisy.sort_values(['cell', 'condition', 'validation_mse']))}\n"
        )
        records.write_text(DESTINATION, text)
        print(stream.getvalue())

    return cli.run("tune", work)


if __name__ == "__main__":
    sys.exit(main())
