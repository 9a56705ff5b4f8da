"""Fronts, their hypervolume, and the networks to take from them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.study.pareto import HypervolumeScale, Point, best, dominated_area, front, hypervolume, knee

SCALE = HypervolumeScale(params=(1_000, 1_000_000), madds=(10_000, 10_000_000))
"""Three decades of each cost: saved is 1, 2/3, 1/3, 0 at each tenfold step."""

few = st.integers(0, 4)
crowded = st.lists(st.tuples(few, few, few), max_size=12).map(
    lambda rows: [Point(i, 20.0 * a, 10 ** (2 + b), 10 ** (3 + c)) for i, (a, b, c) in enumerate(rows)]
)
"""Points with many ties and duplicates, some costs outside the scale."""


def brute_force(points: list[Point]) -> set[tuple[float, int, int]]:
    values = {(p.pckh, p.params, p.madds) for p in points}
    return {a for a in values if not any(b != a and b[0] >= a[0] and b[1] <= a[1] and b[2] <= a[2] for b in values)}


@settings(deadline=None)
@given(points=crowded)
def test_the_front_is_what_nothing_else_beats(points: list[Point]) -> None:
    found = front(points)
    assert {(p.pckh, p.params, p.madds) for p in found} == brute_force(points)
    assert len(found) == len(brute_force(points))  # equal points are there once
    assert [(p.params, p.madds) for p in found] == sorted((p.params, p.madds) for p in found)
    assert set(found) <= set(points)


def test_of_equal_points_the_first_is_on_the_front() -> None:
    twins = [Point(7, 50, 100, 100), Point(3, 50, 100, 100), Point(5, 50, 100, 101)]
    assert front(twins) == [twins[0]]


def test_dominance_needs_something_better() -> None:
    point = Point(0, 50, 100, 100)
    assert not point.dominates(replace(point, number=1))
    assert point.dominates(Point(1, 50, 100, 101))
    assert not point.dominates(Point(1, 51, 101, 101))


def test_nothing_finished() -> None:
    assert front([]) == []
    assert hypervolume([], SCALE) == 0
    for pick in (best, lambda points: knee(points, SCALE)):
        with pytest.raises(ValueError, match="no finished points"):
            pick([])


# Scale


def test_saved_is_logarithmic_and_does_not_go_beyond() -> None:
    assert SCALE.normalized_savings(1_000, 10_000) == (1, 1)
    assert SCALE.normalized_savings(10_000, 1_000_000) == pytest.approx((2 / 3, 1 / 3))
    assert SCALE.normalized_savings(1_000_000, 10_000_000) == pytest.approx((0, 0))
    assert SCALE.normalized_savings(10**9, 10**9) == (0, 0)
    assert SCALE.normalized_savings(1, 0) == (1, 1)


# Hypervolume


def test_hypervolume_by_hand() -> None:
    half = Point(0, 50, 10_000, 100_000)  # saves 2/3 of each
    assert hypervolume([half], SCALE) == pytest.approx(0.5 * 4 / 9)
    perfect = Point(1, 100, 1_000, 10_000)
    assert hypervolume([perfect], SCALE) == pytest.approx(1)
    assert hypervolume([perfect, half], SCALE) == pytest.approx(1)
    # More accurate, fewer params, more MAdds: two boxes that share 2/3 × 1/3 up to a height of 0.5.
    other = Point(2, 80, 1_000, 1_000_000)
    assert hypervolume([half, other], SCALE) == pytest.approx(0.5 * 4 / 9 + 0.8 * 1 / 3 - 0.5 * 2 / 9)


@pytest.mark.parametrize(
    "point", [Point(0, 0, 1_000, 10_000), Point(0, 90, 1_000_000, 10_000), Point(0, -5, 1_000, 10_000)]
)
def test_what_is_worthless_covers_nothing(point: Point) -> None:
    assert hypervolume([point], SCALE) == pytest.approx(0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12))
def test_hypervolume_is_the_share_of_the_cube_that_is_dominated(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = [
        Point(i, float(rng.uniform(0, 100)), int(10 ** rng.uniform(2.5, 6.5)), int(10 ** rng.uniform(3.5, 7.5)))
        for i in range(count)
    ]
    cube = rng.uniform(size=(20_000, 3))
    corners = np.array([(p.pckh / 100, *SCALE.normalized_savings(p.params, p.madds)) for p in points])
    dominated = (cube[:, None, :] <= corners[None]).all(axis=2).any(axis=1)
    assert hypervolume(points, SCALE) == pytest.approx(dominated.mean(), abs=5 * 0.5 / math.sqrt(len(cube)))


@settings(deadline=None)
@given(points=crowded)
def test_hypervolume_belongs_to_the_front(points: list[Point]) -> None:
    whole = hypervolume(points, SCALE)
    assert 0 <= whole <= 1
    assert hypervolume(front(points), SCALE) == pytest.approx(whole)
    assert hypervolume(points[::-1] + points, SCALE) == pytest.approx(whole)
    assert hypervolume(points[1:], SCALE) <= whole + 1e-12


@settings(deadline=None)
@given(corners=st.lists(st.tuples(few, few), max_size=8))
def test_area_counts_the_cells_under_the_corners(corners: list[tuple[int, int]]) -> None:
    cells = {(x, y) for cx, cy in corners for x in range(cx) for y in range(cy)}
    assert dominated_area(np.array([[np.inf, np.inf]]), np.array(corners, dtype=float).reshape(-1, 2)) == [len(cells)]


# Picks


def test_the_knee_by_hand() -> None:
    cheap = Point(0, 20, 1_000, 10_000)
    middle = Point(1, 70, 10_000, 100_000)  # (50/60) of the accuracy at a third of the way
    dear = Point(2, 80, 1_000_000, 10_000_000)
    dominated = Point(3, 69, 20_000, 200_000)
    for points in permutations([cheap, middle, dear, dominated]):
        assert knee(points, SCALE) == middle


def test_the_knee_of_one_and_of_equals() -> None:
    only = Point(4, 30, 5_000, 50_000)
    assert knee([only], SCALE) == only
    assert knee([only, replace(only, number=9)], SCALE) == only
    assert knee([Point(0, 0, 1_000, 10_000), Point(1, 0, 2_000, 10_000)], SCALE).number == 0


@settings(deadline=None)
@given(points=crowded.filter(bool))
def test_the_knee_is_on_the_front(points: list[Point]) -> None:
    assert knee(points, SCALE) in front(points)


def test_the_best_is_the_most_accurate_and_of_equals_the_cheapest() -> None:
    points = [Point(0, 60, 900, 10), Point(1, 80, 500, 30), Point(2, 80, 400, 50), Point(3, 80, 400, 40)]
    assert best(points).number == 3


@settings(deadline=None)
@given(points=crowded.filter(bool))
def test_the_best_is_on_the_front(points: list[Point]) -> None:
    found = best(points)
    assert (found.pckh, found.params, found.madds) in brute_force(points)
    assert found.pckh == max(p.pckh for p in points)
