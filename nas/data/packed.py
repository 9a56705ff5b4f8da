"""Packed people: square crops and joints in one HDF5 file, written once, loaded whole.

A crop shows the person's square box (``Person.size`` pixels wide) at ``box`` pixels, with a margin around
it (``MARGIN`` × ``box`` pixels a side in all), so that a batch can be rotated, scaled and shifted on the
device without black corners.

The file holds, for N people with J joints and crops of S × S pixels:

==============  ===================  ==================================================================
``crops``       uint8 (N, S, S, 3)   RGB, contiguous and uncompressed: a split loads at disk speed
``joints``      float32 (N, J, 2)    crop pixels, 0 where not labelled
``labelled``    bool (N, J)
``head_size``   float32 (N,)         original pixels
``to_original`` float32 (N, 2, 3)    affine map from crop pixels to pixels of the original picture
``split``       uint8 (N,)           index into :data:`nas.data.people.SPLITS`
``image``       UTF-8 bytes (N,)     the picture's name
==============  ===================  ==================================================================

and the attributes ``format``, ``version``, ``skeleton`` (JSON), ``box``, ``source`` (JSON) and ``checksum``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.people import SPLITS, Skeleton
from nas.errors import UserError

MARGIN = 1.71
"""Side of the crop over side of the box: (cos 30° + sin 30°) × 1.25, so that a box turned by up to ±30° and
zoomed out by up to ×1.25 still lies inside the crop."""

FORMAT_VERSION = 1
_FORMAT = "hourglass-nas people"
_REMEDY = "make it again with `python -m nas.prepare`"

# What h5py raises on files that are damaged, empty, or something else altogether.
_HDF5_ERRORS = (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError, MemoryError)


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
        reason = _line(error) or type(error).__name__
        raise UserError(f"{path}: not HDF5, truncated or damaged ({reason}); {_REMEDY}") from error


class PackedWriter:
    """Writes a packed file person by person; the file appears under its name only when it is complete.

    Use it as a context manager. It writes a temporary file beside the target. On a clean exit with every
    person put, that file gets its checksum and takes the target's place in one step; on any exception it is
    removed, and whatever stood at the target stays as it was. ``put`` takes people in any order, from one thread.

    Args:
        path: the target; its folder exists.
        skeleton: the joints' names and order.
        box: side of the person's box in the crops, in pixels.
        count: how many people will be put.
        source: where the people come from, for the record; not part of the checksum.
    """

    def __init__(self, path: Path, skeleton: Skeleton, box: int, count: int, source: Mapping[str, str]) -> None:
        assert count > 0, "a packed file holds at least one person"
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        self._skeleton = skeleton
        self._box = box
        self._count = count
        self._source = dict(source)
        joints = len(skeleton.joints)
        self._side = crop_side(box)
        self._joints = np.zeros((count, joints, 2), np.float32)
        self._labelled = np.zeros((count, joints), np.bool_)
        self._head_size = np.zeros(count, np.float32)
        self._to_original = np.zeros((count, 2, 3), np.float32)
        self._split = np.zeros(count, np.uint8)
        self._image = [b""] * count
        self._digests: dict[int, bytes] = {}

    def __enter__(self) -> PackedWriter:
        try:
            self._sink = _Sink(self._part, "x+")
        except OSError as error:
            raise UserError(f"{self._path}: cannot write there ({_line(error)}); choose another folder") from error
        try:
            # This version of the format carries checksums on everything but the data, so that readers notice damage;
            # in the older one a changed bit can send HDF5 into an endless loop.
            self._file = h5py.File(self._sink, "w", libver=("v110", "v110"))
            self._crops = self._file.create_dataset("crops", (self._count, self._side, self._side, 3), np.uint8)
        except BaseException:  # Ctrl-C above all: __exit__ is not called yet
            self._part.unlink(missing_ok=True)
            raise
        return self

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
        """Store one person.

        Args:
            index: the person's row, each of 0..count-1 once.
            crop: uint8 (S, S, 3), RGB.
            joints: (J, 2), crop pixels; any value where not labelled.
            labelled: bool (J,).
            head_size: what PCKh divides by, in original pixels; positive.
            to_original: (2, 3), affine map from crop pixels to original pixels.
            split: one of SPLITS.
            image: the picture's name.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        assert index in range(self._count), f"no row {index} among {self._count}"
        assert index not in self._digests, f"row {index} is taken"
        assert crop.shape == (self._side, self._side, 3), f"a crop of shape {crop.shape}"
        assert crop.dtype == np.uint8, f"a crop of {crop.dtype}"
        assert np.isfinite(joints[labelled]).all(), "a labelled joint is not a number"
        assert np.isfinite(to_original).all(), "the map to the original is not finite"
        assert 0 < head_size < np.inf, f"head size {head_size}"
        self._joints[index] = np.where(labelled[:, None], joints, 0)
        self._labelled[index] = labelled
        self._head_size[index] = head_size
        self._to_original[index] = to_original
        self._split[index] = SPLITS.index(split)
        self._image[index] = image.encode()
        digest = hashlib.sha256(crop.tobytes())
        for array in (self._joints, self._labelled, self._head_size, self._to_original, self._split):
            digest.update(array[index].tobytes())
        digest.update(self._image[index])
        self._digests[index] = digest.digest()
        self._crops[index] = crop
        self._check_written()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._sink.close()
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        assert len(self._digests) == self._count, f"{len(self._digests)} of {self._count} people were put"
        # Over digests in row order, so that it does not depend on the order in which people were put.
        checksum = hashlib.sha256(f"{FORMAT_VERSION} {self._box} {self._skeleton.to_json()}".encode())
        for index in range(self._count):
            checksum.update(self._digests[index])
        for name, array in (
            ("joints", self._joints),
            ("labelled", self._labelled),
            ("head_size", self._head_size),
            ("to_original", self._to_original),
            ("split", self._split),
            ("image", np.array(self._image)),
        ):
            self._file.create_dataset(name, data=array)
        for key, text in (
            ("format", _FORMAT),
            ("skeleton", self._skeleton.to_json()),
            ("source", json.dumps(self._source)),
            ("checksum", checksum.hexdigest()),
        ):
            # Of fixed length: HDF5 keeps other texts in a heap that has no checksum.
            self._file.attrs[key] = np.bytes_(text.encode())
        self._file.attrs["version"] = FORMAT_VERSION
        self._file.attrs["box"] = self._box
        self._file.close()
        self._check_written()
        try:
            os.fsync(self._sink.fileno())  # else a power cut could leave the name with half the content
            os.replace(self._part, self._path)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _check_written(self) -> None:
        if self._sink.error is not None:
            raise self._cannot_write(self._sink.error) from self._sink.error

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(f"{self._path}: cannot write ({_line(error)}); free some space or choose another folder")


class _Sink(io.FileIO):
    """The file that HDF5 writes to. A failure is kept in ``error``, and from then on nothing is written.

    HDF5 must not meet the failure itself: it would try again whenever one of its objects is closed or collected,
    and fail each time, where nobody can catch it.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        whole = left = memoryview(data).cast("B")
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return whole.nbytes

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0


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
    """

    skeleton: Skeleton
    box: int
    counts: Mapping[str, int]
    labelled: int
    source: Mapping[str, str]
    checksum: str

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
            crops = _read_rows(file["crops"], rows)
            joints, labelled, head_size, to_original, images = (
                file[name][:][rows] for name in ("joints", "labelled", "head_size", "to_original", "image")
            )
            names_read = tuple(bytes(image).decode() for image in images)
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
            images=names_read,
            checksum=summary.checksum,
        ).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: str | torch.device) -> PackedPeople:
        """The same people with their tensors on ``device``; crops stay channels-last."""
        return replace(
            self,
            crops=self.crops.to(device),
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


def _summary(path: Path, file: h5py.File) -> tuple[PackedSummary, NDArray[np.uint8]]:
    """The file's summary and its ``split`` column, after checking that every part is there and fits the others.

    Raises what h5py and JSON raise on damaged content, for :func:`_open` to translate.
    """
    if "format" not in file.attrs or _text(file, "format") != _FORMAT:
        raise UserError(f"{path}: HDF5, but not a file of packed people; {_REMEDY}")
    version = int(file.attrs["version"])
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {version}, but this program reads {FORMAT_VERSION}; {_REMEDY}")
    skeleton = Skeleton.from_json(_text(file, "skeleton"))
    box = int(file.attrs["box"])
    people, joints, side = len(file["split"]), len(skeleton.joints), crop_side(box)
    for name, shape, kind in (
        ("crops", (people, side, side, 3), "uint8"),
        ("joints", (people, joints, 2), "float32"),
        ("labelled", (people, joints), "bool"),
        ("head_size", (people,), "float32"),
        ("to_original", (people, 2, 3), "float32"),
        ("split", (people,), "uint8"),
        ("image", (people,), "S"),
    ):
        dataset = file[name]
        if dataset.shape != shape or kind not in (dataset.dtype.name, dataset.dtype.kind):
            raise UserError(
                f"{path}: {name!r} is {dataset.dtype.name} {dataset.shape}, expected {kind} {shape}; {_REMEDY}"
            )
        # Before any of it is read: a damaged shape must not make us ask for more memory than the file can fill.
        if dataset.nbytes > path.stat().st_size:
            raise UserError(f"{path}: truncated, {name!r} needs {dataset.nbytes} bytes; {_REMEDY}")
    splits: NDArray[np.uint8] = file["split"][:]
    if (splits >= len(SPLITS)).any():
        raise UserError(f"{path}: damaged, 'split' holds {splits.max()}, expected 0 to {len(SPLITS) - 1}; {_REMEDY}")
    source = json.loads(_text(file, "source"))
    return (
        PackedSummary(
            skeleton=skeleton,
            box=box,
            counts=MappingProxyType({name: int((splits == i).sum()) for i, name in enumerate(SPLITS)}),
            labelled=int(file["labelled"][:].sum()),
            source=MappingProxyType({str(key): str(value) for key, value in source.items()}),
            checksum=_text(file, "checksum"),
        ),
        splits,
    )


def _text(file: h5py.File, key: str) -> str:
    value = file.attrs[key]
    if not isinstance(value, bytes):
        raise ValueError(f"attribute {key!r} is not text")
    return value.decode()


def _read_rows(dataset: h5py.Dataset, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Rows of a dataset, ascending; neighbours are read in one go, which is far faster than h5py's own indexing."""
    out = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    runs = np.flatnonzero(np.diff(rows) != 1) + 1
    for start, stop in zip([0, *runs], [*runs, len(rows)], strict=True):
        dataset.read_direct(out, np.s_[rows[start] : rows[stop - 1] + 1], np.s_[start:stop])
    return out


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
