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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.packed import MARGIN, PackedWriter, crop_side
from nas.data.people import MPII, SPLITS, Person, Skeleton
from nas.data.synthetic import Figures, SyntheticPerson, render_person
from nas.errors import UserError

Progress = Callable[[int], None]
"""Called with the number of people done so far."""

Crop = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64]]
"""uint8 (S, S, 3) RGB; float32 (J, 2) joints in crop pixels; float64 (2, 3) affine from crop to original pixels."""

Array = NDArray[Any]

_LARGEST_SIDE = 4096  # pixels a side of the enlarged crop that is averaged down; 48 MiB
_SERIES = 10_000_000  # synthetic people a split can have
_CHUNK = 32  # people a worker draws at a time

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


# Damaged MATLAB and HDF5 files can crash their readers (scipy 1.17, on an unknown element type), hold them for ever
# (HDF5 2.0) or make them ask for any amount of memory. So files that others wrote are read by a process of its own.
_READ_APART = """
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
    content = read_apart(path, kind, _READ_APART, [kind, str(path), *names], remedy)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name.removeprefix("@"): archive[name] for name in archive.files}
    for name in names:
        if name not in arrays:
            raise UserError(f"{path}: holds no {name!r}; {remedy}")
    return arrays


def read_apart(
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


def picture_split(image: str, shares: Mapping[str, float]) -> str:
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


def crop_person(picture: NDArray[np.uint8], person: Person, box: int) -> Crop:
    """Cut a person out, so that their box is ``box`` pixels wide, at the centre of a crop with margin.

    The mapping is exact to sub-pixels. Beyond the picture's edge the crop is black.

    Args:
        picture: uint8 (H, W, 3), RGB.
        person: whom to cut out; ``size`` is positive.
        box: side of the person's box in the crop, in pixels.

    Returns:
        uint8 (S, S, 3) RGB with S = ``crop_side(box)``; float32 (J, 2) joints in crop pixels; float64 (2, 3) affine
        map from crop pixels to original pixels.
    """
    side = crop_side(box)
    scale = box / person.size
    center = person.center.astype(np.float64)
    # Bilinear sampling alone would skip pixels when it shrinks. So sample at least one point per original pixel,
    # a whole number of them per crop pixel, and average: exact in position, and free of aliasing.
    fine = min(ceil(1 / scale), max(1, _LARGEST_SIDE // side))
    shift = side / 2 - scale * center
    # OpenCV counts from pixel centres, we count from the corner: its x is our x − 0.5, on both sides of the map.
    matrix = np.zeros((2, 3))
    matrix[0, 0] = matrix[1, 1] = scale * fine
    matrix[:, 2] = fine * (shift + 0.5 * scale) - 0.5
    crop = cv2.warpAffine(picture, matrix, (side * fine, side * fine), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    if fine > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    joints = (person.joints.astype(np.float64) * scale + shift).astype(np.float32)
    to_original = np.array([[1 / scale, 0, -shift[0] / scale], [0, 1 / scale, -shift[1] / scale]])
    return np.asarray(crop, np.uint8), joints, to_original


def missing_pictures(images: Iterable[str], folder: Path) -> list[str]:
    """Those of the pictures that are not in the folder, each once, in order.

    Raises:
        UserError: a name leads out of the folder.
    """
    return [image for image in dict.fromkeys(images) if not _inside(folder, image).is_file()]


def pack(
    people: Sequence[Person],
    folder: Path,
    out: Path,
    skeleton: Skeleton,
    box: int,
    source: Mapping[str, str],
    workers: int,
    on_progress: Progress = lambda done: None,
) -> None:
    """Cut all people out of their pictures and write them to a packed file, each picture read once.

    The file lists train, then holdout, then valid people, each in the order given: what it holds does not depend
    on the number of workers.

    Args:
        people: at least one.
        folder: where the pictures are.
        out: the packed file; replaced in one step once complete, else left as it was.
        skeleton: the people's joints.
        box: side of a person's box in the crops, in pixels.
        source: where the people come from, for the record.
        workers: threads that read and cut.
        on_progress: called with the number of people packed so far.

    Raises:
        UserError: a picture is missing, unreadable or outside the folder, or ``out`` cannot be written.
    """
    missing = missing_pictures((person.image for person in people), folder)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{folder / missing[0]}: no such picture{more}; check the pictures' folder")
    ordered = sorted(people, key=lambda person: SPLITS.index(person.split))
    rows_of: dict[str, list[int]] = {}
    for row, person in enumerate(ordered):
        rows_of.setdefault(person.image, []).append(row)

    def cut(rows: list[int]) -> list[tuple[int, Crop]]:
        picture = _read_picture(folder / ordered[rows[0]].image)
        return [(row, crop_person(picture, ordered[row], box)) for row in rows]

    done = 0
    with (
        _quiet_opencv(),
        PackedWriter(out, skeleton, box, len(ordered), source) as writer,
        ThreadPoolExecutor(workers) as pool,
    ):
        for crops in _in_order(pool, cut, rows_of.values(), 4 * workers):
            for row, (crop, joints, to_original) in crops:
                person = ordered[row]
                writer.put(
                    row, crop, joints, person.labelled, person.head_size, to_original, person.split, person.image
                )
            done += len(crops)
            on_progress(done)


def pack_synthetic(
    out: Path,
    counts: Mapping[str, int],
    box: int,
    seed: int,
    figures: Figures,
    workers: int,
    on_progress: Progress = lambda done: None,
) -> None:
    """Draw synthetic people and write them to a packed file; the crop is the original picture.

    The same counts, box, seed and figures give the same file, whatever the number of workers.

    Args:
        out: the packed file; replaced in one step once complete, else left as it was.
        counts: people per split; at least one in all.
        box: side of a person's box in the crops, in pixels.
        seed: of all randomness.
        figures: how people and scenes look.
        workers: processes that draw.
        on_progress: called with the number of people drawn so far.

    Raises:
        UserError: ``out`` cannot be written.
    """
    # Each split has its own series, so that asking for more people to train on leaves the others as they were.
    rows = [(split, first * _SERIES + i) for first, split in enumerate(SPLITS) for i in range(counts.get(split, 0))]
    identity = np.eye(2, 3)
    source = {"dataset": "synthetic", "seed": str(seed), "figures": repr(figures)}
    with (
        PackedWriter(out, MPII, box, len(rows), source) as writer,
        # Drawing holds the interpreter's lock for much of the time, so threads would not do. Spawned, not forked:
        # the caller may have threads and a GPU open.
        _Workers(workers, multiprocessing.get_context("spawn"), _start_worker) as pool,
    ):
        tasks = [
            (seed, [index for _, index in rows[start : start + _CHUNK]], box, figures)
            for start in range(0, len(rows), _CHUNK)
        ]
        row = 0
        for drawn in _in_order(pool, _draw, tasks, 4 * workers):
            for person in drawn:
                split, index = rows[row]
                name = f"synthetic {seed}/{index}"
                writer.put(row, person.crop, person.joints, person.labelled, person.head_size, identity, split, name)
                row += 1
            on_progress(row)


def _draw(task: tuple[int, list[int], int, Figures]) -> list[SyntheticPerson]:
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
def _quiet_opencv() -> Iterator[None]:
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


def _inside(folder: Path, image: str) -> Path:
    name = PurePosixPath(image)
    if not image or "\0" in image or "\\" in image or name.is_absolute() or ".." in name.parts:
        raise UserError(f"picture name {image!r} leads out of {folder}; correct the annotations")
    return folder / name


def _read_picture(path: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB, as stored: annotations were made on pictures that nobody had turned by their EXIF tag."""
    try:
        data = path.read_bytes()
        # Some decoders fill up what a truncated JPEG lacks with grey, without a word.
        whole = not data.startswith(b"\xff\xd8") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if whole else None
    except (OSError, cv2.error) as error:
        raise UserError(f"{path}: cannot read this picture ({type(error).__name__}); replace it") from error
    if picture is None:
        raise UserError(f"{path}: not a picture, truncated or damaged; replace it")
    return np.asarray(picture, np.uint8)
