"""The multi-dilated block (Samadh & Al Khatib 2023): parallel separable convolutions at several dilation rates."""

from __future__ import annotations

from torch import Tensor, nn

from nas.architecture.blocks.layers import conv1x1, projection, separable3x3
from nas.architecture.blocks.registry import register_block


@register_block("multidilated")
class MultiDilated(nn.Module):
    """1×1 (in → w), BN, ReLU; a separable 3×3 per rate, each BN, ReLU; their sum; 1×1 (w → 2w), BN; add; ReLU."""

    def __init__(self, in_channels: int, width: int, *, rates: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__()
        self.reduce = nn.Sequential(conv1x1(in_channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList(
            nn.Sequential(separable3x3(width, width, rate), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            for rate in rates
        )
        self.expand = nn.Sequential(conv1x1(width, 2 * width), nn.BatchNorm2d(2 * width))
        self.project = projection(in_channels, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, 2·width, H, W)."""
        reduced = self.reduce(x)
        first, *others = self.branches
        total = first(reduced)
        for branch in others:
            total = total + branch(reduced)
        out: Tensor = (self.expand(total) + self.project(x)).relu_()
        return out
