"""Neural architecture search over stacked hourglass networks for human pose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas import interrupts

if TYPE_CHECKING:
    import torch

    from nas.architecture.hourglass import HourglassNetwork

__version__ = "0.8.0"

if interrupts.is_command():
    interrupts.end_at_once_while_starting()


def load(
    checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu", *, allow_code: Sequence[str] = ()
) -> HourglassNetwork:
    """Load a trained network: ``network = nas.load("runs/quickstart/full/trial-48/checkpoint.pt")``.

    Its input is a float32 (N, 3, H, W) tensor on its device, with (H, W) = ``network.input_size``: RGB images of one
    person each, upright and centred, with values from 0 to 255 normalized as ``(value - 127.5) / 64``. Its output has
    ``heatmaps``, a tuple of (N, J, H/4, W/4) tensors, one per hourglass, of which the last is the prediction, and
    ``necks``, the features inside. The position of joint j is the peak of map j: the centre of cell (row, column) is at
    x = 4 · (column + 0.5), y = 4 · (row + 0.5) in the image. Networks trained with ``loss = "cross_entropy"`` return
    logits; the softmax over the cells of a map gives probabilities. ``nas.inference.predictor.Predictor`` does all of
    this for images of any size.

    Args:
        checkpoint: a ``checkpoint.pt`` written by nas.retrain.
        device: of the network, "cpu", "cuda" or any other PyTorch device.
        allow_code: blocks outside this package, named ``module:Class``, whose modules may be imported, which runs their
            code. Consent holds for the rest of the process. A checkpoint with other such blocks is refused.

    Returns:
        A module in evaluation mode, with the averaged weights.

    Raises:
        nas.errors.UserError: the file is missing, damaged, not a checkpoint of this version, or needs code that
            ``allow_code`` does not name.
        ValueError: a name in ``allow_code`` is not of the form ``module:Class``.
    """
    from pathlib import Path

    from nas import consent
    from nas.training.checkpoint import load_network

    consent.allow_code(allow_code)

    return load_network(Path(checkpoint), device)[0]
