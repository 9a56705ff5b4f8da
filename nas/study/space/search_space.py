"""Search spaces: what may be chosen, read from a TOML file.

A space is flat: every choice is suggested for every trial, and the candidate keeps those that its network uses. A
choice is a list of values, or a range ``{ low = 1, high = 4 }`` (with ``step`` for integers, ``log = true`` for reals).
``[limits]`` cut off what is too large: a space need not be a box.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from nas.architecture.blocks import block_class, block_options
from nas.architecture.cost import network_cost
from nas.architecture.spec import JUNCTIONS, STEMS, Architecture, BlockChoice
from nas.errors import UserError
from nas.study.files import read_toml
from nas.study.space.candidate import Candidate
from nas.training.losses import PERCEPTUAL, Losses

Value = bool | int | float | str

SAME = "same"
"""As a trunk: the hourglass's own block, with its options."""

SUPERVISION = ("all", "last")

COUNTED_AT = (256, 256)
"""Input size, in pixels, at which a space's limits hold: the published counts'."""
COUNTED_JOINTS = 16
"""Joints for which they hold."""


class OutsideSpaceError(ValueError):
    """A point beyond the space's limits: none of its candidates."""


@dataclass(frozen=True)
class Rule:
    """What a choice of the space may hold: a type, limits or names, and its meaning."""

    kind: type
    meaning: str
    least: float | None = None
    most: float | None = None
    names: tuple[str, ...] = ()

    def complaint(self, value: object) -> str | None:
        """What is wrong with a value, or None."""
        if self.kind is float:
            good_type = isinstance(value, int | float) and not isinstance(value, bool)
        else:
            good_type = type(value) is self.kind
        if not good_type:
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
        """The allowed values in words."""
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
LIMITS: Mapping[str, Rule] = {
    "max_params": Rule(int, "most parameters, before a study scales the widths", 1),
    "max_madds": Rule(int, "most multiply-adds at 256×256, before a study scales the widths", 1),
}


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """The choices of a search.

    Attributes:
        choices: name → distribution; every candidate has a value for each.
        path: the file that it came from.
        coded: name → text → value, for choices whose values are lists (dilation rates are stored as "1-2-3").
        limits: the most that an architecture of the space has (:data:`LIMITS`), with 16 joints at 256×256.
    """

    choices: Mapping[str, BaseDistribution]
    path: Path
    coded: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> SearchSpace:
        """Read a space file.

        Raises:
            UserError: an unknown name, a wrong type or range: says where, and what is allowed.
        """
        raw = read_toml(path)
        for key in raw:
            if key not in ("choices", "options", "limits"):
                raise UserError(f"{path}: unknown table [{key}]; allowed: [choices], [options] and [limits]")
        choices: dict[str, BaseDistribution] = {}
        coded: dict[str, dict[str, tuple[int, ...]]] = {}
        blocks: dict[str, str] = {}  # kind → the choice that names it first
        for name, value in _table(path, raw, "choices").items():
            rule = RULES.get(name) or (RULES["block"] if name in (*LEVELS, "neck") else None)
            if rule is None:
                allowed = ", ".join([*RULES, "level_1…level_6", "neck"])
                raise UserError(f"{path}: choices.{name}: unknown name; allowed: {allowed}")
            choices[name] = _distribution(path, f"choices.{name}", value, rule)
            if rule in (RULES["block"], RULES["trunk"]):
                for kind in value:
                    if kind != SAME or name != "trunk":
                        blocks.setdefault(str(kind), name)
        if not choices:
            raise UserError(f"{path}: [choices] is missing or empty; allowed in it: {', '.join(RULES)}")
        known: dict[str, Any] = {}
        for kind, name in blocks.items():
            try:
                block_class(kind)
                if name != "trunk":  # a trunk of its own has its options at their defaults
                    known |= block_options(kind)
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}: choices.{name}: {error}") from error
        for name, value in _table(path, raw, "options").items():
            where = f"options.{name}"
            if name not in known:
                raise UserError(
                    f"{path}: {where}: no block of this space has it; its blocks' options: {', '.join(known) or 'none'}"
                )
            if name in RULES or name in LEVELS or name == "neck":
                raise UserError(f"{path}: {where}: an option may not be called like a choice; rename it in the block")
            if isinstance(known[name], tuple):
                coded[name] = _coded(path, where, value)
                choices[name] = CategoricalDistribution(list(coded[name]))
            else:
                rule = Rule(type(known[name]), "", least=1 if type(known[name]) is int else None)
                choices[name] = _distribution(path, where, value, rule)
        limits = _table(path, raw, "limits")
        for name, value in limits.items():
            if name not in LIMITS:
                raise UserError(f"{path}: limits.{name}: unknown name; allowed: {', '.join(LIMITS)}")
            complaint = LIMITS[name].complaint(value)
            if complaint:
                raise UserError(f"{path}: limits.{name}: {value!r}: {complaint}")
        space = cls(choices, path, coded, dict(limits))
        space._check_levels()
        inside = 0
        for seed in range(1000):
            try:
                space.candidate(space.random(Random(seed)))
            except OutsideSpaceError:
                continue
            except ValueError as error:  # values may still be impossible together: an odd width for ghost, say
                raise UserError(f"{path}: {error}") from error
            inside += 1
            if inside == 64:
                break
        if not inside:
            raise UserError(f"{path}: limits: none of 1,000 random points is within them; raise them")
        return space

    def _check_levels(self) -> None:
        given = [name for name in (*LEVELS, "neck") if name in self.choices]
        if not given:
            return
        depth = self.choices.get("depth")
        if "block" in self.choices or "neck" not in self.choices or given == ["neck"]:
            raise UserError(f"{self.path}: choices: level_1, … and neck go together, and instead of block")
        levels = len(given) - 1
        fixed = isinstance(depth, CategoricalDistribution) and depth.choices == (levels,)
        if given[:-1] != list(LEVELS[:levels]) or not (fixed or (depth is None and levels == 4)):
            raise UserError(
                f"{self.path}: choices: {levels} levels need depth = [{levels}] and level_1 to level_{levels}"
            )

    @property
    def size(self) -> float:
        """Number of points (not of distinct networks); infinite where a choice is a real range."""
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
    def content(self) -> dict[str, Any]:
        """What the space holds, as plain values: a study remembers it and is not continued under another."""
        plain = {name: _plain(distribution) for name, distribution in sorted(self.choices.items())}
        return plain | {f"limits.{name}": limit for name, limit in sorted(self.limits.items())}

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the content."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:12]

    def random(self, rng: Random) -> dict[str, Value]:
        """One point, every choice drawn on its own."""
        return {name: _draw(distribution, rng) for name, distribution in self.choices.items()}

    def mutate(self, point: Mapping[str, Value], rng: Random, changes: int) -> dict[str, Value]:
        """A point with some of its choices drawn again."""
        changed = dict(point)
        for name in rng.sample(list(self.choices), min(changes, len(self.choices))):
            changed[name] = _draw(self.choices[name], rng)
        return changed

    def candidate(self, point: Mapping[str, Any], width_scale: float = 1.0) -> Candidate:
        """The candidate that a point describes, canonical.

        Args:
            point: a value for every choice; names left out of the space take the published hg2's.
            width_scale: the study's: channel widths are multiplied by it.

        Raises:
            OutsideSpaceError: it is beyond the space's limits.
            ValueError: the values cannot be built together.
        """
        get = point.get
        options = {
            name: self.coded[name][value] if name in self.coded else value
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
        """Raise OutsideSpaceError if an architecture, at the space's own widths, is beyond the limits."""
        if not self.limits:
            return
        cost = network_cost(architecture, COUNTED_JOINTS, COUNTED_AT)
        for name, value in (("max_params", cost.params), ("max_madds", cost.madds)):
            if value > self.limits.get(name, math.inf):
                raise OutsideSpaceError(f"{architecture}: {value:,} is above the space's {name}, {self.limits[name]:,}")

    def point_of(self, candidate: Candidate) -> dict[str, Value] | None:
        """A point that describes a candidate (one at the space's own widths), or None if the space does not hold it."""
        point: dict[str, Value] = {}
        for name, distribution in self.choices.items():
            wanted = self.value_in(candidate, name)
            found = None if wanted is None else _member(distribution, wanted)
            point[name] = _any_member(distribution) if found is None else found
        try:
            return point if self.candidate(point) == candidate else None
        except ValueError:
            return None

    def value_in(self, candidate: Candidate, name: str) -> Value | None:
        """What a choice is in a candidate's canonical form; None where its network does not tell.

        Args:
            candidate: at the space's own widths, or scaled by a study: then ``stem`` and ``width`` are scaled as well.
            name: of the choice.
        """
        a, losses = candidate.architecture, candidate.losses
        blocks = a.level_blocks()
        if name in LEVELS or name == "neck":
            return blocks[-1 if name == "neck" else LEVELS.index(name)].kind
        if name == "block":
            return blocks[0].kind
        if name == "trunk":
            same = a.trunk == blocks[0] and _member(self.choices[name], SAME) is not None
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
                    return next((text for text, rates in self.coded[name].items() if sorted(rates) == [*option]), None)
                return option
        return None


def _weights(ratio: float, stacks: int, supervision: str) -> tuple[float, ...]:
    """Geometric weights with mean 1: ratio 7/3 over two hourglasses is document B's 0.3/0.7."""
    if supervision == "last":
        return (0.0,) * (stacks - 1) + (float(stacks),)
    raw = [ratio**i for i in range(stacks)]
    return tuple(float(f"{w * stacks / sum(raw):.6g}") for w in raw)  # six digits, however small: none is zero


def _table(path: Path, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = raw.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{path}: {name}: expected a table [{name}], not {table!r}")
    return table


def _distribution(path: Path, where: str, value: object, rule: Rule) -> BaseDistribution:
    """A list of values or a range, checked against the rule."""
    if isinstance(value, dict):
        return _range(path, where, value, rule)
    if not isinstance(value, list) or not value:
        ranges = " or a range { low = …, high = … }" if rule.kind in (int, float) else ""
        raise UserError(f"{path}: {where}: expected a list of values{ranges}, not {value!r}")
    for one in value:
        complaint = rule.complaint(one)
        if complaint:
            raise UserError(f"{path}: {where}: {one!r}: {complaint}")
    values = [float(v) for v in value] if rule.kind is float else value
    if len(set(values)) != len(values):
        raise UserError(f"{path}: {where}: a value stands in it twice: {value!r}")
    return CategoricalDistribution(values)


def _range(path: Path, where: str, value: Mapping[str, Any], rule: Rule) -> BaseDistribution:
    if rule.kind not in (int, float):
        raise UserError(f"{path}: {where}: a range needs numbers; give a list with {rule.describe()}")
    unknown = set(value) - {"low", "high", "step", "log"}
    if unknown or "low" not in value or "high" not in value:
        raise UserError(f"{path}: {where}: a range has low and high, and step or log if wanted, not {dict(value)!r}")
    for end in ("low", "high"):
        complaint = rule.complaint(value[end])
        if complaint:
            raise UserError(f"{path}: {where}.{end}: {value[end]!r}: {complaint}")
    log, step = value.get("log", False), value.get("step", 1 if rule.kind is int else None)
    for key, given, kind in (("log", log, bool), ("step", step, rule.kind)):
        complaint = Rule(kind, "").complaint(given)
        if complaint and key in value:
            raise UserError(f"{path}: {where}.{key}: {given!r}: {complaint}")
    made: IntDistribution | FloatDistribution
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's own, of a range that its step does not divide: see below
            if rule.kind is int:
                made = IntDistribution(value["low"], value["high"], log=log, step=step)
            else:
                made = FloatDistribution(value["low"], value["high"], log=log, step=step)
    except ValueError as error:
        raise UserError(f"{path}: {where}: {str(error).splitlines()[0]}") from error
    if made.high != value["high"]:
        raise UserError(
            f"{path}: {where}: steps of {step!r} from {value['low']!r} do not reach {value['high']!r}; "
            f"the last one is {made.high!r}"
        )
    return made


def _coded(path: Path, where: str, value: object) -> dict[str, tuple[int, ...]]:
    rows: Sequence[Any] = value if isinstance(value, list) else []
    if not rows or not all(
        isinstance(row, list) and row and all(type(v) is int and v >= 1 for v in row) for row in rows
    ):
        raise UserError(f"{path}: {where}: expected a list of lists of integers of at least 1, not {value!r}")
    coded = {"-".join(map(str, row)): tuple(row) for row in rows}
    if len(coded) != len(rows):
        raise UserError(f"{path}: {where}: a value stands in it twice: {value!r}")
    return coded


def _draw(distribution: BaseDistribution, rng: Random) -> Value:
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
    """Every value of a choice; None for a range of reals."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)  # type: ignore[arg-type]
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    return None


def _member(distribution: BaseDistribution, wanted: Value) -> Value | None:
    """The value of a choice that is the one wanted (reals to four digits), if it has it."""
    there = members(distribution)
    if there is None:
        assert isinstance(distribution, FloatDistribution)
        inside = isinstance(wanted, int | float) and distribution.low <= wanted <= distribution.high
        return float(wanted) if inside else None
    for value in there:
        if isinstance(value, float) and isinstance(wanted, int | float):
            if math.isclose(value, wanted, rel_tol=1e-4):
                return value
        elif value == wanted and isinstance(value, bool) == isinstance(wanted, bool):
            return value
    return None


def _any_member(distribution: BaseDistribution) -> Value:
    there = members(distribution)
    return there[0] if there else float(distribution.low)  # type: ignore[attr-defined]


def _plain(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return {k: v for k, v in vars(distribution).items() if v is not None}
