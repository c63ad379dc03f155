"""Bring MLflow up to date with the run files, and (``--serve``) open its server on the loopback interface."""

from __future__ import annotations

import argparse
import os
import sys

from pipeline import cli, params, tracking


def main(arguments: list[str] | None = None) -> int:
    """Sync, then serve if asked; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="start MLflow's server afterwards")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)

    def work() -> None:
        made = tracking.sync_all(params.load())
        print(f"track: {made} run(s) added to {tracking.store().split('://')[0]} store")

    status = cli.run("track", work)
    if status == 0 and options.serve:
        print(f"Compare runs on http://127.0.0.1:{options.port} (Ctrl-C ends)")
        sys.stdout.flush()
        command = tracking.server_command(options.port)
        os.execv(command[0], command)
    return status


if __name__ == "__main__":
    sys.exit(main())
