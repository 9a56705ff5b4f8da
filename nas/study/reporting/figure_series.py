"""The data of a study's figures, shared by Plotly (HTML report, dashboard) and matplotlib (papers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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

_LETTER_WIDTH = 6.3
"""Pixels: the text size that distances between names and points are given for."""


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
    """Positions of the published networks' names that cover few points, error bars, other names and leader lines.

    Args:
        results: whose baselines are labelled.
        axis: the cost on the x axis.
        plot_size: width and height of the plot in pixels.
        letter_width: in pixels.

    Returns:
        (dx, dy) in pixels from each baseline's point to the centre of its name, y downwards.
    """
    scale = letter_width / _LETTER_WIDTH
    size = (plot_size[0] / scale, plot_size[1] / scale)
    anchors, obstacles = _pixels(results, axis, size)
    names = [baseline.name for baseline in results.baselines]
    indices = list(range(len(names)))
    orders = [sorted(indices, key=lambda i: -len(names[i])), sorted(indices, key=lambda i: len(names[i]))]
    orders += [sorted(indices, key=lambda i: anchors[i, 1]), sorted(indices, key=lambda i: -anchors[i, 1])]
    placements = [_place_labels(order, names, anchors, obstacles, size) for order in orders]
    _, offsets = min(placements, key=lambda placement: placement[0])
    return [(round(scale * offsets[i][0]), round(scale * offsets[i][1])) for i in indices]


def _place_labels(
    order: Sequence[int], names: Sequence[str], anchors: Floats, obstacles: Floats, size: tuple[float, float]
) -> tuple[float, dict[int, tuple[int, int]]]:
    """Place names one after the other, each at the best of 62 positions; returns the total penalty and the offsets."""
    reaches = (16, 26, 44, 64, 88, 114)
    candidates = [(dx, dy) for reach in reaches for dx in (0, 30, -30, 60, -60) for dy in (reach, -reach)]
    placed: dict[int, _Label] = {}
    total = 0.0
    for index in order:
        half_width = _LETTER_WIDTH * len(names[index]) / 2 + 3
        beside = round(half_width) + 8
        labels = [_Label(anchors[index], offset, half_width) for offset in [(beside, 0), (-beside, 0), *candidates]]
        penalties = [label.penalty(list(placed.values()), obstacles, size) for label in labels]
        best = int(np.argmin(penalties))
        placed[index] = labels[best]
        obstacles = np.vstack([obstacles, labels[best].leader])
        total += penalties[best]
    return total, {index: label.offset for index, label in placed.items()}


@dataclass(frozen=True)
class _Label:
    """A name of one line of text, and the leader line from its point.

    Attributes:
        anchor: (2,) pixels of the point.
        offset: from the point to the centre of the name.
        half_width: of the name in pixels.
    """

    anchor: Floats
    offset: tuple[int, int]
    half_width: float

    @property
    def centre(self) -> Floats:
        return self.anchor + self.offset

    @property
    def leader(self) -> Floats:
        """(24, 2) points along the leader line."""
        return self.anchor + np.linspace(0.1, 0.9, 24)[:, None] * self.offset

    def penalty(self, placed: Sequence[_Label], obstacles: Floats, plot_size: tuple[float, float]) -> float:
        """What the label costs: overlaps with other names and their leader lines, covered points, and distance."""
        (x, y), (width, height) = self.centre, plot_size
        outside = max(0.0, self.half_width - x, x + self.half_width - width) + max(0.0, 8 - y, y + 8 - height)
        crossings = sum(10 * self._overlaps(other) + other._count_inside(self.leader) for other in placed)
        distance = max(0, abs(self.offset[0]) - self.half_width) + max(0, abs(self.offset[1]) - 8)
        gaps = np.linalg.norm(self.leader[4:, None] - obstacles, axis=-1).min(axis=1)  # the first are in the marker
        crossed = self._count_inside(obstacles) + 2 * int((gaps < 4).sum())
        return float(10 * crossings + crossed + outside + distance / 15)

    def _overlaps(self, other: _Label) -> bool:
        distance = np.abs(self.centre - other.centre)
        return bool(distance[0] < self.half_width + other.half_width and distance[1] < 16)

    def _count_inside(self, points: Floats) -> int:
        """How many of (n, 2) points the name would cover, with a margin for their markers."""
        distance = np.abs(points - self.centre)
        return int(((distance[:, 0] < self.half_width + 5) & (distance[:, 1] < 15)).sum())


def _pixels(results: StudyResults, axis: CostAxis, plot_size: tuple[float, float]) -> tuple[Floats, Floats]:
    """Pixels, y downwards, of the baselines' points (n, 2), and of all that names should not cover (m, 2)."""
    baselines = [b.point for b in results.baselines]
    with_bars = {m.number for m in results.front} | {p.number for p in baselines}
    anchors = np.array([(np.log(getattr(p, axis)), p.pckh) for p in baselines]).reshape(-1, 2)
    points = np.array(
        [
            (np.log(getattr(p, axis)), p.pckh + bar * results.error(p.number))
            for p in [m.point for m in results.measured] + baselines
            for bar in (np.linspace(-1, 1, 5) if p.number in with_bars else (0.0,))
        ]
    )
    steps = np.array([(np.log(cost), pckh) for cost, pckh in FrontSeries.of(results, axis).step_line])
    low, spread = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)

    def to_pixels(values: Floats) -> Floats:
        scaled = 0.05 + 0.9 * (values - low) / spread  # both libraries leave a margin of 5% around the data
        scaled[:, 1] = 1 - scaled[:, 1]
        return np.asarray(scaled * plot_size)

    line = []
    for (x, y), (next_x, next_y) in pairwise(to_pixels(steps)):
        line += [np.linspace((x, y), (next_x, y), 15), np.linspace((next_x, y), (next_x, next_y), 15)]
    return to_pixels(anchors), np.vstack([to_pixels(points), *line])
