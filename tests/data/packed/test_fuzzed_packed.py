"""Packed files that are cut short or have flipped bits: one clear error, or the very people that were packed.

What was tried is counted, and printed at the end with `-s`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from effort import examples

from nas.data.packed.format import PackedHeader, crop_side
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.packed.validation import check_packed
from nas.data.packed.writer import PackedPerson, PackedWriter
from nas.data.people import SPLITS
from nas.data.skeletons import MPII
from nas.errors import UserError

pytestmark = pytest.mark.slow

TRIED: Counter[str] = Counter()
ROUNDS = examples(300, 4000)
BOX = 16
SIDE = crop_side(BOX)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print(f"\nmalformed packed files tried: {sum(TRIED.values())}; {dict(TRIED)}")


def write(path: Path, jpeg: int | None) -> bytes:
    rng = np.random.default_rng(0)
    with PackedWriter(path, PackedHeader(MPII, BOX, {"dataset": "test"}, jpeg), 7) as writer:
        for row in range(7):
            crop = np.kron(rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
            joints = rng.uniform(0, SIDE, (16, 2))
            writer.put(
                row, PackedPerson(crop, joints, np.ones(16, np.bool_), 5.0, np.eye(2, 3), SPLITS[row % 3], f"{row}.jpg")
            )
    return path.read_bytes()


def damaged(content: bytes, seed: int, data: range) -> tuple[str, bytes]:
    rng = random.Random(seed)
    if rng.random() < 0.2:
        return "cut", content[: rng.randrange(len(content))]
    changed = bytearray(content)
    outside = rng.random() < 0.6  # where HDF5's own data and the tables are
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        place = rng.randrange(len(content))
        while outside and place in data:
            place = rng.randrange(len(content))
        changed[place] ^= 1 << rng.randrange(8)
    return "flipped", bytes(changed)


def same(people: PackedPeople, good: PackedPeople) -> bool:
    """Everything that training, scores and the way back to the images depend on."""
    tensors = ("crops", "joints", "labelled", "head_size", "to_original")
    return (
        all(getattr(people, name).equal(getattr(good, name)) for name in tensors)
        and (people.images, people.checksum, people.box) == (good.images, good.checksum, good.box)
        and people.skeleton == good.skeleton
    )


def is_fine(path: Path) -> bool:
    try:
        return not check_packed(path).problems
    except UserError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    return False


@pytest.mark.parametrize("kind", ["raw", "JPEG"])
def test_damaged_packed_files(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    path = folder / "people.h5"
    content = write(path, None if kind == "raw" else 90)
    good = PackedPeople.load(path, SPLITS)
    with h5py.File(path, "r") as file:
        start = file["crops" if kind == "raw" else "jpegs"].id.get_offset()
        size = file["crops" if kind == "raw" else "jpegs"].nbytes
    for seed in range(ROUNDS):
        how, now = damaged(content, seed, range(start, start + size))
        if now == content:
            continue
        path.write_bytes(now)
        began = time.monotonic()
        try:
            people = PackedPeople.load(path, SPLITS)
            describe_packed(path)
            loaded = True
        except UserError as error:
            loaded, message = False, str(error)
        assert same(people, good) if loaded else message.startswith(f"{path}: "), f"seed {seed}"
        assert loaded or "\n" not in message
        if seed % 3 == 0:
            assert is_fine(path) == loaded, f"seed {seed}"
        assert time.monotonic() - began < 60
        TRIED[f"{kind} {how} {'equal' if loaded else 'refused'}"] += 1
    assert list(tmp_path.rglob("*")) == [folder, path]
    assert capfd.readouterr().err == ""
