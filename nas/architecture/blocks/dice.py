"""The DiCE bottleneck (Samadh & Al Khatib 2023; DiCE unit: Mehta et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.blocks.layers import Residual, conv1x1, preactivated
from nas.architecture.blocks.registry import register_block


class DiceUnit(nn.Module):
    """Dimension-wise convolution and fusion.

    The height- and width-wise convolutions have a channel for each row or column of a map, so that the weights belong
    to one resolution. Maps of another size are resized to it along that side for that convolution, and its output back.

    Depth-, height- and width-wise 3×3 (no bias); concatenated 3C, BN, PReLU; shuffled by 3; grouped 1×1 (3C → C), BN,
    PReLU; times a sigmoid gate from global pooling (C → C/4 → C); a 3×3 depthwise projection, BN, PReLU.
    """

    def __init__(self, channels: int, resolution: tuple[int, int]) -> None:
        super().__init__()
        height, width = resolution

        def depthwise(count: int) -> nn.Conv2d:
            return nn.Conv2d(count, count, 3, padding=1, groups=count, bias=False)

        self.over_depth, self.over_height, self.over_width = depthwise(channels), depthwise(height), depthwise(width)
        self.mix = nn.Sequential(nn.BatchNorm2d(3 * channels), nn.PReLU(3 * channels), nn.ChannelShuffle(3))
        self.fuse = nn.Sequential(
            nn.Conv2d(3 * channels, channels, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
        )
        squeezed = max(1, channels // 4)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(depthwise(channels), nn.BatchNorm2d(channels), nn.PReLU(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        height, width = x.shape[2:]
        by_height = _resized(x, self.over_height.in_channels, width)
        by_height = _resized(self.over_height(by_height.transpose(1, 2)).transpose(1, 2), height, width)
        by_width = _resized(x, height, self.over_width.in_channels)
        by_width = _resized(self.over_width(by_width.transpose(1, 3)).transpose(1, 3), height, width)
        mixed = self.mix(torch.cat([self.over_depth(x), by_height, by_width], dim=1))
        fused = self.fuse(mixed)
        out: Tensor = self.spatial(fused * self.gate(fused.mean(dim=(2, 3), keepdim=True)))
        return out


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


@register_block("dice")
class Dice(Residual):
    """The bottleneck with a DiCE unit instead of its 3×3."""

    def __init__(self, in_channels: int, width: int, *, resolution: tuple[int, int]) -> None:
        body = nn.Sequential(
            preactivated(conv1x1(in_channels, width), in_channels),
            preactivated(DiceUnit(width, resolution), width),
            preactivated(conv1x1(width, 2 * width), width),
        )
        super().__init__(in_channels, 2 * width, body)
