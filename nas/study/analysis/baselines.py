"""What was found, beside the published networks trained under the study's own schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.study import Study
from optuna.trial import TrialState

from nas.console import parse_count
from nas.errors import UserError
from nas.study.analysis.latency import latencies_of
from nas.study.analysis.seed_noise import mean_points
from nas.study.experiment import Experiment
from nas.study.pareto import Point, best, front, knee, tradeoff
from nas.study.space.published import REFERENCE


@dataclass(frozen=True)
class Baseline:
    """A published network's result in this study.

    Attributes:
        name: of the published network.
        point: its trial's number, PCKh and costs.
        over_budget: it is there for comparison only, and not among the study's finished trials.
    """

    name: str
    point: Point
    over_budget: bool


def baselines_of(experiment: Experiment, study: Study) -> list[Baseline]:
    """The published networks that this study has trained to the end: those of its file first, in that order.

    A candidate of the search that is a published network of the study's file counts as well.
    """
    by_id = {experiment.published(name).id: name for name in experiment.config.baselines}
    found: dict[str, Baseline] = {}
    known = {p.number: p for p in mean_points(experiment, study)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        name = trial.user_attrs.get("published") or by_id.get(experiment.candidate_of(trial).id)
        if name is None:
            continue
        if trial.state == TrialState.COMPLETE:
            point = known[trial.number]
        elif "final_pckh" in trial.user_attrs:
            cost = trial.user_attrs["cost"]
            point = Point(trial.number, trial.user_attrs["final_pckh"], cost["params"], cost["madds"])
        else:
            continue  # diverged, or given up
        found.setdefault(name, Baseline(name, point, trial.state != TrialState.COMPLETE))
    asked = [found.pop(name) for name in experiment.config.baselines if name in found]
    return asked + sorted(found.values(), key=lambda b: b.point.number)


def trial_of(experiment: Experiment, study: Study, name: str) -> int:
    """The trial that trained a published network to the end.

    Raises:
        UserError: none has.
    """
    named = {b.name: b.point.number for b in baselines_of(experiment, study)}
    if name not in named:
        there = ", ".join(named) or "none"
        raise UserError(
            f"--published {name}: study {experiment.config.name} has not trained it to the end (there: {there})"
        )
    return named[name]


def tradeoffs(points: Sequence[Point], baselines: Sequence[Baseline]) -> dict[int, float]:
    """Trade-off of each point against the study's own hg2, by trial number; empty where that has not been trained."""
    base = next((b.point for b in baselines if b.name == REFERENCE), None)
    if base is None or not base.pckh:
        return {}
    against = (base.pckh, base.params, base.madds)
    return {p.number: tradeoff(p.pckh, p.params, p.madds, against) for p in points}


PICKS = ("knee", "best", "tradeoff")
"""Ways of choosing one network: the best compromise, the most accurate, document A's score."""


@dataclass(frozen=True)
class Limits:
    """The most that a network may cost to be chosen; None: anything.

    Attributes:
        params: exact.
        madds: exact, at the study's input size.
        latency: milliseconds for one picture on ``device``.
        device: "cpu" or "cuda".
    """

    params: int | None = None
    madds: int | None = None
    latency: float | None = None
    device: str = "cpu"

    @classmethod
    def of(cls, max_params: str | None, max_madds: str | None, max_latency: float | None, device: str) -> Limits:
        """Limits as flags give them. Raises UserError where one is no positive number."""
        if max_latency is not None and not 0 < max_latency < math.inf:
            raise UserError(f"--max-latency {max_latency:g}: must be positive milliseconds")
        return cls(parse_count(max_params, "--max-params"), parse_count(max_madds, "--max-madds"), max_latency, device)

    def __bool__(self) -> bool:
        return self.params is not None or self.madds is not None or self.latency is not None

    def __str__(self) -> str:
        given = (("--max-params", self.params), ("--max-madds", self.madds))
        shown = [f"{flag} {most:,}" for flag, most in given if most is not None]
        return " ".join(shown + ([] if self.latency is None else [f"--max-latency {self.latency:g}"]))

    def admits(self, point: Point) -> bool:
        """Whether a network may be chosen, its latency apart."""
        return (self.params is None or point.params <= self.params) and (
            self.madds is None or point.madds <= self.madds
        )


def affordable(experiment: Experiment, study: Study, limits: Limits) -> list[Point]:
    """The finished networks within limits, each with the mean PCKh of its seeds. Latency is measured where need be.

    Raises:
        UserError: nothing has finished, or nothing within them: says which are the least.
    """
    name = experiment.config.name
    points = mean_points(experiment, study)
    if not points:
        raise UserError(f"study {name} has no finished trial yet; run `python -m nas.search`")
    within = [p for p in points if limits.admits(p)]
    if not within:
        most = (limits.params or math.inf, limits.madds or math.inf)
        least = min(points, key=lambda p: max(p.params / most[0], p.madds / most[1]))
        raise UserError(
            f"{limits}: no finished network of study {name} is within; the nearest is trial "
            f"{least.number}, {least.params:,} params and {least.madds:,} MAdds; raise it"
        )
    if limits.latency is None:
        return within
    speeds = latencies_of(experiment, study, [p.number for p in within], limits.device)
    fast = [p for p in within if speeds[p.number].ms <= limits.latency]
    if not fast:
        nearest = min(speeds, key=lambda number: speeds[number].ms)
        raise UserError(
            f"{limits}: no finished network of study {name} is within; the fastest is trial {nearest}, "
            f"{speeds[nearest]}; raise it"
        )
    return fast


def pick(experiment: Experiment, study: Study, how: str, limits: Limits = Limits()) -> Point:
    """The finished network that a way of choosing takes.

    Args:
        experiment: of the study.
        study: to choose from.
        how: one of :data:`PICKS`.
        limits: what is beyond them is left out first: a knee is that of the front within them.

    Raises:
        UserError: there is no such way, nothing has finished within the limits, or the study has no hg2 to measure a
            trade-off against.
    """
    points = affordable(experiment, study, limits)
    if how == "knee":
        return knee(points, experiment.scale)
    if how == "best":
        return best(points)
    if how != "tradeoff":
        raise UserError(f"--pick {how}: must be one of {', '.join(PICKS)}")
    scores = tradeoffs(points, baselines_of(experiment, study))
    if not scores:
        raise UserError(
            f"--pick tradeoff: study {experiment.config.name} has not trained {REFERENCE}, which trade-offs are "
            f'measured against; put baselines = ["{REFERENCE}"] into its file and search on, or pick knee or best'
        )
    return max(front(points), key=lambda p: scores[p.number])


@dataclass(frozen=True)
class Comparison:
    """How far the search has come against one published network.

    The aim: a found network with at least its PCKh and at most half of its params and of its MAdds.

    Attributes:
        baseline: the published network.
        found: where the aim is met, the most accurate network that meets it. Else, of those with at least its PCKh, the
            one whose larger cost ratio is least; else, of those at no more than half its costs, the most accurate;
            None if there is neither.
        met: whether the aim is met.
    """

    baseline: Baseline
    found: Point | None
    met: bool

    @property
    def ratios(self) -> tuple[float, float] | None:
        """Params and MAdds of the found network over the baseline's."""
        if self.found is None:
            return None
        return self.found.params / self.baseline.point.params, self.found.madds / self.baseline.point.madds


def compare(baselines: Sequence[Baseline], points: Sequence[Point]) -> list[Comparison]:
    """Where the search stands against each baseline; baselines themselves do not count as found."""
    published = {b.point.number for b in baselines}
    found = [p for p in points if p.number not in published]
    return [_compare(baseline, found) for baseline in baselines]


def _compare(baseline: Baseline, found: Sequence[Point]) -> Comparison:
    base = baseline.point

    def dearer(p: Point) -> float:
        return max(p.params / base.params, p.madds / base.madds)

    half = [p for p in found if dearer(p) <= 0.5]
    accurate = [p for p in found if p.pckh >= base.pckh]
    both = [p for p in half if p.pckh >= base.pckh]
    if both:
        return Comparison(baseline, max(both, key=lambda p: (p.pckh, -p.params)), True)
    if accurate:
        return Comparison(baseline, min(accurate, key=dearer), False)
    return Comparison(baseline, max(half, key=lambda p: (p.pckh, -p.params), default=None), False)
