"""The choices that a space can offer: their names, what their values may be, and how values are sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nas.architecture.spec import JUNCTIONS, STEMS
from nas.training.losses import PERCEPTUAL

Value = bool | int | float | str

SAME = "same"
"""As a trunk: the hourglass's own block, with its options."""

SUPERVISION = ("all", "last")


@dataclass(frozen=True)
class Rule:
    """What the values of a choice may be.

    Attributes:
        kind: their type.
        meaning: of the choice, for reports.
        least: lower bound of numbers.
        most: upper bound of numbers.
        names: the allowed texts.
    """

    kind: type
    meaning: str
    least: float | None = None
    most: float | None = None
    names: tuple[str, ...] = ()

    def error(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        if self.kind is float:
            right_type = isinstance(value, int | float) and not isinstance(value, bool)
        else:
            right_type = type(value) is self.kind
        if not right_type:
            return f"expected {self.describe()}"
        if self.names and value not in self.names:
            return f"expected {self.describe()}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                return f"expected {self.describe()}"
            if (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
                return f"expected {self.describe()}"
        return None

    def describe(self) -> str:
        """Describe the allowed values."""
        if self.names:
            return "one of " + ", ".join(self.names)
        if self.kind is bool:
            return "true or false"
        noun = {int: "an integer", float: "a number", str: "a name"}[self.kind]
        if self.least is not None and self.most is not None:
            return f"{noun} from {self.least:g} to {self.most:g}"
        return f"{noun} of at least {self.least:g}" if self.least is not None else noun


RULES: Mapping[str, Rule] = {
    "block": Rule(str, "block of the hourglasses"),
    "trunk": Rule(str, "block of the stem and heads, its options at their defaults; `same`: the hourglasses' own"),
    "stem": Rule(int, "channels of the first convolution", 4, 1024),
    "stem_kernel": Rule(str, "first convolution", names=STEMS),
    "width": Rule(int, "inner width of the blocks; maps have twice as many channels", 4, 1024),
    "stacks": Rule(int, "number of hourglasses", 1, 16),
    "depth": Rule(int, "how often an hourglass halves its maps", 1, 6),
    "junction": Rule(str, "how hourglasses meet", names=JUNCTIONS),
    "reach": Rule(int, "with dense junctions, how many earlier hourglasses each sees; 0: all", 0, 16),
    "narrow_res": Rule(bool, "necks of consecutive hourglasses are added"),
    "supervision": Rule(str, "hourglasses with a heatmap loss: all, or the last one only", names=SUPERVISION),
    "weight_ratio": Rule(
        float, "loss weight of each hourglass over that of the one before it; mean weight 1", 0.01, 100
    ),
    "alpha": Rule(float, "α: share of the heatmap loss against the perceptual one; 1: no perceptual loss", 0.01, 1),
    "lambda": Rule(float, "λ: scale of the whole loss where there is a perceptual one", 0.001, 1000),
    "perceptual": Rule(str, "how necks are compared", names=PERCEPTUAL),
}
LEVELS = tuple(f"level_{i}" for i in range(1, 7))
"""Choices of a block per level, finest first, instead of one ``block``; with ``neck``."""
BLOCK_CHOICES = ("block", "trunk", "neck", *LEVELS)
"""Choices whose values are kinds of blocks."""
LIMITS: Mapping[str, Rule] = {
    "max_params": Rule(int, "most parameters, before a study scales the widths", 1),
    "max_madds": Rule(int, "most multiply-adds at 256×256, before a study scales the widths", 1),
}


def sample_value(distribution: BaseDistribution, rng: Random) -> Value:
    """Sample a value of a choice."""
    if isinstance(distribution, CategoricalDistribution):
        chosen: Value = rng.choice(distribution.choices)  # type: ignore[assignment]
        return chosen
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        if distribution.log:
            return max(int(low), min(int(high), int(math.exp(rng.uniform(math.log(low), math.log(high + 1))))))
        return rng.randrange(int(low), int(high) + 1, distribution.step)
    if distribution.log:
        return max(low, min(high, math.exp(rng.uniform(math.log(low), math.log(high)))))  # exp(log(low)) may be below
    value = rng.uniform(low, high)
    if distribution.step:
        value = min(high, low + round((value - low) / distribution.step) * distribution.step)
    return value


def members(distribution: BaseDistribution) -> list[Value] | None:
    """All values of a choice; None for a range of real numbers."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)  # type: ignore[arg-type]
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    return None


def find_value(distribution: BaseDistribution, wanted: Value) -> Value | None:
    """The value of a choice that equals ``wanted`` (real numbers to four digits); None if it has none."""
    values = members(distribution)
    if values is None:
        assert isinstance(distribution, FloatDistribution)
        inside = isinstance(wanted, int | float) and distribution.low <= wanted <= distribution.high
        return float(wanted) if inside else None
    for value in values:
        if isinstance(value, float) and isinstance(wanted, int | float):
            if math.isclose(value, wanted, rel_tol=1e-4):
                return value
        elif value == wanted and isinstance(value, bool) == isinstance(wanted, bool):
            return value
    return None


def first_value(distribution: BaseDistribution) -> Value:
    """The first value of a choice."""
    values = members(distribution)
    return values[0] if values else float(distribution.low)  # type: ignore[attr-defined]


def to_plain(distribution: BaseDistribution) -> Any:
    """A choice as plain values, for JSON."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return {k: v for k, v in vars(distribution).items() if v is not None}
