"""Drawing primitives: colours of body sides, poses on tiles, text."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.media_io import Image
from nas.data.skeletons import Skeleton
from nas.names import printable

Colour = tuple[int, int, int]

RIGHT: Colour = (255, 140, 0)
LEFT: Colour = (40, 170, 255)
MIDDLE: Colour = (235, 235, 90)
"""RGB of the person's right and left side, and of joints on neither."""

INK, FAINT, PAPER = (240, 240, 240), (150, 150, 150), (24, 24, 24)
"""RGB of text, of secondary text, and of the background."""

SUBPIXEL_BITS = 4
"""Fractional bits of :func:`to_opencv`'s coordinates."""

_MAX_COORDINATE = 2**20  # larger values overflow OpenCV's integers


def to_opencv(points: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    """Convert points (…, 2) in pixels to OpenCV's fixed-point coordinates, which count from pixel centres."""
    scaled = np.round((np.nan_to_num(points) - 0.5) * (1 << SUBPIXEL_BITS))
    return np.asarray(np.clip(scaled, -_MAX_COORDINATE, _MAX_COORDINATE), np.int32)


def side_colours(skeleton: Skeleton) -> list[Colour]:
    """Colour of each joint: by its name if that contains left or right, else by its position in its flip pair."""
    colours = [MIDDLE] * len(skeleton.joints)
    for pair in skeleton.flip_pairs:
        first_is_left = "left" in skeleton.joints[pair[0]].lower() or "right" in skeleton.joints[pair[1]].lower()
        colours[pair[0]], colours[pair[1]] = (LEFT, RIGHT) if first_is_left else (RIGHT, LEFT)
    return colours


def limb_colour(a: Colour, b: Colour) -> Colour:
    """Colour of a limb between joints of colours ``a`` and ``b``: hip to pelvis has the hip's, hip to hip neither's."""
    if a == b:
        return a
    if MIDDLE in (a, b):
        return b if a == MIDDLE else a
    return MIDDLE


def draw_person(
    image: Image, joints: NDArray[np.float32], labelled: NDArray[np.bool_], skeleton: Skeleton, size: int
) -> Image:
    """Resize a square image and draw limbs and joints on it, in the colours of the person's sides.

    Args:
        image: uint8 (S, S, 3) RGB.
        joints: (J, 2), pixels of the image.
        labelled: bool (J,); only these joints are drawn.
        skeleton: the joints.
        size: side of the result, in pixels.

    Returns:
        uint8 (size, size, 3) RGB.
    """
    scale = size / len(image)
    tile = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    colours = side_colours(skeleton)
    points = to_opencv(np.nan_to_num(joints) * scale)
    limbs = [limb for limb in skeleton.limbs if labelled[limb[0]] and labelled[limb[1]]]
    for thickness, is_rim in ((4, True), (2, False)):
        for a, b in limbs:
            colour = (0, 0, 0) if is_rim else limb_colour(colours[a], colours[b])
            cv2.line(tile, points[a], points[b], colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    for joint in np.flatnonzero(labelled):
        for radius, colour in ((4, (0, 0, 0)), (3, colours[joint])):
            cv2.circle(tile, points[joint], radius << SUBPIXEL_BITS, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    return np.asarray(tile, np.uint8)


def _in_ascii(text: str) -> str:
    """A text as OpenCV can draw it; some that are not UTF-8 end the process."""
    return printable(text).encode("ascii", "replace").decode()


def write_text(image: Image, text: str, position: tuple[int, int], colour: Colour, scale: float) -> int:
    """Write a line of text, in ASCII; return its width in pixels."""
    text = _in_ascii(text)
    cv2.putText(image, text, position, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0])


def shorten_text(text: str, width: int, scale: float) -> str:
    """Replace the middle of a text by dots so that it is at most ``width`` pixels wide."""
    text = _in_ascii(text)
    length = len(text)
    shortened = text
    while length > 8 and cv2.getTextSize(shortened, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width:
        length -= 1
        shortened = f"{text[: length // 2]}...{text[-(length - length // 2) :]}"
    return shortened
