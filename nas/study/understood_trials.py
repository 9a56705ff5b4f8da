"""Which trials of a database a study understands: those of its own space, with a network and costs that agree."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.console import print_note
from nas.errors import UserError
from nas.study.space.candidate import Candidate
from nas.study.space.choices import Value, find_value
from nas.study.storage.tolerant_study import TolerantStudy, check_attributes, left_out_of, shorten

if TYPE_CHECKING:
    from nas.study.experiment import Experiment

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "full": ("label", "images", "network"),
    "repeats": ("candidate", "seed"),
    "calibration": ("candidate", "times", "network", "cost", "rungs"),
}
"""Attributes without which a finished trial of a companion study says nothing."""
_QUEUED: Mapping[str, tuple[str, ...]] = {"repeats": ("candidate", "seed"), "calibration": ("candidate", "times")}
_NAMED = 3  # trials that a message names


def understood(experiment: Experiment, study: Study, kind: str | None = None) -> TolerantStudy:
    """The study, its lists without trials that this project did not make or cannot make sense of.

    Args:
        experiment: of the study.
        study: as Optuna opened it.
        kind: of a companion study: "full", "repeats" or "calibration".
    """
    return TolerantStudy(study, lambda trial: problem_with(experiment, trial, kind))


def problem_with(experiment: Experiment, trial: FrozenTrial, kind: str | None = None) -> str | None:
    """Why a trial is not understood, in one line, or None."""
    problem = check_attributes(trial)
    if problem is not None or trial.state == TrialState.FAIL:
        return problem
    required = (REQUIRED if trial.state == TrialState.COMPLETE else _QUEUED).get(kind or "", ())
    missing = [name for name in required if name not in trial.user_attrs]
    if missing:
        return f"it has no attribute {missing[0]}"
    try:
        return _problem_with_network(experiment, trial)
    except (ValueError, TypeError, LookupError, AttributeError, UserError) as error:
        return f"its network cannot be built: {shorten(error)}"


def note_left_out(study: Study, silent: bool = False) -> None:
    """Say on standard error, once, which trials are left out and why."""
    left_out = left_out_of(study)
    if silent or not left_out:
        return
    some = "; ".join(f"trial {number}: {reason}" for number, reason in list(left_out.items())[:_NAMED])
    more = f"; and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    plural = "s" if len(left_out) > 1 else ""
    _say_once(f"{len(left_out)} trial{plural} of study {study.study_name} left out: {some}{more}")


@cache
def _say_once(text: str) -> None:
    print_note(text)


def _problem_with_network(experiment: Experiment, trial: FrozenTrial) -> str | None:
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    problem = _problem_with_params(experiment, trial, params)
    if problem is not None:
        return problem
    stored = trial.user_attrs.get("candidate")
    if stored is not None:
        candidate = Candidate.from_dict(stored)
    elif experiment.problem.is_complete(params):
        candidate = experiment.problem.candidate(params)
    elif trial.state in (TrialState.WAITING, TrialState.RUNNING):
        return "it was given, but no network with it" if "given" in trial.user_attrs else None  # drawn when claimed
    else:
        return "it has neither a network nor a value for every choice"
    costs = trial.user_attrs.get("cost")
    if costs is None:
        exact = experiment.cost(candidate)
        costs = {"params": exact.params, "madds": exact.madds}
    if trial.state == TrialState.COMPLETE and list(trial.values[1:]) != [costs["params"], costs["madds"]]:
        given = f"{trial.values[1]:,.0f} params and {trial.values[2]:,.0f} MAdds"
        return f"its values say {given}, its network has {costs['params']:,} and {costs['madds']:,}"
    return None


def _problem_with_params(experiment: Experiment, trial: FrozenTrial, params: Mapping[str, Any]) -> str | None:
    """A name or value that is not of the space."""
    choices = experiment.space.choices
    for name, value in params.items():
        if name not in choices:
            return f"choice {shorten(name, 30)!r} is not of the space"
        if not _is_value(value) or find_value(choices[name], value) is None:
            return f"{name} = {shorten(repr(value), 40)} is not of the space"
    if trial.state == TrialState.WAITING:
        for name, distribution in trial.distributions.items():
            if distribution != choices[name]:
                return f"choice {name!r} was given with other values than the space's"
    return None


def _is_value(value: object) -> bool:
    plain: tuple[type[Value], ...] = (str, int, float, bool)
    return isinstance(value, plain)
