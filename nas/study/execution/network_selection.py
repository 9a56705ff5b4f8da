"""Networks of a study that are selected for full training, and their weights afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.errors import UserError
from nas.study.analysis.selection import PICKS, SelectionLimits, points_within
from nas.study.analysis.selection import pick as pick_one
from nas.study.execution.trial_artifacts import CHECKPOINT
from nas.study.experiment import Experiment
from nas.study.pareto import front
from nas.study.space.candidate import Candidate
from nas.study.storage.study_store import StudyStore


@dataclass(frozen=True)
class SelectedNetwork:
    """A network that was selected for full training.

    Attributes:
        label: name of its folder.
        candidate: what to train.
        trial: that found it; None for a published network.
    """

    label: str
    candidate: Candidate
    trial: FrozenTrial | None


def select_networks(
    experiment: Experiment,
    study: Study,
    trial: int | None,
    pick: str | None,
    all_front: bool,
    published: str | None,
    limits: SelectionLimits = SelectionLimits(),
) -> list[SelectedNetwork]:
    """Return the networks that flags select, in exactly one of four ways.

    Args:
        experiment: of the study.
        study: to select from.
        trial: number of a finished or stopped trial.
        pick: one of :data:`PICKS`.
        all_front: whether to select all networks of the Pareto front.
        published: name of a published network.
        limits: that ``pick`` and ``all_front`` respect.

    Raises:
        UserError: no way or several, no such trial, an unfinished trial, or no network within the limits.
    """
    if sum([trial is not None, pick is not None, all_front, published is not None]) != 1:
        raise UserError(
            f"say which network: exactly one of --trial N, --pick {'|'.join(PICKS)}, --all-front, --published NAME"
        )
    if limits and pick is None and not all_front:
        raise UserError(f"{limits}: goes with --pick or --all-front; a network that is named is taken as it is")
    if published is not None:
        return [SelectedNetwork(published, experiment.published(published), None)]
    trials = {t.number: t for t in study.get_trials(deepcopy=False)}
    if trial is not None:
        if trial not in trials:
            raise UserError(f"--trial {trial}: study {experiment.config.name} {_numbers(trials)}")
        if trials[trial].state not in (TrialState.COMPLETE, TrialState.PRUNED):
            raise UserError(
                f"--trial {trial}: it is {trials[trial].state.name.lower()}; choose a finished or stopped one"
            )
        numbers = [trial]
    elif all_front:
        numbers = [p.number for p in front(points_within(experiment, study, limits))]
    else:
        assert pick is not None
        numbers = [pick_one(experiment, study, pick, limits).number]
    return [SelectedNetwork(f"trial-{n}", experiment.candidate_of(trials[n]), trials[n]) for n in numbers]


def _numbers(trials: Mapping[int, FrozenTrial]) -> str:
    return f"has trials {min(trials)} to {max(trials)}" if trials else "has no trials yet"


def full_training_checkpoint(experiment: Experiment, study: Study, selected: SelectedNetwork) -> Path:
    """Return the checkpoint of a network's full training; of several trainings, that of the longest.

    Raises:
        UserError: the network was not trained in full, or its checkpoint was removed.
    """
    store = StudyStore(study)
    full = experiment.companion(study, "full")
    finished = full.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if full is not None else []
    same = [t for t in finished if experiment.candidate_of(t).id == selected.candidate.id]
    flag = f"--published {selected.label}" if selected.trial is None else f"--trial {selected.trial.number}"
    command = f"python -m nas.retrain --study {experiment.config.name} {flag}{experiment.location_flags}"
    if not same:
        raise UserError(f"{flag}: not trained in full yet; run `{command}`")
    longest = max(same, key=lambda t: (t.user_attrs["images"], t.number))
    # Where it was written; where it is if the runs folder was moved; the copy for the dashboard.
    written = Path(longest.user_attrs.get("checkpoint") or CHECKPOINT)
    moved = experiment.folder / "full" / written.parent.name / written.name
    artifacts = [meta.artifact_id for meta in store.artifacts(longest) if meta.filename == CHECKPOINT]
    copies = [experiment.artifacts_of(study) / artifact for artifact in artifacts]
    for path in (moved, written, *copies):
        if path.is_file():
            return path
    raise UserError(f"{flag}: its checkpoint {written} does not exist anymore; run `{command}` again")
