"""Annotated people: what every reader returns and everything downstream uses.

Coordinates are 0-based and continuous, x then y, with pixel centres at +0.5: the centre of the top left pixel is
(0.5, 0.5), and x spans 0 to W across an image of width W. Readers convert once; nothing else does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "holdout", "valid")
"""train: networks learn from it. holdout: cut from the training pictures; search trials are scored on it.
valid: the published validation people; only retrained networks see it."""


@dataclass(frozen=True, eq=False)
class Person:
    """One annotated person, in pixels of the original picture.

    Attributes:
        image: the picture's name, relative to the pictures' folder.
        joints: float32 (J, 2); any value where not labelled.
        labelled: bool (J,); occluded joints that carry a position are labelled.
        center: float32 (2,), centre of the box around the person.
        size: side of the square box around the person.
        head_size: what PCKh divides by: 0.6 × the head box's diagonal.
        split: one of :data:`SPLITS`.
    """

    image: str
    joints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    center: NDArray[np.float32]
    size: float
    head_size: float
    split: str


def image_split(image: str, shares: Mapping[str, float]) -> str:
    """The split a picture falls into, by a hash of its name: the same on every machine, and for all its people.

    Args:
        image: the picture's name.
        shares: split → share of the pictures; the shares sum to 1. A picture's place in 0..1 is fixed, and the
            splits divide that line in the order given.
    """
    place = int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big") / 2**64
    *others, last = shares
    for split in others:
        place -= shares[split]
        if place < 0:
            return split
    return last
