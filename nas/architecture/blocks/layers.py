"""Small layers that several block families share."""

from __future__ import annotations

from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Conv2d:
    """3×3 convolution with bias that keeps height and width at any dilation."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """1×1 convolution with bias."""
    return nn.Conv2d(in_channels, out_channels, 1)


def separable3x3(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3×3 and pointwise 1×1, both with bias, nothing in between (Samadh & Al Khatib 2023; Asokan et al.)."""
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels)
    return nn.Sequential(depthwise, conv1x1(in_channels, out_channels))


def preactivated(convolution: nn.Module, channels: int) -> nn.Sequential:
    """Batch norm over ``channels``, ReLU, then the convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), convolution)


def projection(in_channels: int, out_channels: int) -> nn.Module:
    """The skip connection: identity where the channel counts are equal, else a 1×1 convolution."""
    return nn.Identity() if in_channels == out_channels else conv1x1(in_channels, out_channels)


class Residual(nn.Module):
    """``body(x) + project(x)``: the base class of the pre-activated blocks."""

    def __init__(self, in_channels: int, out_channels: int, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.project = projection(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → (N, out_channels, H, W)."""
        # The body starts with a batch norm, so its in-place ReLU never touches x itself.
        out: Tensor = self.body(x) + self.project(x)
        return out
