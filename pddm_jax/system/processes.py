"""A parallel map over processes that keeps the order, and the number of cores."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

from pddm_jax.system.signals import ENDING

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Map a function over items by `workers` processes, and yield the results in order.

    With one worker or one item, this process does the work. If the iteration ends early, items that were
    begun are finished and the others are dropped.

    Raises:
        OSError: a worker process was killed.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    start_tracker()
    # A fork server has imported everything and has no threads; this process may have some.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, function.__module__])
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        try:
            with _undisturbed():
                results = pool.map(function, items)  # starts the processes
            yield from results
        except BrokenProcessPool as error:
            raise OSError("a worker process was killed (out of memory?)") from error
        finally:
            pool.shutdown(cancel_futures=True)


def start_tracker() -> None:
    """Start the process that removes the semaphores and shared memory of workers, without its warnings.

    When a command is killed, or reading ends early, some are left. The tracker removes them, and would warn
    of leaks after the last line of the command.
    """
    name = "PYTHONWARNINGS"
    former = os.environ.get(name)
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ[name] = f"{former},{quiet}" if former else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP after the block: processes that are being started need their parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _start_worker() -> None:
    """Ignore Ctrl-C, which the parent handles, and end when the parent ends for any reason."""
    if hasattr(signal, "pthread_sigmask"):  # inherited from `_undisturbed`
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
