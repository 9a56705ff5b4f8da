"""What samplers know before any training, and what they share."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.architecture.cost import Cost
from nas.study.optimization.affordable import Affordable, count_affordable
from nas.study.pareto import HypervolumeScale
from nas.study.space.candidate import Candidate
from nas.study.space.choices import Value
from nas.study.space.search_space import SearchSpace


class NoCandidateLeftError(Exception):
    """Every point that was sampled is over the budget or has been evaluated."""


@dataclass(frozen=True)
class Problem:
    """The search problem, as it is known before any training.

    Attributes:
        space: the choices.
        candidate: point → canonical candidate.
        cost: candidate → exact cost.
        within: whether a cost is within the budget.
        scale: of the hypervolume.
    """

    space: SearchSpace
    candidate: Callable[[Mapping[str, Any]], Candidate]
    cost: Callable[[Candidate], Cost]
    within: Callable[[Cost], bool]
    scale: HypervolumeScale

    @cached_property
    def affordable(self) -> Affordable:
        """What counting through the space finds within the budget; takes seconds."""
        return count_affordable(self)

    def is_complete(self, point: Mapping[str, Any]) -> bool:
        """Whether a point has a value for every choice of the space."""
        return set(self.space.choices) <= set(point)


class SpaceSampler(BaseSampler):
    """A sampler that proposes all choices of a space at once.

    Args:
        problem: to sample for.
        seed: of the study; every proposal has a seed of its own (:func:`proposal_seed`).
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem, self.seed = problem, seed
        self.rng = random.Random(seed)

    def reseed_rng(self) -> None:
        """Do nothing. Optuna calls this for parallel threads, whose proposals have seeds of their own here."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space; it is flat."""
        return dict(self.problem.space.choices)

    def needs_proposal(self, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]) -> bool:
        """Whether the sampler proposes this trial's network: it was neither enqueued nor given."""
        given = bool(trial.system_attrs.get("fixed_params")) or "given" in trial.user_attrs
        return set(search_space) == set(self.problem.space.choices) and not given


def evaluated_ids(study: Study, problem: Problem) -> set[str]:
    """Ids of all candidates that are done, running or queued. Failed trials may be proposed again."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)
    ids = set()
    for trial in study.get_trials(deepcopy=False, states=states):
        point = trial.params or trial.system_attrs.get("fixed_params", {})
        if problem.is_complete(point):
            ids.add(problem.candidate(point).id)
        elif "given" in trial.user_attrs:  # a network outside the space
            ids.add(Candidate.from_dict(trial.user_attrs["candidate"]).id)
    return ids


def proposal_seed(seed: int, study: Study, trial: FrozenTrial) -> int:
    """The seed of one proposal, from the study's seed and the trial's position in the study.

    The position is the number of earlier trials, without those that were requeued. A search that was killed and
    continued therefore proposes what it would have proposed, and no two workers sample alike.
    """
    position = sum(t.number < trial.number and t.state != TrialState.FAIL for t in study.get_trials(deepcopy=False))
    return int.from_bytes(hashlib.sha256(f"{seed}/{position}".encode()).digest()[:4])


def sample_any_unseen(problem: Problem, seen: set[str], rng: random.Random, attempts: int = 2000) -> dict[str, Value]:
    """A random new point within the budget; where random ones miss it, one of those that counting finds.

    Raises:
        NoCandidateLeftError: there is none.
    """
    try:
        return sample_unseen(problem, seen, lambda: problem.space.random(rng), attempts)
    except NoCandidateLeftError:
        left = [point for key, point in problem.affordable.points.items() if key not in seen]
        if not left:
            raise
        return dict(rng.choice(left))


def check_unseen(problem: Problem, study: Study) -> None:
    """Raise NoCandidateLeftError if every network within the budget is done, running or queued."""
    sample_any_unseen(problem, evaluated_ids(study, problem), random.Random(0), attempts=100)


def sample_unseen(
    problem: Problem,
    seen: set[str],
    sample: Callable[[], Mapping[str, Value]],
    attempts: int = 2000,
) -> dict[str, Value]:
    """The first sampled point whose candidate is within the budget and not in ``seen``.

    Raises:
        NoCandidateLeftError: none of the attempts found one.
    """
    for _ in range(attempts):
        point = dict(sample())
        try:
            candidate = problem.candidate(point)
            accepted = candidate.id not in seen and problem.within(problem.cost(candidate))
        except ValueError:
            continue  # values that cannot be built together
        if accepted:
            return point
    raise NoCandidateLeftError
