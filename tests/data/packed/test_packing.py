from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from nas.data.packed.crop import crop_person
from nas.data.packed.format import crop_side
from nas.data.packed.options import PackOptions
from nas.data.packed.packing import broken_list, pack
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.packed.synthetic import pack_synthetic
from nas.data.people import SPLITS, Person, image_split
from nas.data.skeletons import LSP
from nas.data.synthetic.scene import SceneConfig
from nas.errors import UserError

FIGURES = SceneConfig(occluders=0)


def someone(image: str, at: tuple[float, float], size: float, center: tuple[float, float], split: str) -> Person:
    return Person(
        image=image,
        joints=np.tile(np.array(at, np.float32), (14, 1)),
        labelled=np.ones(14, np.bool_),
        center=np.array(center, np.float32),
        size=size,
        head_size=10.0,
        split=split,
    )


def dot(width: int, height: int, at: tuple[float, float], sigma: float) -> NDArray[np.uint8]:
    """A bright Gaussian spot centred at ``at``; pixel centres are at +0.5."""
    x, y = np.arange(width) + 0.5 - at[0], np.arange(height) + 0.5 - at[1]
    spot = 255 * np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) / (2 * sigma**2))
    return np.repeat(spot.round().astype(np.uint8)[..., None], 3, axis=2)


def centroid(crop: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = crop[..., 0].astype(np.float64)
    along = np.arange(len(crop)) + 0.5
    return np.array([(weight.sum(0) * along).sum(), (weight.sum(1) * along).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [40.0, 63.7, 64.0, 101.3, 200.0, 777.7, 3000.0])
@pytest.mark.parametrize("at", [(300.5, 200.5), (301.0, 202.0), (288.27, 215.91)])
def test_a_dot_lands_where_its_joint_does(size: float, at: tuple[float, float]) -> None:
    box = 64
    image = dot(640, 480, at, sigma=max(2.0, 1.5 * size / box))
    person = someone("a.png", at, size, (295.3, 207.8), "train")
    crop, joints, to_original = crop_person(image, person, box)
    assert crop.shape == (crop_side(box),) * 2 + (3,)
    assert crop.dtype == np.uint8
    if size < 3000:  # a larger spot does not fit the image
        assert np.abs(centroid(crop) - joints[0]).max() < 0.1
    back = to_original[:, :2] @ joints[0] + to_original[:, 2]
    assert np.abs(back - np.array(at, np.float32)).max() < 1e-3


def test_the_box_fills_the_middle_of_the_crop() -> None:
    corner = (200 - 50.0, 100 - 50.0)
    _, joints, _ = crop_person(dot(400, 300, corner, 2), someone("a", corner, 100, (200, 100), "train"), 64)
    assert np.allclose(joints, (crop_side(64) - 64) / 2)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than any crop pixel: grey is the only right answer
    crop, _, _ = crop_person(stripes, someone("a", (450, 450), 400, (450.3, 450.1), "train"), 64)
    inside = crop[10:-10, 10:-10]
    assert abs(float(inside.mean()) - 127.5) < 1
    assert inside.std() < 8


def test_same_scale_copies_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    crop, _, to_original = crop_person(image, someone("a", (100, 100), 64, (100, 90), "train"), 64)
    half = crop_side(64) // 2
    assert np.array_equal(crop, image[90 - half : 90 + half, 100 - half : 100 + half])
    assert np.allclose(to_original, [[1, 0, 100 - half], [0, 1, 90 - half]])


def test_black_beyond_the_image() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    crop, _, _ = crop_person(image, someone("a", (0, 0), 64, (0, 0), "train"), 64)
    half = crop_side(64) // 2
    assert not crop[:half].any()
    assert not crop[:, :half].any()
    assert (crop[half:, half:] == 200).all()


def test_enormous_boxes_stay_within_memory() -> None:
    crop, _, _ = crop_person(dot(640, 480, (320, 240), 50), someone("a", (320, 240), 1e6, (320, 240), "train"), 64)
    assert crop.shape == (110, 110, 3)


@pytest.fixture
def album(tmp_path: Path) -> tuple[Path, list[Person]]:
    """Images with a dot for each of their people, two of them in one image, named out of order."""
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    people = []
    for number, name in enumerate(["b.png", "sub/a.png", "c.png", "d.png", "e.png"]):
        at = (60.0 + 7 * number, 50.5 + number)
        cv2.imwrite(str(folder / name), dot(200, 160, at, 2))
        split = ("valid", "train", "holdout", "train", "train")[number]
        people.append(someone(name, at, 80, (70, 60), split))
        if name == "b.png":
            people.append(someone(name, at, 120, (90, 60), split))
    return folder, people


@pytest.mark.parametrize("workers", [1, 3])
def test_pack(album: tuple[Path, list[Person]], tmp_path: Path, workers: int) -> None:
    folder, people = album
    done: list[int] = []
    before = cv2.getNumThreads()
    pack(people, folder, tmp_path / "out.h5", LSP, {"dataset": "album"}, PackOptions(32, workers), done.append)
    assert cv2.getNumThreads() == before
    assert done[-1] == 6
    assert done == sorted(done)
    assert describe_packed(tmp_path / "out.h5").counts == {"train": 3, "holdout": 1, "valid": 2}
    packed = PackedPeople.load(tmp_path / "out.h5", SPLITS)
    ordered = sorted(people, key=lambda person: SPLITS.index(person.split))
    assert packed.images == tuple(person.image for person in ordered)
    for row, person in enumerate(ordered):
        assert np.abs(packed.original_joints()[row].numpy() - person.joints).max() < 1e-3
        assert np.abs(centroid(packed.crops[row].permute(1, 2, 0).numpy()) - packed.joints[row, 0].numpy()).max() < 0.1


def test_the_number_of_workers_changes_nothing(album: tuple[Path, list[Person]], tmp_path: Path) -> None:
    folder, people = album
    for workers in (1, 4):
        pack(people, folder, tmp_path / f"{workers}.h5", LSP, {}, PackOptions(32, workers))
    assert describe_packed(tmp_path / "1.h5") == describe_packed(tmp_path / "4.h5")


@pytest.mark.parametrize("shape", [(640, 480), (641, 481), (647, 487)])
def test_people_shrunk_to_half_and_less_land_where_their_joints_do(tmp_path: Path, shape: tuple[int, int]) -> None:
    # Such a JPEG is decoded at half size, unless somebody else in it is nearer.
    width, height = shape
    people = []
    for image, sizes in (("far.jpg", (128.0, 300.4)), ("near.jpg", (300.4, 127.0))):
        for i, size in enumerate(sizes):
            at = (301.3 + i, 202.8 - i)
            people.append(someone(image, at, size, (295.3, 207.8), "train"))
        photo = dot(width, height, (301.8, 202.3), 12)
        photo[..., 1] //= 2
        cv2.imwrite(str(tmp_path / image), photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    pack(people, tmp_path, tmp_path / "people.h5", LSP, {"kind": "test"}, PackOptions(64, 2))
    packed = PackedPeople.load(tmp_path / "people.h5", "train")
    for i, person in enumerate(people):
        crop = packed.crops[i].permute(1, 2, 0).numpy()
        expected = packed.joints[i, 0].numpy() + (np.array([301.8, 202.3]) - person.joints[0]) * 64 / person.size
        weight = np.maximum(crop.astype(np.float64) - 20, 0)  # what JPEG leaves of black
        assert np.abs(centroid(weight.astype(np.uint8)) - expected).max() < 0.1
        assert abs(int(crop[..., 1].max()) - int(crop[..., 0].max()) / 2) < 8
    # One scene in two images, decoded separately: the same person looks the same.
    half, whole = (packed.crops[i].numpy().astype(float) for i in (1, 2))
    assert np.abs(half - whole).max() < 8


def test_shrinking_a_jpeg_does_not_alias(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (900, 900), np.uint8) * 255  # as fine as pixels are: grey at last
    cv2.imwrite(str(tmp_path / "a.jpg"), np.repeat(noise[..., None], 3, 2), [cv2.IMWRITE_JPEG_QUALITY, 100])
    far = someone("a.jpg", (450, 450), 512, (450.3, 450.1), "train")
    pack([far], tmp_path, tmp_path / "people.h5", LSP, {"kind": "test"}, PackOptions(64, 1))
    halved = PackedPeople.load(tmp_path / "people.h5", "train").crops[0, :, 10:-10, 10:-10].numpy().astype(float)
    exact = crop_person(np.repeat(noise[..., None], 3, 2), far, 64)[0][10:-10, 10:-10].astype(float)
    assert abs(halved.mean() - 127.5) < 2
    assert halved.std() < 1.2 * exact.std()  # 16 by the law of large numbers: 127.5 / 8


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    image[..., 2] = 255  # red, in OpenCV's order
    cv2.imwrite(str(tmp_path / "red.png"), image)
    pack(
        [someone("red.png", (25, 25), 20, (25, 25), "train")],
        tmp_path,
        tmp_path / "out.h5",
        LSP,
        {},
        PackOptions(16, 1),
    )
    assert PackedPeople.load(tmp_path / "out.h5", "train").crops[0, :, 14, 14].tolist() == [255, 0, 0]


def test_missing_images_are_counted_before_anything_is_written(
    album: tuple[Path, list[Person]], tmp_path: Path
) -> None:
    folder, people = album
    (folder / "c.png").unlink()
    (folder / "e.png").unlink()
    with pytest.raises(
        UserError, match=r"c\.png: no such image; e\.png cannot be used either; .* 2 of 5 .* allows 0: check"
    ):
        pack(people, folder, tmp_path / "out.h5", LSP, {}, PackOptions(32, 2))
    assert sorted(tmp_path.iterdir()) == sorted([folder, broken_list(tmp_path / "out.h5")])
    assert broken_list(tmp_path / "out.h5").read_text() == "c.png\tno such image\ne.png\tno such image\n"


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", "half a JPEG", "most of a JPEG"])
def test_unreadable_images_are_named(
    album: tuple[Path, list[Person]], tmp_path: Path, content: bytes | str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, people = album
    if isinstance(content, str):
        whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8))[1].tobytes()
        content = whole[: len(whole) // 2] if content == "half a JPEG" else whole[:-40]
    (folder / "d.png").write_bytes(content)
    out = tmp_path / "out.h5"
    out.write_bytes(b"what was there")
    with pytest.raises(
        UserError, match=r"d\.png: .* 1 of 5 images are missing or broken, and --max-broken allows 0: .*replace"
    ) as caught:
        pack(people, folder, out, LSP, {}, PackOptions(32, 2))
    assert "\n" not in str(caught.value)
    assert out.read_bytes() == b"what was there"
    assert broken_list(out).read_text().startswith("d.png\t")

    # Allowed, its people are left out, and those behind move up.
    report = pack(people, folder, out, LSP, {}, PackOptions(32, 2, max_broken=1))
    assert (report.people, report.left_out, list(report.broken)) == (5, 1, ["d.png"])
    assert sorted(tmp_path.iterdir()) == sorted([folder, out, broken_list(out)])
    fine = [person for person in people if person.image != "d.png"]
    pack(fine, folder, tmp_path / "fine.h5", LSP, {}, PackOptions(32, 2))
    assert describe_packed(out) == describe_packed(tmp_path / "fine.h5")
    assert out.read_bytes() == (tmp_path / "fine.h5").read_bytes()
    assert capfd.readouterr().err == ""

    (folder / "d.png").write_bytes((folder / "c.png").read_bytes())
    assert pack(people, folder, out, LSP, {}, PackOptions(32, 2)).people == 6
    assert not broken_list(out).exists()


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "/etc/passwd", "", "a\0b", "..\\secret.png"])
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="leads out of"):
        pack([someone(name, (5, 5), 20, (5, 5), "train")], tmp_path, tmp_path / "out.h5", LSP, {}, PackOptions(16, 1))


def test_image_split_is_fixed_and_keeps_its_shares() -> None:
    shares = {"holdout": 0.1, "valid": 0.1, "train": 0.8}
    names = [f"im{i:05d}.jpg" for i in range(10_000)]
    found = [image_split(name, shares) for name in names]
    for split, share in shares.items():
        assert abs(found.count(split) / len(names) - share) < 3 * math.sqrt(share * (1 - share) / len(names))
    assert found[:5] == [image_split(name, shares) for name in names[:5]]
    assert image_split("im00001.jpg", {"valid": 1.0}) == "valid"
    # What is held out stays so when there are no valid images to take away.
    fewer = [image_split(name, {"holdout": 0.1, "train": 0.9}) for name in names]
    assert all((a == "holdout") == (b == "holdout") for a, b in zip(found, fewer, strict=True))


@pytest.mark.slow
def test_synthetic_people_depend_on_the_seed_alone(tmp_path: Path) -> None:
    counts = {"train": 40, "holdout": 3, "valid": 2}
    pack_synthetic(tmp_path / "1.h5", counts, 7, FIGURES, PackOptions(16, 1))
    done: list[int] = []
    pack_synthetic(tmp_path / "2.h5", counts, 7, FIGURES, PackOptions(16, 2), done.append)
    pack_synthetic(tmp_path / "3.h5", {**counts, "train": 5}, 7, FIGURES, PackOptions(16, 1))
    pack_synthetic(tmp_path / "4.h5", counts, 8, FIGURES, PackOptions(16, 1))
    assert done[-1] == 45
    assert describe_packed(tmp_path / "1.h5") == describe_packed(tmp_path / "2.h5")
    sums = {describe_packed(tmp_path / f"{number}.h5").checksum for number in (1, 3, 4)}
    assert len(sums) == 3
    one, fewer = (PackedPeople.load(tmp_path / f"{number}.h5", ["holdout", "valid"]) for number in (1, 3))
    assert one.images == fewer.images
    assert one.crops.equal(fewer.crops)
    assert one.original_joints().equal(one.joints)
    assert len(set(PackedPeople.load(tmp_path / "1.h5", SPLITS).images)) == 45


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_in_place_of_a_image_does_not_block(album: tuple[Path, list[Person]], tmp_path: Path) -> None:
    folder, people = album
    (folder / "d.png").unlink()
    os.mkfifo(folder / "d.png")
    with pytest.raises(UserError, match=r"d\.png: no such image"):
        pack(people, folder, tmp_path / "out.h5", LSP, {}, PackOptions(32, 2))


@pytest.mark.parametrize(
    ("jpeg", "checksum", "crops"),
    [
        (
            None,
            "47272cdbc12c93690852cc0030c97889f89ecb22e25bd81870b08f2ef69771e6",
            "3c93c37696cf2bdd79b4bca4ff1b867d45c6b5b90aeaaa1bd9f6a696b180f00a",
        ),
        (
            90,
            "c5afacc0834c05690c82e4af374bf2780fdbfda20f4472cebde8b10dab346789",
            "0682edf3cbe099f9efccf29198e97d6e37c405a9746352d7b14457df27066728",
        ),
    ],
)
def test_synthetic_files_equal_those_of_version_0_7_0(
    tmp_path: Path, jpeg: int | None, checksum: str, crops: str
) -> None:
    path = tmp_path / "people.h5"
    pack_synthetic(path, {"train": 5, "holdout": 2, "valid": 2}, 7, SceneConfig(), PackOptions(32, 1, jpeg=jpeg))
    summary = describe_packed(path)
    assert dict(summary.source) == {
        "dataset": "synthetic",
        "seed": "7",
        "figures": "Figures(clutter=0.5, occluders=0.3, others=0.4, pose=0.8, light=0.5, truncation=0.05)",
    }
    assert summary.checksum == checksum
    with h5py.File(path) as file:
        assert hashlib.sha256(file["crops" if jpeg is None else "jpegs"][()].tobytes()).hexdigest() == crops


def test_large_images_are_left_out_and_the_first_of_several_frames_is_said(tmp_path: Path) -> None:
    frame = dot(64, 48, (32, 24), 5)
    assert cv2.imwritemulti(str(tmp_path / "pages.tif"), [frame, frame[::-1]])
    assert cv2.imwrite(str(tmp_path / "large.png"), np.zeros((100, 100, 3), np.uint8))
    people = [someone(name, (32, 24), 40, (32, 24), "train") for name in ("pages.tif", "large.png")]
    report = pack(people, tmp_path, tmp_path / "p.h5", LSP, {}, PackOptions(64, max_broken=1, max_pixels=64 * 48))
    assert report.several_frames == ["pages.tif"]
    assert "100×100 are more than 3,072 pixels" in report.broken["large.png"]
