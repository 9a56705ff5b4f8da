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
_MAX_SUPERSAMPLED_SIDE = 4096  # pixels of the supersampled crop; 48 MiB
_MIN_SHRUNK_SIDE = 4  # pixels; for images shrunk to less, exact areas are not worth the padding that they need


def crop_person(image: NDArray[np.uint8], person: Person, box: int, reduction: int = 1) -> Crop:
    """Cut a person out, with their box scaled to ``box`` pixels at the centre of a crop with margin.

    The mapping has sub-pixel precision. Beyond the image's edge the crop is black.

    Args:
        image: uint8 (H, W, 3), RGB.
        person: the person; ``size`` is positive.
        box: side of the person's box in the crop, in pixels.
        reduction: how many times smaller the image is than the annotated original.

    Returns:
        uint8 (S, S, 3) RGB with S = ``crop_side(box)``; float32 (J, 2) joints in crop pixels; float64 (2, 3) affine
        map from crop pixels to original pixels.
    """
    side = crop_side(box)
    scale = box / person.size
    shift = side / 2 - scale * person.center.astype(np.float64)
    zoom = scale * reduction
    shrinks = zoom < 1 and max(image.shape[:2]) * zoom > _MIN_SHRUNK_SIDE
    crop = _shrink(image, side, zoom, shift) if shrinks else _supersample(image, side, zoom, shift)
    joints = (person.joints.astype(np.float64) * scale + shift).astype(np.float32)
    to_original = np.array([[1 / scale, 0, -shift[0] / scale], [0, 1 / scale, -shift[1] / scale]])
    return crop, joints, to_original


def _shrink(image: NDArray[np.uint8], side: int, scale: float, shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Cut a smaller crop in which every pixel is the mean of exactly the area that it covers of the image.

    :func:`_supersample` converges to this with more samples. This takes a fraction of the work: only the part inside
    the image is computed, at the image's own resolution.
    """
    crop = np.zeros((side, side, 3), np.uint8)
    first, count, start, size = [0, 0], [0, 0], [0, 0], [0, 0]
    weights = [0.0, 0.0]
    for axis in (0, 1):
        extent = image.shape[1 - axis]
        # The image fades to black within half a pixel beyond each edge.
        low = max(0, floor(scale * -0.5 + shift[axis]))
        high = min(side, ceil(scale * (extent + 0.5) + shift[axis]))
        if high <= low:
            return crop
        first[axis], count[axis] = low, high - low
        corner = (low - shift[axis]) / scale
        start[axis] = floor(corner)
        weights[axis] = corner - start[axis]
        size[axis] = ceil(count[axis] / scale)
    # One more pixel in each direction, for the sub-pixel shift.
    area = _window(image, start[0], start[1], size[0] + 1, size[1] + 1)
    area = _interpolate(area[:-1], area[1:], weights[1])
    area = _interpolate(area[:, :-1], area[:, 1:], weights[0])
    small = cv2.resize(area, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rows, columns = min(count[1], small.shape[0]), min(count[0], small.shape[1])
    crop[first[1] : first[1] + rows, first[0] : first[0] + columns] = small[:rows, :columns]
    return crop


def _interpolate(a: NDArray[np.uint8], b: NDArray[np.uint8], weight: float) -> NDArray[np.uint8]:
    """From ``a`` (weight 0) to ``b`` (weight 1)."""
    return np.asarray(cv2.addWeighted(b, weight, a, 1 - weight, 0), np.uint8) if weight else a


def _window(image: NDArray[np.uint8], x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
    """A part of an image, black beyond its edges."""
    left, top = max(0, -x), max(0, -y)
    inside = image[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    right, bottom = width - left - inside.shape[1], height - top - inside.shape[0]
    if not (left or top or right or bottom):
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT), np.uint8)


def _supersample(image: NDArray[np.uint8], side: int, scale: float, shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Cut a crop by bilinear sampling at one or more points per crop pixel, and averaging."""
    # Bilinear sampling alone would skip pixels when shrinking. At least one sample per original pixel, a whole number
    # per crop pixel, avoids aliasing and keeps positions exact.
    samples = min(ceil(1 / scale), max(1, _MAX_SUPERSAMPLED_SIDE // side))
    # OpenCV's origin is a pixel centre, ours the corner: its x is our x − 0.5, on both sides of the map.
    matrix = np.zeros((2, 3))
    matrix[0, 0] = matrix[1, 1] = scale * samples
    matrix[:, 2] = samples * (shift + 0.5 * scale) - 0.5
    crop = cv2.warpAffine(
        image, matrix, (side * samples, side * samples), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0)
    )
    if samples > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)
