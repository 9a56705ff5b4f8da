"""Published networks trained under a study's own schedule, and the networks found in comparison with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.study import Study
from optuna.trial import TrialState

from nas.errors import UserError
from nas.study.analysis.seed_noise import mean_points
from nas.study.experiment import Experiment
from nas.study.pareto import Point, tradeoff
from nas.study.space.published import REFERENCE


@dataclass(frozen=True)
class Baseline:
    """A published network's result in this study.

    Attributes:
        name: of the published network.
        point: its trial's number, PCKh and costs.
        over_budget: whether it was trained for comparison only, and is not one of the study's finished trials.
    """

    name: str
    point: Point
    over_budget: bool


def baselines_of(experiment: Experiment, study: Study) -> list[Baseline]:
    """The published networks that the study has trained to the end, those of its file first, in that order.

    A candidate proposed by the sampler counts too if it is a published network of the study's file.
    """
    names = {experiment.published(name).id: name for name in experiment.config.baselines}
    baselines: dict[str, Baseline] = {}
    points = {p.number: p for p in mean_points(experiment, study)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        name = trial.user_attrs.get("published") or names.get(experiment.candidate_of(trial).id)
        if name is None:
            continue
        if trial.state == TrialState.COMPLETE:
            point = points[trial.number]
        elif "final_pckh" in trial.user_attrs:
            cost = trial.user_attrs["cost"]
            point = Point(trial.number, trial.user_attrs["final_pckh"], cost["params"], cost["madds"])
        else:
            continue  # diverged, or given up
        baselines.setdefault(name, Baseline(name, point, trial.state != TrialState.COMPLETE))
    configured = [baselines.pop(name) for name in experiment.config.baselines if name in baselines]
    return configured + sorted(baselines.values(), key=lambda b: b.point.number)


def baseline_trial(experiment: Experiment, study: Study, name: str) -> int:
    """The number of the trial that trained a published network to the end.

    Raises:
        UserError: there is none.
    """
    numbers = {b.name: b.point.number for b in baselines_of(experiment, study)}
    if name not in numbers:
        trained = ", ".join(numbers) or "none"
        raise UserError(
            f"--published {name}: study {experiment.config.name} has not trained it to the end (trained: {trained})"
        )
    return numbers[name]


def tradeoffs(points: Sequence[Point], baselines: Sequence[Baseline]) -> dict[int, float]:
    """Trade-offs of points against the study's own hg2, by trial number; empty if hg2 has not been trained."""
    base = next((b.point for b in baselines if b.name == REFERENCE), None)
    if base is None or not base.pckh:
        return {}
    against = (base.pckh, base.params, base.madds)
    return {p.number: tradeoff(p.pckh, p.params, p.madds, against) for p in points}


@dataclass(frozen=True)
class Comparison:
    """The networks found so far in comparison with one published network.

    The target is a found network with at least its PCKh and at most half of its params and half of its MAdds.

    Attributes:
        baseline: the published network.
        closest: if the target is met, the most accurate network that meets it. Otherwise, among those with at least its
            PCKh, the one whose larger cost ratio is smallest; otherwise, among those at no more than half of its costs,
            the most accurate one; None if there is none.
        met: whether the target is met.
    """

    baseline: Baseline
    closest: Point | None
    met: bool

    @property
    def ratios(self) -> tuple[float, float] | None:
        """Params and MAdds of the closest network, divided by the baseline's."""
        if self.closest is None:
            return None
        return self.closest.params / self.baseline.point.params, self.closest.madds / self.baseline.point.madds


def compare(baselines: Sequence[Baseline], points: Sequence[Point]) -> list[Comparison]:
    """Compare found networks with each baseline; baselines themselves do not count as found."""
    published = {b.point.number for b in baselines}
    found = [p for p in points if p.number not in published]
    return [_compare(baseline, found) for baseline in baselines]


def _compare(baseline: Baseline, found: Sequence[Point]) -> Comparison:
    base = baseline.point

    def cost_ratio(p: Point) -> float:
        return max(p.params / base.params, p.madds / base.madds)

    half = [p for p in found if cost_ratio(p) <= 0.5]
    accurate = [p for p in found if p.pckh >= base.pckh]
    both = [p for p in half if p.pckh >= base.pckh]
    if both:
        return Comparison(baseline, max(both, key=lambda p: (p.pckh, -p.params)), True)
    if accurate:
        return Comparison(baseline, min(accurate, key=cost_ratio), False)
    return Comparison(baseline, max(half, key=lambda p: (p.pckh, -p.params), default=None), False)
