"""Which networks are on the front, PCKh being known only up to the noise of a seed.

Two seeds of one network differ by about a point of PCKh after a short schedule: more than many neighbours on a front
differ. So every finished network has a chance of being on the front, and those whose chance is nearest to a half are
worth training again, in a companion study ``<name>-repeats`` of the same storage, by the same workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import TrialState

from nas.study.experiment import Experiment, points_of
from nas.study.pareto import Point
from nas.study.space.candidate import Candidate
from nas.study.storage.study_store import StudyStore

SEEDS = 2
"""New seeds that a network is trained under each time that it is chosen."""
ASSUMED, WEIGHT = 1.0, 4
"""Standard deviation of PCKh between seeds where nothing was repeated, and the degrees of freedom it counts for."""
UNCERTAIN = 0.02
"""A network is uncertain where its chance is between this and one less this."""
_DRAWS = 4000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SeedStatistics:
    """A finished network, with all that is known of its PCKh.

    Attributes:
        number: of its trial.
        values: PCKh of that trial, then those under other seeds.
        params: exact.
        madds: exact.
        noise: standard deviation of one value.
        chance: probability that no other finished network dominates it.
    """

    number: int
    values: tuple[float, ...]
    params: int
    madds: int
    noise: float
    chance: float

    @cached_property
    def mean(self) -> float:
        """Of all seeds."""
        return sum(self.values) / len(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None of a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def point(self) -> Point:
        """With the mean of its PCKh."""
        return Point(self.number, self.mean, self.params, self.madds)


def repeats_experiment(experiment: Experiment) -> Experiment:
    """The experiment whose trials repeat another one's networks under other seeds."""
    return experiment.beside("repeats")


def repeats_of(experiment: Experiment, study: Study) -> dict[str, list[float]]:
    """Candidate id → its PCKh under other seeds, in the order of the trials."""
    other = experiment.companion(study, "repeats")
    repeats: dict[str, list[float]] = {}
    for trial in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if other else ():
        repeats.setdefault(experiment.candidate_of(trial).id, []).append(trial.values[0])
    return repeats


def mean_points(experiment: Experiment, study: Study) -> list[Point]:
    """The finished networks of a study, each with the mean PCKh of its seeds."""
    return [
        Point(p.number, sum(values) / len(values), p.params, p.madds) for p, values in _values_of(experiment, study)
    ]


def seed_statistics(experiment: Experiment, study: Study) -> list[SeedStatistics]:
    """The finished networks of a study with their chances, in the order of their trials."""
    found = _values_of(experiment, study)
    sd = noise([values for _, values in found])
    means = np.array([sum(values) / len(values) for _, values in found])
    errors = np.array([sd / math.sqrt(len(values)) for _, values in found])
    costs = np.array([(p.params, p.madds) for p, _ in found], dtype=np.float64).reshape(-1, 2)
    likely = front_probabilities(means, errors, costs)
    return [
        SeedStatistics(p.number, values, p.params, p.madds, sd, float(chance))
        for (p, values), chance in zip(found, likely, strict=True)
    ]


def seed_deviation(experiment: Experiment, study: Study) -> float:
    """Standard deviation of PCKh between seeds, as far as this study knows."""
    return noise([values for _, values in _values_of(experiment, study)])


def _values_of(experiment: Experiment, study: Study) -> list[tuple[Point, tuple[float, ...]]]:
    """The finished networks, and PCKh under each seed, the trial's own first."""
    repeats = repeats_of(experiment, study)
    trials = {t.number: t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))} if repeats else {}
    found = []
    for point in points_of(study):
        again = repeats.get(experiment.candidate_of(trials[point.number]).id, []) if repeats else []
        found.append((point, (point.pckh, *again)))
    return found


def noise(values: Sequence[Sequence[float]]) -> float:
    """Standard deviation of PCKh between seeds, pooled over networks, :data:`ASSUMED` counting a little.

    Args:
        values: each network's, one or several.
    """
    squares, freedom = WEIGHT * ASSUMED**2, float(WEIGHT)
    for several in values:
        if len(several) > 1:
            squares += float(np.var(several)) * len(several)
            freedom += len(several) - 1
    return math.sqrt(squares / freedom)


def front_probabilities(means: Floats, errors: Floats, costs: Floats) -> Floats:
    """Each network's probability of being non-dominated, its PCKh being normal and its costs exact.

    Args:
        means: (n,) PCKh.
        errors: (n,) standard deviations of the means.
        costs: (n, 2) params and MAdds.

    Returns:
        (n,) shares of some thousand draws, the same for the same networks.
    """
    rng = np.random.default_rng(0)
    draws = np.ascontiguousarray((rng.standard_normal((_DRAWS, len(means))) * errors + means).T)
    shares = np.ones(len(means))
    least, most = means - 5 * errors, means + 5 * errors
    for i in range(len(means)):
        no_dearer = (costs <= costs[i]).all(axis=1)
        no_dearer[i] = False
        if not no_dearer.any():
            continue
        # Those that are certainly behind another of them do not decide.
        best = least[no_dearer].max()
        no_dearer &= most >= best
        shares[i] = (draws[i] > draws[no_dearer].max(axis=0)).mean() if most[i] >= best else 0.0
    return shares


def queue(experiment: Experiment, study: Study, count: int) -> int:
    """Queue further seeds of the networks whose membership of the front is least certain.

    What was queued before and has not ended is finished first: then nothing is added.

    Args:
        experiment: whose front it is.
        study: its study.
        count: networks.

    Returns:
        how many trials the companion study has when all are done.
    """
    beside = repeats_experiment(experiment)
    other = beside.open_study()
    with StudyStore(other).lock():
        there = [t for t in other.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
        if not any(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in there):
            trials = {t.number: t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
            used: dict[str, set[int]] = {}
            for trial in there:
                name = Candidate.from_dict(trial.user_attrs["candidate"]).id
                used.setdefault(name, set()).add(int(trial.user_attrs["seed"]))
            for one in least_certain(seed_statistics(experiment, study), count):
                candidate = experiment.candidate_of(trials[one.number])
                own = int(trials[one.number].user_attrs.get("seed", experiment.config.seed))
                first = 1 + max(used.get(candidate.id, set()) | {own})
                for seed in range(first, first + SEEDS):
                    other.enqueue_trial({}, user_attrs={"given": True, "candidate": candidate.to_dict(), "seed": seed})
        return sum(t.state != TrialState.FAIL for t in other.get_trials(deepcopy=False))


def least_certain(measured: Sequence[SeedStatistics], count: int) -> list[SeedStatistics]:
    """At most so many networks, those whose chance is nearest to a half first; no certain ones."""
    uncertain = [m for m in measured if UNCERTAIN < m.chance < 1 - UNCERTAIN]
    return sorted(uncertain, key=lambda m: (abs(m.chance - 0.5), m.number))[:count]
