"""Distillation: a small network learns from a large one's heatmaps as well as from the labels.

After Zhang et al. 2019, "Fast Human Pose Estimation", section 3.2, where both losses weigh the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.training.losses import HeatmapLoss, as_maps


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network whose maps are part of another one's targets.

    Attributes:
        network: in evaluation mode, on the device.
        id: changes with its weights.
        trust: how much its maps weigh, from 0 to 1; the labels weigh the rest.
    """

    network: nn.Module
    id: str
    trust: float = 0.5

    @torch.no_grad()
    def taught(self, images: Tensor, target: Tensor, kind: HeatmapLoss) -> Tensor:
        """Targets that give the weighted mean of both losses: for either kind they enter it linearly.

        Args:
            images: (N, 3, H, W).
            target: (N, J, h, w) Gaussians of height 1.
            kind: of the loss, both networks'.
        """
        maps = as_maps(self.network(images).heatmaps[-1], kind)
        if kind == "cross_entropy":
            target = target / target.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
        return torch.lerp(target, maps, self.trust)
