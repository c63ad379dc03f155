"""Bring MLflow up to date with the run files, and (``--serve``) start its server on the loopback interface."""

import functools
import os
import socket
import sys

import torch

from pipeline import params, tracking
from pipeline.common import command, paths, sequences
from pipeline.fx import rates, windows

SERVE = {"action": "store_true", "help": "start MLflow's server afterwards"}


def server(port: int) -> list[str]:
    """Return the command of MLflow's own server on the loopback interface."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", tracking.store()]
    return [sys.executable, "-m", "mlflow", "server", *options]


def free(port: int) -> None:
    """Stop with an :class:`OSError` where something listens on a port of the loopback interface already."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        cure = f"see what runs on http://127.0.0.1:{port}, or take another port: make ui PORT=5001"
        raise OSError(f"expected a free port, found {port} ({error}); {cure}") from error


def inputs(task: str, chosen: params.Params) -> tracking.Inputs | None:
    """Return what the inputs of a task are: rates, or features of frames, which nobody scaled.

    A ``ValueError`` or ``FileNotFoundError`` says that the rates are not those that networks were trained on.
    """
    if task != "fx":
        return None
    series, settings, folder = rates.read(rates.RATES), chosen.fx.windows, paths.sequences(task)
    first = windows.split_days(series, settings)
    names = settings.inputs
    if not torch.equal(windows.table(series, settings).pools[""], sequences.load(folder).train.pool):
        raise ValueError(
            f"expected the scaled days of {rates.RATES} in {folder}, found others; run `dvc repro windows`"
        )
    scaler = windows.Scaler.fit(series.values[: first.day_index[first.where("test")][0]], settings.scaling)
    at = [windows.FEATURES.index(name) for name in names]
    return tracking.Inputs(tuple(names), tuple(scaler.offset[at].tolist()), tuple(scaler.scale[at].tolist()))


@command.stage("track", {"--serve": SERVE, "--port": {"type": int, "default": 5000}})
def main(serve: bool, port: int) -> None:
    """Sync, then serve if asked; a store that is a server has its own."""
    chosen, uri = params.load(), tracking.store()
    remote = uri.startswith(("http://", "https://"))
    if serve and not remote:
        free(port)
    trainings = tracking.finished(chosen.tasks, chosen.cells)
    shown = list(tracking.show(trainings, functools.partial(inputs, chosen=chosen)))
    print(f"track: {sum(one.added for one in shown)} run(s) added to {uri.split('://')[0]} store")
    if not serve:
        return
    server_at = uri.rstrip("/") if remote else f"http://127.0.0.1:{port}"
    for one in shown:
        print("\n".join([one.name, *(f"  {what}: {server_at}/{link}" for what, link in one.links.items())]))
    if remote:
        print(f"Compare runs on {uri}")
        return
    print(f"Compare runs on {server_at} (Ctrl-C ends)")
    sys.stdout.flush()
    os.execv(sys.executable, server(port))
