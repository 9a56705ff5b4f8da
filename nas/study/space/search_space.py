"""Search spaces.

A space is flat: every choice is suggested for every trial, and the candidate keeps those that its network uses. A point
is a value for every choice; several points may describe one candidate.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)

from nas.architecture.blocks import block_options
from nas.architecture.cost import network_cost
from nas.architecture.spec import Architecture, BlockChoice
from nas.study.space.candidate import Candidate
from nas.study.space.choices import (
    BLOCK_CHOICES,
    LEVELS,
    RULES,
    SAME,
    Value,
    find_value,
    first_value,
    sample_value,
    to_plain,
)
from nas.training.losses import Losses

LIMITS_INPUT_SIZE = (256, 256)
"""Input size in pixels at which limits hold, as in published counts."""

LIMITS_JOINTS = 16
"""Number of joints for which limits hold."""


class OutsideSpaceError(ValueError):
    """A point exceeds the limits of the space."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """The choices of a search.

    Attributes:
        choices: name → distribution.
        path: of the file.
        encoded: name → text → value, for choices whose values are lists (dilation rates are stored as "1-2-3").
        limits: maxima of an architecture (:data:`~nas.study.space.choices.LIMITS`), with 16 joints at 256×256.
    """

    choices: Mapping[str, BaseDistribution]
    path: Path
    encoded: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """Number of points (not of distinct networks); infinite if a choice is a range of real numbers."""
        total = 1.0
        for distribution in self.choices.values():
            if isinstance(distribution, CategoricalDistribution):
                total *= len(distribution.choices)
            elif isinstance(distribution, IntDistribution):
                total *= (distribution.high - distribution.low) // distribution.step + 1
            else:
                total = math.inf
        return total

    @property
    def blocks_of_ones_own(self) -> list[str]:
        """The blocks that are named ``module:Class``, sorted."""
        places = [self.choices[name] for name in BLOCK_CHOICES if name in self.choices]
        kinds = {kind for place in places if isinstance(place, CategoricalDistribution) for kind in place.choices}
        return sorted(kind for kind in kinds if isinstance(kind, str) and ":" in kind)

    @property
    def content(self) -> dict[str, Any]:
        """The space as plain values. A study stores it and does not continue under another one."""
        plain = {name: to_plain(distribution) for name, distribution in sorted(self.choices.items())}
        return plain | {f"limits.{name}": limit for name, limit in sorted(self.limits.items())}

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the content."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:12]

    def random(self, rng: Random) -> dict[str, Value]:
        """Sample a point, every choice independently."""
        return {name: sample_value(distribution, rng) for name, distribution in self.choices.items()}

    def mutate(self, point: Mapping[str, Value], rng: Random, changes: int) -> dict[str, Value]:
        """Sample some choices of a point again."""
        changed = dict(point)
        for name in rng.sample(list(self.choices), min(changes, len(self.choices))):
            changed[name] = sample_value(self.choices[name], rng)
        return changed

    def candidate(self, point: Mapping[str, Any], width_scale: float = 1.0) -> Candidate:
        """The canonical candidate that a point describes.

        Args:
            point: a value for every choice. Choices that the space does not have are those of the published hg2.
            width_scale: of the study; channel widths are multiplied by it.

        Raises:
            OutsideSpaceError: it exceeds the limits of the space.
            ValueError: the values cannot be built together.
        """
        get = point.get
        options = {
            name: self.encoded[name][value] if name in self.encoded else value
            for name, value in point.items()
            if name not in RULES and name not in LEVELS and name != "neck"
        }

        def block(name: str, default: str) -> BlockChoice:
            return BlockChoice.using(str(get(name, default)), options)

        level_names = [name for name in LEVELS if name in point]
        levels = tuple(block(name, "") for name in [*level_names, "neck"]) if level_names else ()
        own = block("block", "bottleneck")
        same = levels[0] if levels else own
        stacks = int(get("stacks", 2))
        architecture = Architecture(
            stem=int(get("stem", 64)),
            width=int(get("width", 128)),
            stacks=stacks,
            depth=int(get("depth", 4)),
            block=own,
            trunk=same if get("trunk") == SAME else BlockChoice.of(str(get("trunk", "bottleneck"))),
            levels=levels,
            stem_kernel=str(get("stem_kernel", "7x7")),
            junction=str(get("junction", "add")),
            reach=int(get("reach", 0)),
            narrow_res=bool(get("narrow_res", False)),
        )
        self.check_limits(architecture)
        alpha = float(get("alpha", 1.0))
        losses = Losses(
            weights=_weights(float(get("weight_ratio", 1.0)), stacks, str(get("supervision", "all"))),
            alpha=alpha,
            scale=float(get("lambda", 1.0)) if alpha < 1 else 1.0,
            perceptual=str(get("perceptual", "mse")),
        )
        return Candidate(architecture.scaled(width_scale), losses)

    def check_limits(self, architecture: Architecture) -> None:
        """Raise OutsideSpaceError if an architecture, at the widths of the space, exceeds the limits."""
        if not self.limits:
            return
        cost = network_cost(architecture, LIMITS_JOINTS, LIMITS_INPUT_SIZE)
        for name, value in (("max_params", cost.params), ("max_madds", cost.madds)):
            if value > self.limits.get(name, math.inf):
                raise OutsideSpaceError(f"{architecture}: {value:,} is above the space's {name}, {self.limits[name]:,}")

    def point_of(self, candidate: Candidate) -> dict[str, Value] | None:
        """A point that describes a candidate at the widths of the space; None if it is outside the space."""
        point: dict[str, Value] = {}
        for name, distribution in self.choices.items():
            wanted = self.value_in(candidate, name)
            value = None if wanted is None else find_value(distribution, wanted)
            point[name] = first_value(distribution) if value is None else value
        try:
            return point if self.candidate(point) == candidate else None
        except ValueError:
            return None

    def value_in(self, candidate: Candidate, name: str) -> Value | None:
        """The value of a choice in a candidate's canonical form; None if the network does not determine it.

        Args:
            candidate: at the widths of the space, or scaled by a study; then ``stem`` and ``width`` are scaled too.
            name: of the choice.
        """
        a, losses = candidate.architecture, candidate.losses
        blocks = a.level_blocks()
        if name in LEVELS or name == "neck":
            return blocks[-1 if name == "neck" else LEVELS.index(name)].kind
        if name == "block":
            return blocks[0].kind
        if name == "trunk":
            same = a.trunk == blocks[0] and find_value(self.choices[name], SAME) is not None
            return SAME if same else a.trunk.kind
        if name == "supervision":
            return "last" if losses.weights and not any(losses.weights[:-1]) else "all"
        if name == "weight_ratio":
            weights = losses.weights
            if not weights or not weights[0]:
                return 1.0
            return weights[-1] / weights[-2] if weights[-1] > weights[0] else weights[1] / weights[0]
        if name in ("alpha", "lambda", "perceptual"):
            value: Value = getattr(losses, {"lambda": "scale"}.get(name, name))
            return value
        if name in RULES:
            value = getattr(a, name)
            return value
        for block in blocks:
            if name in block_options(block.kind):
                option = {**block_options(block.kind), **dict(block.options)}[name]
                if isinstance(option, tuple):
                    return next(
                        (text for text, rates in self.encoded[name].items() if sorted(rates) == [*option]), None
                    )
                return option
        return None


def _weights(ratio: float, stacks: int, supervision: str) -> tuple[float, ...]:
    """Geometric loss weights with mean 1. With two hourglasses, ratio 7/3 gives the 0.3 / 0.7 of Asokan et al."""
    if supervision == "last":
        return (0.0,) * (stacks - 1) + (float(stacks),)
    raw = [ratio**i for i in range(stacks)]
    return tuple(float(f"{w * stacks / sum(raw):.6g}") for w in raw)  # six digits, so that no weight rounds to zero
