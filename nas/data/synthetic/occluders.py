"""Objects in front of the person."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from nas.data.synthetic.canvas import Canvas
from nas.data.synthetic.colours import cloth_colour
from nas.data.synthetic.shapes import ellipse, rectangle
from nas.data.synthetic.stick_figure import HEAD_TOP, NECK, StickFigure


def draw_occluder(canvas: Canvas, rng: Generator, figure: StickFigure) -> None:
    """Draw an object in front of a limb, shrunk until it hides at most three joints and not the head."""
    target = figure.points[rng.choice((0, 1, 4, 5, 10, 11, 14, 15))]
    centre, angle = target + rng.normal(0, 0.05, 2), rng.normal(0, 0.35)
    shape = rng.random()
    half = np.array([rng.uniform(0.015, 0.035), 1.5]) if shape < 0.25 else rng.uniform(0.06, 0.2, 2)
    colour = cloth_colour(rng)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    offsets = np.abs((figure.points[:16] - centre) @ turn)
    skull = np.abs(((figure.points[NECK] + figure.points[HEAD_TOP]) / 2 - centre) @ turn)
    while np.all(offsets < half, axis=1).sum() > 3 or bool(np.all(skull < half + 0.6 * figure.head)):
        half = half * 0.85
        if half.min() < 0.005:
            return  # a hand raised to the face cannot be hidden without hiding the head
    if shape < 0.25:
        end = half[1] * turn[:, 1]
        canvas.draw_limb(centre - end, centre + end, half[0], half[0], colour)
    elif shape < 0.7:
        canvas.draw_shaded(rectangle(centre, half, angle), colour)
    else:
        canvas.draw_shaded(ellipse(centre, half[0] * turn[:, 0], half[1] * turn[:, 1]), colour)
