"""Whether a packed file is what training believes it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.data.packed.format import PackedSummary, StoredPeople, checksum_of, crop_side, read_stored
from nas.data.people import SPLITS
from nas.errors import UserError

_HEADS = (0.02, 0.5)
"""Plausible head sizes as shares of the box's side: MPII's lie between 0.05 and 0.2, LSP's between 0.07 and 0.3."""

_MOST_OUTSIDE = 0.1
"""More labelled joints than this share outside the crops: box or joints are wrong, not people cut by their box."""

_NAMED = 3  # examples in a line


@dataclass(frozen=True)
class Checked:
    """What :func:`check_packed` found.

    Attributes:
        summary: what the file says it holds.
        joints: labelled joints.
        outside_box: how many of them lie outside the person's box.
        outside_crop: how many of them lie outside the crop, margin and all.
        head_sizes: smallest, median and largest, as shares of the box's side.
        odd_heads: people whose head size is implausible for their box.
        unlabelled: people without a labelled joint.
        doubles: pairs or larger groups of people with the same crop.
        doubles_across: those of them that are in more than one split.
        problems: what is wrong, a line each; none: the file can be trained on.
        notes: what is worth knowing, a line each.
    """

    summary: PackedSummary
    joints: int
    outside_box: int
    outside_crop: int
    head_sizes: tuple[float, float, float]
    odd_heads: int
    unlabelled: int
    doubles: int
    doubles_across: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_packed(path: str | os.PathLike[str]) -> Checked:
    """Read a packed file from end to end and compare everything in it with everything else.

    Raises:
        UserError: the file is missing, no packed file, of another version, or cannot be read to its end.
    """
    stored = read_stored(path)
    summary = next(stored)
    assert isinstance(summary, PackedSummary)
    people = _Tally(summary)
    for part in stored:
        assert isinstance(part, StoredPeople)
        people.add(part)
    if not people.digests:
        raise UserError(f"{path}: holds nobody; make it again with `python -m nas.prepare`")
    return people.result()


class _Tally:
    def __init__(self, summary: PackedSummary) -> None:
        self.summary = summary
        self.digests: list[bytes] = []
        self._joints = self._outside_box = self._outside_crop = 0
        self._heads: list[NDArray[np.float64]] = []
        self._unlabelled: list[int] = []
        self._bad: dict[str, list[int]] = {}
        self._splits: list[int] = []
        self._splits_of: dict[bytes, set[int]] = {}  # picture → splits
        self._rows_of: dict[bytes, list[int]] = {}  # digest of a crop → rows

    def add(self, part: StoredPeople) -> None:
        box, side = self.summary.box, crop_side(self.summary.box)
        finite = np.isfinite(part.joints).all(-1)
        located = part.labelled & finite
        margin = (side - box) / 2
        self._joints += int(part.labelled.sum())
        self._outside_box += int((located & _outside(part.joints, margin, side - margin)).sum())
        self._outside_crop += int((located & _outside(part.joints, 0, side)).sum())
        self._unlabelled += part.rows[~part.labelled.any(-1)].tolist()

        matrix = part.to_original.astype(np.float64)
        with np.errstate(all="ignore"):  # what overflows is found to be not finite
            area = np.linalg.det(matrix[:, :, :2])
            heads = part.head_size / (np.sqrt(np.abs(area)) * box)
        heads_good = np.isfinite(part.head_size) & (part.head_size > 0)
        maps_good = np.isfinite(matrix).all((1, 2)) & np.isfinite(area) & (np.abs(area) > 0)
        self._heads.append(heads[heads_good & maps_good])
        for what, wrong in (
            ("changed since they were packed (their digests are not the file's)", part.wrong),
            ("have no readable crop", ~part.readable),
            ("have labelled joints that are not numbers", (part.labelled & ~finite).any(-1)),
            ("have a head size that is not positive", ~heads_good),
            ("have no usable map to their picture", ~maps_good),
        ):
            self._bad.setdefault(what, []).extend(part.rows[wrong].tolist())

        self.digests += part.digests
        self._splits += part.split.tolist()
        for row, split, image, crop in zip(part.rows, part.split, part.image, part.crops, strict=True):
            self._splits_of.setdefault(image, set()).add(int(split))
            self._rows_of.setdefault(hashlib.sha256(crop).digest(), []).append(int(row))

    def result(self) -> Checked:
        summary, people = self.summary, len(self.digests)
        problems = [f"{len(rows):,} people {what}: {_few(rows)}" for what, rows in self._bad.items() if rows]
        if checksum_of(summary, self.digests) != summary.checksum:
            problems.append("the checksum is not that of the people in the file")
        shared = [image for image, splits in self._splits_of.items() if len(splits) > 1]
        if shared:
            names = _few([image.decode(errors="replace") for image in shared])
            problems.append(f"{len(shared):,} pictures are in more than one split: {names}")
        heads = np.concatenate(self._heads) if self._heads else np.zeros(0)
        odd = int(((heads < _HEADS[0]) | (heads > _HEADS[1])).sum())
        notes = []
        if 2 * odd > people:
            problems.append(f"most head sizes ({odd:,} of {people:,}) are implausible for their box: another unit?")
        elif odd:
            notes.append(f"{odd:,} head sizes are below {_HEADS[0]:.0%} or above {_HEADS[1]:.0%} of the box")
        if self._outside_crop > _MOST_OUTSIDE * self._joints:
            problems.append(f"{self._outside_crop:,} of {self._joints:,} labelled joints lie outside their crops")
        if len(self._unlabelled) == people:
            problems.append("nobody has a labelled joint")
        elif self._unlabelled:
            notes.append(f"{len(self._unlabelled):,} people have no labelled joint: {_few(self._unlabelled)}")
        empty = [name for name in SPLITS if not summary.counts[name]]
        if empty:
            notes.append(f"nobody is in split {' or '.join(empty)}")
        doubles = [rows for rows in self._rows_of.values() if len(rows) > 1]
        across = [rows for rows in doubles if len({self._splits[row] for row in rows}) > 1]
        if across:
            groups = _few([" = ".join(map(str, rows)) for rows in across])
            notes.append(f"{len(across):,} groups of equal crops are in more than one split: {groups}")
        low, middle, high = np.quantile(heads, (0, 0.5, 1)).tolist() if len(heads) else (0.0, 0.0, 0.0)
        return Checked(
            summary=summary,
            joints=self._joints,
            outside_box=self._outside_box,
            outside_crop=self._outside_crop,
            head_sizes=(low, middle, high),
            odd_heads=odd,
            unlabelled=len(self._unlabelled),
            doubles=len(doubles),
            doubles_across=len(across),
            problems=tuple(problems),
            notes=tuple(notes),
        )


def _outside(joints: NDArray[np.float32], low: float, high: float) -> NDArray[np.bool_]:
    return np.asarray(((joints < low) | (joints > high)).any(-1), np.bool_)


def _few(things: Sequence[object]) -> str:
    more = f" and {len(things) - _NAMED:,} more" if len(things) > _NAMED else ""
    return ", ".join(str(thing) for thing in things[:_NAMED]) + more
