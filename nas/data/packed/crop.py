"""Crops of annotated people, cut with sub-pixel precision."""

from __future__ import annotations

from math import ceil, floor

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.packed.format import crop_side
from nas.data.people import Person

Crop = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64]]
"""uint8 (S, S, 3) RGB; float32 (J, 2) joints in crop pixels; float64 (2, 3) affine from crop to original pixels."""
_LARGEST_SIDE = 4096  # pixels a side of the enlarged crop that is averaged down; 48 MiB
_FEWEST_PIXELS = 4  # a picture shrunk to less is not worth exact areas, and would need much black around it


def crop_person(picture: NDArray[np.uint8], person: Person, box: int, reduced: int = 1) -> Crop:
    """Cut a person out, so that their box is ``box`` pixels wide, at the centre of a crop with margin.

    The mapping is exact to sub-pixels. Beyond the picture's edge the crop is black.

    Args:
        picture: uint8 (H, W, 3), RGB.
        person: whom to cut out; ``size`` is positive.
        box: side of the person's box in the crop, in pixels.
        reduced: how many times smaller the picture is than the one that the person was annotated on.

    Returns:
        uint8 (S, S, 3) RGB with S = ``crop_side(box)``; float32 (J, 2) joints in crop pixels; float64 (2, 3) affine
        map from crop pixels to original pixels.
    """
    side = crop_side(box)
    scale = box / person.size
    shift = side / 2 - scale * person.center.astype(np.float64)
    zoom = scale * reduced
    shrunk = zoom < 1 and max(picture.shape[:2]) * zoom > _FEWEST_PIXELS
    crop = _shrunk(picture, side, zoom, shift) if shrunk else _sampled(picture, side, zoom, shift)
    joints = (person.joints.astype(np.float64) * scale + shift).astype(np.float32)
    to_original = np.array([[1 / scale, 0, -shift[0] / scale], [0, 1 / scale, -shift[1] / scale]])
    return crop, joints, to_original


def _shrunk(picture: NDArray[np.uint8], side: int, scale: float, shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A smaller crop: every pixel is the mean of just the area that it covers of the picture, moved by sub-pixels.

    That is what :func:`_sampled` approaches with ever more samples, for a fraction of the work: only what lies in the
    picture is computed, at the picture's own resolution.
    """
    crop = np.zeros((side, side, 3), np.uint8)
    first, count, start, size = [0, 0], [0, 0], [0, 0], [0, 0]
    weights = [0.0, 0.0]
    for axis in (0, 1):
        extent = picture.shape[1 - axis]
        # Half a pixel beyond each edge, the picture has faded into black.
        low = max(0, floor(scale * -0.5 + shift[axis]))
        high = min(side, ceil(scale * (extent + 0.5) + shift[axis]))
        if high <= low:
            return crop
        first[axis], count[axis] = low, high - low
        corner = (low - shift[axis]) / scale
        start[axis] = floor(corner)
        weights[axis] = corner - start[axis]
        size[axis] = ceil(count[axis] / scale)
    # One pixel more each way, for the shift.
    area = _window(picture, start[0], start[1], size[0] + 1, size[1] + 1)
    area = _between(area[:-1], area[1:], weights[1])
    area = _between(area[:, :-1], area[:, 1:], weights[0])
    small = cv2.resize(area, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rows, columns = min(count[1], small.shape[0]), min(count[0], small.shape[1])
    crop[first[1] : first[1] + rows, first[0] : first[0] + columns] = small[:rows, :columns]
    return crop


def _between(here: NDArray[np.uint8], beyond: NDArray[np.uint8], weight: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.addWeighted(beyond, weight, here, 1 - weight, 0), np.uint8) if weight else here


def _window(picture: NDArray[np.uint8], x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
    """A part of a picture, black where it reaches beyond."""
    left, top = max(0, -x), max(0, -y)
    inside = picture[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    right, bottom = width - left - inside.shape[1], height - top - inside.shape[0]
    if not (left or top or right or bottom):
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT), np.uint8)


def _sampled(picture: NDArray[np.uint8], side: int, scale: float, shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    # Bilinear sampling alone would skip pixels when it shrinks. So sample at least one point per original pixel,
    # a whole number of them per crop pixel, and average: exact in position, and free of aliasing.
    fine = min(ceil(1 / scale), max(1, _LARGEST_SIDE // side))
    # OpenCV counts from pixel centres, we count from the corner: its x is our x − 0.5, on both sides of the map.
    matrix = np.zeros((2, 3))
    matrix[0, 0] = matrix[1, 1] = scale * fine
    matrix[:, 2] = fine * (shift + 0.5 * scale) - 0.5
    crop = cv2.warpAffine(picture, matrix, (side * fine, side * fine), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    if fine > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)
