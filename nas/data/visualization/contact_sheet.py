"""A contact sheet of packed people: joints and limbs drawn on the crops, as stored and as augmented for training."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from nas.data.augmentation import (
    Augmentation,
    Batch,
    as_images,
    centred_maps,
    cut_batch,
    fit_to_input,
    jitter_colours,
    random_maps,
)
from nas.data.media_io import Image
from nas.data.packed.reader import PackedPeople
from nas.data.skeletons import Skeleton
from nas.data.visualization.drawing import (
    FAINT,
    INK,
    LEFT,
    MIDDLE,
    PAPER,
    RIGHT,
    draw_person,
    shorten_text,
    write_text,
)

_TILE = 176  # pixels a side
_GAP, _LABEL_HEIGHT, _HEADER_HEIGHT = 4, 20, 74
_COLUMNS = ("as packed", "augmented", "augmented", "mirrored")
_TEXT_SCALE, _TITLE_SCALE, _COLUMN_SCALE = 0.42, 0.5, 0.36


def contact_sheet(
    people: PackedPeople, labels: Sequence[str], title: str, seed: int, augmentation: Augmentation | None = None
) -> Image:
    """Draw every person beside augmented copies, made by the functions that cut training batches.

    Args:
        people: N of them, on the CPU.
        labels: a line of text above each person.
        title: a line of text above all.
        seed: of the augmentation.
        augmentation: its strength; None: the default. The last copy of everybody is always mirrored.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    augmentation = augmentation or Augmentation()
    size = min(people.box, _TILE)
    people = fit_to_input(people, size)
    everybody = torch.arange(len(people))
    generator = torch.Generator().manual_seed(seed)
    never = Augmentation(augmentation.rotate, augmentation.scale, augmentation.shift, 0, augmentation.colour)
    always = Augmentation(augmentation.rotate, augmentation.scale, augmentation.shift, 1, augmentation.colour)
    columns = [_tiles(cut_batch(people, everybody, size, centred_maps(people, len(people), size)), people.skeleton)]
    for changes in (never, never, always):
        maps, mirrored = random_maps(people, len(people), size, changes, generator)
        batch = cut_batch(people, everybody, size, maps, mirrored)
        images = jitter_colours(batch.images, changes.colour, generator)
        columns.append(_tiles(Batch(images, batch.joints, batch.labelled, maps), people.skeleton))
    strips = [_strip(label, tiles) for label, tiles in zip(labels, zip(*columns, strict=True), strict=True)]
    return _page(strips, title)


def _tiles(batch: Batch, skeleton: Skeleton) -> list[Image]:
    return [
        draw_person(image, joints, labelled, skeleton, _TILE)
        for image, joints, labelled in zip(
            as_images(batch.images).numpy(), batch.joints.numpy(), batch.labelled.numpy(), strict=True
        )
    ]


def _strip(label: str, tiles: Sequence[Image]) -> Image:
    """One person's tiles side by side, under the label."""
    width = len(tiles) * _TILE + (len(tiles) - 1) * 2
    strip = np.full((_LABEL_HEIGHT + _TILE, width, 3), PAPER, np.uint8)
    for number, tile in enumerate(tiles):
        left = number * (_TILE + 2)
        strip[_LABEL_HEIGHT:, left : left + _TILE] = tile
    write_text(strip, shorten_text(label, width, _TEXT_SCALE), (1, 14), INK, _TEXT_SCALE)
    return strip


def _page(strips: Sequence[Image], title: str) -> Image:
    """All strips in one to three columns, under the title and a legend."""
    across = min(len(strips), 3 if len(strips) > 8 else 2 if len(strips) > 3 else 1)
    down = -(-len(strips) // across)
    height, width = strips[0].shape[:2]
    page_width = across * width + (across + 1) * 4 * _GAP
    page = np.full((_HEADER_HEIGHT + down * (height + 2 * _GAP) + _GAP, page_width, 3), PAPER, np.uint8)
    left = 4 * _GAP
    write_text(page, shorten_text(title, page_width - 2 * left, _TITLE_SCALE), (left, 20), INK, _TITLE_SCALE)
    for colour, name in ((RIGHT, "person's right"), (LEFT, "person's left"), (MIDDLE, "neither")):
        cv2.circle(page, (left + 5, 38), 5, colour, -1, cv2.LINE_AA)
        left += 16 + write_text(page, name, (left + 14, 42), INK, _TEXT_SCALE) + 18
    for column in range(across):
        for number, name in enumerate(_COLUMNS):
            x = 4 * _GAP + column * (width + 4 * _GAP) + number * (_TILE + 2)
            write_text(page, name, (x + 1, _HEADER_HEIGHT - 2), FAINT, _COLUMN_SCALE)
    for number, strip in enumerate(strips):
        row, column = divmod(number, across)
        top, x = _HEADER_HEIGHT + row * (height + 2 * _GAP) + _GAP, 4 * _GAP + column * (width + 4 * _GAP)
        page[top : top + height, x : x + width] = strip
    return page
