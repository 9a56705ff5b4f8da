"""MPII in the HDF5 layout of the hourglass code; see :mod:`nas.data.readers.mpii` for the conventions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person
from nas.data.readers.hourglass_hdf5 import hourglass_people, read_hourglass
from nas.data.readers.parsing import require_people
from nas.data.skeletons import MPII

_REMEDY = "give MPII annotations in the hourglass layout (train.h5 or valid.h5)"
_TRUNCATED_TO_INTEGERS = [MPII.joints.index("upper neck"), MPII.joints.index("head top")]


def read_mpii_hourglass_h5(path: Path, splits: Mapping[str, float]) -> tuple[list[Person], dict[str, int]]:
    """Read MPII people from the hourglass layout.

    Args:
        path: HDF5 with ``imgname``, ``part`` (N, 16, 2), ``center`` (N, 2), ``scale`` and ``normalize`` (N,), the head
            sizes: 0.6 × the head box's diagonal.
        splits: split → share of the images. The file does not define its split; ``{"valid": 1.0}`` puts everybody in
            the valid split.

    Returns:
        The people in the file's order, and how many were left out, by reason.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    file = read_hourglass(path, len(MPII.joints), _REMEDY)
    labelled: NDArray[np.bool_] = np.any(file.joints > 0, axis=-1)
    joints = file.joints - 0.5
    joints[:, _TRUNCATED_TO_INTEGERS] += 0.5 * np.sign(file.joints[:, _TRUNCATED_TO_INTEGERS])
    result = hourglass_people(file, joints, labelled, file.normalizers, "no head size", splits)
    require_people(path, result.people, result.dropped, _REMEDY)
    return result.people, result.dropped
