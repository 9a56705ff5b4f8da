"""The ShuffleNet unit (Samadh & Al Khatib 2023; Zhang et al. 2018, figure 2b)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from nas.architecture.blocks.layers import projection
from nas.architecture.blocks.registry import Option, register_block


@register_block("shuffle")
class Shuffle(nn.Module):
    """Grouped 1×1, BN, ReLU; channel shuffle; depthwise 3×3, BN; grouped 1×1, BN; add; ReLU.

    The widths and groups of Samadh & Al Khatib (2023) are not known: here the inner width is the block's ``width``, and
    ``groups`` is reduced to the greatest divisor of it and all channel counts.
    """

    def __init__(self, in_channels: int, width: int, *, groups: int = 4) -> None:
        super().__init__()
        groups = math.gcd(groups, in_channels, width)
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, groups=groups), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.shuffle = nn.ChannelShuffle(groups)
        self.depthwise = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width))
        self.expand = nn.Sequential(nn.Conv2d(width, 2 * width, 1, groups=groups), nn.BatchNorm2d(2 * width))
        self.project = projection(in_channels, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, 2·width, H, W)."""
        out: Tensor = self.expand(self.depthwise(self.shuffle(self.reduce(x))))
        out = (out + self.project(x)).relu_()
        return out

    @staticmethod
    def simplest(options: Mapping[str, Option], shapes: Sequence[tuple[int, int]]) -> tuple[str, Mapping[str, Option]]:
        """The smallest ``groups`` that builds the same block at all shapes."""
        groups = options["groups"]
        assert isinstance(groups, int)
        return "shuffle", {"groups": math.lcm(*(math.gcd(groups, *shape) for shape in shapes))}
