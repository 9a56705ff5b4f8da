"""One trial: what the study's parameters mean, trained under the study's schedule, told to the study."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from nas.architecture.hourglass import build_network
from nas.data.packed import PackedPeople
from nas.study.candidate import Candidate
from nas.study.experiment import Experiment, finished_of, images_of, points_of
from nas.study.front import Point, front, hypervolume
from nas.study.stopping import StoppingRule
from nas.study.storage import DONE, exclusive, first_number
from nas.training.loop import Epoch, train


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
) -> Outcome:
    """Train the trial's candidate and tell the study how it went.

    A trial that was interrupted goes on from its last epoch's checkpoint. One that diverges, collapses, runs out of
    memory or falls out of reach of the front is told as pruned, with the reason and its curve stored. A network
    that was given, not proposed (a published baseline), always trains to the end; one over the budget is told as pruned
    then: what may not be chosen must not be among the best.

    Args:
        study: where the trial was claimed.
        trial: running, with all its parameters.
        experiment: the study's parts.
        people: to train on, on the device.
        held_out: to score on, on the device.
        after_step: called with the number of steps done.
    """
    began = time.perf_counter()
    frozen = study._storage.get_trial(trial._trial_id)
    candidate = experiment.candidate_of(frozen)
    cost = experiment.cost(candidate)
    given = "given" in frozen.user_attrs
    seed = int(frozen.user_attrs.get("seed", experiment.config.seed))
    schedule = experiment.schedule_of(frozen)
    rule = StoppingRule(experiment.config.stopping.quantile, experiment.config.stopping.least)
    rung_epochs = experiment.config.rung_epochs()
    trial.set_user_attr("candidate", candidate.to_dict())
    trial.set_user_attr("network", str(candidate))
    trial.set_user_attr("seed", seed)
    trial.set_user_attr("cost", {"params": cost.params, "madds": cost.madds, "layers": cost.layers})
    refusal = None if given else _refusal(study, frozen, experiment, candidate)
    if refusal is not None:
        checkpoint_of(experiment.folder, first_number(frozen)).unlink(missing_ok=True)
        trial.set_user_attr("reason", refusal)
        study.tell(trial, state=TrialState.PRUNED)
        return Outcome(trial.number, None, refusal, 0, time.perf_counter() - began)

    def after_epoch(epoch: Epoch) -> str | None:
        if given or epoch.number not in rung_epochs or epoch.evaluation is None:
            return None
        pckh = epoch.evaluation.accuracy.mean
        return rule.reason(epoch.number, pckh, cost.params, cost.madds, finished_of(study))

    checkpoint = checkpoint_of(experiment.folder, first_number(frozen))
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
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
            evaluate_after=lambda epoch: epoch in rung_epochs,
            after_epoch=after_epoch,
            after_step=after_step,
        )
        reason = trained.stopped
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        # Told as pruned, not failed: a sampler does not see failures and would propose the like again.
        reason = f"out of memory: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    history = trained.history if trained else []
    measured = [h for h in history if "pckh" in h]
    rungs = {str(h["epoch"]): h["pckh"] for h in measured}
    resumed = trained.resumed_at if trained else 0
    images = (len(history) - resumed) * schedule.steps_per_epoch * schedule.batch
    trial.set_user_attr("rungs", rungs)
    trial.set_user_attr("curve", history)
    seen = int(history[-1]["images"]) if history else 0
    trial.set_user_attr("images", seen)
    if resumed:
        trial.set_user_attr("resumed_after_epoch", resumed)
    pckh = measured[-1]["pckh"] if measured else None
    if reason is None and pckh is not None and not experiment.within_budget(cost):
        trial.set_user_attr("final_pckh", pckh)
        reason = "over the budget: trained to the end for comparison only"
    point = None
    if reason is None and pckh is not None:
        point = Point(trial.number, pckh, cost.params, cost.madds)
        trial.set_user_attr("groups", measured[-1]["groups"])
    else:
        reason = reason or "nothing was measured"
        trial.set_user_attr("reason", reason)
    with exclusive(study._storage):
        # How far the search has come, so that its progress can be drawn; its reference point is the study file's.
        points = [*points_of(study), *([point] if point else [])]
        trial.set_user_attr("hypervolume", hypervolume(points, experiment.scale))
        trial.set_user_attr("front_size", len(front(points)))
        trial.set_user_attr("images_so_far", images_of(study) + seen)
        if point is not None:
            study.tell(trial, [getattr(point, objective) for objective in experiment.config.objectives])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    checkpoint.unlink(missing_ok=True)
    return Outcome(trial.number, pckh, reason, images, time.perf_counter() - began)


def _refusal(study: optuna.Study, trial: FrozenTrial, experiment: Experiment, candidate: Candidate) -> str | None:
    """Why a network is not to be trained at all, or None. Samplers propose no such network; people who queue may."""
    if not experiment.within_budget(experiment.cost(candidate)):
        return "over the budget: not trained"
    for other in study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING)):
        begun = other.state == TrialState.RUNNING or other.user_attrs.get("images")
        if other.number < trial.number and begun and experiment.candidate_of(other).id == candidate.id:
            return f"the network of trial {other.number}: not trained again"
    return None


def checkpoint_of(folder: Path, number: int) -> Path:
    """Where the state of an unfinished trial is kept, under the number that its work was first begun under."""
    return folder / "checkpoints" / f"trial-{number}.pt"
