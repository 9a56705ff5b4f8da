"""Packed people: square crops and joints in one HDF5 file, written once, loaded whole.

A crop shows the person's square box (``Person.size`` pixels wide) at ``box`` pixels, with a margin around
it (``MARGIN`` × ``box`` pixels a side in all), so that a batch can be rotated, scaled and shifted on the
device without black corners.

The file holds, for N people with J joints and crops of S × S pixels:

==============  ===================  ==================================================================
``crops``       uint8 (N, S, S, 3)   RGB, contiguous and uncompressed: a split loads at disk speed
``digest``      uint8 (N, 32)        SHA-256 of each person's data; files made before there was one lack it
``joints``      float32 (N, J, 2)    crop pixels, 0 where not labelled
``labelled``    bool (N, J)
``head_size``   float32 (N,)         original pixels
``to_original`` float32 (N, 2, 3)    affine map from crop pixels to pixels of the original picture
``split``       uint8 (N,)           index into :data:`nas.data.people.SPLITS`
``image``       UTF-8 bytes (N,)     the picture's name
==============  ===================  ==================================================================

and the attributes ``format``, ``version``, ``skeleton`` (JSON), ``box``, ``source`` (JSON) and ``checksum``.

That is version 1. In version 2 the crops are JPEGs (attribute ``jpeg``: their quality); in place of ``crops`` stand

==============  ===================  ==================================================================
``jpegs``       uint8 (B,)           all JPEGs, end to end
``start``       int64 (N,)           where each person's JPEG begins in them
``length``      int64 (N,)           and how many bytes it has
==============  ===================  ==================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.packed.resumable_file import ResumableFile, Sink, line
from nas.data.people import SPLITS, Skeleton
from nas.errors import UserError

MARGIN = 1.71
"""Side of the crop over side of the box: (cos 30° + sin 30°) × 1.25, so that a box turned by up to ±30° and
zoomed out by up to ×1.25 still lies inside the crop."""

RAW_VERSION, JPEG_VERSION = 1, 2
_FORMAT = "hourglass-nas people"
_REMEDY = "make it again with `python -m nas.prepare`"

# What h5py raises on files that are damaged, empty, or something else altogether.
_HDF5_ERRORS = (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError, MemoryError)


_DATA_START = 4096
"""Where the crops begin in a file that this program writes; HDF5's own data stands before and after them."""

_THREADS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
_AT_ONCE = 512  # JPEGs read at a time


def crop_side(box: int) -> int:
    """Side of the stored crop, in pixels, for a box of ``box`` pixels: the even number nearest ``box`` × MARGIN."""
    return 2 * round(box * MARGIN / 2)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """Open a packed file for reading; whatever its content makes h5py raise becomes one clear error.

    Only reads of the file belong inside the ``with`` block.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {_REMEDY}")
    try:
        # Packed files are replaced, never changed, so readers need no lock (which some network disks refuse).
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _HDF5_ERRORS as error:
        reason = line(error) or type(error).__name__
        raise UserError(f"{path}: not HDF5, truncated or damaged ({reason}); {_REMEDY}") from error


@dataclass(frozen=True, eq=False)
class SealedPerson:
    """One person ready to be written: what :meth:`PackedWriter.seal` makes.

    Attributes:
        data: the crop's bytes: raw pixels, or a JPEG.
        entry: the rest, as the journal keeps it.
    """

    data: bytes
    entry: bytes


@dataclass(frozen=True, eq=False)
class _Entry:
    """One person without the crop; ``start`` is where its bytes lie, counted from the first crop's."""

    row: int
    start: int
    length: int
    stamp: bytes
    digest: bytes
    joints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    head_size: np.float32
    to_original: NDArray[np.float32]
    split: int
    image: bytes


_ENTRY = struct.Struct("<qqq16s32sfB24s")  # row, start, length, stamp, digest, head size, split, map to the original


class PackedWriter:
    """Writes a packed file person by person; the file appears under its name only when it is complete.

    Use it as a context manager. It writes a temporary file beside the target. On a clean exit with every
    person put or left out, that file gets its checksum and takes the target's place in one step. On any exception,
    whatever stood at the target stays as it was; the temporary file is removed, or, where ``inputs`` are given, kept
    for the next writer of the same inputs to go on from. ``put`` takes people in any order, from one thread.

    Args:
        path: the target; its folder exists.
        skeleton: the joints' names and order.
        box: side of the person's box in the crops, in pixels.
        count: how many people will be put or left out.
        source: where the people come from, for the record; not part of the checksum.
        jpeg: quality (1 to 100) of crops stored as JPEG; None: raw.
        inputs: identifies everything that the people and crops depend on besides the arguments above, so that what
            an interrupted writer left is continued. None: it is never continued.
        stamps: 16 bytes for each row; what was put for a row under another stamp is put again.

    Attributes:
        done: the rows that are put already, from the start those of an interrupted writer.
    """

    def __init__(
        self,
        path: Path,
        skeleton: Skeleton,
        box: int,
        count: int,
        source: Mapping[str, str],
        *,
        jpeg: int | None = None,
        inputs: str | None = None,
        stamps: Sequence[bytes] | None = None,
    ) -> None:
        assert count > 0, "a packed file holds at least one person"
        assert jpeg is None or 1 <= jpeg <= 100, f"JPEG quality {jpeg}"
        self._path = path
        self._skeleton = skeleton
        self._box = box
        self._count = count
        self._source = dict(source)
        self._jpeg = jpeg
        self._side = crop_side(box)
        self._bytes = self._side**2 * 3
        self._stamps = stamps
        self._entries: dict[int, _Entry] = {}
        self._left_out: set[int] = set()
        self._end = 0  # of the JPEGs
        if inputs is not None:
            everything = [inputs, jpeg, box, count, skeleton.to_json(), sorted(self._source.items())]
            inputs = hashlib.sha256(json.dumps(everything).encode()).hexdigest()
        self._part = ResumableFile(path, inputs)

    @property
    def done(self) -> frozenset[int]:
        """The rows that are put; at first those that an interrupted writer left."""
        return frozenset(self._entries)

    def __enter__(self) -> PackedWriter:
        self._part.__enter__()
        try:
            self._continue()
        except BaseException:  # Ctrl-C above all: __exit__ is not called yet
            self._part.__exit__(None, None, None)
            raise
        return self

    def _continue(self) -> None:
        """Take over what the journal names, as far as the data is what it says."""
        for number, raw in enumerate(self._part.entries):
            entry = self._read_entry(raw)
            data = self._part.read(_DATA_START + entry.start, entry.length) if entry else b""
            if (
                entry is None
                or entry.row in self._entries
                or entry.stamp != self._stamp(entry.row)
                or _digest(data, entry) != entry.digest
            ):
                self._part.forget(number)
                break
            self._entries[entry.row] = entry
            self._end = max(self._end, entry.start + entry.length)
        self._part.truncate(_DATA_START + (self._end if self._jpeg else self._count * self._bytes))

    def _read_entry(self, raw: bytes) -> _Entry | None:
        joints = len(self._skeleton.joints)
        if len(raw) <= _ENTRY.size + 9 * joints:
            return None
        row, start, length, stamp, digest, head_size, split, matrix = _ENTRY.unpack_from(raw)
        if not 0 <= row < self._count or not 0 <= length <= self._bytes * 2 or start < 0:
            return None
        rest = raw[_ENTRY.size :]
        return _Entry(
            row, start, length, stamp, digest,
            joints=np.frombuffer(rest[: 8 * joints], np.float32).reshape(joints, 2),
            labelled=np.frombuffer(rest[8 * joints : 9 * joints], np.bool_),
            head_size=np.float32(head_size),
            to_original=np.frombuffer(matrix, np.float32).reshape(2, 3),
            split=split,
            image=rest[9 * joints :],
        )  # fmt: skip

    def _stamp(self, row: int) -> bytes:
        return self._stamps[row] if self._stamps is not None else bytes(16)

    def seal(
        self,
        index: int,
        crop: NDArray[np.uint8],
        joints: NDArray[np.floating[Any]],
        labelled: NDArray[np.bool_],
        head_size: float,
        to_original: NDArray[np.floating[Any]],
        split: str,
        image: str,
    ) -> SealedPerson:
        """Compress and digest one person; changes nothing, so any thread may do it.

        Args:
            index: the person's row, each of 0..count-1 once.
            crop: uint8 (S, S, 3), RGB.
            joints: (J, 2), crop pixels; any value where not labelled.
            labelled: bool (J,).
            head_size: what PCKh divides by, in original pixels; positive.
            to_original: (2, 3), affine map from crop pixels to original pixels.
            split: one of SPLITS.
            image: the picture's name.
        """
        assert index in range(self._count), f"no row {index} among {self._count}"
        assert crop.shape == (self._side, self._side, 3), f"a crop of shape {crop.shape}"
        assert crop.dtype == np.uint8, f"a crop of {crop.dtype}"
        assert np.isfinite(joints[labelled]).all(), "a labelled joint is not a number"
        assert np.isfinite(to_original).all(), "the map to the original is not finite"
        assert 0 < head_size < np.inf, f"head size {head_size}"
        data = crop.tobytes() if self._jpeg is None else encode_jpeg(crop, self._jpeg)
        entry = _Entry(
            index, index * self._bytes, len(data), self._stamp(index), b"",
            joints=np.where(labelled[:, None], joints, 0).astype(np.float32),
            labelled=np.asarray(labelled, np.bool_),
            head_size=np.float32(head_size),
            to_original=np.asarray(to_original, np.float32),
            split=SPLITS.index(split),
            image=image.encode(),
        )  # fmt: skip
        return SealedPerson(data, _entry_bytes(replace(entry, digest=_digest(data, entry))))

    def put(
        self,
        index: int,
        crop: NDArray[np.uint8],
        joints: NDArray[np.floating[Any]],
        labelled: NDArray[np.bool_],
        head_size: float,
        to_original: NDArray[np.floating[Any]],
        split: str,
        image: str,
    ) -> None:
        """Store one person; the arguments are those of :meth:`seal`.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        self.put_sealed(self.seal(index, crop, joints, labelled, head_size, to_original, split, image))

    def put_sealed(self, person: SealedPerson) -> None:
        """Store one person.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        entry = self._read_entry(person.entry)
        assert entry is not None, "no entry of this writer"
        assert entry.row not in self._entries, f"row {entry.row} is taken"
        if self._jpeg is not None:
            entry = replace(entry, start=self._end)
            self._end += entry.length
        self._part.write(_DATA_START + entry.start, person.data)
        self._part.note(_entry_bytes(entry))
        self._entries[entry.row] = entry

    def leave_out(self, index: int) -> None:
        """Do without the person of a row; those behind move up."""
        assert index not in self._entries, f"row {index} is taken"
        self._left_out.add(index)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._part.__exit__(kind, error, trace)

    def _finish(self) -> None:
        put = len(self._entries) + len(self._left_out)
        assert put == self._count, f"{put} of {self._count} people were put"
        assert self._entries, "nobody is left"
        if self._left_out and self._jpeg is None:
            self._close_gaps()
        people = [self._entries[row] for row in sorted(self._entries)]
        version = RAW_VERSION if self._jpeg is None else JPEG_VERSION
        size = self._end if self._jpeg is not None else len(people) * self._bytes
        # HDF5's own data gets a clean ground, so that the same people give the same file.
        self._part.truncate(_DATA_START + size)
        self._part.write(0, bytes(_DATA_START))
        with Sink(self._part.path, "r+") as sink:
            try:
                # This version of the format carries checksums on everything but the data, so that readers notice
                # damage; in the older one a changed bit can send HDF5 into an endless loop.
                with h5py.File(
                    sink,
                    "w",
                    libver=("v110", "v110"),
                    alignment_threshold=size,
                    alignment_interval=_DATA_START,
                    meta_block_size=0,
                ) as file:
                    shape = (size,) if self._jpeg is not None else (len(people), self._side, self._side, 3)
                    _claim(file, b"crops" if self._jpeg is None else b"jpegs", shape)
                    self._describe(file, people, version)
            except OSError as error:
                raise self._part.cannot_write(sink.error or error) from error
            if sink.error is not None:
                raise self._part.cannot_write(sink.error) from sink.error
        self._part.publish()

    def _describe(self, file: h5py.File, people: Sequence[_Entry], version: int) -> None:
        """Everything but the crops."""
        for name, array in (
            ("joints", np.stack([person.joints for person in people])),
            ("labelled", np.stack([person.labelled for person in people])),
            ("head_size", np.array([person.head_size for person in people], np.float32)),
            ("to_original", np.stack([person.to_original for person in people])),
            ("split", np.array([person.split for person in people], np.uint8)),
            ("image", np.array([person.image for person in people])),
            ("digest", np.stack([np.frombuffer(person.digest, np.uint8) for person in people])),
        ):
            file.create_dataset(name, data=array)
        if self._jpeg is not None:
            file.create_dataset("start", data=np.array([person.start for person in people], np.int64))
            file.create_dataset("length", data=np.array([person.length for person in people], np.int64))
            file.attrs["jpeg"] = self._jpeg
        digests = [person.digest for person in people]
        for key, text in (
            ("format", _FORMAT),
            ("skeleton", self._skeleton.to_json()),
            ("source", json.dumps(self._source)),
            ("checksum", _checksum(version, self._box, self._skeleton.to_json(), digests)),
        ):
            # Of fixed length: HDF5 keeps other texts in a heap that has no checksum.
            file.attrs[key] = np.bytes_(text.encode())
        file.attrs["version"] = version
        file.attrs["box"] = self._box

    def _close_gaps(self) -> None:
        """Move raw crops up into the places of those left out; the last thing before the file is complete."""
        first = min(self._left_out)
        # What moves is no longer where the journal says: a process killed from here on cuts it again.
        self._part.keep([_entry_bytes(entry) for row, entry in self._entries.items() if row < first])
        moved = {}
        for place, row in enumerate(sorted(self._entries)):
            entry = self._entries[row]
            if place != row:
                self._part.write(
                    _DATA_START + place * self._bytes, self._part.read(_DATA_START + entry.start, entry.length)
                )
            moved[place] = replace(entry, row=place, start=place * self._bytes)
        self._entries = moved


def encode_jpeg(crop: NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG of an RGB crop, uint8 (S, S, 3), with colours at full resolution."""
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    done, data = cv2.imencode(".jpg", crop[:, :, ::-1], options)
    assert done, "OpenCV wrote no JPEG"
    return data.tobytes()


def _entry_bytes(entry: _Entry) -> bytes:
    fixed = _ENTRY.pack(
        entry.row, entry.start, entry.length, entry.stamp, entry.digest, entry.head_size, entry.split,
        entry.to_original.tobytes(),
    )  # fmt: skip
    return fixed + entry.joints.tobytes() + entry.labelled.tobytes() + entry.image


def _digest(data: bytes | memoryview, entry: _Entry) -> bytes:
    digest = hashlib.sha256(data)
    for array in (entry.joints, entry.labelled, entry.head_size, entry.to_original):
        digest.update(array.tobytes())
    digest.update(bytes([entry.split]))
    digest.update(entry.image)
    return digest.digest()


def _checksum(version: int, box: int, skeleton: str, digests: Iterable[bytes]) -> str:
    # Over digests in row order, so that it does not depend on the order in which people were put.
    checksum = hashlib.sha256(f"{version} {box} {skeleton}".encode())
    for digest in digests:
        checksum.update(digest)
    return checksum.hexdigest()


def _claim(file: h5py.File, name: bytes, shape: tuple[int, ...]) -> None:
    """A dataset of bytes that stand in the file already."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # the same people give the same file at any time
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(file.id, name, h5py.h5t.NATIVE_UINT8, space, layout)
    assert dataset.get_offset() == _DATA_START, f"HDF5 puts the crops at {dataset.get_offset()}"


@dataclass(frozen=True)
class PackedSummary:
    """What a packed file holds, without its crops.

    Attributes:
        skeleton: the joints' names and order.
        box: side of the person's box in the crops, in pixels.
        counts: people per split, every split named.
        labelled: how many joints carry a position, over all people.
        source: where the people come from, as the writer recorded it.
        checksum: of the whole content.
        jpeg: quality of crops stored as JPEG; None: they are raw.
        skeleton_text: the skeleton as it is written in the file, which the checksum covers.
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
        """People in all splits together."""
        return sum(self.counts.values())


@dataclass(frozen=True, eq=False)
class PackedPeople:
    """The people of some splits of a packed file, as tensors on one device.

    Attributes:
        skeleton: the joints' names and order.
        box: side of the person's box in the crops, in pixels.
        crops: uint8 (N, 3, S, S), RGB, channels-last in memory.
        joints: float32 (N, J, 2), crop pixels, 0 where not labelled.
        labelled: bool (N, J).
        head_size: float32 (N,), original pixels.
        to_original: float32 (N, 2, 3), affine map from crop pixels to original pixels.
        images: name of each person's picture.
        checksum: of the whole file's content, all splits.
    """

    skeleton: Skeleton
    box: int
    crops: Tensor
    joints: Tensor
    labelled: Tensor
    head_size: Tensor
    to_original: Tensor
    images: tuple[str, ...]
    checksum: str

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        split: str | Sequence[str],
        device: str | torch.device = "cpu",
        limit: int | None = None,
    ) -> PackedPeople:
        """Load the people of one or several splits.

        Args:
            path: the packed file.
            split: one of SPLITS, or several.
            device: where the tensors go.
            limit: load only this many people, the same ones every time and a subset of those of any larger
                limit: the first of a fixed shuffle. They keep the file's order.

        Raises:
            UserError: the file is missing, no packed file, of another version, damaged, or has nobody in
                the split; or the split or limit makes no sense.
        """
        path = Path(path)
        names = (split,) if isinstance(split, str) else tuple(split)
        for name in names:
            if name not in SPLITS:
                raise UserError(f"split {name!r} is unknown; choose from {', '.join(SPLITS)}")
        if limit is not None and limit < 1:
            raise UserError(f"limit {limit} is not positive; leave it out to load everybody")
        with _open(path) as file:
            summary, splits = _summary(path, file)
            rows = np.flatnonzero(np.isin(splits, [SPLITS.index(name) for name in names]))
            if not len(rows):
                held = ", ".join(f"{name} {count}" for name, count in summary.counts.items())
                raise UserError(f"{path}: nobody in split {'+'.join(names)} (it holds {held}); pack it with that split")
            if limit is not None and limit < len(rows):
                rows = np.sort(np.random.default_rng(0).permutation(rows)[:limit])
            people = cls._of_rows(path, file, summary, rows)
        return people.to(device)

    @classmethod
    def load_some(
        cls, path: str | os.PathLike[str], count: int, seed: int
    ) -> tuple[PackedPeople, tuple[int, ...], tuple[str, ...]]:
        """Load some people of all splits, drawn at random.

        Args:
            path: the packed file.
            count: how many; all, if there are fewer.
            seed: another one draws others.

        Returns:
            The people in the file's order, their rows, and their splits.

        Raises:
            UserError: as :meth:`load`.
        """
        path = Path(path)
        with _open(path) as file:
            summary, splits = _summary(path, file)
            rows = np.sort(np.random.default_rng(seed).permutation(len(splits))[:count])
            people = cls._of_rows(path, file, summary, rows)
            return people, tuple(rows.tolist()), tuple(SPLITS[split] for split in splits[rows])

    @classmethod
    def _of_rows(
        cls, path: Path, file: h5py.File, summary: PackedSummary, rows: NDArray[np.integer[Any]]
    ) -> PackedPeople:
        columns = _columns(file, rows)
        crops = _load_crops(path, file, columns, rows, crop_side(summary.box))
        joints, labelled, head_size, to_original = (
            columns[name] for name in ("joints", "labelled", "head_size", "to_original")
        )
        images = tuple(bytes(image).decode() for image in columns["image"])
        if not (np.isfinite(joints).all() and np.isfinite(to_original).all() and np.isfinite(head_size).all()):
            raise UserError(f"{path}: damaged, some joints or head sizes are not numbers; {_REMEDY}")
        if (head_size <= 0).any():
            raise UserError(f"{path}: damaged, some head sizes are not positive; {_REMEDY}")
        return cls(
            skeleton=summary.skeleton,
            box=summary.box,
            crops=torch.from_numpy(crops).permute(0, 3, 1, 2),
            joints=torch.from_numpy(joints),
            labelled=torch.from_numpy(labelled),
            head_size=torch.from_numpy(head_size),
            to_original=torch.from_numpy(to_original),
            images=images,
            checksum=summary.checksum,
        )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: str | torch.device, *, crops: str | torch.device | None = None) -> PackedPeople:
        """The same people with their tensors on ``device``, the crops elsewhere if need be; they stay channels-last."""
        return replace(
            self,
            crops=self.crops.to(device if crops is None else crops),
            joints=self.joints.to(device),
            labelled=self.labelled.to(device),
            head_size=self.head_size.to(device),
            to_original=self.to_original.to(device),
        )

    def original_joints(self) -> Tensor:
        """Joints in pixels of the original pictures, float32 (N, J, 2); meaningless where not labelled."""
        return self.joints @ self.to_original[:, :, :2].mT + self.to_original[:, None, :, 2]


def describe_packed(path: str | os.PathLike[str]) -> PackedSummary:
    """What a packed file holds, read without its crops.

    Raises:
        UserError: the file is missing, no packed file, of another version, or damaged.
    """
    path = Path(path)
    with _open(path) as file:
        return _summary(path, file)[0]


@dataclass(frozen=True, eq=False)
class StoredPeople:
    """Some rows of a packed file as they are stored, right or wrong.

    Attributes:
        rows: int (N,), which.
        crops: the N crops' bytes: raw pixels, or JPEGs.
        readable: bool (N,), False for a JPEG that cannot be decoded though it is what was packed.
        joints: float32 (N, J, 2), crop pixels.
        labelled: bool (N, J).
        head_size: float32 (N,), original pixels.
        to_original: float32 (N, 2, 3), affine map from crop pixels to original pixels.
        split: uint8 (N,), index into SPLITS.
        image: the pictures' names, UTF-8.
        digests: SHA-256 of each person as stored here.
        wrong: bool (N,), whose digest is not the one in the file; nobody's where it has none.
    """

    rows: NDArray[np.intp]
    crops: list[memoryview]
    readable: NDArray[np.bool_]
    joints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    head_size: NDArray[np.float32]
    to_original: NDArray[np.float32]
    split: NDArray[np.uint8]
    image: list[bytes]
    digests: list[bytes]
    wrong: NDArray[np.bool_]


def read_stored(path: str | os.PathLike[str], at_once: int = 256) -> Iterator[PackedSummary | StoredPeople]:
    """Read a packed file from end to end without believing it: first its summary, then all people, some at a time.

    Args:
        path: the packed file.
        at_once: how many people are in memory together.

    Raises:
        UserError: the file is missing, no packed file, of another version, or cannot be read to its end.
    """
    path = Path(path)
    with _open(path) as file, ThreadPoolExecutor(_THREADS) as pool:
        summary, splits = _summary(path, file, believing=False)
        yield summary
        columns = _columns(file, np.arange(len(splits)))
        side = crop_side(summary.box)
        for start in range(0, len(splits), at_once):
            rows = np.arange(start, min(start + at_once, len(splits)))
            crops = _stored_crops(file, columns, rows)
            part = {name: column[rows] for name, column in columns.items()}
            entries = [_entry_of(part, place) for place in range(len(rows))]
            digests = list(pool.map(_digest, crops, entries))
            right = np.array([entry.digest in (b"", digest) for entry, digest in zip(entries, digests, strict=True)])
            if summary.jpeg is None:
                readable = np.ones(len(rows), np.bool_)
            else:  # not what has changed: the decoder would complain on standard error
                found = pool.map(lambda good, crop: not good or _decode_jpeg(crop, side) is not None, right, crops)
                readable = np.fromiter(found, np.bool_, len(rows))
            yield StoredPeople(
                rows, crops, readable, part["joints"], part["labelled"], part["head_size"], part["to_original"],
                part["split"], [entry.image for entry in entries], digests, ~right,
            )  # fmt: skip


def checksum_of(summary: PackedSummary, digests: Iterable[bytes]) -> str:
    """The checksum that a file of this summary has if these are its people's digests, in row order."""
    version = RAW_VERSION if summary.jpeg is None else JPEG_VERSION
    return _checksum(version, summary.box, summary.skeleton_text, digests)


def _summary(path: Path, file: h5py.File, believing: bool = True) -> tuple[PackedSummary, NDArray[np.uint8]]:
    """The file's summary and its ``split`` column, after checking that every part is there and fits the others.

    Raises what h5py and JSON raise on damaged content, for :func:`_open` to translate.
    """
    if "format" not in file.attrs or _text(file, "format") != _FORMAT:
        raise UserError(f"{path}: HDF5, but not a file of packed people; {_REMEDY}")
    version = int(file.attrs["version"])
    if version not in (RAW_VERSION, JPEG_VERSION):
        raise UserError(f"{path}: format version {version}, but this program reads 1 and 2; {_REMEDY}")
    skeleton = Skeleton.from_json(_text(file, "skeleton"))
    box = int(file.attrs["box"])
    people, joints, side = len(file["split"]), len(skeleton.joints), crop_side(box)
    size = path.stat().st_size
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "joints": ((people, joints, 2), "float32"),
        "labelled": ((people, joints), "bool"),
        "head_size": ((people,), "float32"),
        "to_original": ((people, 2, 3), "float32"),
        "split": ((people,), "uint8"),
        "image": ((people,), "S"),
    }
    if version == RAW_VERSION:
        shapes = {"crops": ((people, side, side, 3), "uint8"), **shapes}
    else:
        jpegs = ((len(file["jpegs"]),), "uint8")
        shapes = {"jpegs": jpegs, "start": ((people,), "int64"), "length": ((people,), "int64"), **shapes}
    if version == JPEG_VERSION or "digest" in file:
        shapes["digest"] = ((people, 32), "uint8")
    for name, (shape, kind) in shapes.items():
        dataset = file[name]
        if dataset.shape != shape or kind not in (dataset.dtype.name, dataset.dtype.kind):
            raise UserError(
                f"{path}: {name!r} is {dataset.dtype.name} {dataset.shape}, expected {kind} {shape}; {_REMEDY}"
            )
        # Before any of it is read: a damaged shape must not make us ask for more memory than the file can fill.
        if dataset.nbytes > size:
            raise UserError(f"{path}: truncated, {name!r} needs {dataset.nbytes} bytes; {_REMEDY}")
    splits: NDArray[np.uint8] = file["split"][:]
    if (splits >= len(SPLITS)).any():
        raise UserError(f"{path}: damaged, 'split' holds {splits.max()}, expected 0 to {len(SPLITS) - 1}; {_REMEDY}")
    if version == JPEG_VERSION:
        _check_places(path, file["start"][:], file["length"][:], len(file["jpegs"]))
    source = json.loads(_text(file, "source"))
    checksum = _text(file, "checksum")
    if believing and "digest" in file:
        digests = [bytes(digest) for digest in file["digest"][:]]
        if checksum != _checksum(version, box, _text(file, "skeleton"), digests):
            raise UserError(f"{path}: damaged, its checksum is not that of its people; {_REMEDY}")
    return (
        PackedSummary(
            skeleton=skeleton,
            box=box,
            counts=MappingProxyType({name: int((splits == i).sum()) for i, name in enumerate(SPLITS)}),
            labelled=int(file["labelled"][:].sum()),
            source=MappingProxyType({str(key): str(value) for key, value in source.items()}),
            checksum=checksum,
            jpeg=int(file.attrs["jpeg"]) if version == JPEG_VERSION else None,
            skeleton_text=_text(file, "skeleton"),
        ),
        splits,
    )


def _check_places(path: Path, start: NDArray[np.int64], length: NDArray[np.int64], size: int) -> None:
    """Every JPEG lies within the ``size`` bytes of all, and none in another."""
    order = np.argsort(start, kind="stable")
    start, length = start[order], length[order]
    bounded = len(start) == 0 or (start[0] >= 0 and (length > 0).all() and (length <= size).all())
    ends = start + length if bounded else length
    if not bounded or (ends[:-1] > start[1:]).any() or (ends > size).any():
        raise UserError(f"{path}: damaged, JPEGs lie outside 'jpegs' or in one another; {_REMEDY}")


def _text(file: h5py.File, key: str) -> str:
    value = file.attrs[key]
    if not isinstance(value, bytes):
        raise ValueError(f"attribute {key!r} is not text")
    return value.decode()


def _columns(file: h5py.File, rows: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
    """Everything but the crops of some rows."""
    names = ("joints", "labelled", "head_size", "to_original", "split", "image", "digest", "start", "length")
    return {name: file[name][:][rows] for name in names if name in file}


def _entry_of(columns: Mapping[str, NDArray[Any]], place: int) -> _Entry:
    return _Entry(
        row=place,
        start=0,
        length=0,
        stamp=b"",
        digest=columns["digest"][place].tobytes() if "digest" in columns else b"",
        joints=columns["joints"][place],
        labelled=columns["labelled"][place],
        head_size=columns["head_size"][place],
        to_original=columns["to_original"][place],
        split=int(columns["split"][place]),
        image=bytes(columns["image"][place]),
    )


def _load_crops(
    path: Path, file: h5py.File, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.integer[Any]], side: int
) -> NDArray[np.uint8]:
    """The crops of some rows, uint8 (N, S, S, 3), after comparing everybody with their digest where there is one."""

    def check(place: int, data: memoryview) -> None:
        entry = _entry_of(columns, place)
        if entry.digest and _digest(data, entry) != entry.digest:
            raise UserError(f"{path}: damaged, person {rows[place]} ({_name(entry.image)}) has changed; {_REMEDY}")

    with ThreadPoolExecutor(_THREADS) as pool:
        if "crops" in file:
            crops: NDArray[np.uint8] = _read_rows(file["crops"], rows)
            if "digest" in columns:
                list(pool.map(check, range(len(rows)), map(memoryview, crops)))
            return crops

        def decode(place: int, data: memoryview) -> NDArray[np.uint8]:
            check(place, data)
            crop = _decode_jpeg(data, side)
            if crop is None:
                name = _name(bytes(columns["image"][place]))
                raise UserError(
                    f"{path}: damaged, person {rows[place]} ({name}) is no JPEG of {side} pixels; {_REMEDY}"
                )
            return crop

        crops = np.empty(0, np.uint8)
        for start in range(0, len(rows), _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, len(rows)))
            stored = _stored_crops(file, columns, np.arange(places.start, places.stop))
            for place, crop in zip(places, pool.map(decode, places, stored), strict=True):
                if not place:  # not earlier: a damaged size must not make us ask for any amount of memory
                    crops = np.empty((len(rows), side, side, 3), np.uint8)
                crops[place] = crop
    return crops


def _stored_crops(
    file: h5py.File, columns: Mapping[str, NDArray[Any]], places: NDArray[np.integer[Any]]
) -> list[memoryview]:
    """The bytes of some crops, raw or JPEG; ``places`` are positions in the columns, and for raw crops rows too."""
    if "crops" in file:
        return [memoryview(crop).cast("B") for crop in _read_rows(file["crops"], places)]
    start, length = columns["start"][places], columns["length"][places]
    order = np.argsort(start)
    ends = start[order] + length[order]
    breaks = np.flatnonzero(ends[:-1] != start[order][1:]) + 1
    found = [memoryview(b"")] * len(places)
    for run in np.split(order, breaks):  # neighbours are read in one go
        first = int(start[run[0]])
        block = memoryview(file["jpegs"][first : int(start[run[-1]] + length[run[-1]])])
        for place in run:
            found[place] = block[int(start[place]) - first :][: int(length[place])]
    return found


def _decode_jpeg(data: memoryview, side: int) -> NDArray[np.uint8] | None:
    """uint8 (S, S, 3) RGB; None where it is nothing of the kind."""
    try:
        crop = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return np.asarray(crop, np.uint8) if crop is not None and crop.shape == (side, side, 3) else None


def _name(image: bytes) -> str:
    return image.decode(errors="replace")


def _read_rows(dataset: h5py.Dataset, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Rows of a dataset, ascending; neighbours are read in one go, which is far faster than h5py's own indexing."""
    out = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    runs = np.flatnonzero(np.diff(rows) != 1) + 1
    for start, stop in zip([0, *runs], [*runs, len(rows)], strict=True):
        dataset.read_direct(out, np.s_[rows[start] : rows[stop - 1] + 1], np.s_[start:stop])
    return out
