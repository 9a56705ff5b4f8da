"""The packed file: square crops and joints of people in one HDF5 file, written once and loaded as a whole.

A crop shows the person's square box (``Person.size`` pixels wide) scaled to ``box`` pixels, with a margin around it
(the crop is ``MARGIN`` × ``box`` pixels wide), so that batches can be rotated, scaled and shifted on the device without
black corners.

For N people with J joints and crops of S × S pixels, the file holds:

==============  ===================  ==================================================================
``crops``       uint8 (N, S, S, 3)   RGB, contiguous and uncompressed, so that a split loads at disk speed
``digest``      uint8 (N, 32)        SHA-256 of each person's data; absent from the oldest files
``joints``      float32 (N, J, 2)    crop pixels, 0 where not labelled
``labelled``    bool (N, J)
``head_size``   float32 (N,)         original pixels
``to_original`` float32 (N, 2, 3)    affine map from crop pixels to pixels of the original image
``split``       uint8 (N,)           index into :data:`nas.data.people.SPLITS`
``image``       UTF-8 bytes (N,)     name of the image
==============  ===================  ==================================================================

and the attributes ``format``, ``version``, ``skeleton`` (JSON), ``box``, ``source`` (JSON) and ``checksum``.

This is version 1. In version 2 the crops are JPEGs (attribute ``jpeg``: their quality), and ``crops`` is replaced by

==============  ===================  ==================================================================
``jpegs``       uint8 (B,)           all JPEGs, end to end
``start``       int64 (N,)           offset of each person's JPEG
``length``      int64 (N,)           its size in bytes
==============  ===================  ==================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nas.data.image_header import read_header
from nas.data.skeletons import Skeleton

MARGIN = 1.71
"""Crop side over box side: (cos 30° + sin 30°) × 1.25, so that a box rotated by up to ±30° and zoomed out by up to
×1.25 still lies inside the crop."""

RAW_VERSION, JPEG_VERSION = 1, 2
FORMAT = "hourglass-nas people"
REMEDY = "create it again with `python -m nas.prepare`"


def crop_side(box: int) -> int:
    """Side of the stored crop, in pixels, for a box of ``box`` pixels: the even number nearest ``box`` × MARGIN."""
    return 2 * round(box * MARGIN / 2)


@dataclass(frozen=True)
class PackedHeader:
    """What all people of a packed file have in common.

    Attributes:
        skeleton: the joints' names and order.
        box: side of the person's box in the crops, in pixels.
        source: where the people come from, for the record; not part of the checksum.
        jpeg: quality (1 to 100) of crops stored as JPEG; None: raw pixels.
    """

    skeleton: Skeleton
    box: int
    source: Mapping[str, str]
    jpeg: int | None = None

    @property
    def version(self) -> int:
        """Version of the file format."""
        return RAW_VERSION if self.jpeg is None else JPEG_VERSION


@dataclass(frozen=True, eq=False)
class PersonRecord:
    """One person of a packed file, without the crop.

    Attributes:
        row: index of the person.
        start: offset of the crop's bytes from the first crop's.
        length: number of the crop's bytes.
        stamp: 16 bytes that identify the version of the source image.
        digest: SHA-256 of the person's data, or empty.
        joints: float32 (J, 2), crop pixels, 0 where not labelled.
        labelled: bool (J,).
        head_size: original pixels.
        to_original: float32 (2, 3), affine map from crop pixels to original pixels.
        split: index into SPLITS.
        image: name of the image, UTF-8.
    """

    row: int
    start: int
    length: int
    stamp: bytes
    digest: bytes
    joints: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    head_size: np.float32
    to_original: NDArray[np.float32]
    split: int
    image: bytes


def record_digest(crop: bytes | memoryview, record: PersonRecord) -> bytes:
    """SHA-256 of a person: the stored bytes of the crop and everything in the record that describes the person."""
    digest = hashlib.sha256(crop)
    for array in (record.joints, record.labelled, record.head_size, record.to_original):
        digest.update(array.tobytes())
    digest.update(bytes([record.split]))
    digest.update(record.image)
    return digest.digest()


def file_checksum(version: int, box: int, skeleton: str, digests: Iterable[bytes]) -> str:
    """Checksum of a packed file, from everybody's digests in row order; ``skeleton`` is the JSON text in the file."""
    # Over digests in row order, so that it does not depend on the order in which people were written.
    checksum = hashlib.sha256(f"{version} {box} {skeleton}".encode())
    for digest in digests:
        checksum.update(digest)
    return checksum.hexdigest()


def encode_jpeg(crop: NDArray[np.uint8], quality: int) -> bytes:
    """Encode an RGB crop, uint8 (S, S, 3), as JPEG without chroma subsampling."""
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    succeeded, data = cv2.imencode(".jpg", crop[:, :, ::-1], options)
    assert succeeded, "OpenCV wrote no JPEG"
    return data.tobytes()


def decode_jpeg(data: memoryview, side: int) -> NDArray[np.uint8] | None:
    """Decode a crop to uint8 (S, S, 3) RGB; None if the data is not a JPEG of that size."""
    header = read_header(bytes(data))
    if header is None or (header.width, header.height) != (side, side):  # before a huge one is allocated
        return None
    try:
        crop: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return np.asarray(crop, np.uint8) if crop is not None and crop.shape == (side, side, 3) else None
