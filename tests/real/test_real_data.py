"""Readers and packing on the real pictures and annotations in ../shared/data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from nas.data.lsp import read_lspet
from nas.data.mpii import read_mpii_hourglass_h5
from nas.data.packed import PackedPeople, describe_packed
from nas.data.packing import missing_pictures, pack
from nas.data.people import LSP, MPII, SPLITS, Person

SHARES = {"holdout": 0.1, "valid": 0.1, "train": 0.8}


@pytest.fixture(scope="module")
def mpii(shared_data: Path) -> list[Person]:
    people, dropped = read_mpii_hourglass_h5(shared_data / "mpii" / "annot" / "valid.h5", {"valid": 1.0})
    assert not dropped
    return people


@pytest.fixture(scope="module")
def mpii_five(shared_data: Path, mpii: list[Person]) -> list[Person]:
    folder = shared_data / "mpii" / "images"
    missing = set(missing_pictures((person.image for person in mpii), folder))
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


def test_mpii_people_are_in_their_crops(shared_data: Path, mpii_five: list[Person], tmp_path: Path) -> None:
    pack(mpii_five, shared_data / "mpii" / "images", tmp_path / "mpii.h5", MPII, 64, {}, 2)
    packed = PackedPeople.load(tmp_path / "mpii.h5", "valid")
    assert len(packed) == 5
    for row, person in enumerate(mpii_five):
        assert packed.images[row] == person.image
        inside = packed.joints[row][packed.labelled[row]]
        assert ((inside > (110 - 64) / 2) & (inside < (110 + 64) / 2)).all()
        mapped = packed.original_joints()[row].numpy()
        assert np.abs(mapped - person.joints)[person.labelled].max() < 1e-3
        # Every one of these people stands on a lit picture: their joints are not in the black margin.
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
    pack(people, shared_data / "lspet" / "images", tmp_path / "lspet.h5", LSP, 64, {}, 2)
    assert describe_packed(tmp_path / "lspet.h5").people == 4996
    packed = PackedPeople.load(tmp_path / "lspet.h5", SPLITS)
    of = {person.image: person for person in people}
    wanted = np.stack([of[image].joints for image in packed.images])
    off = np.abs(packed.original_joints().numpy() - wanted)[packed.labelled.numpy()]
    assert off.max() < 1e-3
    assert packed.crops.float().mean() > 30


def test_some_of_lspet_is_packed(shared_data: Path, tmp_path: Path) -> None:
    people = read_lspet(shared_data / "lspet" / "joints.mat", SHARES)[0][:60]
    pack(people, shared_data / "lspet" / "images", tmp_path / "lspet.h5", LSP, 64, {}, 2)
    packed = PackedPeople.load(tmp_path / "lspet.h5", SPLITS)
    assert len(packed) == 60
    assert packed.skeleton == LSP
    inside = packed.joints[packed.labelled]
    assert ((inside > 20) & (inside < 90)).all()
