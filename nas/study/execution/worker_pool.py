"""The coordinator of a search: starts workers, replaces those that die, and reports their progress.

It holds no state of the search: which trials are done or running, and who runs them, is in the storage. A trial whose
process has ended is requeued by the next worker that asks for one.
"""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from optuna.trial import TrialState

from nas.architecture.cost import cached_costs
from nas.errors import TerminatedError, UserError
from nas.study.execution import worker
from nas.study.execution.worker import failure_log, worker_main
from nas.study.experiment import Experiment
from nas.study.storage.backend import database_file
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import purge_dead_workers, requeue_stale_trials

GRACE_SECONDS = float(os.environ.get("HOURGLASS_GRACE", "20"))
"""Time that workers have to requeue their trials after a SIGTERM; schedulers kill after 30 s or more."""

MAX_RESTARTS = 5
"""How often a worker is replaced that dies while no worker trains for an epoch. After that, the machine is at fault and
not a trial."""

SAMPLED_NETWORKS = 1000
"""Networks whose blocks are counted before workers start, so that none counts them while the others wait."""

PRELOADED = (
    "alembic.command",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "sympy",
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
)
"""Modules that the first trial of a worker imports, which takes seconds."""

CLEANUP_SECONDS = 10.0
"""How long an unavailable database is waited for at the end of a search that was stopped."""


@dataclass
class WorkerStatus:
    """What the coordinator knows of one worker.

    Attributes:
        index: its number, from 0.
        device: that it trains on.
        trial: number of the trial that it trains, or None.
        network: of that trial, in words.
        done: fraction of the trial's schedule.
        rate: images per second.
        note: what it does while it trains nothing.
        first_done: ``done`` when the worker first reported it; above 0 for a resumed trial.
    """

    index: int
    device: str
    trial: int | None = None
    network: str = ""
    done: float = 0.0
    rate: float = 0.0
    note: str = "starting"
    first_done: float | None = None

    @property
    def advanced(self) -> float:
        """The fraction of the schedule that this worker has trained."""
        return 0.0 if self.first_done is None else self.done - self.first_done


@dataclass
class PoolProgress:
    """What the coordinator knows of the search.

    Attributes:
        workers: by index.
        ended: (number, pckh, reason) of the trials that have ended since the pool started, in order.
        images: trained on since the pool started.
        trial_seconds: durations of the trials that have ended since the pool started.
        exhausted: whether every network within the budget has been tried.
    """

    workers: list[WorkerStatus]
    ended: list[tuple[int, float | None, str | None]] = field(default_factory=list)
    images: int = 0
    trial_seconds: list[float] = field(default_factory=list)
    exhausted: bool = False

    def update(self, index: int, kind: str, content: Any) -> None:
        """Apply a message of a worker."""
        status = self.workers[index]
        if kind == "training":
            status.trial, status.network = content
            status.done, status.rate, status.note, status.first_done = 0.0, 0.0, "", None
        elif kind == "step":
            status.done, status.rate = content
            if status.first_done is None:
                status.first_done = status.done
        elif kind == "exhausted":
            self.exhausted, status.trial, status.note = True, None, "all networks are tried"
        elif kind == "waiting":
            status.trial, status.note = None, "waiting for the others"
        elif kind == "given up":
            number, reason, seconds = content
            status.trial = None
            self.ended.append((number, None, reason))
            self.trial_seconds.append(seconds)
        elif kind == "ended":
            status.trial = None
            number, pckh, reason, images, seconds = content
            self.ended.append((number, pckh, reason))
            self.images += images
            self.trial_seconds.append(seconds)


def devices_for(device: str, workers: int) -> list[str]:
    """The device of each worker: the CPU, or for "cuda" the GPUs in turn."""
    if device == "cuda":
        return [f"cuda:{i % torch.cuda.device_count()}" for i in range(workers)]
    return [device] * workers


def context_for(devices: Sequence[str]) -> ForkServerContext | SpawnContext:
    """How workers on these devices are started.

    On Linux CPUs, workers are forked from a server process that has imported what they need; it starts importing now.
    CUDA cannot be used after a fork, so workers on GPUs are spawned.
    """
    if sys.platform != "linux" or set(devices) != {"cpu"}:
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([worker.__name__, *PRELOADED])
    with _blocked_signals(), _short_temporary_folder():
        forkserver.ensure_running()
    return context


_LONGEST_FOLDER = 70
"""Bytes of the temporary folder's path: that of a socket in it may have 107, of which multiprocessing adds up to 33."""


@contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """Let multiprocessing make its folder for sockets in a shorter path where that of batch systems is too long."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) <= _LONGEST_FOLDER:
        yield
        return
    tempfile.tempdir = next((short for short in ("/tmp", "/var/tmp") if os.access(short, os.W_OK)), usual)
    try:
        multiprocessing.util.get_temp_dir()  # made once a process, and remembered
        yield
    finally:
        tempfile.tempdir = usual


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM, so that processes started meanwhile inherit the block.

    Ctrl-C is handled by the coordinator only. SIGTERM stays pending until a worker can handle it, and never ends the
    server process that forks workers.
    """
    resource_tracker.ensure_running()  # starting it with the first process would lift the block
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def search(
    experiment: Experiment,
    total: int,
    devices: list[str],
    show: Callable[[PoolProgress], None],
    interval: float = 0.5,
) -> PoolProgress:
    """Run workers until ``total`` trials of the study are done.

    Args:
        experiment: the study, which exists in its storage.
        total: number of trials, of all workers and runs of the command.
        devices: one for each worker.
        show: called after each message of a worker, and every ``interval`` seconds.
        interval: in seconds.

    Raises:
        UserError: workers keep dying, or a worker reported an error.
        KeyboardInterrupt: after workers were ended and their trials requeued.
        TerminatedError: after a SIGTERM; the workers have saved and requeued their trials.
    """
    pool = WorkerPool(experiment, total, devices)
    previous_handler = signal.signal(signal.SIGTERM, pool.terminate)
    try:
        show(pool.progress)
        pool.start()
        while pool.is_running:
            pool.receive(interval)
            show(pool.progress)
        pool.raise_errors()
    except BaseException as error:
        pool.kill()
        if isinstance(error, KeyError):  # Optuna's, if the study was deleted: says so
            _cleanup(experiment, CLEANUP_SECONDS)
        with suppress(UserError):  # the database stays unavailable: the leases of the trials will expire
            _cleanup(experiment, CLEANUP_SECONDS)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
    _cleanup(experiment)
    return pool.progress


class WorkerPool:
    """The worker processes of a search.

    Args:
        experiment: the study.
        total: number of trials that are to be done.
        devices: one for each worker.

    Attributes:
        progress: what the workers have reported.
    """

    def __init__(self, experiment: Experiment, total: int, devices: list[str]) -> None:
        self.experiment, self.total, self.devices = experiment, total, devices
        self.progress = PoolProgress([WorkerStatus(i, device) for i, device in enumerate(devices)])
        self._context = context_for(devices)
        self._processes: dict[int, tuple[BaseProcess, Connection]] = {}
        self._restarts = [0] * len(devices)
        self._failures: dict[int, str] = {}  # what the current process of a worker has raised, or "" once it is done
        self._one_epoch = 1 / experiment.config.short_schedule().epochs
        self._error: str | None = None
        self._deadline: float | None = None  # after a SIGTERM

    @property
    def is_running(self) -> bool:
        """Whether workers are running, and may go on."""
        return bool(self._processes) and (self._deadline is None or time.monotonic() <= self._deadline)

    def start(self) -> None:
        """Start all workers."""
        self.experiment.sample(SAMPLED_NETWORKS)
        self._known_costs = cached_costs()
        for index in range(len(self.devices)):
            self._start(index)

    def _start(self, index: int) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=worker_main,
            args=(self.experiment, self.total, self.devices[index], self._known_costs, theirs),
            daemon=True,
            name=f"worker-{index}",
        )
        with _blocked_signals():
            process.start()
            self._processes[index] = (process, ours)
        theirs.close()

    def receive(self, timeout: float) -> None:
        """Handle the workers' messages, and the ends of workers; wait ``timeout`` seconds for one."""
        ready = wait([connection for _, connection in self._processes.values()], timeout=timeout)
        for index, (_, connection) in list(self._processes.items()):
            if connection not in ready:
                continue
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                self._handle_end(index)
                continue
            if kind in ("done", "failed", "error"):
                self._failures[index] = content or ""
                self._error = content if kind == "error" else self._error
                continue
            self.progress.update(index, kind, content)
            if kind == "ended" or self.progress.workers[index].advanced >= self._one_epoch:
                # Progress of any worker shows that the machine works, however often others are killed meanwhile.
                self._restarts = [0] * len(self.devices)

    def _handle_end(self, index: int) -> None:
        """Note that a worker has ended, and replace it if it died."""
        process, _ = self._processes[index]
        process.join()
        del self._processes[index]
        status = self.progress.workers[index]
        status.trial = None
        failure = self._failures.pop(index, None)
        if process.exitcode == 0 and failure is not None:
            status.note = self._error or "done"
            return
        if self._deadline is not None:
            status.note = "ended"
            return
        cause = failure or f"exit code {process.exitcode}"
        if self._restarts[index] >= MAX_RESTARTS:
            log = failure_log(self.experiment)
            remedy = f"see {log}" if failure and log.is_file() else "try --workers 1 and check the memory"
            raise UserError(
                f"worker {index} died {self._restarts[index] + 1} times without finishing an epoch, the last time with "
                f"{cause}; {remedy}, then give the same command again: it goes on with what is left"
            )
        self._restarts[index] += 1
        status.note = f"died ({cause}); restarting"
        self._start(index)

    def raise_errors(self) -> None:
        """Raise what ended the search early, once all workers have ended.

        Raises:
            TerminatedError: after a SIGTERM.
            UserError: a worker reported an error; the others have finished their trials.
        """
        if self._deadline is not None:
            raise TerminatedError
        if self._error:
            raise UserError(self._error)

    def terminate(self, *_: object) -> None:
        """Ask all workers to requeue their trials and end. A handler of SIGTERM."""
        self._deadline = self._deadline or time.monotonic() + GRACE_SECONDS
        for process, _connection in self._processes.values():
            process.terminate()

    def kill(self) -> None:
        """Kill all workers."""
        for process, _ in self._processes.values():
            process.kill()
        for process, _ in self._processes.values():
            process.join()


def _cleanup(experiment: Experiment, seconds: float | None = None) -> None:
    """Requeue the trials of workers that have ended, and delete checkpoints that nobody will resume from.

    Args:
        experiment: the study.
        seconds: how long an unavailable database is waited for; None for the default.
    """
    file = database_file(experiment.url)
    if file is not None and not file.is_file():
        return  # it was removed; opening it would create another one

    def cleanup() -> None:
        study = experiment.open_existing()
        with StudyStore(study).lock():
            requeue_stale_trials(study, stopped_on_purpose=True)
            purge_dead_workers(study)
            if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                for checkpoint in experiment.checkpoints_of(study).glob("trial-*"):
                    checkpoint.unlink(missing_ok=True)

    retry_while_unavailable(experiment.masked_url, cleanup, seconds)
