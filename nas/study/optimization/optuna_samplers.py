"""Optuna's samplers, made to propose new networks within the budget only."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.study.optimization.ehvi_sampler import EHVISampler
from nas.study.optimization.problem import (
    NoCandidateLeftError,
    Problem,
    SpaceSampler,
    evaluated_ids,
    proposal_seed,
    sample_any_unseen,
    sample_unseen,
)
from nas.study.storage.study_view import StudyView


class RejectionSampler(SpaceSampler):
    """One of Optuna's samplers; proposals over the budget or evaluated before are rejected and sampled again.

    The inner sampler sees log10 costs, while the study stores raw ones: on raw costs, no sampler beats random search in
    50 trials.

    Args:
        make: creates the inner sampler from a seed, for each proposal.
        problem: to sample for.
        seed: of the study.
        attempts: proposals of the inner sampler before a random point is taken.
    """

    def __init__(self, make: Callable[[int], BaseSampler], problem: Problem, seed: int, attempts: int = 8) -> None:
        super().__init__(problem, seed)
        self.make, self.attempts = make, attempts
        self.inner = make(seed)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a parameter outside the space."""
        return self.inner.sample_independent(log_cost_view(study), trial, param_name, param_distribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The inner sampler's proposal; a random point if several were rejected."""
        if not self.needs_proposal(trial, search_space):
            return {}
        view = log_cost_view(study)
        seen = evaluated_ids(study, self.problem)
        default = self.problem.space.random(self.rng)  # for choices with a single value

        def propose() -> dict[str, Any]:
            modelled = self.inner.infer_relative_search_space(view, trial)
            point = self.inner.sample_relative(view, trial, modelled)
            for name, distribution in search_space.items():
                if distribution.single():  # TPE would divide by its range, 0
                    point[name] = default[name]
                elif name not in point:
                    point[name] = self.inner.sample_independent(view, trial, name, distribution)
            return point

        try:
            return sample_unseen(self.problem, seen, propose, self.attempts)
        except NoCandidateLeftError:
            return sample_any_unseen(self.problem, seen, self.rng)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed this proposal."""
        seed = proposal_seed(self.seed, study, trial)
        self.inner, self.rng = self.make(seed), random.Random(seed)
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Inform the inner sampler."""
        self.inner.after_trial(study, trial, state, values)


def log_cost_view(study: Study) -> Any:
    """A view of a study with log10 costs, for Optuna's samplers.

    It leaves out given networks outside the space. These trials have no parameters, and Optuna's samplers model only
    the parameters that all trials share.
    """
    return StudyView(study, _with_log_costs)


def _with_log_costs(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [_log_costs_of(trial) for trial in trials if trial.params or "given" not in trial.user_attrs]


def _log_costs_of(trial: FrozenTrial) -> FrozenTrial:
    if trial.values is None:
        return trial
    changed = copy(trial)
    changed.values = [trial.values[0], *(math.log10(max(value, 1)) for value in trial.values[1:])]
    return changed


def make_sampler(name: str, problem: Problem, seed: int, startup: int | None = None, pool: int = 1000) -> BaseSampler:
    """Create a study's sampler.

    Args:
        name: "front" (:class:`EHVISampler`), or "tpe", "nsga2", "gp" or "random" of Optuna.
        problem: to sample for.
        seed: of the study.
        startup: number of trials before a model is used, or the population of "nsga2"; by default 6 for "front", and 10
            for the others, as in Optuna.
        pool: number of candidates that "front" compares for each proposal.
    """
    if name == "front":
        return EHVISampler(problem, seed, startup or 6, pool)
    n_startup = startup or 10
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=n_startup, constant_liar=True
        ),
        "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, n_startup)),
        "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=n_startup),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    # "gp" takes seconds for each proposal and, after a rejection, mostly proposes a similar network again.
    return RejectionSampler(makers[name], problem, seed, attempts=2 if name == "gp" else 8)
