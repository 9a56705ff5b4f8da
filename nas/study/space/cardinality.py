"""How many different networks a space holds, counted exactly through their canonical forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice, product
from typing import Any

from nas.architecture.cost import block_cost
from nas.architecture.spec import Architecture, BlockChoice
from nas.study.space.candidate import Candidate
from nas.study.space.choices import LEVELS, RULES, SAME, Value, find_value, first_value, members
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
            try:
                space.check_limits(_architecture(stem, width, (blocks, trunk), shell, meeting))
            except OutsideSpaceError:
                continue
            count += 1
    return count


MAX_FORMS = 20_000
"""Combinations of blocks, at one stem and width, that :func:`affordable_points` looks at."""


def affordable_points(
    space: SearchSpace, within: Callable[[Mapping[str, Value]], bool]
) -> Iterator[Mapping[str, Value] | None]:
    """A point for each architecture of a space that is within a budget.

    More stacks and deeper hourglasses cost more, all else being equal. So where the smallest network of some blocks is
    over the budget, the others are not looked at.

    Args:
        space: to go through.
        within: whether a point can be built and is within the budget.

    Yields:
        points, with the first value of each choice of the losses; None where the space is too large to go through.
    """
    values = {name: members(distribution) or [] for name, distribution in space.choices.items()}
    if any(not there and name not in LOSSES for name, there in values.items()):
        yield None
        return
    published = Architecture()
    meetings = sorted(
        {
            _meeting(Architecture(**dict(zip(_MEETING, combination, strict=True))))
            for combination in product(*(values.get(name, [getattr(published, name)]) for name in _MEETING))
        },
        key=lambda meeting: (meeting[0], meeting[1] != "add", *map(str, meeting)),
    )
    depths = sorted(values.get("depth", [published.depth]))
    stems = values.get("stem_kernel", [published.stem_kernel])
    widths: list[list[Any]] = [sorted(values.get(name, [getattr(published, name)])) for name in ("stem", "width")]
    for stem, width in product(*widths):
        tables, trunks = _tables(space, values, stem, width)
        forms = dict.fromkeys(islice(_forms(tables, trunks), MAX_FORMS))
        if len(forms) == MAX_FORMS:
            yield None
        for form, kernel, depth in product(forms, stems, depths):
            for meeting in meetings:
                point = _point_of(space, stem, width, form, (depth, kernel), meeting)
                if point is not None and within(point):
                    yield point
                elif point is not None and meeting == meetings[0]:
                    break


def _point_of(
    space: SearchSpace, stem: int, width: int, form: Form, shell: tuple[Any, ...], meeting: tuple[Any, ...]
) -> Mapping[str, Value] | None:
    """The point of an architecture; None if the space does not hold it."""
    try:
        architecture = _architecture(stem, width, form, shell, meeting)
        candidate = Candidate(architecture)
        point = {}
        for name, distribution in space.choices.items():
            wanted = None if name in LOSSES else space.value_in(candidate, name)
            value = None if wanted is None else find_value(distribution, wanted)
            point[name] = first_value(distribution) if value is None else value
        return point if space.candidate(point).architecture == architecture else None
    except ValueError:
        return None


def _architecture(stem: int, width: int, form: Form, shell: tuple[Any, ...], meeting: tuple[Any, ...]) -> Architecture:
    blocks, trunk = form
    return Architecture(
        stem=stem,
        width=width,
        block=blocks[0],
        levels=blocks if len(blocks) > 1 else (),
        trunk=trunk,
        **dict(zip(_SHELL, shell, strict=True)),
        **dict(zip(_MEETING, meeting, strict=True)),
    )


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
