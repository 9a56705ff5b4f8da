"""A worker: a process that claims trials and trains them. It can be killed at any moment."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import optuna
import torch
from optuna.study import Study

from nas.architecture.cost import Cost, Shape, add_to_cache
from nas.console import TERMINATED, deferred_sigterm, make_printable
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.errors import UserError, describe_error
from nas.study.execution.trial_session import TrialSession
from nas.study.experiment import Experiment
from nas.study.optimization.problem import NoCandidateLeftError, check_unseen
from nas.study.storage.heartbeat import Lease
from nas.study.storage.owner import Owner
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, count, lease_of, polling_interval, requeue_failed
from nas.training.allocator import trim_heap
from nas.training.devices import use_threads

KEPT_BYTES = 10**9
"""Memory that a worker may keep from one trial to the next, so that small networks need not allocate it anew."""

FAILED = 70
"""Exit code of a worker that raised an error, which it has sent."""

Send = Callable[[str, object], None]
"""Sends a message to the coordinator: its kind and content."""


def worker_main(
    experiment: Experiment, total: int, device: str, known_costs: Mapping[Shape, Cost], connection: Connection
) -> None:
    """Run a worker process.

    It ends when its coordinator ends. Its own death loses at most the current epoch.

    Args:
        experiment: the study.
        total: number of trials that are to be done, by all workers.
        device: to train on.
        known_costs: of blocks, so that the worker need not count them.
        connection: to the coordinator.
    """

    def send(kind: str, content: object) -> None:
        try:
            connection.send((kind, content))
        except (BrokenPipeError, OSError):
            os._exit(1)

    make_printable()
    with deferred_sigterm() as should_stop:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        add_to_cache(known_costs)
        try:
            _run(experiment, total, device, send, should_stop)
        except UserError as error:
            send("error", str(error))
        except NoCandidateLeftError:
            send("exhausted", None)
        except (Exception, SystemExit) as error:  # a block of the user's own may call sys.exit
            failure = describe_error(error)
            _log_failure(experiment, failure)
            send("failed", failure)
            os._exit(FAILED)
        send("done", None)  # an end without a message is a death, whatever its exit code


def failure_log(experiment: Experiment) -> Path:
    """The file of the tracebacks of this study's workers."""
    return experiment.folder / "errors.log"


def _log_failure(experiment: Experiment, title: str) -> None:
    """Append the traceback of the error that is handled; a failure to write it changes nothing."""
    with suppress(OSError), failure_log(experiment).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {title}\n{traceback.format_exc()}\n")


def _run(experiment: Experiment, total: int, device: str, send: Send, should_stop: Callable[[], bool]) -> None:
    """Claim and run trials until the study is done."""
    people, held_out = _load_people(experiment, device)
    study = retry_while_unavailable(experiment.masked_url, lambda: experiment.open_existing(experiment.sampler()))
    store = StudyStore(study)
    lease = lease_of(study, device)
    store.retry(lease.start)
    while (trial := _next_trial(store, experiment, total, lease, send, should_stop)) is not None:
        plan = store.retry(lambda trial=trial: store.read_trial(trial))  # type: ignore[misc]
        started = time.monotonic()
        send("training", (plan.number, experiment.title_of(plan)))
        schedule = experiment.schedule_of(plan)
        session = TrialSession(
            study,
            trial,
            experiment,
            people,
            held_out,
            after_step=_StepReporter(schedule.steps, schedule.batch, send),
            lease=lease,
            should_stop=should_stop,
        )
        try:
            outcome = session.run()
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            store.retry(lambda: experiment.check_still_there(study))
            # The next trial gets a new process: nothing is known of the state that this one is in.
            reason = requeue_failed(study, trial, Owner.of(plan), describe_error(error))
            lease.end()
            if reason is not None:
                send("given up", (plan.number, reason, time.monotonic() - started))
            raise
        trim_heap(above=KEPT_BYTES)  # the next network may be small, and those of other workers large
        send("ended", (outcome.number, outcome.pckh, outcome.reason, outcome.images, outcome.seconds))
    lease.end()


def _load_people(experiment: Experiment, device: str) -> tuple[PackedPeople, PackedPeople]:
    """Load the people to train on and to evaluate on, after setting up the device."""
    if device == "cpu":
        # Small networks slow down on several threads; several workers do not.
        use_threads(1)
    else:
        torch.cuda.set_device(device)  # so that nothing is allocated on another worker's GPU
    size = experiment.config.data.input_size
    people = fit_to_input(experiment.load_people("train", device), size)
    held_out = fit_to_input(experiment.load_people("holdout", device), size)
    return people, held_out


def _next_trial(
    store: StudyStore,
    experiment: Experiment,
    total: int,
    lease: Lease,
    send: Send,
    should_stop: Callable[[], bool],
) -> optuna.Trial | None:
    """Claim the next trial, waiting while others run the last ones; None once the study is done.

    The process ends if the coordinator has ended, or if it should stop.
    """
    waiting_since: float | None = None
    next_claim = 0.0
    while True:
        if coordinator_ended():
            os._exit(1)
        if should_stop():
            lease.end()
            os._exit(TERMINATED)
        if (pause := next_claim - time.monotonic()) > 0:
            time.sleep(min(1.0, pause))
            continue
        store.retry(lambda: experiment.check_still_there(store.study))
        trial = claim(
            store.study,
            total,
            experiment.space.choices,
            lease,
            before_proposal=lambda: check_unseen(experiment.problem, store.study),
        )
        if trial is not None or store.retry(lambda: _is_done(store.study, total)):
            return trial
        store.release_connections()
        send("waiting", None)
        now = time.monotonic()
        waiting_since = now if waiting_since is None else waiting_since
        next_claim = now + polling_interval(now - waiting_since)


def _is_done(study: Study, total: int) -> bool:
    return count(study).done >= total


def coordinator_ended() -> bool:
    """Whether the coordinator has ended; it need not be the parent process."""
    coordinator = parent_process()
    return coordinator is not None and not coordinator.is_alive()


class _StepReporter:
    """Called after each step: sends the progress now and then, and ends the process if its coordinator has ended."""

    def __init__(self, steps: int, batch: int, send: Send) -> None:
        self.steps, self.batch, self.send = steps, batch, send
        self.last_time, self.last_step = time.monotonic(), 0

    def __call__(self, step: int) -> None:
        now = time.monotonic()
        if now - self.last_time < 0.5:
            return
        if coordinator_ended():
            os._exit(1)
        rate = (step - self.last_step) * self.batch / (now - self.last_time)
        self.last_time, self.last_step = now, step
        self.send("step", (step / self.steps, rate))
