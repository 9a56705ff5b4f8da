"""Frames Labeled in Cinema (Sapp & Taskar 2013): the hourglass code's HDF5, and the original ``examples.mat``.

Left and right. FLIC was published *observer-centric*: "left" is the left side of an upright person who faces the
camera, even for people seen from behind. *Person-centric* files swap left and right for these people. The content of a
file shows which convention it follows: among 5,003 observer-centric people, nobody's left shoulder or hip is further
left in the image than the right one; among as many person-centric ones, this holds for 247 people. ``normalize``,
always the distance from the person's own right shoulder to left hip, also reveals an observer-centric file by these
people.

Coordinates. Both formats hold MATLAB's: clicks on enlarged images that were scaled back, so fractions whose origin
cannot be determined from the data. They are assumed to be counted from 1, as MATLAB draws them, so 0.5 is subtracted;
half a pixel is 0.3 % of the median torso.

Boxes are those of the hourglass code: 440 pixels wide, centred on the torso box in x and on 240 in y.

Head sizes. There are no head boxes. The head size is 0.4 × the torso (right shoulder to left hip, ``normalize``), so
that PCKh@0.5, at 0.5 × head size, equals the literature's PCK@0.2 of the torso. Real heads measure about that much:
0.44 of the torso on MPII, 0.37 on LSP Extended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person, image_split
from nas.data.readers.hourglass_hdf5 import hourglass_people, read_hourglass
from nas.data.readers.matlab_struct import read_structs, single
from nas.data.readers.parsing import MAX_COORDINATE, file_format, joint_distance, require_people, shorten
from nas.data.readers.splits import TRAINING, Annotations
from nas.data.skeletons import FLIC
from nas.errors import UserError

_REMEDY = "give FLIC's examples.mat, or its train.h5 and valid.h5 of the hourglass code"
_HEAD_PER_TORSO = 0.4
_CENTER_Y, _BOX = 240.0, 440.0
_FIELDS = ("coords", "filepath", "torsobox", "istrain", "istest")
# Columns of our 11 joints among the 29 of the original: lsho lelb lwri rsho relb rwri lhip (lkne lank) rhip
# (rkne rank) leye reye (lear rear) nose, then 12 midpoints that were not annotated.
_COLUMNS = [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16]
_RIGHT_LEFT_PAIRS = ((3, 0), (7, 6))  # shoulders, hips
_TORSO = (3, 6)
_ENOUGH = 200  # people; if 5 % are seen from behind, the chance of none among this many is 1 in 28,000

PERSON, OBSERVER, EITHER = "person-centric", "observer-centric", "person-centric or observer-centric"
"""Conventions of left and right. The last: nobody is seen from behind, so both are the same."""


def read_flic(path: Path, splits: Mapping[str, float]) -> tuple[Annotations, str]:
    """Read FLIC people from either format, recognised from its content.

    Args:
        path: HDF5 in the hourglass layout, or ``examples.mat``, which defines the validation people (``istest``).
        splits: split → share of the images, for the HDF5.

    Returns:
        The people, and the convention of left and right: :data:`PERSON`, :data:`OBSERVER` or :data:`EITHER`.

    Raises:
        UserError: the file is missing, damaged or in neither format.
    """
    kind = file_format(path, _REMEDY)
    if kind == "HDF5":
        return _read_hourglass(path, splits)
    if kind == "MATLAB":
        return _read_examples(path)
    raise UserError(f"{path}: JSON, which is not a format of FLIC annotations; {_REMEDY}")


def _read_hourglass(path: Path, splits: Mapping[str, float]) -> tuple[Annotations, str]:
    file = read_hourglass(path, len(FLIC.joints), _REMEDY)
    labelled: NDArray[np.bool_] = np.any(file.joints != 0, axis=-1)
    head_sizes = _HEAD_PER_TORSO * file.normalizers
    result = hourglass_people(file, file.joints - 0.5, labelled, head_sizes, "no torso", splits)
    require_people(path, result.people, result.dropped, _REMEDY)
    torsos = np.linalg.norm(file.joints[:, _TORSO[0]] - file.joints[:, _TORSO[1]], axis=-1)
    differs = np.abs(torsos - file.normalizers) > 0.5
    is_observer_centric = bool(differs[result.used & labelled[:, list(_TORSO)].all(-1)].any())
    convention = _convention(result.people)
    if is_observer_centric:
        if convention == PERSON:
            raise UserError(
                f"{path}: observer-centric joints according to 'normalize', person-centric ones according to 'part'; "
                f"correct it, or {_REMEDY}"
            )
        convention = OBSERVER
    contents = Annotations(result.people, result.dropped, "the hourglass code's HDF5", defines_validation=False)
    return contents, convention


def _read_examples(path: Path) -> tuple[Annotations, str]:
    people = []
    dropped: Counter[str] = Counter()
    for i, raw in enumerate(read_structs(path, "examples", _FIELDS, _REMEDY)):
        where = f"{path}: examples({i + 1})"
        image = single(raw.get("filepath"))
        if not isinstance(image, str):
            raise UserError(f"{where}.filepath is {shorten(image)}, expected an image's name; {_REMEDY}")
        coords = _numbers(where, raw, "coords", (2, 29))[:, _COLUMNS].T
        torso_box = _numbers(where, raw, "torsobox", (1, 4)).ravel()
        is_train, is_test = (bool(_numbers(where, raw, name, (1, 1)).item()) for name in ("istrain", "istest"))
        labelled: NDArray[np.bool_] = np.all(np.isfinite(coords), axis=-1)
        joints = np.where(labelled[:, None], coords - 0.5, 0)
        torso = joint_distance(joints, labelled, _TORSO[:1], _TORSO[1:])
        reason = None
        if not (is_train or is_test):
            reason = "neither training nor test"
        elif torso is None or torso == 0:
            reason = "no torso"
        elif not np.isfinite(torso_box).all():
            reason = "no torso box"
        if reason or torso is None:
            dropped[str(reason)] += 1
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
    require_people(path, people, dropped, _REMEDY)
    content = Annotations(people, dict(dropped), "the original FLIC release", defines_validation=True)
    return content, _convention(people)


def _convention(people: Sequence[Person]) -> str:
    """The convention of left and right, from people seen from behind."""
    for right, left in _RIGHT_LEFT_PAIRS:
        if any(p.labelled[[right, left]].all() and p.joints[left, 0] < p.joints[right, 0] for p in people):
            return PERSON
    return OBSERVER if len(people) >= _ENOUGH else EITHER


def _numbers(where: str, fields: Mapping[str, Any], key: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A field as a matrix; missing values are NaN."""
    value = fields.get(key, "missing")
    try:
        numbers = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}.{key} is {shorten(value)}, expected numbers {shape}; {_REMEDY}") from error
    if numbers.shape == () and shape == (1, 1):
        numbers = numbers.reshape(shape)
    if numbers.shape != shape:
        raise UserError(f"{where}.{key} has shape {numbers.shape}, expected {shape}; {_REMEDY}")
    if (np.abs(numbers) >= MAX_COORDINATE).any():
        raise UserError(f"{where}.{key} holds values beyond any image; {_REMEDY}")
    return numbers
