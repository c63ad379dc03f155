"""Where jobs run: one after another, in processes, or (a seam) wherever else.

Jobs are values in and values out; only the caller writes files. ``NEM_EXECUTOR`` (a name of :data:`EXECUTORS`) and
``NEM_WORKERS`` choose where; neither may change a byte of any result.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
Bar: TypeAlias = "tqdm[Any]"
Executor = Callable[[Callable[[Any], Any], Sequence[Any], Bar], Iterator[tuple[int, Any]]]
"""Takes a function that can be imported by name, its arguments, and the bar that :func:`progress` moves; yields
``(number of the item, result)`` in order of completion, with a bounded number of items in flight."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read by libraries that a worker loads
_report: Callable[[int], object] | None = None


def one_thread() -> ExitStack:
    """Keep this process to one thread, BLAS too, until the result is closed: some sums change with their number."""
    undo = ExitStack()
    undo.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(1)
    undo.enter_context(threadpool_limits(1))
    return undo


def _start_worker(counter: Any) -> None:  # noqa: ANN401 - a shared integer
    """Prepare a fresh process, which ends when its parent is gone: a killed parent cannot tell its workers to stop."""

    def count(amount: int) -> None:
        with counter.get_lock():
            counter.value += amount

    def end_with_the_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

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
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ValueError("expected a CUDA device, found none; set device in params.yaml to auto or cpu")
    return "cuda" if available and wanted != "cpu" else "cpu"


def workers() -> int:
    """Return the number of worker processes: ``NEM_WORKERS`` (a ValueError refuses all but integers), or one a core."""
    text = os.environ.get("NEM_WORKERS", "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"expected NEM_WORKERS to be a positive integer, found {text!r}; set it to one or unset it")
    return int(text)


def _serial(function: Callable[[Item], Result], items: Sequence[Item], bar: Bar) -> Iterator[tuple[int, Result]]:
    """Run jobs here, one after another."""
    with one_thread() as undo:
        undo.callback(_report_to, None)
        _report_to(bar.update)
        for number, item in enumerate(items):
            yield number, function(item)


def _processes(function: Callable[[Item], Result], items: Sequence[Item], bar: Bar) -> Iterator[tuple[int, Result]]:
    """Run jobs in processes."""
    count = min(workers(), len(items))
    if count <= 1:
        yield from _serial(function, items, bar)
        return
    pending, upcoming = dict[Future[Result], int](), iter(enumerate(items))
    with ExitStack() as undo:
        undo.callback(os.environ.update, {name: os.environ[name] for name in THREADS if name in os.environ})
        for name in THREADS:  # what workers inherit; undone in the reverse order
            undo.callback(os.environ.pop, name, None)
            os.environ[name] = "1"
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", 0)
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(counter,))
        undo.callback(pool.shutdown, cancel_futures=True)
        try:
            while True:
                # A window, so that neither arguments nor results of many jobs wait in memory.
                while len(pending) < 2 * count + 2 and (item := next(upcoming, None)) is not None:
                    pending[pool.submit(function, item[1])] = item[0]
                if not pending:
                    return
                done = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED).done
                bar.update(counter.value - bar.n)
                for future in done:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool as error:
            what = "expected every worker to finish, found one dead (killed for memory?); run again: it goes on from"
            raise ChildProcessError(f"{what} what is kept. Fewer workers need less memory: NEM_WORKERS=1") from error


EXECUTORS: dict[str, Executor] = {"serial": _serial, "process": _processes}


def run(function: Callable[[Item], Result], items: Sequence[Item], *,
        total: int, label: str, where: str | None = None) -> Iterator[tuple[int, Result]]:  # fmt: skip
    """Yield ``(number of the item, result)`` as jobs finish; no result is kept alive here.

    The function must be importable by name, since processes are spawned. The bar called ``label`` goes to ``total``, in
    the units that the jobs report through :func:`progress`; ``where`` is an executor that nobody may change. A
    ValueError refuses an unknown one and what is no number of workers; ChildProcessError says that a worker died.
    """
    kind = where or os.environ.get("NEM_EXECUTOR", "process")
    if kind not in EXECUTORS:
        raise ValueError(f"expected NEM_EXECUTOR to be {' or '.join(EXECUTORS)}, found {kind!r}; set it or unset it")
    with tqdm(total=total, desc=label, mininterval=1 if sys.stderr.isatty() else 60) as bar:
        yield from EXECUTORS[kind](function, items, bar)
