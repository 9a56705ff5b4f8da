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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.distributed as dist
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch.utils.tensorboard import SummaryWriter

from nas.architecture.hourglass import build_network
from nas.console import deferred_sigterm
from nas.data.augmentation import fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.errors import TerminatedError, UserError
from nas.study.analysis.baselines import PICKS, Limits, affordable
from nas.study.analysis.baselines import pick as pick_one
from nas.study.execution.trial_artifacts import CHECKPOINT, TrainingSummary, escape_markdown, save_artifacts
from nas.study.experiment import Experiment, record
from nas.study.pareto import front
from nas.study.space.candidate import Candidate
from nas.study.storage.backend import create_study
from nas.study.storage.study_store import StudyStore
from nas.training.checkpoint import write_atomically
from nas.training.evaluation import evaluate
from nas.training.loop import Epoch, InterruptedTrainingError, TrainingHooks, TrainingResult, train
from nas.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class Choice:
    """A network to train in full.

    Attributes:
        label: name of its folder.
        candidate: what to train.
        trial: that found it; None for a published network.
    """

    label: str
    candidate: Candidate
    trial: FrozenTrial | None


def choose(
    experiment: Experiment,
    study: Study,
    trial: int | None,
    pick: str | None,
    all_front: bool,
    published: str | None,
    limits: Limits = Limits(),
) -> list[Choice]:
    """Return the networks that the user selected, in exactly one of four ways.

    Raises:
        UserError: no way or several, no such trial, an unfinished trial, or no network within the limits.
    """
    given = [trial is not None, pick is not None, all_front, published is not None]
    if sum(given) != 1:
        raise UserError(
            f"say which network: exactly one of --trial N, --pick {'|'.join(PICKS)}, --all-front, --published NAME"
        )
    if limits and pick is None and not all_front:
        raise UserError(f"{limits}: goes with --pick or --all-front; a network that is named is taken as it is")
    if published is not None:
        return [Choice(published, experiment.published(published), None)]
    trials = {t.number: t for t in study.get_trials(deepcopy=False)}
    if trial is not None:
        if trial not in trials:
            raise UserError(f"--trial {trial}: study {experiment.config.name} has trials 0 to {len(trials) - 1}")
        if trials[trial].state not in (TrialState.COMPLETE, TrialState.PRUNED):
            raise UserError(
                f"--trial {trial}: it is {trials[trial].state.name.lower()}; choose a finished or stopped one"
            )
        numbers = [trial]
    elif all_front:
        numbers = [p.number for p in front(affordable(experiment, study, limits))]
    else:
        assert pick is not None
        numbers = [pick_one(experiment, study, pick, limits).number]
    return [Choice(f"trial-{n}", experiment.candidate_of(trials[n]), trials[n]) for n in numbers]


def trained_in_full(experiment: Experiment, study: Study, choice: Choice) -> Path:
    """Return the checkpoint of a network's full training; of several trainings, that of the longest.

    Raises:
        UserError: the network was not trained in full, or its checkpoint was removed.
    """
    store = StudyStore(study)
    full = store.companion(f"{experiment.config.name}-full")
    finished = full.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if full is not None else []
    same = [t for t in finished if experiment.candidate_of(t).id == choice.candidate.id]
    flag = f"--published {choice.label}" if choice.trial is None else f"--trial {choice.trial.number}"
    command = f"python -m nas.retrain --study {experiment.config.name} {flag}{experiment.location_flags}"
    if not same:
        raise UserError(f"{flag}: not trained in full yet; run `{command}`")
    longest = max(same, key=lambda t: (t.user_attrs["images"], t.number))
    # Where it was written; where it is if the runs folder was moved; the copy for the dashboard.
    written = Path(longest.user_attrs["checkpoint"])
    moved = experiment.folder / "full" / written.parent.name / written.name
    artifacts = [meta.artifact_id for meta in store.artifacts(longest) if meta.filename == CHECKPOINT]
    copies = [experiment.artifacts_of(study) / artifact for artifact in artifacts]
    for path in (moved, written, *copies):
        if path.is_file():
            return path
    raise UserError(f"{flag}: its checkpoint {written} does not exist anymore; run `{command}` again")


@dataclass(frozen=True)
class Result:
    """The result of a full training.

    Attributes:
        label: of the choice.
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
    """
    cuda = device == "cuda"
    if "RANK" not in os.environ:
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
    choice: Choice,
    schedule: ScheduleConfig,
    device: str,
    rank: int,
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
    after_step: Callable[[int], None] = lambda step: None,
) -> Result:
    """Train one network in full, from its last checkpoint if there is one, and store its result.

    After a SIGTERM the checkpoint is written at the current step; several processes lose the epoch.

    Args:
        experiment: of the study.
        study: that found the network.
        choice: what to train.
        schedule: of the full training.
        device: to train on.
        rank: of this process; only rank 0 writes.
        after_epoch: called with each epoch.
        after_step: called with the number of steps done.

    Raises:
        UserError: the packed file has no validation people, the folder cannot be written, or training diverged.
        TerminatedError: after a SIGTERM.
    """
    if not experiment.summary.counts.get("valid"):
        raise UserError(f"{experiment.config.data.file}: no valid people to score on; make it again with nas.prepare")
    folder = _training_folder(experiment, choice, schedule)
    size = experiment.config.data.input_size
    people = fit_to_input(experiment.load_people(("train", "holdout"), device), size)
    valid = fit_to_input(experiment.load_people("valid", device), size)
    log = _TrainingLog(folder, schedule) if rank == 0 else None

    def log_epoch(epoch: Epoch) -> None:
        if log is not None:
            log.append(epoch)
        after_epoch(epoch)

    network = build_network(
        choice.candidate.architecture, experiment.joints, experiment.input_size, seed=experiment.config.seed
    )
    try:
        with nullcontext(lambda: False) if dist.is_initialized() else deferred_sigterm() as should_stop:
            trained = train(
                network,
                choice.candidate.losses,
                schedule,
                people,
                valid,
                seed=experiment.config.seed,
                checkpoint=folder / CHECKPOINT,
                hooks=TrainingHooks(after_epoch=log_epoch, after_step=after_step, should_stop=should_stop),
            )
    except InterruptedTrainingError as error:
        raise TerminatedError from error
    finally:
        if log is not None:
            log.close()
    if log is not None:
        log.rewrite(trained.history)
    if trained.stopped or trained.evaluation is None:
        raise UserError(f"{choice.label}: {trained.stopped}; try a lower learning_rate in [full] of the study file")
    result = _result(experiment, choice, schedule, trained, valid, folder / CHECKPOINT)
    if rank == 0:
        content = {"result": asdict(result), "candidate": choice.candidate.to_dict(), "schedule": schedule.to_dict()}
        write_atomically(folder / "result.json", json.dumps({**content, "record": record()}, indent=1).encode())
        store_result(experiment, study, choice, result, schedule, trained, valid)
    return result


def _training_folder(experiment: Experiment, choice: Choice, schedule: ScheduleConfig) -> Path:
    """Create the folder of a training. Another schedule than the study's has its own: it must not replace weights."""
    usual = schedule == experiment.config.full_schedule()
    name = choice.label if usual else f"{choice.label}-{schedule.images}x{schedule.epochs}"
    folder = experiment.folder / "full" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created: {error.strerror}; choose another --runs") from error
    return folder


def _result(
    experiment: Experiment,
    choice: Choice,
    schedule: ScheduleConfig,
    trained: TrainingResult,
    valid: PackedPeople,
    checkpoint: Path,
) -> Result:
    """Evaluate a trained network with the flipped copy, and collect the figures of its training."""
    assert trained.evaluation is not None
    accuracy = trained.evaluation.accuracy
    flipped = evaluate(trained.network, valid, schedule, experiment.config.data.input_size, flip=True)
    cost = experiment.cost(choice.candidate)
    return Result(
        label=choice.label,
        network=str(choice.candidate),
        pckh=accuracy.mean,
        pckh_flipped=flipped.accuracy.mean,
        pckh_by_count=accuracy.by_count,
        groups=accuracy.groups,
        stages=trained.evaluation.stages,
        params=cost.params,
        madds=cost.madds,
        short_pckh=choice.trial.values[0] if choice.trial is not None and choice.trial.values else None,
        images=schedule.steps * schedule.batch,
        seconds=trained.history[-1]["seconds"],
        people=len(valid),
        checkpoint=str(checkpoint),
    )


class _TrainingLog:
    """``metrics.jsonl`` and TensorBoard events of a training.

    Args:
        folder: to write to.
        schedule: of the training.
    """

    def __init__(self, folder: Path, schedule: ScheduleConfig) -> None:
        self.path, self.schedule = folder / "metrics.jsonl", schedule
        self.board = SummaryWriter(str(folder))

    def append(self, epoch: Epoch) -> None:
        """Write an epoch, in place of what a killed process wrote beyond its last checkpoint."""
        record = self._record(epoch.to_dict())
        earlier = self.path.read_text().splitlines() if self.path.is_file() else []
        lines = [line for line in earlier if line and json.loads(line)["epoch"] < epoch.number]
        write_atomically(self.path, ("\n".join([*lines, json.dumps(record)]) + "\n").encode())
        for name in ("loss", "learning_rate", "pckh"):
            if name in record:
                self.board.add_scalar(name, record[name], record["images"])
        for group, value in record.get("groups", {}).items():
            self.board.add_scalar(f"pckh/{group}", value, record["images"])
        self.board.flush()

    def rewrite(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write all epochs: a process killed between a checkpoint and its line leaves that line out."""
        lines = "".join(json.dumps(self._record(epoch)) + "\n" for epoch in history)
        write_atomically(self.path, lines.encode())

    def close(self) -> None:
        """Close the TensorBoard file."""
        self.board.close()

    def _record(self, epoch: Mapping[str, Any]) -> dict[str, Any]:
        steps = epoch["epoch"] * self.schedule.steps_per_epoch
        learning_rate = self.schedule.learning_rate * self.schedule.lr_factor(steps - 1)
        return {**epoch, "learning_rate": learning_rate, "seconds": round(epoch["seconds"], 2)}


def store_result(
    experiment: Experiment,
    study: Study,
    choice: Choice,
    result: Result,
    schedule: ScheduleConfig,
    trained: TrainingResult,
    valid: PackedPeople,
) -> None:
    """Store a result in the companion study, once for each network and schedule, with note, images and weights.

    Args:
        experiment: of the study.
        study: that found the network.
        choice: what was trained.
        result: of the training.
        schedule: of the training.
        trained: the network and its history.
        valid: the people that it was evaluated on, on the device.
    """
    key = f"{choice.candidate.id}/{schedule.images}/{schedule.epochs}"
    store = StudyStore(study)
    with store.lock():
        full = create_study(store.database, f"{experiment.config.name}-full", experiment.config.objectives)
        same = [t for t in full.get_trials(deepcopy=False) if t.user_attrs.get("key") == key]
        if any(t.state == TrialState.COMPLETE for t in same):
            return
        if not same:  # otherwise a process that was killed has left the trial running
            full.add_trial(_running_trial(experiment, choice, result, key))
    stored = next(t for t in full.get_trials(deepcopy=False) if t.user_attrs.get("key") == key)
    trial = StudyStore(full).handle(stored)
    summary = TrainingSummary(
        title=str(choice.candidate) if choice.trial is not None else f"{choice.label}: {choice.candidate}",
        candidate=choice.candidate,
        cost=experiment.cost(choice.candidate),
        schedule=schedule,
        seed=experiment.config.seed,
        trained=trained,
        reason=None,
        about=_note_lines(experiment, store, choice, result),
    )
    weights = {CHECKPOINT: Path(result.checkpoint).read_bytes()}
    save_artifacts(full, trial, experiment, summary, valid, experiment.artifacts_of(study), weights)
    values = {"pckh": result.pckh, "params": result.params, "madds": result.madds}
    full.tell(trial, [values[o] for o in experiment.config.objectives])


def _note_lines(experiment: Experiment, store: StudyStore, choice: Choice, result: Result) -> list[str]:
    lines = [f"Trained in full: {result.pckh_flipped:.1f} with the flipped copy, {result.people:,} validation people."]
    if choice.trial is not None:
        link = f"{store.dashboard_path}/trials?numbers={choice.trial.number}"
        found = f"Found by [trial {choice.trial.number} of {escape_markdown(experiment.config.name)}]({link})"
        short = "" if result.short_pckh is None else f", PCKh {result.short_pckh:.1f} there on its hold-out people"
        lines.append(f"{found}{short}.")
    return lines


def _running_trial(experiment: Experiment, choice: Choice, result: Result, key: str) -> FrozenTrial:
    """A trial of the companion study. It is running, since a finished one accepts no artifacts."""
    params = choice.trial.params if choice.trial is not None else {}
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions=dict(experiment.space.choices) if params else {},
        user_attrs={
            "key": key,
            "label": choice.label,
            "found_by_trial": choice.trial.number if choice.trial is not None else None,
            "network": result.network,
            "candidate": choice.candidate.to_dict(),
            "short_pckh": result.short_pckh,
            "pckh_flipped": result.pckh_flipped,
            "groups": result.groups,
            "images": result.images,
            "seconds": result.seconds,
            "checkpoint": result.checkpoint,
            "stored_at": round(time.time()),
        },
    )
