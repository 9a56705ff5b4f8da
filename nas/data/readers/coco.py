"""People in the layout of COCO keypoints, with any skeleton.

The skeleton is a TOML file (:func:`read_skeleton`)::

    name = "arm"
    joints = ["left shoulder", "left wrist", "right shoulder", "right wrist", "left hip", "right hip"]
    flip_pairs = [["left shoulder", "right shoulder"], ["left wrist", "right wrist"], ["left hip", "right hip"]]
    limbs = [["left shoulder", "left wrist"], ["right shoulder", "right wrist"]]  # drawn as lines
    torso = ["left shoulder", "right hip"]                                        # may be left out

    [groups]              # accuracy is reported for each; a joint in none of them is not scored
    shoulder = ["left shoulder", "right shoulder"]
    wrist = ["left wrist", "right wrist"]

Coordinates. COCO's keypoints are indices of pixels, counted from 0, so 0.5 is added; its boxes are measured from the
image's corner and need no change.

Boxes are the annotation's ``bbox``, made square and enlarged by 1.25; without one, the bounding box of the labelled
joints.

Head sizes. COCO has no head boxes. The head size is 0.4 × the torso if the skeleton defines one and both its joints are
labelled, so that PCKh@0.5 equals PCK@0.2 of the torso; else 0.11 × the box, as on LSP Extended; and never less than
0.05 × the box.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from nas.data.people import Person, image_split
from nas.data.readers.parsing import Number, joint_distance, read_json, require_people, shorten, validate_json
from nas.data.readers.splits import Annotations
from nas.data.skeletons import Skeleton
from nas.errors import UserError

_REMEDY = "give annotations in COCO's keypoint layout (person_keypoints_….json)"
_BOX_PER_SIDE = 1.25
_HEAD_PER_TORSO = 0.4
_HEAD_PER_BOX = 0.11
_MIN_HEAD_PER_BOX = 0.05

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
    """Read a skeleton from TOML; see the example in the module's docstring.

    Raises:
        UserError: the file is missing, not TOML, has unknown or missing keys, or names a joint that it does not list.
    """
    remedy = "correct the skeleton; nas/data/README.md has an example"
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {remedy}")
    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML ({' '.join(str(error).split())[:100]}); {remedy}") from error
    raw = validate_json(path, _SKELETON, content, remedy)
    indices_by_name = {joint: index for index, joint in enumerate(raw.joints)}
    if len(indices_by_name) < len(raw.joints):
        duplicate = next(joint for index, joint in enumerate(raw.joints) if indices_by_name[joint] != index)
        raise UserError(f"{path}: joints holds {shorten(duplicate)} twice; {remedy}")

    def indices(key: str, names: list[str]) -> tuple[int, ...]:
        for name in names:
            if name not in indices_by_name:
                raise UserError(f"{path}: {key} names {shorten(name)}, which is not in joints; {remedy}")
        if len(set(names)) < len(names):
            raise UserError(f"{path}: {key} names a joint twice, {shorten(names)}; {remedy}")
        return tuple(indices_by_name[name] for name in names)

    def pairs(key: str, names: list[list[str]]) -> tuple[tuple[int, int], ...]:
        return tuple((a, b) for a, b in (indices(f"{key}[{i}]", pair) for i, pair in enumerate(names)))

    flip_pairs = pairs("flip_pairs", raw.flip_pairs)
    paired = [joint for pair in flip_pairs for joint in pair]
    for joint in paired:
        if paired.count(joint) > 1:
            raise UserError(f"{path}: flip_pairs names {shorten(raw.joints[joint])} in two pairs; {remedy}")
    torso = pairs("torso", [raw.torso])[0] if raw.torso else None
    groups = {name: indices(f"groups.{name}", joints) for name, joints in raw.groups.items()}
    return Skeleton(raw.name, tuple(raw.joints), flip_pairs, pairs("limbs", raw.limbs), groups, torso)


def read_coco(path: Path, skeleton: Skeleton, splits: Mapping[str, float]) -> Annotations:
    """Read people from COCO's keypoint layout.

    If an annotation's category names its ``keypoints``, the skeleton's joints are selected from them by name; else the
    joints must be the same number in the same order. A joint is labelled unless its flag v is 0. Crowds (``iscrowd``)
    and people without keypoints are left out.

    Args:
        path: JSON with ``images``, ``annotations`` and ``categories``.
        skeleton: the joints to select.
        splits: split → share of the images.

    Raises:
        UserError: the file is missing, damaged, of another layout or of another skeleton.
    """
    content = validate_json(path, _COCO, read_json(path, _REMEDY), _REMEDY)
    images = {image.id: image.file_name for image in content.images}
    categories = {category.id: category for category in content.categories}
    columns_of: dict[int | str, tuple[list[int], int]] = {}
    people = []
    dropped: Counter[str] = Counter()
    for i, annotation in enumerate(content.annotations):
        where = f"{path}: annotations[{i}]"
        for key, value, known in (
            ("image_id", annotation.image_id, images),
            ("category_id", annotation.category_id, categories),
        ):
            if value not in known:
                table = "images" if key == "image_id" else "categories"
                raise UserError(f"{where}.{key} is {shorten(value)}, which is not in {table}; {_REMEDY}")
        if annotation.iscrowd or not annotation.keypoints:
            dropped["a crowd" if annotation.iscrowd else "no keypoints"] += 1
            continue
        category = annotation.category_id
        if category not in columns_of:
            columns_of[category] = _joint_columns(path, categories[category], skeleton)
        columns, count = columns_of[category]
        if len(annotation.keypoints) != 3 * count:
            raise UserError(
                f"{where}.keypoints holds {len(annotation.keypoints)} numbers, expected {3 * count} (x, y, v of "
                f"{count} joints); {_REMEDY}, or another --skeleton"
            )
        keypoints = np.array(annotation.keypoints, np.float64).reshape(-1, 3)[columns]
        image = images[annotation.image_id]
        person = _person(image, keypoints, annotation.bbox, skeleton, image_split(image, splits))
        if isinstance(person, Person):
            people.append(person)
        else:
            dropped[person] += 1
    require_people(path, people, dropped, _REMEDY)
    return Annotations(people, dict(dropped), "COCO's keypoint layout", defines_validation=False)


def _joint_columns(path: Path, category: _Category, skeleton: Skeleton) -> tuple[list[int], int]:
    """Indices of the skeleton's joints among a category's keypoints, and the number of these keypoints."""
    if category.keypoints is None:
        return list(range(len(skeleton.joints))), len(skeleton.joints)
    for joint in skeleton.joints:
        if joint not in category.keypoints:
            names = ", ".join(category.keypoints)
            raise UserError(
                f"{path}: category {shorten(category.id)} has no keypoint {shorten(joint)}, a joint of skeleton "
                f"{skeleton.name!r}; name joints as the file does: {names[:400]}"
            )
    return [category.keypoints.index(joint) for joint in skeleton.joints], len(category.keypoints)


def _person(
    image: str, keypoints: NDArray[np.float64], bbox: list[float] | None, skeleton: Skeleton, split: str
) -> Person | str:
    """Convert an annotation to a person, or return the reason why it cannot be used."""
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
    torso = joint_distance(joints, labelled, skeleton.torso[:1], skeleton.torso[1:]) if skeleton.torso else None
    head = _HEAD_PER_BOX * size if torso is None else _HEAD_PER_TORSO * torso
    return Person(
        image=image,
        joints=joints.astype(np.float32),
        labelled=labelled,
        center=((low + high) / 2).astype(np.float32),
        size=size,
        head_size=max(head, _MIN_HEAD_PER_BOX * size),
        split=split,
    )
