"""From people in pictures to a packed file: crops cut at sub-pixel precision, in parallel."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor, inf
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.packed.format import MARGIN, PackedWriter, SealedPerson, crop_side
from nas.data.people import MPII, SPLITS, Person, Skeleton
from nas.data.synthetic.scene import RENDERING_VERSION, SceneConfig, SyntheticPerson, render_person, stored_description
from nas.errors import UserError

Progress = Callable[[int], None]
"""Called with the number of people done so far."""

Crop = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64]]
"""uint8 (S, S, 3) RGB; float32 (J, 2) joints in crop pixels; float64 (2, 3) affine from crop to original pixels."""

Array = NDArray[Any]

PACKING_VERSION = 1
"""Raise it when crops of the same images change: a file begun by an older version is then begun anew."""

_LARGEST_SIDE = 4096  # pixels a side of the enlarged crop that is averaged down; 48 MiB
_FEWEST_PIXELS = 4  # a picture shrunk to less is not worth exact areas, and would need much black around it
_SERIES = 10_000_000  # synthetic people a split can have
_CHUNK = 32  # people a worker draws at a time

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


# Damaged MATLAB and HDF5 files can crash their readers (scipy 1.17, on an unknown element type), hold them for ever
# (HDF5 2.0) or make them ask for any amount of memory. So files that others wrote are read by a process of its own.
_READER_SCRIPT = """
import io, sys
import numpy as np
kind, path, *names = sys.argv[1:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
except (ImportError, ValueError, OSError):
    pass  # not on this system
try:
    if kind == "MATLAB":
        import scipy.io
        found = scipy.io.loadmat(path, variable_names=names or None)
    else:
        import h5py
        with h5py.File(path, "r", locking=False) as file:
            found = {name: file[name][()] for name in names or file if isinstance(file.get(name), h5py.Dataset)}
    plain = {name: value for name, value in found.items() if isinstance(value, (np.ndarray, np.generic))}
    names = names or [name for name, value in plain.items() if value.dtype.kind in "biuf"]
    arrays = {name: np.asarray(found[name]) for name in names if name in found}
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            arrays[name] = np.array(array.tolist())
        if arrays[name].dtype.hasobject:
            raise TypeError(f"{name!r} holds neither numbers nor texts")
    buffer = io.BytesIO()
    np.savez(buffer, **{f"@{name}": array for name, array in arrays.items()})  # an array may be called "file"
except Exception as error:
    sys.exit(f"not {kind}, truncated or damaged ({type(error).__name__}: {error})".replace("\\n", " ")[:200])
sys.stdout.buffer.write(buffer.getvalue())
"""
_READ_SECONDS = 60


def read_arrays(path: Path, kind: Literal["MATLAB", "HDF5"], names: Sequence[str], remedy: str) -> dict[str, Array]:
    """Read arrays of numbers or texts from a file whose content cannot be trusted.

    Args:
        path: the file.
        kind: its format; MATLAB up to version 7.2.
        names: the arrays, all of which must be there; none: every array of numbers that the file has.
        remedy: what a person should do about a wrong file; ends the error's line.

    Returns:
        The arrays by name, of whatever shape and type they have; texts are bytes or str.

    Raises:
        UserError: the file is missing, of another format, damaged, or lacks an array.
    """
    content = read_in_subprocess(path, kind, _READER_SCRIPT, [kind, str(path), *names], remedy)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name.removeprefix("@"): archive[name] for name in archive.files}
    for name in names:
        if name not in arrays:
            raise UserError(f"{path}: holds no {name!r}; {remedy}")
    return arrays


def read_in_subprocess(
    path: Path, kind: str, script: str, arguments: Sequence[str], remedy: str, seconds: float = _READ_SECONDS
) -> bytes:
    """Run a Python script, which reads a file whose content cannot be trusted, in a process of its own.

    Args:
        path: the file.
        kind: its format, for messages.
        script: writes what it found to standard output; or exits with one line that says what is wrong.
        arguments: for the script.
        remedy: what a person should do about a wrong file; ends the error's line.
        seconds: how long it may take.

    Raises:
        UserError: the file is missing, or the script failed, crashed or took too long.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {remedy}")
    command = [sys.executable, "-c", script, *arguments]
    try:
        reader = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{path}: damaged, not read within {seconds:.0f} s; {remedy}") from error
    if reader.returncode:
        said = reader.stderr.decode(errors="replace").strip().splitlines() if reader.returncode > 0 else []
        raise UserError(f"{path}: {said[-1] if said else f'damaged, it crashes the {kind} reader'}; {remedy}")
    return reader.stdout


def image_split(image: str, shares: Mapping[str, float]) -> str:
    """The split a picture falls into, by a hash of its name: the same on every machine, and for all its people.

    Args:
        image: the picture's name.
        shares: split → share of the pictures; the shares sum to 1. A picture's place in 0..1 is fixed, and the
            splits divide that line in the order given.
    """
    place = int.from_bytes(hashlib.sha256(image.encode()).digest()[:8], "big") / 2**64
    *others, last = shares
    for split in others:
        place -= shares[split]
        if place < 0:
            return split
    return last


def crop_person(picture: NDArray[np.uint8], person: Person, box: int, reduced: int = 1) -> Crop:
    """Cut a person out, so that their box is ``box`` pixels wide, at the centre of a crop with margin.

    The mapping is exact to sub-pixels. Beyond the picture's edge the crop is black.

    Args:
        picture: uint8 (H, W, 3), RGB.
        person: whom to cut out; ``size`` is positive.
        box: side of the person's box in the crop, in pixels.
        reduced: how many times smaller the picture is than the one that the person was annotated on.

    Returns:
        uint8 (S, S, 3) RGB with S = ``crop_side(box)``; float32 (J, 2) joints in crop pixels; float64 (2, 3) affine
        map from crop pixels to original pixels.
    """
    side = crop_side(box)
    scale = box / person.size
    shift = side / 2 - scale * person.center.astype(np.float64)
    zoom = scale * reduced
    shrunk = zoom < 1 and max(picture.shape[:2]) * zoom > _FEWEST_PIXELS
    crop = _shrunk(picture, side, zoom, shift) if shrunk else _sampled(picture, side, zoom, shift)
    joints = (person.joints.astype(np.float64) * scale + shift).astype(np.float32)
    to_original = np.array([[1 / scale, 0, -shift[0] / scale], [0, 1 / scale, -shift[1] / scale]])
    return crop, joints, to_original


def _shrunk(picture: NDArray[np.uint8], side: int, scale: float, shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A smaller crop: every pixel is the mean of just the area that it covers of the picture, moved by sub-pixels.

    That is what :func:`_sampled` approaches with ever more samples, for a fraction of the work: only what lies in the
    picture is computed, at the picture's own resolution.
    """
    crop = np.zeros((side, side, 3), np.uint8)
    first, count, start, size = [0, 0], [0, 0], [0, 0], [0, 0]
    weights = [0.0, 0.0]
    for axis in (0, 1):
        extent = picture.shape[1 - axis]
        # Half a pixel beyond each edge, the picture has faded into black.
        low = max(0, floor(scale * -0.5 + shift[axis]))
        high = min(side, ceil(scale * (extent + 0.5) + shift[axis]))
        if high <= low:
            return crop
        first[axis], count[axis] = low, high - low
        corner = (low - shift[axis]) / scale
        start[axis] = floor(corner)
        weights[axis] = corner - start[axis]
        size[axis] = ceil(count[axis] / scale)
    # One pixel more each way, for the shift.
    area = _window(picture, start[0], start[1], size[0] + 1, size[1] + 1)
    area = _between(area[:-1], area[1:], weights[1])
    area = _between(area[:, :-1], area[:, 1:], weights[0])
    small = cv2.resize(area, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rows, columns = min(count[1], small.shape[0]), min(count[0], small.shape[1])
    crop[first[1] : first[1] + rows, first[0] : first[0] + columns] = small[:rows, :columns]
    return crop


def _between(here: NDArray[np.uint8], beyond: NDArray[np.uint8], weight: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.addWeighted(beyond, weight, here, 1 - weight, 0), np.uint8) if weight else here


def _window(picture: NDArray[np.uint8], x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
    """A part of a picture, black where it reaches beyond."""
    left, top = max(0, -x), max(0, -y)
    inside = picture[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    right, bottom = width - left - inside.shape[1], height - top - inside.shape[0]
    if not (left or top or right or bottom):
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT), np.uint8)


def _sampled(picture: NDArray[np.uint8], side: int, scale: float, shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    # Bilinear sampling alone would skip pixels when it shrinks. So sample at least one point per original pixel,
    # a whole number of them per crop pixel, and average: exact in position, and free of aliasing.
    fine = min(ceil(1 / scale), max(1, _LARGEST_SIDE // side))
    # OpenCV counts from pixel centres, we count from the corner: its x is our x − 0.5, on both sides of the map.
    matrix = np.zeros((2, 3))
    matrix[0, 0] = matrix[1, 1] = scale * fine
    matrix[:, 2] = fine * (shift + 0.5 * scale) - 0.5
    crop = cv2.warpAffine(picture, matrix, (side * fine, side * fine), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    if fine > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)


def missing_images(images: Iterable[str], folder: Path) -> list[str]:
    """Those of the pictures that are not in the folder, each once, in order.

    Raises:
        UserError: a name leads out of the folder.
    """
    return [image for image in dict.fromkeys(images) if not image_path(folder, image).is_file()]


@dataclass(frozen=True)
class PackReport:
    """What came of packing.

    Attributes:
        people: how many were packed, those of an earlier, interrupted run too.
        resumed: how many of them an earlier run had packed.
        pictures: how many were read in this run.
        left_out: people whose picture is missing or broken.
        broken: these pictures by name, and what is wrong with each.
        decoding: share of the threads' working time in this run that went into reading and decoding pictures.
    """

    people: int
    resumed: int
    pictures: int
    left_out: int
    broken: Mapping[str, str]
    decoding: float


def broken_list(out: Path) -> Path:
    """Where :func:`pack` lists missing and broken pictures."""
    return out.with_name(f"{out.name}.broken.txt")


def pack(
    people: Sequence[Person],
    folder: Path,
    out: Path,
    skeleton: Skeleton,
    box: int,
    source: Mapping[str, str],
    workers: int,
    on_progress: Progress = lambda done: None,
    *,
    jpeg: int | None = None,
    max_broken: int = 0,
) -> PackReport:
    """Cut all people out of their pictures and write them to a packed file, each picture read once.

    The file lists train, then holdout, then valid people, each in the order given: what it holds does not depend
    on the number of workers. A run that was interrupted or killed leaves what it has packed beside ``out``, and the
    next one of the same arguments goes on from there, with the same result. Pictures are told to be the same by size
    and time of change.

    Args:
        people: at least one.
        folder: where the pictures are.
        out: the packed file; replaced in one step once complete, else left as it was. Missing and broken pictures are
            listed beside it (:func:`broken_list`).
        skeleton: the people's joints.
        box: side of a person's box in the crops, in pixels.
        source: where the people come from, for the record.
        workers: threads that read and cut.
        on_progress: called with the number of people done so far.
        jpeg: quality (1 to 100) of crops stored as JPEG; None: raw.
        max_broken: so many pictures may be missing or broken; their people are left out.

    Raises:
        UserError: a picture's name leads out of the folder, more pictures than allowed or all are missing or broken,
            another process is making the same file, or ``out`` cannot be written.
    """
    paths = {person.image: image_path(folder, person.image) for person in people}
    stamps = {image: _stamp(path) for image, path in paths.items()}
    broken = _Broken(folder, out, len(paths), max_broken)
    for image, stamp in stamps.items():
        if stamp is None:
            broken.add(image, "no such picture")
    broken.check()
    ordered = sorted(
        (person for person in people if stamps[person.image] is not None),
        key=lambda person: SPLITS.index(person.split),
    )
    smallest: dict[str, float] = {}  # of all people in a picture: what is packed must not depend on where a run stopped
    for person in ordered:
        smallest[person.image] = min(person.size, smallest.get(person.image, inf))
    writer = PackedWriter(
        out, skeleton, box, len(ordered), source, jpeg=jpeg, inputs=_fingerprint(ordered, folder),
        stamps=[stamps[person.image] or b"" for person in ordered],
    )  # fmt: skip

    def cut(rows: list[int]) -> _Cut:
        start = time.thread_time()
        image = ordered[rows[0]].image
        picture, reduced = decode_image(paths[image], box / smallest[image])
        decoded = time.thread_time()
        sealed = []
        if not isinstance(picture, str):
            for row in rows:
                person = ordered[row]
                crop, joints, to_original = crop_person(picture, person, box, reduced)
                sealed.append(
                    writer.seal(
                        row, crop, joints, person.labelled, person.head_size, to_original, person.split, person.image
                    )
                )
        reason = picture if isinstance(picture, str) else None
        return _Cut(rows, sealed, reason, decoded - start, time.thread_time() - start)

    decoding, working = 0.0, 1e-9
    with quiet_opencv(), writer, ThreadPoolExecutor(workers) as pool:
        resumed = writer.done
        done = len(resumed)
        rows_of: dict[str, list[int]] = {}
        for row, person in enumerate(ordered):
            if row not in resumed:
                rows_of.setdefault(person.image, []).append(row)
        on_progress(done)
        for result in _in_order(pool, cut, rows_of.values(), 4 * workers):
            if result.reason is not None:
                broken.add(ordered[result.rows[0]].image, result.reason)
                broken.check()
                for row in result.rows:
                    writer.leave_out(row)
            for person_sealed in result.sealed:
                writer.put_sealed(person_sealed)
            done += len(result.rows)
            decoding, working = decoding + result.decoding, working + result.working
            on_progress(done)
        packed = len(writer.done)
    broken.write()
    return PackReport(
        people=packed,
        resumed=len(resumed),
        pictures=len(rows_of),
        left_out=len(people) - packed,
        broken=broken.reasons,
        decoding=decoding / working,
    )


@dataclass(frozen=True, eq=False)
class _Cut:
    """One picture's people; ``reason``: why there are none. Times are the thread's own, in seconds."""

    rows: list[int]
    sealed: list[SealedPerson]
    reason: str | None
    decoding: float
    working: float


class _Broken:
    """Missing and broken pictures, and how many of them are too many."""

    def __init__(self, folder: Path, out: Path, pictures: int, most: int) -> None:
        self.reasons: dict[str, str] = {}
        self._folder = folder
        self._list = broken_list(out)
        self._pictures = pictures
        self._most = most

    def add(self, image: str, reason: str) -> None:
        self.reasons[image] = reason

    def check(self) -> None:
        count = len(self.reasons)
        if not count or (count <= self._most and count < self._pictures):
            return
        self.write()
        first, *others = self.reasons.items()
        named = f"{self._folder / first[0]}: {first[1]}"
        if others:
            few = ", ".join(image for image, _ in others[:2])
            rest = f" and {len(others) - 2:,} more" if len(others) > 2 else ""
            named += f", nor can {few}{rest} be used; all are listed in {self._list}"
        if count == self._pictures:
            what = "it is the only picture" if count == 1 else f"none of the {count:,} pictures is left"
            raise UserError(f"{named}; {what}: check the pictures' folder")
        raise UserError(
            f"{named}; that makes {count:,} of {self._pictures:,} pictures, and --max-broken allows {self._most:,}: "
            "check the pictures' folder, replace them, or allow more to leave their people out"
        )

    def write(self) -> None:
        """List them beside the packed file; a list of an earlier run goes."""
        try:
            if not self.reasons:
                self._list.unlink(missing_ok=True)
                return
            lines = [f"{' '.join(image.split())}\t{reason}\n" for image, reason in self.reasons.items()]
            self._list.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self._list}: cannot write ({error.strerror}); choose another folder") from error


def _stamp(path: Path) -> bytes | None:
    """16 bytes that tell a file from what it was before it changed; None where there is none."""
    try:
        if not path.is_file():
            return None
        found = path.stat()
    except OSError:
        return None
    return hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode()).digest()[:16]


def _versioned(version: str) -> str:
    """Changes with the code that makes the crops, so that a file begun by another version is not continued."""
    return hashlib.sha256(f"{version} {cv2.__version__}".encode()).hexdigest()


def _fingerprint(people: Iterable[Person], folder: Path) -> str:
    """Identifies what crops depend on besides box, skeleton and the pictures' content."""
    digest = hashlib.sha256(f"{_versioned(f'packing {PACKING_VERSION}')} {os.path.abspath(folder)}".encode())
    for person in people:
        digest.update(repr((person.image, person.split, float(person.size), float(person.head_size))).encode())
        for array in (person.joints, person.labelled, person.center):
            digest.update(array.tobytes())
    return digest.hexdigest()


def pack_synthetic(
    out: Path,
    counts: Mapping[str, int],
    box: int,
    seed: int,
    figures: SceneConfig,
    workers: int,
    on_progress: Progress = lambda done: None,
    *,
    jpeg: int | None = None,
) -> int:
    """Draw synthetic people and write them to a packed file; the crop is the original picture.

    The same counts, box, seed and figures give the same people, whatever the number of workers, and however often the
    run was interrupted: what it has drawn lies beside ``out``, and the next one goes on from there.

    Args:
        out: the packed file; replaced in one step once complete, else left as it was.
        counts: people per split; at least one in all.
        box: side of a person's box in the crops, in pixels.
        seed: of all randomness.
        figures: how people and scenes look.
        workers: processes that draw.
        on_progress: called with the number of people drawn so far.
        jpeg: quality (1 to 100) of crops stored as JPEG; None: raw.

    Returns:
        How many people an earlier, interrupted run had drawn.

    Raises:
        UserError: another process is making the same file, or ``out`` cannot be written.
    """
    # Each split has its own series, so that asking for more people to train on leaves the others as they were.
    rows = [(split, first * _SERIES + i) for first, split in enumerate(SPLITS) for i in range(counts.get(split, 0))]
    identity = np.eye(2, 3)
    inputs = _versioned(f"rendering {RENDERING_VERSION}")
    source = {"dataset": "synthetic", "seed": str(seed), "figures": stored_description(figures)}
    with (
        PackedWriter(out, MPII, box, len(rows), source, jpeg=jpeg, inputs=inputs) as writer,
        # Drawing holds the interpreter's lock for much of the time, so threads would not do. Spawned, not forked:
        # the caller may have threads and a GPU open.
        _Workers(workers, multiprocessing.get_context("spawn"), _start_worker) as pool,
    ):
        resumed = len(writer.done)  # put in order, so these are the first
        left = range(resumed, len(rows))
        tasks = [
            (seed, [rows[row][1] for row in left[start : start + _CHUNK]], box, figures)
            for start in range(0, len(left), _CHUNK)
        ]
        row = resumed
        on_progress(row)
        for drawn in _in_order(pool, _draw, tasks, 4 * workers):
            for person in drawn:
                split, index = rows[row]
                name = f"synthetic {seed}/{index}"
                writer.put(row, person.crop, person.joints, person.labelled, person.head_size, identity, split, name)
                row += 1
            on_progress(row)
    return resumed


def _draw(task: tuple[int, list[int], int, SceneConfig]) -> list[SyntheticPerson]:
    seed, indices, box, figures = task
    return [render_person(seed, index, box, MARGIN, figures) for index in indices]


class _Workers(ProcessPoolExecutor):
    """Processes that leave Ctrl-C, which reaches the whole terminal, to their parent, and die with it."""

    def submit(self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        # Workers start in here and inherit what is blocked; for the parent the signal only waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(function, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    # A pool's workers wait for tasks for ever when their parent is killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own under ours, and from printing what our errors say."""
    threads, level = cv2.getNumThreads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        cv2.utils.logging.setLogLevel(level)


def _in_order(
    pool: Executor, function: Callable[[_Task], _Result], tasks: Iterable[_Task], ahead: int
) -> Iterator[_Result]:
    """Results in the tasks' order, never more than ``ahead`` of them waiting in memory."""
    waiting: deque[Future[_Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def image_path(folder: Path, image: str) -> Path:
    """Where a picture is.

    Raises:
        UserError: its name leads out of the folder.
    """
    name = PurePosixPath(image)
    if not image or "\0" in image or "\\" in image or name.is_absolute() or ".." in name.parts:
        raise UserError(f"picture name {image!r} leads out of {folder}; correct the annotations")
    return folder / name


def decode_image(path: Path, zoom: float, upright: bool = False) -> tuple[NDArray[np.uint8] | str, int]:
    """Decode a picture as stored: annotations were made on pictures that nobody had turned by their EXIF tag.

    Args:
        path: of the picture.
        zoom: the most that a person in it is enlarged. At half or less, a JPEG is decoded at half its size, by cosine
            transforms of half the length: in a third of the time, decoding and shrinking together.
        upright: turn it by its EXIF tag, as it is shown to people.

    Returns:
        uint8 (H, W, 3) RGB, or what is wrong with it; and how many times smaller it is than the picture.
    """
    reduced = 1
    try:
        data = path.read_bytes()
        jpeg = data.startswith(b"\xff\xd8")
        # Some decoders fill up what a truncated JPEG lacks with grey, without a word.
        whole = not jpeg or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
        flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
        if jpeg and zoom <= 0.5:
            reduced = 2
            flags |= cv2.IMREAD_REDUCED_GRAYSCALE_2  # the size alone; with IMREAD_COLOR_RGB it is in colour
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if whole and data else None
    except (OSError, cv2.error) as error:
        return f"cannot be read ({type(error).__name__})", 1
    if picture is None:
        return "not a picture, truncated or damaged" if data else "empty", 1
    return np.asarray(picture, np.uint8), reduced
