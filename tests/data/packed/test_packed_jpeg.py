"""Crops stored as JPEG, digests, and old files without digests."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from nas.data.packed.format import PackedHeader, crop_side, encode_jpeg
from nas.data.packed.options import PackOptions
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.packed.synthetic import pack_synthetic
from nas.data.packed.writer import PackedPerson, PackedWriter
from nas.data.people import SPLITS
from nas.data.skeletons import MPII
from nas.data.synthetic.render import render_person
from nas.data.synthetic.scene import SceneConfig
from nas.errors import UserError

COUNTS = {"train": 8, "holdout": 3, "valid": 2}


def write(path: Path, jpeg: int | None, order: list[int] | None = None) -> Path:
    with PackedWriter(path, PackedHeader(MPII, 64, {"dataset": "test"}, jpeg), 13) as writer:
        for index in order or range(13):
            person = render_person(0, index, 64, 1.71, SceneConfig())
            split = SPLITS[(index > 7) + (index > 10)]
            packed = PackedPerson(
                person.crop, person.joints, person.labelled, 9.0, np.eye(2, 3), split, f"{index}-ü.jpg"
            )
            writer.put(index, packed)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("both")
    return write(folder / "raw.h5", None), write(folder / "jpeg.h5", 95)


@pytest.mark.parametrize("limit", [None, 1, 3])
@pytest.mark.parametrize("split", ["train", "valid", SPLITS])
def test_jpeg_and_raw_load_alike(both: tuple[Path, Path], split: str, limit: int | None) -> None:
    raw, jpeg = (PackedPeople.load(path, split, limit=limit) for path in both)
    assert raw.images == jpeg.images
    for name in ("joints", "labelled", "head_size", "to_original"):
        assert getattr(raw, name).equal(getattr(jpeg, name))
    assert jpeg.crops.dtype == torch.uint8
    assert jpeg.crops.shape == raw.crops.shape
    assert jpeg.crops.is_contiguous(memory_format=torch.channels_last)
    error = (raw.crops.float() - jpeg.crops.float()).square().mean((1, 2, 3))
    assert (10 * torch.log10(255**2 / error)).min() > 33
    # Colours are in order: far from what red and blue exchanged would give.
    assert (raw.crops.flip(1).float() - jpeg.crops.float()).square().mean() > 3 * error.mean()


def test_the_crop_is_just_what_the_jpeg_holds(both: tuple[Path, Path]) -> None:
    crop = render_person(0, 9, 64, 1.71, SceneConfig()).crop
    want = cv2.imdecode(np.frombuffer(encode_jpeg(crop, 95), np.uint8), cv2.IMREAD_COLOR_RGB)
    people = PackedPeople.load(both[1], "holdout")
    assert np.array_equal(people.crops[1].permute(1, 2, 0).numpy(), want)


def test_summary_of_jpeg_files(both: tuple[Path, Path], tmp_path: Path) -> None:
    raw, jpeg = map(describe_packed, both)
    assert (raw.jpeg, jpeg.jpeg) == (None, 95)
    assert raw.checksum != jpeg.checksum
    assert (raw.counts, raw.labelled, raw.skeleton) == (jpeg.counts, jpeg.labelled, jpeg.skeleton)
    assert both[1].stat().st_size < both[0].stat().st_size / 2
    assert describe_packed(write(tmp_path / "90.h5", 90)).checksum != jpeg.checksum
    backwards = write(tmp_path / "backwards.h5", 95, list(reversed(range(13))))
    assert describe_packed(backwards) == jpeg
    assert PackedPeople.load(backwards, SPLITS).crops.equal(PackedPeople.load(both[1], SPLITS).crops)


def test_synthetic_people_as_jpeg(tmp_path: Path) -> None:
    pack_synthetic(tmp_path / "a.h5", COUNTS, 0, SceneConfig(), PackOptions(32, 1, jpeg=90))
    pack_synthetic(tmp_path / "b.h5", COUNTS, 0, SceneConfig(), PackOptions(32, 2, jpeg=90))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert len(PackedPeople.load(tmp_path / "a.h5", SPLITS)) == 13


def test_synthetic_people_are_those_of_the_first_version(tmp_path: Path) -> None:
    """Studies are bound to the checksum of their people."""
    pack_synthetic(tmp_path / "a.h5", {"train": 3}, 7, SceneConfig(occluders=0), PackOptions(16, 1))
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file.attrs["version"] == 1
        assert file["crops"].shape == (3, crop_side(16), crop_side(16), 3)


def test_raw_files_without_digests(both: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    path.write_bytes(both[0].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["digest"]
    assert describe_packed(path) == describe_packed(both[0])
    assert PackedPeople.load(path, SPLITS).crops.equal(PackedPeople.load(both[0], SPLITS).crops)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        PackedPeople.load(path, SPLITS)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_changed_pixel_is_noticed_where_it_matters(both: tuple[Path, Path], tmp_path: Path, jpeg: bool) -> None:
    path = tmp_path / "changed.h5"
    path.write_bytes(both[jpeg].read_bytes())
    with h5py.File(path, "r+") as file:
        if jpeg:
            file["jpegs"][file["start"][9] + 700] ^= 1
        else:
            file["crops"][9, 50, 50, 1] ^= 1
    refused(path, "person 9 (9-ü.jpg) has changed")
    assert len(PackedPeople.load(path, "train")) == 8
    assert describe_packed(path) == describe_packed(both[jpeg])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("start", lambda start: start + 1, "outside 'jpegs'"),
        ("start", lambda start: start - 1, "outside 'jpegs'"),
        ("start", lambda start: start * 0, "overlap"),
        ("start", lambda start: start.astype(np.float64), "float64"),
        ("length", lambda length: length * 0, "outside"),
        ("length", lambda length: -length, "outside"),
        ("length", lambda length: length + 2**62, "outside"),
        ("length", lambda length: length[:3], "expected int64 (13,)"),
        ("digest", lambda digest: digest[::-1], "its checksum is not that of its people"),
        ("digest", None, "damaged"),
        ("jpegs", None, "damaged"),
        ("jpegs", lambda jpegs: jpegs[:-9], "outside"),
    ],
)
def test_damaged_tables(both: tuple[Path, Path], tmp_path: Path, name: str, change: object, words: str) -> None:
    path = tmp_path / "damaged.h5"
    path.write_bytes(both[1].read_bytes())
    with h5py.File(path, "r+") as file:
        before = file[name][:]
        del file[name]
        if change is not None:
            file[name] = change(before)  # type: ignore[operator]
    refused(path, words, "nas.prepare")


@pytest.mark.parametrize("content", [b"no JPEG" * 99, encode_jpeg(np.zeros((64, 64, 3), np.uint8), 90)])
def test_a_crop_that_is_no_jpeg_of_that_size(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.data.packed.writer.encode_jpeg", lambda *_: content)
    refused(write(tmp_path / "people.h5", 90), "person 0 (0-ü.jpg) is no JPEG of 110 pixels")
    assert capfd.readouterr().err == ""
