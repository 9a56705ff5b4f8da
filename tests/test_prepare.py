from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from annotation_files import (
    SKELETON,
    coco,
    flic_content,
    flic_examples,
    hrnet,
    lsp_content,
    mpii_joints,
    pytorch_pose,
    release_person,
    save_examples,
    save_h5,
    save_json,
    save_release,
)

from nas import console, prepare
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.people import SPLITS
from nas.data.skeletons import FLIC
from nas.errors import UserError

Command = Callable[..., subprocess.CompletedProcess[str]]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run ``nas.prepare`` in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        console.run(prepare.app, [str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.out, output.err


@pytest.fixture
def lspet(tmp_path: Path) -> tuple[Path, Path]:
    """A small dataset in LSPET's layout whose last image is missing: the folder of the images, and the annotations."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 40):
        cv2.imwrite(str(folder / f"im{number:05d}.jpg"), rng.integers(0, 256, (120, 100, 3), np.uint8))
    joints = np.concatenate([rng.uniform(10, 90, (14, 2, 40)), np.ones((14, 1, 40))], axis=1)
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    return folder, tmp_path / "joints.mat"


@pytest.fixture
def hourglass(tmp_path: Path, lspet: tuple[Path, Path]) -> Path:
    """Annotations in the hourglass layout for the same images."""
    return save_hourglass(tmp_path / "annotations.h5", range(1, 40))


def save_hourglass(path: Path, numbers: Sequence[int], x: float = 50) -> Path:
    count = len(numbers)
    return save_h5(
        path,
        {
            "imgname": np.array([f"im{number:05d}.jpg" for number in numbers], "S13"),
            "part": np.random.default_rng(1).integers(1, 90, (count, 16, 2)).astype(np.float64),
            "center": np.full((count, 2), (x, 50.0)),
            "scale": np.full(count, 0.6),
            "normalize": np.full(count, 12.0),
        },
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".jpg"}


def test_lsp(lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, annotations = lspet
    out = tmp_path / "new" / "people.h5"
    code, text, errors = call(
        capsys, "lsp", "--images", images, "--annotations", annotations, "--out", out, "--box", 32,
        "--max-broken", "2.5%",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    summary = describe_packed(out)
    assert images_by_split(out).keys() == {split for split in SPLITS if summary.counts[split]}
    assert (summary.people, summary.box, summary.skeleton.name) == (39, 32, "lsp")
    assert summary.source["dataset"] == "lspet"
    assert "39 people (train " in text
    assert "joints labelled: 546 of 546" in text
    assert "left out: 1, image missing or broken" in text
    listed = out.parent / "people.h5.broken.txt"
    assert f"missing or broken images: 1, listed in {listed}: im00040.jpg (no such image)" in text
    assert "39 images read, " in text
    assert files(out.parent) == {"people.h5", listed.name}


def test_a_missing_image_stops_packing(
    lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, annotations = lspet
    before = files(tmp_path)
    code, text, errors = call(
        capsys, "lsp", "--images", images, "--annotations", annotations, "--out", tmp_path / "people.h5"
    )
    assert code == 2
    assert "does not define the validation people" in text
    assert errors == (
        f"error: {images / 'im00040.jpg'}: no such image; 1 of 40 images are missing or broken, and --max-broken "
        "allows 0: "
        "check the folder of the images, replace them, or allow more to leave their people out\n"
    )
    assert files(tmp_path) == before | {"people.h5.broken.txt"}


def test_mpii_with_both_splits(lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mpii.h5"
    train = save_hourglass(tmp_path / "one.h5", range(1, 33))
    valid = save_hourglass(tmp_path / "two.h5", range(30, 40), x=20)
    code, text, _ = call(
        capsys, "mpii", "--images", lspet[0], "--train", train, "--valid", valid, "--out", out, "--box", 32
    )  # fmt: skip
    assert code == 0
    counts = describe_packed(out).counts
    assert counts["valid"] == 10
    assert counts["train"] + counts["holdout"] == 29
    assert counts["holdout"] > 0
    assert "divided" not in text
    assert "32 people, the hourglass code's HDF5" in text
    assert "left out: 3, training people in a validation image" in text
    assert describe_packed(out).source["train"] == "one.h5"
    images_by_split(out)


def test_mpii_with_one_file_is_divided_by_hash(
    lspet: tuple[Path, Path], hourglass: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mpii.h5"
    code, text, _ = call(capsys, "mpii", "--images", lspet[0], "--valid", hourglass, "--out", out, "--box", 32)
    assert code == 0
    assert "annotations.h5 does not define the validation people: its images are divided into 80 % train, 10 % " in text
    assert all(describe_packed(out).counts[split] for split in SPLITS)


def images_by_split(packed: Path) -> dict[str, set[str]]:
    """The images of each split; no image is in two splits."""
    counts = describe_packed(packed).counts
    photos = {split: set(PackedPeople.load(packed, split).images) for split in SPLITS if counts[split]}
    assert sum(map(len, photos.values())) == len(set().union(*photos.values()))
    return photos


def release(path: Path) -> Path:
    """Two people on each of the images 1 to 39, in MPII's original structure."""
    people = [release_person(mpii_joints(), (x, 41), 0.48, (40, 10, 50, 20)) for x in (20, 50)]
    return save_release(path, [(f"im{number:05d}.jpg", people, 1) for number in range(1, 40)])


@pytest.mark.parametrize("kind", ["text", "hourglass", "pytorch-pose"])
def test_the_release_with_a_validation_list(
    kind: str, lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "valid list"
    if kind == "text":
        listed.write_text("im00003.jpg\nim00004.jpg\nim99999.jpg\n")
    elif kind == "hourglass":
        save_hourglass(listed, [3, 4, 99])  # its centre is 15 × 0.48 lower
        with h5py.File(listed, "r+") as file:
            file["center"][:, 1] = 41 + 15 * 0.48
    else:
        rows = [pytorch_pose(f"im{number:05d}.jpg", objpos=[50.2, 41], scale_provided=0.48) for number in range(1, 6)]
        for row in rows[2:4]:
            row["isValidation"] = 1.0
        save_json(listed, rows)
    out = tmp_path / "mpii.h5"
    code, text, errors = call(
        capsys, "mpii", "--images", lspet[0], "--annotations", release(tmp_path / "r.mat"), "--valid-list", listed,
        "--out", out, "--box", 32,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert images_by_split(out)["valid"] == {"im00003.jpg", "im00004.jpg"}
    everybody = kind == "text"
    assert describe_packed(out).counts["valid"] == (4 if everybody else 2)
    assert f"{4 if everybody else 2} of these people are in the validation split" in text
    assert ("left out: 2, training people in a validation image" in text) is not everybody
    assert "divided" not in text
    assert describe_packed(out).source["valid list"] == "valid list"


def test_the_release_alone_and_with_a_second_file_of_the_same_people(
    lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [hrnet(f"im{number:05d}.jpg", center=[50, 41], scale=0.48) for number in (1, 2)]
    new = [hrnet(f"im{number:05d}.jpg", center=[90, 41], scale=0.48) for number in (1, 2, 3)]
    out = tmp_path / "mpii.h5"
    code, text, _ = call(
        capsys, "mpii", "--images", lspet[0], "--annotations", release(tmp_path / "r.mat"),
        "--annotations", save_json(tmp_path / "j.json", again + new), "--out", out, "--box", 32,
    )  # fmt: skip
    assert code == 0
    assert "81 people (train " in text
    assert "left out: 2, also in an earlier file" in text
    assert text.count("does not define the validation people") == 2
    assert images_by_split(out).keys() == set(SPLITS)
    assert describe_packed(out).source["annotations 2"] == "j.json"


def test_pytorch_pose_defines_the_validation_people(
    lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        pytorch_pose(f"im{number:05d}.jpg", objpos=[x, 41], scale_provided=0.48, isValidation=float(number < 6))
        for number in range(1, 40)
        for x in (20, 50)
    ]
    rows[0]["isValidation"] = 0.0
    out = tmp_path / "mpii.h5"
    code, text, _ = call(
        capsys, "mpii", "--images", lspet[0], "--annotations", save_json(tmp_path / "j.json", rows), "--out", out,
        "--box", 32,
    )  # fmt: skip
    assert code == 0
    assert images_by_split(out)["valid"] == {f"im{number:05d}.jpg" for number in range(1, 6)}
    assert describe_packed(out).counts["valid"] == 9
    assert "left out: 1, training people in a validation image" in text
    assert "divided" not in text


@pytest.mark.slow
def test_lsp_joined_with_its_extended_set(
    lspet: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extended_images, extended = lspet
    images = tmp_path / "lsp" / "images"
    images.mkdir(parents=True)
    for number in (1, 2, 1001, 1002, 2000):
        cv2.imwrite(str(images / f"im{number:04d}.jpg"), np.full((160, 160, 3), 90, np.uint8))
    annotations = tmp_path / "lsp" / "joints.mat"
    scipy.io.savemat(annotations, {"joints": lsp_content()})
    out = tmp_path / "lsp.h5"
    arguments = [
        "lsp",
        "--images",
        images,
        "--annotations",
        annotations,
        "--out",
        out,
        "--box",
        32,
        "--max-broken",
        "100%",
    ]
    code, text, _ = call(
        capsys, *arguments, "--extended-images", extended_images, "--extended-annotations", extended
    )  # fmt: skip
    assert code == 0
    photos = images_by_split(out)
    assert photos["valid"] == {f"lsp/images/im{number}.jpg" for number in (1001, 1002, 2000)}
    assert len(photos["train"] | photos["holdout"]) == 2 + 39
    assert "images/im00039.jpg" in photos["train"] | photos["holdout"]
    assert "divided" not in text
    assert describe_packed(out).source["dataset"] == "lsp and lspet"

    code, text, _ = call(capsys, *arguments)
    assert code == 0
    assert images_by_split(out)["valid"] == {f"im{number}.jpg" for number in (1001, 1002, 2000)}
    assert describe_packed(out).source["dataset"] == "lsp"

    arguments[arguments.index(annotations)] = extended
    code, _, errors = call(capsys, *arguments, "--extended-annotations", annotations)
    assert code == 2
    assert (
        f"--annotations {extended} is the joints.mat of LSP Extended; give LSP's joints.mat as --annotations" in errors
    )
    code, _, errors = call(capsys, *arguments, "--extended-images", images)
    assert code == 2
    assert "--extended-images without --extended-annotations" in errors


@pytest.mark.slow
def test_flic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(30):
        cv2.imwrite(str(images / f"film-{number:08d}.jpg"), np.full((480, 720, 3), 90, np.uint8))
    out = tmp_path / "flic.h5"
    examples = save_examples(tmp_path / "examples.mat", flic_examples(30, tested=5))
    code, text, _ = call(capsys, "flic", "--images", images, "--annotations", examples, "--out", out, "--box", 32)
    assert code == 0
    assert "left and right: person-centric or observer-centric" in text
    assert "divided" not in text
    summary = describe_packed(out)
    assert summary.counts["valid"] == 5
    assert len(images_by_split(out)["valid"]) == 5
    assert summary.skeleton == FLIC
    assert summary.source["left and right"] == "person-centric or observer-centric"

    own = flic_content(20)
    own["part"][3] = own["part"][3][list(FLIC.flip_order)]
    seen = {**flic_content(20), "normalize": own["normalize"].copy()}
    seen["normalize"][3] += 30
    own["normalize"] = np.linalg.norm(own["part"][:, 3] - own["part"][:, 6], axis=-1)
    train, valid = save_h5(tmp_path / "train.h5", own), save_h5(tmp_path / "valid.h5", seen)
    arguments = ["flic", "--images", images, "--train", train, "--out", out, "--box", 32]
    code, _, errors = call(capsys, *arguments, "--valid", valid)
    assert code == 2
    assert f"{train} is person-centric, {valid} is observer-centric: left and right would not mean the same" in errors
    code, text, _ = call(capsys, *arguments)
    assert code == 0
    assert "left and right: person-centric\n" in text
    assert "train.h5 does not define the validation people" in text


def test_coco_with_images_in_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "skeleton.toml").write_text(SKELETON)
    for folder in ("train2017", "val2017"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            cv2.imwrite(str(tmp_path / folder / f"{number:012d}.jpg"), np.full((100, 120, 3), 90, np.uint8))
    train, valid = save_json(tmp_path / "train.json", coco(40)), save_json(tmp_path / "val.json", coco(10))
    out = tmp_path / "people.h5"
    code, text, errors = call(
        capsys, "coco", "--images", tmp_path / "train2017", "--valid-images", tmp_path / "val2017", "--train", train,
        "--valid", valid, "--skeleton", tmp_path / "skeleton.toml", "--out", out, "--box", 32,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    images = images_by_split(out)
    assert images["valid"] == {f"val2017/{number:012d}.jpg" for number in range(10)}
    assert len(images["train"] | images["holdout"]) == 40
    summary = describe_packed(out)
    assert summary.skeleton.name == "arm"
    assert summary.skeleton.torso == (0, 5)
    assert summary.source["skeleton"] == "skeleton.toml"
    assert "divided" not in text

    code, text, _ = call(
        capsys, "coco", "--images", tmp_path / "train2017", "--annotations", train, "--skeleton",
        tmp_path / "skeleton.toml", "--out", out, "--box", 32,
    )  # fmt: skip
    assert code == 0
    assert "train.json does not define the validation people" in text
    assert images_by_split(out).keys() == set(SPLITS)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "a\0.jpg"]
)
@pytest.mark.parametrize("extra", [False, True])
def test_images_outside_their_folder_are_refused(
    name: str, extra: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "skeleton.toml").write_text(SKELETON)
    for folder in ("images", "more"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "secret.jpg"), np.full((100, 120, 3), 90, np.uint8))
    content = coco(1)
    content["images"][0]["file_name"] = name
    path = save_json(tmp_path / "people.json", content)
    more = ["--valid", path, "--valid-images", tmp_path / "more"] if extra else []
    code, _, errors = call(
        capsys, "coco", "--images", tmp_path / "images", "--train", path, *more, "--skeleton",
        tmp_path / "skeleton.toml", "--out", tmp_path / "out" / "people.h5", "--max-broken", "100%",
    )  # fmt: skip
    assert code == 2
    assert "leads out of" in errors
    assert not (tmp_path / "out").exists()


def test_synthetic(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "people.h5"
    out.write_bytes(b"what was there")
    done = command("prepare", "synthetic", "--out", out, "--people", 5, "--holdout", 3, "--valid", 2, "--box", 32)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 people (train 5, holdout 3, valid 2)" in done.stdout
    assert len(PackedPeople.load(out, SPLITS)) == 10
    assert {split: len(names) for split, names in images_by_split(out).items()} == {
        "train": 5,
        "holdout": 3,
        "valid": 2,
    }
    assert files(tmp_path) == {"people.h5"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command; see --help"),
        (["lspet"], "No such command 'lspet'"),
        (["lsp"], "Missing option '--annotations'"),
        (["lsp", "--imges", "x"], "No such option"),
        (["synthetic", "--out", "OUT", "--people", "many"], "'--people'"),
        (["synthetic", "--out", "OUT", "--people", "-1"], "'--people'"),
        (["synthetic", "--out", "OUT", "--box", "7"], "'--box'"),
        (["synthetic", "--out", "OUT", "--people", "0", "--holdout", "0", "--valid", "0"], "all 0"),
        (["synthetic", "--out", "DIR"], "is a directory"),
        (["synthetic", "--out", "FILE/people.h5", "--people", "1"], "FILE is a file"),
        (["synthetic", "--out", "FILE/deeper/people.h5", "--people", "1"], "cannot be created"),
        (["synthetic", "--out", "/proc/people.h5", "--people", "1"], "/proc/people.h5: cannot write there"),
        (["lsp", "--images", "NONE", "--annotations", "FILE", "--out", "OUT"], "--images NONE does not exist"),
        (["lsp", "--images", "FILE", "--annotations", "FILE", "--out", "OUT"], "--images FILE is not a directory"),
        (["lsp", "--images", "DIR", "--annotations", "NONE", "--out", "OUT"], "--annotations NONE does not exist"),
        (["lsp", "--images", "DIR", "--annotations", "DIR", "--out", "OUT"], "--annotations DIR is not a file"),
        (["lsp", "--images", "DIR", "--annotations", "FILE", "--out", "OUT"], "FILE: not MATLAB"),
        (["mpii", "--images", "DIR", "--out", "OUT"], "none of --annotations, --train and --valid is given"),
        (["mpii", "--images", "DIR", "--train", "FILE", "--out", "OUT"], "FILE: neither HDF5 nor MATLAB nor JSON"),
        (["mpii", "--images", "DIR", "--annotations", "NONE", "--out", "OUT"], "--annotations NONE does not exist"),
        (
            ["mpii", "--images", "DIR", "--annotations", "H5", "--valid-list", "NONE", "--out", "OUT"],
            "--valid-list NONE does not exist",
        ),
        (
            ["mpii", "--images", "DIR", "--annotations", "H5", "--valid-list", "FILE", "--out", "OUT"],
            "--valid-list FILE has nobody of the annotations",
        ),
        (["flic", "--images", "DIR", "--out", "OUT"], "none of --annotations, --train and --valid is given"),
        (["flic", "--images", "DIR", "--train", "H5", "--out", "OUT"], "H5: 'part' is float64 (39, 16, 2)"),
        (["coco", "--images", "DIR", "--annotations", "H5", "--out", "OUT"], "Missing option '--skeleton'"),
        (
            ["coco", "--images", "DIR", "--annotations", "H5", "--skeleton", "FILE", "--out", "OUT"],
            "FILE: not TOML",
        ),
        (["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT"], "none of the 39 images is left: check"),
        (["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT", "--max-broken", "100%"], "none of the 39 imag"),
        (
            ["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT", "--max-broken", "-1"],
            "'-1' is neither a number",
        ),
        (["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT", "--max-broken", "nan%"], "'nan%' is neither a"),
        (["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT", "--max-broken", "101%"], "give one like 20 or"),
        (["mpii", "--images", "DIR", "--valid", "H5", "--out", "OUT", "--jpeg", "101"], "'--jpeg'"),
        (["check"], "Missing argument"),
        (["check", "NONE"], "NONE does not exist"),
        (["check", "FILE"], "FILE: not HDF5, truncated or damaged"),
        (["check", "H5"], "H5: HDF5, but not a packed file"),
        (["check", "H5", "--sheet", "OUT"], "is not an image file name; give one that ends in .jpg or .png"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], words: str, tmp_path: Path, hourglass: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    (work / "dir").mkdir(parents=True)
    (work / "file").write_text("no annotations")
    places = {
        "OUT": work / "people.h5",
        "DIR": work / "dir",
        "FILE": work / "file",
        "NONE": work / "none",
        "H5": hourglass,
    }

    def fill(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, str(place))
        return text

    code, _, errors = call(capsys, *map(fill, arguments))
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert fill(words) in errors
    assert files(work) - {"people.h5.broken.txt"} == {"dir", "file"}


def test_bad_input_ends_the_process_with_2(command: Command, tmp_path: Path) -> None:
    done = command("prepare", "synthetic", "--out", tmp_path / "people.h5", "--seed", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [None, "lsp", "mpii", "flic", "coco", "synthetic", "check"])
def test_help_fits_a_screen_and_has_an_example(name: str | None, command: Command) -> None:
    done = command("prepare", *([name] if name else []), "--help")
    assert done.returncode == 0
    assert "python -m nas.prepare " in done.stdout
    assert done.stdout.count("\n") <= 40


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet = tmp_path / "people.h5", tmp_path / "new" / "sheet.jpg"
    arguments = ["--people", 6, "--holdout", 3, "--valid", 2, "--box", 32, "--workers", 1, "--jpeg", 90]
    code, text, _ = call(capsys, "synthetic", "--out", out, *arguments)
    assert code == 0
    assert "crops 54×54 (box 32), JPEG 90, " in text
    code, text, errors = call(capsys, "check", out, "--sheet", sheet, "--people", 4)
    assert (code, errors) == (0, "")
    for words in ("11 (train 6, holdout 3, valid 2)", "JPEG 90", "outside the crop", str(sheet), f"{out}: fine"):
        assert words in text
    height, width, _ = cv2.imread(str(sheet)).shape
    assert height > 400
    assert width > 1400
    code, text, errors = call(capsys, "check", out, "--json")
    record = json.loads(text)
    assert (code, record["fine"], record["problems"], record["people"]) == (0, True, [], 11)
    assert record["checksum"] == describe_packed(out).checksum
    assert files(tmp_path) == {"people.h5", "new"}

    with h5py.File(out, "r+") as file:
        file["jpegs"][10] ^= 1
    code, text, errors = call(capsys, "check", out, "--sheet", sheet, "--people", 4)
    assert (code, errors) == (1, "")
    assert "wrong: 1 people changed since they were packed" in text
    assert f"{out}: " in text.splitlines()[-1]
    assert "problems" in text.splitlines()[-1]
    code, text, _ = call(capsys, "check", out, "--json")
    assert (code, json.loads(text)["fine"]) == (1, False)


PICTURES_OUTSIDE = ["mpii h5", "mpii json", "mpii mat", "flic h5", "flic mat", "coco"]


@pytest.mark.parametrize("kind", PICTURES_OUTSIDE)
def test_every_format_is_refused_images_outside_their_folder(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LSP's images have no names: they are numbered."""
    name = "../secret.jpg"
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "secret.jpg"), np.full((100, 120, 3), 90, np.uint8))
    path, more = tmp_path / "annotations", []
    if kind == "mpii h5":
        save_hourglass(path, [1])
        with h5py.File(path, "r+") as file:
            file["imgname"][0] = name.encode()
    elif kind == "mpii json":
        save_json(path, [hrnet(name)])
    elif kind == "mpii mat":
        save_release(path, [(name, [release_person(mpii_joints(), (50, 41), 0.48, (40, 10, 50, 20))], 1)])
    elif kind == "flic h5":
        content = flic_content(20)
        content["imgname"] = np.array([name.encode()] * len(content["imgname"]))
        save_h5(path, content)
    elif kind == "flic mat":
        save_examples(path, flic_examples(30, filepath=name))
    else:
        (tmp_path / "skeleton.toml").write_text(SKELETON)
        content = coco(1)
        content["images"][0]["file_name"] = name
        save_json(path, content)
        more = ["--skeleton", tmp_path / "skeleton.toml"]
    code, _, errors = call(
        capsys, kind.split()[0], "--images", tmp_path / "images", "--train", path, *more, "--out",
        tmp_path / "out" / "people.h5", "--max-broken", "100%",
    )  # fmt: skip
    assert code == 2
    assert "leads out of" in errors
    assert not (tmp_path / "out").exists()


PEOPLE = ["synthetic", "--people", "800", "--holdout", "0", "--valid", "0", "--box", "32"]


@pytest.mark.slow
@pytest.mark.parametrize("after", ["the start", "some people"])
def test_ctrl_c_then_resume(tmp_path: Path, after: str, command: Command) -> None:
    out = tmp_path / "people.h5"
    out.write_bytes(b"what was there")
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.prepare", *PEOPLE, "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    journal = tmp_path / ".people.h5.journal"
    wanted = 0 if after == "the start" else 10_000  # bytes, of 300 a person
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size >= wanted) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; run the same command again to continue"
    assert "Traceback" not in errors
    assert out.read_bytes() == b"what was there"
    if after == "the start":
        assert list(tmp_path.iterdir()) == [out]
        return
    assert f"{out}: what is done so far is kept; the same command continues" in errors
    assert files(tmp_path) == {"people.h5", ".people.h5.part", ".people.h5.journal"}
    done = command("prepare", *PEOPLE, "--out", out)
    assert done.returncode == 0
    assert "were packed before the interruption" in done.stdout
    assert files(tmp_path) == {"people.h5"}
    assert command("prepare", *PEOPLE, "--out", tmp_path / "whole.h5").returncode == 0
    assert describe_packed(out) == describe_packed(tmp_path / "whole.h5")


def test_killed_workers_go_with_their_parent(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.prepare", "synthetic", "--out", str(tmp_path / "people.h5"), "--people", "1000000",
         "--box", "32", "--workers", "2"],
        start_new_session=True,
    )  # fmt: skip
    workers: list[Path] = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [
            Path("/proc", pid) for pid in children if b"spawn_main" in Path("/proc", pid, "cmdline").read_bytes()
        ]
    time.sleep(3)  # until they have started to draw
    process.kill()
    process.wait()
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers) == 2
    assert not any(worker.exists() for worker in workers)


def test_progress_in_a_terminal_and_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("packing", 100, every=0) as on_progress:
        for done in (0, 50, 100):
            on_progress(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("packing: 50 of 100, ")
    assert lines[1].endswith(" 0 s left")

    script = """
import time
from nas.console import progress
with progress("packing", 100) as on_progress:
    for done in range(101):
        on_progress(done)
        time.sleep(0.01)
"""
    shown, terminal = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", script], stderr=terminal, env={**os.environ, "TERM": "xterm"}):
        os.close(terminal)
        output = b""
        while chunk := _read(shown):
            output += chunk
    os.close(shown)
    assert b"packing" in output
    assert b"100/100" in output
    assert b"/s" in output


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # what a terminal says at its end
        return b""


def test_writable_directory_and_existing_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert console.existing_file(file, "--data") == file
    assert console.writable_directory(tmp_path / "a" / "b", "--runs").is_dir()
    for path, words in (
        (file, "is a file"),
        (file / "below", "cannot be created"),
        (Path("/proc/nas"), "cannot be created"),
    ):
        with pytest.raises(UserError, match=f"--runs {path} {words}"):
            console.writable_directory(path, "--runs")


def test_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, people, sheet = (tmp_path / os.fsdecode(name) for name in (b"im\xe9", b"p\xe9.h5", b"s\xe9.png"))
    folder.mkdir()
    content = coco()
    for image in content["images"]:
        image["file_name"] = f"é→{image['file_name']}"
        assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((300, 300, 3), np.uint8))
        (tmp_path / "a.png").rename(folder / image["file_name"])
    annotations = save_json(tmp_path / os.fsdecode(b"an\xe9.json"), content)
    skeleton = tmp_path / os.fsdecode(b"sk\xe9.toml")
    skeleton.write_text(SKELETON, encoding="utf-8")
    code, out, err = call(
        capsys, "coco", "--images", folder, "--annotations", annotations, "--skeleton", skeleton, "--out", people,
        "--box", 64, "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert r"p\xe9.h5: 2 people" in out
    code, out, err = call(capsys, "check", people, "--sheet", sheet)
    assert (code, err) == (0, "")
    assert r"an\xe9.json" in out
    assert sheet.is_file()
    code, out, err = call(capsys, "check", people, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["file"] == str(tmp_path / r"p\xe9.h5")
