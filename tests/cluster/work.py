"""Jobs that workers import by name: some of them die, tell where they are, or fail in odd ways."""

import os
import signal
import time
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

from pipeline.common import jobs
from pipeline.training import train
from pipeline.video.frames import frames

SAMPLE, TRAIN = frames.sample, train._train_stack  # tests put others in their places


def square(number):
    jobs.progress(1)
    return number * number


def where(_):
    time.sleep(0.2)
    return os.getpid(), torch.get_num_threads(), frozenset(pool["num_threads"] for pool in threadpool_info())


def block(number):
    return bytes([number % 256]) * 20_000


class OddError(ValueError):
    """An error that cannot be unpickled."""

    def __init__(self, expected, found):
        super().__init__(f"expected {expected}, found {found}")


def fail(number):
    if number == 2:
        raise FileNotFoundError("expected a file, found none")
    if number == 3:
        raise OddError(1, 2)
    return number


def once(folder):
    """Note that a folder's job ran, slowly."""
    with (folder / "ran").open("a") as file:
        file.write("x")
    time.sleep(0.4)
    return folder.name


def on_node(folder):
    """Note on which node a folder's job runs, slowly."""
    import ray

    with (folder / "nodes").open("a") as file:
        file.write(f"{ray.get_runtime_context().get_node_id()}\n")
    time.sleep(1.5)
    return folder.name


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dies_first(folder):
    """Kill the worker, but not the second time."""
    again = (folder / "ran").exists()
    once(folder)
    return folder.name if again else die()


def dies_in_company(folder):
    """Kill the worker of the first folder while another one works, as for memory; the second one sees it die twice."""
    tries, working, deadline = folder.parent / "00" / "ran", folder / "working", time.monotonic() + 30
    deaths = 2 if folder.name == "01" else 1
    if folder == tries.parent:
        with tries.open("a") as file:
            file.write("x")
        company = False
        while not company and time.monotonic() < deadline and len(tries.read_text()) < 3:
            time.sleep(0.05)
            company = bool(list(folder.parent.glob("*/working")))
        return die() if company or list(folder.parent.glob("*/working")) else folder.name
    working.touch()
    while time.monotonic() < deadline and not (tries.exists() and len(tries.read_text()) >= deaths):
        time.sleep(0.05)
    time.sleep(1)
    working.unlink()
    return folder.name


def dies_always(number):
    return die() if number == 3 else number


def sample(job):
    """Sample a video, whose decoder ends the process if the file is called so."""
    return die() if job.source.stem == "deadly" else SAMPLE(job)


def train_stack(stack):
    """Train, and die of repetition 1."""
    return die() if 1 in stack.repetitions else TRAIN(stack)


def slow_sample(job):
    """Sample a video, slowly, and note it."""
    with Path("sampled").open("a") as file:
        file.write(f"{job.source.stem}\n")
    time.sleep(0.5)
    return SAMPLE(job)
