"""The data of a study's figures, shared by Plotly (HTML report, dashboard) and matplotlib (papers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.study.analysis.baselines import Baseline
from nas.study.analysis.results import FullTrainingResult, StudyResults
from nas.study.analysis.seed_noise import SeedStatistics

CostAxis = Literal["params", "madds"]

# Okabe and Ito's colours, which colour-blind readers can tell apart, of clearly different lightness.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrontSeries:
    """PCKh against one cost.

    Attributes:
        axis: the cost.
        dominated: finished networks that are not on the front, without published ones.
        front: networks on the front of all three objectives, without published ones.
        published: published networks trained in the study.
        step_line: (cost, PCKh) where the best PCKh at a cost rises; see :func:`staircase`.
        costs: of all finished networks.
    """

    axis: CostAxis
    dominated: list[SeedStatistics]
    front: list[SeedStatistics]
    published: tuple[Baseline, ...]
    step_line: list[tuple[float, float]]
    costs: list[int]

    @classmethod
    def of(cls, results: StudyResults, axis: CostAxis) -> FrontSeries:
        """The series of a study."""
        on_front = {m.number for m in results.front}
        return cls(
            axis=axis,
            dominated=[m for m in results.measured if m.number not in on_front and m.number not in results.published],
            front=[m for m in results.front if m.number not in results.published],
            published=results.baselines,
            step_line=staircase([(getattr(m, axis), m.mean) for m in results.measured]),
            costs=[getattr(m, axis) for m in results.measured],
        )


def axis_label(results: StudyResults, axis: CostAxis) -> str:
    """The label of a cost axis; MAdds with the input size that they hold for."""
    size = results.experiment.config.data.input_size
    return "parameters" if axis == "params" else f"multiply-adds at {size}×{size}"


def staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, PCKh) points that are more accurate than every point of at most their cost, by rising cost."""
    line: list[tuple[float, float]] = []
    for cost, pckh in sorted(points, key=lambda p: (p[0], -p[1])):
        if not line or pckh > line[-1][1]:
            line.append((cost, pckh))
    return line


def percent(share: float) -> float:
    """A share of variance in percent; adjusted shares below 0 count as 0."""
    return 100 * max(0.0, share)


def trained_in_both(results: StudyResults) -> list[tuple[FullTrainingResult, float]]:
    """Networks with a result of full training and of the search, with their PCKh in the search."""
    return [(result, result.short) for result in results.full if result.short is not None]


def log_ticks(values: Sequence[float], most: int) -> list[int]:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, or fewer where these are too many.

    Args:
        values: what the axis covers, all positive.
        most: largest number of ticks, kept where one tick per decade allows it.
    """
    low, high = min(values) / 1.3, max(values) * 1.3
    ticks: list[int] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10**power for power in range(15) for step in steps if low <= step * 10**power <= high]
        if len(ticks) <= most:
            break
    return ticks


def label_offsets(
    results: StudyResults, axis: CostAxis, plot_size: tuple[float, float], letter_width: float
) -> list[tuple[int, int]]:
    """Positions of the published networks' names that overlap few points and no other name.

    Names are placed greedily, one after the other, each at the nearest of 50 positions with the fewest overlaps.

    Args:
        results: whose baselines are labelled.
        axis: the cost on the x axis.
        plot_size: width and height of the plot in pixels.
        letter_width: in pixels.

    Returns:
        (dx, dy) in pixels from each baseline's point to the centre of its name, y downwards.
    """
    points = _pixels(results, axis, plot_size)
    candidates = [(dx, dy) for reach in (26, 44, 64, 88, 114) for dx in (0, 30, -30, 60, -60) for dy in (reach, -reach)]
    occupied: list[_Box] = []
    offsets = []
    for baseline, anchor in zip(results.baselines, points[len(results.measured) :], strict=True):
        half_width = letter_width * len(baseline.name) / 2 + 3
        boxes = {(dx, dy): _Box(anchor[0] + dx, anchor[1] + dy, half_width) for dx, dy in candidates}

        def penalty(offset: tuple[int, int], boxes: dict[tuple[int, int], _Box] = boxes) -> tuple[float, float]:
            box = boxes[offset]
            outside = max(0.0, -box.left) + max(0.0, box.right - plot_size[0] - 15)
            overlaps = 100.0 * sum(box.overlaps(other) for other in occupied) + box.count_points(points)
            return overlaps + outside / 10, abs(offset[0]) + abs(offset[1])

        best = min(candidates, key=penalty)
        occupied.append(boxes[best])
        offsets.append(best)
    return offsets


@dataclass(frozen=True)
class _Box:
    """The rectangle of a name: its centre and half its width in pixels, one line high."""

    x: float
    y: float
    half_width: float

    @property
    def left(self) -> float:
        return self.x - self.half_width

    @property
    def right(self) -> float:
        return self.x + self.half_width

    def overlaps(self, other: _Box) -> bool:
        return abs(self.x - other.x) < self.half_width + other.half_width and abs(self.y - other.y) < 16

    def count_points(self, points: Floats) -> int:
        """How many of (n, 2) points the name would cover, with a margin for their markers."""
        inside = (np.abs(points[:, 0] - self.x) < self.half_width + 5) & (np.abs(points[:, 1] - self.y) < 15)
        return int(inside.sum())


def _pixels(results: StudyResults, axis: CostAxis, plot_size: tuple[float, float]) -> Floats:
    """(n, 2) pixels of the finished networks, then of the baselines, y downwards."""
    points = [m.point for m in results.measured] + [b.point for b in results.baselines]
    values = np.array([(np.log(getattr(p, axis)), p.pckh) for p in points])
    spread = np.maximum(np.ptp(values, axis=0), 1e-9)
    scaled = (values - values.min(axis=0)) / spread * plot_size
    return np.asarray(scaled * np.array([1, -1]) + np.array([0, plot_size[1]]))
