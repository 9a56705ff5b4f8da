"""MPII in the HDF5 layout of the hourglass code; see :mod:`nas.data.readers.mpii` for the conventions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person
from nas.data.readers.hourglass_hdf5 import hourglass_people, read_hourglass
from nas.data.skeletons import MPII
from nas.errors import UserError

_REMEDY = "give MPII annotations in the hourglass layout (train.h5 or valid.h5)"
_CUT_TO_INTEGERS = [MPII.joints.index("upper neck"), MPII.joints.index("head top")]


def read_mpii_hourglass_h5(path: Path, splits: Mapping[str, float]) -> tuple[list[Person], dict[str, int]]:
    """Read MPII people from the hourglass layout.

    Args:
        path: HDF5 with ``imgname``, ``part`` (N, 16, 2), ``center`` (N, 2), ``scale`` and ``normalize`` (N,), the last
            being the head size, 0.6 × the head box's diagonal.
        splits: split → share of the pictures. The file does not say which split it is; ``{"valid": 1.0}`` puts
            everybody there.

    Returns:
        The people in the file's order, and how many were left out, by reason.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    images, part, centers, scales, head_sizes = read_hourglass(path, len(MPII.joints), _REMEDY)
    labelled: NDArray[np.bool_] = np.any(part > 0, axis=-1)
    joints = part - 0.5
    joints[:, _CUT_TO_INTEGERS] += 0.5 * np.sign(part[:, _CUT_TO_INTEGERS])
    people, dropped, _ = hourglass_people(images, joints, labelled, centers, scales, head_sizes, "no head size", splits)
    if not people:
        raise UserError(f"{path}: nobody in it can be used ({', '.join(dropped)}); {_REMEDY}")
    return people, dropped
