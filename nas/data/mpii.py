"""MPII Human Pose (Andriluka et al. 2014) in the HDF5 layout of the original hourglass code (Newell et al. 2016).

Coordinates. The layout holds MATLAB's, counted from 1: its values are those of the 1-based formats (of HRNet's JSON, of
the official evaluation) cut to integers towards zero, and among its joints x goes down to 1, not 0. A joint at 1 lies
on the first pixel, whose centre we call 0.5, so 0.5 comes off joints and centres. Upper neck and head top, taken from
the head box, are the only joints that were not integers before (92 % of them); half a pixel towards where they were
cut from makes them right on average and twice as near at worst.

Centre and scale already include the hourglass code's adjustments (15 × scale down, × 1.25): the box is 200 × scale.

A joint is missing where x and y are both 0. This agrees with the official ``jnt_missing`` on every joint of the 2,958
validation people; 45 labelled joints, outside their picture, have one coordinate that is 0 or negative. The field
``visible`` says whether a joint is occluded, not whether it is labelled, and is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.packing import picture_split, read_arrays
from nas.data.people import MPII, Person
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
    found = read_arrays(path, "HDF5", ["imgname", "part", "center", "scale", "normalize"], _REMEDY)
    names = found["imgname"]
    if names.ndim != 1 or not len(names) or names.dtype.kind not in "SU":
        raise UserError(f"{path}: 'imgname' is {names.dtype.name} {names.shape}, expected texts (N,); {_REMEDY}")
    images = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
    count = len(images)
    part = _numbers(path, "part", found["part"], (count, 16, 2))
    centers = _numbers(path, "center", found["center"], (count, 2))
    scales = _numbers(path, "scale", found["scale"], (count,))
    head_sizes = _numbers(path, "normalize", found["normalize"], (count,))

    labelled: NDArray[np.bool_] = np.any(part > 0, axis=-1)
    joints = part - 0.5
    joints[:, _CUT_TO_INTEGERS] += 0.5 * np.sign(part[:, _CUT_TO_INTEGERS])
    people = []
    dropped: dict[str, int] = {}
    for i, image in enumerate(images):
        reason = None
        if not labelled[i].any():
            reason = "no labelled joint"
        elif not scales[i] > 0:
            reason = "no scale"
        elif not head_sizes[i] > 0:
            reason = "no head size"
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        people.append(
            Person(
                image=image,
                joints=joints[i].astype(np.float32),
                labelled=labelled[i],
                center=(centers[i] - 0.5).astype(np.float32),
                size=200 * float(scales[i]),
                head_size=float(head_sizes[i]),
                split=picture_split(image, splits),
            )
        )
    if not people:
        raise UserError(f"{path}: nobody in it can be used ({', '.join(dropped)}); {_REMEDY}")
    return people, dropped


def _numbers(path: Path, name: str, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The array as float64, after checking its shape, type and that its values are those of a picture."""
    if values.shape != shape or values.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name!r} is {values.dtype.name} {values.shape}, expected numbers {shape}; {_REMEDY}")
    if not (np.abs(values) < 1e5).all():
        raise UserError(f"{path}: {name!r} holds values beyond any picture; {_REMEDY}")
    return values.astype(np.float64)
