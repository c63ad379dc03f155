"""Bring MLflow up to date with the run files, and (``--serve``) start its server on the loopback interface."""

import os
import socket
import sys

from pipeline import params, tracking
from pipeline.common import command

SERVE = {"action": "store_true", "help": "start MLflow's server afterwards"}


def free(port: int) -> None:
    """Stop with an :class:`OSError` where something listens on a port of the loopback interface already."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        cure = f"see what runs on http://127.0.0.1:{port}, or take another port: make ui PORT=5001"
        raise OSError(f"expected a free port, found {port} ({error}); {cure}") from error


@command.stage("track", {"--serve": SERVE, "--port": {"type": int, "default": 5000}})
def main(serve: bool, port: int) -> None:
    """Sync, then serve if asked; a store that is a server has its own."""
    chosen, uri = params.load(), tracking.store()
    remote = uri.startswith(("http://", "https://"))
    if serve and not remote:
        free(port)
    added = tracking.sync(tracking.finished(chosen.tasks, chosen.cells))
    print(f"track: {added} run(s) added to {uri.split('://')[0]} store")
    if serve and remote:
        print(f"Compare runs on {uri}")
    elif serve:
        print(f"Compare runs on http://127.0.0.1:{port} (Ctrl-C ends)")
        sys.stdout.flush()
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
        os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options])
