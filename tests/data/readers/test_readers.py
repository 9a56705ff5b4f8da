from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from annotation_files import lsp_content, read_lspet
from numpy.typing import NDArray

from nas.data.people import Person
from nas.data.readers.lsp import read_leeds
from nas.data.readers.mpii_hdf5 import read_mpii_hourglass_h5
from nas.errors import UserError

VALID = {"valid": 1.0}


def lsp_joints(people: int = 3) -> NDArray[np.float64]:
    """(14, 3, N): an upright person 100 pixels high, head segment 16 and torso 30 pixels long, all visible."""
    points = np.array(
        [
            (44, 110), (45, 90), (46, 70), (54, 70), (55, 90), (56, 110),
            (30, 70), (32, 55), (40, 40), (60, 40), (68, 55), (70, 70), (50, 26), (50, 10),
        ],
        np.float64,
    )  # fmt: skip
    joints = np.concatenate([points, np.ones((14, 1))], axis=1)
    return np.repeat(joints[..., None], people, axis=2)


def save_mat(path: Path, joints: object, name: str = "joints") -> Path:
    scipy.io.savemat(path, {name: joints})
    return path


def test_lspet_people(tmp_path: Path) -> None:
    people, dropped = read_lspet(save_mat(tmp_path / "joints.mat", lsp_joints()), VALID)
    assert [person.image for person in people] == ["im00001.jpg", "im00002.jpg", "im00003.jpg"]
    assert not dropped
    person = people[0]
    assert np.array_equal(person.joints[0], (44, 110))
    assert person.labelled.all()
    assert np.array_equal(person.center, (50, 60))
    assert person.size == 125
    assert person.head_size == pytest.approx(0.75 * 16)
    assert person.split == "valid"


def one_lsp_person(tmp_path: Path, change: Callable[[NDArray[np.float64]], None]) -> Person:
    joints = lsp_joints(1)
    change(joints)
    return read_lspet(save_mat(tmp_path / "joints.mat", joints), VALID)[0][0]


def test_lspet_invisible_or_negative_joints_are_not_labelled(tmp_path: Path) -> None:
    def change(joints: NDArray[np.float64]) -> None:
        joints[0, :, 0] = -53, 0, 0
        joints[1, 2] = 0
        joints[5, :2, 0] = 20, -0.5

    person = one_lsp_person(tmp_path, change)
    assert np.flatnonzero(~person.labelled).tolist() == [0, 1, 5]
    assert np.array_equal(person.center, (50, 50))  # of the joints that are labelled


@pytest.mark.slow
def test_lspet_head_sizes_without_a_head(tmp_path: Path) -> None:
    def no_head(joints: NDArray[np.float64]) -> None:
        joints[13, 2] = 0

    def neither_head_nor_hip(joints: NDArray[np.float64]) -> None:
        joints[[2, 13], 2] = 0

    def head_seen_from_above(joints: NDArray[np.float64]) -> None:
        joints[13] = joints[12]

    assert one_lsp_person(tmp_path, no_head).head_size == pytest.approx(0.37 * 30)
    person = one_lsp_person(tmp_path, neither_head_nor_hip)
    assert person.head_size == pytest.approx(0.11 * person.size)
    person = one_lsp_person(tmp_path, head_seen_from_above)
    assert person.head_size == pytest.approx(0.05 * person.size)


def test_lspet_people_with_few_joints_are_dropped_and_tiny_ones_get_a_box(tmp_path: Path) -> None:
    joints = lsp_joints(3)
    joints[5:, 2, 0] = 0
    joints[:, :2, 2] /= 10
    people, dropped = read_lspet(save_mat(tmp_path / "joints.mat", joints))
    assert [person.image for person in people] == ["im00002.jpg", "im00003.jpg"]
    assert dropped == {"fewer than 6 labelled joints": 1}
    assert people[1].size == 40


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lsp_joints(5).transpose(1, 0, 2), "shape (3, 14, 5), expected (14, 3, N), or (3, 14, 2000)"),
        (np.zeros((14, 3)), "shape (14, 3)"),
        (np.zeros((14, 3, 0)), "shape (14, 3, 0)"),
        ("joints", "expected numbers"),
        ({"a": 1}, "joints"),
        (np.full((14, 3, 2), 0.5), "visibility flags"),
        (np.zeros((14, 3, 2)), "nobody has 6 visible joints"),
        (np.where(np.arange(3)[:, None] == 2, 1, np.full((14, 3, 2), 1e9)), "beyond any image"),
    ],
)
def test_lspet_wrong_content(tmp_path: Path, content: object, words: str) -> None:
    check_refused(lambda: read_lspet(save_mat(tmp_path / "x.mat", content)), tmp_path / "x.mat", words)


def check_refused(read: Callable[[], object], path: Path, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message
    assert "; " in message  # before the remedy


@pytest.mark.slow
def test_lspet_other_files(tmp_path: Path) -> None:
    check_refused(lambda: read_lspet(tmp_path / "none.mat"), tmp_path / "none.mat", "no such file")
    check_refused(lambda: read_lspet(tmp_path), tmp_path, "not a file")
    other = save_mat(tmp_path / "other.mat", lsp_joints(), "points")
    check_refused(lambda: read_lspet(other), other, "holds no 'joints'")
    text = tmp_path / "text.mat"
    for content in (b"", b"text", b"text " * 100):
        text.write_bytes(content)
        check_refused(lambda: read_lspet(text), text, "not MATLAB")


def test_lspet_a_file_that_crashes_the_reader(tmp_path: Path) -> None:
    path = save_mat(tmp_path / "joints.mat", lsp_joints())
    content = bytearray(path.read_bytes())
    content[192] ^= 16  # the type of the numbers: one that does not exist
    path.write_bytes(content)
    check_refused(lambda: read_lspet(path), path, "damaged")


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.99])
def test_lspet_truncated(tmp_path: Path, share: float) -> None:
    path = save_mat(tmp_path / "joints.mat", lsp_joints(50))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    check_refused(lambda: read_lspet(path), path, "not MATLAB, truncated or damaged")


def test_lsp_people(tmp_path: Path) -> None:
    content = lsp_content()
    content[:2, 3, 7] = -4  # a joint beyond the edge
    content[0, 5, 8] = np.nan
    path = save_mat(tmp_path / "joints.mat", content)
    found = read_leeds(path)
    assert (len(found.people), found.dropped, found.format_name, found.defines_validation) == (2000, {}, "LSP", True)
    assert [found.people[i].image for i in (0, 999, 1999)] == ["im0001.jpg", "im1000.jpg", "im2000.jpg"]
    splits = [person.split for person in found.people]
    assert set(splits[:1000]) == {"train", "holdout"}
    assert set(splits[1000:]) == {"valid"}
    assert 70 < splits.count("holdout") < 130
    labelled = np.stack([person.labelled for person in found.people])
    assert np.argwhere(~labelled).tolist() == [[8, 5]]  # occluded joints are labelled
    assert np.array_equal(found.people[7].joints[3], (-4, -4))
    assert np.array_equal(found.people[3].joints, content[:2, :, 3].T.astype(np.float32))
    assert read_leeds(save_mat(path, lsp_joints(3)), VALID).format_name == "LSP Extended"


@pytest.mark.slow
def test_lsp_wrong_content(tmp_path: Path) -> None:
    path = tmp_path / "joints.mat"
    check_refused(lambda: read_leeds(save_mat(path, lsp_content()[..., :1999])), path, "expected (14, 3, N), or (3, 14")
    flags = lsp_content()
    flags[2] = 2
    check_refused(lambda: read_leeds(save_mat(path, flags)), path, "occlusion flags")
    far = lsp_content()
    far[:2, 3, :2] = np.nan, 1e7
    check_refused(lambda: read_leeds(save_mat(path, far)), path, "beyond any image")


def mpii_content(people: int = 4) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    part = rng.integers(1, 500, (people, 16, 2)).astype(np.float64)
    return {
        "imgname": np.array([f"{i:09d}.jpg" for i in range(people)], "S13"),
        "part": part,
        "center": np.full((people, 2), 300.0),
        "scale": np.full(people, 1.5),
        "normalize": np.full(people, 30.0),
        "visible": np.ones((people, 16)),
    }


def save_h5(path: Path, content: dict[str, NDArray[np.generic]]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in content.items():
            file[name] = array
    return path


def test_mpii_people(tmp_path: Path) -> None:
    content = mpii_content()
    content["part"][0, 3] = 0, 0
    content["part"][0, 4] = 120, -7
    content["part"][0, 9] = 100, -3
    content["visible"][:] = 0
    people, dropped = read_mpii_hourglass_h5(save_h5(tmp_path / "train.h5", content), VALID)
    assert (len(people), dropped) == (4, {})
    person = people[0]
    assert person.image == "000000000.jpg"
    assert np.flatnonzero(~person.labelled).tolist() == [3]
    assert np.array_equal(person.joints[4], (119.5, -7.5))
    assert np.array_equal(person.joints[9], (100, -4))
    assert np.array_equal(person.joints[8], content["part"][0, 8])
    assert np.array_equal(person.center, (299.5, 299.5))
    assert (person.size, person.head_size, person.split) == (300, 30, "valid")


def test_mpii_names_of_variable_length(tmp_path: Path) -> None:
    content = mpii_content(2)
    del content["imgname"]
    path = save_h5(tmp_path / "train.h5", content)
    with h5py.File(path, "r+") as file:
        file["imgname"] = ["a.jpg", "a longer name.jpg"]
    assert [p.image for p in read_mpii_hourglass_h5(path, VALID)[0]] == ["a.jpg", "a longer name.jpg"]


def test_mpii_unusable_people_are_dropped_by_reason(tmp_path: Path) -> None:
    content = mpii_content(6)
    content["part"][0] = 0
    content["scale"][1] = 0
    content["normalize"][2:4] = 0
    people, dropped = read_mpii_hourglass_h5(save_h5(tmp_path / "train.h5", content), VALID)
    assert len(people) == 2
    assert dropped == {"no labelled joint": 1, "no scale": 1, "no head size": 2}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("part", np.zeros((4, 11, 2)), "'part' is float64 (4, 11, 2), expected numbers (4, 16, 2)"),
        ("part", np.zeros((5, 16, 2)), "(5, 16, 2)"),
        ("part", np.zeros((4, 16, 2), "S3"), "expected numbers"),
        ("part", np.zeros((4, 16, 2)), "nobody in it can be used (no labelled joint)"),
        ("part", np.full((4, 16, 2), np.nan), "beyond any image"),
        ("center", np.full((4, 2), 1e7), "'center' holds values beyond any image"),
        ("scale", np.ones((4, 1)), "'scale'"),
        ("normalize", None, "holds no 'normalize'"),
        ("imgname", np.zeros((4, 13)), "'imgname' is float64 (4, 13), expected texts"),
        ("imgname", np.zeros(0, "S13"), "expected texts"),
    ],
)
def test_mpii_wrong_content(tmp_path: Path, name: str, value: NDArray[np.generic] | None, words: str) -> None:
    content = mpii_content()
    del content[name]
    if value is not None:
        content[name] = value
    path = save_h5(tmp_path / "train.h5", content)
    check_refused(lambda: read_mpii_hourglass_h5(path, VALID), path, words)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.7, 0.95])
def test_mpii_truncated(tmp_path: Path, share: float) -> None:
    path = save_h5(tmp_path / "train.h5", mpii_content(40))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    check_refused(lambda: read_mpii_hourglass_h5(path, VALID), path, "not HDF5, truncated or damaged")
