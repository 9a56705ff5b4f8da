"""Frames Labeled in Cinema (Sapp & Taskar 2013): the hourglass code's HDF5, and the original ``examples.mat``.

Left and right. FLIC was published *observer-centric*: "left" is the left of an upright person who faces the camera, on
people seen from behind too. *Person-centric* files change left and right on these. Which one a file is can be told from
it: among 5,003 observer-centric people, nobody's left shoulder or hip lies further left in the picture than the right
one; among as many person-centric ones, 247 people's do. ``normalize``, always the person's own right shoulder to left
hip, gives an observer-centric file away by those people as well.

Coordinates. Both formats hold MATLAB's, clicks on enlarged pictures that were scaled back: fractions whose origin
cannot be told from the data. They are taken to be counted from 1, as MATLAB draws them, so 0.5 comes off; half a pixel
is 0.3 % of the median torso.

Boxes are those of the hourglass code: 440 pixels wide, about the torso box's middle in x and 240 in y.

Head sizes. There are no head boxes. The head size is 0.4 × the torso (right shoulder to left hip, ``normalize``), for
then PCKh@0.5, at 0.5 × head size, is the literature's PCK at 0.2 of the torso. A head does measure about that much:
0.44 of the torso on MPII, 0.37 on LSP Extended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person, image_split
from nas.data.readers.hourglass_hdf5 import hourglass_people, read_hourglass
from nas.data.readers.matlab_struct import read_structs, single
from nas.data.readers.parsing import LARGEST, distance, file_format, short
from nas.data.readers.splits import TRAINING, Annotations
from nas.data.skeletons import FLIC
from nas.errors import UserError

_REMEDY = "give FLIC's examples.mat, or its train.h5 and valid.h5 of the hourglass code"
_HEAD_PER_TORSO = 0.4
_CENTER_Y, _BOX = 240.0, 440.0
_FIELDS = ("coords", "filepath", "torsobox", "istrain", "istest")
# Where our 11 joints stand among the 29 columns of the original: lsho lelb lwri rsho relb rwri lhip (lkne lank) rhip
# (rkne rank) leye reye (lear rear) nose, then 12 middles that nobody clicked on.
_COLUMNS = [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16]
_RIGHT_AND_LEFT = ((3, 0), (7, 6))  # shoulders, hips
_TORSO = (3, 6)
_ENOUGH = 200  # people; if 5 % are seen from behind, none among so many is a chance of 1 in 28,000

PERSON, OBSERVER, EITHER = "person-centric", "observer-centric", "person-centric or observer-centric"
"""Whose left and right it is. The last: nobody is seen from behind, so both are the same."""


def read_flic(path: Path, splits: Mapping[str, float]) -> tuple[Annotations, str]:
    """Read FLIC people from either format, recognised by its content.

    Args:
        path: HDF5 in the hourglass layout, or ``examples.mat``, which says itself who is validated (``istest``).
        splits: split → share of the pictures, for the HDF5.

    Returns:
        What was found, and whose left and right it is: :data:`PERSON`, :data:`OBSERVER` or :data:`EITHER`.

    Raises:
        UserError: the file is missing, damaged or in neither format.
    """
    kind = file_format(path, _REMEDY)
    if kind == "HDF5":
        return _read_hourglass(path, splits)
    if kind == "MATLAB":
        return _read_examples(path)
    raise UserError(f"{path}: JSON, which no FLIC annotations are; {_REMEDY}")


def _read_hourglass(path: Path, splits: Mapping[str, float]) -> tuple[Annotations, str]:
    images, part, centers, scales, torsos = read_hourglass(path, len(FLIC.joints), _REMEDY)
    labelled: NDArray[np.bool_] = np.any(part != 0, axis=-1)
    people, dropped, kept = hourglass_people(
        images, part - 0.5, labelled, centers, scales, _HEAD_PER_TORSO * torsos, "no torso", splits
    )
    _somebody(path, people, dropped)
    off = np.abs(np.linalg.norm(part[:, _TORSO[0]] - part[:, _TORSO[1]], axis=-1) - torsos)
    swapped = bool((off > 0.5)[kept & labelled[:, list(_TORSO)].all(-1)].any())
    whose = _whose_left(people)
    if swapped:
        if whose == PERSON:
            raise UserError(
                f"{path}: 'normalize' says observer-centric joints, 'part' person-centric ones; mend it, or {_REMEDY}"
            )
        whose = OBSERVER
    return Annotations(people, dropped, "the hourglass code's HDF5", defines_validation=False), whose


def _read_examples(path: Path) -> tuple[Annotations, str]:
    people = []
    dropped: dict[str, int] = {}
    for i, raw in enumerate(read_structs(path, "examples", _FIELDS, _REMEDY)):
        where = f"{path}: examples({i + 1})"
        image = single(raw.get("filepath"))
        if not isinstance(image, str):
            raise UserError(f"{where}.filepath is {short(image)}, expected a picture's name; {_REMEDY}")
        coords = _numbers(where, raw, "coords", (2, 29))[:, _COLUMNS].T
        torso_box = _numbers(where, raw, "torsobox", (1, 4)).ravel()
        is_train, is_test = (bool(_numbers(where, raw, name, (1, 1)).item()) for name in ("istrain", "istest"))
        labelled: NDArray[np.bool_] = np.all(np.isfinite(coords), axis=-1)
        joints = np.where(labelled[:, None], coords - 0.5, 0)
        torso = distance(joints, labelled, _TORSO[:1], _TORSO[1:])
        reason = None
        if not (is_train or is_test):
            reason = "neither training nor test"
        elif torso is None or torso == 0:
            reason = "no torso"
        elif not np.isfinite(torso_box).all():
            reason = "no torso box"
        if reason or torso is None:
            dropped[str(reason)] = dropped.get(str(reason), 0) + 1
            continue
        people.append(
            Person(
                image=image,
                joints=joints.astype(np.float32),
                labelled=labelled,
                center=np.array([torso_box[[0, 2]].mean() - 0.5, _CENTER_Y - 0.5], np.float32),
                size=_BOX,
                head_size=_HEAD_PER_TORSO * torso,
                split="valid" if is_test else image_split(image, TRAINING),
            )
        )
    _somebody(path, people, dropped)
    return Annotations(people, dropped, "the original FLIC release", defines_validation=True), _whose_left(people)


def _whose_left(people: Sequence[Person]) -> str:
    for right, left in _RIGHT_AND_LEFT:
        if any(p.labelled[[right, left]].all() and p.joints[left, 0] < p.joints[right, 0] for p in people):
            return PERSON
    return OBSERVER if len(people) >= _ENOUGH else EITHER


def _somebody(path: Path, people: Sequence[Person], dropped: Mapping[str, int]) -> None:
    if not people:
        raise UserError(f"{path}: nobody in it can be used ({', '.join(dropped)}); {_REMEDY}")


def _numbers(where: str, fields: Mapping[str, Any], key: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A field's matrix; what is not known in it is NaN."""
    value = fields.get(key, "missing")
    try:
        numbers = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}.{key} is {short(value)}, expected numbers {shape}; {_REMEDY}") from error
    if numbers.shape == () and shape == (1, 1):
        numbers = numbers.reshape(shape)
    if numbers.shape != shape:
        raise UserError(f"{where}.{key} has shape {numbers.shape}, expected {shape}; {_REMEDY}")
    if (np.abs(numbers) >= LARGEST).any():
        raise UserError(f"{where}.{key} holds values beyond any picture; {_REMEDY}")
    return numbers
