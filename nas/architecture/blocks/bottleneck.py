"""The residual bottleneck (Newell et al. 2016), and its variant without skip connection (Asokan et al.)."""

from __future__ import annotations

from torch import Tensor, nn

from nas.architecture.blocks.layers import Residual, conv1x1, conv3x3, preactivated
from nas.architecture.blocks.registry import register_block


def _body(in_channels: int, width: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        preactivated(conv1x1(in_channels, width), in_channels),
        preactivated(conv3x3(width, width, dilation), width),
        preactivated(conv1x1(width, 2 * width), width),
    )


@register_block("bottleneck")
class Bottleneck(Residual):
    """Pre-activated 1×1 (in → w), 3×3 (w → w), 1×1 (w → 2w), plus the input. Asokan et al. dilate the 3×3."""

    def __init__(self, in_channels: int, width: int, *, dilation: int = 1) -> None:
        super().__init__(in_channels, 2 * width, _body(in_channels, width, dilation))


@register_block("no_skip")
class NoSkip(nn.Module):
    """The bottleneck without its skip connection and without its projection (Asokan et al.)."""

    def __init__(self, in_channels: int, width: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.body = _body(in_channels, width, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, 2·width, H, W)."""
        out: Tensor = self.body(x)
        return out
