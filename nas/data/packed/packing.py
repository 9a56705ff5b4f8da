"""Pack annotated people: read each image once, cut the crops in parallel, and write them to a packed file."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

import cv2

from nas.data.media_io import decode_image, image_path, quiet_opencv
from nas.data.packed.crop import crop_person
from nas.data.packed.format import PackedHeader
from nas.data.packed.options import PackOptions, Progress
from nas.data.packed.parallel import map_in_order
from nas.data.packed.writer import EncodedPerson, PackedPerson, PackedWriter
from nas.data.people import SPLITS, Person
from nas.data.skeletons import Skeleton
from nas.errors import UserError
from nas.names import printable

PACKING_VERSION = 2
"""Raise this when crops of the same images change, so that a file begun by an older version is not continued."""


@dataclass(frozen=True)
class PackReport:
    """Outcome of :func:`pack`.

    Attributes:
        people: people in the file, including those packed by an interrupted run.
        resumed: how many of them an interrupted run had packed.
        images: images read in this run.
        left_out: people whose image is missing or broken.
        broken: these images, by name, with the reason.
        several_frames: images of which only the first frame or page was used, by name.
        decoding: share of the threads' CPU time in this run spent on reading and decoding images.
    """

    people: int
    resumed: int
    images: int
    left_out: int
    broken: Mapping[str, str]
    several_frames: Sequence[str]
    decoding: float


def broken_list(out: Path) -> Path:
    """Path of the list of missing and broken images that :func:`pack` writes."""
    return out.with_name(f"{out.name}.broken.txt")


def pack(
    people: Sequence[Person],
    folder: Path,
    out: Path,
    skeleton: Skeleton,
    source: Mapping[str, str],
    options: PackOptions,
    on_progress: Progress = lambda done: None,
) -> PackReport:
    """Cut all people out of their images and write them to a packed file.

    The file lists train, then holdout, then valid people, each in the order given; its content does not depend on the
    number of workers. An interrupted run leaves what it has packed beside ``out``, and the next run with the same
    arguments continues from there, with the same result. Images are identified by name, size and modification time.

    Args:
        people: at least one.
        folder: folder of the images.
        out: the packed file; replaced atomically once complete, else left unchanged. Missing and broken images are
            listed beside it (:func:`broken_list`).
        skeleton: the people's joints.
        source: where the people come from, for the record.
        options: box, encoding, number of threads, and how many images may be missing or broken.
        on_progress: called with the number of people done so far.

    Raises:
        UserError: an image's name leads out of the folder, more images than allowed or all of them are missing or
            broken, another process is writing the same file, or ``out`` cannot be written.
    """
    paths = {person.image: image_path(folder, person.image) for person in people}
    stamps = {image: _stamp(path) for image, path in paths.items()}
    broken = _BrokenImages(folder, out, len(paths), options.max_broken_of(len(paths)))
    for image, stamp in stamps.items():
        if stamp is None:
            broken.add(image, "no such image")
    broken.check()
    ordered = sorted(
        (person for person in people if stamps[person.image] is not None),
        key=lambda person: SPLITS.index(person.split),
    )
    writer = PackedWriter(
        out,
        PackedHeader(skeleton, options.box, source, options.jpeg),
        len(ordered),
        inputs=_fingerprint(ordered, folder),
        stamps=[stamps[person.image] or b"" for person in ordered],
    )
    cut = partial(_cut_image, ordered, paths, _smallest_sizes(ordered), options, writer)
    report = _write_people(writer, ordered, cut, broken, options.workers, on_progress)
    broken.write()
    return replace(report, left_out=len(people) - report.people)


def _write_people(
    writer: PackedWriter,
    people: Sequence[Person],
    cut: Callable[[list[int]], _CutImage],
    broken: _BrokenImages,
    workers: int,
    on_progress: Progress,
) -> PackReport:
    """Cut and write everybody whom an interrupted run has not written; ``left_out`` is still 0."""
    decoding, working = 0.0, 1e-9
    several_frames = []
    with quiet_opencv(), writer, ThreadPoolExecutor(workers) as pool:
        resumed = writer.done
        done = len(resumed)
        rows_of: dict[str, list[int]] = {}
        for row, person in enumerate(people):
            if row not in resumed:
                rows_of.setdefault(person.image, []).append(row)
        on_progress(done)
        for result in map_in_order(pool, cut, rows_of.values(), 4 * workers):
            if result.error is not None:
                broken.add(people[result.rows[0]].image, result.error)
                broken.check()
                for row in result.rows:
                    writer.skip(row)
            if result.frames > 1:
                several_frames.append(people[result.rows[0]].image)
            for encoded in result.people:
                writer.put_encoded(encoded)
            done += len(result.rows)
            decoding, working = decoding + result.decoding, working + result.working
            on_progress(done)
        written = len(writer.done)
    return PackReport(
        people=written,
        resumed=len(resumed),
        images=len(rows_of),
        left_out=0,
        broken=broken.reasons,
        several_frames=several_frames,
        decoding=decoding / working,
    )


@dataclass(frozen=True, eq=False)
class _CutImage:
    """The people cut out of one image, or the error that prevented it. Times are the thread's CPU time, in seconds."""

    rows: list[int]
    people: list[EncodedPerson]
    error: str | None
    frames: int
    decoding: float
    working: float


def _smallest_sizes(people: Iterable[Person]) -> dict[str, float]:
    """Size of the smallest person in each image.

    Of all people in the image, not just those still to be packed: crops must not depend on where a run was interrupted.
    """
    smallest: dict[str, float] = {}
    for person in people:
        smallest[person.image] = min(person.size, smallest.get(person.image, inf))
    return smallest


def _cut_image(
    people: Sequence[Person],
    paths: Mapping[str, Path],
    smallest: Mapping[str, float],
    options: PackOptions,
    writer: PackedWriter,
    rows: list[int],
) -> _CutImage:
    """Read one image, and cut and encode its people, given by their rows."""
    start = time.thread_time()
    name = people[rows[0]].image
    zoom = options.box / smallest[name]
    image, reduction, frames = decode_image(paths[name], zoom, max_pixels=options.max_pixels)
    decoded = time.thread_time()
    encoded = []
    if not isinstance(image, str):
        for row in rows:
            person = people[row]
            crop, joints, to_original = crop_person(image, person, options.box, reduction)
            packed = PackedPerson(
                crop, joints, person.labelled, person.head_size, to_original, person.split, person.image
            )
            encoded.append(writer.encode(row, packed))
    error = image if isinstance(image, str) else None
    return _CutImage(rows, encoded, error, frames, decoded - start, time.thread_time() - start)


class _BrokenImages:
    """Missing and broken images, and the limit on their number."""

    def __init__(self, folder: Path, out: Path, images: int, limit: int) -> None:
        self.reasons: dict[str, str] = {}
        self._folder = folder
        self._list = broken_list(out)
        self._images = images
        self._limit = limit

    def add(self, image: str, reason: str) -> None:
        self.reasons[image] = reason

    def check(self) -> None:
        """Raise if there are too many, after writing the list."""
        count = len(self.reasons)
        if not count or (count <= self._limit and count < self._images):
            return
        self.write()
        (first, reason), *others = self.reasons.items()
        message = f"{self._folder / first}: {reason}"
        if others:
            few = ", ".join(image for image, _ in others[:2])
            rest = f" and {len(others) - 2:,} more" if len(others) > 2 else ""
            message += f"; {few}{rest} cannot be used either; all are listed in {self._list}"
        if count == self._images:
            what = "it is the only image" if count == 1 else f"none of the {count:,} images is left"
            raise UserError(f"{message}; {what}: check the folder of the images")
        raise UserError(
            f"{message}; {count:,} of {self._images:,} images are missing or broken, and --max-broken allows "
            f"{self._limit:,}: check the folder of the images, replace them, or allow more to leave their people out"
        )

    def write(self) -> None:
        """List them beside the packed file; if there are none, remove the list of an earlier run."""
        try:
            if not self.reasons:
                self._list.unlink(missing_ok=True)
                return
            lines = [f"{printable(' '.join(image.split()))}\t{reason}\n" for image, reason in self.reasons.items()]
            self._list.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self._list}: cannot write ({error.strerror}); choose another folder") from error


def _stamp(path: Path) -> bytes | None:
    """16 bytes that change when a file is modified; None if there is no such file."""
    try:
        if not path.is_file():
            return None
        status = path.stat()
    except OSError:
        return None
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).digest()[:16]


def versioned_inputs(version: str) -> str:
    """Identifies the code that makes the crops, so that a file begun by another version is not continued."""
    return hashlib.sha256(f"{version} {cv2.__version__}".encode()).hexdigest()


def _fingerprint(people: Iterable[Person], folder: Path) -> str:
    """Identifies what crops depend on besides the header and the content of the images."""
    code = versioned_inputs(f"packing {PACKING_VERSION}")
    digest = hashlib.sha256(f"{code} ".encode() + os.fsencode(os.path.abspath(folder)))
    for person in people:
        digest.update(repr((person.image, person.split, float(person.size), float(person.head_size))).encode())
        for array in (person.joints, person.labelled, person.center):
            digest.update(array.tobytes())
    return digest.hexdigest()
