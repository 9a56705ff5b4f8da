"""Datasets in several annotation files: read the files, combine their people, and apply a validation list."""

from __future__ import annotations

import codecs
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from nas.data.people import Person
from nas.data.readers.mpii import read_mpii
from nas.data.readers.splits import (
    TRAINING,
    UNDIVIDED,
    VALIDATION,
    Annotations,
    read_image_names,
    remove_split_overlap,
    validate_images,
    validate_people,
)
from nas.data.skeletons import Skeleton
from nas.errors import UserError

Reader = Callable[[Path, Mapping[str, float]], Annotations]
"""Reads one annotation file, given split → share of the images."""

Report = Callable[[str], None]
"""Shows the user one line."""

HASHED_SPLITS = "its images are divided into 80 % train, 10 % holdout, 10 % valid by a hash of their names"


@dataclass(frozen=True, eq=False)
class Dataset:
    """People ready to be packed.

    Attributes:
        people: of all files.
        dropped: number of people left out, by reason.
        folder: folder of the images.
        skeleton: the people's joints.
        source: where the people come from, stored in the packed file.
    """

    people: Sequence[Person]
    dropped: Mapping[str, int]
    folder: Path
    skeleton: Skeleton
    source: Mapping[str, str]


@dataclass(frozen=True)
class AnnotationFiles:
    """The annotation files of a dataset.

    Attributes:
        annotations: files of people of any split.
        train: a file of training people only.
        valid: a file of validation people only.
        valid_list: names of the validation images, or annotations of the validation people.
    """

    annotations: Sequence[Path] = ()
    train: Path | None = None
    valid: Path | None = None
    valid_list: Path | None = None

    def read(self, reader: Reader, report: Report) -> tuple[list[Annotations], dict[str, str]]:
        """Read all files but ``valid_list``, and report what each holds.

        Returns:
            The content of the files, that of ``valid`` last, and names and hashes of all files.
        """
        contents: list[Annotations] = []
        source: dict[str, str] = {}
        validation_known = self.valid is not None or self.valid_list is not None

        def read(name: str, path: Path, splits: Mapping[str, float]) -> None:
            content = reader(path, splits)
            contents.append(content)
            report(f"{path}: {len(content.people):,} people, {content.format_name}")
            if splits is UNDIVIDED and not content.defines_validation:
                report(f"{path.name} does not define the validation people: {HASHED_SPLITS}")
            source.update(file_record(name, path))

        for number, path in enumerate(self.annotations, 1):
            name = "annotations" if number == 1 else f"annotations {number}"
            read(name, path, TRAINING if validation_known else UNDIVIDED)
        validation_known = validation_known or any(content.defines_validation for content in contents)
        if self.train is not None:
            read("train", self.train, TRAINING if validation_known else UNDIVIDED)
        if self.valid is not None:
            read("valid", self.valid, VALIDATION if contents or self.valid_list else UNDIVIDED)
        if self.valid_list is not None:
            source.update(file_record("valid list", self.valid_list))
        return contents, source


def apply_validation_list(people: Sequence[Person], valid_list: Path, report: Report) -> list[Person]:
    """The same people; those on the list, and nobody else, belong to the valid split.

    Args:
        people: of MPII.
        valid_list: a text of image names, or MPII annotations.
        report: shows how many people are validated.

    Raises:
        UserError: nobody is on the list.
    """
    with open(valid_list, "rb") as file:
        start = file.read(4096)
    if b"\0" in start or start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"[", b"{"):
        listed = read_mpii(valid_list, VALIDATION).people
        people = validate_people(people, [person for person in listed if person.split == "valid"])
    else:
        names = read_image_names(valid_list)
        unknown = sorted(names - {person.image for person in people})
        if unknown:
            some = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
            report(f"{valid_list}: {len(unknown):,} of {len(names):,} names are of no image in the annotations: {some}")
        people = validate_images(people, names)
    count = sum(person.split == "valid" for person in people)
    if not count:
        raise UserError(f"--valid-list {valid_list} has nobody of the annotations; give a list of their images")
    report(f"{valid_list}: {count:,} of these people are in the validation split")
    return people


def join_folders(contents: Sequence[tuple[Annotations, Path]]) -> tuple[list[Person], dict[str, int], Path]:
    """Combine files whose images are in several folders.

    Returns:
        The people, with image names relative to the deepest common folder; how many were left out, by reason; and that
        folder.
    """
    folders = [Path(os.path.abspath(folder)) for _, folder in contents]
    several = len(set(folders)) > 1
    common = Path(os.path.commonpath(folders)) if several else contents[0][1]
    people: list[Person] = []
    for (content, _), folder in zip(contents, folders, strict=True):
        prefix = PurePosixPath(folder.relative_to(common).as_posix() if several else "")
        people += [replace(person, image=f"{prefix / person.image}") for person in content.people]
    people, dropped = remove_split_overlap(people)
    return people, sum_counts([*(content.dropped for content, _ in contents), dropped]), common


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up numbers of people by reason."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def file_record(name: str, path: Path) -> dict[str, str]:
    """Name and SHA-256 of a file, as packed files store them in ``source``."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {name: path.name, f"{name} sha256": digest}
