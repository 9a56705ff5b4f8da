"""Check that a packed file is what training expects."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.packed.format import crop_side, decode_jpeg, file_checksum, record_digest
from nas.data.packed.rows import READ_THREADS, Columns, read_columns, read_jpegs, read_raw_crops, record_at
from nas.data.packed.summary import PackedSummary, open_packed, read_summary
from nas.data.people import SPLITS
from nas.errors import UserError

_CHUNK = 256  # people in memory at a time

_PLAUSIBLE_HEADS = (0.02, 0.5)
"""Plausible head sizes as fractions of the box side: MPII's lie between 0.05 and 0.2, LSP's between 0.07 and 0.3."""

_MAX_OUTSIDE = 0.1
"""If a larger fraction of labelled joints lies outside the crops, then boxes or joints are wrong."""

_EXAMPLES = 3  # named in a message


@dataclass(frozen=True)
class ValidationReport:
    """Result of :func:`check_packed`.

    Attributes:
        summary: the file's own summary.
        joints: number of labelled joints.
        outside_box: how many of them lie outside the person's box.
        outside_crop: how many of them lie outside the crop.
        head_sizes: smallest, median and largest, as fractions of the box side.
        odd_heads: number of people whose head size is implausible for their box.
        unlabelled: number of people without a labelled joint.
        duplicates: number of groups of people with the same crop.
        duplicates_across: number of these groups with people in more than one split.
        problems: what is wrong, one line each; if empty, the file can be used for training.
        notes: what is worth knowing, one line each.
    """

    summary: PackedSummary
    joints: int
    outside_box: int
    outside_crop: int
    head_sizes: tuple[float, float, float]
    odd_heads: int
    unlabelled: int
    duplicates: int
    duplicates_across: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_packed(path: str | os.PathLike[str]) -> ValidationReport:
    """Read a packed file from end to end and check that its parts are intact, consistent and plausible.

    Raises:
        UserError: the file is missing, not a packed file, of another version, or cannot be read to its end.
    """
    validator = None
    for summary, part in _stored_people(Path(path)):
        validator = validator or _Validator(summary)
        validator.add(part)
    if validator is None:
        raise UserError(f"{path}: holds nobody; create it again with `python -m nas.prepare`")
    return validator.report()


@dataclass(frozen=True, eq=False)
class _StoredPeople:
    """Some rows of a packed file as they are stored, valid or not.

    Attributes:
        rows: int (N,), their indices.
        columns: everything but the crops.
        crops: the N crops' bytes: raw pixels, or JPEGs.
        digests: SHA-256 of each person as stored.
        changed: bool (N,), True if that differs from the digest in the file.
        readable: bool (N,), False for an unchanged JPEG that cannot be decoded.
    """

    rows: NDArray[np.intp]
    columns: Columns
    crops: list[memoryview]
    digests: list[bytes]
    changed: NDArray[np.bool_]
    readable: NDArray[np.bool_]


def _stored_people(path: Path) -> Iterator[tuple[PackedSummary, _StoredPeople]]:
    """Read all people, a chunk at a time, without assuming that their data is valid."""
    with open_packed(path) as file, ThreadPoolExecutor(READ_THREADS) as pool:
        summary, splits = read_summary(path, file, verify=False)
        people, side = len(splits), crop_side(summary.box)
        columns = read_columns(file, np.arange(people))
        for start in range(0, people, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, people))
            if summary.jpeg is None:
                crops = [memoryview(crop).cast("B") for crop in read_raw_crops(file, rows)]
            else:
                crops = read_jpegs(file, columns, rows)
            part = {name: column[rows] for name, column in columns.items()}
            records = [record_at(part, index) for index in range(len(rows))]
            digests = list(pool.map(record_digest, crops, records))
            changed = np.array(
                [record.digest not in (b"", digest) for record, digest in zip(records, digests, strict=True)]
            )
            if summary.jpeg is None:
                readable = np.ones(len(rows), np.bool_)
            else:  # changed JPEGs are not decoded: the decoder would complain on standard error
                decoded = pool.map(lambda bad, crop: bad or decode_jpeg(crop, side) is not None, changed, crops)
                readable = np.fromiter(decoded, np.bool_, len(rows))
            yield summary, _StoredPeople(rows, part, crops, digests, changed, readable)


class _Validator:
    """Collects statistics and defects, chunk by chunk."""

    def __init__(self, summary: PackedSummary) -> None:
        self.summary = summary
        self.digests: list[bytes] = []
        self._scored = dict.fromkeys(range(len(SPLITS)), 0)  # split → labelled joints that count
        self._joints = self._outside_box = self._outside_crop = 0
        self._head_sizes: list[NDArray[np.float64]] = []
        self._unlabelled: list[int] = []
        self._defects: dict[str, list[int]] = {}
        self._splits: list[int] = []
        self._splits_of: dict[bytes, set[int]] = {}  # image → splits
        self._rows_of: dict[bytes, list[int]] = {}  # digest of the crop → rows

    def add(self, part: _StoredPeople) -> None:
        """Add a chunk of people."""
        box, side = self.summary.box, crop_side(self.summary.box)
        joints, labelled = part.columns["joints"], part.columns["labelled"]
        head_size, splits = part.columns["head_size"], part.columns["split"]
        finite = np.isfinite(joints).all(-1)
        located = labelled & finite
        margin = (side - box) / 2
        self._joints += int(labelled.sum())
        self._outside_box += int((located & _outside(joints, margin, side - margin)).sum())
        self._outside_crop += int((located & _outside(joints, 0, side)).sum())
        self._unlabelled += part.rows[~labelled.any(-1)].tolist()
        counted = labelled[:, list(self.summary.skeleton.scored)].sum(-1)
        for split in self._scored:
            self._scored[split] += int(counted[splits == split].sum())

        matrix = part.columns["to_original"].astype(np.float64)
        with np.errstate(all="ignore"):  # overflows are found by the check for finite values
            area = np.linalg.det(matrix[:, :, :2])
            heads = head_size / (np.sqrt(np.abs(area)) * box)
        head_is_valid = np.isfinite(head_size) & (head_size > 0)
        map_is_valid = np.isfinite(matrix).all((1, 2)) & np.isfinite(area) & (np.abs(area) > 0)
        self._head_sizes.append(heads[head_is_valid & map_is_valid])
        for defect, affected in (
            ("changed since they were packed (their digests are not the file's)", part.changed),
            ("have no readable crop", ~part.readable),
            ("have labelled joints that are not numbers", (labelled & ~finite).any(-1)),
            ("have a head size that is not positive", ~head_is_valid),
            ("have no usable map to their image", ~map_is_valid),
        ):
            self._defects.setdefault(defect, []).extend(part.rows[affected].tolist())

        self.digests += part.digests
        self._splits += splits.tolist()
        for row, split, image, crop in zip(part.rows, splits, part.columns["image"], part.crops, strict=True):
            self._splits_of.setdefault(bytes(image), set()).add(int(split))
            self._rows_of.setdefault(hashlib.sha256(crop).digest(), []).append(int(row))

    def report(self) -> ValidationReport:
        """Statistics, problems and notes for all people added."""
        summary, people = self.summary, len(self.digests)
        problems = [
            f"{len(rows):,} people {defect}: {_examples(rows)}" for defect, rows in self._defects.items() if rows
        ]
        if file_checksum(summary.version, summary.box, summary.skeleton_text, self.digests) != summary.checksum:
            problems.append("the checksum is not that of the people in the file")
        split_images = [image for image, splits in self._splits_of.items() if len(splits) > 1]
        if split_images:
            names = _examples([image.decode(errors="replace") for image in split_images])
            problems.append(f"{len(split_images):,} images are in more than one split: {names}")
        heads = np.concatenate(self._head_sizes) if self._head_sizes else np.zeros(0)
        odd_heads = int(((heads < _PLAUSIBLE_HEADS[0]) | (heads > _PLAUSIBLE_HEADS[1])).sum())
        notes = []
        if 2 * odd_heads > people:
            problems.append(f"most head sizes ({odd_heads:,} of {people:,}) are implausible for their box: wrong unit?")
        elif odd_heads:
            low, high = _PLAUSIBLE_HEADS
            notes.append(f"{odd_heads:,} head sizes are below {low:.0%} or above {high:.0%} of the box")
        if self._outside_crop > _MAX_OUTSIDE * self._joints:
            problems.append(f"{self._outside_crop:,} of {self._joints:,} labelled joints lie outside their crops")
        if len(self._unlabelled) == people:
            problems.append("nobody has a labelled joint")
        else:
            unscored = [name for i, name in enumerate(SPLITS) if summary.counts[name] and not self._scored[i]]
            if unscored:
                joints = ", ".join(summary.skeleton.groups)
                problems.append(f"no joint that counts ({joints}) is labelled in split {' or '.join(unscored)}")
        if self._unlabelled and len(self._unlabelled) < people:
            notes.append(f"{len(self._unlabelled):,} people have no labelled joint: {_examples(self._unlabelled)}")
        empty = [name for name in SPLITS if not summary.counts[name]]
        if empty:
            notes.append(f"nobody is in split {' or '.join(empty)}")
        duplicates = [rows for rows in self._rows_of.values() if len(rows) > 1]
        across = [rows for rows in duplicates if len({self._splits[row] for row in rows}) > 1]
        if across:
            groups = _examples([" = ".join(map(str, rows)) for rows in across])
            notes.append(f"{len(across):,} groups of equal crops are in more than one split: {groups}")
        smallest, median, largest = np.quantile(heads, (0, 0.5, 1)).tolist() if len(heads) else (0.0, 0.0, 0.0)
        return ValidationReport(
            summary=summary,
            joints=self._joints,
            outside_box=self._outside_box,
            outside_crop=self._outside_crop,
            head_sizes=(smallest, median, largest),
            odd_heads=odd_heads,
            unlabelled=len(self._unlabelled),
            duplicates=len(duplicates),
            duplicates_across=len(across),
            problems=tuple(problems),
            notes=tuple(notes),
        )


def _outside(joints: NDArray[np.float32], low: float, high: float) -> NDArray[np.bool_]:
    return np.asarray(((joints < low) | (joints > high)).any(-1), np.bool_)


def _examples(items: Sequence[object]) -> str:
    more = f" and {len(items) - _EXAMPLES:,} more" if len(items) > _EXAMPLES else ""
    return ", ".join(str(item) for item in items[:_EXAMPLES]) + more
