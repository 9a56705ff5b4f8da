"""RGB colours of synthetic scenes, from 0 to 255."""

from __future__ import annotations

import colorsys

from numpy.random import Generator

Colour = tuple[float, float, float]
WHITE: Colour = (255, 255, 255)


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor below 1) or lighten (above 1) a colour; lightening mixes in white, which keeps the hue."""
    if factor <= 1:
        return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
    return mix(colour, (255, 255, 255), min(1.0, factor - 1))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Interpolate linearly from ``a`` (share 0) to ``b`` (share 1)."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def cloth_colour(rng: Generator) -> Colour:
    """A random colour of clothes: grey, vivid or pastel."""
    hue, kind = rng.random(), rng.random()
    if kind < 0.35:
        saturation, value = rng.uniform(0, 0.2), rng.uniform(0.1, 0.97)
    elif kind < 0.75:
        saturation, value = rng.uniform(0.45, 0.95), rng.uniform(0.3, 0.95)
    else:
        saturation, value = rng.uniform(0.15, 0.45), rng.uniform(0.5, 0.97)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return (255 * red, 255 * green, 255 * blue)


def wall_colour(rng: Generator) -> Colour:
    """A random background colour, mostly muted, so that people stand out."""
    return mix(cloth_colour(rng), palette_colour(rng, ((40, 42, 46), (225, 222, 214))), rng.uniform(0.3, 0.9))


def palette_colour(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    """A random colour on the piecewise linear path through ``colours``."""
    position = rng.random() * (len(colours) - 1)
    return mix(colours[int(position)], colours[int(position) + 1], position % 1)
