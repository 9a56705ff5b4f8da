"""The HDF5 layout of the hourglass code (Newell et al. 2016), used for MPII and FLIC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person, image_split
from nas.data.readers.parsing import MAX_COORDINATE
from nas.data.readers.sandbox import read_arrays
from nas.errors import UserError


@dataclass(frozen=True, eq=False)
class HourglassFile:
    """Raw content of a file of N people, float64; positions are counted from 1.

    Attributes:
        images: the images' names (``imgname``).
        joints: (N, J, 2), positions of the joints (``part``).
        centers: (N, 2), centres of the boxes (``center``).
        scales: (N,), sides of the boxes over 200 pixels (``scale``).
        normalizers: (N,), lengths that errors are divided by (``normalize``).
    """

    images: list[str]
    joints: NDArray[np.float64]
    centers: NDArray[np.float64]
    scales: NDArray[np.float64]
    normalizers: NDArray[np.float64]


def read_hourglass(path: Path, joints: int, remedy: str) -> HourglassFile:
    """Read the raw content of a file, and check that all values are plausible pixels.

    Args:
        path: HDF5 with ``imgname``, ``part`` (N, J, 2), ``center`` (N, 2), ``scale`` and ``normalize`` (N,).
        joints: J.
        remedy: what to do about a wrong file; the end of error messages.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    arrays = read_arrays(path, "HDF5", ["imgname", "part", "center", "scale", "normalize"], remedy)
    names = arrays["imgname"]
    if names.ndim != 1 or not len(names) or names.dtype.kind not in "SU":
        raise UserError(f"{path}: 'imgname' is {names.dtype.name} {names.shape}, expected texts (N,); {remedy}")
    images = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
    people = len(images)

    def numbers(name: str, *shape: int) -> NDArray[np.float64]:
        values = arrays[name]
        if values.shape != shape or values.dtype.kind not in "fiu":
            actual = f"{values.dtype.name} {values.shape}"
            raise UserError(f"{path}: {name!r} is {actual}, expected numbers {shape}; {remedy}")
        if not (np.abs(values) < MAX_COORDINATE).all():
            raise UserError(f"{path}: {name!r} holds values beyond any image; {remedy}")
        return values.astype(np.float64)

    part, center = numbers("part", people, joints, 2), numbers("center", people, 2)
    return HourglassFile(images, part, center, numbers("scale", people), numbers("normalize", people))


@dataclass(frozen=True, eq=False)
class HourglassPeople:
    """Usable people of a file.

    Attributes:
        people: in the file's order.
        dropped: number of people left out, by reason.
        used: bool (N,), False for people left out.
    """

    people: list[Person]
    dropped: dict[str, int]
    used: NDArray[np.bool_]


def hourglass_people(
    file: HourglassFile,
    joints: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    head_sizes: NDArray[np.float64],
    missing_head_size: str,
    splits: Mapping[str, float],
) -> HourglassPeople:
    """Convert the raw content of a file to people.

    Args:
        file: images, centres and scales of N people.
        joints: (N, J, 2), in this project's coordinates.
        labelled: bool (N, J).
        head_sizes: (N,); people without a positive one are left out.
        missing_head_size: the reason to give for that.
        splits: split → share of the images.
    """
    people = []
    dropped: dict[str, int] = {}
    used = np.zeros(len(file.images), np.bool_)
    for i, image in enumerate(file.images):
        reason = None
        if not labelled[i].any():
            reason = "no labelled joint"
        elif not file.scales[i] > 0:
            reason = "no scale"
        elif not head_sizes[i] > 0:
            reason = missing_head_size
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        used[i] = True
        people.append(
            Person(
                image=image,
                joints=joints[i].astype(np.float32),
                labelled=labelled[i],
                center=(file.centers[i] - 0.5).astype(np.float32),
                size=200 * float(file.scales[i]),
                head_size=float(head_sizes[i]),
                split=image_split(image, splits),
            )
        )
    return HourglassPeople(people, dropped, used)
