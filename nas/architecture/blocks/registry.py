"""The one list of block families.

A block is ``Block(in_channels, width, **options)``: (N, in_channels, H, W) → (N, 2·width, H, W). Its options are the
keyword-only arguments of its constructor, each with a default; nothing else needs to be declared anywhere. A block
whose weights depend on the map's size also takes ``resolution: tuple[int, int]`` (H, W).

Where some of a block's options build the same network as others, or as another block, the class says which way of
writing it is the canonical one, by a static method ``simplest(options, shapes)``; see :func:`simplest`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from torch import nn

Option = bool | int | float | str | tuple[int, ...]
BlockClass = TypeVar("BlockClass", bound=type[nn.Module])

_BLOCKS: dict[str, type[nn.Module]] = {}


def register_block(kind: str) -> Callable[[BlockClass], BlockClass]:
    """Class decorator: make a block buildable under the name ``kind``."""

    def register(block: BlockClass) -> BlockClass:
        if kind in _BLOCKS:
            raise ValueError(f"block {kind!r} is registered twice: {_BLOCKS[kind]} and {block}")
        _BLOCKS[kind] = block
        return block

    return register


def block_kinds() -> tuple[str, ...]:
    """Names of all registered blocks, in order of registration."""
    return tuple(_BLOCKS)


@cache
def block_class(kind: str) -> type[nn.Module]:
    """The class behind a registered name, or behind ``module:Class`` for a block of one's own.

    Raises:
        ValueError: no such block; says which there are.
    """
    if kind in _BLOCKS:
        return _BLOCKS[kind]
    module, _, name = kind.partition(":")
    if not name:
        raise ValueError(f"unknown block {kind!r}; there are {', '.join(_BLOCKS)}, or module:Class for your own")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"block {kind!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"block {kind!r} is not a torch.nn.Module class")
    return found


@cache
def block_options(kind: str) -> Mapping[str, Option]:
    """Options of a block and their defaults (``resolution`` is the skeleton's to give, so it is no option)."""
    parameters = inspect.signature(block_class(kind)).parameters.values()
    keywords = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != "resolution"]
    for parameter in keywords:
        if parameter.default is inspect.Parameter.empty:
            raise ValueError(f"block {kind!r}: option {parameter.name!r} needs a default")
    return MappingProxyType({p.name: p.default for p in keywords})


@cache
def needs_resolution(kind: str) -> bool:
    """Whether the block's weights depend on the height and width of its map."""
    return "resolution" in inspect.signature(block_class(kind)).parameters


@cache
def canonical_kind(kind: str) -> str:
    """The registered name of a block of this package that was written as ``module:Class``; other kinds unchanged."""
    found = block_class(kind)
    if ":" in kind and found.__module__.startswith(f"{__package__}."):
        return next((name for name, block in _BLOCKS.items() if block is found), kind)
    return kind


def simplest(
    kind: str, options: Mapping[str, Option], shapes: Sequence[tuple[int, int]]
) -> tuple[str, Mapping[str, Option]]:
    """The canonical way of writing a block.

    Args:
        kind: the block.
        options: those that differ from its defaults.
        shapes: (in_channels, width) of every place where the network uses the block.

    Returns:
        Kind and options that build the same network, equal for all ways of writing it.
    """
    # Only the class's own method: a block derived from another is a different block.
    rule = vars(block_class(kind)).get("simplest")
    return rule({**block_options(kind), **options}, shapes) if rule else (kind, options)
