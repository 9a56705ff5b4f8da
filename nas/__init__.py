"""Neural architecture search over stacked hourglass networks for human pose."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from nas.architecture.hourglass import HourglassNetwork

__version__ = "0.7.0"


def load(checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu") -> HourglassNetwork:
    """A trained network, ready to predict: ``network = nas.load("runs/quickstart/full/trial-48/checkpoint.pt")``.

    In goes a float32 (N, 3, H, W) tensor on its device, (H, W) being ``network.input_size``: RGB pictures of one person
    each, upright and centred, whose values 0 to 255 became ``(value - 127.5) / 64``. Out comes ``heatmaps``, a tuple of
    (N, J, H/4, W/4) maps, one for each hourglass, of which the last is the answer, and ``necks``, the features within.
    The position of joint j is the peak of map j: the centre of cell (row, column) is at x = 4 · (column + 0.5),
    y = 4 · (row + 0.5) in the picture. Networks trained with ``loss = "cross_entropy"`` give logits: the softmax over a
    map's cells makes it a probability. ``nas.inference.predictor.Predictor`` does all of it on pictures of any size.

    Args:
        checkpoint: a ``checkpoint.pt`` that nas.retrain wrote.
        device: where to put it, "cpu", "cuda" or any other of torch's.

    Returns:
        A torch module in evaluation mode, with the averaged weights.

    Raises:
        nas.errors.UserError: the file is missing, damaged, or no checkpoint of this version.
    """
    from pathlib import Path

    from nas.training.checkpoint import load_network

    return load_network(Path(checkpoint), device)[0]
