"""Whether a network can be trained on one image at a time: batch norm needs two values per channel."""

from __future__ import annotations

import torch

from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture


def trains_on_single_images(architecture: Architecture, joints: int, input_size: tuple[int, int]) -> bool:
    """Whether every batch norm of a network sees more than one value per channel of a single image.

    It does not where the deepest maps have one cell. Nothing is computed: the network is run on the meta device.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            network = build_network(architecture, joints, input_size).train()
            network(torch.zeros(1, 3, *input_size))
    except ValueError as error:
        return "more than 1 value per channel" not in str(error)
    except (RuntimeError, NotImplementedError):
        return True  # a block of the user's own that needs values; training it tells
    return True
