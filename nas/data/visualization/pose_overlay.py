"""A predicted pose drawn on its image: sides in colours that are easy to tell apart, uncertain joints hollow."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.media_io import Image
from nas.data.skeletons import Skeleton
from nas.data.visualization.drawing import SUBPIXEL_BITS, Colour, limb_colour, side_colours, to_opencv

_DARK: Colour = (16, 16, 16)


def draw_pose(
    image: Image,
    joints: NDArray[np.float64],
    scores: NDArray[np.float64],
    skeleton: Skeleton,
    threshold: float,
) -> Image:
    """Draw limbs and joints on a copy of an image.

    The person's right is orange and the left blue, which are distinct in every type of colour vision; joints on neither
    side are yellow. Everything has a dark rim, to be visible on any background. Lines scale with the person's size.
    Uncertain joints are rings, and limbs to them thin and half transparent.

    Args:
        image: uint8 (H, W, 3) RGB.
        joints: (J, 2) x, y in pixels of the image, continuous.
        scores: (J,).
        skeleton: the joints.
        threshold: joints with a lower score are uncertain.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    overlay = image.copy()
    certain = scores >= threshold
    extent = _extent(joints[certain] if certain.sum() >= 2 else joints, image.shape[:2])
    line = max(2, round(extent / 50))
    rim = max(1, round(line / 3))
    radius = max(3, round(extent / 45))
    colours = side_colours(skeleton)
    points = to_opencv(joints)

    def draw_limbs(canvas: Image, are_certain: bool, thickness: int) -> None:
        limbs = [(a, b) for a, b in skeleton.limbs if bool(certain[a] and certain[b]) == are_certain]
        for is_rim in (True, False):
            for a, b in limbs:
                colour = _DARK if is_rim else limb_colour(colours[a], colours[b])
                width = thickness + (2 * rim if is_rim else 0)
                cv2.line(canvas, points[a], points[b], colour, width, cv2.LINE_AA, SUBPIXEL_BITS)

    faint = overlay.copy()
    draw_limbs(faint, False, max(1, line // 2))
    overlay = np.asarray(cv2.addWeighted(faint, 0.5, overlay, 0.5, 0), np.uint8)
    draw_limbs(overlay, True, line)
    for joint in sorted(range(len(joints)), key=lambda j: bool(certain[j])):  # certain joints are drawn on top
        ring = max(1, line // 3)
        layers = (
            ((radius + rim, _DARK, -1), (radius, colours[joint], -1))
            if certain[joint]
            else ((radius, _DARK, ring + 2), (radius, colours[joint], ring))
        )
        for size, colour, thickness in layers:
            cv2.circle(overlay, points[joint], size << SUBPIXEL_BITS, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    return overlay


def _extent(joints: NDArray[np.float64], size: tuple[int, ...]) -> float:
    """Size of the person in pixels, robust to an outlier or two; at most the image's longer side."""
    low, high = np.quantile(joints, (0.1, 0.9), axis=0)
    return float(min((high - low).max(), max(size)))
