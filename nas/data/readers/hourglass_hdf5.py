"""The HDF5 layout of the hourglass code (Newell et al. 2016), which holds MPII or FLIC people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person, image_split
from nas.data.readers.parsing import LARGEST
from nas.data.readers.sandbox import read_arrays
from nas.errors import UserError


def read_hourglass(
    path: Path, joints: int, remedy: str
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Read what the hourglass code's HDF5 holds of N people.

    Args:
        path: HDF5 with ``imgname``, ``part`` (N, J, 2), ``center`` (N, 2), ``scale`` and ``normalize`` (N,).
        joints: J.
        remedy: what a person should do about a wrong file; ends the error's line.

    Returns:
        The pictures' names, and the arrays in the order above, float64, every value that of a picture.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    found = read_arrays(path, "HDF5", ["imgname", "part", "center", "scale", "normalize"], remedy)
    names = found["imgname"]
    if names.ndim != 1 or not len(names) or names.dtype.kind not in "SU":
        raise UserError(f"{path}: 'imgname' is {names.dtype.name} {names.shape}, expected texts (N,); {remedy}")
    images = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
    count = len(images)

    def numbers(name: str, *shape: int) -> NDArray[np.float64]:
        values = found[name]
        if values.shape != shape or values.dtype.kind not in "fiu":
            wrong = f"{values.dtype.name} {values.shape}, expected numbers {shape}"
            raise UserError(f"{path}: {name!r} is {wrong}; {remedy}")
        if not (np.abs(values) < LARGEST).all():
            raise UserError(f"{path}: {name!r} holds values beyond any picture; {remedy}")
        return values.astype(np.float64)

    part, center = numbers("part", count, joints, 2), numbers("center", count, 2)
    return images, part, center, numbers("scale", count), numbers("normalize", count)


def hourglass_people(
    images: Sequence[str],
    joints: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    centers: NDArray[np.float64],
    scales: NDArray[np.float64],
    head_sizes: NDArray[np.float64],
    no_head_size: str,
    splits: Mapping[str, float],
) -> tuple[list[Person], dict[str, int], NDArray[np.bool_]]:
    """The N people of a file in the hourglass layout, read by :func:`read_hourglass`.

    Args:
        images: their pictures' names.
        joints: (N, J, 2), in this project's coordinates.
        labelled: bool (N, J).
        centers: (N, 2), counted from 1, as the layout has them.
        scales: (N,), boxes over 200 pixels.
        head_sizes: (N,); whoever has none is left out,
        no_head_size: for this reason.
        splits: split → share of the pictures.

    Returns:
        The people in the file's order, how many were left out by reason, and bool (N,): who was not.
    """
    people = []
    dropped: dict[str, int] = {}
    kept = np.zeros(len(images), np.bool_)
    for i, image in enumerate(images):
        reason = None
        if not labelled[i].any():
            reason = "no labelled joint"
        elif not scales[i] > 0:
            reason = "no scale"
        elif not head_sizes[i] > 0:
            reason = no_head_size
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        kept[i] = True
        people.append(
            Person(
                image=image,
                joints=joints[i].astype(np.float32),
                labelled=labelled[i],
                center=(centers[i] - 0.5).astype(np.float32),
                size=200 * float(scales[i]),
                head_size=float(head_sizes[i]),
                split=image_split(image, splits),
            )
        )
    return people, dropped, kept
