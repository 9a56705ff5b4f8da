"""A study seen through a function of its trials, as Optuna's samplers read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial


class StudyView:
    """A study whose lists of trials pass through a function; everything else is the study's.

    Args:
        study: to read from.
        transform: of a list of trials, which it must not change.
    """

    def __init__(self, study: Study, transform: Callable[[Sequence[FrozenTrial]], list[FrozenTrial]]) -> None:
        self._study, self._transform = study, transform

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        """The study's trials, transformed."""
        return self._transform(self._study.get_trials(*args, **kwargs))

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return self._transform(self._study._get_trials(*args, **kwargs))
