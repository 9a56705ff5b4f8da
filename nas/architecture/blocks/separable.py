"""Bottlenecks whose convolutions are depthwise separable (Samadh & Al Khatib 2023; Asokan et al.)."""

from __future__ import annotations

from torch import nn

from nas.architecture.blocks.layers import Residual, conv1x1, preactivated, separable3x3
from nas.architecture.blocks.registry import register_block


@register_block("separable")
class Separable(Residual):
    """The bottleneck with all three convolutions separable 3×3; ``dilation`` is that of the middle one."""

    def __init__(self, in_channels: int, width: int, *, dilation: int = 1) -> None:
        body = nn.Sequential(
            preactivated(separable3x3(in_channels, width), in_channels),
            preactivated(separable3x3(width, width, dilation), width),
            preactivated(separable3x3(width, 2 * width), width),
        )
        super().__init__(in_channels, 2 * width, body)


@register_block("separable_3x3")
class SeparableMiddle(Residual):
    """The bottleneck with only its 3×3 separable."""

    def __init__(self, in_channels: int, width: int, *, dilation: int = 1) -> None:
        body = nn.Sequential(
            preactivated(conv1x1(in_channels, width), in_channels),
            preactivated(separable3x3(width, width, dilation), width),
            preactivated(conv1x1(width, 2 * width), width),
        )
        super().__init__(in_channels, 2 * width, body)
