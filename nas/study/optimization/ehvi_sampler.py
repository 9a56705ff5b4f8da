"""Sampling by the expected improvement of the hypervolume, with exact costs.

Of the three objectives only PCKh is unknown before training. So only PCKh is modelled, by a Gaussian process on the
candidate's canonical choices and its log costs. A candidate is worth its expected improvement of the hypervolume given
its known costs (Emmerich et al. 2006): as the costs are certain, the expectation is a sum of one-dimensional ones.
Candidates over the budget, or evaluated before, are never compared, so that none is trained.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.study.optimization.acquisition import expected_improvement, extrapolate_final
from nas.study.optimization.affordable import MAX_POINTS
from nas.study.optimization.features import features
from nas.study.optimization.gaussian_process import GaussianProcess
from nas.study.optimization.problem import (
    NoCandidateLeftError,
    Problem,
    SpaceSampler,
    evaluated_ids,
    proposal_seed,
    sample_any_unseen,
    sample_unseen,
)
from nas.study.space.choices import Value

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Observation:
    """One trial as the model sees it: features, PCKh (measured, or extrapolated from a rung), its noise variance."""

    features: Floats
    pckh: float
    variance: float


class EHVISampler(SpaceSampler):
    """Proposes the network with the largest expected improvement of the front's hypervolume.

    Args:
        problem: to sample for.
        seed: of the study; every proposal has a seed of its own (:func:`proposal_seed`).
        startup: trials started before the model is used; they are spread evenly over log costs.
        pool: number of candidates compared for each proposal.
    """

    def __init__(self, problem: Problem, seed: int, startup: int = 6, pool: int = 1000) -> None:
        super().__init__(problem, seed)
        self.startup, self.pool = startup, pool

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a parameter outside the space at random; an enqueued trial may lack one."""
        return optuna.samplers.RandomSampler(seed=self.rng.randrange(2**31)).sample_independent(
            study, trial, param_name, param_distribution
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose one point, aware of what other workers are training."""
        if not self.needs_proposal(trial, search_space):
            return {}
        self.rng = random.Random(proposal_seed(self.seed, study, trial))
        seen = evaluated_ids(study, self.problem)
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        complete = [t for t in others if t.state == TrialState.COMPLETE]
        observed = [t for t in complete if self.problem.is_complete(t.params)]
        if len(observed) < 3 or len(seen) < self.startup:
            return self._spread(others, seen)
        return self._improve(others, complete, seen)

    def _spread(self, others: Sequence[FrozenTrial], seen: set[str]) -> dict[str, Value]:
        """Of some random points, the one whose costs are farthest from those of other trials."""
        taken = [s for t in others if t.state != TrialState.FAIL and (s := self._savings_of(t)) is not None]
        options = []
        for _ in range(16):
            options.append(sample_any_unseen(self.problem, seen, self.rng))
        if not taken:
            return options[0]

        def distance(point: Mapping[str, Value]) -> float:
            savings = self._savings(point)
            assert savings is not None
            return min(math.dist(savings, other) for other in taken)

        return max(options, key=distance)

    def _savings(self, point: Mapping[str, Any]) -> tuple[float, float] | None:
        """Normalized savings of a point's network; None if the point is incomplete."""
        if not self.problem.is_complete(point):
            return None
        cost = self.problem.cost(self.problem.candidate(point))
        return self.problem.scale.normalized_savings(cost.params, cost.madds)

    def _savings_of(self, trial: FrozenTrial) -> tuple[float, float] | None:
        if trial.values is not None and len(trial.values) == 3:  # otherwise another kind of study
            return self.problem.scale.normalized_savings(trial.values[1], trial.values[2])
        return self._savings(trial.params)

    def _improve(
        self, others: Sequence[FrozenTrial], complete: Sequence[FrozenTrial], seen: set[str]
    ) -> dict[str, Value]:
        """The point of the pool with the largest expected improvement."""
        observations = self._observations(others, complete)
        model = GaussianProcess.fit(
            np.stack([o.features for o in observations]),
            np.array([o.pckh for o in observations]),
            np.array([o.variance for o in observations]),
        )
        running = [t.params for t in others if t.state == TrialState.RUNNING and self.problem.is_complete(t.params)]
        if running:
            # Kriging believer: running trials count as if they had their expected result.
            model = model.condition_on_mean(np.stack([features(self.problem, point) for point in running]))

        points = self._candidate_pool(complete, seen)
        costs = [self.problem.cost(self.problem.candidate(point)) for point in points]
        savings = np.array([self.problem.scale.normalized_savings(c.params, c.madds) for c in costs])
        mean, sd = model.predict(np.stack([features(self.problem, point) for point in points]))
        heights = np.array([t.values[0] for t in complete]) / 100
        corners = np.array([self._savings_of(t) for t in complete])
        if running:
            expected, _ = model.predict(np.stack([features(self.problem, point) for point in running]))
            heights = np.concatenate([heights, expected / 100])
            corners = np.concatenate([corners, [self._savings(point) or (0.0, 0.0) for point in running]])
        improvement = expected_improvement(mean / 100, sd / 100, savings, heights, corners)
        return points[int(np.argmax(improvement))]

    def _observations(self, others: Sequence[FrozenTrial], complete: Sequence[FrozenTrial]) -> list[_Observation]:
        """Complete trials, and pruned ones extrapolated from their last rung where two complete trials have it."""
        observations = [
            _Observation(features(self.problem, t.params), t.values[0], 0.0)
            for t in complete
            if self.problem.is_complete(t.params)
        ]
        finals: dict[str, list[tuple[float, float]]] = {}
        for trial in complete:
            for epoch, value in trial.user_attrs.get("rungs", {}).items():
                finals.setdefault(epoch, []).append((value, trial.values[0]))
        for trial in others:
            rungs = trial.user_attrs.get("rungs", {})
            if trial.state == TrialState.PRUNED and rungs and self.problem.is_complete(trial.params):
                last = max(rungs, key=int)
                if len(finals.get(last, [])) >= 2:
                    pckh, variance = extrapolate_final(rungs[last], finals[last])
                    observations.append(_Observation(features(self.problem, trial.params), pckh, variance))
        return observations

    def _candidate_pool(self, complete: Sequence[FrozenTrial], seen: set[str]) -> list[dict[str, Value]]:
        """Random points and mutations of good ones, each a new network within the budget."""
        space = self.problem.space
        inside = [t for t in complete if self.problem.is_complete(t.params)]
        parents = sorted(inside, key=lambda t: -self._merit(t))[: max(4, len(inside) // 3)]
        pool: dict[str, dict[str, Value]] = {}

        def mutation() -> dict[str, Value]:
            return space.mutate(self.rng.choice(parents).params, self.rng, self.rng.choice((1, 1, 2, 3)))

        misses = 0
        for i in range(self.pool):
            random_point = not i % 2
            if random_point and misses >= 10:  # the budget leaves too few points: each try costs time
                continue
            sample = (lambda: space.random(self.rng)) if random_point else mutation
            try:
                point = sample_unseen(self.problem, seen, sample, attempts=50)
            except NoCandidateLeftError:
                misses += random_point
                continue
            pool[self.problem.candidate(point).id] = point
        if len(pool) < min(self.pool, MAX_POINTS) // 10:  # few are left, or random ones miss the budget
            left = {key: dict(point) for key, point in self.problem.affordable.points.items() if key not in seen}
            pool |= left
        if not pool:
            raise NoCandidateLeftError
        return list(pool.values())

    def _merit(self, trial: FrozenTrial) -> float:
        """The volume that a complete trial dominates by itself."""
        params, madds = self.problem.scale.normalized_savings(trial.values[1], trial.values[2])
        return float(trial.values[0]) / 100 * params * madds
