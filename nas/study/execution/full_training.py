"""Full training of chosen networks, and what it writes back.

Each network has a folder ``full/<label>`` in its study's: ``checkpoint.pt`` after every epoch, ``metrics.jsonl``,
TensorBoard events, ``result.json`` at the end (``full/<label>-<images>x<epochs>`` where flags changed the schedule).
Its final PCKh goes into a companion study ``<name>-full`` in the same storage. Networks learn from the training and the
hold-out people and are scored on the validation people, which no search has seen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.distributed as dist
from optuna.artifacts import get_all_artifact_meta
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
from nas.study.storage.study_store import companion_of, create_study, database_of, study_lock
from nas.training.checkpoint import write_atomically
from nas.training.evaluation import evaluate
from nas.training.loop import Epoch, InterruptedTrainingError, TrainingHooks, TrainingResult, train
from nas.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class Choice:
    """A network to train in full.

    Attributes:
        label: names its folder.
        candidate: what to train.
        trial: the study's trial that found it, or None for a published one.
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
    """The networks that a person asked for; exactly one of the four ways.

    Raises:
        UserError: none or several ways, no such trial, or an unfinished one, or nothing is within the limits.
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
    """The checkpoint of a network that was trained in full; of several trainings, the longest one's.

    Raises:
        UserError: it has not been, or its checkpoint is not there any more.
    """
    other = companion_of(study, f"{experiment.config.name}-full")
    done = other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if other is not None else []
    same = [t for t in done if experiment.candidate_of(t).id == choice.candidate.id]
    which = f"--published {choice.label}" if choice.trial is None else f"--trial {choice.trial.number}"
    command = f"python -m nas.retrain --study {experiment.config.name} {which}{experiment.location_flags}"
    if not same:
        raise UserError(f"{which}: not trained in full yet; run `{command}`")
    longest = max(same, key=lambda t: (t.user_attrs["images"], t.number))
    # As it was written, from wherever; where it lies if the runs were moved; and the dashboard's copy.
    written = Path(longest.user_attrs["checkpoint"])
    moved = experiment.folder / "full" / written.parent.name / written.name
    kept = get_all_artifact_meta(longest, storage=study._storage)
    copies = [experiment.artifacts_of(study) / m.artifact_id for m in kept if m.filename == CHECKPOINT]
    for path in (moved, written, *copies):
        if path.is_file():
            return path
    raise UserError(f"{which}: its checkpoint {written} is not there any more; run `{command}` again")


@dataclass(frozen=True)
class Result:
    """What full training gave.

    Attributes:
        label: of the choice.
        network: in words.
        pckh: on the validation people, without flipping: comparable with the search's.
        pckh_flipped: averaged with the mirrored picture, as papers print it.
        pckh_by_count: without flipping, joints weighted by how often they are labelled.
        groups: per joint group, without flipping.
        stages: mean PCKh of every hourglass, without flipping.
        params: exact.
        madds: exact, at the study's input size.
        short_pckh: what the search measured, on other people; None for a published network.
        images: pictures trained on.
        seconds: of training.
        people: validation people.
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
    """Join the other processes of a ``torchrun``, if there are any.

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

    After a SIGTERM the checkpoint is written as it is, within the epoch; several processes lose the epoch.

    Args:
        experiment: of the study.
        study: that found it.
        choice: what to train.
        schedule: the full one.
        device: to train on.
        rank: of this process; only rank 0 writes.
        after_epoch: called with each epoch.
        after_step: called with the number of steps done.

    Raises:
        UserError: the people have no validation split, the folder cannot be written, or training diverged.
        TerminatedError: after a SIGTERM.
    """
    if not experiment.summary.counts.get("valid"):
        raise UserError(f"{experiment.config.data.file}: no valid people to score on; make it again with nas.prepare")
    # Another schedule has a folder of its own: it must not take the place of finished weights.
    usual = schedule == experiment.config.full_schedule()
    name = choice.label if usual else f"{choice.label}-{schedule.images}x{schedule.epochs}"
    folder = experiment.folder / "full" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}; choose another --runs") from error
    size = experiment.config.data.input_size
    people = fit_to_input(experiment.load_people(("train", "holdout"), device), size)
    valid = fit_to_input(experiment.load_people("valid", device), size)
    cost = experiment.cost(choice.candidate)
    network = build_network(
        choice.candidate.architecture, experiment.joints, experiment.input_size, seed=experiment.config.seed
    )
    board = SummaryWriter(str(folder)) if rank == 0 else None

    def note(epoch: Epoch) -> None:
        if board is not None:
            line = _line(epoch.to_dict(), schedule)
            lines = [*_earlier_lines(folder / "metrics.jsonl", epoch.number), json.dumps(line)]
            write_atomically(folder / "metrics.jsonl", ("\n".join(lines) + "\n").encode())
            _to_board(board, line)
        after_epoch(epoch)

    try:
        with nullcontext(lambda: False) if dist.is_initialized() else deferred_sigterm() as asked:
            trained = train(
                network,
                choice.candidate.losses,
                schedule,
                people,
                valid,
                seed=experiment.config.seed,
                checkpoint=folder / "checkpoint.pt",
                hooks=TrainingHooks(after_epoch=note, after_step=after_step, should_stop=asked),
            )
    except InterruptedTrainingError as error:
        raise TerminatedError from error
    finally:
        if board is not None:
            board.close()
    if rank == 0:
        # All of them once more: killed between a checkpoint and its line, a run lacks that line.
        text = "".join(json.dumps(_line(figures, schedule)) + "\n" for figures in trained.history)
        write_atomically(folder / "metrics.jsonl", text.encode())
    if trained.stopped or trained.evaluation is None:
        raise UserError(f"{choice.label}: {trained.stopped}; try a lower learning_rate in [full] of the study file")
    flipped = evaluate(trained.network, valid, schedule, size, flip=True)
    accuracy = trained.evaluation.accuracy
    short = choice.trial.values[0] if choice.trial is not None and choice.trial.values else None
    result = Result(
        label=choice.label,
        network=str(choice.candidate),
        pckh=accuracy.mean,
        pckh_flipped=flipped.accuracy.mean,
        pckh_by_count=accuracy.by_count,
        groups=accuracy.groups,
        stages=trained.evaluation.stages,
        params=cost.params,
        madds=cost.madds,
        short_pckh=short,
        images=schedule.steps * schedule.batch,
        seconds=trained.history[-1]["seconds"],
        people=len(valid),
        checkpoint=str(folder / "checkpoint.pt"),
    )
    if rank == 0:
        about = {"result": asdict(result), "candidate": choice.candidate.to_dict(), "schedule": schedule.to_dict()}
        write_atomically(folder / "result.json", json.dumps({**about, "record": record()}, indent=1).encode())
        write_back(experiment, study, choice, result, schedule, trained, valid)
    return result


def full_training_study(experiment: Experiment, study: Study) -> Study:
    """The study that holds fully trained networks, in the same storage."""
    return create_study(database_of(study._storage), f"{experiment.config.name}-full", experiment.config.objectives)


def write_back(
    experiment: Experiment,
    study: Study,
    choice: Choice,
    result: Result,
    schedule: ScheduleConfig,
    trained: TrainingResult,
    valid: PackedPeople,
) -> None:
    """Store a result in the companion study, once for each network and schedule, with note, pictures and weights.

    Args:
        experiment: of the study.
        study: that found the network.
        choice: what was trained.
        result: of the training.
        schedule: of the training.
        trained: the network and its history.
        valid: the people that it was scored on, on the device.
    """
    key = f"{choice.candidate.id}/{schedule.images}/{schedule.epochs}"
    with study_lock(study._storage):
        full = full_training_study(experiment, study)
        there = [t for t in full.get_trials(deepcopy=False) if t.user_attrs.get("key") == key]
        if any(t.state == TrialState.COMPLETE for t in there):
            return
        if not there:  # else one who was killed has left it running
            full.add_trial(_record_of(experiment, choice, result, key))
    stored = next(t for t in full.get_trials(deepcopy=False) if t.user_attrs.get("key") == key)
    trial = optuna.Trial(full, stored._trial_id)
    about = [f"Trained in full: {result.pckh_flipped:.1f} with the flipped copy, {result.people:,} validation people."]
    if choice.trial is not None:
        search = f"/dashboard/studies/{study._study_id}/trials?numbers={choice.trial.number}"
        about.append(
            f"Found by [trial {choice.trial.number} of {escape_markdown(experiment.config.name)}]({search})"
            + ("" if result.short_pckh is None else f", PCKh {result.short_pckh:.1f} there on its hold-out people")
            + "."
        )
    ended = TrainingSummary(
        title=str(choice.candidate) if choice.trial is not None else f"{choice.label}: {choice.candidate}",
        candidate=choice.candidate,
        cost=experiment.cost(choice.candidate),
        schedule=schedule,
        seed=experiment.config.seed,
        trained=trained,
        reason=None,
        about=about,
    )
    weights = {CHECKPOINT: Path(result.checkpoint).read_bytes()}
    save_artifacts(trial, experiment, ended, valid, experiment.artifacts_of(study), weights)
    values = {"pckh": result.pckh, "params": result.params, "madds": result.madds}
    full.tell(trial, [values[o] for o in experiment.config.objectives])


def _record_of(experiment: Experiment, choice: Choice, result: Result, key: str) -> FrozenTrial:
    """A trial of the companion study, running, since one that has ended takes no artifacts."""
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


def _line(figures: Mapping[str, Any], schedule: ScheduleConfig) -> dict[str, Any]:
    """An epoch's line of metrics.jsonl, from its record in a history."""
    steps = figures["epoch"] * schedule.steps_per_epoch
    learning_rate = schedule.learning_rate * schedule.lr_factor(steps - 1)
    return {**figures, "learning_rate": learning_rate, "seconds": round(figures["seconds"], 2)}


def _earlier_lines(path: Path, epoch: int) -> list[str]:
    """The lines of earlier epochs; what a killed process wrote beyond its last checkpoint is dropped."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines() if line and json.loads(line)["epoch"] < epoch]


def _to_board(board: SummaryWriter, line: dict[str, Any]) -> None:
    for name in ("loss", "learning_rate", "pckh"):
        if name in line:
            board.add_scalar(name, line[name], line["images"])
    for group, value in line.get("groups", {}).items():
        board.add_scalar(f"pckh/{group}", value, line["images"])
    board.flush()
