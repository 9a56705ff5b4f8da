"""Pairs of dilated 3×3 convolutions, plain and separable (Samadh & Al Khatib 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from nas.architecture.blocks.layers import Residual, conv3x3, preactivated, separable3x3
from nas.architecture.blocks.registry import Option, register_block


@register_block("dilated")
class Dilated(Residual):
    """Two pre-activated dilated 3×3 (in → w → 2w) and the input added."""

    def __init__(self, in_channels: int, width: int, *, dilation: int = 2) -> None:
        body = nn.Sequential(
            preactivated(conv3x3(in_channels, width, dilation), in_channels),
            preactivated(conv3x3(width, 2 * width, dilation), width),
        )
        super().__init__(in_channels, 2 * width, body)

    @staticmethod
    def simplest(options: Mapping[str, Option], shapes: Sequence[tuple[int, int]]) -> tuple[str, Mapping[str, Option]]:
        """Without dilation this is the ``double_conv`` block."""
        return ("double_conv", {}) if options["dilation"] == 1 else ("dilated", options)


@register_block("dilated_separable")
class DilatedSeparable(Residual):
    """Two pre-activated dilated separable 3×3 (in → w → 2w) and the input added."""

    def __init__(self, in_channels: int, width: int, *, dilation: int = 2) -> None:
        body = nn.Sequential(
            preactivated(separable3x3(in_channels, width, dilation), in_channels),
            preactivated(separable3x3(width, 2 * width, dilation), width),
        )
        super().__init__(in_channels, 2 * width, body)

    @staticmethod
    def simplest(options: Mapping[str, Option], shapes: Sequence[tuple[int, int]]) -> tuple[str, Mapping[str, Option]]:
        """Without dilation this is the ``two_separable`` block."""
        return ("two_separable", {}) if options["dilation"] == 1 else ("dilated_separable", options)
