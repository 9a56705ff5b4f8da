from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from nas.data.packed.format import MARGIN, PackedHeader, crop_side
from nas.data.packed.reader import PackedPeople
from nas.data.packed.summary import describe_packed
from nas.data.packed.writer import PackedPerson, PackedWriter
from nas.data.skeletons import LSP, MPII
from nas.errors import UserError

BOX = 16
SIDE = crop_side(BOX)
SPLITS = ["train"] * 6 + ["holdout"] * 3 + ["valid"] * 2


def person(index: int) -> dict[str, object]:
    rng = np.random.default_rng(index)
    return {
        "crop": rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8),
        "joints": rng.uniform(0, SIDE, (16, 2)).astype(np.float32),
        "labelled": rng.random(16) < 0.8,
        "head_size": float(rng.uniform(5, 50)),
        "to_original": np.array([[2.0, 0, 10 + index], [0, 2.0, -3]]),
        "split": SPLITS[index],
        "image": f"Bild-ä{index}.jpg",
    }


def write(path: Path, order: list[int] | None = None) -> Path:
    with PackedWriter(path, PackedHeader(MPII, BOX, {"dataset": "test"}), len(SPLITS)) as writer:
        for index in order or range(len(SPLITS)):
            writer.put(index, PackedPerson(**person(index)))  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("packed") / "people.h5")


@pytest.mark.parametrize(("box", "side"), [(64, 110), (128, 218), (256, 438), (33, 56)])
def test_crop_side_is_the_even_number_nearest_the_margin(box: int, side: int) -> None:
    assert crop_side(box) == side
    assert abs(side - box * MARGIN) <= 1


def test_written_people_are_loaded(packed: Path) -> None:
    people = PackedPeople.load(packed, ["holdout", "valid"])
    assert len(people) == 5
    assert people.skeleton == MPII
    assert people.box == BOX
    assert people.crops.shape == (5, 3, SIDE, SIDE)
    assert people.crops.dtype == torch.uint8
    assert people.crops.is_contiguous(memory_format=torch.channels_last)
    for row, index in enumerate(range(6, 11)):
        want = person(index)
        labelled = want["labelled"]
        assert torch.equal(people.crops[row].permute(1, 2, 0), torch.from_numpy(want["crop"]))
        assert np.array_equal(people.labelled[row], labelled)
        assert np.array_equal(people.joints[row][labelled], want["joints"][labelled])  # type: ignore[index]
        assert not people.joints[row][~people.labelled[row]].any()
        assert people.head_size[row] == np.float32(want["head_size"])
        assert people.images[row] == want["image"]
        original = people.joints[row].double().numpy() * 2 + (10 + index, -3)
        assert np.abs(people.original_joints()[row].numpy() - original).max() < 1e-4


def test_to_keeps_everything(packed: Path) -> None:
    people = PackedPeople.load(packed, "valid")
    moved = people.to("meta")
    assert moved.crops.device.type == moved.joints.device.type == moved.head_size.device.type == "meta"
    assert moved.crops.is_contiguous(memory_format=torch.channels_last)
    assert (moved.images, moved.checksum, len(moved)) == (people.images, people.checksum, 2)


def test_a_limit_takes_the_same_people_and_smaller_ones_take_some_of_them(packed: Path) -> None:
    taken = [PackedPeople.load(packed, "train", limit=limit).images for limit in (1, 3, 5, 6, 99)]
    assert [len(images) for images in taken] == [1, 3, 5, 6, 6]
    for few, more in pairwise(taken):
        assert set(few) <= set(more)
    everybody = list(PackedPeople.load(packed, "train").images)
    assert list(taken[-1]) == everybody
    assert [everybody.index(image) for image in taken[1]] == sorted(everybody.index(image) for image in taken[1])


def test_the_checksum_tells_content_not_writing_order(packed: Path, tmp_path: Path) -> None:
    backwards = write(tmp_path / "backwards.h5", list(reversed(range(len(SPLITS)))))
    assert describe_packed(backwards) == describe_packed(packed)
    with PackedWriter(tmp_path / "other.h5", PackedHeader(MPII, BOX, {}), 1) as writer:
        writer.put(0, PackedPerson(**person(0)))  # type: ignore[arg-type]
    with PackedWriter(tmp_path / "pixel.h5", PackedHeader(MPII, BOX, {}), 1) as writer:
        changed = person(0)
        changed["crop"][3, 4, 1] ^= 1  # type: ignore[index]
        writer.put(0, PackedPerson(**changed))  # type: ignore[arg-type]
    sums = {describe_packed(tmp_path / name).checksum for name in ("other.h5", "pixel.h5", "backwards.h5")}
    assert len(sums) == 3


def test_describe(packed: Path) -> None:
    summary = describe_packed(packed)
    assert summary.counts == {"train": 6, "holdout": 3, "valid": 2}
    assert summary.people == 11
    assert summary.labelled == sum(int(person(i)["labelled"].sum()) for i in range(11))  # type: ignore[attr-defined]
    assert summary.source == {"dataset": "test"}
    assert len(summary.checksum) == 64


def test_an_interrupted_writer_leaves_nothing_and_keeps_the_existing_file(tmp_path: Path) -> None:
    target = write(tmp_path / "people.h5")
    before = target.read_bytes()

    def put_one_of_two(then: type[BaseException] | None) -> None:
        with PackedWriter(target, PackedHeader(MPII, BOX, {}), 2) as writer:
            writer.put(0, PackedPerson(**person(0)))  # type: ignore[arg-type]
            if then:
                raise then

    with pytest.raises(KeyboardInterrupt):
        put_one_of_two(KeyboardInterrupt)
    with pytest.raises(AssertionError, match="1 of 2"):
        put_one_of_two(None)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_complete_writer_replaces_the_existing_file(tmp_path: Path) -> None:
    target = tmp_path / "people.h5"
    target.write_bytes(b"something else")
    write(target)
    assert len(PackedPeople.load(target, "train")) == 6
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_packed
from pathlib import Path
from nas.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    test_packed.write(Path({str(tmp_path / "people.h5")!r}))
except UserError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert not done.stderr
    assert "cannot write" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_folder_to_write_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write there"):
        write(tmp_path / "nowhere" / "people.h5")


def _load(path: str) -> tuple[int, int]:
    people = PackedPeople.load(path, "train")
    return len(people), int(people.crops.sum(dtype=torch.int64))


@pytest.mark.slow
def test_two_processes_load_at_once(packed: Path) -> None:
    with h5py.File(packed, "r"), multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(_load, [str(packed)] * 4, chunksize=1)
    assert set(results) == {_load(str(packed))}


def test_unknown_split_and_limit(packed: Path) -> None:
    with pytest.raises(UserError, match="'test' is unknown; choose from train, holdout, valid"):
        PackedPeople.load(packed, "test")
    with pytest.raises(UserError, match="limit 0"):
        PackedPeople.load(packed, "train", limit=0)


def test_nobody_in_the_split(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "people.h5", PackedHeader(MPII, BOX, {}), 1) as writer:
        writer.put(0, PackedPerson(**person(0)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"people\.h5: nobody in split valid \(it holds train 1, holdout 0"):
        PackedPeople.load(tmp_path / "people.h5", "valid")


def check_refused(path: Path, *words: str) -> None:
    """Loading gives one line with the file, the words and a remedy, and nothing else."""
    with pytest.raises(UserError) as caught:
        PackedPeople.load(path, ["train", "holdout", "valid"])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "nas.prepare" in message
    for word in words:
        assert word in message


def test_missing_directory_and_text(tmp_path: Path) -> None:
    check_refused(tmp_path / "people.h5", "no such file")
    check_refused(tmp_path, "not a file")
    (tmp_path / "text.h5").write_text("joints, of all people")
    check_refused(tmp_path / "text.h5", "not HDF5")
    (tmp_path / "empty.h5").touch()
    check_refused(tmp_path / "empty.h5", "not HDF5")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_truncated(packed: Path, tmp_path: Path, share: float) -> None:
    content = packed.read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(content[: int(len(content) * share)])
    check_refused(cut)


def test_flipped_bits_give_people_or_one_error(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "flipped.h5"
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 200)):
            damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            people = PackedPeople.load(path, ["train", "holdout", "valid"])
        except UserError:
            refused += 1
        else:
            assert torch.isfinite(people.joints).all()
            assert (people.head_size > 0).all()
    assert refused > 30


def test_other_formats_and_versions(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "people.h5"

    def change(name: str, value: object) -> Path:
        path.write_bytes(packed.read_bytes())
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
        return path

    check_refused(change("version", 3), "version 3", "reads 1 and 2")
    check_refused(change("version", "one"), "damaged")
    check_refused(change("format", np.bytes_(b"somebody else's")), "not a packed file")
    check_refused(change("format", np.arange(3)), "damaged", "'format' is not text")
    check_refused(change("skeleton", np.bytes_(LSP.to_json().encode())), "'joints'", "expected float32 (11, 14, 2)")
    check_refused(change("skeleton", np.bytes_(b"[]")), "damaged")
    check_refused(change("box", 64), "'crops'", "expected uint8 (11, 110, 110, 3)")
    check_refused(change("checksum", 5), "damaged", "'checksum' is not text")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("joints", np.zeros((3, 16, 2), np.float32), ("'joints'", "(3, 16, 2)")),
        ("joints", np.zeros((11, 16, 2), np.float64), ("float64", "float32")),
        ("joints", np.full((11, 16, 2), np.nan, np.float32), ("not numbers",)),
        ("head_size", np.zeros(11, np.float32), ("not positive",)),
        ("labelled", np.zeros((11, 16), np.uint8), ("'labelled'", "bool")),
        ("split", np.full(11, 3, np.uint8), ("'split' holds 3",)),
        ("split", np.zeros(12, np.uint8), ("expected", "12")),
        ("split", np.float32(1), ("damaged",)),
        ("image", np.array([b"\xff\xfe"] * 11), ("damaged",)),
        ("to_original", np.zeros((11, 2, 3), np.float32), ("line or point",)),
        ("to_original", None, ("damaged", "to_original")),
        ("crops", None, ("damaged", "crops")),
    ],
)
def test_wrong_content(
    packed: Path, tmp_path: Path, name: str, value: np.ndarray | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / "people.h5"
    path.write_bytes(packed.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["digest"], file[name]  # as before there were digests
        if value is not None:
            file[name] = value
    check_refused(path, *words)


def test_more_people_than_the_file_can_hold_are_refused(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "people.h5"
    path.write_bytes(packed.read_bytes())
    with h5py.File(path, "r+") as file:
        for name in ("crops", "joints", "labelled", "head_size", "to_original", "split", "image"):
            shape, kind = (10**9, *file[name].shape[1:]), file[name].dtype
            del file[name]
            file.create_dataset(name, shape, kind, chunks=True)
    check_refused(path, "truncated")


def linked(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    file["crops"] = h5py.ExternalLink(str(other), "/crops")


def soft(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(other), "/crops")
    file["crops"] = h5py.SoftLink("/elsewhere")


def virtual(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, "uint8")
    layout[...] = h5py.VirtualSource(str(other), "crops", shape)
    file.create_virtual_dataset("crops", layout)


def external(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    raw = other.with_suffix(".raw")
    raw.write_bytes(bytes(int(np.prod(shape))))
    file.create_dataset("crops", shape, "uint8", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


@pytest.mark.parametrize("change", [linked, soft, virtual, external])
def test_values_that_lie_in_another_file_are_refused(
    packed: Path, tmp_path: Path, change: Callable[[h5py.File, Path, tuple[int, ...]], None]
) -> None:
    changed = tmp_path / "changed.h5"
    shutil.copy(packed, changed)
    with h5py.File(changed, "r+") as file:
        shape = file["crops"].shape
        del file["crops"]
        change(file, packed, shape)
    with pytest.raises(UserError, match=r"changed\.h5: .*'crops'.* (another place|another file)"):
        PackedPeople.load(changed, "train")


def test_a_device_is_not_replaced_by_a_packed_file() -> None:
    with pytest.raises(UserError, match="/dev/null: is not a regular file"):
        write(Path("/dev/null"))
