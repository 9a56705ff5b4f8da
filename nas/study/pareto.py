"""Pareto fronts, their hypervolume, and the networks to choose from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A trained network: more PCKh, fewer params and fewer MAdds are better."""

    number: int
    pckh: float
    params: int
    madds: int

    def dominates(self, other: Point) -> bool:
        """Whether this point is no worse in any objective and better in one."""
        no_worse = self.pckh >= other.pckh and self.params <= other.params and self.madds <= other.madds
        return no_worse and (self.pckh, self.params, self.madds) != (other.pckh, other.params, other.madds)


@dataclass(frozen=True)
class HypervolumeScale:
    """The logarithmic scale of costs in the hypervolume.

    Attributes:
        params: (lower, upper) bounds.
        madds: (lower, upper) bounds, at the study's input size.
    """

    params: tuple[int, int]
    madds: tuple[int, int]

    def normalized_savings(self, params: float, madds: float) -> tuple[float, float]:
        """Savings of both costs, from 0 at the upper bound or above to 1 at the lower bound or below."""

        def saving(value: float, lower: int, upper: int) -> float:
            return min(1.0, max(0.0, math.log(upper / max(value, 1e-9)) / math.log(upper / lower)))

        return saving(params, *self.params), saving(madds, *self.madds)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other dominates, the cheapest first; of equal points, the first."""
    best: list[Point] = []
    seen: set[tuple[float, int, int]] = set()
    for point in points:
        values = (point.pckh, point.params, point.madds)
        if values not in seen and not any(other.dominates(point) for other in points):
            seen.add(values)
            best.append(point)
    return sorted(best, key=lambda p: (p.params, p.madds, p.number))


def dominated_area(limits: Floats, corners: Floats) -> Floats:
    """Area that rectangles from (0, 0) dominate together, within each of some larger rectangles.

    Args:
        limits: (n, 2) corners of the rectangles to measure in; infinite for no limit.
        corners: (m, 2) corners of the dominating rectangles, not negative.

    Returns:
        (n,) areas.
    """
    # A staircase: from right to left, each step higher than all before it.
    steps = corners[np.lexsort((-corners[:, 1], -corners[:, 0]))]
    if not len(steps):
        return np.zeros(len(limits))
    highest = np.maximum.accumulate(steps[:, 1])
    steps = steps[np.concatenate([[steps[0, 1] > 0], highest[1:] > highest[:-1]])]
    if not len(steps):
        return np.zeros(len(limits))
    bottoms = np.concatenate([[0.0], steps[:-1, 1]])
    heights = np.minimum(steps[:, 1], limits[:, 1:]) - np.minimum(bottoms, limits[:, 1:])
    slabs = np.minimum(steps[:, 0], limits[:, :1]) * heights
    return np.asarray(slabs.cumsum(axis=1)[:, -1], np.float64)


def hypervolume(points: Sequence[Point], scale: HypervolumeScale) -> float:
    """Share of the unit cube (PCKh / 100 × normalized savings of params × of MAdds) that the points dominate."""
    if not points:
        return 0.0
    ranked = sorted(points, key=lambda p: -p.pckh)
    corners = np.array([scale.normalized_savings(p.params, p.madds) for p in ranked])
    heights = [max(0.0, p.pckh) / 100 for p in ranked] + [0.0]
    # Between two accuracies, the area is that of all points which reach the upper one.
    unlimited = np.full((1, 2), np.inf)
    areas = [float(dominated_area(unlimited, corners[: i + 1])[0]) for i in range(len(ranked))]
    return sum((heights[i] - heights[i + 1]) * areas[i] for i in range(len(ranked)))


def knee(points: Sequence[Point], scale: HypervolumeScale) -> Point:
    """The front's best compromise: the point with the largest sum of accuracy and savings.

    Both are scaled to the front's own range, savings being the mean of both normalized ones. It is the point farthest
    from the line between the two ends of the front.

    Raises:
        ValueError: there are no points.
    """
    candidates = front(points)
    if not candidates:
        raise ValueError("no finished points")

    def relative(values: list[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(v - low) / (high - low) if high > low else 0.0 for v in values]

    accuracy = relative([p.pckh for p in candidates])
    savings = relative([sum(scale.normalized_savings(p.params, p.madds)) for p in candidates])
    merit = [a + s for a, s in zip(accuracy, savings, strict=True)]
    return candidates[merit.index(max(merit))]


def best(points: Sequence[Point]) -> Point:
    """The most accurate point; of equal ones, the cheapest."""
    if not points:
        raise ValueError("no finished points")
    return max(points, key=lambda p: (p.pckh, -p.params, -p.madds))


def tradeoff(pckh: float, params: float, madds: float, against: tuple[float, float, float]) -> float:
    """Trade-off score: 0.8 · ΔPCKh + 0.1 · MAdds saved + 0.1 · params saved, in per cent of a reference network.

    Source: Samadh & Al Khatib 2023 (arXiv 2302.04815).

    Args:
        pckh: of the network.
        params: of the network.
        madds: of the network.
        against: the same three of the reference, which has 0.
    """
    changes = [100 * (value - base) / base for value, base in zip((pckh, params, madds), against, strict=True)]
    return 0.8 * changes[0] - 0.1 * changes[1] - 0.1 * changes[2]
