"""MPII in its four formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from annotation_files import (
    EMPTY,
    hrnet,
    mpii_joints,
    points,
    pytorch_pose,
    release_person,
    save_h5,
    save_json,
    save_release,
    structs,
)

from nas.data.people import Person
from nas.data.readers.mpii import read_mpii
from nas.errors import UserError

VALID = {"valid": 1.0}


def refused(path: Path, *words: str, read: Callable[[Path], object] = lambda path: read_mpii(path, VALID)) -> None:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "; " in message  # before the remedy
    for word in words:
        assert word in message


def one(path: Path, splits: dict[str, float] = VALID) -> Person:
    found = read_mpii(path, splits)
    assert len(found.people) == 1
    return found.people[0]


def test_the_release(tmp_path: Path) -> None:
    joints = mpii_joints()
    del joints[3]
    person = one(save_release(tmp_path / "release.mat", [("a.jpg", [release_person(joints)], 1)]))
    assert person.image == "a.jpg"
    assert np.flatnonzero(~person.labelled).tolist() == [3]
    for joint, (x, y) in joints.items():
        assert np.array_equal(person.joints[joint], (x - 0.5, y - 0.5))
    assert np.array_equal(person.center, (299.5, 200 + 15 * 1.5 - 0.5))
    assert person.size == 200 * 1.25 * 1.5
    assert person.head_size == pytest.approx(0.6 * 50)
    assert person.split == "valid"


def test_what_is_missing_from_the_release_leaves_out_the_person_and_nobody_else(tmp_path: Path) -> None:
    good = release_person(mpii_joints())

    def without(*names: str) -> dict[str, Any]:
        return {name: value for name, value in good.items() if name not in names}

    images = [
        ("none.jpg", EMPTY, 1),
        ("no people, as a struct.jpg", structs([], ["x1", "scale"]), 1),
        ("only a head box.jpg", [without("annopoints", "scale", "objpos")], 1),
        ("some have no joints.jpg", [without("annopoints"), good], 1),
        ("annopoints without points.jpg", [{**good, "annopoints": structs([{}], ["point"])}], 1),
        ("annopoints empty.jpg", [{**good, "annopoints": EMPTY}], 1),
        ("no scale.jpg", [without("scale")], 1),
        ("no position.jpg", [without("objpos"), {**good, "objpos": structs([{}], ["x", "y"])}], 1),
        ("no head box.jpg", [without("x1", "y1", "x2", "y2")], 1),
        ("a test image.jpg", [without("annopoints", "x1", "y1", "x2", "y2"), without("annopoints")], 0),
        ("the name is there.jpg", [good, good, good], 1),
    ]
    found = read_mpii(save_release(tmp_path / "release.mat", images), VALID)
    assert [person.image for person in found.people] == ["some have no joints.jpg", *["the name is there.jpg"] * 3]
    assert found.dropped == {
        "no labelled joint": 4,
        "no scale": 1,
        "no position": 2,
        "no head box": 1,
        "in a test image": 2,
    }
    assert not found.defines_validation


@pytest.mark.parametrize("visible", [(), (1,), ("1",), ("",), (EMPTY,), (1, "0", EMPTY, 0)])
def test_one_joint_or_two_and_any_visibility(visible: tuple[Any, ...], tmp_path: Path) -> None:
    for joints in ({5: (10, 20)}, {5: (10, 20), 7: (30, 40)}):
        person = {**release_person(mpii_joints()), "annopoints": points(joints, visible)}
        read = one(save_release(tmp_path / "release.mat", [("a.jpg", [person], 1)]))
        assert np.flatnonzero(read.labelled).tolist() == list(joints)
        assert np.array_equal(read.joints[5], (9.5, 19.5))


@pytest.mark.parametrize(
    ("person", "train", "words"),
    [
        ({"annopoints": points({16: (1, 2)})}, 1, "annorect(1).annopoints.point.id is 16.0, expected 0 to 15"),
        ({"annopoints": points({1: (1e7, 2)})}, 1, "annorect(1).annopoints.point.x is 10000000.0, expected a number"),
        ({"annopoints": np.ones((2, 2))}, 1, "annorect(1).annopoints is [[1.0, 1.0], [1.0, 1.0]], expected a struct"),
        ({"scale": "large"}, 1, "RELEASE.annolist(1).annorect(1).scale is 'large', expected a number"),
        ({"scale": np.array([[np.inf]])}, 1, "annorect(1).scale is inf"),
        ({"x1": np.ones((2, 2))}, 1, "annorect(1).x1 is [[1.0, 1.0]"),
        ({"objpos": "here"}, 1, "annorect(1).objpos is 'here', expected a struct"),
        ({"scale": 0}, 1, "nobody in it can be used (no scale)"),
        ({}, 0, "nobody in it can be used (in a test image)"),
        ({}, 2, "RELEASE.img_train is not a 0 or 1 for each of the 1 images"),
    ],
)
def test_wrong_content_of_the_release(person: dict[str, Any], train: int, words: str, tmp_path: Path) -> None:
    row = {**release_person(mpii_joints()), **person}
    refused(save_release(tmp_path / "release.mat", [("a.jpg", [row], train)]), words)


@pytest.mark.slow
def test_other_structures_of_the_release(tmp_path: Path) -> None:
    def saved(value: Any, name: str = "RELEASE") -> Path:
        scipy.io.savemat(tmp_path / "other.mat", {name: value})
        return tmp_path / "other.mat"

    refused(saved(structs([{"a": 1}], ["a"]), "release"), "holds no 'RELEASE'")
    refused(saved(np.ones((3, 3))), "'RELEASE' is not a struct")
    refused(saved("RELEASE"), "'RELEASE' is not a struct")
    refused(saved(structs([{"a": 1}], ["a"])), "RELEASE.annolist is not a list of images")
    refused(saved(structs([{"annolist": np.ones((2, 2))}], ["annolist"])), "RELEASE.annolist is not a list of images")
    refused(save_release(tmp_path / "r.mat", [("a.jpg", "people", 1)]), "annolist(1).annorect is 'people'")
    refused(save_release(tmp_path / "r.mat", [("", [release_person(mpii_joints())], 1)]), "image.name is None")


def test_hrnet(tmp_path: Path) -> None:
    person = hrnet()
    person["joints"][4], person["joints_vis"][4] = [-1, -1], 0
    person["joints"][5] = [-1.0, -1.0]
    person["joints_vis"][6] = 0
    found = read_mpii(save_json(tmp_path / "train.json", [person, hrnet(scale=0), hrnet(joints_vis=[0] * 16)]), VALID)
    assert (found.dropped, found.defines_validation) == ({"no scale": 1, "no labelled joint": 1}, False)
    (read,) = found.people
    assert np.flatnonzero(~read.labelled).tolist() == [4, 5, 6]
    assert np.array_equal(read.joints[0], np.array(person["joints"][0]) - 0.5)
    assert np.array_equal(read.center, (299.5, 222))
    assert read.size == 375
    assert read.head_size == pytest.approx(0.1 * 375)


def test_pytorch_pose(tmp_path: Path) -> None:
    person = pytorch_pose("b.jpg", isValidation=1.0)
    person["joint_self"][4] = [0, 0, 0]
    person["joint_self"][5][2] = 0  # occluded
    people = [pytorch_pose(), person, pytorch_pose(dataset="LEEDS"), pytorch_pose(scale_provided=0)]
    found = read_mpii(save_json(tmp_path / "mpii_annotations.json", people), VALID)
    assert (found.dropped, found.defines_validation) == ({"not from MPII": 1, "no scale": 1}, True)
    assert [read.split for read in found.people] == ["train", "valid"]
    read = found.people[1]
    assert np.flatnonzero(~read.labelled).tolist() == [4]
    assert np.array_equal(read.center, (299.5, 222))
    assert read.size == 375


@pytest.mark.parametrize(
    ("people", "words"),
    [
        ([], "not a list of people"),
        ({"images": []}, "not a list of people"),
        ([1, 2], "not a list of people"),
        ([{"image": "a.jpg", "center": [1, 2], "scale": 1}], "neither 'joints_vis' nor 'joint_self' but 'image, cen"),
        ([hrnet(), 7], "[1] is 7: "),
        ([hrnet(joints=[[1, 2]] * 15)], "[0].joints is [[1, 2], [1, 2]"),
        ([hrnet(joints=[[1, 2, 3]] * 16)], "[0].joints[0] is [1, 2, 3]"),
        ([hrnet(), hrnet(joints=[[1, "2"]] * 16)], "[1].joints[0][1] is '2'"),
        ([hrnet(center=[float("nan"), 2])], "[0].center[0] is nan"),
        ([hrnet(scale=None)], "[0].scale is None"),
        ([hrnet(scale=1e9)], "[0].scale is 1000000000.0"),
        ([hrnet(image="")], "[0].image is ''"),
        ([hrnet(image=17)], "[0].image is 17"),
        ([hrnet(joints_vis=[2] * 16)], "[0].joints_vis[0] is 2"),
        ([{"joints_vis": 3}], "[0].image is missing"),
        ([hrnet(joints_vis=[0] * 16)], "nobody in it can be used (no labelled joint)"),
        ([pytorch_pose(isValidation="yes")], "[0].isValidation is 'yes'"),
        ([pytorch_pose(isValidation=0.5), pytorch_pose(joint_self=[[1, 2]] * 16)], "[1].joint_self[0] is [1, 2]"),
        ([pytorch_pose(dataset="LEEDS")], "nobody in it can be used (not from MPII)"),
    ],
)
def test_wrong_content_of_json(people: object, words: str, tmp_path: Path) -> None:
    refused(save_json(tmp_path / "people.json", people), words)


def test_content_that_is_no_annotation(tmp_path: Path) -> None:
    path = tmp_path / "annotations"
    refused(path, "no such file")
    refused(tmp_path, "not a file")
    for content in (b"", b"text", b"\x00" * 200, b"PK\x03\x04", bytes(range(256))):
        path.write_bytes(content)
        refused(path, "neither HDF5 nor MATLAB nor JSON")
    for content in (b"[", b"[1,", b'[{"a": 1}', b"[\xff]", b"[" * 100_000, b"[" + b"1" * 10_000 + b"x]"):
        path.write_bytes(content)
        refused(path, "not JSON, truncated or damaged")
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + b" " * 88)
    refused(path, "-v7")
    path.write_bytes(b" " * 126 + b"IM")
    refused(path, "not MATLAB, truncated or damaged")
    refused(save_h5(tmp_path / "x.h5", {"a": np.zeros(3)}), "holds no 'imgname'")
