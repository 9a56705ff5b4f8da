"""A contact sheet of packed people: joints and limbs drawn, as stored and as training sees them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from nas.data.augmentation import (
    Augmentation,
    Batch,
    as_images,
    augmented,
    centred,
    cut,
    fit_to_input,
    recolour,
)
from nas.data.packed.reader import PackedPeople
from nas.data.skeletons import Skeleton

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

RIGHT: Colour = (255, 140, 0)
LEFT: Colour = (40, 170, 255)
MIDDLE: Colour = (235, 235, 90)
"""RGB of the person's right and left side, and of joints that have no side."""

INK, FAINT, PAPER = (240, 240, 240), (150, 150, 150), (24, 24, 24)
"""RGB of text, of lesser text, and of what they stand on."""

_TILE = 176  # pixels a side
_GAP, _LABEL, _HEAD = 4, 20, 74
_COLUMNS = ("as packed", "augmented", "augmented", "mirrored")


def contact_sheet(
    people: PackedPeople, labels: Sequence[str], title: str, seed: int, augmentation: Augmentation | None = None
) -> Picture:
    """Draw every person beside augmented copies, made by the very functions that cut training batches.

    Args:
        people: N of them, on the CPU.
        labels: a line above each person.
        title: a line above all.
        seed: of the augmentation.
        augmentation: how much it changes; the default by default. The last copy of everybody is mirrored for certain.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    augmentation = augmentation or Augmentation()
    size = min(people.box, _TILE)
    people = fit_to_input(people, size)
    everybody = torch.arange(len(people))
    generator = torch.Generator().manual_seed(seed)
    never = Augmentation(augmentation.rotate, augmentation.scale, augmentation.shift, 0, augmentation.colour)
    mirror = Augmentation(augmentation.rotate, augmentation.scale, augmentation.shift, 1, augmentation.colour)
    columns = [_tiles(cut(people, everybody, size, centred(people, len(people), size)), people.skeleton)]
    for changes in (never, never, mirror):
        maps, mirrored = augmented(people, len(people), size, changes, generator)
        batch = cut(people, everybody, size, maps, mirrored)
        images = recolour(batch.images, changes.colour, generator)
        columns.append(_tiles(Batch(images, batch.joints, batch.labelled, maps), people.skeleton))
    strips = [_strip(label, tiles) for label, tiles in zip(labels, zip(*columns, strict=True), strict=True)]
    return _page(strips, title)


def _tiles(batch: Batch, skeleton: Skeleton) -> list[Picture]:
    return [
        draw_person(image, joints, labelled, skeleton, _TILE)
        for image, joints, labelled in zip(
            as_images(batch.images).numpy(), batch.joints.numpy(), batch.labelled.numpy(), strict=True
        )
    ]


def draw_person(
    picture: Picture, joints: NDArray[np.float32], labelled: NDArray[np.bool_], skeleton: Skeleton, size: int
) -> Picture:
    """A square picture, enlarged, with limbs and joints drawn in the colours of the person's sides.

    Args:
        picture: uint8 (S, S, 3) RGB.
        joints: (J, 2), its pixels.
        labelled: bool (J,); others are not drawn.
        skeleton: the joints.
        size: of the drawing, in pixels.

    Returns:
        uint8 (size, size, 3) RGB.
    """
    scale = size / len(picture)
    shown = cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    colours = side_colours(skeleton)
    # OpenCV counts from pixel centres, in sixteenths here; far positions would overflow its integers.
    places = np.clip(np.round((np.nan_to_num(joints) * scale - 0.5) * 16), -(2**20), 2**20).astype(int)
    drawn = [limb for limb in skeleton.limbs if labelled[limb[0]] and labelled[limb[1]]]
    for thickness, dark in ((4, True), (2, False)):
        for a, b in drawn:
            colour = colours[a] if colours[a] == colours[b] else MIDDLE
            if MIDDLE in (colours[a], colours[b]):  # hip to pelvis and the like belong to the side that they lead to
                colour = colours[a] if colours[b] == MIDDLE else colours[b]
            cv2.line(shown, places[a], places[b], (0, 0, 0) if dark else colour, thickness, cv2.LINE_AA, 4)
    for joint in np.flatnonzero(labelled):
        cv2.circle(shown, places[joint], 4 * 16, (0, 0, 0), -1, cv2.LINE_AA, 4)
        cv2.circle(shown, places[joint], 3 * 16, colours[joint], -1, cv2.LINE_AA, 4)
    return np.asarray(shown, np.uint8)


def side_colours(skeleton: Skeleton) -> list[Colour]:
    """Each joint's colour: by its name where that says left or right, else by its place in its flip pair."""
    colours = [MIDDLE] * len(skeleton.joints)
    for pair in skeleton.flip_pairs:
        first_is_left = "left" in skeleton.joints[pair[0]].lower() or "right" in skeleton.joints[pair[1]].lower()
        colours[pair[0]], colours[pair[1]] = (LEFT, RIGHT) if first_is_left else (RIGHT, LEFT)
    return colours


def _strip(label: str, tiles: Sequence[Picture]) -> Picture:
    width = len(tiles) * _TILE + (len(tiles) - 1) * 2
    strip = np.full((_LABEL + _TILE, width, 3), PAPER, np.uint8)
    for number, tile in enumerate(tiles):
        left = number * (_TILE + 2)
        strip[_LABEL:, left : left + _TILE] = tile
    write(strip, _shortened(label, width), (1, 14), INK, 0.42)
    return strip


def _page(strips: Sequence[Picture], title: str) -> Picture:
    across = min(len(strips), 3 if len(strips) > 8 else 2 if len(strips) > 3 else 1)
    down = -(-len(strips) // across)
    height, width = strips[0].shape[:2]
    page_width = across * width + (across + 1) * 4 * _GAP
    page = np.full((_HEAD + down * (height + 2 * _GAP) + _GAP, page_width, 3), PAPER, np.uint8)
    left = 4 * _GAP
    write(page, _shortened(title, page_width - 2 * left, 0.5), (left, 20), INK, 0.5)
    for colour, name in ((RIGHT, "person's right"), (LEFT, "person's left"), (MIDDLE, "neither")):
        cv2.circle(page, (left + 5, 38), 5, colour, -1, cv2.LINE_AA)
        left += 16 + write(page, name, (left + 14, 42), INK, 0.42) + 18
    for column in range(across):
        for number, name in enumerate(_COLUMNS):
            x = 4 * _GAP + column * (width + 4 * _GAP) + number * (_TILE + 2)
            write(page, name, (x + 1, _HEAD - 2), FAINT, 0.36)
    for number, strip in enumerate(strips):
        row, column = divmod(number, across)
        top, x = _HEAD + row * (height + 2 * _GAP) + _GAP, 4 * _GAP + column * (width + 4 * _GAP)
        page[top : top + height, x : x + width] = strip
    return page


def write(picture: Picture, text: str, at: tuple[int, int], colour: Colour, scale: float) -> int:
    """Write a line; returns its width. The font has ASCII alone."""
    text = text.encode("ascii", "replace").decode()
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0])


def _shortened(text: str, width: int, scale: float = 0.42) -> str:
    """A text with its middle left out, so that it is at most so many pixels wide."""
    kept = len(text)
    short = text
    while kept > 8 and cv2.getTextSize(short, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width:
        kept -= 1
        short = f"{text[: kept // 2]}...{text[-(kept - kept // 2) :]}"
    return short


def save_jpeg_or_png(picture: Picture, name: str, quality: int = 92) -> bytes:
    """The picture's file, by the name's ending: ``.jpg``, ``.jpeg`` (of that quality) or ``.png``."""
    ending = ".png" if name.lower().endswith(".png") else ".jpg"
    done, data = cv2.imencode(
        ending, picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality] if ending == ".jpg" else []
    )
    assert done, "OpenCV wrote no picture"
    return bytes(data.tobytes())
