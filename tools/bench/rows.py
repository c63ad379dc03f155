"""Rows of the benchmark: ours, a peer and the floor, measured in one run on one machine."""

import platform
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pipeline.common import jobs


@dataclass(frozen=True)
class Row:
    """A measurement; units that end in ``/s`` are better if larger, all others if smaller."""

    path: str  # engine, gpu, frames, features, pipeline, scaling
    name: str  # what was measured, and the peer where a path has several
    ours: float
    unit: str
    peer: float | None = None  # None: there is no such thing, or it could not be installed
    floor: float | None = None  # what the machine allows, by :data:`FLOORS`
    note: str = ""

    def better(self, than: float | None) -> float | None:
        """Return how many times better ours is than another value."""
        if than is None:
            return None
        return self.ours / than if self.unit.endswith("/s") else than / self.ours

    def content(self) -> dict[str, Any]:
        """Return what bench.json says of the row; ratios above 1 are ours being faster."""
        about: dict[str, Any] = {
            "ours": self.ours,
            "peer": self.peer,
            "floor": self.floor,
            "ratio": self.better(self.peer),
        }
        about |= {"share_of_floor": self.better(self.floor), "unit": self.unit, "machine": machine()}
        return about | ({"note": self.note} if self.note else {})

    def line(self) -> str:
        """Return the row as a line of a table."""
        ratio, share = self.better(self.peer), self.better(self.floor)
        shown = ("" if value is None else f"{value:.4g}" for value in (self.ours, self.peer, self.floor))
        cells = [*shown, "" if ratio is None else f"{ratio:.2f}", "" if share is None else f"{share:.0%}"]
        return f"{self.name:<62}" + "".join(f"{cell:>10}" for cell in cells) + f"  {self.unit} {self.note}".rstrip()


HEADING = f"{'':<62}" + "".join(f"{word:>10}" for word in ("ours", "peer", "floor", "ratio", "of floor"))


@cache
def machine() -> str:
    """Return processor, cores that jobs use, and torch's version; no host's name."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {jobs.workers()} cores, torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    source = Path("/proc/cpuinfo")
    return source.read_text().splitlines() if source.is_file() else []


def median(work: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call [s]; the first one does not count."""
    return medians([work], rounds)[0]


def medians(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median times of calls that are made in turn, so that whatever else the machine does meets all."""
    turns = [[timeit.timeit(work, number=1) for work in works] for _ in range(rounds + 1)]
    return [statistics.median(times) for times in zip(*turns[1:], strict=True)]


def least(work: Callable[[], object], rounds: int) -> float:
    """Return the least processor time of a call [s], which other work hardly changes; the first one does not count."""
    return min(timeit.repeat(work, timer=time.process_time, number=1, repeat=rounds + 1)[1:])


def fastest(work: Callable[[], object], rounds: int) -> float:
    """Return :func:`median` with one thread or torch's default number, whichever is faster."""
    managers: tuple[Callable[[], AbstractContextManager[object]], ...] = (jobs.one_thread, nullcontext)
    medians = []
    for threads in managers:  # one thread is BLAS's, too: several wait for each other
        with threads():
            medians.append(median(work, rounds))
    return min(medians)
