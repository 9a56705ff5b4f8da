"""The networks of a space that are within the budget, found by counting through the space instead of by sampling.

A tight budget leaves so few of a space's points that random ones miss them, and a small space is tried to its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from nas.architecture.cost import Cost
from nas.study.space.cardinality import LOSSES, affordable_points
from nas.study.space.choices import Value, first_value, members
from nas.study.space.search_space import SearchSpace

if TYPE_CHECKING:
    from nas.study.optimization.problem import Problem

MAX_POINTS = 2000
"""Points that are collected, and networks after which counting ends: with so many, sampling finds some."""


@dataclass(frozen=True)
class Affordable:
    """What counting found.

    Attributes:
        points: one for each candidate (network and losses) within the budget.
        networks: number of different networks within the budget.
        complete: whether ``points`` are all that there are.
        counted: whether ``networks`` are all that there are.
        smallest: the least params, MAdds and layers of any network of the space that was looked at; None if none can
            be built.
        problem: why the first network that cannot be built cannot.
    """

    points: Mapping[str, Mapping[str, Value]]
    networks: int
    complete: bool
    counted: bool
    smallest: Cost | None
    problem: str | None


def count_affordable(problem: Problem, limit: int = MAX_POINTS) -> Affordable:
    """Count through a space, and collect the first ``limit`` candidates within the budget."""
    points: dict[str, Mapping[str, Value]] = {}
    networks: set[str] = set()
    smallest: Cost | None = None
    first_problem: str | None = None

    def result(complete: bool, counted: bool) -> Affordable:
        return Affordable(points, len(networks), complete, counted, smallest, first_problem)

    def within(point: Mapping[str, Value]) -> bool:
        nonlocal smallest, first_problem
        try:
            cost = problem.cost(problem.candidate(point))
        except ValueError as error:
            first_problem = first_problem or str(error)
            return False
        smallest = cost if smallest is None else _least(smallest, cost)
        return problem.within(cost)

    losses, all_losses = _loss_values(problem.space)
    complete = counted = True
    for point in affordable_points(problem.space, within):
        if point is None:  # the space holds more than can be counted
            complete = counted = False
            continue
        networks.add(problem.candidate(point).architecture.id)
        if len(networks) >= limit:
            return result(False, False)
        if len(points) >= limit:
            complete = False
            continue
        for values in losses:
            full = {**point, **values}
            points.setdefault(problem.candidate(full).id, full)
        complete = complete and (all_losses or problem.candidate(point).architecture.stacks == 1)
    return result(complete, counted)


def _least(one: Cost, other: Cost) -> Cost:
    """The least of each of two networks' costs."""
    return Cost(min(one.params, other.params), min(one.madds, other.madds), min(one.layers, other.layers))


def _loss_values(space: SearchSpace) -> tuple[list[dict[str, Any]], bool]:
    """Combinations of the choices that concern the losses, and whether these are all."""
    names = [name for name in LOSSES if name in space.choices]
    values = [members(space.choices[name]) for name in names]
    filled: Iterator[tuple[Any, ...]] = product(
        *(known or [first_value(space.choices[name])] for name, known in zip(names, values, strict=True))
    )
    return [dict(zip(names, each, strict=True)) for each in filled], None not in values
