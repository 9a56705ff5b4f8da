"""Leeds Sports Pose and its Extended set: ``joints.mat`` as distributed (Johnson & Everingham 2010, 2011).

Both have the same joints; the shape of ``joints`` tells them apart. LSP, (3, 14, 2000): x, y and whether the joint is
*occluded*; all joints have a position, so all are labelled; person i is in ``im0001.jpg`` (four digits); the first
1,000 are training people and the last 1,000 test people. LSPET, (14, 3, N), N = 10,000: x, y and whether the joint is
*visible*; invisible joints have no usable position; person i is in ``im00001.jpg`` (five digits); there are no test
people.

Coordinates. Those of LSPET are fractional: clicks on a web page, scaled with the image. No origin is documented, and
none can be determined from the images to better than half a pixel (a third of a percent of a person), but the data
suggest 0: over 5,000 people, visible joints range from −1.2 to H − 1.1 and from 0.2 to W − 1.2; eight of them are below
the 0.5 where an image counted from 1 would begin, one is exactly 0, and joints outside the image were placed at a y of
exactly 0. They are therefore used unchanged, as distances from the image's left and top edge. LSP's, which could not be
inspected, are treated the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.people import Person, image_split
from nas.data.readers.parsing import MAX_COORDINATE, joint_distance
from nas.data.readers.sandbox import read_arrays
from nas.data.readers.splits import TRAINING, UNDIVIDED, Annotations
from nas.errors import UserError

MIN_LABELLED = 6
"""People with fewer labelled joints are left out."""

# Side of a person's box over the larger side of the bounding box of their labelled joints …
_BOX_PER_SIDE = 1.25
# … but at least this, in pixels: people are about 150 pixels long; the smallest 0.1 % are below 48.
_MIN_BOX = 40.0

# Ratios of the head size (0.6 × the head box's diagonal). The first is exact on MPII (0.744 to 0.756 for the middle
# 98 % of 2,932 people), where the head segment spans a fixed share of the head box's diagonal. It starts at MPII's
# upper neck; LSP's neck is nearly as high above the shoulders (0.10 of the torso against 0.12; MPII's thorax: 0.00), so
# it applies.
_HEAD_PER_SEGMENT = 0.75
# The others are medians over LSPET people with labelled heads (MPII: 0.44 of the torso and 0.10 of the box).
_HEAD_PER_TORSO = 0.37
_HEAD_PER_BOX = 0.11
# Seen from above, a head's segment is very short, but no head box is. 3 % of LSPET people are below this minimum.
_MIN_HEAD_PER_BOX = 0.05

_RIGHT_HIP, _LEFT_HIP, _RIGHT_SHOULDER, _LEFT_SHOULDER, _NECK, _HEAD_TOP = 2, 3, 8, 9, 12, 13

_LSP_PEOPLE = 2000
_REMEDY = "give the joints.mat of Leeds Sports Pose or of its Extended set"


def read_leeds(path: Path, splits: Mapping[str, float] = UNDIVIDED) -> Annotations:
    """Read people of Leeds Sports Pose or of its Extended set, whichever the file holds.

    In the Extended set, a joint is labelled if it is flagged visible and has no negative coordinate. The box is the
    labelled joints' bounding box, made square and enlarged by 1.25. There are no head boxes: the head size is 0.75 ×
    the distance from neck to head top (exact on MPII); if these are not labelled, 0.37 × the distance between the
    midpoints of shoulders and hips; else 0.11 × the box; and never less than 0.05 × the box.

    Args:
        path: ``joints.mat``, with ``joints`` (3, 14, 2000) or (14, 3, N).
        splits: split → share of the images, for the Extended set. LSP defines its validation people.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    points, labelled, extended = _read_joints(path)
    people = []
    dropped = 0
    for index, (joints, is_labelled) in enumerate(zip(points, labelled, strict=True)):
        if is_labelled.sum() < MIN_LABELLED:
            dropped += 1
            continue
        image = f"im{index + 1:05d}.jpg" if extended else f"im{index + 1:04d}.jpg"
        is_test = not extended and index >= _LSP_PEOPLE // 2
        split = "valid" if is_test else image_split(image, splits if extended else TRAINING)
        people.append(_person(image, joints, is_labelled, split))
    if not people:
        raise UserError(f"{path}: nobody has {MIN_LABELLED} visible joints; {_REMEDY}")
    reasons = {f"fewer than {MIN_LABELLED} labelled joints": dropped} if dropped else {}
    return Annotations(people, reasons, "LSP Extended" if extended else "LSP", defines_validation=not extended)


def _read_joints(path: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_], bool]:
    """Read positions (N, 14, 2), which are labelled (N, 14), and whether they are those of the Extended set."""
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
    if (np.abs(used) > MAX_COORDINATE).any():
        raise UserError(f"{path}: 'joints' has coordinates beyond any image; {_REMEDY}")
    return points, labelled, extended


def _person(image: str, points: NDArray[np.float64], labelled: NDArray[np.bool_], split: str) -> Person:
    low, high = points[labelled].min(0), points[labelled].max(0)
    size = max(_MIN_BOX, _BOX_PER_SIDE * float((high - low).max()))
    return Person(
        image=image,
        joints=points.astype(np.float32),
        labelled=labelled,
        center=((low + high) / 2).astype(np.float32),
        size=size,
        head_size=_head_size(points, labelled, size),
        split=split,
    )


def _head_size(points: NDArray[np.float64], labelled: NDArray[np.bool_], size: float) -> float:
    segment = joint_distance(points, labelled, (_NECK,), (_HEAD_TOP,))
    torso = joint_distance(points, labelled, (_RIGHT_SHOULDER, _LEFT_SHOULDER), (_RIGHT_HIP, _LEFT_HIP))
    if segment is not None:
        head = _HEAD_PER_SEGMENT * segment
    elif torso is not None:
        head = _HEAD_PER_TORSO * torso
    else:
        head = _HEAD_PER_BOX * size
    return max(head, _MIN_HEAD_PER_BOX * size)
