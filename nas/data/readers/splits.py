"""Who learns, who is held out, who is validated: by whole pictures, so that nobody is seen on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.data.people import Person, image_split
from nas.errors import UserError

TRAINING: Mapping[str, float] = {"holdout": 0.1, "train": 0.9}
"""Shares of the training pictures of a dataset that has validation people of its own."""

VALIDATION: Mapping[str, float] = {"valid": 1.0}
"""Shares of the validation pictures."""

UNDIVIDED: Mapping[str, float] = {"holdout": 0.1, "valid": 0.1, "train": 0.8}
"""Shares of the pictures of a dataset that nobody has divided."""

_SAME_CENTER = 1.5  # pixels; formats round a centre by less, and nobody stands as near to anybody else


@dataclass(frozen=True, eq=False)
class Annotations:
    """What a reader found in one file.

    Attributes:
        people: in the file's order.
        dropped: how many were left out, by reason.
        layout: the format's name, for people to read.
        says_split: whether the file says itself who is validated.
    """

    people: list[Person]
    dropped: dict[str, int]
    layout: str
    says_split: bool


def merge(files: Sequence[Sequence[Person]]) -> tuple[list[Person], dict[str, int]]:
    """The people of several files, those that are in more than one taken from the first.

    Whoever one of the files validates is validated.

    Returns:
        The people, and how many were left out, by reason.
    """
    people: list[Person] = []
    doubles = 0
    for found in files:
        is_known = _listed(people)
        is_validated = _listed([person for person in found if person.split == "valid"])
        new = [person for person in found if not is_known(person)]
        people = [replace(person, split="valid") if is_validated(person) else person for person in people] + new
        doubles += len(found) - len(new)
    return people, {"in an earlier file already": doubles} if doubles else {}


def remove_split_overlap(people: Sequence[Person]) -> tuple[list[Person], dict[str, int]]:
    """Leave out people to train on (or held out) in whose picture somebody is validated.

    Returns:
        The others, and how many were left out, by reason.
    """
    pictures = {person.image for person in people if person.split == "valid"}
    kept = [person for person in people if person.split == "valid" or person.image not in pictures]
    left = len(people) - len(kept)
    return kept, {"training people in a validation picture": left} if left else {}


def read_names(path: Path) -> frozenset[str]:
    """Read names of pictures, one a line; blank lines and what follows a ``#`` at a line's start are skipped.

    Raises:
        UserError: the file is no text or holds no name.
    """
    remedy = "give a text with one picture's name a line"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable text ({type(error).__name__}); {remedy}") from error
    names = frozenset(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not names:
        raise UserError(f"{path}: holds no name; {remedy}")
    return names


def validate_pictures(people: Sequence[Person], names: frozenset[str]) -> list[Person]:
    """The same people, with everybody in these pictures validated and nobody else."""
    return [_moved(person, person.image in names) for person in people]


def validate_people(people: Sequence[Person], listed: Sequence[Person]) -> list[Person]:
    """The same people, with those validated whom another file also lists, and nobody else.

    Somebody is the same where the picture is and the boxes' centres lie within 1.5 pixels of each other. Others in
    such a picture count as training people, for :func:`keep_apart` to leave out: the literature's 2,958 validation
    people of MPII are not all the people in their pictures.
    """
    is_listed = _listed(listed)
    return [_moved(person, is_listed(person)) for person in people]


def _listed(people: Sequence[Person]) -> Callable[[Person], bool]:
    """Whether somebody is one of these people."""
    by_picture: dict[str, list[Person]] = {}
    for person in people:
        by_picture.setdefault(person.image, []).append(person)

    def is_listed(person: Person) -> bool:
        others = by_picture.get(person.image, ())
        return any(bool(np.abs(person.center - other.center).max() < _SAME_CENTER) for other in others)

    return is_listed


def _moved(person: Person, valid: bool) -> Person:
    return replace(person, split="valid" if valid else image_split(person.image, TRAINING))
