"""Readers and packing on the real images and annotations in ../shared/data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from annotation_files import EMPTY, read_lspet, release_person, save_release

from nas.data.packed.crop import crop_person
from nas.data.packed.options import PackOptions
from nas.data.packed.packing import pack
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.people import SPLITS, Person
from nas.data.readers.flic import OBSERVER, PERSON, read_flic
from nas.data.readers.mpii import read_mpii
from nas.data.readers.mpii_hdf5 import read_mpii_hourglass_h5
from nas.data.readers.mpii_person import HEAD_PER_BOX
from nas.data.readers.splits import remove_split_overlap
from nas.data.skeletons import FLIC, LSP, MPII

SHARES = {"holdout": 0.1, "valid": 0.1, "train": 0.8}


@pytest.fixture(scope="module")
def mpii(shared_data: Path) -> list[Person]:
    people, dropped = read_mpii_hourglass_h5(shared_data / "mpii" / "annot" / "valid.h5", {"valid": 1.0})
    assert not dropped
    return people


@pytest.fixture(scope="module")
def mpii_five(shared_data: Path, mpii: list[Person]) -> list[Person]:
    folder = shared_data / "mpii" / "images"
    missing = {person.image for person in mpii if not (folder / person.image).is_file()}
    return [person for person in mpii if person.image not in missing]


def test_mpii_agrees_with_the_official_ground_truth(shared_data: Path, mpii: list[Person]) -> None:
    truth = scipy.io.loadmat(shared_data / "mpii" / "annot" / "valid_head_boxes.mat")
    official = truth["pos_gt_src"].transpose(2, 0, 1)
    labelled = np.stack([person.labelled for person in mpii])
    assert np.array_equal(labelled, truth["jnt_missing"].T == 0)
    # 13 of the official positions have a coordinate set to 0 that both joint files know.
    known = labelled & (official != 0).all(-1)
    off = (np.stack([person.joints for person in mpii]) - (official - 0.5))[known]
    assert np.abs(off).max() < 1
    near = np.abs(official[known]) >= 1  # cutting to 0 hides which side it was cut from
    assert np.abs(off)[near].max() <= 0.5 + 1e-3
    assert np.abs(off.mean(0)).max() < 0.01
    low, high = truth["headboxes_src"]
    heads = 0.6 * np.linalg.norm(high - low, axis=0)
    assert np.allclose([person.head_size for person in mpii], heads, rtol=1e-5)


def test_mpii_agrees_with_the_other_formats(shared_data: Path, mpii_five: list[Person]) -> None:
    people = {person.image: person for person in mpii_five}
    annotations = json.loads((shared_data / "mpii" / "annot" / "valid.json").read_text())
    assert len(annotations) == len(people) == 5
    for raw in annotations:
        person = people[raw["image"]]
        labelled = np.array(raw["joints_vis"]) == 1
        assert np.array_equal(person.labelled, labelled)
        assert np.abs(person.joints - (np.array(raw["joints"]) - 0.5))[labelled].max() <= 0.5
        center = np.add(raw["center"], (0, 15 * raw["scale"]))
        assert np.abs(person.center - (center - 0.5)).max() < 1e-3
        assert person.size == pytest.approx(200 * 1.25 * raw["scale"], rel=1e-5)


@pytest.fixture(scope="module")
def five_in_every_format(
    shared_data: Path, mpii: list[Person], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Person]]:
    """Format → image → person. The original file is made of the others: joints, box and raw values as it has them."""
    folder = shared_data / "mpii" / "annot"
    heads = scipy.io.loadmat(folder / "valid_head_boxes.mat")["headboxes_src"].transpose(2, 0, 1)
    head_of = {person.image: box for person, box in zip(mpii, heads, strict=True)}
    photos: list[tuple[str, Any, int]] = [("000000001.jpg", EMPTY, 1), ("000000002.jpg", EMPTY, 0)]
    for raw in json.loads((folder / "valid.json").read_text()):
        joints = {j: xy for j, xy in enumerate(raw["joints"]) if raw["joints_vis"][j]}
        known = release_person(joints, raw["center"], raw["scale"], head_of[raw["image"]].ravel())
        head_only = {name: known[name] for name in ("x1", "y1", "x2", "y2")}
        photos.append((raw["image"], [head_only, known], 1))
    paths = {
        "release": save_release(tmp_path_factory.mktemp("mpii") / "release.mat", photos),
        "hourglass": folder / "valid.h5",
        "HRNet": folder / "valid.json",
        "pytorch-pose": folder / "mpii_annotations.json",
    }
    people = {name: read_mpii(path, {"valid": 1.0}).people for name, path in paths.items()}
    images = {person.image for person in people["HRNet"]}
    return {name: {p.image: p for p in found if p.image in images} for name, found in people.items()}


@pytest.mark.parametrize("name", ["release", "HRNet", "pytorch-pose"])
def test_the_five_people_are_the_same_in_every_format(
    name: str, five_in_every_format: dict[str, dict[str, Person]], shared_data: Path
) -> None:
    reference, other = five_in_every_format["hourglass"], five_in_every_format[name]
    assert len(reference) == 5
    assert other.keys() == reference.keys()
    for image, person in reference.items():
        same = other[image]
        assert np.array_equal(person.labelled, same.labelled)
        off = np.abs(person.joints - same.joints)[person.labelled]
        assert off.max() <= 0.5  # the hourglass code cut upper neck and head top to integers
        assert np.count_nonzero(off) <= 4
        assert np.abs(person.center - same.center).max() < 0.01
        assert same.size == pytest.approx(person.size, rel=2e-4)
        assert same.head_size == pytest.approx(person.head_size, abs=0.013)  # 25 × a scale of three decimals
        assert same.split == person.split == "valid"
        photo = cv2.imread(str(shared_data / "mpii" / "images" / image))
        crops = [crop_person(photo, one, 256)[0].astype(float) for one in (person, same)]
        assert np.abs(crops[0] - crops[1]).mean() < 0.2  # of 255


def test_flic_people(shared_data: Path) -> None:
    folder = shared_data / "flic" / "annot"
    for name, count in (("train", 3987), ("valid", 1016)):
        seen, whose = read_flic(folder / f"{name}.h5", {"train": 1.0})
        own, whose_own = read_flic(folder / f"{name}_personcentric.h5", {"train": 1.0})
        assert (len(seen.people), len(own.people), seen.dropped, own.dropped) == (count, count, {}, {})
        assert (whose, whose_own) == (OBSERVER, PERSON)
        for a, b in zip(seen.people, own.people, strict=True):
            left, right = a.joints, b.joints
            assert np.array_equal(left, right) or np.array_equal(np.sort(left, 0), np.sort(right, 0))
            assert (a.head_size, a.size) == (b.head_size, b.size)
        torso = np.array([np.linalg.norm(np.subtract(*p.joints[list(FLIC.torso or ())])) for p in own.people])
        assert np.allclose(0.4 * torso, [p.head_size for p in own.people], rtol=1e-5)
        for person in own.people:
            assert np.abs(person.joints - person.center).max() < 1.71 * person.size / 2


def test_flic_images_in_both_splits_are_removed_from_training(shared_data: Path) -> None:
    folder = shared_data / "flic" / "annot"
    train, _ = read_flic(folder / "train.h5", {"train": 1.0})
    valid, _ = read_flic(folder / "valid.h5", {"valid": 1.0})
    people, dropped = remove_split_overlap([*train.people, *valid.people])
    assert dropped == {"training people in a validation image": 2}
    assert not {p.image for p in people if p.split == "train"} & {p.image for p in people if p.split == "valid"}


def test_head_sizes_that_two_formats_lack_are_a_tenth_of_the_box(mpii: list[Person]) -> None:
    assert len(mpii) == 2958
    assert np.allclose([HEAD_PER_BOX * p.size for p in mpii], [p.head_size for p in mpii], rtol=1e-12)


def test_mpii_people_are_in_their_crops(shared_data: Path, mpii_five: list[Person], tmp_path: Path) -> None:
    pack(mpii_five, shared_data / "mpii" / "images", tmp_path / "mpii.h5", MPII, {}, PackOptions(64, 2))
    packed = PackedPeople.load(tmp_path / "mpii.h5", "valid")
    assert len(packed) == 5
    for row, person in enumerate(mpii_five):
        assert packed.images[row] == person.image
        inside = packed.joints[row][packed.labelled[row]]
        assert ((inside > (110 - 64) / 2) & (inside < (110 + 64) / 2)).all()
        mapped = packed.original_joints()[row].numpy()
        assert np.abs(mapped - person.joints)[person.labelled].max() < 1e-3
        # Every one of these people stands on a lit image: their joints are not in the black margin.
        x, y = inside.long().T
        assert packed.crops[row, :, y, x].float().mean() > 20


def test_lspet_people(shared_data: Path) -> None:
    people, dropped = read_lspet(shared_data / "lspet" / "joints.mat")
    assert (len(people), dropped) == (4996, {"fewer than 6 labelled joints": 4})
    shares = [sum(person.split == split for person in people) / len(people) for split in SPLITS]
    assert np.allclose(shares, (0.8, 0.1, 0.1), atol=0.01)
    for person in people:
        inside = person.joints[person.labelled]
        assert np.abs(inside - person.center).max() <= person.size / 2
    heads = np.array([person.head_size / person.size for person in people])
    assert 0.10 < np.median(heads) < 0.12
    assert heads.min() >= 0.05 - 1e-6


@pytest.mark.slow
def test_all_of_lspet_is_packed(shared_data: Path, tmp_path: Path) -> None:
    people, _ = read_lspet(shared_data / "lspet" / "joints.mat")
    pack(people, shared_data / "lspet" / "images", tmp_path / "lspet.h5", LSP, {}, PackOptions(64, 2))
    assert describe_packed(tmp_path / "lspet.h5").people == 4996
    packed = PackedPeople.load(tmp_path / "lspet.h5", SPLITS)
    of = {person.image: person for person in people}
    wanted = np.stack([of[image].joints for image in packed.images])
    off = np.abs(packed.original_joints().numpy() - wanted)[packed.labelled.numpy()]
    assert off.max() < 1e-3
    assert packed.crops.float().mean() > 30


def test_some_of_lspet_is_packed(shared_data: Path, tmp_path: Path) -> None:
    people = read_lspet(shared_data / "lspet" / "joints.mat", SHARES)[0][:60]
    pack(people, shared_data / "lspet" / "images", tmp_path / "lspet.h5", LSP, {}, PackOptions(64, 2))
    packed = PackedPeople.load(tmp_path / "lspet.h5", SPLITS)
    assert len(packed) == 60
    assert packed.skeleton == LSP
    inside = packed.joints[packed.labelled]
    assert ((inside > 20) & (inside < 90)).all()
