from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import SKELETON, coco, save_json

import nas.data.readers.coco
from nas.data.readers.coco import read_coco, read_skeleton
from nas.data.skeletons import FLIC, LSP, MPII, Skeleton
from nas.errors import UserError

TRAIN = {"train": 1.0}


@pytest.fixture
def skeleton(tmp_path: Path) -> Skeleton:
    (tmp_path / "skeleton.toml").write_text(SKELETON)
    return read_skeleton(tmp_path / "skeleton.toml")


def test_a_custom_skeleton(skeleton: Skeleton) -> None:
    assert skeleton == Skeleton(
        name="arm",
        joints=("left shoulder", "left wrist", "right shoulder", "right wrist", "left hip", "right hip"),
        flip_pairs=((0, 2), (1, 3), (4, 5)),
        limbs=((0, 1), (2, 3)),
        groups={"shoulder": (0, 2), "wrist": (1, 3)},
        torso=(0, 5),
    )
    assert skeleton.scored == (0, 1, 2, 3)


def test_the_example_in_the_readme_and_the_docstring_is_this_one() -> None:
    indented = [line.strip() for line in (nas.data.readers.coco.__doc__ or "").splitlines()]
    readme = (Path(nas.data.__file__).parent / "README.md").read_text()
    assert SKELETON in readme
    assert all(line in indented for line in SKELETON.splitlines())


def test_the_torso_is_kept_and_old_skeletons_keep_their_text(skeleton: Skeleton) -> None:
    for known in (MPII, LSP, FLIC, skeleton):
        again = Skeleton.from_json(known.to_json())
        assert again == known
        assert again.torso == known.torso
        assert again.groups == known.groups
    assert "torso" not in MPII.to_json()
    assert MPII.to_json().endswith('"ankle": [0, 5]}}')
    assert [[LSP.joints[j] for j in LSP.torso or ()], [FLIC.joints[j] for j in FLIC.torso or ()]] == [
        ["left shoulder", "right hip"],
        ["right shoulder", "left hip"],
    ]
    with pytest.raises(ValueError, match="outside"):
        Skeleton("x", ("a", "b"), (), (), {}, (0, 2))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "arm"', "", "name is missing"),
        ('name = "arm"', "name = 3", "name is 3: "),
        ('name = "arm"', 'name = "arm"\ncolour = "red"', "colour is 'red': extra inputs"),
        ('name = "arm"', 'name = "arm', "not TOML"),
        ("joints = [", "joints = [7, ", "joints[0] is 7"),
        ('joints = ["left shoulder"', 'joints = ["left wrist"', "joints holds 'left wrist' twice"),
        ('limbs = [["left shoulder"', 'limbs = [["left sholder"', "limbs[0] names 'left sholder', which is not in joi"),
        ('torso = ["left shoulder"', 'torso = ["right hip"', "torso[0] names a joint twice"),
        ('torso = ["left shoulder", "right hip"]', 'torso = ["left shoulder"]', "torso is ['left shoulder']"),
        ('flip_pairs = [["left shoulder"', 'flip_pairs = [["left wrist"', "flip_pairs names 'left wrist' in two pairs"),
        ("[groups]", "[group]", "groups is missing"),
        ('wrist = ["left wrist", "right wrist"]', "wrist = []", "groups.wrist is []"),
        ('wrist = ["left wrist", "right wrist"]', 'wrist = ["thumb"]', "groups.wrist names 'thumb'"),
    ],
)
def test_wrong_skeletons(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in SKELETON
    path = tmp_path / "skeleton.toml"
    path.write_text(SKELETON.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_skeleton(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert message.endswith("; correct the skeleton; nas/data/README.md has an example")


@pytest.mark.parametrize("content", [b"\xff", b"a = " + b"[" * 10_000, b"a = 1" + b"0" * 10_000, b"\x00"])
def test_files_that_are_not_skeletons(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "skeleton.toml").write_bytes(content)
    for path in (tmp_path / "skeleton.toml", tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="correct the skeleton"):
            read_skeleton(path)


def test_people(skeleton: Skeleton, tmp_path: Path) -> None:
    found = read_coco(save_json(tmp_path / "people.json", coco()), skeleton, TRAIN)
    assert (len(found.people), found.dropped, found.defines_validation) == (2, {}, False)
    person = found.people[0]
    assert person.image == "000000000000.jpg"
    # The skeleton's joints by name; the middle of the pixel that is named.
    assert person.joints.tolist() == [
        [40.5, 40.5],
        [30.5, 80.5],
        [80.5, 40.5],
        [90.5, 80.5],
        [45.5, 90.5],
        [75.5, 90.5],
    ]
    assert person.labelled.all()
    assert np.array_equal(person.center, (60, 60))
    assert person.size == 125
    assert person.head_size == pytest.approx(0.4 * np.hypot(35, 50))


def changed(**changes: Any) -> dict[str, Any]:
    content = coco()
    content["annotations"][0].update(changes)
    return content


def test_boxes_and_head_sizes_without_them(skeleton: Skeleton, tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    without = coco()
    del without["annotations"][0]["bbox"]
    for content in (without, changed(bbox=None), changed(bbox=[20, 10, 0, 100])):
        person = read_coco(save_json(path, content), skeleton, TRAIN).people[0]
        assert np.array_equal(person.center, (60.5, 65.5))
        assert person.size == 1.25 * 60
    keypoints = coco()["annotations"][0]["keypoints"]
    keypoints[3 * 6 + 2] = 0  # right hip
    person = read_coco(save_json(path, changed(keypoints=keypoints)), skeleton, TRAIN).people[0]
    assert np.flatnonzero(~person.labelled).tolist() == [5]
    assert person.head_size == pytest.approx(0.11 * 125)


def test_unusable_people_are_dropped_by_reason(skeleton: Skeleton, tmp_path: Path) -> None:
    content = coco(6)
    for annotation, change in zip(
        content["annotations"],
        ({"iscrowd": 1}, {"keypoints": None}, {"keypoints": [0] * 21}, {}, {}, {}),
        strict=True,
    ):
        annotation.update(change)
    del content["annotations"][3]["keypoints"]
    content["annotations"][4].update(bbox=None, keypoints=[0] * 18 + [5, 5, 2])
    found = read_coco(save_json(tmp_path / "people.json", content), skeleton, TRAIN)
    assert len(found.people) == 1
    assert found.dropped == {"a crowd": 1, "no keypoints": 2, "no labelled joint": 1, "no box": 1}


def test_categories_without_names_go_by_number(skeleton: Skeleton, tmp_path: Path) -> None:
    content = coco()
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog", "keypoints": ["tail"]}]
    path = save_json(tmp_path / "people.json", content)
    with pytest.raises(UserError, match=r"annotations\[0\].keypoints holds 21 numbers, expected 18"):
        read_coco(path, skeleton, TRAIN)
    for annotation in content["annotations"]:
        del annotation["keypoints"][:3]
    person = read_coco(save_json(path, content), skeleton, TRAIN).people[0]
    assert person.joints[0].tolist() == [40.5, 40.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "the content is []"),
        ({}, "images is missing"),
        (changed(image_id=17), "annotations[0].image_id is 17, which is not in images"),
        (changed(category_id=17), "annotations[0].category_id is 17, which is not in categories"),
        (changed(keypoints=[1, 2, 2]), "annotations[0].keypoints holds 3 numbers, expected 21"),
        (changed(keypoints=["a"] * 21), "annotations[0].keypoints[0] is 'a'"),
        (changed(keypoints=[1e9] * 21), "annotations[0].keypoints[0] is 1000000000.0"),
        (changed(bbox=[1, 2, 3]), "annotations[0].bbox is [1, 2, 3]"),
        (changed(bbox=[1, 2, 3, float("inf")]), "annotations[0].bbox[3] is inf"),
        (changed(iscrowd=3), "annotations[0].iscrowd is 3"),
        ({**coco(), "images": [{"id": 0, "file_name": ""}]}, "images[0].file_name is ''"),
        (
            {**coco(), "categories": [{"id": 1, "keypoints": ["nose"]}]},
            "category 1 has no keypoint 'left shoulder', a jo",
        ),
        ({**coco(), "annotations": []}, "nobody in it can be used (it holds no people)"),
    ],
)
def test_wrong_content(content: object, words: str, skeleton: Skeleton, tmp_path: Path) -> None:
    path = save_json(tmp_path / "people.json", content)
    with pytest.raises(UserError) as caught:
        read_coco(path, skeleton, TRAIN)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "; " in message
    assert "\n" not in message
