"""Stacked hourglass networks: builds the network of any :class:`~nas.architecture.spec.Architecture`.

Source: Newell, Yang & Deng, "Stacked Hourglass Networks for Human Pose Estimation" (ECCV 2016); ResConcat and
NarrowRes: Samadh & Al Khatib 2023 (arXiv 2302.04815); dense connections: Liu & Ding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.blocks import block_class, needs_resolution
from nas.architecture.blocks.layers import conv1x1
from nas.architecture.spec import Architecture, BlockChoice

STRIDE = 4
"""Input pixels per heatmap cell."""


class Output(NamedTuple):
    """The output of a network.

    Attributes:
        heatmaps: one (N, J, H/4, W/4) tensor per hourglass, of which the last is the prediction.
        necks: one (N, F, h, w) tensor per hourglass: the neck block's output, before NarrowRes.
    """

    heatmaps: tuple[Tensor, ...]
    necks: tuple[Tensor, ...]


def make_block(choice: BlockChoice, in_channels: int, width: int, resolution: tuple[int, int]) -> nn.Module:
    """Build a block for maps of a resolution (H, W).

    Raises:
        ValueError: the block cannot be built at this width.
    """
    options = dict(choice.options)
    if needs_resolution(choice.kind):
        return block_class(choice.kind)(in_channels, width, resolution=resolution, **options)
    return block_class(choice.kind)(in_channels, width, **options)


def check_input_size(architecture: Architecture, input_size: tuple[int, int]) -> None:
    """Check that maps of images of this (H, W) can be halved ``depth`` times.

    Raises:
        ValueError: they cannot.
    """
    step = STRIDE * 2**architecture.depth
    if any(side < step or side % step for side in input_size):
        raise ValueError(
            f"input size {input_size[0]}×{input_size[1]}: both sides must be multiples of {step} at depth "
            f"{architecture.depth}"
        )


class Hourglass(nn.Module):
    """One hourglass, F channels in and out at the same size: 3 blocks per level and one in the neck."""

    def __init__(self, architecture: Architecture, resolution: tuple[int, int]) -> None:
        super().__init__()
        *levels, neck = architecture.level_blocks()
        features, width = architecture.features, architecture.width
        height, columns = resolution
        self.skips, self.downs, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for choice in levels:
            self.skips.append(make_block(choice, features, width, (height, columns)))
            height, columns = height // 2, columns // 2
            self.downs.append(make_block(choice, features, width, (height, columns)))
            self.ups.append(make_block(choice, features, width, (height, columns)))
        self.neck = make_block(neck, features, width, (height, columns))

    def forward(self, x: Tensor, add_to_neck: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, F, H, W) → the same shape, and the neck block's output before ``add_to_neck`` is added to it."""
        skips = []
        for skip, down in zip(self.skips, self.downs, strict=True):
            skips.append(skip(x))
            x = down(F.max_pool2d(x, 2))
        neck = self.neck(x)
        x = neck if add_to_neck is None else neck + add_to_neck
        for up, skipped in zip(reversed(self.ups), reversed(skips), strict=True):
            x = skipped + F.interpolate(up(x), scale_factor=2.0, mode="nearest")
        return x, neck


class Head(nn.Module):
    """The head of an hourglass: a block, 1×1 convolution, BN, ReLU → features; 1×1 convolution → heatmaps."""

    def __init__(self, architecture: Architecture, joints: int, resolution: tuple[int, int]) -> None:
        super().__init__()
        features = architecture.features
        self.block = make_block(architecture.trunk, features, architecture.width, resolution)
        self.features = nn.Sequential(conv1x1(features, features), nn.BatchNorm2d(features), nn.ReLU(inplace=True))
        self.heatmaps = conv1x1(features, joints)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F, H, W) → features (N, F, H, W) and heatmaps (N, J, H, W)."""
        y = self.features(self.block(x))
        return y, self.heatmaps(y)


class Junction(nn.Module):
    """Combines an hourglass's input, features and heatmaps into the input of the next one."""

    def __init__(self, features: int, joints: int, combine: nn.Module | None) -> None:
        super().__init__()
        self.from_features = conv1x1(features, features)
        self.from_heatmaps = conv1x1(joints, features)
        self.combine = combine

    def forward(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """Input x and features y (N, F, H, W), heatmaps s (N, J, H, W) → (N, F, H, W)."""
        if self.combine is None:
            out: Tensor = x + self.from_features(y) + self.from_heatmaps(s)
        else:
            out = self.combine(torch.cat([x + self.from_heatmaps(s), self.from_features(y)], dim=1))
        return out


class HourglassNetwork(nn.Module):
    """A stacked hourglass network for one architecture, number of joints and input size."""

    def __init__(self, architecture: Architecture, joints: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        check_input_size(architecture, input_size)
        height, width = input_size
        self.architecture, self.joints, self.input_size = architecture, joints, input_size
        a, features = architecture, architecture.features
        half, quarter = (height // 2, width // 2), (height // 4, width // 4)
        kernel = 7 if a.stem_kernel == "7x7" else 3
        first, second, third, _ = a.trunk_shapes()
        self.stem = nn.Sequential(
            nn.Conv2d(3, a.stem, kernel, stride=2, padding=kernel // 2),
            nn.BatchNorm2d(a.stem),
            nn.ReLU(inplace=True),
            make_block(a.trunk, *first, half),
            nn.MaxPool2d(2),
            make_block(a.trunk, *second, quarter),
            make_block(a.trunk, *third, quarter),
        )
        self.hourglasses = nn.ModuleList(Hourglass(a, quarter) for _ in range(a.stacks))
        self.heads = nn.ModuleList(Head(a, joints, quarter) for _ in range(a.stacks))
        # All ResConcat junctions share one convolution, as in the released weights of Samadh & Al Khatib (2023).
        fuse = conv1x1(2 * features, features) if a.junction == "resconcat" else None
        self.junctions = nn.ModuleList(Junction(features, joints, fuse) for _ in range(a.stacks - 1))
        self.reach = (a.reach or a.stacks) if a.junction == "dense" else 1
        self.dense = nn.ModuleList(
            conv1x1(seen * features, features) for seen in (min(self.reach, i) for i in range(1, a.stacks)) if seen > 1
        )

    def forward(self, images: Tensor) -> Output:
        """Normalized images (N, 3, H, W) → heatmaps and necks of every hourglass."""
        x = self.stem(images)
        heatmaps, necks, outputs = [], [], []
        narrow = None
        dense = iter(self.dense)
        for i, (hourglass, head) in enumerate(zip(self.hourglasses, self.heads, strict=True)):
            out, neck = hourglass(x, narrow)
            y, s = head(out)
            heatmaps.append(s)
            necks.append(neck)
            if self.architecture.narrow_res:
                narrow = neck
            if i < len(self.junctions):
                x = self.junctions[i](x, y, s)
                outputs.append(x)
                seen = outputs[-self.reach :]
                if len(seen) > 1:
                    x = next(dense)(torch.cat(seen, dim=1))
        return Output(tuple(heatmaps), tuple(necks))


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of accelerators, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        yield


def build_network(
    architecture: Architecture, joints: int, input_size: tuple[int, int], seed: int | None = None
) -> HourglassNetwork:
    """Build the network of an architecture, on the CPU, in float32, with PyTorch's default initialization.

    Args:
        architecture: of the network.
        joints: J, the number of heatmaps.
        input_size: (H, W) of the images; multiples of 4·2^depth.
        seed: of the initial weights; the global generator is not changed. None to use the global generator.

    Raises:
        ValueError: the input size does not fit the depth, or a block cannot be built at these widths.
    """
    with _seeded(seed):
        return HourglassNetwork(architecture, joints, input_size)
