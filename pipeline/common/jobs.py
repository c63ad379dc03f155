"""Where jobs run: one after another, in processes, or on a cluster (:mod:`pipeline.common.cluster`).

Jobs are values in and values out; only the caller writes files. ``NEM_EXECUTOR`` (a name of :data:`EXECUTORS`) and
``NEM_WORKERS`` choose where; neither may change a byte of any result.
"""

import multiprocessing
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline.common import cluster

Item = TypeVar("Item")
Result = TypeVar("Result")
Bar: TypeAlias = "tqdm[Any]"


@dataclass(frozen=True)
class Jobs:
    """What an executor runs."""

    function: Callable[[Any], Any]  # can be imported by name
    items: Sequence[Any]  # its arguments
    bar: Bar  # what :func:`progress` moves
    reads: Callable[[Any], Iterable[Path]]  # files, and folders of files, that the job of an item reads
    lost: Callable[[Any], Any]  # the result of an item whose job kills every worker, or the error that it is


Executor = Callable[[Jobs], Iterator[tuple[int, Any]]]
"""Yields ``(number of the item, result)`` in order of completion, with a bounded number of items in flight."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read by libraries that a worker loads
_report: Callable[[int], object] | None = None


def one_thread() -> ExitStack:
    """Keep this process to one thread, BLAS too, until the result is closed: some sums change with their number."""
    undo = ExitStack()
    if torch := sys.modules.get("torch"):  # jobs that need it have imported it
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
    undo.enter_context(threadpool_limits(1))
    return undo


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Let libraries that new processes load have one thread."""
    before = {name: os.environ.pop(name) for name in THREADS if name in os.environ}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name in THREADS:
            os.environ.pop(name, None)
        os.environ.update(before)


def begin(module: str) -> None:
    """Begin to load the module of coming jobs, if they run in processes, while this process loads its own.

    The first module that is asked for here, or by jobs, is loaded once and for all workers. A ValueError is that of
    :func:`workers`.
    """
    if _chosen() == "process" and workers() > 1 and _origin(module).get_start_method() == "forkserver":
        with _single_threaded():
            forkserver.ensure_running()


def _origin(module: str) -> Any:  # noqa: ANN401 - a context of multiprocessing
    """Return how workers come about: as copies of a process that has loaded a module and did nothing else.

    Each would else load it anew, PyTorch above all, for seconds, as they do where a system's own libraries forbid
    copies. Copies of this process might wait for its threads.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([module])
    return context


def _start_worker(counter: Any, environment: dict[str, str]) -> None:  # noqa: ANN401 - a shared integer
    """Prepare a fresh process, which ends when its parent is gone: a killed parent cannot tell its workers to stop.

    It comes from a process that may be older than the caller's ``environment``.
    """

    def count(amount: int) -> None:
        with counter.get_lock():
            counter.value += amount

    def end_with_the_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    os.environ.clear()
    os.environ.update(environment)
    _report_to(count)
    one_thread()
    threading.Thread(target=end_with_the_parent, daemon=True).start()


def _report_to(report: Callable[[int], object] | None) -> None:
    """Let :func:`progress` call ``report`` in this process."""
    global _report  # noqa: PLW0603 - one per process
    _report = report


def progress(amount: int) -> None:
    """Report finished work from inside a job, in the units of ``total`` of :func:`run`."""
    if _report is not None:
        _report(amount)


def device(wanted: str) -> Literal["cpu", "cuda"]:
    """Return where to compute, ``auto`` being CUDA where there is one; a ValueError says that ``cuda`` is absent."""
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ValueError("expected a CUDA device, found none; set device in params.yaml to auto or cpu")
    return "cuda" if available and wanted != "cpu" else "cpu"


def workers() -> int:
    """Return how many jobs run at once: ``NEM_WORKERS`` (a ValueError refuses all but integers), or one a core.

    The cores are those of the cluster, if jobs run on one that is there already.
    """
    text = os.environ.get("NEM_WORKERS", "")
    if not text:
        if _chosen() == "ray" and cluster.address():
            return cluster.cores(cluster.connect(None, THREADS))
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"expected NEM_WORKERS to be a positive integer, found {text!r}; set it to one or unset it")
    return int(text)


def _serial(work: Jobs) -> Iterator[tuple[int, Any]]:
    """Run jobs here, one after another."""
    with one_thread() as undo:
        undo.callback(_report_to, None)
        _report_to(work.bar.update)
        for number, item in enumerate(work.items):
            yield number, work.function(item)


def _processes(work: Jobs) -> Iterator[tuple[int, Any]]:
    """Run jobs in processes; those in flight when a process dies once more, each alone: one of them may kill it."""
    count = min(workers(), len(work.items))
    if count <= 1:
        yield from _serial(work)
        return
    upcoming, pending = iter(enumerate(work.items)), dict[Future[Any], tuple[int, Any]]()
    while True:
        yield from _pool(work, count, upcoming, pending)
        if not pending:
            return
        suspects = iter([*pending.values()])
        print(f"a worker died (killed for memory?); {len(pending)} jobs run again, one by one", file=sys.stderr)
        while True:
            pending.clear()
            yield from _pool(work, 1, suspects, pending)
            if not pending:
                break
            for number, item in pending.values():
                yield number, work.lost(item)


def _pool(work: Jobs, count: int, upcoming: Iterator[tuple[int, Any]], pending: dict[Future[Any], tuple[int, Any]]
          ) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """Run jobs in fresh processes until there are no more; those still ``pending`` at the end met a death."""
    with ExitStack() as undo:
        undo.enter_context(_single_threaded())
        context = _origin(work.function.__module__)
        counter, before = context.Value("q", 0), work.bar.n
        own = counter, {**os.environ}
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=own)
        undo.callback(pool.shutdown, cancel_futures=True)
        try:
            while True:
                # A window, so that neither arguments nor results of many jobs wait in memory.
                window = 2 * count + 2 if count > 1 else 1
                while len(pending) < window and (entry := next(upcoming, None)) is not None:
                    pending[pool.submit(work.function, entry[1])] = entry
                if not pending:
                    return
                done = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED).done
                work.bar.update(before + counter.value - work.bar.n)
                for future in done:
                    if not isinstance(future.exception(), BrokenProcessPool):
                        yield pending.pop(future)[0], future.result()
                if any(future in pending for future in done):
                    return
        except BrokenProcessPool:
            return


@lru_cache(1)
def _hold(modules: int) -> ExitStack:  # as many are loaded
    """Keep this process to one thread, once and then whenever a module was loaded, perhaps with a BLAS of its own."""
    return one_thread()


def _prepare(report: Callable[[int], object]) -> None:
    """Make this process a worker of a cluster, which reports progress so."""
    _hold(len(sys.modules))
    _report_to(report)


def _cluster(work: Jobs) -> Iterator[tuple[int, Any]]:
    """Run jobs on the Ray cluster at ``RAY_ADDRESS``, or on one of this machine alone."""
    yield from cluster.run(work, _prepare, workers(), THREADS)


EXECUTORS: dict[str, Executor] = {"serial": _serial, "process": _processes, "ray": _cluster}


def _chosen() -> str:
    return os.environ.get("NEM_EXECUTOR", "") or "process"


def _nothing(item: object) -> tuple[Path, ...]:
    """Return what a job reads that reads no file."""
    return ()


def _refuse(item: object) -> object:
    """Raise the error that a job kills every worker."""
    what = f"expected every worker to finish, found one dead (killed for memory?) by {textwrap.shorten(str(item), 200)}"
    raise ChildProcessError(
        f"{what}; run again: it goes on from what is kept. Fewer workers need less memory: NEM_WORKERS=1"
    )


def run(function: Callable[[Item], Result], items: Sequence[Item], *, total: int, label: str, where: str | None = None,
        reads: Callable[[Item], Iterable[Path]] = _nothing, lost: Callable[[Item], Result] | None = None,
        ) -> Iterator[tuple[int, Result]]:  # fmt: skip
    """Yield ``(number of the item, result)`` as jobs finish; no result is kept alive here.

    The function must be importable by name, for processes to find it. The bar called ``label`` goes to ``total``, in
    the units that the jobs report through :func:`progress`; ``where`` is an executor that nobody may change. Machines
    without the caller's files get what a job ``reads``. An item whose job kills its workers again and again is
    ``lost``: what that returns is its result. A ValueError refuses an unknown executor and what is no number of
    workers; ChildProcessError says that an item was lost, and nothing was said of what then; OSError that a cluster
    fails.
    """
    kind = where or _chosen()
    if kind not in EXECUTORS:
        raise ValueError(f"expected NEM_EXECUTOR to be {' or '.join(EXECUTORS)}, found {kind!r}; set it or unset it")
    with tqdm(total=total, desc=label, mininterval=1 if sys.stderr.isatty() else 60) as bar:
        yield from EXECUTORS[kind](Jobs(function, items, bar, reads, lost or _refuse))
