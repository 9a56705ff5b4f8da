"""MPII as distributed by its authors: ``mpii_human_pose_v1_u12_1.mat``.

``RELEASE.annolist(i)`` is an image and ``.annorect(p)`` a person in it, with the corners of the head box, scale,
position and joints. Any of these, and entire lists, may be absent or empty. See :mod:`nas.data.readers.mpii` for the
conventions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import hypot, isnan
from pathlib import Path
from typing import Any

import numpy as np

from nas.data.people import Person, image_split
from nas.data.readers.matlab_struct import read_structs, single
from nas.data.readers.mpii_person import JOINTS, mpii_person
from nas.data.readers.parsing import MAX_COORDINATE, require_people, shorten
from nas.errors import UserError

_REMEDY = "give mpii_human_pose_v1_u12_1.mat as MPII distributes it"
_HEAD_BOX = ("x1", "y1", "x2", "y2")
_FIELDS = (
    "annolist", "image", "name", "annorect", "scale", "objpos", "annopoints", "point", "x", "y", "id", "img_train",
    *_HEAD_BOX,
)  # fmt: skip


class _WrongError(Exception):
    """A field has a wrong value; the message says what was expected."""


def read_mpii_release(path: Path, splits: Mapping[str, float]) -> tuple[list[Person], dict[str, int]]:
    """Read the people of MPII's training images from the original file.

    The joints of its test images (``img_train`` 0) were never published, so their people are left out, as are people
    without labelled joints, scale, position or head box. The file does not define the literature's validation people
    (:func:`nas.data.readers.splits.validate_people` takes them from another file). ``is_visible`` says whether a joint
    is occluded; all joints listed are labelled.

    Args:
        path: the file.
        splits: split → share of the images.

    Returns:
        The people in the file's order, and how many were left out, by reason.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    release = read_structs(path, "RELEASE", _FIELDS, _REMEDY)[0]
    images = release.get("annolist")
    if not isinstance(images, list) or not images or not all(isinstance(image, dict) for image in images):
        raise UserError(f"{path}: RELEASE.annolist is not a list of images; {_REMEDY}")
    training = _flags(release.get("img_train"))
    if len(training) != len(images) or any(flag not in (0, 1) for flag in training):
        raise UserError(f"{path}: RELEASE.img_train is not a 0 or 1 for each of the {len(images)} images; {_REMEDY}")
    people: list[Person] = []
    dropped: Counter[str] = Counter()
    for i, (image, is_training) in enumerate(zip(images, training, strict=True)):
        where = f"RELEASE.annolist({i + 1})"
        rects = image.get("annorect")
        if not isinstance(rects, list):
            raise UserError(f"{path}: {where}.annorect is {shorten(rects)}, expected people; {_REMEDY}")
        for p, rect in enumerate(rects):
            try:
                if not isinstance(rect, dict):
                    raise _WrongError(f" is {shorten(rect)}, expected a person")
                person = _person(rect, image, splits) if is_training else "in a test image"
            except _WrongError as error:
                raise UserError(f"{path}: {where}.annorect({p + 1}){error}; {_REMEDY}") from error
            if isinstance(person, Person):
                people.append(person)
            else:
                dropped[person] += 1
    require_people(path, people, dropped, _REMEDY)
    return people, dict(dropped)


def _person(rect: Mapping[str, Any], image: Mapping[str, Any], splits: Mapping[str, float]) -> Person | str:
    """Convert a struct to a person, or return the reason why it cannot be used."""
    joints = np.zeros((JOINTS, 2))
    labelled = np.zeros(JOINTS, np.bool_)
    for point in _structs(_struct(rect, "annopoints"), "point"):
        joint = _number(point, "id", ".annopoints.point")
        x, y = _number(point, "x", ".annopoints.point"), _number(point, "y", ".annopoints.point")
        if joint is None or x is None or y is None:
            continue
        if joint not in range(JOINTS):
            raise _WrongError(f".annopoints.point.id is {shorten(joint)}, expected 0 to {JOINTS - 1}")
        joints[int(joint)], labelled[int(joint)] = (x, y), True
    if not labelled.any():
        return "no labelled joint"
    scale = _number(rect, "scale")
    if scale is None or scale <= 0:
        return "no scale"
    position = _struct(rect, "objpos")
    x, y = _number(position, "x", ".objpos"), _number(position, "y", ".objpos")
    if x is None or y is None:
        return "no position"
    left, top, right, bottom = (_number(rect, name) for name in _HEAD_BOX)
    if left is None or top is None or right is None or bottom is None or (left, top) == (right, bottom):
        return "no head box"
    name = _image_name(image)
    head_size = 0.6 * hypot(right - left, bottom - top)
    return mpii_person(name, joints, labelled, (x, y), scale, head_size, image_split(name, splits))


def _image_name(image: Mapping[str, Any]) -> str:
    name = single(_struct(image, "image").get("name"))
    if not isinstance(name, str):
        raise _WrongError(f" is in an image whose image.name is {shorten(name)}, expected a text")
    return name


def _number(fields: Mapping[str, Any], key: str, where: str = "") -> float | None:
    """The number in a field; None if the field is missing or empty."""
    value = single(fields.get(key))
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_COORDINATE:
        raise _WrongError(f"{where}.{key} is {shorten(value)}, expected a number of pixels")
    return float(value)


def _struct(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The struct in a field; an empty one if the field is missing or empty."""
    structs = _structs(fields, key)
    return structs[0] if structs else {}


def _structs(fields: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = fields.get(key, [])
    if value in ([], "", [[]]):
        return []
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        raise _WrongError(f".{key} is {shorten(value)}, expected a struct")
    return value


def _flags(value: Any) -> list[Any]:
    """The numbers of a row or column vector, as a list."""
    rows = value if isinstance(value, list) else [[value]]
    return [number for row in rows if isinstance(row, list) for number in row]
