"""Leeds Sports Pose and its Extended set: ``joints.mat`` as distributed (Johnson & Everingham 2010, 2011).

The two have the same joints and differ in the rest, beginning with the shape of ``joints``, by which they are told
apart. LSP, (3, 14, 2000): x, y and whether the joint is *occluded*; all joints carry a position, so all are labelled;
person i is on ``im0001.jpg`` (four digits), the first 1,000 are to train on and the last 1,000 to test. LSPET,
(14, 3, N), N = 10,000: x, y and whether the joint is *visible*; invisible ones carry no usable position; person i is on
``im00001.jpg`` (five digits); it has no test people.

Coordinates. Those of LSPET are fractional: clicks on a web page, scaled with the picture. No origin is documented and
none can be told from the pictures to better than half a pixel (a third of a percent of a person), but the data speak
for 0: over 5,000 people visible joints reach from −1.2 to H − 1.1 and from 0.2 to W − 1.2, eight of them lie below
the 0.5 where a picture counted from 1 would begin, one at exactly 0, and joints outside the picture were parked at a
y of exactly 0. So they are taken as they are: distances from the picture's left and top edge. LSP's, which
nobody could look at here, are taken alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person, image_split
from nas.data.readers.parsing import LARGEST, distance
from nas.data.readers.sandbox import read_arrays
from nas.data.readers.splits import TRAINING, UNDIVIDED, Annotations
from nas.errors import UserError

SPLITS: Mapping[str, float] = UNDIVIDED
"""Share of LSPET's pictures in each split. The dataset itself has none."""

MIN_LABELLED = 6
"""People with fewer labelled joints are left out."""

# The box around a person is their labelled joints' bounding box, larger side, times this …
_BOX_PER_SIDE = 1.25
# … but not smaller than this, in pixels: people are about 150 pixels long, 48 is the smallest 0.1 % of them.
_SMALLEST_BOX = 40.0

# Head sizes (0.6 × the head box's diagonal), the first exact on MPII (the middle 98 % of 2,932 people: 0.744 to 0.756),
# whose head boxes the head segment spans at a fixed share of the diagonal. There the neck is the upper neck; LSP's
# stands nearly as high over the shoulders (0.10 of the torso against 0.12; MPII's thorax: 0.00), so it carries over.
_HEAD_PER_SEGMENT = 0.75
# The others are medians over LSPET people with the head labelled (MPII: 0.44 of the torso and 0.10 of the box).
_HEAD_PER_TORSO = 0.37
_HEAD_PER_BOX = 0.11
# A head seen from above has almost no segment; no head box is that small. 3 % of LSPET people come under it.
_SMALLEST_HEAD_PER_BOX = 0.05

_RIGHT_HIP, _LEFT_HIP, _RIGHT_SHOULDER, _LEFT_SHOULDER, _NECK, _HEAD_TOP = 2, 3, 8, 9, 12, 13


_LSP_PEOPLE = 2000
_REMEDY = "give the joints.mat of Leeds Sports Pose or of its Extended set"


def read_leeds(path: Path, splits: Mapping[str, float] = SPLITS) -> Annotations:
    """Read people of Leeds Sports Pose or of its Extended set, whichever the file holds.

    Boxes and head sizes are those of :func:`read_lspet`, for both.

    Args:
        path: ``joints.mat``, with ``joints`` (3, 14, 2000) or (14, 3, N).
        splits: split → share of the pictures, for the Extended set. LSP says itself who is validated.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    joints = read_arrays(path, "MATLAB", ["joints"], _REMEDY)["joints"]
    if joints.dtype.kind not in "fiu":
        raise UserError(f"{path}: 'joints' holds {joints.dtype.name}, expected numbers; {_REMEDY}")
    extended = joints.ndim == 3 and joints.shape[:2] == (14, 3) and joints.shape[2] > 0
    if not extended and joints.shape != (3, 14, _LSP_PEOPLE):
        expected = f"(14, 3, N), or (3, 14, {_LSP_PEOPLE})"
        raise UserError(f"{path}: 'joints' has shape {joints.shape}, expected {expected}; {_REMEDY}")
    rows = joints.astype(np.float64).transpose(2, 0, 1) if extended else joints.astype(np.float64).transpose(2, 1, 0)
    points, flags = rows[..., :2], rows[..., 2]
    if not np.isin(flags, (0, 1)).all():
        what = "visibility" if extended else "occlusion"
        raise UserError(f"{path}: 'joints' has {what} flags other than 0 and 1; {_REMEDY}")
    labelled: NDArray[np.bool_] = np.all(np.isfinite(points), axis=-1)
    if extended:
        labelled &= (flags == 1) & (points >= 0).all(-1)
    used = points[flags == 1] if extended else points
    if (np.abs(used) > LARGEST).any():
        raise UserError(f"{path}: 'joints' has coordinates beyond any picture; {_REMEDY}")
    people = []
    dropped = 0
    for index, (place, known) in enumerate(zip(points, labelled, strict=True)):
        if known.sum() < MIN_LABELLED:
            dropped += 1
            continue
        image = f"im{index + 1:05d}.jpg" if extended else f"im{index + 1:04d}.jpg"
        tested = not extended and index >= _LSP_PEOPLE // 2
        split = "valid" if tested else image_split(image, splits if extended else TRAINING)
        people.append(_person(image, place, known, split))
    if not people:
        raise UserError(f"{path}: nobody has {MIN_LABELLED} visible joints; {_REMEDY}")
    reasons = {f"fewer than {MIN_LABELLED} labelled joints": dropped} if dropped else {}
    return Annotations(people, reasons, "LSP Extended" if extended else "LSP", defines_validation=not extended)


def read_lspet(path: Path, splits: Mapping[str, float] = SPLITS) -> tuple[list[Person], dict[str, int]]:
    """Read the people of Leeds Sports Pose Extended, person i from picture ``im{i:05d}.jpg``.

    A joint is labelled when it is flagged visible and has no negative coordinate. The box is the labelled joints'
    bounding box, made square and 1.25 times as large. The dataset has no head boxes: the head size is 0.75 × the
    distance from neck to head top (which holds exactly on MPII); where these are not labelled, 0.37 × the distance
    between the middles of shoulders and hips; else 0.11 × the box; and never less than 0.05 × the box.

    Args:
        path: ``joints.mat``, with ``joints`` (14, 3, N): x, y and visibility.
        splits: split → share of the pictures.

    Returns:
        The people in the file's order, and how many were left out, by reason.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    found = read_leeds(path, splits)
    if found.defines_validation:
        raise UserError(f"{path}: 'joints' is that of LSP, expected (14, 3, N); give the joints.mat of LSP Extended")
    return found.people, found.dropped


def _person(image: str, points: NDArray[np.float64], known: NDArray[np.bool_], split: str) -> Person:
    low, high = points[known].min(0), points[known].max(0)
    size = max(_SMALLEST_BOX, _BOX_PER_SIDE * float((high - low).max()))
    return Person(
        image=image,
        joints=points.astype(np.float32),
        labelled=known,
        center=((low + high) / 2).astype(np.float32),
        size=size,
        head_size=_head_size(points, known, size),
        split=split,
    )


def _head_size(points: NDArray[np.float64], known: NDArray[np.bool_], size: float) -> float:
    segment = distance(points, known, (_NECK,), (_HEAD_TOP,))
    torso = distance(points, known, (_RIGHT_SHOULDER, _LEFT_SHOULDER), (_RIGHT_HIP, _LEFT_HIP))
    if segment is not None:
        head = _HEAD_PER_SEGMENT * segment
    elif torso is not None:
        head = _HEAD_PER_TORSO * torso
    else:
        head = _HEAD_PER_BOX * size
    return max(head, _SMALLEST_HEAD_PER_BOX * size)
