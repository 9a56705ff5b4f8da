"""Walls, floors and objects behind the person."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.random import Generator

from nas.data.synthetic.canvas import Canvas
from nas.data.synthetic.colours import Colour, cloth_colour, mix, shade, wall_colour
from nas.data.synthetic.shapes import Array, ellipse, rectangle

_TEXTURE_SIDE = 96  # pixels; wall and floor textures are stretched to the canvas, so they do not depend on its size


def _texture(rng: Generator, cells: int) -> Array:
    """Smooth noise of about unit variance, (_TEXTURE_SIDE, _TEXTURE_SIDE, 1), from a grid of ``cells`` × ``cells``."""
    grid = rng.standard_normal((cells, cells))
    noise = cv2.resize(grid, (_TEXTURE_SIDE, _TEXTURE_SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(noise, np.float64)[..., None]


def draw_background(canvas: Canvas, rng: Generator, backdrop: Colour, reach: float, clutter: float) -> None:
    """Fill the canvas with a wall or landscape, usually a floor, and background objects.

    Args:
        canvas: what to draw on.
        rng: source of all randomness.
        backdrop: colour of the wall.
        reach: half the crop's side in crop units.
        clutter: :attr:`SceneConfig.clutter`.
    """
    horizon = rng.uniform(0.05, 0.5)
    ground = mix(backdrop, wall_colour(rng), rng.uniform(0.3, 0.9))
    ramp = np.linspace(-1, 1, _TEXTURE_SIDE)[:, None, None] * rng.uniform(-30, 30)
    broad = _texture(rng, 4) * rng.uniform(4, 18) * (1 + 0.4 * rng.uniform(-1, 1, 3))
    fine = _texture(rng, int(rng.integers(14, 40))) * rng.uniform(0, 14) * clutter
    canvas.paint_texture(backdrop + ramp + broad + fine, -2 * reach)
    if rng.random() < 0.75:
        canvas.paint_texture(ground + ramp + broad + 1.5 * fine, horizon)
    for _ in range(rng.poisson(9 * clutter)):
        _draw_object(canvas, rng, mix(backdrop, cloth_colour(rng), rng.uniform(0.25, 0.8)), reach, horizon)


def _draw_object(canvas: Canvas, rng: Generator, colour: Colour, reach: float, horizon: float) -> None:
    """Draw a background object: a house or cupboard, a pole or branch, or a bush or ball."""
    kind = rng.random()
    position = rng.uniform(-reach, reach, 2)
    if kind < 0.4:
        half = rng.uniform(0.06, 0.28, 2)
        position[1] = horizon - half[1] + rng.uniform(-0.1, 0.1)
        canvas.fill_polygon(rectangle(position, half, 0), colour)
        rows, columns = rng.integers(1, 5, 2)
        pane, factor = half / (columns, rows), rng.choice((0.7, 1.2))
        for row in range(rows):
            for column in range(columns):
                centre = position - half + pane * (2 * column + 1, 2 * row + 1)
                canvas.fill_polygon(rectangle(centre, 0.6 * pane, 0), shade(colour, factor))
    elif kind < 0.75:
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.6)
        end = position + length * np.array([math.cos(angle), math.sin(angle)])
        thick = rng.uniform(0.008, 0.04)
        canvas.draw_limb(position, end, thick, thick * rng.uniform(0.5, 1), colour)
    else:
        axes, angle = rng.uniform(0.03, 0.2, 2), rng.uniform(0, np.pi)
        turned = np.array([math.cos(angle), math.sin(angle)])
        canvas.draw_shaded(ellipse(position, axes[0] * turned, axes[1] * np.array([-turned[1], turned[0]])), colour)
