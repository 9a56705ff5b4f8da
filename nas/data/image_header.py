"""What the header of an image says, read without decoding it: size, orientation, number of frames, wholeness."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

MAX_PIXELS = 100_000_000
"""The largest image that is decoded unless told otherwise: 300 MB in memory."""

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # stuffed bytes and restarts belong to the data
_AFTER_SCAN = frozenset((0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)))
_FRAME_HEADERS = frozenset((*range(0xC0, 0xD0),)) - {0xC4, 0xC8, 0xCC}
_EXIF = b"Exif\0\0"
_ORIENTATION, _WIDTH, _HEIGHT, _SUBFILE = 0x0112, 0x0100, 0x0101, 0x00FE
_MOST_PAGES, _MOST_ENTRIES = 1000, 500  # of a TIFF that are read: a made-up one may hold millions
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx"}


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image says.

    Attributes:
        kind: of the file: ``jpeg``, ``png``, …
        width: of the image as stored, in pixels.
        height: as ``width``.
        orientation: 1 to 8, as in EXIF: how the stored image is to be turned and mirrored for display.
        frames: of an animation, or pages; 2 if there are several and their number is unknown.
        is_whole: False if the end of the file is missing.
        orientation_at: offset and byte order of a TIFF's own orientation, which decoders apply unasked; else None.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    frames: int = 1
    is_whole: bool = True
    orientation_at: tuple[int, str] | None = None


def read_header(data: bytes) -> ImageHeader | None:
    """Read the header of an image in a format that OpenCV reads; None for other content, or if it is damaged."""
    try:
        for matches, read in _FORMATS:
            if matches(data):
                return read(data)
    except (struct.error, IndexError, ValueError):
        return None
    return None


def is_heic(data: bytes) -> bool:
    """Whether a file is a photograph in HEIC, which OpenCV does not read."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def _jpeg(data: bytes) -> ImageHeader:
    """Walk the segments from marker to marker: whatever lies in them, or behind the end, is not looked at."""
    width = height = 0
    orientation, is_whole, is_scan, at = None, False, False, 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == 0xD9:
            is_whole = True
            break
        if is_scan and marker not in _AFTER_SCAN:
            break  # no marker: damaged data
        if marker in (0x01, 0xD8):
            continue
        (length,) = struct.unpack_from(">H", data, at)
        segment = data[at + 2 : at + length]
        if marker in _FRAME_HEADERS and not width:
            height, width = struct.unpack_from(">HH", segment, 1)
        elif marker == 0xE1 and segment.startswith(_EXIF) and orientation is None:
            orientation = _exif_orientation(segment)
        at, is_scan = at + length, is_scan or marker == 0xDA
    return ImageHeader("jpeg", width, height, orientation or 1, is_whole=is_whole and is_scan)


def _png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, frames, at = 1, 1, 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            (frames,) = struct.unpack_from(">I", data, at + 8)
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length])
        at += 12 + length
    return ImageHeader("png", width, height, orientation, max(1, frames))


def _gif(data: bytes) -> ImageHeader:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = 0
    while at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:
            frames += 1
            left, top, columns, rows, flags = struct.unpack_from("<HHHHB", data, at + 1)
            width, height = max(width, left + columns), max(height, top + rows)
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        else:
            at += 2
        while at < len(data) and data[at]:  # sub-blocks, up to an empty one
            at += 1 + data[at]
        at += 1
    return ImageHeader("gif", width, height, frames=max(1, frames))


def _webp(data: bytes) -> ImageHeader:
    width = height = frames = 0
    orientation, at = 1, 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = at + 8
        size: tuple[int, ...] = (0, 0)
        if kind == b"VP8X":
            size = tuple(1 + int.from_bytes(data[body + start : body + start + 3], "little") for start in (4, 7))
        elif kind == b"VP8 ":
            size = tuple(value & 0x3FFF for value in struct.unpack_from("<HH", data, body + 6))
        elif kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, body + 1)
            size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = _exif_orientation(data[body : body + length])
        width, height = max(width, size[0]), max(height, size[1])
        at = body + length + length % 2
    return ImageHeader("webp", width, height, orientation, max(1, frames))


def _exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, which is a small TIFF; 1 if it has none, or cannot be read."""
    tiff = exif.removeprefix(_EXIF)
    try:
        first = next(_tiff_pages(tiff), {})
    except (struct.error, ValueError):
        return 1
    return _valid_orientation(first.get(_ORIENTATION, (1, 0))[0])


def _valid_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1


def _tiff(data: bytes) -> ImageHeader:
    pages = list(islice(_tiff_pages(data), _MOST_PAGES))
    first = pages[0]
    value, at = first.get(_ORIENTATION, (1, 0))
    width, height = (first.get(tag, (0, 0))[0] for tag in (_WIDTH, _HEIGHT))
    return ImageHeader(
        "tiff",
        width,
        height,
        _valid_orientation(value),
        max(1, sum(not page.get(_SUBFILE, (0, 0))[0] & 1 for page in pages)),  # the others are smaller copies
        orientation_at=(at, _byte_order(data)) if at else None,
    )


def _byte_order(data: bytes) -> str:
    if data[:2] not in (b"II", b"MM"):
        raise ValueError("neither little nor big endian")
    return "<" if data[:2] == b"II" else ">"


def _tiff_pages(data: bytes) -> Iterator[dict[int, tuple[int, int]]]:
    """The integers of each page of a TIFF or BigTIFF: by tag, the value and its offset."""
    order = _byte_order(data)
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    pointer, count_type, entry_size, value_at = ("Q", "Q", 20, 12) if is_big else ("I", "H", 12, 8)
    (at,) = struct.unpack_from(order + pointer, data, 8 if is_big else 4)
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        (count,) = struct.unpack_from(order + count_type, data, at)
        at += struct.calcsize(order + count_type)
        page = {}
        for entry in range(at, at + min(count, _MOST_ENTRIES) * entry_size, entry_size):
            tag, kind = struct.unpack_from(order + "HH", data, entry)
            integer = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
            if integer and tag in (_WIDTH, _HEIGHT, _ORIENTATION, _SUBFILE):
                place = entry + value_at
                page[tag] = (struct.unpack_from(order + integer, data, place)[0], place)
        yield page
        try:
            (at,) = struct.unpack_from(order + pointer, data, at + count * entry_size)
        except struct.error:  # in EXIF, the pointer to the next page is sometimes missing
            return


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of ISO media between two offsets: name, begin and end of the content."""
    while at + 8 <= end:
        length, name = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        stop = at + length if length else end
        if stop < begin:
            raise ValueError("a box ends before it begins")
        yield name, begin, min(stop, end)
        at = stop


def _avif(data: bytes) -> ImageHeader:
    outer = {name: (begin, end) for name, begin, end in _boxes(data, 0, len(data))}
    begin, end = outer[b"meta"] if b"meta" in outer else (len(data), len(data))
    meta = {name: (start, stop) for name, start, stop in _boxes(data, begin + 4, end)}
    properties: list[tuple[bytes, int]] = []
    associated: dict[int, list[int]] = {}
    for name, start, stop in _boxes(data, *meta.get(b"iprp", (0, 0))):
        if name == b"ipco":
            properties = [(kind, place) for kind, place, _ in _boxes(data, start, stop)]
        elif name == b"ipma":
            associated |= _associations(data, start)
    width = height = 0
    for kind, place in properties:
        if kind == b"ispe":
            columns, rows = struct.unpack_from(">II", data, place + 4)
            width, height = max(width, columns), max(height, rows)
    orientation = 1
    if b"pitm" in meta:
        place = meta[b"pitm"][0]
        (primary,) = struct.unpack_from(">H" if data[place] == 0 else ">I", data, place + 4)
        for number in associated.get(primary, []):
            if 0 < number <= len(properties):
                orientation = _then(orientation, data, *properties[number - 1])
    return ImageHeader("avif", width, height, orientation, 2 if b"moov" in outer else 1)


def _associations(data: bytes, at: int) -> dict[int, list[int]]:
    """By item, the numbers of its properties, in order."""
    version, is_wide = data[at], data[at + 3] & 1
    (items,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    associated = {}
    for _ in range(min(items, 65536)):
        (item,) = struct.unpack_from(">I" if version else ">H", data, at)
        at += 4 if version else 2
        count, at = data[at], at + 1
        if is_wide:
            associated[item] = [value & 0x7FFF for value in struct.unpack_from(f">{count}H", data, at)]
        else:
            associated[item] = [value & 0x7F for value in data[at : at + count]]
        at += count * (2 if is_wide else 1)
    return associated


_QUARTER_TURN = {1: 8, 8: 3, 3: 6, 6: 1, 2: 5, 5: 4, 4: 7, 7: 2}
"""Orientation → the one that is turned anticlockwise by another 90°."""
_UPSIDE_DOWN = {1: 4, 4: 1, 2: 3, 3: 2, 5: 8, 8: 5, 6: 7, 7: 6}
_SIDEWAYS = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 8, 8: 7}


def _then(orientation: int, data: bytes, kind: bytes, place: int) -> int:
    """The orientation after one more property of an image: ``irot``, ``imir`` or another, which changes nothing."""
    if kind == b"irot":
        for _ in range(data[place] & 3):
            orientation = _QUARTER_TURN[orientation]
    elif kind == b"imir":
        orientation = (_SIDEWAYS if data[place] & 1 else _UPSIDE_DOWN)[orientation]
    return orientation


def _jpeg2000(data: bytes) -> ImageHeader:
    at = data.index(b"\xff\x4f\xff\x51")  # the code stream: its own size counts
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    return ImageHeader("jpeg2000", right - left, bottom - top)


def _bmp(data: bytes) -> ImageHeader:
    is_old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if is_old else "<ii", data, 18)
    return ImageHeader("bmp", abs(width), abs(height))


def _netpbm(data: bytes) -> ImageHeader:
    if data.startswith(b"P7"):
        header = data[: data.index(b"ENDHDR")]
        size = [re.search(rb"\n%s\s+(\d{1,9})" % name, header) for name in (b"WIDTH", b"HEIGHT")]
    else:
        separator = rb"(?:\s|#[^\n]*\n)+"
        both = re.match(rb"P[1-6Ff]" + separator + rb"(\d{1,9})" + separator + rb"(\d{1,9})\s", data)
        return ImageHeader("netpbm", int(both[1]), int(both[2])) if both else ImageHeader("netpbm", 0, 0)
    width, height = (int(found[1]) if found else 0 for found in size)
    return ImageHeader("netpbm", width, height)


def _sun(data: bytes) -> ImageHeader:
    return ImageHeader("sun", *struct.unpack_from(">II", data, 4))


def _hdr(data: bytes) -> ImageHeader:
    found = re.search(rb"\n[-+]Y (\d{1,9}) [-+]X (\d{1,9})\n", data)
    return ImageHeader("hdr", int(found[2]), int(found[1])) if found else ImageHeader("hdr", 0, 0)


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(beginnings)


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], ImageHeader]], ...] = (
    (_starts(b"\xff\xd8"), _jpeg),
    (_starts(b"\x89PNG\r\n\x1a\n"), _png),
    (_starts(b"GIF87a", b"GIF89a"), _gif),
    (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp),
    (_starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (lambda data: data[4:8] == b"ftyp" and not is_heic(data), _avif),
    (_starts(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), _jpeg2000),
    (_starts(b"BM"), _bmp),
    (lambda data: re.match(rb"P[1-7Ff]\s", data) is not None, _netpbm),
    (_starts(b"\x59\xa6\x6a\x95"), _sun),
    (_starts(b"#?RADIANCE", b"#?RGBE"), _hdr),
)
