"""Rows of an open packed file, as they are stored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nas.data.packed.format import PersonRecord

Columns = Mapping[str, NDArray[Any]]
"""Datasets of a packed file by name, without the crops."""

READ_THREADS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""Threads that hash and decode crops."""


def read_columns(file: h5py.File, rows: NDArray[np.integer[Any]]) -> Columns:
    """Read everything but the crops of some rows."""
    names = ("joints", "labelled", "head_size", "to_original", "split", "image", "digest", "start", "length")
    return {name: file[name][:][rows] for name in names if name in file}


def record_at(columns: Columns, index: int) -> PersonRecord:
    """The person at an index of the columns."""
    return PersonRecord(
        row=index,
        start=0,
        length=0,
        stamp=b"",
        digest=columns["digest"][index].tobytes() if "digest" in columns else b"",
        joints=columns["joints"][index],
        labelled=columns["labelled"][index],
        head_size=columns["head_size"][index],
        to_original=columns["to_original"][index],
        split=int(columns["split"][index]),
        image=bytes(columns["image"][index]),
    )


def read_raw_crops(file: h5py.File, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Read raw crops of ascending rows, uint8 (N, S, S, 3).

    Runs of adjacent rows are read in one go, which is far faster than h5py's own indexing.
    """
    dataset = file["crops"]
    crops: NDArray[np.uint8] = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        dataset.read_direct(crops, np.s_[rows[start] : rows[stop - 1] + 1], np.s_[start:stop])
    return crops


def read_jpegs(file: h5py.File, columns: Columns, indices: NDArray[np.integer[Any]]) -> list[memoryview]:
    """Read the JPEGs at some indices of the columns; adjacent ones are read in one go."""
    start, length = columns["start"][indices], columns["length"][indices]
    order = np.argsort(start)
    ends = start[order] + length[order]
    breaks = np.flatnonzero(ends[:-1] != start[order][1:]) + 1
    jpegs = [memoryview(b"")] * len(indices)
    for run in np.split(order, breaks):
        first = int(start[run[0]])
        block = memoryview(file["jpegs"][first : int(start[run[-1]] + length[run[-1]])])
        for index in run:
            jpegs[index] = block[int(start[index]) - first :][: int(length[index])]
    return jpegs
