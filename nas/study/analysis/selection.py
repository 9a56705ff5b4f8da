"""Selecting one network of a study: the knee of the front, the most accurate one, or the best trade-off."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optuna.study import Study

from nas.console import parse_count
from nas.errors import UserError
from nas.study.analysis.baselines import baselines_of, tradeoffs
from nas.study.analysis.latency import latencies_of
from nas.study.analysis.seed_noise import mean_points
from nas.study.experiment import Experiment
from nas.study.pareto import Point, best, front, knee
from nas.study.space.published import REFERENCE

PICKS = ("knee", "best", "tradeoff")
"""Criteria of selection: the knee of the front, the highest PCKh, the best trade-off."""


@dataclass(frozen=True)
class SelectionLimits:
    """Upper limits of a selected network's costs; None for no limit.

    Attributes:
        params: number of parameters.
        madds: at the study's input size.
        latency: milliseconds for one image on ``device``.
        device: "cpu" or "cuda".
    """

    params: int | None = None
    madds: int | None = None
    latency: float | None = None
    device: str = "cpu"

    @classmethod
    def parse(
        cls, max_params: str | None, max_madds: str | None, max_latency: float | None, device: str
    ) -> SelectionLimits:
        """Parse the values of flags. Raises UserError if one is not a positive number."""
        if max_latency is not None and not 0 < max_latency < math.inf:
            raise UserError(f"--max-latency {max_latency:g}: must be positive milliseconds")
        return cls(parse_count(max_params, "--max-params"), parse_count(max_madds, "--max-madds"), max_latency, device)

    def __bool__(self) -> bool:
        return self.params is not None or self.madds is not None or self.latency is not None

    def __str__(self) -> str:
        counts = (("--max-params", self.params), ("--max-madds", self.madds))
        flags = [f"{flag} {limit:,}" for flag, limit in counts if limit is not None]
        return " ".join(flags + ([] if self.latency is None else [f"--max-latency {self.latency:g}"]))

    def admits(self, point: Point) -> bool:
        """Whether a network is within the limits of params and MAdds."""
        return (self.params is None or point.params <= self.params) and (
            self.madds is None or point.madds <= self.madds
        )


def points_within(experiment: Experiment, study: Study, limits: SelectionLimits) -> list[Point]:
    """The finished networks within limits, each with the mean PCKh of its seeds.

    Latencies that the study has not stored for this device are measured.

    Raises:
        UserError: no trial has finished, or none is within the limits; the message names the nearest one.
    """
    name = experiment.config.name
    points = mean_points(experiment, study)
    if not points:
        raise UserError(f"study {name} has no finished trial yet; run `python -m nas.search`")
    within = [p for p in points if limits.admits(p)]
    if not within:
        bounds = (limits.params or math.inf, limits.madds or math.inf)
        nearest = min(points, key=lambda p: max(p.params / bounds[0], p.madds / bounds[1]))
        raise UserError(
            f"{limits}: no finished network of study {name} is within; the nearest is trial "
            f"{nearest.number}, {nearest.params:,} params and {nearest.madds:,} MAdds; raise it"
        )
    if limits.latency is None:
        return within
    latencies = latencies_of(experiment, study, [p.number for p in within], limits.device)
    fast = [p for p in within if latencies[p.number].ms <= limits.latency]
    if not fast:
        fastest = min(latencies, key=lambda number: latencies[number].ms)
        raise UserError(
            f"{limits}: no finished network of study {name} is within; the fastest is trial {fastest}, "
            f"{latencies[fastest]}; raise it"
        )
    return fast


def pick(experiment: Experiment, study: Study, criterion: str, limits: SelectionLimits = SelectionLimits()) -> Point:
    """Select one finished network.

    Args:
        experiment: of the study.
        study: to select from.
        criterion: one of :data:`PICKS`.
        limits: applied first; the knee is that of the front within them.

    Raises:
        UserError: unknown criterion, no finished network within the limits, or no hg2 to compute trade-offs against.
    """
    points = points_within(experiment, study, limits)
    if criterion == "knee":
        return knee(points, experiment.scale)
    if criterion == "best":
        return best(points)
    if criterion != "tradeoff":
        raise UserError(f"--pick {criterion}: must be one of {', '.join(PICKS)}")
    scores = tradeoffs(points, baselines_of(experiment, study))
    if not scores:
        raise UserError(
            f"--pick tradeoff: study {experiment.config.name} has not trained {REFERENCE}, the reference of "
            f'trade-offs; add baselines = ["{REFERENCE}"] to its file and continue the search, or pick knee or best'
        )
    return max(front(points), key=lambda p: scores[p.number])
