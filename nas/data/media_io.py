"""Decode images; read videos and cameras frame by frame; write images and videos."""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.image_header import MAX_PIXELS, ImageHeader, is_heic, read_header
from nas.errors import UserError
from nas.names import plain_name

Image = NDArray[np.uint8]
"""uint8 (H, W, 3) RGB."""

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""Suffixes, in lower case, of the files of a folder that are read; a file given by name may have another."""

_DEFAULT_RATE = 25.0  # frames per second, if a file or camera does not say
_HIGHEST_RATE = 100_000.0  # frames per second that are believed; the fastest cameras with colour take fewer
_LARGEST_TERM = 65535  # of a rate as a fraction, in MPEG-4


def image_path(folder: Path, name: str) -> Path:
    """Path of an image that annotations name.

    Raises:
        UserError: the name leads out of the folder, or no file can have it.
    """
    relative = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"image name {name!r} leads out of {folder}; correct the annotations")
    try:
        return folder / os.fsdecode(name.encode("utf-8", "surrogateescape"))  # in any locale, names are UTF-8
    except UnicodeEncodeError as error:  # half of a pair of surrogates
        raise UserError(f"image name {name!r} is not text; correct the annotations") from error


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        image: or the reason why it cannot be decoded.
        reduction: the factor by which it was reduced.
        frames: of the animation, or pages of the document, of which it is the first; 1: it is a plain image.
    """

    image: Image | str
    reduction: int = 1
    frames: int = 1


def decode_image(path: Path, zoom: float, upright: bool = False, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image, by default as stored: annotations were made without rotating images by their EXIF tag.

    Args:
        path: of the image.
        zoom: the largest factor by which a person in it will be scaled. If at most half, a JPEG is decoded at half its
            size, by half-length cosine transforms: decoding and shrinking then take a third of the time.
        upright: turn and mirror it by its orientation tag, as viewers do.
        max_pixels: larger images are not decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        return Decoded(f"cannot be read ({type(error).__name__})")
    header = read_header(data)
    if header is None:
        return Decoded(_no_image(data))
    if header.width * header.height > max_pixels:
        return Decoded(
            f"{header.width}×{header.height} are more than {max_pixels:,} pixels; if it is meant to be that large, "
            "raise --max-pixels"
        )
    if not header.is_whole:  # some decoders silently fill the missing part of a truncated JPEG with grey
        return Decoded(_no_image(data))
    flags, reduction = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, 1
    if header.kind == "jpeg" and zoom <= 0.5:
        reduction = 2
        flags |= cv2.IMREAD_REDUCED_GRAYSCALE_2  # only sets the size; with IMREAD_COLOR_RGB the image is in colour
    try:
        image = cv2.imdecode(np.frombuffer(_not_turned(data, header), np.uint8), flags)
    except cv2.error as error:
        return Decoded(f"cannot be read ({type(error).__name__})")
    if image is None:
        return Decoded(_no_image(data))
    turned = turn_upright(np.asarray(image, np.uint8), header.orientation) if upright else image
    return Decoded(np.asarray(turned, np.uint8), reduction, header.frames)


def _no_image(data: bytes) -> str:
    """The reason why some content is not an image."""
    if is_heic(data):
        return "HEIC, which OpenCV does not read; convert it to JPEG"
    return "not an image, truncated or damaged" if data else "empty"


def _not_turned(data: bytes, header: ImageHeader) -> bytes:
    """The content without the orientation that OpenCV applies to TIFF, whatever its flags say."""
    if header.orientation_at is None:
        return data
    at, order = header.orientation_at
    return data[:at] + struct.pack(f"{order}H", 1) + data[at + 2 :]


def turn_upright(image: Image, orientation: int) -> Image:
    """Turn and mirror a stored image by its orientation, 1 to 8, as in EXIF."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def read_image(
    path: Path, upright: bool, max_pixels: int = MAX_PIXELS, notes: Callable[[str], None] = lambda text: None
) -> Image:
    """Decode an image at full size.

    Args:
        path: the file.
        upright: turn it by its orientation tag, as viewers do; else as stored.
        max_pixels: larger images are not decoded.
        notes: takes the remark that only the first of several frames or pages is used.

    Raises:
        UserError: it cannot be read, is too large, or is not an image.
    """
    with quiet_opencv():
        image, _, frames = decode_image(path, 1.0, upright, max_pixels)
    if isinstance(image, str):
        remedy = "" if ";" in image else "; give an image that OpenCV can read"
        raise UserError(f"{path}: {image}{remedy}")
    if frames > 1:
        notes(f"{path} holds {'several' if frames == 2 else f'{frames:,}'} frames or pages; only the first is used")
    return image


def encode_image(image: Image, name: str, quality: int = 92) -> bytes:
    """Encode an image in the format of a file name: ``.png``, else JPEG of the given quality.

    Raises:
        UserError: it is too large for the format.
    """
    suffix = ".png" if name.lower().endswith(".png") else ".jpg"
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    try:
        succeeded, data = cv2.imencode(suffix, image[:, :, ::-1], options)
    except cv2.error:
        succeeded = False
    if not succeeded:
        height, width = image.shape[:2]
        raise UserError(f"{name}: {width}×{height} pixels cannot be written in this format; choose another suffix")
    return bytes(data.tobytes())


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own, and from printing what our errors say."""
    threads, level = cv2.getNumThreads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        cv2.utils.logging.setLogLevel(level)


def is_video(path: Path) -> bool:
    """Whether a file is read as a video, by its suffix."""
    return path.suffix.lower() in VIDEOS


def files_in(folder: Path) -> list[Path]:
    """Images and videos directly in a folder, sorted by name, without hidden ones."""
    suffixes = IMAGES + VIDEOS
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )


@dataclass(frozen=True)
class Clip:
    """Format of a video.

    Attributes:
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        rate: frames per second.
        frames: number of frames according to the file; 0 if it does not say, and for cameras.
    """

    width: int
    height: int
    rate: float
    frames: int


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video.

    Attributes:
        image: of the frame.
        seconds: since the beginning: the frame's own time stamp, where the file has one.
    """

    image: Image
    seconds: float


@contextmanager
def opened_video(
    source: Path | int, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Clip, Iterator[Frame]]]:
    """Open a video, or a camera by its number, to read its frames one by one.

    Args:
        source: path of the video, or number of the camera.
        upright: turn the frames as the file says; else as stored.
        max_pixels: larger frames are not decoded.

    Raises:
        UserError: it cannot be opened, its frames are too large, or it gives none.
    """
    with quiet_opencv(), ExitStack() as stack:
        name = source if isinstance(source, int) else stack.enter_context(plain_name(source))
        capture = cv2.VideoCapture(name)
        stack.callback(capture.release)
        if not upright:
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > max_pixels:
            raise UserError(
                f"{source}: frames of {width}×{height} are more than {max_pixels:,} pixels; if they are meant to be "
                "that large, raise --max-pixels"
            )
        succeeded, first = capture.read() if capture.isOpened() else (False, None)
        if not succeeded or first is None:
            if isinstance(source, int):
                raise UserError(f"--webcam {source}: no such camera, or it gives no image; give files")
            raise UserError(f"{source}: not a video that OpenCV can read, or without a frame; convert it to MP4")
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        clip = Clip(
            width=first.shape[1],
            height=first.shape[0],
            rate=rate if 0 < rate <= _HIGHEST_RATE else _DEFAULT_RATE,
            frames=max(0, int(count)) if math.isfinite(count) and isinstance(source, Path) else 0,
        )
        yield clip, _frames(capture, first, clip.rate, is_camera=isinstance(source, int))


def _frames(capture: cv2.VideoCapture, first: NDArray[Any], rate: float, is_camera: bool) -> Iterator[Frame]:
    """The frames of an opened video; where they have no time stamps, or these do not increase, by its rate."""
    succeeded, frame, number = True, first, 0
    start, before = time.monotonic(), -math.inf
    while succeeded and frame is not None:
        # What cameras tell is relative to the start of the machine, or nothing.
        seconds = time.monotonic() - start if is_camera else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not math.isfinite(seconds) or seconds <= before:
            seconds = number / rate if number == 0 else before + 1 / rate
        yield Frame(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8), seconds)
        before, number = seconds, number + 1
        succeeded, frame = capture.read()


def _writable_rate(rate: float) -> float:
    """The nearest rate that MPEG-4 can have: OpenCV writes it as a fraction with a power of ten below."""
    below = next((power for power in (1000, 100, 10) if rate * power <= _LARGEST_TERM), 1)
    return min(max(1, round(rate * below)), _LARGEST_TERM) / below


class VideoWriter:
    """Writes an MP4 that appears under its name only once it is complete. Its sides are even: an odd one gains a pixel.

    Its rate is constant, and rounded where the format cannot have it.

    Args:
        path: of the file; its suffix is ``.mp4``.
        clip: size and rate of its frames.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, clip: Clip) -> None:
        self._path, self._size = path, (clip.width + clip.width % 2, clip.height + clip.height % 2)
        self._part = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")  # hidden, so that files_in skips it
        self._frames = 0
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file; choose another --out")
        code, rate = cv2.VideoWriter.fourcc(*"mp4v"), _writable_rate(clip.rate)
        with quiet_opencv(), plain_name(self._part) as name:
            self._writer = cv2.VideoWriter(name, code, rate, self._size)
        if not self._writer.isOpened():
            self._part.unlink(missing_ok=True)
            raise UserError(f"{path}: OpenCV cannot write this video here; choose another --out")

    def __enter__(self) -> VideoWriter:
        return self

    def put(self, frame: Image) -> None:
        """Add a frame, RGB, of the clip's size."""
        bottom, right = self._size[1] - frame.shape[0], self._size[0] - frame.shape[1]
        assert {bottom, right} <= {0, 1}, frame.shape
        even = cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.release()
        if kind is not None:
            self._part.unlink(missing_ok=True)
            return
        try:
            # OpenCV does not report a full disk.
            with opened_video(self._part) as (clip, _frames):
                is_complete = clip.frames == self._frames
            if not is_complete:
                raise UserError(
                    f"{self._path}: not all frames could be written; free some space or choose another --out"
                )
            with open(self._part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._part, self._path)
        except OSError as error:
            reason = error.strerror
            raise UserError(f"{self._path}: cannot be written ({reason}); choose another --out") from error
        finally:
            self._part.unlink(missing_ok=True)
