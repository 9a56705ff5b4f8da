"""The ghost bottleneck (Samadh & Al Khatib 2023; ghost module: Han et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.architecture.blocks.layers import Residual, conv1x1, preactivated
from nas.architecture.blocks.registry import register_block


class GhostModule(nn.Module):
    """Half of the maps by a 1×1 convolution, the other half by a cheap 3×3 depthwise convolution of the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.primary = nn.Sequential(nn.Conv2d(width, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True))
        self.cheap = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) → (N, width, H, W)."""
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)


@register_block("ghost")
class Ghost(Residual):
    """The bottleneck with a ghost module instead of its 3×3, without BN and ReLU before it. The width must be even."""

    def __init__(self, in_channels: int, width: int) -> None:
        if width % 2:
            raise ValueError(f"ghost: width {width} is odd; the ghost module halves it")
        body = nn.Sequential(
            preactivated(conv1x1(in_channels, width), in_channels),
            GhostModule(width),
            preactivated(conv1x1(width, 2 * width), width),
        )
        super().__init__(in_channels, 2 * width, body)
