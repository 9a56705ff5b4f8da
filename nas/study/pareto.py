"""Fronts: which networks nothing else beats, how much they cover, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A finished network: more PCKh, fewer params and fewer MAdds are better."""

    number: int
    pckh: float
    params: int
    madds: int

    def dominates(self, other: Point) -> bool:
        """Whether this one is no worse in anything and better in something."""
        no_worse = self.pckh >= other.pckh and self.params <= other.params and self.madds <= other.madds
        return no_worse and (self.pckh, self.params, self.madds) != (other.pckh, other.params, other.madds)


@dataclass(frozen=True)
class HypervolumeScale:
    """Where costs lie between nothing (1) and too much (0), on a logarithmic scale.

    Attributes:
        params: (least, most).
        madds: (least, most), at the study's input size.
    """

    params: tuple[int, int]
    madds: tuple[int, int]

    def saved(self, params: float, madds: float) -> tuple[float, float]:
        """Fractions saved of each cost, from 0 at the most to 1 at the least, not beyond."""

        def one(value: float, least: int, most: int) -> float:
            return min(1.0, max(0.0, math.log(most / max(value, 1e-9)) / math.log(most / least)))

        return one(params, *self.params), one(madds, *self.madds)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other dominates, cheapest first; of equal ones, the first."""
    best: list[Point] = []
    seen: set[tuple[float, int, int]] = set()
    for point in points:
        values = (point.pckh, point.params, point.madds)
        if values not in seen and not any(other.dominates(point) for other in points):
            seen.add(values)
            best.append(point)
    return sorted(best, key=lambda p: (p.params, p.madds, p.number))


def area(corners: Floats) -> float:
    """Area of the union of the rectangles from (0, 0) to each corner. corners: (n, 2), none negative."""
    total, height = 0.0, 0.0
    for x, y in sorted(map(tuple, corners.tolist()), reverse=True):
        if y > height:
            total += x * (y - height)
            height = y
    return total


def hypervolume(points: Sequence[Point], scale: HypervolumeScale) -> float:
    """Share of the unit cube (PCKh/100 × params saved × MAdds saved) that the points dominate."""
    if not points:
        return 0.0
    ranked = sorted(points, key=lambda p: -p.pckh)
    corners = np.array([scale.saved(p.params, p.madds) for p in ranked])
    heights = [max(0.0, p.pckh) / 100 for p in ranked] + [0.0]
    # Between two accuracies, the area is covered by all points that reach the upper one.
    return sum((heights[i] - heights[i + 1]) * area(corners[: i + 1]) for i in range(len(ranked)))


def knee(points: Sequence[Point], scale: HypervolumeScale) -> Point:
    """The front's best compromise: where accuracy and (log) costs saved together are largest.

    Accuracy counts from the front's least to its most, savings as the mean of both costs' over the front's own range:
    the point farthest from the line between the front's two ends.

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
    savings = relative([sum(scale.saved(p.params, p.madds)) for p in candidates])
    merit = [a + s for a, s in zip(accuracy, savings, strict=True)]
    return candidates[merit.index(max(merit))]


def best(points: Sequence[Point]) -> Point:
    """The most accurate point; of equals, the cheapest."""
    if not points:
        raise ValueError("no finished points")
    return max(points, key=lambda p: (p.pckh, -p.params, -p.madds))


def tradeoff(pckh: float, params: float, madds: float, against: tuple[float, float, float]) -> float:
    """Document A's score: 0.8 · %ΔPCKh + 0.1 · %MAdds saved + 0.1 · %params saved, in per cent of a reference network.

    Args:
        pckh: of the network.
        params: of the network.
        madds: of the network.
        against: the same three of the reference, which has 0.
    """
    changes = [100 * (value - base) / base for value, base in zip((pckh, params, madds), against, strict=True)]
    return 0.8 * changes[0] - 0.1 * changes[1] - 0.1 * changes[2]
