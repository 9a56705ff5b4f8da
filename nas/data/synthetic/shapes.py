"""Outlines of shapes, and interpolation between points; all in crop units."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 21)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 21)[:-1])], axis=1)
_CORNERS = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


def lerp(a: Array, b: Array, share: float) -> Array:
    """Interpolate linearly from ``a`` (share 0) to ``b`` (share 1)."""
    return a + (b - a) * share


def ellipse(centre: Array, along: Array, across: Array) -> Array:
    """The outline (20, 2) of an ellipse; ``along`` and ``across`` (2,) are its half axes."""
    return centre + _CIRCLE[:, :1] * along + _CIRCLE[:, 1:] * across


def disc(centre: Array, radius: float) -> Array:
    """The outline (20, 2) of a circle."""
    return centre + radius * _CIRCLE


def bar(a: Array, b: Array, half: float) -> Array:
    """The outline (4, 2) of a straight bar of width ``2 * half`` from ``a`` to ``b``."""
    along = b - a
    across = np.array([-along[1], along[0]]) * (half / max(float(np.hypot(*along)), 1e-9))
    return np.stack([a + across, b + across, b - across, a - across])


def rectangle(centre: Array, half: Array, angle: float) -> Array:
    """The outline (4, 2) of a rectangle with half sides (2,), rotated by ``angle`` radians."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(centre + (_CORNERS * half) @ turn, np.float64)


def hull(*discs: tuple[Array, float]) -> Array:
    """The convex hull (K, 2) of discs, each (centre, radius)."""
    points = np.concatenate([centre + radius * _CIRCLE for centre, radius in discs]).astype(np.float32)
    return np.asarray(cv2.convexHull(points), np.float64).reshape(-1, 2)
