"""Open packed files and read what they say about themselves, checking that every part is present and consistent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
from numpy.typing import NDArray

from nas.data.packed.format import FORMAT, JPEG_VERSION, RAW_VERSION, REMEDY, crop_side, file_checksum
from nas.data.packed.resumable_file import one_line
from nas.data.people import SPLITS
from nas.data.skeletons import Skeleton
from nas.errors import UserError

# What h5py raises on files that are damaged, empty, or something else altogether.
_HDF5_ERRORS = (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class PackedSummary:
    """What a packed file holds, without its crops.

    Attributes:
        skeleton: the joints' names and order.
        box: side of the person's box in the crops, in pixels.
        counts: people per split; every split is a key.
        labelled: number of labelled joints, over all people.
        source: where the people come from, as the writer recorded it.
        checksum: of the whole content.
        jpeg: quality of crops stored as JPEG; None: raw pixels.
        skeleton_text: the skeleton's JSON as stored in the file, which the checksum covers.
    """

    skeleton: Skeleton
    box: int
    counts: Mapping[str, int]
    labelled: int
    source: Mapping[str, str]
    checksum: str
    jpeg: int | None = None
    skeleton_text: str = ""

    @property
    def people(self) -> int:
        """Number of people in all splits."""
        return sum(self.counts.values())

    @property
    def version(self) -> int:
        """Version of the file format."""
        return RAW_VERSION if self.jpeg is None else JPEG_VERSION


def describe_packed(path: str | os.PathLike[str]) -> PackedSummary:
    """Read the summary of a packed file, without its crops.

    Raises:
        UserError: the file is missing, not a packed file, of another version, or damaged.
    """
    path = Path(path)
    with open_packed(path) as file:
        return read_summary(path, file)[0]


def scored_people(path: str | os.PathLike[str]) -> dict[str, int]:
    """Number of people per split of whom at least one joint that counts is labelled; without any, there is no PCKh.

    Raises:
        UserError: as :func:`describe_packed`.
    """
    path = Path(path)
    with open_packed(path) as file:
        summary, splits = read_summary(path, file, verify=False)
        scored = file["labelled"][:][:, list(summary.skeleton.scored)].any(axis=1)
        return {name: int((scored & (splits == index)).sum()) for index, name in enumerate(SPLITS)}


@contextmanager
def open_packed(path: Path) -> Iterator[h5py.File]:
    """Open a packed file for reading; whatever h5py raises on its content becomes one clear error.

    Only reads of the file belong inside the ``with`` block.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {REMEDY}")
    try:
        # Packed files are replaced, never changed, so readers need no lock (which some network disks refuse).
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _HDF5_ERRORS as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{path}: not HDF5, truncated or damaged ({reason}); {REMEDY}") from error


def read_summary(path: Path, file: h5py.File, verify: bool = True) -> tuple[PackedSummary, NDArray[np.uint8]]:
    """Read the summary and the ``split`` column, after checking that all parts are present and consistent.

    Raises what h5py and JSON raise on damaged content, for :func:`open_packed` to translate.

    Args:
        path: of the file, for messages.
        file: the open file.
        verify: compare the checksum with the stored digests.
    """
    if "format" not in file.attrs or _text(file, "format") != FORMAT:
        raise UserError(f"{path}: HDF5, but not a packed file; {REMEDY}")
    version = int(file.attrs["version"])
    if version not in (RAW_VERSION, JPEG_VERSION):
        raise UserError(f"{path}: format version {version}, but this program reads 1 and 2; {REMEDY}")
    skeleton_text = _text(file, "skeleton")
    skeleton = Skeleton.from_json(skeleton_text)
    box = int(file.attrs["box"])
    _check_datasets(path, file, version, len(skeleton.joints), crop_side(box))
    splits: NDArray[np.uint8] = file["split"][:]
    if (splits >= len(SPLITS)).any():
        raise UserError(f"{path}: damaged, 'split' holds {splits.max()}, expected 0 to {len(SPLITS) - 1}; {REMEDY}")
    if version == JPEG_VERSION:
        _check_jpeg_positions(path, file["start"][:], file["length"][:], len(file["jpegs"]))
    source = json.loads(_text(file, "source"))
    checksum = _text(file, "checksum")
    if verify and "digest" in file:
        digests = [bytes(digest) for digest in file["digest"][:]]
        if checksum != file_checksum(version, box, skeleton_text, digests):
            raise UserError(f"{path}: damaged, its checksum is not that of its people; {REMEDY}")
    return (
        PackedSummary(
            skeleton=skeleton,
            box=box,
            counts=MappingProxyType({name: int((splits == i).sum()) for i, name in enumerate(SPLITS)}),
            labelled=int(file["labelled"][:].sum()),
            source=MappingProxyType({str(key): str(value) for key, value in source.items()}),
            checksum=checksum,
            jpeg=int(file.attrs["jpeg"]) if version == JPEG_VERSION else None,
            skeleton_text=skeleton_text,
        ),
        splits,
    )


def _check_datasets(path: Path, file: h5py.File, version: int, joints: int, side: int) -> None:
    """Check place, shape and type of every dataset before any of them is read."""
    for name in ("split", "jpegs" if version == JPEG_VERSION else "crops"):
        _check_stored_here(path, file, name)
    people, size = len(file["split"]), path.stat().st_size
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "joints": ((people, joints, 2), "float32"),
        "labelled": ((people, joints), "bool"),
        "head_size": ((people,), "float32"),
        "to_original": ((people, 2, 3), "float32"),
        "split": ((people,), "uint8"),
        "image": ((people,), "S"),
    }
    if version == RAW_VERSION:
        expected = {"crops": ((people, side, side, 3), "uint8"), **expected}
    else:
        jpegs = ((len(file["jpegs"]),), "uint8")
        expected = {"jpegs": jpegs, "start": ((people,), "int64"), "length": ((people,), "int64"), **expected}
    if version == JPEG_VERSION or "digest" in file:
        expected["digest"] = ((people, 32), "uint8")
    for name, (shape, kind) in expected.items():
        _check_stored_here(path, file, name)
        dataset = file[name]
        if dataset.shape != shape or kind not in (dataset.dtype.name, dataset.dtype.kind):
            raise UserError(
                f"{path}: {name!r} is {dataset.dtype.name} {dataset.shape}, expected {kind} {shape}; {REMEDY}"
            )
        # A damaged shape must not make us allocate more memory than the file can fill.
        if dataset.nbytes > size:
            raise UserError(f"{path}: truncated, {name!r} needs {dataset.nbytes} bytes; {REMEDY}")


def _check_stored_here(path: Path, file: h5py.File, name: str) -> None:
    """Check that a dataset's values lie in this file, before it is opened: HDF5 can take them from any other file."""
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink | h5py.SoftLink):
        raise UserError(f"{path}: {name!r} is a link to another place; {REMEDY}")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: {name!r} is not a dataset; {REMEDY}")
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: the values of {name!r} are stored in another file; {REMEDY}")


def _check_jpeg_positions(path: Path, start: NDArray[np.int64], length: NDArray[np.int64], size: int) -> None:
    """Check that every JPEG lies within ``size`` bytes and that none overlap."""
    order = np.argsort(start, kind="stable")
    start, length = start[order], length[order]
    bounded = len(start) == 0 or (start[0] >= 0 and (length > 0).all() and (length <= size).all())
    ends = start + length if bounded else length
    if not bounded or (ends[:-1] > start[1:]).any() or (ends > size).any():
        raise UserError(f"{path}: damaged, JPEGs lie outside 'jpegs' or overlap; {REMEDY}")


def _text(file: h5py.File, key: str) -> str:
    value = file.attrs[key]
    if not isinstance(value, bytes):
        raise ValueError(f"attribute {key!r} is not text")
    return value.decode()
