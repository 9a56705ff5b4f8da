"""The registry of block families.

A block is ``Block(in_channels, width, **options)``: (N, in_channels, H, W) → (N, 2·width, H, W). Its options are the
keyword-only arguments of its constructor, each with a default; nothing else is declared anywhere. A block whose weights
depend on the size of the map also takes ``resolution: tuple[int, int]`` (H, W).

Where different options build the same network, or the network of another block, a static method
``simplest(options, shapes)`` of the class returns the canonical form; see :func:`simplest`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from torch import nn

from nas.consent import check_allowed, check_block_name
from nas.errors import describe_error

Option = bool | int | float | str | tuple[int, ...]
BlockClass = TypeVar("BlockClass", bound=type[nn.Module])

_BLOCKS: dict[str, type[nn.Module]] = {}


def register_block(kind: str) -> Callable[[BlockClass], BlockClass]:
    """Class decorator that registers a block under the name ``kind``.

    Raises:
        ValueError: the name is taken.
    """

    def register(block: BlockClass) -> BlockClass:
        if kind in _BLOCKS:
            raise ValueError(f"block {kind!r} is registered twice: {_BLOCKS[kind]} and {block}")
        _BLOCKS[kind] = block
        return block

    return register


def block_kinds() -> tuple[str, ...]:
    """Names of all registered blocks, in the order of registration."""
    return tuple(_BLOCKS)


@cache
def block_class(kind: str) -> type[nn.Module]:
    """The class of a registered name, or of ``module:Class`` for a block outside this package.

    The module of such a block is imported only if the user allowed the name (:mod:`nas.consent`).

    Raises:
        ValueError: there is no such block.
        nas.consent.CodeNotAllowedError: a ValueError, too; the user has not allowed its code.
    """
    if kind in _BLOCKS:
        return _BLOCKS[kind]
    module, _, name = kind.partition(":")
    if not name:
        raise ValueError(f"unknown block {kind!r}; choose one of {', '.join(_BLOCKS)}, or module:Class for your own")
    for registered in _BLOCKS.values():
        if (registered.__module__, registered.__name__) == (module, name):
            return registered
    check_block_name(kind)
    check_allowed(kind)
    try:
        block = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a module may raise anything, and call sys.exit
        raise ValueError(f"block {kind!r} cannot be imported: {describe_error(error)}") from error
    if not (isinstance(block, type) and issubclass(block, nn.Module)):
        raise ValueError(f"block {kind!r} is not a torch.nn.Module class")
    return block


@cache
def block_options(kind: str) -> Mapping[str, Option]:
    """Options of a block and their defaults, without ``resolution``, which the network determines.

    Raises:
        ValueError: an option has no default.
    """
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
    """The registered name of a block of this package given as ``module:Class``; any other kind unchanged."""
    block = block_class(kind)
    if ":" in kind and block.__module__.startswith(f"{__package__}."):
        return next((name for name, registered in _BLOCKS.items() if registered is block), kind)
    return kind


def simplest(
    kind: str, options: Mapping[str, Option], shapes: Sequence[tuple[int, int]]
) -> tuple[str, Mapping[str, Option]]:
    """The canonical form of a block and its options.

    Args:
        kind: of the block.
        options: that differ from its defaults.
        shapes: (in_channels, width) of every use of the block in the network.

    Returns:
        Kind and options that build the same network.
    """
    # Not an inherited method: a subclass is another block.
    rule = vars(block_class(kind)).get("simplest")
    return rule({**block_options(kind), **options}, shapes) if rule else (kind, options)
