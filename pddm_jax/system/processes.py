"""Work in several processes, in order."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """The function of each item, in order; worked out by some processes, or by this one where 1 is enough.

    Where it ends early, what was begun is finished, and the rest is not begun.

    Raises:
        OSError: a process was killed.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    # They are forked from a server that has imported all and has no threads, as this process may have.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, function.__module__])
    with ProcessPoolExecutor(workers, context, _begin) as pool:
        try:
            yield from pool.map(function, items)
        except BrokenProcessPool as error:
            raise OSError("a process of this run was killed, such as for want of memory") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave an interrupt from the keyboard to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
