"""Annotations that are cut short, have flipped bits or hold something else: one clear error, or people who make sense.

What was tried is counted, and printed at the end with `-s`.
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    points,
    pytorch_pose,
    release_person,
    save_examples,
    save_h5,
    save_release,
)
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.data.people import SPLITS, Person
from nas.data.readers import flic, mpii_release
from nas.data.readers.coco import read_coco, read_skeleton
from nas.data.readers.flic import read_flic
from nas.data.readers.lsp import read_leeds
from nas.data.readers.matlab_struct import read_structs
from nas.data.readers.mpii import read_mpii
from nas.data.readers.splits import Annotations, read_image_names
from nas.data.skeletons import Skeleton
from nas.errors import UserError

pytestmark = pytest.mark.slow

SPLIT = {"train": 0.5, "valid": 0.5}
TRIED: Counter[str] = Counter()

# Derandomised: what a run finds, every run finds. An example of a file that a process of its own reads takes 0.3 s.
QUICK = settings(
    max_examples=examples(60, 400), derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
APART = settings(QUICK, max_examples=examples(5, 25))


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    refused = {name: count for name, count in TRIED.items() if name.endswith("refused")}
    print(f"\nmalformed annotations tried: {sum(TRIED.values())}, refused: {sum(refused.values())}; {dict(TRIED)}")


def skeleton() -> Skeleton:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "skeleton.toml"
        path.write_text(SKELETON)
        return read_skeleton(path)


ARM = skeleton()


def attempt(kind: str, path: Path, read: Callable[[Path], object]) -> None:
    """Read it: either there is one line that names the file, or what came out can be used."""
    start = time.monotonic()
    try:
        found = read(path)
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "; " in message
        assert "\n" not in message
        assert len(message) < 1000
        TRIED[f"{kind} refused"] += 1
    else:
        if isinstance(found, tuple):
            found = found[0]
        if isinstance(found, Annotations):
            for person in found.people:
                usable(person)
        TRIED[f"{kind} read"] += 1
    assert time.monotonic() - start < 65


def usable(person: Person) -> None:
    assert person.image
    assert person.split in SPLITS
    assert person.labelled.any()
    assert np.isfinite(person.joints[person.labelled]).all()
    assert np.isfinite(person.center).all()
    assert 0 < person.size < 1e8
    assert 0 < person.head_size < 1e8


def damaged(content: bytes, seed: int) -> bytes:
    """Cut short, or with some bits flipped, mostly where headers and sizes stand."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(min(len(content), 2048) if rng.random() < 0.5 else len(content))
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def mat_release(path: Path) -> None:
    person = release_person(mpii_joints())
    other = {**person, "annopoints": points({3: (5, 6)})}
    save_release(path, [("a.jpg", [person, other], 1), ("b.jpg", np.zeros((0, 0)), 0)], compress=False)


def mat_lsp(path: Path) -> None:
    joints = lsp_content()[:, :, :30].transpose(1, 0, 2)
    joints[:, 2] = 1
    scipy.io.savemat(path, {"joints": joints})


def h5_mpii(path: Path) -> None:
    rng = np.random.default_rng(0)
    save_h5(
        path,
        {
            "imgname": np.array([f"{i:09d}.jpg" for i in range(8)], "S13"),
            "part": rng.integers(1, 500, (8, 16, 2)).astype(np.float64),
            "center": np.full((8, 2), 300.0),
            "scale": np.full(8, 1.5),
            "normalize": np.full(8, 30.0),
        },
    )


FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "MPII's release": (mat_release, lambda path: read_mpii(path, SPLIT)),
    "MPII's HDF5": (h5_mpii, lambda path: read_mpii(path, SPLIT)),
    "FLIC's release": (lambda path: save_examples(path, flic_examples()), lambda path: read_flic(path, SPLIT)),
    "FLIC's HDF5": (lambda path: save_h5(path, flic_content()), lambda path: read_flic(path, SPLIT)),
    "LSP": (mat_lsp, lambda path: read_leeds(path, SPLIT)),
}

TEXTS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "HRNet's JSON": (json.dumps([hrnet(), hrnet("b.jpg", 1)]).encode(), lambda path: read_mpii(path, SPLIT)),
    "pytorch-pose's JSON": (json.dumps([pytorch_pose(), pytorch_pose()]).encode(), lambda path: read_mpii(path, SPLIT)),
    "COCO's JSON": (json.dumps(coco()).encode(), lambda path: read_coco(path, ARM, SPLIT)),
    "a skeleton's TOML": (SKELETON.encode(), read_skeleton),
    "a list of names": (b"a.jpg\nb.jpg\n", read_image_names),
}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_binary_files(kind: str, tmp_path: Path) -> None:
    make, read = FILES[kind]
    make(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()

    @APART
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        path = tmp_path / "damaged"
        path.write_bytes(damaged(content, seed))
        attempt(kind, path, read)

    read(tmp_path / "good")
    check()


@pytest.mark.parametrize("kind", TEXTS)
def test_damaged_texts(kind: str, tmp_path: Path) -> None:
    content, read = TEXTS[kind]
    path = tmp_path / "damaged"

    @QUICK
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        path.write_bytes(damaged(content, seed))
        attempt(kind, path, read)

    path.write_bytes(content)
    read(path)
    check()


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], [{}], [1.0], [[1.0, 2.0]], [None], 10**400, -1, 0, "../a.jpg", "x" * 10_000, "\n"]),
)


@st.composite
def with_junk(draw: st.DrawFn, good: Any) -> Any:
    """The same tree with something else in one to three places, or with something missing."""
    tree = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        here, parent, key = tree, None, None
        for _ in range(draw(st.integers(1, 9))):
            if not isinstance(here, list | dict) or not here:
                break
            keys = sorted(here) if isinstance(here, dict) else list(range(len(here)))
            parent, key = here, draw(st.sampled_from(keys))
            here = parent[key]
        if parent is None:
            continue
        if draw(st.integers(0, 4)):
            parent[key] = copy.deepcopy(draw(JUNK))  # else junk put into itself would go round in circles
        else:
            del parent[key]
    return tree


@pytest.mark.parametrize("kind", ["HRNet's JSON", "pytorch-pose's JSON", "COCO's JSON"])
def test_json_that_holds_something_else(kind: str, tmp_path: Path) -> None:
    content, read = TEXTS[kind]
    path = tmp_path / "junk"

    @QUICK
    @given(with_junk(json.loads(content)))
    def check(tree: Any) -> None:
        path.write_text(json.dumps(tree))
        attempt(f"{kind}, other content,", path, read)

    check()


@pytest.mark.parametrize(("kind", "module"), [("MPII's release", mpii_release), ("FLIC's release", flic)])
def test_matlab_structs_that_hold_something_else(
    kind: str, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, read = FILES[kind]
    path = tmp_path / "good"
    make(path)
    variable = "RELEASE" if module is mpii_release else "examples"
    good = read_structs(path, variable, module._FIELDS, "")

    @QUICK
    @given(with_junk({"root": good}))
    def check(tree: Any) -> None:
        root = tree.get("root")
        if not isinstance(root, list) or not root or not all(isinstance(element, dict) for element in root):
            return  # which read_structs refuses
        monkeypatch.setattr(module, "read_structs", lambda *_: root)
        attempt(f"{kind}, other content,", path, read)

    check()
