"""Write packed files person by person, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nas.data.packed.format import (
    FORMAT,
    PackedHeader,
    PersonRecord,
    crop_side,
    encode_jpeg,
    file_checksum,
    record_digest,
)
from nas.data.packed.resumable_file import FailSafeFile, ResumableFile
from nas.data.people import SPLITS

_DATA_START = 4096
"""Offset of the crops; HDF5's own data lies before and after them."""

_RECORD = struct.Struct("<qqq16s32sfB24s")  # row, start, length, stamp, digest, head size, split, map to the original


@dataclass(frozen=True, eq=False)
class PackedPerson:
    """One person to be written.

    Attributes:
        crop: uint8 (S, S, 3), RGB.
        joints: (J, 2), crop pixels; any value where not labelled.
        labelled: bool (J,).
        head_size: PCKh's normalizer, in original pixels; positive.
        to_original: (2, 3), affine map from crop pixels to original pixels.
        split: one of SPLITS.
        image: name of the image.
    """

    crop: NDArray[np.uint8]
    joints: NDArray[np.floating[Any]]
    labelled: NDArray[np.bool_]
    head_size: float
    to_original: NDArray[np.floating[Any]]
    split: str
    image: str


@dataclass(frozen=True, eq=False)
class EncodedPerson:
    """One person ready to be written, as :meth:`PackedWriter.encode` returns it.

    Attributes:
        crop: the crop's bytes: raw pixels, or a JPEG.
        record: everything else.
    """

    crop: bytes
    record: PersonRecord


class PackedWriter:
    """Writes a packed file person by person; it appears under its name only once it is complete.

    A context manager. It writes a temporary file beside the target. On a clean exit, with every row written or skipped,
    that file gets its checksum and replaces the target atomically. On any exception the target stays as it was; the
    temporary file is removed or, if ``inputs`` is given, kept for the next writer of the same inputs to continue.
    :meth:`put` accepts rows in any order, from one thread.

    Args:
        path: the target; its folder exists.
        header: skeleton, box, source and encoding.
        count: how many rows will be written or skipped.
        inputs: identifies everything besides the other arguments that people and crops depend on, so that the file of
            an interrupted writer can be continued. None: it never is.
        stamps: 16 bytes for each row; a row written under another stamp is written again.
    """

    def __init__(
        self,
        path: Path,
        header: PackedHeader,
        count: int,
        *,
        inputs: str | None = None,
        stamps: Sequence[bytes] | None = None,
    ) -> None:
        assert count > 0, "a packed file holds at least one person"
        assert header.jpeg is None or 1 <= header.jpeg <= 100, f"JPEG quality {header.jpeg}"
        self._header = header
        self._count = count
        self._side = crop_side(header.box)
        self._raw_bytes = self._side**2 * 3
        self._stamps = stamps
        self._records: dict[int, PersonRecord] = {}
        self._skipped: set[int] = set()
        self._jpeg_end = 0
        if inputs is not None:
            source = sorted(header.source.items())
            everything = [inputs, header.jpeg, header.box, count, header.skeleton.to_json(), source]
            inputs = hashlib.sha256(json.dumps(everything).encode()).hexdigest()
        self._file = ResumableFile(path, inputs)

    @property
    def done(self) -> frozenset[int]:
        """The rows written so far, including those of an interrupted writer."""
        return frozenset(self._records)

    def __enter__(self) -> PackedWriter:
        self._file.__enter__()
        try:
            self._resume()
        except BaseException:  # KeyboardInterrupt above all: __exit__ is not called yet
            self._file.__exit__(None, None, None)
            raise
        return self

    def _resume(self) -> None:
        """Take over the rows in the journal, up to the first whose data does not match its record."""
        for number, raw in enumerate(self._file.entries):
            record = self._parse_record(raw)
            crop = self._file.read(_DATA_START + record.start, record.length) if record else b""
            if (
                record is None
                or record.row in self._records
                or record.stamp != self._stamp(record.row)
                or record_digest(crop, record) != record.digest
            ):
                self._file.drop_entries(number)
                break
            self._records[record.row] = record
            self._jpeg_end = max(self._jpeg_end, record.start + record.length)
        size = self._count * self._raw_bytes if self._header.jpeg is None else self._jpeg_end
        self._file.truncate(_DATA_START + size)

    def _parse_record(self, raw: bytes) -> PersonRecord | None:
        """The inverse of :func:`_record_bytes`; None if the bytes cannot be a record of this writer."""
        joints = len(self._header.skeleton.joints)
        if len(raw) <= _RECORD.size + 9 * joints:
            return None
        row, start, length, stamp, digest, head_size, split, matrix = _RECORD.unpack_from(raw)
        if not 0 <= row < self._count or not 0 <= length <= self._raw_bytes * 2 or start < 0:
            return None
        arrays = raw[_RECORD.size :]
        return PersonRecord(
            row, start, length, stamp, digest,
            joints=np.frombuffer(arrays[: 8 * joints], np.float32).reshape(joints, 2),
            labelled=np.frombuffer(arrays[8 * joints : 9 * joints], np.bool_),
            head_size=np.float32(head_size),
            to_original=np.frombuffer(matrix, np.float32).reshape(2, 3),
            split=split,
            image=arrays[9 * joints :],
        )  # fmt: skip

    def _stamp(self, row: int) -> bytes:
        return self._stamps[row] if self._stamps is not None else bytes(16)

    def encode(self, row: int, person: PackedPerson) -> EncodedPerson:
        """Compress and hash one person; changes nothing, so that any thread may call it.

        Args:
            row: the person's row, each of 0..count-1 once.
            person: the person.
        """
        crop, labelled = person.crop, person.labelled
        assert row in range(self._count), f"no row {row} among {self._count}"
        assert crop.shape == (self._side, self._side, 3), f"a crop of shape {crop.shape}"
        assert crop.dtype == np.uint8, f"a crop of {crop.dtype}"
        assert np.isfinite(person.joints[labelled]).all(), "a labelled joint is not a number"
        assert np.isfinite(person.to_original).all(), "the map to the original is not finite"
        assert 0 < person.head_size < np.inf, f"head size {person.head_size}"
        data = crop.tobytes() if self._header.jpeg is None else encode_jpeg(crop, self._header.jpeg)
        record = PersonRecord(
            row, row * self._raw_bytes, len(data), self._stamp(row), b"",
            joints=np.where(labelled[:, None], person.joints, 0).astype(np.float32),
            labelled=np.array(labelled, np.bool_),
            head_size=np.float32(person.head_size),
            to_original=np.array(person.to_original, np.float32),
            split=SPLITS.index(person.split),
            image=person.image.encode(),
        )  # fmt: skip
        return EncodedPerson(data, replace(record, digest=record_digest(data, record)))

    def put(self, row: int, person: PackedPerson) -> None:
        """Encode and write one person; see :meth:`encode`.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        self.put_encoded(self.encode(row, person))

    def put_encoded(self, person: EncodedPerson) -> None:
        """Write one person.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        record = person.record
        assert record.row not in self._records, f"row {record.row} is taken"
        if self._header.jpeg is not None:
            record = replace(record, start=self._jpeg_end)
            self._jpeg_end += record.length
        self._file.write(_DATA_START + record.start, person.crop)
        self._file.append_entry(_record_bytes(record))
        self._records[record.row] = record

    def skip(self, row: int) -> None:
        """Leave a row out; the rows after it move up."""
        assert row not in self._records, f"row {row} is taken"
        self._skipped.add(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.__exit__(kind, error, trace)

    def _finish(self) -> None:
        rows = len(self._records) + len(self._skipped)
        assert rows == self._count, f"{rows} of {self._count} rows were written"
        assert self._records, "every row was skipped"
        raw = self._header.jpeg is None
        if self._skipped and raw:
            self._close_gaps()
        people = [self._records[row] for row in sorted(self._records)]
        size = len(people) * self._raw_bytes if raw else self._jpeg_end
        # Zeros wherever HDF5 will write, so that the same people give the same file.
        self._file.truncate(_DATA_START + size)
        self._file.write(0, bytes(_DATA_START))
        with FailSafeFile(self._file.path, "r+") as sink:
            try:
                # This version of the format has checksums on everything but the data, so that readers notice damage;
                # in the older one a changed bit can send HDF5 into an endless loop.
                with h5py.File(
                    sink,
                    "w",
                    libver=("v110", "v110"),
                    alignment_threshold=size,
                    alignment_interval=_DATA_START,
                    meta_block_size=0,
                ) as file:
                    shape = (len(people), self._side, self._side, 3) if raw else (size,)
                    _declare_dataset(file, b"crops" if raw else b"jpegs", shape)
                    self._write_metadata(file, people)
            except OSError as error:
                raise self._file.write_error(sink.error or error) from error
            if sink.error is not None:
                raise self._file.write_error(sink.error) from sink.error
        self._file.publish()

    def _write_metadata(self, file: h5py.File, people: Sequence[PersonRecord]) -> None:
        """Write everything but the crops."""
        header = self._header
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
        if header.jpeg is not None:
            file.create_dataset("start", data=np.array([person.start for person in people], np.int64))
            file.create_dataset("length", data=np.array([person.length for person in people], np.int64))
            file.attrs["jpeg"] = header.jpeg
        skeleton = header.skeleton.to_json()
        digests = [person.digest for person in people]
        for key, text in (
            ("format", FORMAT),
            ("skeleton", skeleton),
            ("source", json.dumps(dict(header.source))),
            ("checksum", file_checksum(header.version, header.box, skeleton, digests)),
        ):
            # Of fixed length: HDF5 keeps variable-length strings in a heap without checksums.
            file.attrs[key] = np.bytes_(text.encode())
        file.attrs["version"] = header.version
        file.attrs["box"] = header.box

    def _close_gaps(self) -> None:
        """Move raw crops up into the positions of skipped rows; the last step before the file is completed."""
        first = min(self._skipped)
        # Crops that move no longer lie where the journal says: after a kill from here on, they are cut again.
        self._file.replace_entries([_record_bytes(record) for row, record in self._records.items() if row < first])
        moved = {}
        for new_row, row in enumerate(sorted(self._records)):
            record = self._records[row]
            start = new_row * self._raw_bytes
            if new_row != row:
                crop = self._file.read(_DATA_START + record.start, record.length)
                self._file.write(_DATA_START + start, crop)
            moved[new_row] = replace(record, row=new_row, start=start)
        self._records = moved


def _record_bytes(record: PersonRecord) -> bytes:
    """The record as the journal stores it."""
    fixed = _RECORD.pack(
        record.row, record.start, record.length, record.stamp, record.digest, record.head_size, record.split,
        record.to_original.tobytes(),
    )  # fmt: skip
    return fixed + record.joints.tobytes() + record.labelled.tobytes() + record.image


def _declare_dataset(file: h5py.File, name: bytes, shape: tuple[int, ...]) -> None:
    """Create a uint8 dataset over the bytes that are already in the file."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # the same people give the same file at any time
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(file.id, name, h5py.h5t.NATIVE_UINT8, space, layout)
    assert dataset.get_offset() == _DATA_START, f"HDF5 puts the crops at {dataset.get_offset()}"
