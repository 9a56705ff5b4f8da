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
"""train: for training. holdout: a part of the training images; search trials are scored on it. valid: the dataset's
validation people; only fully trained networks are scored on them."""


@dataclass(frozen=True, eq=False)
class Person:
    """One annotated person, in pixels of the original image.

    Attributes:
        image: name of the image, relative to the folder of the images.
        joints: float32 (J, 2); any value where not labelled.
        labelled: bool (J,); occluded joints with a position are labelled.
        center: float32 (2,), centre of the box around the person.
        size: side of the square box around the person.
        head_size: PCKh's normalizer: 0.6 × the head box's diagonal.
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
    """Assign an image to a split by a hash of its name: the same on every machine, and for all its people.

    Args:
        image: name of the image.
        shares: split → share of the images; the shares sum to 1. Each image has a fixed position in 0..1, and the
            splits divide that interval in the order given.
    """
    position = int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big") / 2**64
    *others, last = shares
    for split in others:
        position -= shares[split]
        if position < 0:
            return split
    return last
