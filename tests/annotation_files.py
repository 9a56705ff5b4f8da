"""Small annotation files in the formats that datasets come in, for tests to write, read and damage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from nas.data.people import Person
from nas.data.readers.lsp import read_leeds
from nas.data.readers.splits import UNDIVIDED

EMPTY = np.zeros((0, 0))


def structs(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> NDArray[Any]:
    """A MATLAB struct array, 1 × N; what a row lacks is empty, as MATLAB has it."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in fields])
    for i, row in enumerate(rows):
        for name in fields:
            value = row.get(name, EMPTY)
            array[name][0, i] = np.array([[float(value)]]) if isinstance(value, int | float) else value
    return array


def points(joints: Mapping[int, Sequence[float]], visible: Sequence[Any] = (1, 0, "1", EMPTY)) -> NDArray[Any]:
    """``annopoints`` with these joints; ``is_visible`` is a number, a text or empty, or missing if there is none."""
    rows = []
    for n, (joint, (x, y)) in enumerate(joints.items()):
        row: dict[str, Any] = {"x": x, "y": y, "id": joint}
        if visible:
            row["is_visible"] = visible[n % len(visible)]
        rows.append(row)
    fields = ["x", "y", "id", *(["is_visible"] if visible else [])]
    return structs([{"point": structs(rows, fields)}], ["point"])


def release_person(
    joints: Mapping[int, Sequence[float]],
    position: Sequence[float] = (300, 200),
    scale: float = 1.5,
    head_box: Sequence[float] = (280, 60, 310, 100),
) -> dict[str, Any]:
    """One ``annorect``."""
    return {
        **dict(zip(("x1", "y1", "x2", "y2"), head_box, strict=True)),
        "annopoints": points(joints),
        "scale": scale,
        "objpos": structs([{"x": position[0], "y": position[1]}], ["x", "y"]),
    }


ANNORECT = ("x1", "y1", "x2", "y2", "annopoints", "scale", "objpos")


def save_release(path: Path, images: Sequence[tuple[str, Any, int]], compress: bool = True) -> Path:
    """Write ``RELEASE`` in MPII's structure.

    Args:
        path: the file.
        images: name, ``annorect`` (rows for :func:`structs`, or any value) and ``img_train`` of each.
        compress: as MATLAB does by default.
    """
    rows = []
    for name, people, _ in images:
        found = (
            structs(people, [f for f in ANNORECT if any(f in p for p in people)]) if type(people) is list else people
        )
        rows.append({"image": structs([{"name": name}], ["name"]), "annorect": found, "frame_sec": 3, "vididx": EMPTY})
    release = {
        "annolist": structs(rows, ["image", "annorect", "frame_sec", "vididx"]),
        "img_train": np.array([[float(flag) for _, _, flag in images]]),
        "version": "12",
        "single_person": np.array([[1.0], [2.0]]),
    }
    scipy.io.savemat(path, {"RELEASE": structs([release], list(release))}, do_compression=compress)
    return path


def mpii_joints(seed: int = 0) -> dict[int, list[float]]:
    """All 16 joints of MPII, anywhere."""
    places = np.random.default_rng(seed).integers(100, 400, (16, 2)).astype(float).tolist()
    return dict(enumerate(places))


def save_h5(path: Path, content: Mapping[str, NDArray[Any]]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in content.items():
            file[name] = array
    return path


def save_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def hrnet(image: str = "a.jpg", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """One person in HRNet's JSON."""
    joints = list(mpii_joints(seed).values())
    person = {"image": image, "joints": joints, "joints_vis": [1] * 16, "center": [300.0, 200.0], "scale": 1.5}
    return {**person, **changes}


def pytorch_pose(image: str = "a.jpg", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """One person in pytorch-pose's JSON."""
    nothing = {"_ArrayType_": "double", "_ArraySize_": [0, 0], "_ArrayData_": None}
    person = {
        "dataset": "MPI",
        "isValidation": 0.0,
        "img_paths": image,
        "objpos": [300.0, 200.0],
        "joint_self": [[x, y, 1.0] for x, y in mpii_joints(seed).values()],
        "scale_provided": 1.5,
        "joint_others": nothing,
        "people_index": 1.0,
    }
    return {**person, **changes}


def flic_content(people: int = 4) -> dict[str, NDArray[Any]]:
    """The hourglass layout of FLIC: upright people who face the camera."""
    one = [(240, 100), (250, 140), (255, 180), (160, 100), (150, 140), (145, 180),
           (228, 200), (175, 200), (210, 60), (190, 60), (200, 70)]  # fmt: skip
    part = np.repeat(np.array([one], np.float64), people, 0)
    return {
        "imgname": np.array([f"film-{i:08d}.jpg" for i in range(people)], "S43"),
        "part": part,
        "center": np.full((people, 2), (210, 240), np.float32),
        "scale": np.full(people, 2.2),
        "normalize": np.linalg.norm(part[:, 3] - part[:, 6], axis=-1),
    }


FLIC_COLUMNS = [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16]
EXAMPLE = (
    "poselet_hit_idx",
    "moviename",
    "coords",
    "filepath",
    "imgdims",
    "currframe",
    "torsobox",
    "istrain",
    "istest",
)


def flic_examples(people: int = 4, tested: int = 2, **changes: Any) -> list[dict[str, Any]]:
    """The same people as in :func:`flic_content`, rows of ``examples``."""
    rows = []
    for i, part in enumerate(flic_content(people)["part"]):
        coords = np.full((2, 29), np.nan)
        coords[:, FLIC_COLUMNS] = part.T
        row = {
            "poselet_hit_idx": np.array([[1.0, 2.0]]),
            "moviename": "film",
            "coords": coords,
            "filepath": f"film-{i:08d}.jpg",
            "imgdims": np.array([[480.0, 720.0, 3.0]]),
            "currframe": i,
            "torsobox": np.array([[150.0, 90.0, 270.0, 210.0]]),
            "istrain": np.array([[i < people - tested]]),
            "istest": np.array([[i >= people - tested]]),
        }
        rows.append({**row, **changes})
    return rows


def save_examples(path: Path, rows: Sequence[Mapping[str, Any]], fields: Sequence[str] = EXAMPLE) -> Path:
    scipy.io.savemat(path, {"examples": structs(rows, fields)})
    return path


SKELETON = """\
name = "arm"
joints = ["left shoulder", "left wrist", "right shoulder", "right wrist", "left hip", "right hip"]
flip_pairs = [["left shoulder", "right shoulder"], ["left wrist", "right wrist"], ["left hip", "right hip"]]
limbs = [["left shoulder", "left wrist"], ["right shoulder", "right wrist"]]  # drawn as lines
torso = ["left shoulder", "right hip"]                                        # may be left out

[groups]              # accuracy is reported for each; a joint in none of them is not scored
shoulder = ["left shoulder", "right shoulder"]
wrist = ["left wrist", "right wrist"]
"""


def coco(people: int = 2) -> dict[str, Any]:
    """Annotations in COCO's layout, one person per image, with one keypoint (the nose) that the skeleton lacks."""
    keypoints = [60, 20, 2, 40, 40, 2, 30, 80, 1, 80, 40, 2, 90, 80, 2, 45, 90, 2, 75, 90, 1]
    names = ["nose", "left shoulder", "left wrist", "right shoulder", "right wrist", "left hip", "right hip"]
    return {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 120, "height": 100} for i in range(people)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "keypoints": list(keypoints), "num_keypoints": 7, "iscrowd": 0,
             "bbox": [20.0, 10.0, 80.0, 100.0], "area": 80.0}
            for i in range(people)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": [[1, 2]]}],
    }  # fmt: skip


def lsp_content() -> NDArray[np.float64]:
    """(3, 14, 2000): LSP's ``joints``, every third joint occluded."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(10, 150, (2, 14, 2000)), (np.arange(28000) % 3 == 0).reshape(1, 14, 2000)])


def read_lspet(path: Path, splits: Mapping[str, float] = UNDIVIDED) -> tuple[list[Person], dict[str, int]]:
    """The people of a ``joints.mat`` of LSP Extended, and how many were left out, by reason."""
    found = read_leeds(path, splits)
    assert not found.defines_validation
    return found.people, found.dropped
