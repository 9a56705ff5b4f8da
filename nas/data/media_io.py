"""Pictures, videos and cameras of any kind, read frame by frame; videos written whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.errors import UserError

Picture = NDArray[np.uint8]
"""uint8 (H, W, 3) RGB."""

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""Endings, in small letters, by which files of a folder are told; a file given by name may have another."""

_USUAL_RATE = 25.0  # frames a second, where a file or a camera does not say


def is_video(path: Path) -> bool:
    """Whether a file is read as a video, which its ending says."""
    return path.suffix.lower() in VIDEOS


def files_in(folder: Path) -> list[Path]:
    """The pictures and videos that lie in a folder itself, sorted by name; hidden ones are left out."""
    endings = PICTURES + VIDEOS
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings and path.is_file() and not path.name.startswith(".")
    )


def read_image(path: Path, upright: bool) -> Picture:
    """Decode a whole picture.

    Args:
        path: the file.
        upright: turn it by its EXIF tag, as it is shown to people; else as it is stored.

    Raises:
        UserError: it cannot be read, or is no picture.
    """
    with quiet_opencv():
        picture, _ = decode_image(path, 1.0, upright)
    if isinstance(picture, str):
        raise UserError(f"{path}: {picture}; give a picture that OpenCV can read")
    return picture


@dataclass(frozen=True)
class Clip:
    """Attributes:
    width: of a frame, in pixels.
    height: of a frame, in pixels.
    rate: frames a second.
    frames: how many the file says that it has; 0 where it does not say, or for a camera.
    """

    width: int
    height: int
    rate: float
    frames: int


@contextmanager
def opened_video(source: Path | int) -> Iterator[tuple[Clip, Iterator[Picture]]]:
    """Open a video, or a camera by its number, to read its frames one after the other.

    Raises:
        UserError: it cannot be opened, or gives no frame.
    """
    with quiet_opencv():
        capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        try:
            good, first = capture.read() if capture.isOpened() else (False, None)
            if not good or first is None:
                if isinstance(source, int):
                    raise UserError(
                        f"--webcam {source}: there is no such camera here, or it gives no picture; give files"
                    )
                raise UserError(f"{source}: not a video that OpenCV can read, or without a frame; convert it to MP4")
            rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
            clip = Clip(
                width=first.shape[1],
                height=first.shape[0],
                rate=rate if math.isfinite(rate) and 1 <= rate <= 1000 else _USUAL_RATE,
                frames=max(0, int(count)) if math.isfinite(count) and isinstance(source, Path) else 0,
            )
            yield clip, _frames(capture, first)
        finally:
            capture.release()


def _frames(capture: cv2.VideoCapture, first: NDArray[Any]) -> Iterator[Picture]:
    good, frame = True, first
    while good and frame is not None:
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        good, frame = capture.read()


class VideoWriter:
    """An MP4 that takes its place once it is whole and on the disk. Its sides are even: an odd one gains a pixel.

    Args:
        path: of the file; its ending is ``.mp4``.
        clip: size and rate of its frames.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, clip: Clip) -> None:
        self._path, self._size = path, (clip.width + clip.width % 2, clip.height + clip.height % 2)
        self._part = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")  # hidden: no picture of a folder
        self._frames = 0
        with quiet_opencv():
            self._writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), clip.rate, self._size)
        if not self._writer.isOpened():
            self._part.unlink(missing_ok=True)
            raise UserError(f"{path}: OpenCV cannot write this video here; choose another --out")

    def __enter__(self) -> VideoWriter:
        return self

    def put(self, frame: Picture) -> None:
        """Add a frame, RGB, of the clip's size."""
        below, beside = self._size[1] - frame.shape[0], self._size[0] - frame.shape[1]
        assert {below, beside} <= {0, 1}, frame.shape
        even = cv2.copyMakeBorder(frame, 0, below, 0, beside, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.release()
        if kind is not None:
            self._part.unlink(missing_ok=True)
            return
        try:
            # OpenCV says nothing of a full disk.
            with opened_video(self._part) as (clip, _frames):
                whole = clip.frames == self._frames
            if not whole:
                raise UserError(f"{self._path} could not be written whole; make room, or choose another --out")
            with open(self._part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._part, self._path)
        except OSError as error:
            reason = error.strerror
            raise UserError(f"{self._path} cannot be written ({reason}); choose another --out") from error
        finally:
            self._part.unlink(missing_ok=True)


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
        return "not an image, truncated or damaged" if data else "empty", 1
    return np.asarray(picture, np.uint8), reduced


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
