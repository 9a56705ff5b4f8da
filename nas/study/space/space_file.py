"""Reading search spaces from TOML files.

A choice is a list of values, or a range ``{ low = 1, high = 4 }`` (with ``step`` for integers, ``log = true`` for real
numbers). ``[limits]`` exclude architectures that are too large.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nas.architecture.blocks import block_class, block_options
from nas.consent import check_block_name
from nas.errors import UserError
from nas.study.files import read_toml
from nas.study.space.choices import BLOCK_CHOICES, LEVELS, LIMITS, RULES, SAME, Rule
from nas.study.space.search_space import OutsideSpaceError, SearchSpace

_TABLES = ("choices", "options", "limits")
_POINTS_TRIED = 1000
_POINTS_BUILT = 64


def read_space(path: Path) -> SearchSpace:
    """Read a space file.

    Raises:
        UserError: an unknown name, or a wrong type or range; the message says where, and what is allowed.
    """
    raw = read_toml(path)
    for key in raw:
        if key not in _TABLES:
            raise UserError(f"{path}: unknown table [{key}]; allowed: [choices], [options] and [limits]")
    choices = _read_choices(path, _table(path, raw, "choices"))
    options = block_options_of(path, choices)
    option_choices, encoded = _read_options(path, _table(path, raw, "options"), options)
    limits = _read_limits(path, _table(path, raw, "limits"))
    space = SearchSpace({**choices, **option_choices}, path, encoded, limits)
    _check_levels(space)
    _check_points(space)
    return space


def blocks_of_ones_own(path: Path) -> list[str]:
    """The blocks of a space file that are named ``module:Class``; nothing is imported.

    Raises:
        UserError: the file cannot be read, or a name has another form.
    """
    table = _table(path, read_toml(path), "choices")
    named = [table[place] for place in BLOCK_CHOICES if isinstance(table.get(place), list)]
    blocks = sorted({kind for kinds in named for kind in kinds if isinstance(kind, str) and ":" in kind})
    for kind in blocks:
        try:
            check_block_name(kind)
        except ValueError as error:
            raise UserError(f"{path}: choices: {error}") from error
    return blocks


def _read_choices(path: Path, table: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    choices: dict[str, BaseDistribution] = {}
    for name, value in table.items():
        rule = RULES.get(name) or (RULES["block"] if name in (*LEVELS, "neck") else None)
        if rule is None:
            allowed = ", ".join([*RULES, "level_1…level_6", "neck"])
            raise UserError(f"{path}: choices.{name}: unknown name; allowed: {allowed}")
        choices[name] = _distribution(path, f"choices.{name}", value, rule)
    if not choices:
        raise UserError(f"{path}: [choices] is missing or empty; allowed in it: {', '.join(RULES)}")
    return choices


def block_options_of(path: Path, choices: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Options of all blocks that the choices name, with their defaults."""
    options: dict[str, Any] = {}
    for kind, name in _blocks(choices).items():
        try:
            block_class(kind)
            if name != "trunk":  # a trunk that is not the hourglasses' own has its options at their defaults
                options |= block_options(kind)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: choices.{name}: {error}") from error
    return options


def _blocks(choices: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """Kinds of blocks, with the choice that names each first."""
    blocks: dict[str, str] = {}
    for name, distribution in choices.items():
        if name in BLOCK_CHOICES:
            assert isinstance(distribution, CategoricalDistribution)
            for kind in distribution.choices:
                if kind != SAME or name != "trunk":
                    blocks.setdefault(str(kind), name)
    return blocks


def _read_options(
    path: Path, table: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[dict[str, BaseDistribution], dict[str, dict[str, tuple[int, ...]]]]:
    """Choices of block options; for options that are lists, also the list behind each text."""
    choices: dict[str, BaseDistribution] = {}
    encoded: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in table.items():
        where = f"options.{name}"
        if name not in options:
            raise UserError(
                f"{path}: {where}: no block of this space has it; its blocks' options: {', '.join(options) or 'none'}"
            )
        if name in RULES or name in LEVELS or name == "neck":
            raise UserError(f"{path}: {where}: an option may not have the name of a choice; rename it in the block")
        default = options[name]
        if isinstance(default, tuple):
            encoded[name] = _encode_lists(path, where, value)
            choices[name] = CategoricalDistribution(list(encoded[name]))
        else:
            rule = Rule(type(default), "", least=1 if type(default) is int else None)
            choices[name] = _distribution(path, where, value, rule)
    return choices, encoded


def _read_limits(path: Path, table: Mapping[str, Any]) -> dict[str, int]:
    for name, value in table.items():
        if name not in LIMITS:
            raise UserError(f"{path}: limits.{name}: unknown name; allowed: {', '.join(LIMITS)}")
        if error := LIMITS[name].error(value):
            raise UserError(f"{path}: limits.{name}: {value!r}: {error}")
    return dict(table)


def _check_levels(space: SearchSpace) -> None:
    """Check that blocks are chosen per level for all levels, or for none."""
    given = [name for name in (*LEVELS, "neck") if name in space.choices]
    if not given:
        return
    depth = space.choices.get("depth")
    if "block" in space.choices or "neck" not in space.choices or given == ["neck"]:
        raise UserError(f"{space.path}: choices: level_1, … and neck go together, and instead of block")
    levels = len(given) - 1
    fixed = isinstance(depth, CategoricalDistribution) and depth.choices == (levels,)
    if given[:-1] != list(LEVELS[:levels]) or not (fixed or (depth is None and levels == 4)):
        raise UserError(f"{space.path}: choices: {levels} levels need depth = [{levels}] and level_1 to level_{levels}")


def _check_points(space: SearchSpace) -> None:
    """Check that random points can be built, and that some are within the limits."""
    inside = 0
    for seed in range(_POINTS_TRIED):
        try:
            space.candidate(space.random(Random(seed)))
        except OutsideSpaceError:
            continue
        except ValueError as error:  # values may be impossible together, such as an odd width for ghost
            raise UserError(f"{space.path}: {error}") from error
        inside += 1
        if inside == _POINTS_BUILT:
            break
    if not inside:
        raise UserError(f"{space.path}: limits: none of {_POINTS_TRIED:,} random points is within them; raise them")


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
        error = rule.error(one)
        if error:
            raise UserError(f"{path}: {where}: {one!r}: {error}")
    values = [float(v) for v in value] if rule.kind is float else value
    if len(set(values)) != len(values):
        raise UserError(f"{path}: {where}: a value is given twice: {value!r}")
    return CategoricalDistribution(values)


def _range(path: Path, where: str, value: Mapping[str, Any], rule: Rule) -> BaseDistribution:
    if rule.kind not in (int, float):
        raise UserError(f"{path}: {where}: a range needs numbers; give a list with {rule.describe()}")
    unknown = set(value) - {"low", "high", "step", "log"}
    if unknown or "low" not in value or "high" not in value:
        raise UserError(f"{path}: {where}: a range has low and high, and step or log if wanted, not {dict(value)!r}")
    for end in ("low", "high"):
        error = rule.error(value[end])
        if error:
            raise UserError(f"{path}: {where}.{end}: {value[end]!r}: {error}")
    log, step = value.get("log", False), value.get("step", 1 if rule.kind is int else None)
    for key, given, kind in (("log", log, bool), ("step", step, rule.kind)):
        error = Rule(kind, "").error(given)
        if error and key in value:
            raise UserError(f"{path}: {where}.{key}: {given!r}: {error}")
    distribution: IntDistribution | FloatDistribution
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna, if the step does not divide the range; checked below
            if rule.kind is int:
                distribution = IntDistribution(value["low"], value["high"], log=log, step=step)
            else:
                distribution = FloatDistribution(value["low"], value["high"], log=log, step=step)
    except ValueError as problem:
        raise UserError(f"{path}: {where}: {str(problem).splitlines()[0]}") from problem
    if distribution.high != value["high"]:
        raise UserError(
            f"{path}: {where}: steps of {step!r} from {value['low']!r} do not reach {value['high']!r}; "
            f"the last one is {distribution.high!r}"
        )
    return distribution


def _encode_lists(path: Path, where: str, value: object) -> dict[str, tuple[int, ...]]:
    rows: Sequence[Any] = value if isinstance(value, list) else []
    if not rows or not all(
        isinstance(row, list) and row and all(type(v) is int and v >= 1 for v in row) for row in rows
    ):
        raise UserError(f"{path}: {where}: expected a list of lists of integers of at least 1, not {value!r}")
    encoded = {"-".join(map(str, row)): tuple(row) for row in rows}
    if len(encoded) != len(rows):
        raise UserError(f"{path}: {where}: a value is given twice: {value!r}")
    return encoded
