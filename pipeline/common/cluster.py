"""The executor ``ray`` of :mod:`pipeline.common.jobs`: jobs on a Ray cluster, one core each (docs/cluster.md).

The driver has a window of jobs in flight, counts the deaths of workers, and alone writes outputs. A worker has one
thread, the driver's machine type, and the driver's folder: the same one where every node sees it, else copies of the
files that jobs read, made once per node, so that its workers map the same file into memory.
"""

import os
import pickle
import shutil
import socket
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import numpy as np
from filelock import FileLock

from pipeline.common import machine, paths, records

if TYPE_CHECKING:
    from pipeline.common.jobs import Jobs

CODE = ("nem", "pipeline")  # packages that nodes get where the cluster was there already
CHOOSING = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")  # as the driver has them
DEATH, LOST_NODE, MOST = 10, 3, 30  # what a worker's death and its node's loss count, and when an item is given up
PAUSE = 0.5  # from one report of progress to the next [s]
Prepare = Callable[[Callable[[int], object]], object]
Files = Sequence[tuple[str, Any]]  # names from the driver's folder, and what is in the object store


def address() -> str:
    """Return the address of the cluster that is there already, if any; a ValueError refuses Ray's client."""
    found = os.environ.get("RAY_ADDRESS", "")
    if found.startswith("ray://"):
        raise ValueError(f"expected RAY_ADDRESS of a cluster's node, found {found}; start the pipeline on such a node")
    return "" if found == "local" else found


def connect(count: int | None, threads: Sequence[str]) -> Any:  # noqa: ANN401 - the module ray
    """Join the cluster at ``RAY_ADDRESS``, else begin one of this machine alone, of so many cores; return ``ray``.

    ``threads`` are variables that keep libraries to one thread. A ValueError says that there is no Ray, or another
    version of it or of Python, an OSError that there is no such cluster.
    """
    there = address()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not there:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # without it Ray listens on loopback alone
    try:
        ray = import_module("ray")
    except ModuleNotFoundError as error:
        raise ValueError("expected Ray for NEM_EXECUTOR=ray, found none; run `make setup CLUSTER=1`") from error
    if not ray.is_initialized():
        _reach(there)
        environment: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in CHOOSING if name in os.environ}}
        environment["env_vars"] |= dict.fromkeys(threads, "1")
        options: dict[str, Any] = {"address": "local", "num_cpus": count, "include_dashboard": False}
        if there:
            options = {"address": there}
            environment["excludes"] = ["__pycache__"]
            environment["py_modules"] = [str(Path(import_module(name).__path__[0])) for name in CODE]
        try:
            ray.init(**options, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise ValueError(f"expected a cluster that fits at {there or 'local'}, found: {error}") from error
    return ray


def _reach(there: str) -> None:
    """Refuse an address at which nobody listens, for which Ray would wait minutes, with a ConnectionError."""
    host, _, port = there.rpartition(":")
    if host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            what = f"expected a cluster at RAY_ADDRESS {there}, found none ({error}); start one or unset RAY_ADDRESS"
            raise ConnectionError(what) from error


def cores(ray: Any) -> int:  # noqa: ANN401 - the module
    """Return how many cores the cluster has now."""
    return max(1, int(ray.cluster_resources().get("CPU", 0)))


@dataclass(frozen=True)
class _Call:
    """What all jobs of a run have in common."""

    function: Callable[[Any], Any]
    prepare: Prepare
    root: str  # the driver's folder
    token: str  # names the run
    shared: bool  # whether every node sees the driver's folder
    kind: dict[str, str]  # the machine type that a worker must have; empty if any will do


class _File:
    """A file in the object store, for as long as a job in flight reads it."""

    def __init__(self, ray: Any, source: Path) -> None:  # noqa: ANN401 - the module
        content = np.memmap(source, np.uint8, "r") if source.stat().st_size else np.empty(0, np.uint8)
        self.ref = ray.put(np.asarray(content))


class _Reports:
    """An actor that knows how far the jobs are that run."""

    def __init__(self) -> None:
        self.amounts: dict[int, int] = {}

    def report(self, number: int, amount: int) -> None:
        """Note how far a job is."""
        self.amounts[number] = amount

    def total(self, running: Iterable[int]) -> int:
        """Return how far these jobs are together, and forget others."""
        self.amounts = {number: self.amounts[number] for number in running if number in self.amounts}
        return sum(self.amounts.values())


def _mark(token: str) -> Path:
    """Return the file in the driver's folder by which a node knows that folder."""
    return paths.CHECKPOINTS / f"cluster-{token}"


def _copies(token: str) -> Path:
    """Return where a node keeps copies of the files that a run's jobs read."""
    return Path(tempfile.gettempdir()) / f"nem-{token}"


def _look(root: str, token: str) -> tuple[dict[str, str], bool]:
    """Return a node's machine type, and whether it sees the driver's folder."""
    return machine.fingerprint(), (Path(root) / _mark(token)).is_file()


def _sweep(token: str) -> None:
    """Remove a node's copies."""
    shutil.rmtree(_copies(token), ignore_errors=True)


def _enter(call: _Call, files: Files) -> None:
    """Go into the driver's folder, or into one with copies of these files of it."""
    if call.shared:
        if not (Path(call.root) / _mark(call.token)).is_file():
            raise OSError(f"expected {call.root} on every node as on the first ones, found a new node without it")
        os.chdir(call.root)
        return
    folder = _copies(call.token)
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, ref in files:
        if not (folder / name).exists():
            with FileLock(folder / ".lock"):  # one worker of a node fetches, the others wait
                if not (folder / name).exists():
                    records.write_bytes(folder / name, cast(bytes, memoryview(import_module("ray").get(ref))))
    os.chdir(folder)


@lru_cache(1)
def _unpack(packed: bytes) -> tuple[_Call, Any]:
    """Return what all jobs of a run have in common, and the actor that takes progress: once per run and process."""
    call: _Call = pickle.loads(packed)
    return call, import_module("ray").get_actor(call.token)


def _run(packed: bytes, number: int, item: object, files: Files) -> tuple[object, str | None, int]:
    """Run one job on a worker; return its result or error, the error's traceback, and how far it came."""
    amount, told = 0, time.monotonic()

    def report(more: int) -> None:
        nonlocal amount, told
        amount += more
        if time.monotonic() > told + PAUSE:
            reports.report.remote(number, amount)
            told = time.monotonic()

    try:
        call, reports = _unpack(packed)
        if call.kind:  # of a node that joined after all others were looked at, too
            machine.check(call.kind, machine.fingerprint())
        _enter(call, files)
        call.prepare(report)
        return call.function(item), None, amount
    except Exception as error:
        return _portable(error), traceback.format_exc(), amount
    finally:
        os.chdir(tempfile.gettempdir())  # the copies go with the run, this process may not


def _portable(error: Exception) -> Exception:
    """Return an error as it is where it can be pickled, else its text as an error of the nearest kind that can."""
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    kind = next((kind for kind in (ValueError, OSError) if isinstance(error, kind)), RuntimeError)
    return kind(f"{type(error).__name__}: {error}")


class _Driver:
    """One run: jobs in flight, and what became of the others."""

    def __init__(self, work: "Jobs", ray: Any) -> None:  # noqa: ANN401 - the module
        self.ray, self.work, self.errors, self.finished = ray, work, ray.exceptions, work.bar.n
        self.root, self.token, self.shared = Path.cwd(), uuid.uuid4().hex, True
        self.pending: dict[Any, tuple[int, Any, dict[str, _File]]] = {}
        self.again: deque[tuple[int, Any]] = deque()
        self.last: deque[tuple[int, Any]] = deque()  # jobs with one try left, which no other job may spoil
        self.deaths: Counter[int] = Counter()
        self.files: WeakValueDictionary[str, _File] = WeakValueDictionary()
        self.nodes = (self.errors.NodeDiedError, self.errors.LocalRayletDiedError, self.errors.ObjectLostError)
        self.died = (*self.nodes, self.errors.WorkerCrashedError, self.errors.OutOfMemoryError)

    def on(self, node: str) -> dict[str, Any]:
        """Return Ray's options of what runs on one node and takes no core."""
        affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        return {"num_cpus": 0, "scheduling_strategy": affinity(node, soft=False)}

    def everywhere(self, function: Callable[..., Any], *arguments: object) -> list[Any]:
        """Return what a function returns on every node that has cores, or on the first one that comes."""
        nodes = [node["NodeID"] for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            print("the cluster has no node with a core yet: waiting for one", file=sys.stderr)
        options = [self.on(node) for node in nodes] or [{"num_cpus": 1}]
        answers, task = [], self.ray.remote(function)
        for answer in [task.options(max_retries=0, **one).remote(*arguments) for one in options]:
            try:
                answers.append(self.ray.get(answer))
            except (*self.died, self.errors.TaskUnschedulableError) as error:
                print(f"a node went away ({type(error).__name__})", file=sys.stderr)
            except self.errors.RayError as error:
                what = "expected on every node what requirements/all.txt and cluster.txt name, and Ray's agent, found:"
                raise ValueError(f"{what} {error}") from error
        return answers

    def start(self, prepare: Prepare) -> None:
        """Look at the nodes, and prepare what all jobs have in common."""
        records.write_bytes(_mark(self.token), b"")
        for theirs, sees in self.everywhere(_look, str(self.root), self.token):
            machine.check(machine.fingerprint(), theirs)
            self.shared &= sees
        own = self.on(self.ray.get_runtime_context().get_node_id())
        self.reports = self.ray.remote(_Reports).options(name=self.token, **own).remote()
        kind = {} if os.environ.get(machine.MIXED) == "1" else machine.fingerprint()
        call = _Call(self.work.function, prepare, str(self.root), self.token, self.shared, kind)
        self.call = import_module("ray.cloudpickle").dumps(call)
        self.job = self.ray.remote(_run).options(num_cpus=1, max_retries=0)

    def submit(self, number: int, item: object) -> None:
        """Put a job in flight, with the files that it reads where nodes may lack them."""
        held: dict[str, _File] = {}
        for path in () if self.shared else self.work.reads(item):
            for file in filter(Path.is_file, path.rglob("*") if path.is_dir() else [path]):
                name = os.path.relpath(file, self.root)
                if name.startswith(os.pardir):
                    what = f"expected inputs below {self.root}, since nodes do not share it, found {file}"
                    raise ValueError(f"{what}; put it there, or have one file system on all nodes")
                self.files[name] = held[name] = self.files.get(name) or _File(self.ray, file)
        files = [(name, file.ref) for name, file in held.items()]
        self.pending[self.job.remote(self.call, number, item, files)] = (number, item, held)

    def collect(self, ref: Any) -> Iterator[tuple[int, Any]]:  # noqa: ANN401 - Ray's
        """Yield a finished job's result, or what stands for it, or nothing if it is tried again; raise its error."""
        number, item, _ = self.pending.pop(ref)
        try:
            value, trace, amount = self.ray.get(ref)
        except self.died as error:
            self.deaths[number] += LOST_NODE if isinstance(error, self.nodes) else DEATH
            left = MOST - self.deaths[number]
            what = "is given up" if left <= 0 else "is tried again" + " at the end, alone" * (left <= DEATH)
            print(f"job {number + 1} lost its worker ({type(error).__name__}) and {what}", file=sys.stderr)
            if left > 0:
                (self.again if left > DEATH else self.last).append((number, item))
            else:
                yield number, self.work.lost(item)
            return
        except self.errors.RayTaskError:
            raise  # a defect: it keeps its traceback
        except self.errors.RayError as error:
            raise OSError(f"expected a cluster that works, found {error}; run again: finished work is kept") from error
        self.finished += amount
        if trace is not None:
            raise value from RuntimeError(f"in a worker:\n{trace}")
        yield number, value

    def results(self, limit: int | None) -> Iterator[tuple[int, Any]]:
        """Yield results with a bounded number of jobs in flight: so many, or two for every core there is and two."""
        upcoming, window, looked, answer = iter(enumerate(self.work.items)), 0, -PAUSE, None
        while True:
            if time.monotonic() >= looked + PAUSE:
                window, looked = limit or 2 * cores(self.ray) + 2, time.monotonic()
                if answer is None:
                    answer = self.reports.total.remote([number for number, *_ in self.pending.values()])
                elif self.ray.wait([answer], timeout=0)[0]:
                    with suppress(self.errors.RayError):  # a bar is worth no failure
                        self.work.bar.update(self.finished + self.ray.get(answer) - self.work.bar.n)
                    answer = None
            while len(self.pending) < window:
                entry = self.again.popleft() if self.again else next(upcoming, None)
                if entry is None:
                    if self.last and not self.pending:
                        self.submit(*self.last.popleft())
                    break
                self.submit(*entry)
            if not self.pending:
                self.work.bar.update(self.finished - self.work.bar.n)
                return
            done = self.ray.wait([*self.pending], num_returns=1, timeout=PAUSE)[0]
            if done:  # and all others that are, since asking takes the longer the more are in flight
                done = self.ray.wait([*self.pending], num_returns=len(self.pending), timeout=0)[0]
            while done:
                yield from self.collect(done.pop(0))

    def close(self) -> None:
        """End what still runs, and remove what the run left on nodes."""
        with suppress(self.errors.RayError, ValueError):
            for ref in self.pending:
                self.ray.cancel(ref, force=True)
            if not self.shared:
                self.everywhere(_sweep, self.token)
        _mark(self.token).unlink(missing_ok=True)


def run(work: "Jobs", prepare: Prepare, count: int, threads: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Yield ``(number of the item, result)`` as jobs finish (errors as of :func:`connect`, and of the jobs).

    ``prepare`` makes a process a worker, given what takes its progress. With ``NEM_WORKERS`` no more than ``count``
    jobs are in flight on a cluster that was there already.
    """
    driver = _Driver(work, connect(count, threads))
    try:
        driver.start(prepare)
        yield from driver.results(count if address() and os.environ.get("NEM_WORKERS") else None)
    finally:
        driver.close()
