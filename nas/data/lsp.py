"""Leeds Sports Pose Extended: ``joints.mat`` as distributed (Johnson & Everingham 2011).

Coordinates. They are fractional: clicks on a web page, scaled with the picture. No origin is documented and none
can be told from the pictures to better than half a pixel (a third of a percent of a person), but the data speak for
0: over 5,000 people visible joints reach from −1.2 to H − 1.1 and from 0.2 to W − 1.2, eight of them lie below the 0.5
where a picture counted from 1 would begin, one at exactly 0, and joints outside the picture were parked at a y of
exactly 0. So they are taken as they are: distances from the picture's left and top edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.packing import picture_split, read_arrays
from nas.data.people import Person
from nas.errors import UserError

SPLITS: Mapping[str, float] = {"holdout": 0.1, "valid": 0.1, "train": 0.8}
"""Share of the pictures in each split. The dataset itself has none."""

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
    joints, visible = _read_mat(path)
    labelled = visible & (joints >= 0).all(-1) & np.isfinite(joints).all(-1)
    people = []
    dropped = 0
    for index, (points, known) in enumerate(zip(joints, labelled, strict=True)):
        if known.sum() < MIN_LABELLED:
            dropped += 1
            continue
        low, high = points[known].min(0), points[known].max(0)
        size = max(_SMALLEST_BOX, _BOX_PER_SIDE * float((high - low).max()))
        image = f"im{index + 1:05d}.jpg"
        people.append(
            Person(
                image=image,
                joints=points.astype(np.float32),
                labelled=known,
                center=((low + high) / 2).astype(np.float32),
                size=size,
                head_size=_head_size(points, known, size),
                split=picture_split(image, splits),
            )
        )
    if not people:
        raise UserError(f"{path}: nobody has {MIN_LABELLED} visible joints; is this the joints.mat of LSP Extended?")
    return people, {f"fewer than {MIN_LABELLED} labelled joints": dropped} if dropped else {}


def _read_mat(path: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """``joints`` as float64 (N, 14, 2) and visible as bool (N, 14)."""
    remedy = "give the joints.mat of Leeds Sports Pose Extended"
    joints = read_arrays(path, "MATLAB", ["joints"], remedy)["joints"]
    if joints.dtype.kind not in "fiu":
        raise UserError(f"{path}: 'joints' holds {joints.dtype.name}, expected numbers; {remedy}")
    if joints.ndim != 3 or joints.shape[:2] != (14, 3) or joints.shape[2] == 0:
        raise UserError(f"{path}: 'joints' has shape {joints.shape}, expected (14, 3, N); {remedy}")
    people = joints.astype(np.float64).transpose(2, 0, 1)
    visible = people[..., 2]
    if not np.isin(visible, (0, 1)).all():
        raise UserError(f"{path}: 'joints' has visibility flags other than 0 and 1; {remedy}")
    if np.abs(people[visible == 1, :2]).max(initial=0) > 1e5:
        raise UserError(f"{path}: 'joints' has coordinates beyond any picture; {remedy}")
    return people[..., :2], visible == 1


def _head_size(points: NDArray[np.float64], known: NDArray[np.bool_], size: float) -> float:
    if known[[_NECK, _HEAD_TOP]].all():
        head = _HEAD_PER_SEGMENT * float(np.linalg.norm(points[_HEAD_TOP] - points[_NECK]))
    elif known[[_RIGHT_SHOULDER, _LEFT_SHOULDER, _RIGHT_HIP, _LEFT_HIP]].all():
        torso = points[[_RIGHT_SHOULDER, _LEFT_SHOULDER]].mean(0) - points[[_RIGHT_HIP, _LEFT_HIP]].mean(0)
        head = _HEAD_PER_TORSO * float(np.linalg.norm(torso))
    else:
        head = _HEAD_PER_BOX * size
    return max(head, _SMALLEST_HEAD_PER_BOX * size)
