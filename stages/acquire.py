"""Stage acquire: put the data of one source under ``data/raw`` with a record of where it came from."""

from __future__ import annotations

import argparse
import sys

from pipeline import cli, params


def main(arguments: list[str] | None = None) -> int:
    """Run the stage for ``fx`` or ``video``; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", choices=["fx", "video"])
    options = parser.parse_args(arguments)

    def work() -> None:
        settings = params.load()
        if options.source == "fx":
            from pipeline.fx import acquire as fx

            fx.acquire(settings.fx.acquire, settings.seed)
        else:
            from pipeline.video import acquire as video

            video.acquire(settings.video.acquire, settings.seed)

    return cli.run("acquire", work)


if __name__ == "__main__":
    sys.exit(main())
