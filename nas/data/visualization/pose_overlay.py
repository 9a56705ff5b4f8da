"""A predicted pose drawn on its picture: sides in colours that everybody can tell apart, doubtful joints hollow."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.skeletons import Skeleton
from nas.data.visualization.contact_sheet import MIDDLE, Colour, side_colours

Picture = NDArray[np.uint8]

_DARK: Colour = (16, 16, 16)
_FINE = 4  # bits of sub-pixels in OpenCV's coordinates
_FAR = 2**20  # OpenCV's integers overflow on positions beyond


def draw_pose(
    picture: Picture,
    joints: NDArray[np.float64],
    scores: NDArray[np.float64],
    skeleton: Skeleton,
    sure: float,
) -> Picture:
    """A copy of a picture with limbs and joints drawn over it.

    The person's right is orange and the left blue, which people of every colour vision tell apart; what has no side is
    yellow; everything has a dark rim, to be seen on any background. Lines are as thick as the person is large. Doubtful
    joints are rings, and limbs to them thin and half transparent.

    Args:
        picture: uint8 (H, W, 3) RGB.
        joints: (J, 2) x, y in its pixels, continuous.
        scores: (J,).
        skeleton: the joints.
        sure: a joint with a lower score is doubtful.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    shown = picture.copy()
    certain = scores >= sure
    extent = _extent(joints[certain] if certain.sum() >= 2 else joints, picture.shape[:2])
    line = max(2, round(extent / 50))
    rim = max(1, round(line / 3))
    radius = max(3, round(extent / 45))
    colours = side_colours(skeleton)
    # OpenCV counts from pixel centres.
    places = np.clip(np.round((np.nan_to_num(joints) - 0.5) * 2**_FINE), -_FAR, _FAR).astype(int)

    def limbs(canvas: Picture, wanted: bool, thickness: int) -> None:
        drawn = [(a, b) for a, b in skeleton.limbs if bool(certain[a] and certain[b]) == wanted]
        for dark in (True, False):
            for a, b in drawn:
                colour = _DARK if dark else _limb_colour(colours[a], colours[b])
                width = thickness + (2 * rim if dark else 0)
                cv2.line(canvas, places[a], places[b], colour, width, cv2.LINE_AA, _FINE)

    faint = shown.copy()
    limbs(faint, False, max(1, line // 2))
    shown = np.asarray(cv2.addWeighted(faint, 0.5, shown, 0.5, 0), np.uint8)
    limbs(shown, True, line)
    for joint in sorted(range(len(joints)), key=lambda j: bool(certain[j])):  # what is sure lies on top
        at, colour = places[joint], colours[joint]
        if certain[joint]:
            cv2.circle(shown, at, (radius + rim) << _FINE, _DARK, -1, cv2.LINE_AA, _FINE)
            cv2.circle(shown, at, radius << _FINE, colour, -1, cv2.LINE_AA, _FINE)
        else:
            ring = max(1, line // 3)
            cv2.circle(shown, at, radius << _FINE, _DARK, ring + 2, cv2.LINE_AA, _FINE)
            cv2.circle(shown, at, radius << _FINE, colour, ring, cv2.LINE_AA, _FINE)
    return shown


def _extent(joints: NDArray[np.float64], size: tuple[int, ...]) -> float:
    """How large the person is, in pixels, whatever a stray joint or two say; at most the picture's longer side."""
    low, high = np.quantile(joints, (0.1, 0.9), axis=0)
    return float(min((high - low).max(), max(size)))


def _limb_colour(a: Colour, b: Colour) -> Colour:
    """Hip to pelvis and the like belong to the side that they lead to; hip to hip belongs to neither."""
    if a == b:
        return a
    if MIDDLE in (a, b):
        return b if a == MIDDLE else a
    return MIDDLE
