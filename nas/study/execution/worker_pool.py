"""Workers: processes that claim trials, train them, and can be killed at any moment.

The coordinator only starts them, restarts those that die, and shows what they say. The truth is in the storage: what is
done, what is running, by whom. A trial whose process is gone is handed back by whoever asks next.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from optuna.trial import TrialState

from nas.architecture.cost import Cost, Shape, add_to_cache, cached_costs
from nas.console import TERMINATED, deferred_sigterm
from nas.data.augmentation import fit_to_input
from nas.errors import TerminatedError, UserError
from nas.study.execution.trial_session import run_trial
from nas.study.experiment import Experiment, database_file
from nas.study.optimization.samplers import NoCandidateLeftError
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import (
    claim,
    count,
    lease_of,
    mask_password,
    polling_interval,
    purge_dead_workers,
    release_connections,
    requeue_stale_trials,
    study_lock,
)
from nas.training.allocator import trim_heap
from nas.training.devices import use_threads

GRACE = float(os.environ.get("HOURGLASS_GRACE", "20"))
"""Seconds that workers have to hand their trials back after a SIGTERM; schedulers kill after 30 or more."""

RESTARTS = 5
"""How often a worker that dies before it has trained for an epoch is replaced; after that something is wrong with the
machine, not with a trial."""

SAMPLED = 1000
"""Networks whose blocks are counted before any worker starts, so that none counts them while all others wait."""

NEEDED = (
    "alembic.command",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "sympy",
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
)
"""What a worker's first trial imports: seconds of each start."""

_KEPT = 10**9
"""Bytes that a worker may keep from one trial to the next: small networks' memory need not be taken anew each time."""

TIDY = 10.0
"""Seconds that a database which is away is waited for at the end of a search that is broken off."""


@dataclass
class WorkerView:
    """What the coordinator knows of one worker.

    Attributes:
        index: its number, from 0.
        device: what it trains on.
        trial: number of the trial that it is training, or None.
        network: that trial's network in words.
        done: fraction of the schedule that this trial has done.
        rate: pictures a second.
        note: what it does when it is not training.
        began: that fraction when it was first heard of.
    """

    index: int
    device: str
    trial: int | None = None
    network: str = ""
    done: float = 0.0
    rate: float = 0.0
    note: str = "starting"
    began: float | None = None

    @property
    def advanced(self) -> float:
        """The fraction of the schedule that was done in this sitting."""
        return 0.0 if self.began is None else self.done - self.began


@dataclass
class PoolProgress:
    """What the coordinator knows of the search.

    Attributes:
        workers: by index.
        ended: (number, pckh, reason) of trials that ended in this sitting, in order.
        images: pictures trained on in this sitting.
        trial_seconds: of the trials that ended in this sitting.
    """

    workers: list[WorkerView]
    ended: list[tuple[int, float | None, str | None]] = field(default_factory=list)
    images: int = 0
    trial_seconds: list[float] = field(default_factory=list)


def devices_for(device: str, workers: int) -> list[str]:
    """The device of each worker: the CPU, or "cuda": GPUs in turn."""
    if device == "cuda":
        return [f"cuda:{i % torch.cuda.device_count()}" for i in range(workers)]
    return [device] * workers


def context_for(devices: Sequence[str]) -> ForkServerContext | SpawnContext:
    """How workers on these devices are started.

    On Linux CPUs they are forked from a server that imports what they need, from now on, beside this process. CUDA
    does not outlive a fork once anything has asked for it, so there they start anew.
    """
    if sys.platform != "linux" or set(devices) != {"cpu"}:
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, *NEEDED])
    with _signals_held():
        forkserver.ensure_running()
    return context


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let processes inherit that Ctrl-C and SIGTERM are blocked.

    Ctrl-C is the coordinator's alone, where it only waits for this. A SIGTERM waits until a worker can note it, and
    never ends the server that forks them.
    """
    resource_tracker.ensure_running()  # starting it with the first process would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def search(
    experiment: Experiment,
    total: int,
    devices: list[str],
    show: Callable[[PoolProgress], None],
    interval: float = 0.5,
) -> PoolProgress:
    """Run workers until the study has ``total`` trials that are done.

    Args:
        experiment: the study; created in its storage before.
        total: trials, over all workers and sittings.
        devices: one worker for each.
        show: called after every message, and every ``interval`` seconds.
        interval: seconds.

    Raises:
        UserError: workers keep dying, or the space is exhausted.
        KeyboardInterrupt: after the workers were ended and their trials handed back.
        TerminatedError: after a SIGTERM: the workers have saved their trials as they were, and handed them back.
    """
    context = context_for(devices)
    progress = PoolProgress([WorkerView(i, device) for i, device in enumerate(devices)])
    processes: dict[int, tuple[BaseProcess, Connection]] = {}
    restarts = [0] * len(devices)
    epoch = 1 / experiment.config.short_schedule().epochs
    trouble: str | None = None
    deadline: float | None = None  # after a SIGTERM

    def start(index: int) -> None:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_worker_main,
            args=(experiment, total, devices[index], known, theirs),
            daemon=True,
            name=f"worker-{index}",
        )
        with _signals_held():
            process.start()
            processes[index] = (process, mine)
        theirs.close()

    def pass_on(*_: object) -> None:
        nonlocal deadline
        deadline = deadline or time.monotonic() + GRACE
        for process, _pipe in processes.values():
            process.terminate()

    before_us = signal.signal(signal.SIGTERM, pass_on)
    try:
        show(progress)
        experiment.sample(SAMPLED)
        known = cached_costs()
        for index in range(len(devices)):
            start(index)
        while processes:
            if deadline is not None and time.monotonic() > deadline:
                break
            ready = wait([connection for _, connection in processes.values()], timeout=interval)
            for index, (process, connection) in list(processes.items()):
                if connection not in ready:
                    continue
                try:
                    kind, content = connection.recv()
                    if kind == "trouble":
                        trouble = content
                    else:
                        _receive(progress, progress.workers[index], kind, content)
                        if kind == "ended" or progress.workers[index].advanced >= epoch:
                            restarts[index] = 0
                except (EOFError, OSError):
                    process.join()
                    del processes[index]
                    progress.workers[index].trial = None
                    if process.exitcode == 0:
                        progress.workers[index].note = trouble or "done"
                    elif deadline is not None:
                        progress.workers[index].note = "ended"
                    elif restarts[index] < RESTARTS:
                        restarts[index] += 1
                        progress.workers[index].note = f"died (exit code {process.exitcode}); starting again"
                        start(index)
                    else:
                        raise UserError(
                            f"worker {index} died {restarts[index] + 1} times, the last time with exit code "
                            f"{process.exitcode}; its message stands above; try --workers 1 and look at the memory"
                        ) from None
            show(progress)
        if deadline is not None:
            raise TerminatedError
        if trouble:  # the others have finished what they were training
            raise UserError(trouble)
    except BaseException:
        _end(processes)
        with suppress(UserError):  # a database that stays away: the trials' leases end by themselves
            _cleanup(experiment, TIDY)
        raise
    finally:
        signal.signal(signal.SIGTERM, before_us)
    _cleanup(experiment)
    return progress


def _end(processes: dict[int, tuple[BaseProcess, Connection]]) -> None:
    for process, _ in processes.values():
        process.kill()
    for process, _ in processes.values():
        process.join()


def _receive(progress: PoolProgress, worker: WorkerView, kind: str, content: Any) -> None:
    if kind == "training":
        worker.trial, worker.network = content
        worker.done, worker.rate, worker.note, worker.began = 0.0, 0.0, "", None
    elif kind == "step":
        worker.done, worker.rate = content
        if worker.began is None:
            worker.began = worker.done
    elif kind == "waiting":
        worker.trial, worker.note = None, "waiting for the others"
    elif kind == "ended":
        worker.trial = None
        number, pckh, reason, images, seconds = content
        progress.ended.append((number, pckh, reason))
        progress.images += images
        progress.trial_seconds.append(seconds)


def _cleanup(experiment: Experiment, patience: float | None = None) -> None:
    """Hand back what the workers just ended were training, and drop checkpoints that nobody will take up."""

    file = database_file(experiment.url)
    if file is not None and not file.is_file():
        return  # removed meanwhile; opening it would make another

    def tidy() -> None:
        study = experiment.open_study()
        with study_lock(study._storage):
            requeue_stale_trials(study, ended_by_us=True)
            purge_dead_workers(study)
            if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                for stale in experiment.checkpoints_of(study).glob("trial-*"):
                    stale.unlink(missing_ok=True)

    retry_while_unavailable(mask_password(experiment.url), tidy, patience)


def _worker_main(experiment: Experiment, total: int, device: str, known: Mapping[Shape, Cost], say: Connection) -> None:
    """A worker's life. Its coordinator's death ends it; its own death loses at most the epoch that it was in."""
    with deferred_sigterm() as asked_to_stop:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        add_to_cache(known)
        _run_worker(experiment, total, device, say, asked_to_stop)


def _run_worker(
    experiment: Experiment, total: int, device: str, say: Connection, asked_to_stop: Callable[[], bool]
) -> None:
    def tell(kind: str, content: object) -> None:
        try:
            say.send((kind, content))
        except (BrokenPipeError, OSError):
            os._exit(1)

    try:
        if device == "cpu":
            # Small networks on many threads crawl; workers side by side do not.
            use_threads(1)
        else:
            torch.cuda.set_device(device)  # nothing of this worker's on another's GPU
        size = experiment.config.data.input_size
        people = fit_to_input(experiment.load_people("train", device), size)
        held_out = fit_to_input(experiment.load_people("holdout", device), size)
        url = mask_password(experiment.url)
        study = retry_while_unavailable(url, lambda: experiment.open_study(experiment.sampler()))
        lease = lease_of(study, device)
        retry_while_unavailable(url, lease.start)
        waiting_since = next_look = 0.0
        while True:
            if _orphaned():
                os._exit(1)
            if asked_to_stop():
                lease.end()
                os._exit(TERMINATED)
            if (early := next_look - time.monotonic()) > 0:
                time.sleep(min(1.0, early))
                continue
            trial = claim(study, total, experiment.space.choices, lease)
            if trial is None:
                if retry_while_unavailable(url, lambda: count(study)).done >= total:
                    break
                release_connections(study._storage)
                tell("waiting", None)
                now = time.monotonic()
                waiting_since = waiting_since or now
                next_look = now + polling_interval(now - waiting_since)
                continue
            waiting_since = 0.0
            frozen = retry_while_unavailable(url, partial(study._storage.get_trial, trial._trial_id))
            tell("training", (trial.number, experiment.title_of(frozen)))
            schedule = experiment.schedule_of(frozen)
            clock = _StepClock(schedule.steps, schedule.batch, tell)
            outcome = run_trial(study, trial, experiment, people, held_out, clock, lease, asked_to_stop)
            trim_heap(above=_KEPT)  # the next network may be small, and other workers' large
            tell("ended", (outcome.number, outcome.pckh, outcome.reason, outcome.images, outcome.seconds))
        lease.end()
    except UserError as error:
        tell("trouble", str(error))
    except NoCandidateLeftError:
        tell("trouble", "no untried network within budget was found in the space; lower --trials or widen the space")
    except Exception:
        traceback.print_exc()
        os._exit(70)


def _orphaned() -> bool:
    """Whether the coordinator is gone: the parent of this process need not be it."""
    coordinator = parent_process()
    return coordinator is not None and not coordinator.is_alive()


class _StepClock:
    """Called after each step: reports now and then, and ends the process when its coordinator is gone."""

    def __init__(self, steps: int, batch: int, tell: Callable[[str, object], None]) -> None:
        self.steps, self.batch, self.tell = steps, batch, tell
        self.last, self.last_step = time.monotonic(), 0

    def __call__(self, step: int) -> None:
        now = time.monotonic()
        if now - self.last < 0.5:
            return
        if _orphaned():
            os._exit(1)
        rate = (step - self.last_step) * self.batch / (now - self.last)
        self.last, self.last_step = now, step
        self.tell("step", (step / self.steps, rate))
