"""One trial, from its parameters to its result: prepare, then reject or train, then report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import TrialState

from nas.architecture.cost import Cost
from nas.architecture.hourglass import build_network
from nas.data.packed.reader import PackedPeople
from nas.study.analysis.latency import MeasuredLatency, measure_candidate, stored_latencies
from nas.study.config import OBJECTIVES
from nas.study.execution.trial_artifacts import TrainingSummary, save_artifacts
from nas.study.execution.trial_checkpoint import adopt_checkpoint
from nas.study.experiment import Experiment, finished_of, images_of, points_of
from nas.study.optimization.early_stopping import StoppingRule
from nas.study.pareto import Point, front, hypervolume
from nas.study.space.candidate import Candidate
from nas.study.storage.heartbeat import Lease
from nas.study.storage.owner import Owner
from nas.study.storage.study_store import StudyStore, TrialLostError
from nas.study.storage.trial_queue import DONE, attempt_of, earlier_numbers, owns_trial, report, requeue
from nas.training.batch_norm import trains_on_single_images
from nas.training.checkpoint import AnyPath
from nas.training.devices import out_of_memory, release_memory
from nas.training.loop import Epoch, InterruptedTrainingError, TrainingHooks, TrainingResult, train
from nas.training.schedule import ScheduleConfig

REQUEUED = "stopped on request: requeued"
LOST = "continued by another worker: result dropped"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: of the trial.
        pckh: its last PCKh, if any was measured.
        reason: why it ended early; None if it ran to the end.
        images: trained on since it was claimed.
        seconds: since it was claimed, everything included.
    """

    number: int
    pckh: float | None
    reason: str | None
    images: int
    seconds: float


@dataclass(frozen=True)
class TrialPlan:
    """What a trial is to do, known before it trains.

    Attributes:
        number: of the trial.
        title: its network in words, with the name of a published one.
        candidate: what to train.
        cost: of the network.
        schedule: how to train.
        seed: of weights, order and augmentation.
        given: whether the network was given, not proposed. Then it is always trained to the end.
        within_budget: whether the trial may be among the best.
        latency: measured where the budget limits it.
        attempt: how often it was started since it last finished an epoch.
        restarted: whether it was started before, under another number.
        owner: who claimed it.
        checkpoint: file or URL of its state.
    """

    number: int
    title: str
    candidate: Candidate
    cost: Cost
    schedule: ScheduleConfig
    seed: int
    given: bool
    within_budget: bool
    latency: MeasuredLatency | None
    attempt: int
    restarted: bool
    owner: Owner | None
    checkpoint: AnyPath

    def summary(self, result: TrainingResult | None, reason: str | None) -> TrainingSummary:
        """What the dashboard shows of the trial once it has ended."""
        return TrainingSummary(
            self.title, self.candidate, self.cost, self.schedule, self.seed, result, reason, self.latency
        )


class TrialSession:
    """A worker's session with one trial.

    Args:
        study: that the trial was claimed from.
        trial: running, with all its parameters.
        experiment: the study's configuration, space and data.
        people: to train on, on the device.
        held_out: to evaluate on, on the device.
        after_step: called with the number of steps done.
        lease: under which the trial was claimed.
        should_stop: called after each step. Once it returns true, the trial's state is saved and the trial requeued.
    """

    def __init__(
        self,
        study: Study,
        trial: optuna.Trial,
        experiment: Experiment,
        people: PackedPeople,
        held_out: PackedPeople,
        *,
        after_step: Callable[[int], None] = lambda step: None,
        lease: Lease | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.study, self.store, self.trial, self.experiment = study, StudyStore(study), trial, experiment
        self.people, self.held_out = people, held_out
        self.after_step, self.lease, self.should_stop = after_step, lease, should_stop

    def run(self) -> Outcome:
        """Train the trial's network and store the result.

        An interrupted trial resumes from the checkpoint of its last epoch. A trial that diverges, collapses, runs out
        of memory or can no longer reach the front is pruned, with the reason and its learning curve. A given network,
        such as a published baseline, is always trained to the end; over the budget, it is then pruned, so that it is
        not among the best.

        The database is waited for while it is unavailable. If the trial was meanwhile requeued, because this worker had
        no heartbeat, nothing is stored.
        """
        started = time.perf_counter()
        if self.lease is not None:
            self.lease.hold(self.store.trial_id(self.trial))
        pckh, images = None, 0
        try:
            plan = self._prepare()
            reason = self._rejection_reason(plan)
            if reason is not None:
                self._reject(plan, reason)
            else:
                result, reason, checkpoint_failure = self._train(plan)
                pckh, reason, images = self._report(plan, result, reason, checkpoint_failure)
        except InterruptedTrainingError:
            self._requeue(plan.owner)
            reason = REQUEUED
        except TrialLostError:
            reason = LOST
        finally:
            if self.lease is not None:
                self.lease.hold(None)
        return Outcome(self.trial.number, pckh, reason, images, time.perf_counter() - started)

    def _prepare(self) -> TrialPlan:
        """Work out what the trial is to do, and store it."""
        experiment = self.experiment
        trial = self.store.retry(lambda: self.store.read_trial(self.trial))
        candidate = experiment.candidate_of(trial)
        cost = experiment.cost(candidate)
        seed = int(trial.user_attrs.get("seed", experiment.config.seed))
        costs = {"params": cost.params, "madds": cost.madds, "layers": cost.layers}
        attributes = {"candidate": candidate.to_dict(), "network": str(candidate), "seed": seed, "cost": costs}
        self.store.set_running_attrs(self.trial, attributes)
        latency = self._latency(candidate)
        if latency is not None:
            self.store.set_running_attrs(self.trial, {"latency": latency.to_dict()})
        return TrialPlan(
            number=trial.number,
            title=experiment.title_of(trial),
            candidate=candidate,
            cost=cost,
            schedule=experiment.schedule_of(trial),
            seed=seed,
            given="given" in trial.user_attrs,
            within_budget=experiment.within_budget(cost) and not self._too_slow(latency),
            latency=latency,
            attempt=attempt_of(trial),
            restarted=bool(earlier_numbers(trial)),
            owner=Owner.of(trial),
            checkpoint=adopt_checkpoint(experiment.checkpoints_of(self.study), trial),
        )

    def _latency(self, candidate: Candidate) -> MeasuredLatency | None:
        """The network's latency, as the study knows it or measured now; None where the budget does not limit it."""
        if self.experiment.config.budget.max_latency_ms is None:
            return None
        device = str(self.people.crops.device)
        known = self.store.retry(lambda: stored_latencies(self.experiment, self.study, device))
        return known.get(candidate.architecture.id) or measure_candidate(self.experiment, candidate, device)

    def _too_slow(self, latency: MeasuredLatency | None) -> bool:
        limit = self.experiment.config.budget.max_latency_ms
        return limit is not None and latency is not None and latency.ms > limit

    def _rejection_reason(self, plan: TrialPlan) -> str | None:
        """Why the network is not to be trained at all, or None. Samplers propose no such network, but users may."""
        architecture = plan.candidate.architecture
        size = (self.experiment.joints, self.experiment.input_size)
        if plan.schedule.batch == 1 and not trains_on_single_images(architecture, *size):
            return "one image at a time is too few for its batch norm: not trained"
        if plan.given:
            return None
        if not self.experiment.within_budget(plan.cost):
            return "over the budget: not trained"
        same = self.store.retry(lambda: self._earlier_trial(plan))
        if same is not None:
            return f"the network of trial {same}: not trained again"
        if self._too_slow(plan.latency):
            limit = self.experiment.config.budget.max_latency_ms
            return f"over the budget: {plan.latency}, more than {limit:g} ms: not trained"
        return None

    def _earlier_trial(self, plan: TrialPlan) -> int | None:
        """The number of an earlier trial that trains or has trained the same network."""
        for other in self.study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING)):
            trained = other.state == TrialState.RUNNING or other.user_attrs.get("images")
            if other.number < plan.number and trained and self.experiment.candidate_of(other).id == plan.candidate.id:
                return other.number
        return None

    def _reject(self, plan: TrialPlan, reason: str) -> None:
        """Store that the trial was not trained."""
        self.store.set_running_attrs(self.trial, {"reason": reason})
        self._save_artifacts(plan, None, reason)
        report(self.study, self.trial, plan.owner, None, dict)
        plan.checkpoint.unlink(missing_ok=True)

    def _train(self, plan: TrialPlan) -> tuple[TrainingResult | None, str | None, str | None]:
        """Train the network.

        Returns:
            the result, None if memory was too small; why training ended early, or None; what was wrong with the
            checkpoint, or None.

        Raises:
            InterruptedTrainingError: ``should_stop`` returned true.
            TrialLostError: the trial no longer runs.
        """
        rungs = self.experiment.config.rung_epochs()
        failures: list[str] = []

        def on_checkpoint_failure(failure: str) -> None:
            # Printed once: a full disk fails in every epoch. The trial continues, but could not be resumed.
            if not failures:
                print(f"trial {plan.number} continues, but cannot be resumed from here: {failure}", file=sys.stderr)
            failures.append(failure)

        hooks = TrainingHooks(
            evaluate_after=lambda epoch: epoch in rungs,
            after_epoch=self._epoch_hook(plan, rungs),
            after_step=self._after_step,
            should_stop=self.should_stop,
            on_checkpoint_failure=on_checkpoint_failure,
        )
        self.store.release_connections()
        result, reason = None, None
        try:
            network = build_network(
                plan.candidate.architecture, self.experiment.joints, self.experiment.input_size, seed=plan.seed
            )
            result = train(
                network,
                plan.candidate.losses,
                plan.schedule,
                self.people,
                self.held_out,
                seed=plan.seed,
                checkpoint=plan.checkpoint,
                hooks=hooks,
            )
            reason = result.stopped
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            # Pruned, not failed: samplers do not see failed trials and would propose similar networks again.
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason = f"out of memory, with the smallest micro-batch too: {message}"
        if result is None:
            release_memory()
        return result, reason, failures[0] if failures else None

    def _after_step(self, step: int) -> None:
        self.after_step(step)
        if self.lease is not None and self.lease.lost():
            raise TrialLostError

    def _epoch_hook(self, plan: TrialPlan, rungs: Sequence[int]) -> Callable[[Epoch], str | None]:
        """The function that decides after an epoch whether to stop."""
        settings = self.experiment.config.stopping
        rule = StoppingRule(settings.quantile, settings.least)
        attempt = plan.attempt

        def after_epoch(epoch: Epoch) -> str | None:
            nonlocal attempt
            if attempt > 1:
                # Earlier workers died, but the trial makes progress: only one without progress is given up.
                attempt = 1
                self.store.set_running_attrs(self.trial, {"attempt": attempt, "earlier_failure": None})
            if plan.given or epoch.number not in rungs or epoch.evaluation is None:
                return None
            finished = self.store.retry(lambda: finished_of(self.study))
            self.store.release_connections()
            pckh = epoch.evaluation.accuracy.mean
            return rule.reason(epoch.number, pckh, plan.cost.params, plan.cost.madds, finished)

        return after_epoch

    def _report(
        self, plan: TrialPlan, result: TrainingResult | None, reason: str | None, checkpoint_failure: str | None
    ) -> tuple[float | None, str | None, int]:
        """Store the result of training and end the trial.

        Returns:
            the last PCKh, if any; why the trial ended early, or None; images trained on in this session.
        """
        attributes = training_attrs(result, plan.schedule, plan.restarted)
        if checkpoint_failure is not None:
            attributes["without_checkpoint"] = checkpoint_failure
        evaluated = [epoch for epoch in attributes["curve"] if "pckh" in epoch]
        pckh = evaluated[-1]["pckh"] if evaluated else None
        if reason is None and pckh is not None and not plan.within_budget:
            attributes["final_pckh"] = pckh
            reason = "over the budget: trained to the end for comparison only"
        if reason is None and pckh is None:
            reason = "nothing was measured"
        point = None
        if reason is None and pckh is not None:
            point = Point(plan.number, pckh, plan.cost.params, plan.cost.madds)
            attributes["groups"] = evaluated[-1]["groups"]
        else:
            attributes["reason"] = reason
        self.store.set_running_attrs(self.trial, attributes)
        self._save_artifacts(plan, result, reason)
        values = [getattr(point, objective) for objective in OBJECTIVES] if point else None
        report(self.study, self.trial, plan.owner, values, partial(self._progress, point, attributes["images"]))
        # Not if the trial was lost: its new owner may still need the checkpoint.
        plan.checkpoint.unlink(missing_ok=True)
        resumed_images = result.resumed_step * plan.schedule.batch if result else 0
        return pckh, reason, attributes["images"] - resumed_images

    def _progress(self, point: Point | None, images: int) -> dict[str, Any]:
        """Progress of the whole search, as attributes of the trial that ends."""
        points = [*points_of(self.study), *([point] if point else [])]
        return {
            "hypervolume": hypervolume(points, self.experiment.scale),
            "front_size": len(front(points)),
            "images_so_far": images_of(self.study) + images,
        }

    def _save_artifacts(self, plan: TrialPlan, result: TrainingResult | None, reason: str | None) -> None:
        folder = self.store.retry(lambda: self.experiment.artifacts_of(self.study))
        try:
            save_artifacts(self.study, self.trial, self.experiment, plan.summary(result, reason), self.held_out, folder)
        except UpdateFinishedTrialError as error:
            raise TrialLostError from error

    def _requeue(self, owner: Owner | None) -> None:
        """Requeue the unfinished trial, if it is still this worker's."""

        def attempt() -> None:
            with self.store.lock():
                if owns_trial(self.study, self.trial, owner):
                    requeue(self.study, self.trial, stopped_on_purpose=True)

        self.store.retry(attempt)


def training_attrs(result: TrainingResult | None, schedule: ScheduleConfig, restarted: bool) -> dict[str, Any]:
    """User attributes that a trial gets from its training.

    Args:
        result: of training; None if memory was too small.
        schedule: of training.
        restarted: whether the trial was started before, under another number.
    """
    history = result.history if result else []
    attributes: dict[str, Any] = {
        "rungs": {str(epoch["epoch"]): epoch["pckh"] for epoch in history if "pckh" in epoch},
        "curve": history,
        "images": int(history[-1]["images"]) if history else 0,
    }
    if result is not None and result.resumed_step:
        attributes |= {"resumed_after_epoch": result.resumed_at, "resumed_after_step": result.resumed_step}
    elif restarted:
        attributes["started_again"] = True  # its checkpoint was not found
    if result is not None and result.micro_batch < schedule.batch:
        attributes["pictures_at_once"] = result.micro_batch
    return attributes
