"""The raster that scenes are drawn on, in crop units (see :mod:`nas.data.synthetic.render`)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.synthetic.colours import Colour, shade
from nas.data.synthetic.shapes import Array

_FAR_END = np.stack([np.cos(np.linspace(-0.5, 0.5, 8) * np.pi), np.sin(np.linspace(-0.5, 0.5, 8) * np.pi)], axis=1)
_SUBPIXEL_BITS = 4


class Canvas:
    """A square image drawn in crop units, supersampled for small boxes.

    Args:
        size: side of the final image, in pixels.
        box: pixels per crop unit.
        light: (2,), direction towards the light, in image coordinates.
    """

    def __init__(self, size: int, box: int, light: Array) -> None:
        self._size = size
        # Above 128 pixels, antialiased edges alone are smooth enough.
        self._zoom = 2 if box <= 128 else 1
        self._scale = float(box * self._zoom)
        self.side = size * self._zoom  # of the canvas, in pixels
        self.light = light / np.linalg.norm(light)
        self.pixels = np.zeros((self.side, self.side, 3), np.uint8)

    def fill_polygon(self, outline: Array, colour: Colour) -> None:
        """Fill the polygon ``outline`` (K, 2)."""
        # OpenCV's coordinate k is the centre of pixel k, hence our k + 0.5.
        scaled = (outline * self._scale + (self.side / 2 - 0.5)) * (1 << _SUBPIXEL_BITS)
        points = np.rint(scaled).astype(np.int32)
        cv2.fillPoly(self.pixels, [points], colour, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)

    def paint_texture(self, texture: Array, top: float) -> None:
        """Stretch a texture (h, w, 3) over the whole canvas and paint the part of it below ``top``."""
        first = max(0, round(top * self._scale + self.side / 2))
        small = np.clip(texture, 0, 255).astype(np.uint8)
        stretched = cv2.resize(small, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        self.pixels[first:] = stretched[first:]

    def draw_limb(self, a: Array, b: Array, a_radius: float, b_radius: float, colour: Colour) -> None:
        """Draw a tapered, rounded and shaded limb from ``a`` to ``b``, both (2,)."""
        dx, dy = float(b[0] - a[0]), float(b[1] - a[1])
        length = math.hypot(dx, dy)
        ux, uy = (dx / length, dy / length) if length > 1e-9 else (1.0, 0.0)
        end = _FAR_END @ np.array([[ux, uy], [-uy, ux]])
        spine, around = np.repeat([b, a], len(end), axis=0), np.concatenate([b_radius * end, -a_radius * end])
        off = self.light * min(a_radius, b_radius)
        self.fill_polygon(spine + around, shade(colour, 0.68))
        self.fill_polygon(spine + 0.8 * around + 0.16 * off, colour)
        self.fill_polygon(spine + 0.36 * around + 0.35 * off, shade(colour, 1.14))

    def draw_shaded(self, outline: Array, colour: Colour) -> None:
        """Draw a shaded convex shape (K, 2)."""
        centre = outline.mean(axis=0)
        self.fill_polygon(outline, shade(colour, 0.68))
        for share, shift, factor in ((0.91, 0.03, 1.0), (0.5, 0.17, 1.06)):
            # Shifted towards the light, in proportion to the shape's extent in that direction.
            off = self.light * (shift * float(np.abs((outline - centre) @ self.light).max()))
            self.fill_polygon(centre + share * (outline - centre) + off, shade(colour, factor))

    def to_image(self) -> NDArray[np.uint8]:
        """The final image, uint8 (S, S, 3) RGB."""
        if self._zoom == 1:
            return self.pixels
        small = cv2.resize(self.pixels, (self._size, self._size), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)
