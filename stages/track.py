"""Bring MLflow up to date with the run files, and (``--serve``) start its server on the loopback interface."""

import functools
import os
import socket
import sys

import numpy as np

from pipeline import params, tracking
from pipeline.common import command, paths, sequences
from pipeline.fx import csv_format, rates, windows

SERVE = {"action": "store_true", "help": "start MLflow's server afterwards"}


def server(port: int) -> list[str]:
    """Return the command of MLflow's own server on the loopback interface."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", tracking.store()]
    quiet = ["--uvicorn-opts", "--log-level warning"]
    return [sys.executable, "-m", "mlflow", "server", *options, *quiet]


def free(port: int) -> None:
    """Stop with an :class:`OSError` where something listens on a port of the loopback interface already."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        cure = f"see what runs on http://127.0.0.1:{port}, or take another port: make ui PORT=5001"
        raise OSError(f"expected a free port, found {port} ({error}); {cure}") from error


def own_inputs(data: sequences.Dataset) -> tracking.Inputs:
    """Return what own sequences hold before they are scaled."""
    offset, scale = (tuple(data.origin["inputs"][name]) for name in ("offset", "scale"))
    return tracking.Inputs(tuple(f"input {k}" for k in range(data.inputs)), offset, scale)


def inputs(task: str, chosen: params.Params) -> tracking.Inputs | None:
    """Return what the inputs of a task are: rates, or features of frames, which nobody scaled.

    A ``ValueError`` or ``FileNotFoundError`` says that the rates at hand are not those that the sequences hold.
    """
    if task == "own":
        return own_inputs(sequences.load(paths.sequences(task)))
    if task != "fx":
        return None
    series, settings, folder = rates.read(rates.RATES), chosen.fx.windows, paths.sequences(task)
    own, held = windows.table(series, settings), sequences.load(folder)
    same = (own.target_offset, own.target_scale) == (held.target_offset, held.target_scale)
    if not (same and np.array_equal(own.pools[""], held.train.pool.numpy())):
        raise ValueError(f"expected the scaled days of {rates.RATES} in {folder}, found others: `dvc repro windows`")
    days = windows.split_days(series, settings)
    scaler = windows.Scaler.fit(series.values[: days.day_index[days.where("test")][0]], settings.scaling)
    at = [csv_format.FEATURES.index(name) for name in settings.inputs]
    return tracking.Inputs(tuple(settings.inputs), tuple(scaler.offset[at].tolist()), tuple(scaler.scale[at].tolist()))


@command.stage("track", {"--serve": SERVE, "--port": {"type": int, "default": 5000}})
def main(serve: bool, port: int) -> None:
    """Sync, then serve if asked; a store that is a server has its own."""
    chosen, uri = params.load(), tracking.store()
    remote = uri.startswith(("http://", "https://"))
    if serve and not remote:
        free(port)
    trainings = tracking.finished(chosen.tasks, chosen.cells)
    shown = list(tracking.show(trainings, functools.partial(inputs, chosen=chosen)))
    count, live, added = map(sum, zip(*(runs for _, runs, _ in shown), strict=True)) if shown else (0, 0, 0)
    parts = {"logged while they trained": live, "made from files now": added, "before": count - live - added}
    told = ", ".join(f"{number} {what}" for what, number in parts.items() if number)
    print(f"track: {count} runs in the {uri.split(':')[0]} store ({told or 'nothing is trained'})")
    if serve:
        at = uri.rstrip("/") if remote else f"http://127.0.0.1:{port}"
        for name, _, links in shown:
            print(name, *(f"  {what}: {at}/{link}" for what, link in links.items()), sep="\n")
        print(f"Compare runs on {at}{'' if remote else ' (Ctrl-C ends)'}")
        sys.stdout.flush()
        if not remote:
            # Or the links would scroll away; and eight processes would wait for jobs of MLflow's that nobody asks for.
            quiet = {"PYTHONWARNINGS": "ignore", "MLFLOW_LOGGING_LEVEL": "WARNING"}
            quiet |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            os.execve(sys.executable, server(port), {**os.environ, **quiet})
