"""Parallel workers whose results come in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, TypeVar

import cv2

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def map_in_order(
    pool: Executor, function: Callable[[_Task], _Result], tasks: Iterable[_Task], ahead: int
) -> Iterator[_Result]:
    """Results in the order of the tasks; at most ``ahead`` of them wait in memory."""
    futures: deque[Future[_Result]] = deque()
    try:
        for task in tasks:
            futures.append(pool.submit(function, task))
            if len(futures) >= ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


class SpawnedWorkers(ProcessPoolExecutor):
    """Spawned processes that ignore Ctrl-C, which reaches the whole terminal, and that end with their parent.

    Spawned, not forked, because the caller may have threads and a GPU open.

    Args:
        workers: how many processes.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, multiprocessing.get_context("spawn"), _start_worker)

    def submit(self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Schedule a call; may start a worker."""
        # Workers start in here and inherit the blocked signal; in the parent it is only delayed.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(function, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    # A pool's workers wait for tasks forever if their parent is killed.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
