"""Blocks of two 3×3 convolutions instead of a bottleneck (Asokan et al.)."""

from __future__ import annotations

from torch import nn

from nas.architecture.blocks.layers import Residual, conv3x3, preactivated, separable3x3
from nas.architecture.blocks.registry import register_block


@register_block("double_conv")
class DoubleConv(Residual):
    """Two pre-activated plain 3×3 (in → w → 2w) and the input added."""

    def __init__(self, in_channels: int, width: int) -> None:
        body = nn.Sequential(
            preactivated(conv3x3(in_channels, width), in_channels),
            preactivated(conv3x3(width, 2 * width), width),
        )
        super().__init__(in_channels, 2 * width, body)


@register_block("two_separable")
class TwoSeparable(Residual):
    """Two pre-activated separable 3×3 (in → w → 2w) and the input added; ``dilation`` is that of the second."""

    def __init__(self, in_channels: int, width: int, *, dilation: int = 1) -> None:
        body = nn.Sequential(
            preactivated(separable3x3(in_channels, width), in_channels),
            preactivated(separable3x3(width, 2 * width, dilation), width),
        )
        super().__init__(in_channels, 2 * width, body)
