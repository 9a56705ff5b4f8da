"""Workloads in processes of their own: one, or several that run at the same time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import torch

from nas.benchmark.workloads import Workload
from nas.training.allocator import trim_heap
from nas.training.devices import use_threads

_JOIN_TIMEOUT = 20  # seconds until a process that does not end is killed


class SubprocessWorkload:
    """A workload in a process of its own, which is stopped (SIGSTOP) with all its children while it is idle.

    The process is started in the background: call :meth:`wait_until_ready` before anything else.

    Args:
        create: creates the workload in the process; picklable.
        threads: of PyTorch in the process.
        retain_memory: whether the process keeps freed memory, as this project's do
            (:func:`nas.training.devices.use_threads`).
        trim: whether the process returns unused memory to the system after each run.
    """

    def __init__(
        self, create: Callable[[], Workload], threads: int, *, retain_memory: bool = True, trim: bool = False
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, create, threads, retain_memory, trim))
        self._process.start()
        child.close()

    def wait_until_ready(self) -> None:
        """Wait until the workload is created. Several can be created at the same time."""
        self.finish()

    def start(self, steps: int) -> None:
        """Start to run a number of steps."""
        os.killpg(self._pid, signal.SIGCONT)
        self._connection.send(steps)

    def finish(self) -> float:
        """Wait for what :meth:`start` started; return the seconds that it took."""
        seconds = self._receive()
        os.killpg(self._pid, signal.SIGSTOP)
        return seconds

    def run(self, steps: int) -> float:
        """Run a number of steps; return the seconds that they took."""
        self.start(steps)
        return self.finish()

    def close(self) -> None:
        """Release all resources."""
        with suppress(ProcessLookupError, OSError):  # the process has ended, or is not yet a process group
            os.killpg(self._pid, signal.SIGCONT)
            self._connection.send(None)
        self._process.join(_JOIN_TIMEOUT)
        if self._process.is_alive():
            os.killpg(self._pid, signal.SIGKILL)
            self._process.join()
        self._connection.close()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _receive(self) -> float:
        try:
            answer = self._connection.recv()
        except EOFError as error:
            self._process.join()
            raise MemoryError(f"a process of the benchmark ended with exit code {self._process.exitcode}") from error
        if isinstance(answer, str):
            self._process.join()
            raise (MemoryError if "out of memory" in answer or "alloc" in answer else RuntimeError)(answer)
        return float(answer)


class ConcurrentWorkloads:
    """Several workloads of the same kind that run at the same time, each as a :class:`SubprocessWorkload`.

    Args:
        create: creates one of them; picklable.
        count: number of processes.
        threads: of PyTorch in each.
        trim: whether they return unused memory to the system after each run.
    """

    def __init__(self, create: Callable[[], Workload], count: int, threads: int = 1, *, trim: bool = False) -> None:
        self._workloads = [SubprocessWorkload(create, threads, trim=trim) for _ in range(count)]

    def wait_until_ready(self) -> None:
        """Wait until all are created."""
        for workload in self._workloads:
            workload.wait_until_ready()

    def run(self, steps: int) -> float:
        """Run a number of steps, divided among all; return the seconds that this takes at the sum of their rates."""
        share = max(1, steps // len(self._workloads))
        for workload in self._workloads:
            workload.start(share)
        return steps / sum(share / workload.finish() for workload in self._workloads)

    def close(self) -> None:
        """Release all resources."""
        for workload in self._workloads:
            workload.close()


def _serve(
    connection: Connection, create: Callable[[], Workload], threads: int, retain_memory: bool, trim: bool
) -> None:
    """Main function of a :class:`SubprocessWorkload`'s process."""
    os.setpgrp()  # so that signals reach a DataLoader's workers too
    (use_threads if retain_memory else torch.set_num_threads)(threads)
    try:
        workload = create()
        connection.send(0.0)
        while (steps := connection.recv()) is not None:
            seconds = workload.run(steps)
            if trim:
                trim_heap()
            connection.send(seconds)
        workload.close()
    except BaseException:
        connection.send(traceback.format_exc())
