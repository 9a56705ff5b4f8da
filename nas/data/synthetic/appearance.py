"""Clothes, hair and skin of synthetic people."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from nas.data.synthetic.colours import Colour, cloth_colour, palette_colour
from nas.data.synthetic.stick_figure import weighted_index

_SKIN_COLOURS: tuple[Colour, ...] = (
    (250, 218, 196), (238, 190, 160), (222, 168, 132), (190, 132, 96), (150, 98, 66), (108, 68, 46), (72, 46, 34),
)  # fmt: skip
_HAIR_COLOURS: tuple[Colour, ...] = (
    (24, 20, 20), (48, 32, 24), (92, 60, 36), (140, 92, 48), (206, 168, 98), (150, 62, 30), (168, 166, 164),
)  # fmt: skip


@dataclass(frozen=True)
class Appearance:
    """Clothes, hair and colours of one person.

    ``sleeve``, ``leg`` and ``skirt`` are lengths as fractions of the limb, from the trunk to the wrist or ankle.
    """

    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    accent: Colour
    build: float  # multiplies widths
    sleeve: float  # 0 none, 1 down to the wrist
    leg: float  # 0 none, 1 down to the ankle
    skirt: float  # the same for a skirt; 0 for none
    hairdo: int  # 0 bald, 1 short, 2 full, 3 long
    hat: int  # 0 none, 1 cap, 2 woollen
    pattern: int  # 0 plain, 1 bands, 2 stripes, 3 dots
    chest: int  # detail on the front: 0 none, 1 buttons, 2 print, 3 open jacket, 4 tie, 5 low neckline
    extra: int  # 0 none, 1 backpack, 2 beard, 3 glasses


def _contrasting_colour(rng: Generator, *others: Colour) -> Colour:
    """The most distinct of three random clothes colours from ``others``; sometimes that contrast is still low."""
    candidates = [cloth_colour(rng) for _ in range(3)]
    return max(candidates, key=lambda colour: min(math.dist(colour, other) for other in others))


def sample_appearance(rng: Generator, backdrop: Colour) -> Appearance:
    """Draw an appearance whose clothes contrast with the backdrop."""
    skin = palette_colour(rng, _SKIN_COLOURS)
    top = _contrasting_colour(rng, backdrop, skin)
    return Appearance(
        skin=skin,
        hair=palette_colour(rng, _HAIR_COLOURS),
        top=top,
        bottom=_contrasting_colour(rng, backdrop, top),
        shoes=cloth_colour(rng),
        accent=_contrasting_colour(rng, top),
        build=rng.uniform(0.85, 1.2),
        sleeve=(0.0, rng.uniform(0.25, 0.45), 1.0)[weighted_index(rng, (0.12, 0.43, 0.45))],
        leg=(rng.uniform(0.3, 0.5), 1.0)[weighted_index(rng, (0.3, 0.7))],
        skirt=(0.0, rng.uniform(0.35, 0.7))[weighted_index(rng, (0.87, 0.13))],
        hairdo=weighted_index(rng, (0.05, 0.4, 0.25, 0.3)),
        hat=weighted_index(rng, (0.78, 0.14, 0.08)),
        pattern=weighted_index(rng, (0.62, 0.16, 0.12, 0.1)),
        chest=weighted_index(rng, (0.15, 0.2, 0.25, 0.2, 0.08, 0.12)),
        extra=weighted_index(rng, (0.62, 0.15, 0.13, 0.1)),
    )
