"""Configuration of synthetic scenes, and the version of their rendering."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

RENDERING_VERSION = "75e6c154"
"""Change this whenever the same seed renders different people, so that cached files of older versions are not reused.

It is part of the names of cached packed files. Version 0.7.0 derived this value from its source code; keeping it lets
files of that version be reused.
"""


@dataclass(frozen=True)
class SceneConfig:
    """How varied and how difficult synthetic images are.

    Attributes:
        clutter: amount of background objects, 0 to 1; at 0 there is only a smooth wall and a floor.
        occluders: expected number of objects in front of the person, at least 0. Each hides at most three joints and
            never the head.
        others: expected number of other people, behind the person and off-centre, at least 0.
        pose: how far joints deviate from standing with hanging arms, 0 to 1; also scales in-plane rotation.
        light: strength of changes in brightness, contrast, colour, shadow, sharpness and noise, 0 to 1.
        truncation: probability of a close-up that extends beyond the box, 0 to 1; joints outside it are not labelled.

    Raises:
        ValueError: a value is out of range.
    """

    clutter: float = 0.5
    occluders: float = 0.3
    others: float = 0.4
    pose: float = 0.8
    light: float = 0.5
    truncation: float = 0.05

    def __post_init__(self) -> None:
        for name in ("clutter", "pose", "light", "truncation"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"scene: {name} must lie between 0 and 1, got {value}")
        for name in ("occluders", "others"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"scene: {name} must be a finite number, at least 0, got {value}")


def stored_description(config: SceneConfig) -> str:
    """The text that packed files store for a scene configuration; unchanged since 0.7.0, when the class was Figures."""
    values = ", ".join(f"{field.name}={getattr(config, field.name)!r}" for field in fields(config))
    return f"Figures({values})"
