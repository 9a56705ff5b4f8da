"""Held-out people as a trained network sees them: labels above predictions, and heatmaps."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.augmentation import as_images, centred_maps, cut_batch, to_input
from nas.data.media_io import Image
from nas.data.packed.reader import PackedPeople
from nas.data.skeletons import Skeleton
from nas.data.visualization.drawing import FAINT, INK, PAPER, SUBPIXEL_BITS, draw_person, to_opencv, write_text

_TILE, _HEATMAP_TILE = 128, 96  # pixels a side
_GAP, _LINE_HEIGHT = 4, 20
_COLUMNS = 8  # of heatmaps


def prediction_grid(
    people: PackedPeople, chosen: Sequence[int], predicted: Tensor, missed: Tensor, labels: Sequence[str]
) -> Image:
    """Draw some people side by side: labelled joints above, predicted ones below, white lines from misses to labels.

    Args:
        people: N of them, on any device.
        chosen: indices of the K people to draw.
        predicted: (N, J, 2) in original pixels.
        missed: bool (N, J): labelled joints that were not found.
        labels: a text above each of the K, in ASCII.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    device = people.crops.device
    indices = torch.tensor(list(chosen), device=device)
    to_crop = centred_maps(people, len(indices), people.box)
    batch = cut_batch(people, indices, people.box, to_crop)
    predictions = to_input(people, indices, predicted[indices].to(device), to_crop).cpu().numpy()
    truths, labelled = batch.joints.cpu().numpy(), batch.labelled.cpu().numpy()
    missed_joints = missed.cpu().numpy()[list(chosen)]
    step = _TILE + _GAP
    page = np.full((_LINE_HEIGHT + 2 * step, _GAP + len(indices) * step, 3), PAPER, np.uint8)
    for column, image in enumerate(as_images(batch.images).numpy()):
        left = _GAP + column * step
        truth, prediction = truths[column], predictions[column]
        is_finite = np.isfinite(prediction).all(axis=1)
        above = draw_person(image, truth, labelled[column], people.skeleton, _TILE)
        below = draw_person(image, prediction, is_finite, people.skeleton, _TILE)
        scale = _TILE / people.box
        _draw_errors(below, prediction * scale, truth * scale, missed_joints[column] & is_finite)
        write_text(page, labels[column], (left, 14), INK, 0.4)
        for row, tile in enumerate((above, below)):
            top = _LINE_HEIGHT + row * step
            page[top : top + _TILE, left : left + _TILE] = tile
    return page


def _draw_errors(
    image: Image, predictions: NDArray[np.float32], truths: NDArray[np.float32], which: NDArray[np.bool_]
) -> None:
    """Draw a line from prediction to truth for some joints."""
    starts, ends = to_opencv(predictions), to_opencv(truths)
    for joint in np.flatnonzero(which):
        cv2.line(image, starts[joint], ends[joint], (255, 255, 255), 1, cv2.LINE_AA, SUBPIXEL_BITS)


def heatmap_sheet(image: Image, maps: NDArray[np.float32], skeleton: Skeleton) -> Image:
    """Draw a network's heatmaps over its input image, one tile per joint, each scaled to its own maximum.

    Args:
        image: uint8 (S, S, 3) RGB.
        maps: (J, h, w); negative values count as 0.
        skeleton: names the joints.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    interpolation = cv2.INTER_CUBIC if len(image) < _HEATMAP_TILE else cv2.INTER_AREA
    grey = cv2.cvtColor(
        cv2.resize(image, (_HEATMAP_TILE, _HEATMAP_TILE), interpolation=interpolation), cv2.COLOR_RGB2GRAY
    )
    background = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.float32) * 0.6
    across = min(_COLUMNS, len(maps))
    step, row_height = _HEATMAP_TILE + _GAP, _HEATMAP_TILE + _LINE_HEIGHT
    page = np.full((-(-len(maps) // across) * row_height + _GAP, _GAP + across * step, 3), PAPER, np.uint8)
    for joint, (name, raw) in enumerate(zip(skeleton.joints, maps, strict=True)):
        row, column = divmod(joint, across)
        heat = np.clip(np.nan_to_num(raw), 0, None)
        heat = heat / max(float(heat.max()), 1e-9)
        heat = cv2.resize(heat, (_HEATMAP_TILE, _HEATMAP_TILE), interpolation=cv2.INTER_LINEAR)
        levels = np.round(255 * heat).clip(0, 255).astype(np.uint8)
        colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
        opacity = np.sqrt(heat)[:, :, None]  # so that low values remain visible
        tile = np.clip(background * (1 - opacity) + colours * opacity, 0, 255).astype(np.uint8)
        top, left = _GAP + row * row_height, _GAP + column * step
        page[top : top + _HEATMAP_TILE, left : left + _HEATMAP_TILE] = tile
        write_text(page, name, (left + 1, top + _HEATMAP_TILE + 13), FAINT, 0.36)
    return page
