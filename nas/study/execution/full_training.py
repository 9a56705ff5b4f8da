"""Full training of chosen networks.

Each network has a folder ``full/<label>`` in the study's folder: ``checkpoint.pt`` after every epoch,
``metrics.jsonl``, TensorBoard events, ``result.json`` at the end (``full/<label>-<images>x<epochs>`` where flags
changed the schedule). The final PCKh is stored in a companion study ``<name>-full`` of the same storage. Networks are
trained on the training and hold-out people and evaluated on the validation people, which no search has seen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import optuna
import torch
import torch.distributed as dist
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.architecture.hourglass import build_network
from nas.console import deferred_sigterm
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.errors import TerminatedError, UserError
from nas.study.config import OBJECTIVES
from nas.study.execution.network_selection import SelectedNetwork
from nas.study.execution.training_lock import training_lock
from nas.study.execution.training_log import TrainingLog
from nas.study.execution.trial_artifacts import CHECKPOINT, TrainingSummary, escape_markdown, save_artifacts
from nas.study.experiment import Experiment, check_scored
from nas.study.people_file import find_people
from nas.study.provenance import record
from nas.study.storage.backend import create_study
from nas.study.storage.study_store import StudyStore
from nas.study.understood_trials import understood
from nas.training.checkpoint import write_atomically
from nas.training.evaluation import evaluate
from nas.training.loop import Epoch, InterruptedTrainingError, TrainingHooks, TrainingResult, train
from nas.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class RetrainResult:
    """The result of a full training.

    Attributes:
        label: of the selected.
        network: in words.
        pckh: on the validation people, without the flipped copy: comparable with the search's.
        pckh_flipped: averaged with the mirrored image, as papers print it.
        pckh_by_count: without the flipped copy, joints weighted by how often they are labelled.
        groups: per joint group, without the flipped copy.
        stages: mean PCKh of every hourglass, without the flipped copy.
        params: exact.
        madds: exact, at the study's input size.
        short_pckh: measured by the search, on other people; None for a published network.
        images: trained on.
        seconds: of training.
        people: number of validation people.
        checkpoint: path of the weights.
    """

    label: str
    network: str
    pckh: float
    pckh_flipped: float
    pckh_by_count: float
    groups: dict[str, float]
    stages: tuple[float, ...]
    params: int
    madds: int
    short_pckh: float | None
    images: int
    seconds: float
    people: int
    checkpoint: str


@contextmanager
def processes(device: str) -> Iterator[tuple[int, str]]:
    """Join the process group of ``torchrun``, if this process is part of one.

    Args:
        device: "cpu" or "cuda".

    Yields:
        this process's rank and device.

    Raises:
        UserError: the environment tells of several processes, but not how to reach them.
    """
    cuda = device == "cuda"
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: several processes need {', '.join(missing)} too; start them with "
            "torchrun, or unset WORLD_SIZE"
        )
    if missing:  # some batch systems set RANK alone
        yield 0, "cuda" if cuda else "cpu"
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield dist.get_rank(), f"cuda:{local}" if cuda else "cpu"
    finally:
        dist.destroy_process_group()


def retrain(
    experiment: Experiment,
    study: Study,
    selected: SelectedNetwork,
    schedule: ScheduleConfig,
    device: str,
    rank: int,
    hooks: TrainingHooks | None = None,
) -> RetrainResult:
    """Train one network in full, from its last checkpoint if there is one, and store its result.

    After a SIGTERM the checkpoint is written at the current step; several processes lose the epoch.

    Args:
        experiment: of the study.
        study: that found the network.
        selected: the network to train.
        schedule: of the full training.
        device: to train on.
        rank: of this process; only rank 0 writes.
        hooks: called as training goes on.

    Raises:
        UserError: the packed file has no validation people, the folder cannot be written, another process trains this
            network, or training diverged.
        TerminatedError: after a SIGTERM.
    """
    if not experiment.summary.counts.get("valid"):
        raise UserError(f"{experiment.config.data.file}: no valid people to score on; make it again with nas.prepare")
    check_scored(find_people(experiment.config, experiment.folder, experiment.summary.checksum), "valid")
    experiment.check_companion(study, "full")  # before hours of training, not after
    folder = _training_folder(experiment, selected, schedule)
    size = experiment.config.data.input_size
    with training_lock(folder) if rank == 0 else nullcontext():
        people = fit_to_input(experiment.load_people(("train", "holdout"), device), size)
        valid = fit_to_input(experiment.load_people("valid", device), size)
        with _logged(folder, schedule, rank, hooks or TrainingHooks()) as (logged, log):
            trained = _train(experiment, selected, schedule, people, valid, folder / CHECKPOINT, logged)
        if log is not None:
            log.rewrite(trained.history)
        if trained.stopped or trained.evaluation is None:
            raise UserError(
                f"{selected.label}: {trained.stopped}; try a lower learning_rate in [full] of the study file"
            )
        result = _result(experiment, selected, schedule, trained, valid, folder / CHECKPOINT)
        if rank == 0:
            content = {
                "result": asdict(result),
                "candidate": selected.candidate.to_dict(),
                "schedule": schedule.to_dict(),
                "record": record(),
            }
            write_atomically(folder / "result.json", json.dumps(content, indent=1).encode())
            store_result(experiment, study, selected, result, schedule, trained, valid)
    return result


@contextmanager
def _logged(
    folder: Path, schedule: ScheduleConfig, rank: int, hooks: TrainingHooks
) -> Iterator[tuple[TrainingHooks, TrainingLog | None]]:
    """Yield the hooks, which log each epoch on rank 0, and the log; it is closed at the end."""
    if rank:
        yield hooks, None
        return
    log = TrainingLog(folder, schedule)

    def log_epoch(epoch: Epoch) -> str | None:
        log.append(epoch)
        return hooks.after_epoch(epoch)

    with closing(log):
        yield replace(hooks, after_epoch=log_epoch), log


def _train(
    experiment: Experiment,
    selected: SelectedNetwork,
    schedule: ScheduleConfig,
    people: PackedPeople,
    valid: PackedPeople,
    checkpoint: Path,
    hooks: TrainingHooks,
) -> TrainingResult:
    """Train the network, until a SIGTERM arrives.

    Raises:
        TerminatedError: after a SIGTERM; the checkpoint is written.
    """
    network = build_network(
        selected.candidate.architecture, experiment.joints, experiment.input_size, seed=experiment.config.seed
    )
    try:
        # Several processes do not stop within an epoch: they would have to agree on the step.
        with nullcontext(lambda: False) if dist.is_initialized() else deferred_sigterm() as should_stop:
            return train(
                network,
                selected.candidate.losses,
                schedule,
                people,
                valid,
                seed=experiment.config.seed,
                checkpoint=checkpoint,
                hooks=replace(hooks, should_stop=should_stop),
            )
    except InterruptedTrainingError as error:
        raise TerminatedError from error


def _training_folder(experiment: Experiment, selected: SelectedNetwork, schedule: ScheduleConfig) -> Path:
    """Create the folder of a training. Another schedule than the study's has its own: it must not replace weights."""
    usual = schedule == experiment.config.full_schedule()
    name = selected.label if usual else f"{selected.label}-{schedule.images}x{schedule.epochs}"
    folder = experiment.folder / "full" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created: {error.strerror}; choose another --runs") from error
    return folder


def _result(
    experiment: Experiment,
    selected: SelectedNetwork,
    schedule: ScheduleConfig,
    trained: TrainingResult,
    valid: PackedPeople,
    checkpoint: Path,
) -> RetrainResult:
    """Evaluate a trained network with the flipped copy, and collect the figures of its training."""
    assert trained.evaluation is not None
    accuracy = trained.evaluation.accuracy
    flipped = evaluate(trained.network, valid, schedule, experiment.config.data.input_size, flip=True)
    cost = experiment.cost(selected.candidate)
    return RetrainResult(
        label=selected.label,
        network=str(selected.candidate),
        pckh=accuracy.mean,
        pckh_flipped=flipped.accuracy.mean,
        pckh_by_count=accuracy.by_count,
        groups=accuracy.groups,
        stages=trained.evaluation.stages,
        params=cost.params,
        madds=cost.madds,
        short_pckh=selected.trial.values[0] if selected.trial is not None and selected.trial.values else None,
        images=schedule.steps * schedule.batch,
        seconds=trained.history[-1]["seconds"],
        people=len(valid),
        checkpoint=str(checkpoint),
    )


def store_result(
    experiment: Experiment,
    study: Study,
    selected: SelectedNetwork,
    result: RetrainResult,
    schedule: ScheduleConfig,
    trained: TrainingResult,
    valid: PackedPeople,
) -> None:
    """Store a result in the companion study, once for each network and schedule, with note, images and weights.

    Args:
        experiment: of the study.
        study: that found the network.
        selected: the network that was trained.
        result: of the training.
        schedule: of the training.
        trained: the network and its history.
        valid: the people that it was evaluated on, on the device.
    """
    key = f"{selected.candidate.id}/{schedule.images}/{schedule.epochs}"
    store = StudyStore(study)
    with store.lock():
        full = understood(
            experiment, create_study(store.database, f"{experiment.config.name}-full", OBJECTIVES, kind="full"), "full"
        )
        same = [t for t in full.get_trials(deepcopy=False) if t.user_attrs.get("key") == key]
        if any(t.state == TrialState.COMPLETE for t in same):
            return
        if not same:  # otherwise a process that was killed has left the trial running
            full.add_trial(_running_trial(experiment, selected, result, key))
    stored = next(t for t in full.get_trials(deepcopy=False) if t.user_attrs.get("key") == key)
    trial = StudyStore(full).open_trial(stored)
    summary = TrainingSummary(
        title=str(selected.candidate) if selected.trial is not None else f"{selected.label}: {selected.candidate}",
        candidate=selected.candidate,
        cost=experiment.cost(selected.candidate),
        schedule=schedule,
        seed=experiment.config.seed,
        trained=trained,
        reason=None,
        about=_note_lines(experiment, store, selected, result),
    )
    weights = {CHECKPOINT: Path(result.checkpoint).read_bytes()}
    save_artifacts(full, trial, experiment, summary, valid, experiment.artifacts_of(study), weights)
    values = {"pckh": result.pckh, "params": result.params, "madds": result.madds}
    full.tell(trial, [values[o] for o in OBJECTIVES])


def _note_lines(
    experiment: Experiment, store: StudyStore, selected: SelectedNetwork, result: RetrainResult
) -> list[str]:
    lines = [f"Trained in full: {result.pckh_flipped:.1f} with the flipped copy, {result.people:,} validation people."]
    if selected.trial is not None:
        link = f"{store.dashboard_path}/trials?numbers={selected.trial.number}"
        origin = f"Found by [trial {selected.trial.number} of {escape_markdown(experiment.config.name)}]({link})"
        short = "" if result.short_pckh is None else f", PCKh {result.short_pckh:.1f} there on its hold-out people"
        lines.append(f"{origin}{short}.")
    return lines


def _running_trial(experiment: Experiment, selected: SelectedNetwork, result: RetrainResult, key: str) -> FrozenTrial:
    """A trial of the companion study. It is running, since a finished one accepts no artifacts."""
    params = selected.trial.params if selected.trial is not None else {}
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions=dict(experiment.space.choices) if params else {},
        user_attrs={
            "key": key,
            "label": selected.label,
            "found_by_trial": selected.trial.number if selected.trial is not None else None,
            "network": result.network,
            "candidate": selected.candidate.to_dict(),
            "short_pckh": result.short_pckh,
            "pckh_flipped": result.pckh_flipped,
            "groups": result.groups,
            "images": result.images,
            "seconds": result.seconds,
            "checkpoint": result.checkpoint,
            "stored_at": round(time.time()),
        },
    )
