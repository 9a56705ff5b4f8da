"""Trials as anybody may have left them: what this project does not understand is left out, and said once.

A database is shared. People enqueue trials, add results or tell them by hand, with Optuna or from the dashboard, and
edit attributes. :class:`TolerantStorage` reads rows that Optuna cannot read; :class:`TolerantStudy` leaves out of its
lists every trial that a check objects to, so that reports and samplers need not check anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

LEFT_OUT = "not_understood"
"""User attribute of a trial that was taken out of the queue: why."""

Check = Callable[[FrozenTrial], str | None]
"""Returns what is wrong with a trial in one line, or None."""


class TolerantStorage(RDBStorage):
    """Optuna's RDB storage, in which a trial whose rows cannot be read is a failed one that says why."""

    def _build_frozen_trial_from_trial_model(self, trial: Any) -> FrozenTrial:
        try:
            return super()._build_frozen_trial_from_trial_model(trial)
        except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
            return FrozenTrial(
                number=trial.number,
                state=TrialState.FAIL,
                value=None,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
                params={},
                distributions={},
                user_attrs={LEFT_OUT: f"its rows cannot be read: {shorten(error)}"},
                system_attrs={},
                intermediate_values={},
                trial_id=trial.trial_id,
            )


class TolerantStudy(Study):
    """A study whose lists leave out trials that a check objects to.

    Args:
        study: to read from.
        check: of one trial. Its answer is kept as long as the trial has the same state, parameters and attributes.
    """

    def __init__(self, study: Study, check: Check) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._check, self._answers = check, dict[int, tuple[tuple[Any, ...], str | None]]()

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in super()._get_trials(deepcopy, states, use_cache) if self.problem(t) is None]

    def problem(self, trial: FrozenTrial) -> str | None:
        """What is wrong with a trial, in one line, or None."""
        version = (trial.state, len(trial.params), len(trial.user_attrs))
        known = self._answers.get(trial._trial_id)
        if known is None or known[0] != version:
            known = self._answers[trial._trial_id] = version, self._check(trial)
        return known[1]

    def not_understood(self, state: TrialState) -> list[tuple[FrozenTrial, str]]:
        """The trials of a state that lists leave out, and why."""
        trials = super()._get_trials(deepcopy=False, states=(state,))
        return [(trial, problem) for trial in trials if (problem := self.problem(trial)) is not None]

    def left_out(self) -> dict[int, str]:
        """Numbers of the trials that lists leave out, and why."""
        trials = super()._get_trials(deepcopy=False)
        return {trial.number: problem for trial in trials if (problem := self.problem(trial)) is not None}


def left_out_of(study: Study) -> dict[int, str]:
    """Numbers of the trials that a study's lists leave out, and why; nothing for a study of Optuna's own class."""
    return study.left_out() if isinstance(study, TolerantStudy) else {}


def check_attributes(trial: FrozenTrial) -> str | None:
    """What is wrong with the types of a trial's attributes and values, in one line, or None."""
    if LEFT_OUT in trial.user_attrs:
        return shorten(trial.user_attrs[LEFT_OUT])
    for name, (fits, expected) in _ATTRIBUTES.items():
        if name in trial.user_attrs and not fits(trial.user_attrs[name]):
            return f"attribute {name} is {shorten(repr(trial.user_attrs[name]))}, not {expected}"
    if trial.state == TrialState.COMPLETE:
        values = trial.values or []
        if len(values) != 3 or not all(map(_is_number, values)):
            return f"its values are {shorten(repr(trial.values))}, not PCKh, params and MAdds"
        if not 0 <= values[0] <= 100 or not all(v >= 1 and v == int(v) for v in values[1:]):
            return f"its values {shorten(repr(values))} are no PCKh, params and MAdds"
    if "final_pckh" in trial.user_attrs and "cost" not in trial.user_attrs:
        return "it has a final PCKh, but no cost"
    return None


def shorten(text: object, most: int = 80) -> str:
    """A text from outside as a part of one line: without control characters, cut where it is long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def _is_pckh(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 100  # type: ignore[operator]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_rungs(value: object) -> bool:
    return isinstance(value, Mapping) and all(str(key).isdecimal() and _is_pckh(one) for key, one in value.items())


def _are_costs(value: object) -> bool:
    # Earlier versions counted no layers.
    names = ("params", "madds", *(["layers"] if isinstance(value, Mapping) and "layers" in value else []))
    return isinstance(value, Mapping) and all(_is_count(value.get(name), 1) for name in names)


def _is_latency(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) == {"ms", "low", "high", "device"}
        and _is_text(value["device"])
        and all(_is_number(value[name]) for name in ("ms", "low", "high"))
    )


def _is_owner(value: object) -> bool:
    return not value or (
        isinstance(value, Mapping)
        and _is_text(value.get("host"))
        and _is_count(value.get("pid"))
        and _is_number(value.get("born"))
        and _is_text(value.get("worker", ""))
    )


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


_COUNT = (_is_count, "a number from 0 on")
_FROM_ONE = (lambda value: _is_count(value, 1), "a number from 1 on")
_TEXT = (_is_text, "text")
_NUMBER = (_is_number, "a finite number")
_OBJECT = (lambda value: isinstance(value, Mapping), "a table")
_ATTRIBUTES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "attempt": _COUNT,
    "candidate": _OBJECT,
    "checkpoint": _TEXT,
    "claimed_at": _NUMBER,
    "cost": (_are_costs, "params, madds and layers"),
    "earlier": (_are_numbers, "a list of trials"),
    "final_pckh": (_is_pckh, "a PCKh"),
    "first_number": _COUNT,
    "front_size": _COUNT,
    "groups": _OBJECT,
    "hypervolume": _NUMBER,
    "images": _COUNT,
    "images_so_far": _COUNT,
    "key": _TEXT,
    "label": _TEXT,
    "latency": (_is_latency, "ms, low, high and device"),
    "network": _TEXT,
    "next_attempt": _COUNT,
    "owner": (_is_owner, "host, pid and born"),
    "published": _TEXT,
    "reason": _TEXT,
    "rungs": (_are_rungs, "PCKh by epoch"),
    "seed": _COUNT,
    "times": _FROM_ONE,
}
