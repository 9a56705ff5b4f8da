from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from nas.data.media_io import encode_image
from nas.data.packed.format import PackedHeader, crop_side
from nas.data.packed.reader import PackedPeople
from nas.data.packed.validation import ValidationReport, check_packed
from nas.data.packed.writer import PackedPerson, PackedWriter
from nas.data.people import SPLITS
from nas.data.skeletons import FLIC, LSP, MPII, Skeleton
from nas.data.visualization.contact_sheet import contact_sheet
from nas.data.visualization.drawing import LEFT, MIDDLE, RIGHT, draw_person, side_colours
from nas.errors import UserError

BOX = 32
SIDE = crop_side(BOX)


def write(path: Path, jpeg: int | None = None, **changes: object) -> Path:
    """Ten people, six to train, two held out, two for validation; ``changes``: column → row → value."""
    rng = np.random.default_rng(0)
    with PackedWriter(path, PackedHeader(MPII, BOX, {"dataset": "test"}, jpeg), 10) as writer:
        for row in range(10):
            person = {
                "crop": rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8),
                "joints": rng.uniform(15, 40, (16, 2)).astype(np.float32),
                "labelled": np.arange(16) > 0,
                "head_size": 6.0,
                "to_original": np.array([[2.0, 0, 5], [0, 2.0, 7]]),
                "split": SPLITS[(row > 5) + (row > 7)],
                "image": f"{row}.jpg",
            }
            person.update({name: rows[row] for name, rows in changes.items() if row in rows})  # type: ignore[operator,index]
            writer.put(row, PackedPerson(**person))  # type: ignore[arg-type]
    return path


def change(path: Path, name: str, row: int, value: object) -> Path:
    """Change a stored row, and remove the digests that would reveal it."""
    with h5py.File(path, "r+") as file:
        file[name][row] = value
        if "digest" in file:
            del file["digest"]
    return path


@pytest.mark.parametrize("jpeg", [None, 90])
def test_a_good_file(tmp_path: Path, jpeg: int | None) -> None:
    found = check_packed(write(tmp_path / "people.h5", jpeg))
    assert not found.problems
    assert not found.notes
    assert (found.joints, found.outside_crop, found.odd_heads, found.unlabelled, found.duplicates) == (150, 0, 0, 0, 0)
    assert found.head_sizes == pytest.approx((6 / 2 / BOX,) * 3)
    assert found.summary.counts == {"train": 6, "holdout": 2, "valid": 2}


def check(path: Path, *problems: str) -> ValidationReport:
    found = check_packed(path)
    assert len(found.problems) == len(problems), found.problems
    for problem, words in zip(found.problems, problems, strict=True):
        assert words in problem
    return found


def test_problems_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "people.h5"
    checksum = "the checksum is not that of the people"
    check(
        change(write(path), "joints", (3, 4), np.nan), "1 people have labelled joints that are not numbers: 3", checksum
    )
    check(change(write(path), "head_size", 4, -1), "1 people have a head size that is not positive: 4", checksum)
    check(change(write(path), "to_original", 5, 0), "1 people have no usable map to their image: 5", checksum)
    check(change(write(path), "crops", (6, 0, 0), 1), checksum)
    check(write(path, image={1: "9.jpg", 2: "8.jpg"}), "2 images are in more than one split: 9.jpg, 8.jpg")
    check(write(path, head_size=dict.fromkeys(range(6), 600.0)), "most head sizes (6 of 10) are implausible")
    outside = {row: np.full((16, 2), -9.0) for row in range(2)}
    found = check(write(path, joints=outside), "30 of 150 labelled joints lie outside their crops")
    assert (found.outside_crop, found.outside_box) == (30, 30)
    nobody = {row: np.zeros(16, np.bool_) for row in range(10)}
    check(write(path, labelled=nobody), "nobody has a labelled joint")
    pelvis = {row: np.arange(16) == 6 for row in range(10)}
    check(
        write(path, labelled=pelvis),
        "no joint that counts (head, shoulder, elbow, wrist, hip, knee, ankle) is labelled",
    )


def test_changed_data_is_named_by_row(tmp_path: Path) -> None:
    path = write(tmp_path / "people.h5", 90)
    with h5py.File(path, "r+") as file:
        file["jpegs"][file["start"][2] : file["start"][2] + 30] = 0
        file["joints"][7, 3] = 1
    check(path, "2 people changed since they were packed (their digests are not the file's): 2, 7", "the checksum")


def test_a_crop_that_never_was_a_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.data.packed.writer.encode_jpeg", lambda *_: b"no JPEG" * 99)
    found = check_packed(write(tmp_path / "people.h5", 90))
    assert "10 people have no readable crop: 0, 1, 2 and 7 more" in found.problems


def test_notes_are_reported(tmp_path: Path) -> None:
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    nobody = np.zeros(16, np.bool_)
    found = check(
        write(
            tmp_path / "people.h5",
            crop={0: black, 1: black, 9: black},
            labelled={4: nobody},
            head_size={5: 900.0},
            split=dict.fromkeys(range(8), "train"),
        )
    )
    assert found.notes == (
        "1 head sizes are below 2% or above 50% of the box",
        "1 people have no labelled joint: 4",
        "nobody is in split holdout",
        "1 groups of equal crops are in more than one split: 0 = 1 = 9",
    )
    assert (found.duplicates, found.duplicates_across) == (1, 1)


@pytest.mark.parametrize("content", [b"", b"people", b"\x89HDF\r\n\x1a\n"])
def test_files_that_are_not_packed_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "people.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"people\.h5: not HDF5, truncated or damaged"):
        check_packed(tmp_path / "people.h5")


@pytest.mark.parametrize("skeleton", [MPII, LSP, FLIC])
def test_sides_have_their_colours(skeleton: Skeleton) -> None:
    for name, colour in zip(skeleton.joints, side_colours(skeleton), strict=True):
        assert colour == (LEFT if "left" in name else RIGHT if "right" in name else MIDDLE)


def test_joints_are_drawn_where_they_are() -> None:
    joints = np.full((16, 2), 50, np.float32)
    joints[15], joints[10], joints[9] = (10.5, 20.5), (80.5, 30.5), (1e9, np.nan)
    labelled = np.isin(np.arange(16), [15, 10, 9])
    shown = draw_person(np.zeros((100, 100, 3), np.uint8), joints, labelled, MPII, 200)
    assert tuple(shown[40, 20]) == LEFT  # the person's left wrist
    assert tuple(shown[60, 160]) == RIGHT
    assert not shown[100, 100].any()


def test_sheet(tmp_path: Path) -> None:
    path = write(tmp_path / "people.h5")
    people, rows, splits = PackedPeople.load_sample(path, 4, 3)
    assert len(people) == len(rows) == len(splits) == 4
    assert [SPLITS[(row > 5) + (row > 7)] for row in rows] == list(splits)
    assert people.images == tuple(f"{row}.jpg" for row in rows)
    assert PackedPeople.load_sample(path, 99, 0)[1] == tuple(range(10))
    before = people.crops.clone()
    one, again, other = (contact_sheet(people, ["a", "ü" * 300, "c", "d"], "title", seed) for seed in (1, 1, 2))
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert torch.equal(people.crops, before)
    for name in ("sheet.jpg", "sheet.PNG"):
        (tmp_path / name).write_bytes(encode_image(one, name))
        assert cv2.imread(str(tmp_path / name)).shape == one.shape
    assert np.array_equal(cv2.imread(str(tmp_path / "sheet.PNG"))[:, :, ::-1], one)
