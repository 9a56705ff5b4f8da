"""Features of candidates for the Gaussian process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.architecture.blocks import block_options
from nas.study.optimization.problem import Problem
from nas.study.space.candidate import Candidate
from nas.study.space.choices import LEVELS

Floats = NDArray[np.float64]

ALWAYS_ACTIVE = {"block", "trunk", "stem", "stem_kernel", "width", "stacks", "depth", "neck", *LEVELS}
"""Choices that affect every network."""


def features(problem: Problem, point: Mapping[str, Any]) -> Floats:
    """Features of a point's candidate: its canonical choices and its costs, (d,), each about 0 to 1.

    Categorical choices are one-hot, numbers are scaled logarithmically. Choices that do not affect the network have the
    same features in all candidates.
    """
    candidate = problem.candidate(point)
    cost = problem.cost(candidate)
    losses = candidate.losses
    values: list[float] = []
    for name, distribution in problem.space.choices.items():
        options = getattr(distribution, "choices", None)
        if options is not None and any(isinstance(o, str | bool) for o in options):
            affects = _affects(name, candidate)
            value = problem.space.value_in(candidate, name)  # canonical, not as the point has it
            if value not in options:
                value = point[name]
            values += [float(affects and value == option) for option in options]
        elif name != "weight_ratio":
            numbers = options or (distribution.low, distribution.high)  # type: ignore[attr-defined]
            low, high = math.log1p(min(numbers)), math.log1p(max(numbers))
            affects = _affects(name, candidate)
            value = None if name in ("stem", "width") else problem.space.value_in(candidate, name)
            number = point[name] if value is None else value
            share = (math.log1p(float(number)) - low) / ((high - low) or 1.0)
            values.append(share if affects else 0.5)
    stacks = candidate.architecture.stacks
    last_weight = losses.weights[-1] / stacks if losses.weights else 1 / stacks
    savings = problem.scale.normalized_savings(cost.params, cost.madds)
    values += [last_weight, losses.alpha, 2 * savings[0], 2 * savings[1], math.log(cost.layers) / math.log(1000)]
    return np.array(values)


def _affects(name: str, candidate: Candidate) -> bool:
    """Whether a choice affects this candidate."""
    architecture = candidate.architecture
    if name in ("junction", "narrow_res", "supervision"):
        return architecture.stacks > 1
    if name == "reach":
        return architecture.junction == "dense"
    if name in ("lambda", "perceptual", "alpha"):
        return candidate.losses.alpha < 1
    if name in ALWAYS_ACTIVE:
        return True
    return any(name in block_options(block.kind) for block in architecture.level_blocks())
