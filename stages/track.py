"""Bring MLflow up to date with the run files, and (``--serve``) open its server on the loopback interface."""

import os
import sys

from pipeline import params, tracking
from pipeline.common import command

SERVE = {"action": "store_true", "help": "start MLflow's server afterwards"}


def server(port: int) -> list[str]:
    """Return the command of MLflow's own server on the loopback interface."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", tracking.store()]
    return [sys.executable, "-m", "mlflow", "server", *options]


@command.stage("track", {"--serve": SERVE, "--port": {"type": int, "default": 5000}})
def main(serve: bool, port: int) -> None:
    """Sync, then serve if asked."""
    chosen = params.load()
    added = tracking.sync(tracking.finished(chosen.tasks, chosen.cells))
    print(f"track: {added} run(s) added to {tracking.store().split('://')[0]} store")
    if serve:
        print(f"Compare runs on http://127.0.0.1:{port} (Ctrl-C ends)")
        sys.stdout.flush()
        os.execv(sys.executable, server(port))
