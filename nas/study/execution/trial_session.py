"""One trial: what the study's parameters mean, trained under the study's schedule, told to the study."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from nas.architecture.hourglass import build_network
from nas.data.packed.reader import PackedPeople
from nas.errors import UserError
from nas.study.analysis.latency import MeasuredLatency, measure_candidate, stored_latencies
from nas.study.execution.trial_artifacts import TrainingSummary, save_artifacts
from nas.study.experiment import Experiment, finished_of, images_of, points_of
from nas.study.optimization.early_stopping import StoppingRule
from nas.study.pareto import Point, front, hypervolume
from nas.study.space.candidate import Candidate
from nas.study.storage.heartbeat import Lease
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import (
    DONE,
    Owner,
    attempt_of,
    earlier_numbers,
    masked_url,
    owns_trial,
    release_connections,
    requeue,
    study_lock,
)
from nas.training.checkpoint import AnyPath
from nas.training.devices import out_of_memory, release_memory
from nas.training.loop import Epoch, InterruptedTrainingError, TrainingHooks, TrainingResult, train
from nas.training.schedule import ScheduleConfig

HANDED_BACK = "asked to stop: handed back"
TAKEN_OVER = "taken over by another worker: result dropped"


class TrialLostError(Exception):
    """The trial is another worker's now: what this one found is of no use."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: of the trial.
        pckh: its last measured PCKh, if any.
        reason: why it ended early, or None if it ran to the end.
        images: pictures trained on in this sitting.
        seconds: this sitting took, everything included.
    """

    number: int
    pckh: float | None
    reason: str | None
    images: int
    seconds: float


def run_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    experiment: Experiment,
    people: PackedPeople,
    held_out: PackedPeople,
    after_step: Callable[[int], None] = lambda step: None,
    lease: Lease | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train the trial's candidate and tell the study how it went.

    A trial that was interrupted goes on from its last epoch's checkpoint. One that diverges, collapses, runs out of
    memory or falls out of reach of the front is told as pruned, with the reason and its curve stored. A network
    that was given, not proposed (a published baseline), always trains to the end; one over the budget is told as pruned
    then: what may not be chosen must not be among the best.

    A database that is away is waited for. A trial that was handed to another worker meanwhile, since this one gave no
    sign of life, is left to that one: nothing is told.

    Args:
        study: where the trial was claimed.
        trial: running, with all its parameters.
        experiment: the study's parts.
        people: to train on, on the device.
        held_out: to score on, on the device.
        after_step: called with the number of steps done.
        lease: under which the trial was claimed.
        asked_to_stop: asked after each step; once it says yes, the trial's state is saved as it is and the trial
            handed back, for whoever asks next.
    """
    began = time.perf_counter()
    if lease is not None:
        lease.hold(trial._trial_id)
    try:
        return _run(study, trial, experiment, people, held_out, after_step, lease, asked_to_stop, began)
    except TrialLostError:
        return Outcome(trial.number, None, TAKEN_OVER, 0, time.perf_counter() - began)
    finally:
        if lease is not None:
            lease.hold(None)


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    experiment: Experiment,
    people: PackedPeople,
    held_out: PackedPeople,
    after_step: Callable[[int], None],
    lease: Lease | None,
    asked_to_stop: Callable[[], bool],
    began: float,
) -> Outcome:
    url = masked_url(study._storage)
    frozen = retry_while_unavailable(url, lambda: study._storage.get_trial(trial._trial_id))
    owner = Owner.of(frozen)
    candidate = experiment.candidate_of(frozen)
    cost = experiment.cost(candidate)
    given = "given" in frozen.user_attrs
    attempt = attempt_of(frozen)
    seed = int(frozen.user_attrs.get("seed", experiment.config.seed))
    schedule = experiment.schedule_of(frozen)
    rule = StoppingRule(experiment.config.stopping.quantile, experiment.config.stopping.least)
    rung_epochs = experiment.config.rung_epochs()
    costs = {"params": cost.params, "madds": cost.madds, "layers": cost.layers}
    set_attrs(trial, {"candidate": candidate.to_dict(), "network": str(candidate), "seed": seed, "cost": costs})
    most = experiment.config.budget.max_latency_ms
    speed = latency_of(study, experiment, candidate, str(people.crops.device)) if most is not None else None
    slow = most is not None and speed is not None and speed.ms > most
    refusal = (
        None if given else retry_while_unavailable(url, lambda: rejection_reason(study, frozen, experiment, candidate))
    )
    if slow and refusal is None and not given:
        refusal = f"over the budget: {speed}, more than {most:g} ms: not trained"
    if speed is not None:
        set_attrs(trial, {"latency": speed.to_dict()})
    checkpoint = adopt_checkpoint(experiment.checkpoints_of(study), frozen)
    title = experiment.title_of(frozen)
    if refusal is not None:
        set_attrs(trial, {"reason": refusal})
        _keep(
            study,
            trial,
            experiment,
            TrainingSummary(title, candidate, cost, schedule, seed, None, refusal, speed),
            held_out,
        )
        report(study, trial, owner, None, lambda: {})
        checkpoint.unlink(missing_ok=True)
        return Outcome(trial.number, None, refusal, 0, time.perf_counter() - began)

    def each_step(step: int) -> None:
        after_step(step)
        if lease is not None and lease.lost():
            raise TrialLostError

    def after_epoch(epoch: Epoch) -> str | None:
        nonlocal attempt
        if attempt > 1:
            # Its workers died, but it goes forward: only one that stands still is to be given up.
            attempt = 1
            set_attrs(trial, {"attempt": attempt})
        if given or epoch.number not in rung_epochs or epoch.evaluation is None:
            return None
        pckh = epoch.evaluation.accuracy.mean
        finished = retry_while_unavailable(url, lambda: finished_of(study))
        release_connections(study._storage)
        return rule.reason(epoch.number, pckh, cost.params, cost.madds, finished)

    def without_checkpoint(trouble: str) -> None:
        # Once: a disk that is full fails every epoch. What is lost is that the trial could be taken up here.
        if not troubles:
            print(f"trial {trial.number} goes on, but cannot be taken up where it is: {trouble}", file=sys.stderr)
        troubles.append(trouble)

    release_connections(study._storage)
    troubles: list[str] = []
    trained = None
    try:
        network = build_network(candidate.architecture, experiment.joints, experiment.input_size, seed=seed)
        trained = train(
            network,
            candidate.losses,
            schedule,
            people,
            held_out,
            seed=seed,
            checkpoint=checkpoint,
            hooks=TrainingHooks(
                evaluate_after=lambda epoch: epoch in rung_epochs,
                after_epoch=after_epoch,
                after_step=each_step,
                should_stop=asked_to_stop,
                on_checkpoint_failure=without_checkpoint,
            ),
        )
        reason = trained.stopped
    except InterruptedTrainingError:
        _hand_back(study, trial, owner)
        return Outcome(trial.number, None, HANDED_BACK, 0, time.perf_counter() - began)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        # Told as pruned, not failed: a sampler does not see failures and would propose the like again.
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = f"out of memory, parts of a batch at a time too: {what}"
    if trained is None:
        release_memory()

    known = training_attrs(trained, schedule, bool(earlier_numbers(frozen)))
    if troubles:
        known["without_checkpoint"] = troubles[0]
    measured = [epoch for epoch in known["curve"] if "pckh" in epoch]
    pckh = measured[-1]["pckh"] if measured else None
    if reason is None and pckh is not None and (slow or not experiment.within_budget(cost)):
        known["final_pckh"] = pckh
        reason = "over the budget: trained to the end for comparison only"
    point = None
    if reason is None and pckh is not None:
        point = Point(trial.number, pckh, cost.params, cost.madds)
        known["groups"] = measured[-1]["groups"]
    else:
        reason = reason or "nothing was measured"
        known["reason"] = reason

    def progress() -> dict[str, Any]:
        # How far the search has come, so that its progress can be drawn; its reference point is the study file's.
        points = [*points_of(study), *([point] if point else [])]
        volume = hypervolume(points, experiment.scale)
        return {
            "hypervolume": volume,
            "front_size": len(front(points)),
            "images_so_far": images_of(study) + known["images"],
        }

    set_attrs(trial, known)
    _keep(
        study,
        trial,
        experiment,
        TrainingSummary(title, candidate, cost, schedule, seed, trained, reason, speed),
        held_out,
    )
    values = [getattr(point, objective) for objective in experiment.config.objectives] if point else None
    report(study, trial, owner, values, progress)
    checkpoint.unlink(missing_ok=True)  # not where it was taken over: whoever did may still have to take this up
    images = known["images"] - (trained.resumed_step * schedule.batch if trained else 0)
    return Outcome(trial.number, pckh, reason, images, time.perf_counter() - began)


def training_attrs(trained: TrainingResult | None, schedule: ScheduleConfig, begun_before: bool) -> dict[str, Any]:
    """The attributes that training gives a trial; ``trained`` is None where memory was too small for it."""
    history = trained.history if trained else []
    known: dict[str, Any] = {
        "rungs": {str(epoch["epoch"]): epoch["pckh"] for epoch in history if "pckh" in epoch},
        "curve": history,
        "images": int(history[-1]["images"]) if history else 0,
    }
    if trained is not None and trained.resumed_step:
        known |= {"resumed_after_epoch": trained.resumed_at, "resumed_after_step": trained.resumed_step}
    elif begun_before:
        known["started_again"] = True  # no checkpoint of it was found
    if trained is not None and trained.micro_batch < schedule.batch:
        known["pictures_at_once"] = trained.micro_batch
    return known


def _hand_back(study: optuna.Study, trial: optuna.Trial, owner: Owner | None) -> None:
    """Give a trial back that is not at its end, if it is still its owner's."""

    def attempt() -> None:
        with study_lock(study._storage):
            if owns_trial(study, trial, owner):
                requeue(study, trial, ended_by_us=True)

    retry_while_unavailable(masked_url(study._storage), attempt)


def set_attrs(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
    """Write attributes of a running trial, waiting for a database that is away.

    Raises:
        TakenOverError: it runs no longer: another worker has taken it over.
    """
    url = masked_url(trial.storage)
    for name, value in attributes.items():

        def write(name: str = name, value: Any = value) -> None:
            trial.storage.set_trial_user_attr(trial._trial_id, name, value)

        try:
            retry_while_unavailable(url, write)
        except UpdateFinishedTrialError as error:
            raise TrialLostError from error


def _keep(
    study: optuna.Study, trial: optuna.Trial, experiment: Experiment, ended: TrainingSummary, people: PackedPeople
) -> None:
    """Leave note and pictures of a running trial. Raises TakenOverError if it runs no longer."""
    folder = retry_while_unavailable(masked_url(study._storage), lambda: experiment.artifacts_of(study))
    try:
        save_artifacts(trial, experiment, ended, people, folder)
    except UpdateFinishedTrialError as error:
        raise TrialLostError from error


def report(
    study: optuna.Study,
    trial: optuna.Trial,
    owner: Owner | None,
    values: Sequence[float] | None,
    progress: Callable[[], Mapping[str, Any]],
) -> None:
    """Tell a trial's end, once, if it is still its owner's.

    Args:
        study: the trial's.
        trial: that ended.
        owner: who trained it.
        values: its objectives; None if it is pruned.
        progress: attributes that are worked out inside the lock.

    Raises:
        TakenOverError: it is not its owner's any more: nothing was told.
    """
    state = TrialState.PRUNED if values is None else TrialState.COMPLETE
    begun = False  # whether an earlier attempt may have told it, and lost the answer

    def attempt() -> None:
        nonlocal begun
        with study_lock(study._storage):
            if not owns_trial(study, trial, owner):
                there = study._storage.get_trial(trial._trial_id)
                if begun and there.state == state and Owner.of(there) == owner and there.values == _floats(values):
                    return
                raise TrialLostError
            for name, value in progress().items():
                trial.storage.set_trial_user_attr(trial._trial_id, name, value)
            begun = True
            study.tell(trial, values, state=state)

    retry_while_unavailable(masked_url(study._storage), attempt)


def _floats(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def rejection_reason(
    study: optuna.Study, trial: FrozenTrial, experiment: Experiment, candidate: Candidate
) -> str | None:
    """Why a network is not to be trained at all, or None. Samplers propose no such network; people who queue may."""
    if not experiment.within_budget(experiment.cost(candidate)):
        return "over the budget: not trained"
    for other in study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING)):
        begun = other.state == TrialState.RUNNING or other.user_attrs.get("images")
        if other.number < trial.number and begun and experiment.candidate_of(other).id == candidate.id:
            return f"the network of trial {other.number}: not trained again"
    return None


def latency_of(study: optuna.Study, experiment: Experiment, candidate: Candidate, device: str) -> MeasuredLatency:
    """A network's speed on a device: as the study knows it, so that it is measured once, else measured now."""
    there = retry_while_unavailable(masked_url(study._storage), lambda: stored_latencies(experiment, study, device))
    return there.get(candidate.architecture.id) or measure_candidate(experiment, candidate, device)


def checkpoint_of(folder: AnyPath, number: int) -> AnyPath:
    """Where the state of an unfinished trial is kept: under its own number, so that no other worker writes to it."""
    return folder / f"trial-{number}.pt"


def adopt_checkpoint(folder: AnyPath, trial: FrozenTrial) -> AnyPath:
    """A trial's checkpoint: its predecessor's, if there is one, moved to this trial's name.

    A predecessor's worker that was only frozen may write its own again; nobody reads that.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    mine = checkpoint_of(folder, trial.number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in reversed(earlier_numbers(trial)):
            if mine.exists():
                break
            before: Any = checkpoint_of(folder, number)
            with suppress(FileNotFoundError):
                before.rename(mine)
    except OSError as error:
        raise UserError(
            f"--checkpoints {folder}: cannot be written to here: {error.strerror}; give one that all workers reach"
        ) from error
    return mine
