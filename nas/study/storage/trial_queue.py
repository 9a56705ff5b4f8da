"""The queue of trials that workers share: claiming, owners, stale trials, requeueing.

What must not happen twice (proposing, claiming, reporting, requeueing) happens inside :meth:`StudyStore.lock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.study.storage.engine import heartbeat_engine
from nas.study.storage.heartbeat import FORGET_SECONDS, Lease
from nas.study.storage.owner import Owner, heartbeat_process_gone, system_tag
from nas.study.storage.study_store import StudyStore, TrialLostError
from nas.study.storage.tolerant_study import LEFT_OUT, TolerantStudy

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that count towards a study's total."""

GIVEN_ATTRS = ("given", "published", "candidate", "times", "seed")
"""User attributes of a queued trial whose network was given, not proposed: what to train, and how."""

MAX_ATTEMPTS = 5
"""How often a trial's worker may die without a finished epoch in between. Then the trial is pruned: a network that
kills its worker must not do so forever."""


def lease_of(study: Study, device: str, **seconds: float) -> Lease:
    """Create a lease of this process on a study's trials, with database connections of its own; not started.

    Args:
        study: whose trials.
        device: that this process trains on.
        seconds: ``beat`` and ``lease``, if they differ from the defaults.
    """
    me = Owner.me()
    engine = heartbeat_engine(StudyStore(study).engine.url)
    return Lease(engine, study.study_name, me.host, me.pid, me.born, device, tag=system_tag(), **seconds)


@dataclass(frozen=True)
class Counts:
    """Number of trials by state."""

    complete: int
    pruned: int
    running: int
    waiting: int

    @property
    def done(self) -> int:
        """Trials that count towards the study's total."""
        return self.complete + self.pruned


def count(study: Study) -> Counts:
    """Count a study's trials by state."""
    return _count(study.get_trials(deepcopy=False))


def _count(trials: Sequence[FrozenTrial]) -> Counts:
    states = [trial.state for trial in trials]
    return Counts(
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        running=states.count(TrialState.RUNNING),
        waiting=states.count(TrialState.WAITING),
    )


def attempt_of(trial: FrozenTrial) -> int:
    """How often the trial was started since it last finished an epoch, including this time."""
    return int(trial.user_attrs.get("attempt", 1))


def first_number(trial: FrozenTrial) -> int:
    """The number under which the trial was first started."""
    return int(trial.user_attrs.get("first_number", trial.number))


def earlier_numbers(trial: FrozenTrial) -> list[int]:
    """The numbers under which the trial ran before it was requeued, the first one first."""
    numbers = trial.user_attrs.get("earlier")
    if numbers is None:
        return [first_number(trial)] if "first_number" in trial.user_attrs else []
    return [int(number) for number in numbers]


def claim(
    study: Study,
    total: int,
    distributions: Mapping[str, BaseDistribution],
    lease: Lease | None = None,
    before_proposal: Callable[[], None] = lambda: None,
) -> optuna.Trial | None:
    """Claim the next trial: draw its parameters and store its owner. Never more than ``total`` trials are done.

    Waits for the database while it is unavailable.

    Args:
        study: whose trial.
        total: number of trials that are to be done.
        distributions: of the trial's parameters.
        lease: of this worker, started. With a lease, a worker has one trial at a time.
        before_proposal: called inside the lock before a trial is created that a sampler must propose. What it raises
            passes through; no trial is left behind.

    Returns:
        the trial; None if no trial is left to start: the total is done or running.
    """
    store = StudyStore(study)
    return store.retry(lambda: _claim(store, total, distributions, lease, before_proposal))


def _claim(
    store: StudyStore,
    total: int,
    distributions: Mapping[str, BaseDistribution],
    lease: Lease | None,
    before_proposal: Callable[[], None],
) -> optuna.Trial | None:
    study = store.study
    if lease is not None and not lease.fresh():
        lease.renew()
    me = Owner.me(lease.id if lease else "")
    if not _may_claim(study, total, me):
        return None
    with store.lock(claiming=True):
        if lease is not None:
            # Claimed by an earlier attempt, whose answer was lost with the connection.
            for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if Owner.of(running) == me:
                    return store.open_trial(running)
        requeue_stale_trials(study)
        counts = count(study)
        if counts.done + counts.running >= total:
            return None
        trial = _ask(store, distributions, before_proposal)
        trial.set_user_attr("claimed_at", round(time.time(), 1))
        trial.set_user_attr("owner", me.to_dict())  # last: it marks the claim as complete
        return trial


def _ask(
    store: StudyStore, distributions: Mapping[str, BaseDistribution], before_proposal: Callable[[], None]
) -> optuna.Trial:
    """The next queued trial, or a proposed one. Queued trials that are not understood are ended as failed."""
    study = store.study
    while True:
        if isinstance(study, TolerantStudy):
            for queued, problem in study.not_understood(TrialState.WAITING):
                _leave_out(store, queued, problem)
        trial = _start_waiting(store, distributions)
        if trial is None:
            before_proposal()
            return study.ask(dict(distributions))
        # Values that were drawn for choices that it left open may be impossible together with those that it has.
        asked = store.read_trial(trial)
        drawn = study.problem(asked) if isinstance(study, TolerantStudy) else None
        if drawn is None:
            return trial
        _leave_out(store, asked, drawn)


def _leave_out(store: StudyStore, trial: FrozenTrial, problem: str) -> None:
    store.set_attrs(trial, {LEFT_OUT: problem})
    store.set_state(trial, TrialState.FAIL)


def _start_waiting(store: StudyStore, distributions: Mapping[str, BaseDistribution]) -> optuna.Trial | None:
    """Start the queued trial that was first started or queued earliest; None if there is none.

    A trial that was interrupted goes before those that were queued after it: a search with a small total, given again,
    ends what it had begun.
    """
    waiting = store.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    for queued in sorted(waiting, key=lambda trial: (first_number(trial), trial.number)):
        # A given network outside the space is trained without the space's parameters.
        outside_space = "given" in queued.user_attrs and not queued.system_attrs.get("fixed_params")
        trial = store.start_waiting(queued, {} if outside_space else distributions)
        if trial is not None:
            return trial
    return None


def _may_claim(study: Study, total: int, me: Owner) -> bool:
    """Whether waiting for the lock is worthwhile: at the end of a study, many workers ask again and again."""
    trials = study.get_trials(deepcopy=False)
    counts = _count(trials)
    if counts.done + counts.running < total:
        return True
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    return any(Owner.of(trial) == me for trial in running) or bool(_stale(study, running))


def polling_interval(waited: float) -> float:
    """Seconds until a worker that found no trial for ``waited`` seconds asks again: 1 to 10, a tenth of ``waited``.

    It loses little time, and hundreds of idle workers do not keep the last busy ones from the database.
    """
    return min(10.0, max(1.0, waited / 10))


def owns_trial(study: Study, trial: optuna.Trial, owner: Owner | None) -> bool:
    """Whether a trial is running and has this owner."""
    current = StudyStore(study).read_trial(trial)
    return current.state == TrialState.RUNNING and Owner.of(current) == owner


def report(
    study: Study,
    trial: optuna.Trial,
    owner: Owner | None,
    values: Sequence[float] | None,
    attributes: Callable[[], Mapping[str, Any]],
) -> None:
    """End a trial, once, if it still has this owner. Waits for the database while it is unavailable.

    Args:
        study: of the trial.
        trial: to end.
        owner: who trained it.
        values: its objectives; None to prune it.
        attributes: returns user attributes that are computed inside the lock.

    Raises:
        TrialLostError: the trial has another owner, or was ended by somebody else.
    """
    store = StudyStore(study)
    state = TrialState.PRUNED if values is None else TrialState.COMPLETE
    expected = None if values is None else [float(value) for value in values]
    submitted = False  # an earlier attempt may have ended the trial and lost the answer

    def attempt() -> None:
        nonlocal submitted
        with store.lock():
            if not owns_trial(study, trial, owner):
                stored = store.read_trial(trial)
                if submitted and stored.state == state and Owner.of(stored) == owner and stored.values == expected:
                    return
                raise TrialLostError
            store.set_attrs(trial, attributes())
            submitted = True
            study.tell(trial, values, state=state)

    store.retry(attempt)


def stale_trials(study: Study) -> list[FrozenTrial]:
    """The running trials whose process has ended or whose worker's lease has expired."""
    return _stale(study, study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def _stale(study: Study, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    heartbeats = StudyStore(study).heartbeats() if running else {}

    def is_stale(owner: Owner | None) -> bool:
        if owner is None or owner.gone():
            return True
        return bool(owner.worker) and (owner.worker not in heartbeats or heartbeats[owner.worker].expired)

    return [trial for trial in running if is_stale(Owner.of(trial))]


def requeue_stale_trials(study: Study, stopped_on_purpose: bool = False) -> list[int]:
    """Requeue stale trials; each one resumes from its checkpoint. Call inside the lock.

    Args:
        study: whose trials.
        stopped_on_purpose: processes of this system were stopped (Ctrl-C), which is not a failed attempt.

    Returns:
        numbers of the trials that were stale.
    """
    requeued = []
    for trial in stale_trials(study):
        owner = Owner.of(trial)
        requeue(study, trial, stopped_on_purpose and (owner is None or owner.is_local))
        requeued.append(trial.number)
    _enqueue_missing(study)
    return requeued


def requeue(study: Study, running: FrozenTrial | optuna.Trial, stopped_on_purpose: bool = False) -> str | None:
    """End a running trial as failed, and enqueue its parameters for the next worker that asks. Call inside the lock.

    Args:
        study: whose trial.
        running: the trial.
        stopped_on_purpose: this is not a failed attempt.

    Returns:
        why the trial was given up instead, and pruned; None if it was requeued.
    """
    store = StudyStore(study)
    trial = store.read_trial(running)
    attempt = attempt_of(trial) - stopped_on_purpose
    failure = trial.user_attrs.get("failure")
    reason = None
    if failure is not None and failure == trial.user_attrs.get("earlier_failure"):
        reason = f"given up: it raised {failure}, twice"
    elif attempt >= MAX_ATTEMPTS:
        reason = f"given up: its worker died {MAX_ATTEMPTS} times" + (f", after {failure}" if failure else "")
    if reason is not None:
        store.set_attrs(trial, {"reason": reason})
        store.set_state(trial, TrialState.PRUNED)
        return reason
    # Ended before it is enqueued, so that a crash in between never trains it twice; the next attempt is stored before
    # both, so that the crash does not lose it either (see _enqueue_missing).
    store.set_attrs(trial, {"reason": "its worker ended; handed back", "next_attempt": attempt + 1})
    store.set_state(trial, TrialState.FAIL)
    _enqueue_again(study, trial, attempt + 1)
    return None


def requeue_failed(study: Study, trial: optuna.Trial, owner: Owner | None, failure: str) -> str | None:
    """Requeue a trial that raised an error, with the error, if it still has this owner.

    A second attempt, in another process, tells a fault of the machine from one of the network: a trial that raises the
    same error twice is given up.

    Args:
        study: of the trial.
        trial: that raised.
        owner: who trained it.
        failure: the error, as one line.

    Returns:
        why the trial was given up; None if it was requeued, or is not this owner's any more.
    """
    store = StudyStore(study)

    def attempt() -> str | None:
        with store.lock():
            if not owns_trial(study, trial, owner):
                return None
            store.set_attrs(trial, {"failure": failure})
            return requeue(study, trial)

    return store.retry(attempt)


def given_up(study: Study) -> list[tuple[int, str]]:
    """Number and reason of the trials that were given up because their workers died or raised."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    return [(t.number, t.user_attrs["reason"]) for t in ended if "given up" in str(t.user_attrs.get("reason", ""))]


def _enqueue_again(study: Study, trial: FrozenTrial, attempt: int) -> None:
    given = "given" in trial.user_attrs
    given_attrs = {name: value for name, value in trial.user_attrs.items() if given and name in GIVEN_ATTRS}
    # A trial without an owner was abandoned while it was being claimed and may lack some parameters; if they were drawn
    # anew, it would be another network. If it had been enqueued, it is enqueued as before; otherwise it is dropped.
    params = trial.params if Owner.of(trial) is not None else trial.system_attrs.get("fixed_params", {})
    if params or given_attrs:
        history: dict[str, Any] = {
            "first_number": first_number(trial),
            "earlier": [*earlier_numbers(trial), trial.number],
        }
        if "failure" in trial.user_attrs:
            history["earlier_failure"] = trial.user_attrs["failure"]
        study.enqueue_trial(params, user_attrs={**given_attrs, "attempt": attempt, **history})


def _enqueue_missing(study: Study) -> None:
    """Enqueue trials that were ended by :func:`requeue` in a process which died before it enqueued them."""
    trials = study.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state == TrialState.FAIL and "next_attempt" in t.user_attrs]
    enqueued = {number for t in trials for number in earlier_numbers(t)} if ended else set()
    for trial in ended:
        if trial.number not in enqueued:
            _enqueue_again(study, trial, int(trial.user_attrs["next_attempt"]))


def purge_dead_workers(study: Study) -> None:
    """Remove workers whose process has certainly ended, and those without a heartbeat for a day."""
    store = StudyStore(study)
    dead = [
        worker.id
        for worker in store.heartbeats().values()
        if worker.age > FORGET_SECONDS or heartbeat_process_gone(worker)
    ]
    store.remove_workers(dead)
