"""Held-out people as a trained network sees them: truth and prediction, one above the other, and heatmaps."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.augmentation import as_images, centred, cut, to_input
from nas.data.packed.reader import PackedPeople
from nas.data.skeletons import Skeleton
from nas.data.visualization.contact_sheet import FAINT, INK, PAPER, Picture, draw_person, write

_TILE, _HEAT = 128, 96  # pixels a side
_GAP, _LINE = 4, 20
_ACROSS = 8  # heatmaps in a row


def prediction_grid(
    people: PackedPeople, chosen: Sequence[int], predicted: Tensor, missed: Tensor, labels: Sequence[str]
) -> Picture:
    """Some people side by side, labelled joints above, predicted ones below, white lines from the missed to the truth.

    Args:
        people: N of them, on any device.
        chosen: which ones, K of them.
        predicted: (N, J, 2) in original pixels.
        missed: bool (N, J): labelled joints that count as not found.
        labels: a text above each of the K, in ASCII.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    device = people.crops.device
    indices = torch.tensor(list(chosen), device=device)
    to_crop = centred(people, len(indices), people.box)
    batch = cut(people, indices, people.box, to_crop)
    guesses = to_input(people, indices, predicted[indices].to(device), to_crop).cpu().numpy()
    truths, labelled = batch.joints.cpu().numpy(), batch.labelled.cpu().numpy()
    wrong = missed.cpu().numpy()[list(chosen)]
    step = _TILE + _GAP
    page = np.full((_LINE + 2 * step, _GAP + len(indices) * step, 3), PAPER, np.uint8)
    for place, picture in enumerate(as_images(batch.images).numpy()):
        left = _GAP + place * step
        truth, known, guess = truths[place], labelled[place], guesses[place]
        there = np.isfinite(guess).all(axis=1)
        answer = draw_person(picture, guess, there, people.skeleton, _TILE)
        _connect(answer, guess * _TILE / people.box, truth * _TILE / people.box, wrong[place] & there)
        write(page, labels[place], (left, 14), INK, 0.4)
        for row, tile in enumerate((draw_person(picture, truth, known, people.skeleton, _TILE), answer)):
            top = _LINE + row * step
            page[top : top + _TILE, left : left + _TILE] = tile
    return page


def _connect(
    picture: Picture, guesses: NDArray[np.float32], truths: NDArray[np.float32], which: NDArray[np.bool_]
) -> None:
    sixteenths = [np.clip(np.round((at - 0.5) * 16), -(2**20), 2**20) for at in (guesses, truths)]
    for joint in np.flatnonzero(which):
        a, b = (at[joint].astype(int) for at in sixteenths)
        cv2.line(picture, a, b, (255, 255, 255), 1, cv2.LINE_AA, 4)


def heatmap_sheet(picture: Picture, maps: NDArray[np.float32], skeleton: Skeleton) -> Picture:
    """A network's heatmaps over the picture that it was shown, each scaled to its own maximum, a tile for each joint.

    Args:
        picture: uint8 (S, S, 3) RGB.
        maps: (J, h, w), at least 0 where they matter.
        skeleton: names the joints.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    smooth = cv2.INTER_CUBIC if len(picture) < _HEAT else cv2.INTER_AREA
    grey = cv2.cvtColor(cv2.resize(picture, (_HEAT, _HEAT), interpolation=smooth), cv2.COLOR_RGB2GRAY)
    ground = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.float32) * 0.6
    across = min(_ACROSS, len(maps))
    step, line = _HEAT + _GAP, _HEAT + _LINE
    page = np.full((-(-len(maps) // across) * line + _GAP, _GAP + across * step, 3), PAPER, np.uint8)
    for joint, (name, raw) in enumerate(zip(skeleton.joints, maps, strict=True)):
        row, column = divmod(joint, across)
        heat = np.clip(np.nan_to_num(raw), 0, None)
        heat = cv2.resize(heat / max(float(heat.max()), 1e-9), (_HEAT, _HEAT), interpolation=cv2.INTER_LINEAR)
        levels = np.round(255 * heat).clip(0, 255).astype(np.uint8)
        colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
        share = np.sqrt(heat)[:, :, None]  # what is faint still shows
        tile = np.clip(ground * (1 - share) + colours * share, 0, 255).astype(np.uint8)
        top, left = _GAP + row * line, _GAP + column * step
        page[top : top + _HEAT, left : left + _HEAT] = tile
        write(page, name, (left + 1, top + _HEAT + 13), FAINT, 0.36)
    return page
