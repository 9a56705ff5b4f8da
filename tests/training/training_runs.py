"""People rendered in memory, a small network, a short schedule, and a comparison of weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture
from nas.data.packed.format import MARGIN
from nas.data.packed.reader import PackedPeople
from nas.data.skeletons import MPII
from nas.data.synthetic.render import render_person
from nas.data.synthetic.scene import SceneConfig
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

SHORT = ScheduleConfig(3 * 4 * 8, epochs=3, batch=8, loss="cross_entropy", sigma=0.8, ema=0.5)
BOX = 64
TINY = Architecture(stem=4, width=8, stacks=2, depth=1, narrow_res=True)
LOSSES = Losses((0.5, 1.0), 0.7, 2.0)


def render_people(first: int, count: int) -> PackedPeople:
    """People ``first`` and the following, in mild poses."""
    scene = SceneConfig(clutter=0.1, occluders=0, others=0, pose=0.5, light=0.2)
    rendered = [render_person(0, first + i, BOX, MARGIN, scene) for i in range(count)]
    labelled = np.stack([person.labelled for person in rendered])
    joints = np.where(labelled[..., None], np.stack([person.joints for person in rendered]), 0)
    return PackedPeople(
        skeleton=MPII,
        box=BOX,
        crops=torch.from_numpy(np.stack([person.crop for person in rendered])).permute(0, 3, 1, 2),
        joints=torch.from_numpy(joints).float(),
        labelled=torch.from_numpy(labelled),
        head_size=torch.tensor([person.head_size for person in rendered], dtype=torch.float32),
        to_original=torch.eye(2, 3).repeat(count, 1, 1),
        images=tuple(f"{first + i}" for i in range(count)),
        checksum="rendered for a test",
    )


def build(architecture: Architecture, size: int = 32) -> HourglassNetwork:
    return build_network(architecture, 16, (size, size), seed=0)


def same_weights(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x.double(), y.double(), rtol=tolerance, atol=tolerance) for x, y in pairs)
