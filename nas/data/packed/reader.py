"""Load packed people as tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.packed.format import REMEDY, crop_side, decode_jpeg, record_digest
from nas.data.packed.rows import READ_THREADS, Columns, read_columns, read_jpegs, read_raw_crops, record_at
from nas.data.packed.summary import PackedSummary, open_packed, read_summary
from nas.data.people import SPLITS
from nas.data.skeletons import Skeleton
from nas.errors import UserError

_JPEGS_PER_READ = 512


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
        images: name of each person's image.
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
            device: device of the tensors.
            limit: load only this many people: always the same ones, and a subset of those of any larger limit (the
                first of a fixed permutation). They keep the file's order.

        Raises:
            UserError: the file is missing, not a packed file, of another version, damaged, or has nobody in the split;
                or the split or limit is invalid.
        """
        path = Path(path)
        names = (split,) if isinstance(split, str) else tuple(split)
        for name in names:
            if name not in SPLITS:
                raise UserError(f"split {name!r} is unknown; choose from {', '.join(SPLITS)}")
        if limit is not None and limit < 1:
            raise UserError(f"limit {limit} is not positive; leave it out to load everybody")
        with open_packed(path) as file:
            summary, splits = read_summary(path, file)
            rows = np.flatnonzero(np.isin(splits, [SPLITS.index(name) for name in names]))
            if not len(rows):
                counts = ", ".join(f"{name} {count}" for name, count in summary.counts.items())
                raise UserError(
                    f"{path}: nobody in split {'+'.join(names)} (it holds {counts}); pack it with that split"
                )
            if limit is not None and limit < len(rows):
                rows = np.sort(np.random.default_rng(0).permutation(rows)[:limit])
            people = cls._from_rows(path, file, summary, rows)
        return people.to(device)

    @classmethod
    def load_sample(
        cls, path: str | os.PathLike[str], count: int, seed: int
    ) -> tuple[PackedPeople, tuple[int, ...], tuple[str, ...]]:
        """Load a random sample of the people of all splits.

        Args:
            path: the packed file.
            count: size of the sample; everybody, if there are fewer.
            seed: of the sample.

        Returns:
            The people in the file's order, their rows, and their splits.

        Raises:
            UserError: as :meth:`load`.
        """
        path = Path(path)
        with open_packed(path) as file:
            summary, splits = read_summary(path, file)
            rows = np.sort(np.random.default_rng(seed).permutation(len(splits))[:count])
            people = cls._from_rows(path, file, summary, rows)
            return people, tuple(rows.tolist()), tuple(SPLITS[split] for split in splits[rows])

    @classmethod
    def _from_rows(
        cls, path: Path, file: h5py.File, summary: PackedSummary, rows: NDArray[np.integer[Any]]
    ) -> PackedPeople:
        columns = read_columns(file, rows)
        crops = _load_crops(path, file, columns, rows, crop_side(summary.box))
        joints, labelled, head_size, to_original = (
            columns[name] for name in ("joints", "labelled", "head_size", "to_original")
        )
        images = tuple(bytes(image).decode() for image in columns["image"])
        if not (np.isfinite(joints).all() and np.isfinite(to_original).all() and np.isfinite(head_size).all()):
            raise UserError(f"{path}: damaged, some joints or head sizes are not numbers; {REMEDY}")
        if (head_size <= 0).any():
            raise UserError(f"{path}: damaged, some head sizes are not positive; {REMEDY}")
        if (np.linalg.det(to_original[:, :, :2]) == 0).any():
            raise UserError(f"{path}: damaged, some crops are mapped to a line or point of their image; {REMEDY}")
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
        """Copy the tensors to ``device``, and the crops to ``crops`` if given; they stay channels-last."""
        return replace(
            self,
            crops=self.crops.to(device if crops is None else crops),
            joints=self.joints.to(device),
            labelled=self.labelled.to(device),
            head_size=self.head_size.to(device),
            to_original=self.to_original.to(device),
        )

    def original_joints(self) -> Tensor:
        """Joints in pixels of the original images, float32 (N, J, 2); meaningless where not labelled."""
        return self.joints @ self.to_original[:, :, :2].mT + self.to_original[:, None, :, 2]


def _load_crops(
    path: Path, file: h5py.File, columns: Columns, rows: NDArray[np.integer[Any]], side: int
) -> NDArray[np.uint8]:
    """Load the crops of some rows, uint8 (N, S, S, 3), and verify everybody's digest where the file has digests."""

    def describe(index: int) -> str:
        return f"person {rows[index]} ({bytes(columns['image'][index]).decode(errors='replace')})"

    def verify(index: int, data: memoryview) -> None:
        record = record_at(columns, index)
        if record.digest and record_digest(data, record) != record.digest:
            raise UserError(f"{path}: damaged, {describe(index)} has changed; {REMEDY}")

    def decode(index: int, data: memoryview) -> NDArray[np.uint8]:
        verify(index, data)
        crop = decode_jpeg(data, side)
        if crop is None:
            raise UserError(f"{path}: damaged, {describe(index)} is no JPEG of {side} pixels; {REMEDY}")
        return crop

    with ThreadPoolExecutor(READ_THREADS) as pool:
        if "crops" in file:
            crops = read_raw_crops(file, rows)
            if "digest" in columns:
                list(pool.map(verify, range(len(rows)), map(memoryview, crops)))
            return crops
        crops = np.empty(0, np.uint8)
        for start in range(0, len(rows), _JPEGS_PER_READ):
            indices = np.arange(start, min(start + _JPEGS_PER_READ, len(rows)))
            jpegs = read_jpegs(file, columns, indices)
            for index, crop in zip(indices, pool.map(decode, indices.tolist(), jpegs), strict=True):
                if not index:  # allocate only now: a damaged size must not make us allocate any amount of memory
                    crops = np.empty((len(rows), side, side, 3), np.uint8)
                crops[index] = crop
    return crops
