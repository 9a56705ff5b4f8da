"""How many different networks a space holds, counted exactly through their canonical forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from nas.architecture.cost import block_cost
from nas.architecture.spec import Architecture, BlockChoice
from nas.study.space.choices import LEVELS, RULES, SAME, members
from nas.study.space.search_space import OutsideSpaceError, SearchSpace

Form = tuple[tuple[BlockChoice, ...], BlockChoice]
"""Blocks of the hourglass (one, or one per level and the neck), and the trunk's."""

LOSSES = ("supervision", "weight_ratio", "alpha", "lambda", "perceptual")
"""Choices that do not change the network."""


def count_architectures(space: SearchSpace) -> int | None:
    """Number of different architectures: what blocks ignore, repeat, or cannot be built with does not count twice.

    A space without limits is a product of independent parts (blocks and widths; depth and first convolution; stacks and
    their junctions), each counted by its canonical forms. With limits every architecture is looked at: 0.1 ms each.

    Returns:
        the number; None where a choice other than the losses' is a range of reals.
    """
    values: dict[str, list[Any]] = {}
    for name, distribution in space.choices.items():
        there = members(distribution)
        if there is None and name not in LOSSES:
            return None
        values[name] = there or []
    published = Architecture()
    meetings = {
        _meeting(Architecture(**dict(zip(_MEETING, combination, strict=True))))
        for combination in product(*(values.get(name, [getattr(published, name)]) for name in _MEETING))
    }
    shells = list(product(*(values.get(name, [getattr(published, name)]) for name in _SHELL)))
    count = 0
    known: dict[object, int] = {}
    for stem, width in product(values.get("stem", [published.stem]), values.get("width", [published.width])):
        tables, trunks = _tables(space, values, stem, width)
        if not space.limits:
            key = (frozenset(tables), frozenset(trunks))
            if key not in known:
                known[key] = len(set(_forms(tables, trunks)))
            count += known[key] * len(shells) * len(meetings)
            continue
        for (blocks, trunk), shell, meeting in product(set(_forms(tables, trunks)), shells, meetings):
            architecture = Architecture(
                stem=stem,
                width=width,
                block=blocks[0],
                levels=blocks if len(blocks) > 1 else (),
                trunk=trunk,
                **dict(zip(_SHELL, shell, strict=True)),
                **dict(zip(_MEETING, meeting, strict=True)),
            )
            try:
                space.check_limits(architecture)
            except OutsideSpaceError:
                continue
            count += 1
    return count


_MEETING = ("stacks", "junction", "reach", "narrow_res")
_SHELL = ("depth", "stem_kernel")


def _meeting(a: Architecture) -> tuple[Any, ...]:
    return tuple(getattr(a, name) for name in _MEETING)


Table = tuple[tuple[tuple[BlockChoice, BlockChoice | None], ...], tuple[tuple[BlockChoice, ...], ...]]
"""For one combination of options: the first place's blocks, each with itself as a trunk; the other places' blocks."""


def _tables(
    space: SearchSpace, values: Mapping[str, list[Any]], stem: int, width: int
) -> tuple[set[Table], list[BlockChoice | None]]:
    """Canonical blocks at these widths for each combination of options, and the trunks (None: the first block)."""
    shape = Architecture(stem=stem, width=width)
    inside, around = [(shape.features, width)], shape.trunk_shapes()
    levels = [name for name in LEVELS if name in values]
    places = [*levels, "neck"] if levels else ["block"]
    option_names = [name for name in values if name not in RULES and name not in LEVELS and name != "neck"]
    tables: set[Table] = set()
    for combination in product(*(values[name] for name in option_names)):
        options = {
            n: space.encoded[n][v] if n in space.encoded else v for n, v in zip(option_names, combination, strict=True)
        }

        def choices(place: str, options: Mapping[str, Any] = options) -> list[BlockChoice]:
            return [BlockChoice.using(kind, options) for kind in values.get(place, ["bottleneck"])]

        first, *others = places
        pairs = [
            (c.simplest(inside), c.simplest(around) if _buildable(c, around) else None)
            for c in choices(first)
            if _buildable(c, inside)
        ]
        rest = tuple(
            tuple(dict.fromkeys(c.simplest(inside) for c in choices(place) if _buildable(c, inside)))
            for place in others
        )
        tables.add((tuple(dict.fromkeys(pairs)), rest))
    trunks: list[BlockChoice | None] = []
    for kind in values.get("trunk", ["bottleneck"]):
        own = None if kind == SAME else BlockChoice.of(kind)
        if own is None or _buildable(own, around):
            trunks.append(own and own.simplest(around))
    return tables, trunks


def _buildable(choice: BlockChoice, shapes: list[tuple[int, int]]) -> bool:
    try:
        for in_channels, width in shapes:
            block_cost(choice, in_channels, width, (64, 64))
    except ValueError:
        return False
    return True


def _forms(tables: set[Table], trunks: list[BlockChoice | None]) -> Iterator[Form]:
    for firsts, others in tables:
        for (first, same), rest, trunk in product(firsts, product(*others), trunks):
            around = trunk or same
            if around is not None:
                yield (first, *rest), around
