"""Block families, one per file. To add one, write a file here and add its name to the import below (README.md)."""

from nas.architecture.blocks import (
    bottleneck,
    dice,
    dilated,
    ghost,
    multidilated,
    separable,
    shuffle,
    two_convolutions,
)
from nas.architecture.blocks.registry import (
    Option,
    block_class,
    block_kinds,
    block_options,
    canonical_kind,
    needs_resolution,
    register_block,
    simplest,
)

__all__ = [
    "Option",
    "block_class",
    "block_kinds",
    "block_options",
    "bottleneck",
    "canonical_kind",
    "dice",
    "dilated",
    "ghost",
    "multidilated",
    "needs_resolution",
    "register_block",
    "separable",
    "shuffle",
    "simplest",
    "two_convolutions",
]
