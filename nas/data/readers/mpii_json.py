"""MPII in two JSON layouts: that of HRNet and mmpose, and that of pytorch-pose.

Both are a list of people. See :mod:`nas.data.readers.mpii` for the conventions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter

from nas.data.people import Person, image_split
from nas.data.readers.mpii_person import JOINTS, mpii_person
from nas.data.readers.parsing import Number, Pair, read_json, require_people, validate_json
from nas.data.readers.splits import TRAINING, Annotations
from nas.errors import UserError

_REMEDY = "give MPII annotations as HRNet (train.json, valid.json) or pytorch-pose (mpii_annotations.json) have them"

_Text = Annotated[str, Field(strict=True, min_length=1)]


class _HRNet(BaseModel):
    image: _Text
    joints: Annotated[list[Pair], Field(min_length=JOINTS, max_length=JOINTS)]
    joints_vis: Annotated[list[Annotated[Number, Field(ge=0, le=1)]], Field(min_length=JOINTS, max_length=JOINTS)]
    center: Pair
    scale: Number


class _PytorchPose(BaseModel):
    dataset: str = "MPI"
    isValidation: Annotated[Number, Field(ge=0, le=1)]  # noqa: N815
    img_paths: _Text
    objpos: Pair
    scale_provided: Number
    joint_self: Annotated[
        list[Annotated[list[Number], Field(min_length=3, max_length=3)]], Field(min_length=JOINTS, max_length=JOINTS)
    ]


_HRNET = TypeAdapter(list[_HRNet])
_PYTORCH_POSE = TypeAdapter(list[_PytorchPose])


def read_mpii_json(path: Path, splits: Mapping[str, float]) -> Annotations:
    """Read MPII people from JSON in either layout.

    HRNet's (``image``, ``joints``, ``joints_vis``, ``center``, ``scale``) marks missing joints by −1 and by
    ``joints_vis`` 0. pytorch-pose's (``img_paths``, ``joint_self``, ``objpos``, ``scale_provided``, ``isValidation``)
    sets them to 0, 0, defines the validation people, and rounds to three decimals; its people from other datasets are
    left out. Neither has head boxes; head sizes are derived from the scales.

    Args:
        path: the file.
        splits: split → share of the images, for HRNet's layout.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    value = read_json(path, _REMEDY)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        raise UserError(f"{path}: not a list of people; {_REMEDY}")
    if "joint_self" in value[0]:
        people, dropped = _read_pytorch_pose(path, value)
        content = Annotations(people, dropped, "pytorch-pose's JSON", defines_validation=True)
    elif "joints_vis" in value[0]:
        people, dropped = _read_hrnet(path, value, splits)
        content = Annotations(people, dropped, "HRNet's JSON", defines_validation=False)
    else:
        keys = ", ".join(list(value[0])[:8])
        raise UserError(f"{path}: its people have neither 'joints_vis' nor 'joint_self' but {keys[:80]!r}; {_REMEDY}")
    require_people(path, people, dropped, _REMEDY)
    return content


def _read_hrnet(path: Path, value: Any, splits: Mapping[str, float]) -> tuple[list[Person], dict[str, int]]:
    people = []
    dropped: Counter[str] = Counter()
    for raw in validate_json(path, _HRNET, value, _REMEDY):
        joints = np.array(raw.joints, np.float64)
        labelled = (np.array(raw.joints_vis) > 0) & (joints != -1).any(-1)
        if reason := _unusable(bool(labelled.any()), raw.scale):
            dropped[reason] += 1
            continue
        split = image_split(raw.image, splits)
        people.append(mpii_person(raw.image, joints, labelled, raw.center, raw.scale, None, split))
    return people, dict(dropped)


def _read_pytorch_pose(path: Path, value: Any) -> tuple[list[Person], dict[str, int]]:
    people = []
    dropped: Counter[str] = Counter()
    for raw in validate_json(path, _PYTORCH_POSE, value, _REMEDY):
        joints = np.array(raw.joint_self, np.float64)[:, :2]
        labelled = (joints != 0).any(-1)
        reason = _unusable(bool(labelled.any()), raw.scale_provided)
        if not raw.dataset.upper().startswith("MPI"):
            reason = "not from MPII"
        if reason:
            dropped[reason] += 1
            continue
        split = "valid" if raw.isValidation else image_split(raw.img_paths, TRAINING)
        people.append(mpii_person(raw.img_paths, joints, labelled, raw.objpos, raw.scale_provided, None, split))
    return people, dict(dropped)


def _unusable(any_labelled: bool, scale: float) -> str | None:
    """Why a person cannot be used; None if they can."""
    if not any_labelled:
        return "no labelled joint"
    return None if scale > 0 else "no scale"
