"""Images of any origin: whole or not, however turned, of one frame or several, and no larger than allowed."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nas.data.image_header import read_header
from nas.data.media_io import decode_image, read_image, turn_upright
from nas.errors import UserError

CORNERS = np.zeros((48, 64, 3), np.uint8)  # red, green, blue, black
CORNERS[:24, :32, 0] = CORNERS[:24, 32:, 1] = CORNERS[24:, :32, 2] = 255
TRAP = b"\xff\xda\x11\x22"  # the marker that begins a scan, in whatever follows an image


def encoded(kind: str, image: NDArray[np.uint8] = CORNERS, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def corners(image: NDArray[np.uint8]) -> list[list[int]]:
    """The colours in the middle of each quarter, 0 or 1 each."""
    height, width = image.shape[:2]
    return [
        (image[y, x] > 128).astype(int).tolist()
        for y in (height // 4, 3 * height // 4)
        for x in (width // 4, 3 * width // 4)
    ]


UPRIGHT = {
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.transpose(1, 0, 2),
    6: np.rot90(CORNERS, -1),
    7: CORNERS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(CORNERS),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_images_are_turned_as_said_in_every_format(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(kind, exif=turned(orientation), quality=95))
    for upright, wanted in ((False, CORNERS), (True, UPRIGHT[orientation])):
        image = read_image(path, upright)
        assert image.shape == wanted.shape
        assert corners(image) == corners(wanted)


def test_a_tiff_of_either_byte_order_is_turned_as_said(tmp_path: Path) -> None:
    for order, mark in (("<", b"II"), (">", b"MM")):
        entries = [
            (256, 4, 64),
            (257, 4, 48),
            (258, 3, 8),
            (259, 3, 1),
            (262, 3, 1),
            (273, 4, 200),
            (274, 3, 6),
            (277, 3, 1),
            (278, 4, 48),
            (279, 4, 64 * 48),
        ]
        content = mark + struct.pack(order + "HIH", 42, 8, len(entries))
        for tag, kind, value in entries:
            content += struct.pack(order + "HHI", tag, kind, 1)
            content += struct.pack(order + ("Hxx" if kind == 3 else "I"), value)
        path = tmp_path / "gray.tif"
        path.write_bytes((content + bytes(4)).ljust(200, b"\0") + CORNERS.max(axis=-1).tobytes())
        assert read_image(path, upright=False).shape == (48, 64, 3)
        white, black = [1, 1, 1], [0, 0, 0]
        assert corners(read_image(path, upright=True)) == [white, white, black, white]


def test_what_lies_behind_or_within_a_whole_jpeg_does_not_matter(tmp_path: Path) -> None:
    thumbnail = encoded("JPEG", CORNERS[::4, ::4])
    exif = turned(1).tobytes() + thumbnail + TRAP
    path = tmp_path / "photo.jpg"
    for data in (
        encoded("JPEG") + b"MotionPhoto_Data\0\0\0\x18ftypmp42" + TRAP,
        encoded("JPEG") + encoded("JPEG")[:200],
        encoded("JPEG", exif=exif) + TRAP,
        encoded("JPEG", comment=TRAP),
        encoded("JPEG", progressive=True) + TRAP,
        encoded("JPEG", restart_marker_rows=1) + TRAP,
        encoded("JPEG").replace(b"\xff\xda", b"\xff\xff\xff\xda", 1),  # fill bytes
    ):
        path.write_bytes(data)
        assert corners(read_image(path, upright=True)) == corners(CORNERS)


def test_a_truncated_jpeg_is_refused_whatever_else_ends_in_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, CORNERS.shape, np.uint8)
    end = b"\xff\xd9"
    whole = encoded("JPEG", noise, exif=turned(1).tobytes() + encoded("JPEG", CORNERS[::4, ::4]))
    progressive = encoded("JPEG", noise, progressive=True)
    path = tmp_path / "photo.jpg"
    for data in (
        whole[:-2],
        whole[: len(whole) // 2],
        progressive[:-2],
        progressive[: progressive.rindex(b"\xff\xda")],
        whole[: whole.rindex(b"\xff\xda")] + end,
        whole[:-900] + b"\xff\x42 a tail" + end,
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"photo\.jpg: not an image, truncated or damaged"):
            read_image(path, upright=True)


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size, with next to no data."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(99))),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return chunks


def test_images_larger_than_allowed_are_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(30_000, 30_000))
    with pytest.raises(UserError, match=r"huge\.png: 30000×30000 are more than 100,000,000 pixels.*raise --max-pixels"):
        read_image(path, upright=True)
    formats = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "PPM", "JPEG2000"]
    files = {kind: encoded(kind) for kind in formats}
    for suffix in (".ras", ".pfm", ".hdr", ".pam"):
        image = CORNERS.astype(np.float32) if suffix in (".pfm", ".hdr") else CORNERS
        options = [cv2.IMWRITE_PAM_TUPLETYPE, cv2.IMWRITE_PAM_FORMAT_RGB] if suffix == ".pam" else []
        succeeded, data = cv2.imencode(suffix, image, options)
        assert succeeded
        files[suffix] = data.tobytes()
    for kind, content in files.items():
        path.write_bytes(content)
        header = read_header(content)
        assert header is not None, kind
        assert (header.width, header.height, header.frames) == (64, 48, 1), kind
        assert not isinstance(decode_image(path, 1.0, max_pixels=64 * 48).image, str), kind
        assert "64×48 are more than 3,071 pixels" in str(decode_image(path, 1.0, max_pixels=64 * 48 - 1).image), kind


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_only_the_first_frame_is_used_and_it_is_said(tmp_path: Path, kind: str) -> None:
    path, notes = tmp_path / "moving", list[str]()
    others = [Image.fromarray(np.roll(CORNERS, 32 * shift, 1)) for shift in (1, 2)]
    path.write_bytes(encoded(kind, save_all=True, append_images=others))
    assert corners(read_image(path, upright=True, notes=notes.append)) == corners(CORNERS)
    [note] = notes
    assert note.startswith(f"{path} holds ")
    assert note.endswith("only the first is used")
    path.write_bytes(encoded(kind))
    read_image(path, upright=True, notes=notes.append)
    assert len(notes) == 1


def test_headers_of_damaged_images_are_read_without_a_traceback() -> None:
    generator = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "PPM", "JPEG2000"):
        whole = encoded(kind, exif=turned(6)) if kind not in ("GIF", "BMP", "PPM", "JPEG2000") else encoded(kind)
        for _ in range(100):
            data = bytearray(whole[: generator.integers(1, len(whole) + 1)])
            for place in generator.integers(0, min(len(data), 400), 3):
                data[place] = generator.integers(256)
            header = read_header(bytes(data))
            assert header is None or 1 <= header.orientation <= 8


def test_turning_gives_contiguous_images() -> None:
    for orientation in UPRIGHT:
        assert turn_upright(CORNERS, orientation).flags.c_contiguous
