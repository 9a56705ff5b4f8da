"""Splits: training, held-out and validation people, divided by image, so that no image is in two splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.data.people import Person, image_split
from nas.errors import UserError

TRAINING: Mapping[str, float] = {"holdout": 0.1, "train": 0.9}
"""Shares of the training images of a dataset with validation people of its own."""

VALIDATION: Mapping[str, float] = {"valid": 1.0}
"""Shares of the validation images."""

UNDIVIDED: Mapping[str, float] = {"holdout": 0.1, "valid": 0.1, "train": 0.8}
"""Shares of the images of a dataset without splits."""

_SAME_CENTER = 1.5  # pixels; formats round centres by less, and no two people are that close


@dataclass(frozen=True, eq=False)
class Annotations:
    """Content of one annotation file.

    Attributes:
        people: in the file's order.
        dropped: number of people left out, by reason.
        format_name: the format, as shown to the user.
        defines_validation: whether the file defines the validation people itself.
    """

    people: list[Person]
    dropped: dict[str, int]
    format_name: str
    defines_validation: bool


def merge(files: Sequence[Sequence[Person]]) -> tuple[list[Person], dict[str, int]]:
    """Combine the people of several files; those in more than one file are taken from the first.

    People in the valid split of any file are in the valid split of the result.

    Returns:
        The people, and how many were left out, by reason.
    """
    people: list[Person] = []
    duplicates = 0
    for content in files:
        is_known = _membership(people)
        is_validated = _membership([person for person in content if person.split == "valid"])
        new = [person for person in content if not is_known(person)]
        people = [replace(person, split="valid") if is_validated(person) else person for person in people] + new
        duplicates += len(content) - len(new)
    return people, {"also in an earlier file": duplicates} if duplicates else {}


def remove_split_overlap(people: Sequence[Person]) -> tuple[list[Person], dict[str, int]]:
    """Leave out training and held-out people whose image also shows a validation person.

    Returns:
        The others, and how many were left out, by reason.
    """
    images = {person.image for person in people if person.split == "valid"}
    remaining = [person for person in people if person.split == "valid" or person.image not in images]
    dropped = len(people) - len(remaining)
    return remaining, {"training people in a validation image": dropped} if dropped else {}


def read_image_names(path: Path) -> frozenset[str]:
    """Read names of images, one per line; blank lines and lines that start with ``#`` are skipped.

    Raises:
        UserError: the file is not text or holds no name.
    """
    remedy = "give a text file with one image name per line"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows editors write a byte order mark
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable text file ({type(error).__name__}); {remedy}") from error
    names = frozenset(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not names:
        raise UserError(f"{path}: holds no name; {remedy}")
    return names


def validate_images(people: Sequence[Person], names: frozenset[str]) -> list[Person]:
    """The same people; everybody in these images, and nobody else, belongs to the valid split."""
    return [_assigned(person, person.image in names) for person in people]


def validate_people(people: Sequence[Person], listed: Sequence[Person]) -> list[Person]:
    """The same people; those whom another file also lists, and nobody else, belong to the valid split.

    Two people are the same if their image is the same and the centres of their boxes are within 1.5 pixels. Others in
    such an image count as training people, which :func:`remove_split_overlap` leaves out: the literature's 2,958
    validation people of MPII are not all the people in their images.
    """
    is_listed = _membership(listed)
    return [_assigned(person, is_listed(person)) for person in people]


def _membership(people: Sequence[Person]) -> Callable[[Person], bool]:
    """A function that tells whether a person is one of these."""
    by_image: dict[str, list[Person]] = {}
    for person in people:
        by_image.setdefault(person.image, []).append(person)

    def contains(person: Person) -> bool:
        others = by_image.get(person.image, ())
        return any(bool(np.abs(person.center - other.center).max() < _SAME_CENTER) for other in others)

    return contains


def _assigned(person: Person, valid: bool) -> Person:
    return replace(person, split="valid" if valid else image_split(person.image, TRAINING))
