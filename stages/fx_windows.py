"""Stage fx_windows: turn the series into scaled windows, split by day."""

from __future__ import annotations

import sys

from pipeline import cli, params, paths
from pipeline.fx import rates, windows


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; return the exit status."""

    def work() -> None:
        settings = params.load()
        made = windows.make_windows(rates.read(paths.FX_RATES), settings.fx.windows)
        windows.save(made, paths.FX_WINDOWS)
        counts = ", ".join(f"{int(made.where(split).sum())} {split}" for split in windows.SPLITS)
        print(f"fx_windows: {counts} windows of {settings.fx.windows.window} days")

    return cli.run("fx_windows", work)


if __name__ == "__main__":
    sys.exit(main())
