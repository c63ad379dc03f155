"""Where jobs run: one after another, in processes, or (a seam) wherever else.

An executor maps a function over jobs and yields results as they come. Jobs are values and return values; only the
caller writes files. Neither the executor nor the number of workers may change a byte of any result, so neither is a
tracked parameter: ``NEM_EXECUTOR`` (``serial`` or ``process``) and ``NEM_WORKERS`` choose them.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

_counter: Any = None


def one_thread() -> None:
    """Keep this process to one thread of arithmetic: some sums change with the number of threads."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    torch.set_num_threads(1)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return
    threadpool_limits(1)


def _end_with_the_parent() -> None:
    """End this worker when its parent is gone: a killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker(counter: Any) -> None:  # noqa: ANN401 - a shared integer
    global _counter  # noqa: PLW0603 - one per worker process
    _counter = counter
    one_thread()
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_end_with_the_parent, daemon=True).start()


def progress(amount: int) -> None:
    """Report finished work from inside a job."""
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += amount


def workers() -> int:
    """Return the number of worker processes: ``NEM_WORKERS``, or one per core.

    Raises:
        ValueError: the variable is not a positive integer.
    """
    text = os.environ.get("NEM_WORKERS", "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"expected NEM_WORKERS to be a positive integer, found {text!r}")
    return int(text)


def run(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, total: int, label: str
) -> Iterator[tuple[int, Result]]:
    """Yield ``(number of the job, result)`` as jobs finish.

    Args:
        function: importable by name, since processes are spawned.
        jobs: its arguments.
        total: units of work that the jobs together report through :func:`progress`.
        label: shown at the progress bar.

    Raises:
        ValueError: an unknown executor.
        ChildProcessError: a worker died, for instance killed for memory.
    """
    kind = os.environ.get("NEM_EXECUTOR", "process")
    if kind not in ("serial", "process"):
        raise ValueError(f"expected NEM_EXECUTOR to be serial or process, found {kind!r}")
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with tqdm(total=total, desc=label, mininterval=1) as bar:
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(0.5):
                bar.update(counter.value - bar.n)
            bar.update(counter.value - bar.n)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            if kind == "serial" or workers() == 1 or len(jobs) == 1:
                threads = torch.get_num_threads()
                _start_worker(counter)
                try:
                    for number, job in enumerate(jobs):
                        yield number, function(job)
                finally:
                    torch.set_num_threads(threads)
            else:
                yield from _in_processes(function, jobs, context, counter)
        finally:
            stop.set()
            thread.join()


def _in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    context: Any,  # noqa: ANN401 - a multiprocessing context
    counter: Any,  # noqa: ANN401
) -> Iterator[tuple[int, Result]]:
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    try:
        with ProcessPoolExecutor(
            min(workers(), len(jobs)), mp_context=context, initializer=_start_worker, initargs=(counter,)
        ) as pool:
            futures = {pool.submit(function, job): number for number, job in enumerate(jobs)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "expected every worker to finish, found one dead (killed for memory?); run again: it resumes from "
                    "checkpoints. Fewer workers need less memory: NEM_WORKERS=1"
                ) from error
    finally:
        for name, value in threads.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
