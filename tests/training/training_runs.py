"""A short schedule and what tests of training compare."""

from __future__ import annotations

import torch
from torch import nn

from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

SHORT = ScheduleConfig(3 * 4 * 8, epochs=3, batch=8, loss="cross_entropy", sigma=0.8, ema=0.5)
LOSSES = Losses((0.5, 1.0), 0.7, 2.0)


def build(architecture: Architecture, size: int = 32) -> HourglassNetwork:
    return build_network(architecture, 16, (size, size), seed=0)


def same_weights(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x.double(), y.double(), rtol=tolerance, atol=tolerance) for x, y in pairs)
