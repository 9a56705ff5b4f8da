"""Small videos whose frames have any times, and that are turned in any way."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def with_times(film: bytes, times: Sequence[int], scale: int, turn: int = 0) -> bytes:
    """Give the frames of an MP4 times in units of ``1 / scale`` seconds, and turn it clockwise by ``turn`` × 90°."""
    content, at = b"", 0
    while at < len(film):
        size, name = struct.unpack_from(">I4s", film, at)
        body = film[at + 8 : at + size]
        if name in CONTAINERS:
            body = with_times(body, times, scale, turn)
        elif name == b"stts":
            steps = [after - before for before, after in pairwise(times)]
            runs = [struct.pack(">II", 1, step) for step in [*steps, steps[-1]]]
            body = struct.pack(">II", 0, len(runs)) + b"".join(runs)
        elif name == b"mdhd":
            body = body[:12] + struct.pack(">II", scale, times[-1] + times[-1] - times[-2]) + body[20:]
        elif name == b"tkhd" and turn:
            a, b = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn]
            matrix = [a, b, 0, -b, a, 0, 0, 0]
            body = body[:40] + struct.pack(">8i", *(value << 16 for value in matrix)) + body[72:]
        if name != b"edts":  # the list of edits, in the scale of the whole film
            content += box(name, body)
        at += size
    return content


def film(path: Path, times: Sequence[int], scale: int, turn: int = 0) -> Path:
    """An MP4 of 64×48 pixels, with one frame for each time; its moving bright column says which."""
    plain = path.with_name("plain.mp4")
    writer = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for number in range(len(times)):
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, number : number + 4] = 255
        writer.write(image)
    writer.release()
    path.write_bytes(with_times(plain.read_bytes(), times, scale, turn))
    plain.unlink()
    return path
