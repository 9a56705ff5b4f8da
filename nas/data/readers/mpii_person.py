"""Convert raw values of MPII annotations to a person; see :mod:`nas.data.readers.mpii` for the conventions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person
from nas.data.skeletons import MPII

JOINTS = len(MPII.joints)

HEAD_PER_BOX = 0.1
"""Head size (0.6 × the head box's diagonal) over the side of the enlarged box. MPII's scales were derived from its head
boxes: for all 2,958 validation people this ratio is exact to the last bit, so formats without head boxes lose
nothing."""


def mpii_person(
    image: str,
    joints: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    position: Sequence[float],
    scale: float,
    head_size: float | None,
    split: str,
) -> Person:
    """Convert one person's raw annotations.

    Args:
        image: name of the image.
        joints: (16, 2), counted from 1.
        labelled: (16,).
        position: x and y of the person (``objpos``), counted from 1, before moving down.
        scale: the person's height over 200 pixels (``scale``), before enlarging; positive.
        head_size: 0.6 × the head box's diagonal; None to derive it from the scale.
        split: one of :data:`nas.data.people.SPLITS`.
    """
    size = 200 * 1.25 * scale
    return Person(
        image=image,
        joints=(joints - 0.5).astype(np.float32),
        labelled=labelled,
        center=np.array([position[0] - 0.5, position[1] + 15 * scale - 0.5], np.float32),
        size=size,
        head_size=HEAD_PER_BOX * size if head_size is None else head_size,
        split=split,
    )
