"""All that is to be shown of a study, gathered once: for figures, the page, the dashboard's panels, tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import spearmanr

from nas.study.analysis.baselines import Baseline, Comparison, baselines_of, compare, tradeoffs
from nas.study.analysis.importance import Importance, importance_of
from nas.study.analysis.rank_correlation import Estimate
from nas.study.analysis.seed_noise import ASSUMED, SeedStatistics, seed_statistics
from nas.study.experiment import Experiment, point_of
from nas.study.pareto import Point, front, hypervolume
from nas.study.storage.tolerant_study import left_out_of
from nas.study.storage.trial_queue import DONE, Counts, count

_RESAMPLES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HistoryStep:
    """How far a search had come when a trial ended.

    Attributes:
        images: number trained on until then.
        volume: hypervolume.
        size: of the front.
    """

    images: int
    volume: float
    size: int


@dataclass(frozen=True)
class FullTrainingResult:
    """A network that was trained in full as well.

    Attributes:
        name: "trial 17", or the published network's.
        trial: the study's, if it has trained this network to the end.
        short: PCKh in the search, the mean of its seeds; None where it was not trained there to the end.
        pckh: after full training, on the validation people.
        params: exact.
        madds: exact.
        images: of the full training.
        network: in words.
        on_front: no other fully trained network beats it.
    """

    name: str
    trial: int | None
    short: float | None
    pckh: float
    params: int
    madds: int
    images: int
    network: str
    on_front: bool


@dataclass(frozen=True)
class StudyResults:
    """A study's results.

    Attributes:
        experiment: of the study.
        study: itself.
        counts: of its trials.
        trials: by number.
        measured: the finished networks, in the order of their trials.
        front: those that no other beats, cheapest first.
        baselines: published networks trained under the study's schedule.
    """

    experiment: Experiment
    study: Study
    counts: Counts
    trials: Mapping[int, FrozenTrial]
    measured: tuple[SeedStatistics, ...]
    front: tuple[SeedStatistics, ...]
    baselines: tuple[Baseline, ...]

    @cached_property
    def left_out(self) -> dict[int, str]:
        """Numbers of the trials that are not understood, and why; nothing above counts them."""
        return left_out_of(self.study)

    @property
    def name(self) -> str:
        """Of the study."""
        return self.experiment.config.name

    @cached_property
    def published(self) -> dict[int, str]:
        """Trial → name of the published network that it is."""
        return {b.point.number: b.name for b in self.baselines}

    @property
    def noise(self) -> float:
        """Standard deviation of PCKh between seeds of one network."""
        return self.measured[0].noise if self.measured else ASSUMED

    def error(self, number: int) -> float:
        """Standard error of a trial's PCKh."""
        return self._errors.get(number, self.noise)

    @cached_property
    def _errors(self) -> dict[int, float]:
        return {m.number: m.noise / math.sqrt(len(m.values)) for m in self.measured}

    @cached_property
    def points(self) -> list[Point]:
        """The finished networks with their mean PCKh."""
        return [m.point for m in self.measured]

    @cached_property
    def volume(self) -> float:
        """Hypervolume of all finished networks."""
        return hypervolume(front(self.points), self.experiment.scale)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Where the search stands against each baseline."""
        return compare(self.baselines, self.points)

    @cached_property
    def scores(self) -> dict[int, float]:
        """Trade-offs by trial; empty without the study's own hg2."""
        return tradeoffs(self.points, self.baselines)

    @cached_property
    def importance(self) -> list[Importance]:
        """What the choices tell of PCKh at equal cost."""
        return importance_of(self.experiment, self.study)

    @cached_property
    def steps(self) -> list[HistoryStep]:
        """The search's progress, a step for each trial that ended, in that order.

        Trials note it as they end; where one did not (it is of an older version), all is worked out again.
        """
        ended = [t for t in self.trials.values() if t.state in DONE and t.user_attrs.get("images")]
        ended.sort(key=lambda t: (t.datetime_complete is None, t.datetime_complete, t.number))
        keys = ("images_so_far", "hypervolume", "front_size")
        if all(key in t.user_attrs for t in ended for key in keys):
            return sorted((HistoryStep(*(t.user_attrs[key] for key in keys)) for t in ended), key=lambda s: s.images)
        steps, images, best = [], 0, list[Point]()
        for trial in ended:
            images += int(trial.user_attrs["images"])
            if trial.state == TrialState.COMPLETE:
                best = front([*best, point_of(trial)])
            steps.append(HistoryStep(images, hypervolume(best, self.experiment.scale), len(best)))
        return steps

    @cached_property
    def full(self) -> list[FullTrainingResult]:
        """Networks of the companion study of full trainings, cheapest first; of several of one, the longest."""
        other = self.experiment.companion(self.study, "full")
        if other is None:
            return []
        longest: dict[str, FrozenTrial] = {}
        for trial in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            key = self.experiment.candidate_of(trial).id
            if key not in longest or trial.user_attrs["images"] >= longest[key].user_attrs["images"]:
                longest[key] = trial
        known = {self.experiment.candidate_of(self.trials[m.number]).id: m for m in reversed(self.measured)}
        points = [point_of(trial) for trial in longest.values()]
        ahead = {p.number for p in front(points)}
        found = []
        for (key, trial), point in zip(longest.items(), points, strict=True):
            short, label = known.get(key), str(trial.user_attrs["label"])
            found.append(
                FullTrainingResult(
                    name=label.replace("trial-", "trial "),
                    trial=short.number if short else None,
                    short=short.mean if short else None,
                    pckh=point.pckh,
                    params=point.params,
                    madds=point.madds,
                    images=int(trial.user_attrs["images"]),
                    network=str(trial.user_attrs["network"]),
                    on_front=trial.number in ahead,
                )
            )
        return sorted(found, key=lambda f: (f.params, f.madds))

    @cached_property
    def agreement(self) -> Estimate | None:
        """Rank correlation (Spearman) of the search's PCKh with that after full training; None of fewer than three."""
        pairs = np.array([(f.short, f.pckh) for f in self.full if f.short is not None], dtype=np.float64)
        if len(pairs) < 3:
            return None
        rng = np.random.default_rng(0)
        draws = [pairs[rng.integers(0, len(pairs), len(pairs))] for _ in range(_RESAMPLES)]
        # A draw of equal values has no correlation.
        values = [_spearman(d) for d in draws if len(set(d[:, 0])) > 1 and len(set(d[:, 1])) > 1]
        low, high = np.percentile(values, (2.5, 97.5)) if values else (math.nan, math.nan)
        return Estimate(_spearman(pairs), float(low), float(high))


def _spearman(pairs: Floats) -> float:
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def load_results(experiment: Experiment, study: Study) -> StudyResults:
    """What a study has found so far."""
    measured = {m.number: m for m in seed_statistics(experiment, study)}
    return StudyResults(
        experiment=experiment,
        study=study,
        counts=count(study),
        trials={t.number: t for t in study.get_trials(deepcopy=False)},
        measured=tuple(measured.values()),
        front=tuple(measured[p.number] for p in front([m.point for m in measured.values()])),
        baselines=tuple(baselines_of(experiment, study)),
    )
