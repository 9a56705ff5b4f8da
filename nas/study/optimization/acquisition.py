"""Expected improvement of the hypervolume for candidates whose costs are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.study.pareto import dominated_area

Floats = NDArray[np.float64]


def extrapolate_final(value: float, finished: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Expected final PCKh of a trial that was stopped at a rung, and its variance.

    Final values are regressed linearly on values at the rung, since trials that are behind at a rung gain more later.
    With few finished trials the slope is shrunk towards 1.

    Args:
        value: at the rung.
        finished: (value at that rung, final value) of trials that ran to the end, at least two.
    """
    x, y = np.array(finished, dtype=np.float64).T
    spread = float(((x - x.mean()) ** 2).sum())
    prior = 2 * float(x.var()) + 1e-9  # weighs as much as two trials with a slope of 1
    slope = (float(((x - x.mean()) * (y - y.mean())).sum()) + prior) / (spread + prior)
    residuals = y - y.mean() - slope * (x - x.mean())
    freedom = max(1, len(x) - 2)
    leverage = 1 / len(x) + (value - float(x.mean())) ** 2 / (spread + prior)
    return float(y.mean() + slope * (value - x.mean())), float((residuals**2).sum() / freedom * (1 + leverage))


def expected_improvement(mean: Floats, sd: Floats, savings: Floats, heights: Floats, corners: Floats) -> Floats:
    """Expected hypervolume gain of candidates with known costs and normally distributed PCKh (Emmerich et al. 2006).

    A candidate that reaches height y adds ∫₀ʸ A(t) dt, where A(t) is the part of its cost rectangle that no point of
    height t or more dominates. A is constant between the heights of the points, so that the expectation is a sum of
    differences of E[(Y − t)⁺].

    Args:
        mean: (n,) of PCKh / 100.
        sd: (n,) of PCKh / 100.
        savings: (n, 2) normalized savings of the costs, from 0 to 1.
        heights: (m,) PCKh / 100 of the finished points.
        corners: (m, 2) their normalized savings.

    Returns:
        (n,) expected gains.
    """
    front = [i for i in range(len(heights)) if not is_dominated(i, heights, corners)]
    heights, corners = heights[front], corners[front]
    order = np.argsort(heights)
    heights, corners = np.maximum(heights[order], 0), corners[order]
    levels = np.unique(np.concatenate([[0.0], heights]))
    z = (mean[:, None] - levels) / sd[:, None]
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    above = sd[:, None] * (z * ndtr(z) + density)  # E[(Y − level)⁺]
    pieces = above - np.concatenate([above[:, 1:], np.zeros((len(mean), 1))], axis=1)
    gains = np.zeros(len(mean))
    rectangles = savings.prod(axis=1)
    for k, level in enumerate(levels):
        higher = corners[heights > level] if k else corners[heights > 0]
        gains += pieces[:, k] * (rectangles - dominated_area(savings, higher))
    return gains


def is_dominated(i: int, heights: Floats, corners: Floats) -> bool:
    """Whether another point is at least as good as point i in every objective; of equal points the first is not."""
    no_worse = (heights >= heights[i]) & (corners >= corners[i]).all(axis=1)
    equal = (heights == heights[i]) & (corners == corners[i]).all(axis=1)
    earlier = np.arange(len(heights)) < i
    return bool((no_worse & (~equal | earlier)).any())
