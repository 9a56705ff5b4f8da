"""Anybody's people in the layout of COCO keypoints, with a skeleton of one's own.

The skeleton is a TOML file (:func:`read_skeleton`)::

    name = "arm"
    joints = ["left shoulder", "left wrist", "right shoulder", "right wrist", "left hip", "right hip"]
    flip_pairs = [["left shoulder", "right shoulder"], ["left wrist", "right wrist"], ["left hip", "right hip"]]
    limbs = [["left shoulder", "left wrist"], ["right shoulder", "right wrist"]]  # drawn as lines
    torso = ["left shoulder", "right hip"]                                        # may be left out

    [groups]              # accuracy is reported for each; a joint in none of them is not scored
    shoulder = ["left shoulder", "right shoulder"]
    wrist = ["left wrist", "right wrist"]

Coordinates. COCO's keypoints name pixels, counted from 0, so 0.5 goes onto them; its boxes are measured from the
picture's corner and taken as they are.

Boxes are the annotation's ``bbox``, made square and 1.25 times as large; without one, that of the labelled joints.

Head sizes. COCO has no head boxes. The head size is 0.4 × the torso where the skeleton has one and both its joints are
labelled, so that PCKh@0.5 is PCK at 0.2 of the torso; else 0.11 × the box, as on LSP Extended; and never less than
0.05 × the box.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from nas.data.people import Person, image_split
from nas.data.readers.parsing import Number, distance, read_json, short, validated
from nas.data.readers.splits import Annotations
from nas.data.skeletons import Skeleton
from nas.errors import UserError

_REMEDY = "give annotations in COCO's keypoint layout (person_keypoints_….json)"
_BOX_PER_SIDE = 1.25
_HEAD_PER_TORSO = 0.4
_HEAD_PER_BOX = 0.11
_SMALLEST_HEAD_PER_BOX = 0.05

_Text = Annotated[str, Field(strict=True, min_length=1)]
_Id = Annotated[int, Field(strict=True)] | Annotated[str, Field(strict=True)]
_NamePair = Annotated[list[_Text], Field(min_length=2, max_length=2)]


class _SkeletonFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: _Text
    joints: Annotated[list[_Text], Field(min_length=1)]
    flip_pairs: list[_NamePair] = []
    limbs: list[_NamePair] = []
    torso: _NamePair | None = None
    groups: Annotated[dict[str, Annotated[list[_Text], Field(min_length=1)]], Field(min_length=1)]


class _Image(BaseModel):
    id: _Id
    file_name: _Text


class _Category(BaseModel):
    id: _Id
    keypoints: list[_Text] | None = None


class _Annotation(BaseModel):
    image_id: _Id
    category_id: _Id
    keypoints: list[Number] | None = None
    bbox: Annotated[list[Number], Field(min_length=4, max_length=4)] | None = None
    iscrowd: Literal[0, 1] = 0


class _Coco(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


_COCO = TypeAdapter(_Coco)
_SKELETON = TypeAdapter(_SkeletonFile)


def read_skeleton(path: Path) -> Skeleton:
    """Read a skeleton from TOML: see the module's example.

    Raises:
        UserError: the file is missing, no TOML, has unknown or missing keys, or names a joint that it does not list.
    """
    remedy = "correct the skeleton; nas/data/README.md has an example"
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {remedy}")
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML ({' '.join(str(error).split())[:100]}); {remedy}") from error
    raw = validated(path, _SKELETON, content, remedy)
    places = {joint: index for index, joint in enumerate(raw.joints)}
    if len(places) < len(raw.joints):
        twice = next(joint for index, joint in enumerate(raw.joints) if places[joint] != index)
        raise UserError(f"{path}: joints holds {short(twice)} twice; {remedy}")

    def indices(key: str, names: list[str]) -> tuple[int, ...]:
        for name in names:
            if name not in places:
                raise UserError(f"{path}: {key} names {short(name)}, which is not in joints; {remedy}")
        if len(set(names)) < len(names):
            raise UserError(f"{path}: {key} names a joint twice, {short(names)}; {remedy}")
        return tuple(places[name] for name in names)

    def pairs(key: str, names: list[list[str]]) -> tuple[tuple[int, int], ...]:
        found = [indices(f"{key}[{i}]", pair) for i, pair in enumerate(names)]
        return tuple((a, b) for a, b in found)

    flip_pairs = pairs("flip_pairs", raw.flip_pairs)
    paired = [joint for pair in flip_pairs for joint in pair]
    for joint in paired:
        if paired.count(joint) > 1:
            raise UserError(f"{path}: flip_pairs names {short(raw.joints[joint])} in two pairs; {remedy}")
    torso = pairs("torso", [raw.torso])[0] if raw.torso else None
    groups = {name: indices(f"groups.{name}", joints) for name, joints in raw.groups.items()}
    return Skeleton(raw.name, tuple(raw.joints), flip_pairs, pairs("limbs", raw.limbs), groups, torso)


def read_coco(path: Path, skeleton: Skeleton, splits: Mapping[str, float]) -> Annotations:
    """Read people from COCO's keypoint layout.

    Where an annotation's category names its ``keypoints``, the skeleton's joints are found among them by name; else
    they must be as many, in the same order. A joint is labelled unless its flag v is 0. Crowds (``iscrowd``) and people
    without keypoints are left out.

    Args:
        path: JSON with ``images``, ``annotations`` and ``categories``.
        skeleton: the joints to take.
        splits: split → share of the pictures.

    Raises:
        UserError: the file is missing, damaged, of another layout or of another skeleton.
    """
    raw = validated(path, _COCO, read_json(path, _REMEDY), _REMEDY)
    images = {image.id: image.file_name for image in raw.images}
    categories = {category.id: category for category in raw.categories}
    orders: dict[int | str, tuple[list[int], int]] = {}
    people = []
    dropped: dict[str, int] = {}
    for i, annotation in enumerate(raw.annotations):
        where = f"{path}: annotations[{i}]"
        if annotation.image_id not in images:
            raise UserError(f"{where}.image_id is {short(annotation.image_id)}, which is not in images; {_REMEDY}")
        if annotation.category_id not in categories:
            wrong = short(annotation.category_id)
            raise UserError(f"{where}.category_id is {wrong}, which is not in categories; {_REMEDY}")
        if annotation.iscrowd or not annotation.keypoints:
            reason = "a crowd" if annotation.iscrowd else "no keypoints"
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        if annotation.category_id not in orders:
            orders[annotation.category_id] = _order(path, categories[annotation.category_id], skeleton)
        columns, count = orders[annotation.category_id]
        if len(annotation.keypoints) != 3 * count:
            raise UserError(
                f"{where}.keypoints holds {len(annotation.keypoints)} numbers, expected {3 * count} (x, y, v of "
                f"{count} joints); {_REMEDY}, or another --skeleton"
            )
        keypoints = np.array(annotation.keypoints, np.float64).reshape(-1, 3)[columns]
        image = images[annotation.image_id]
        outcome = _person(image, keypoints, annotation.bbox, skeleton, image_split(image, splits))
        if isinstance(outcome, Person):
            people.append(outcome)
        else:
            dropped[outcome] = dropped.get(outcome, 0) + 1
    if not people:
        raise UserError(f"{path}: nobody in it can be used ({', '.join(dropped) or 'no annotations'}); {_REMEDY}")
    return Annotations(people, dropped, "COCO's keypoint layout", defines_validation=False)


def _order(path: Path, category: _Category, skeleton: Skeleton) -> tuple[list[int], int]:
    """Where the skeleton's joints stand among a category's keypoints, and how many of these there are."""
    if category.keypoints is None:
        return list(range(len(skeleton.joints))), len(skeleton.joints)
    for joint in skeleton.joints:
        if joint not in category.keypoints:
            names = ", ".join(category.keypoints)
            raise UserError(
                f"{path}: category {short(category.id)} has no keypoint {short(joint)}, a joint of skeleton "
                f"{skeleton.name!r}; name joints as the file does: {names[:400]}"
            )
    return [category.keypoints.index(joint) for joint in skeleton.joints], len(category.keypoints)


def _person(
    image: str, keypoints: NDArray[np.float64], bbox: list[float] | None, skeleton: Skeleton, split: str
) -> Person | str:
    """A person, or why they cannot be used."""
    labelled: NDArray[np.bool_] = keypoints[:, 2] > 0
    if not labelled.any():
        return "no labelled joint"
    joints = keypoints[:, :2] + 0.5
    if bbox and min(bbox[2:]) > 0:
        low, high = np.array(bbox[:2]), np.array(bbox[:2]) + bbox[2:]
    else:
        low, high = joints[labelled].min(0), joints[labelled].max(0)
    size = _BOX_PER_SIDE * float((high - low).max())
    if size < 1:
        return "no box"
    torso = distance(joints, labelled, skeleton.torso[:1], skeleton.torso[1:]) if skeleton.torso else None
    head = _HEAD_PER_BOX * size if torso is None else _HEAD_PER_TORSO * torso
    return Person(
        image=image,
        joints=joints.astype(np.float32),
        labelled=labelled,
        center=((low + high) / 2).astype(np.float32),
        size=size,
        head_size=max(head, _SMALLEST_HEAD_PER_BOX * size),
        split=split,
    )
