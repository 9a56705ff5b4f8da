"""MATLAB files of the MPII evaluation: ground truth (Tompson et al. 2014) and predictions.

Their positions are MATLAB's, counted from 1: the centre of the first pixel is (1, 1). Here it is (0.5, 0.5), so half a
pixel is subtracted when reading and added when writing. Joints are MPII's 16, in its order.

Files of MATLAB's version 7.3 are HDF5 with reversed axes; files written here are of version 5, which every program
reads.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from nas.data.readers.parsing import MAX_COORDINATE
from nas.data.readers.sandbox import read_arrays
from nas.data.skeletons import MPII
from nas.errors import UserError

JOINTS = len(MPII.joints)
NAMES = ("preds", "pos_pred_src")
"""Usual names of predictions."""

_OFFSET = 0.5
_HEAD = 0.6  # of the head box's diagonal: the evaluation's SC_BIAS
_TRUTH_REMEDY = (
    "give the official layout: pos_gt_src (16, 2, N), jnt_missing (16, N) and headboxes_src (2, 2, N), as in MPII's "
    "valid_head_boxes.mat"
)
_REMEDY = "give predictions as an array (N, 16, 2) or (16, 2, N) of 1-based pixels, MATLAB format"


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Labelled people.

    Attributes:
        joints: float64 (N, 16, 2), original pixels in this project's coordinates; 0 where not labelled.
        labelled: bool (N, 16).
        head_size: float64 (N,), 0.6 × the head box's diagonal.
    """

    joints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    head_size: NDArray[np.float64]


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a ground truth in the official layout.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    arrays = _read(path, ("pos_gt_src", "jnt_missing", "headboxes_src"), _TRUTH_REMEDY)
    joints, missing, boxes = (arrays[name] for name in ("pos_gt_src", "jnt_missing", "headboxes_src"))
    if joints.ndim == boxes.ndim == 2:  # MATLAB drops the last axis if there is one person
        joints, boxes = joints[..., None], boxes[..., None]
    people = joints.shape[-1] if joints.ndim else 0
    for name, array, shape in (
        ("pos_gt_src", joints, (JOINTS, 2, people)),
        ("jnt_missing", missing, (JOINTS, people)),
        ("headboxes_src", boxes, (2, 2, people)),
    ):
        if array.shape != shape or array.dtype.kind not in "biuf" or not people:
            wanted = ", ".join([*map(str, shape[:-1]), "N"])
            raise UserError(
                f"{path}: {name!r} is {array.dtype.name} {array.shape}, expected numbers ({wanted}), the same N "
                f"everywhere; {_TRUTH_REMEDY}"
            )
    if not np.isin(missing, (0, 1)).all():
        raise UserError(f"{path}: 'jnt_missing' holds values other than 0 and 1; {_TRUTH_REMEDY}")
    labelled = missing.T == 0
    joints = joints.astype(np.float64).transpose(2, 0, 1)
    if not (np.abs(joints[labelled]) < MAX_COORDINATE).all():
        raise UserError(f"{path}: 'pos_gt_src' holds values beyond any image; {_TRUTH_REMEDY}")
    low, high = boxes.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        head_size = _HEAD * np.linalg.norm(high - low, axis=0)
    if not ((head_size > 0) & (head_size < MAX_COORDINATE)).all():
        raise UserError(f"{path}: 'headboxes_src' has boxes of no size, or beyond any image; {_TRUTH_REMEDY}")
    return GroundTruth(np.where(labelled[..., None], joints - _OFFSET, 0), labelled, head_size)


def read_predictions(path: Path, variable: str | None = None) -> NDArray[np.float64]:
    """Read predictions.

    Args:
        path: the file.
        variable: name of the array; by default ``preds``, or ``pos_pred_src``, or the file's only array of a suitable
            shape.

    Returns:
        (N, 16, 2), original pixels in this project's coordinates, N at least 1. Values that are not finite, or
        beyond any image, are NaN: nothing was predicted.

    Raises:
        UserError: the file is missing, damaged, or has no such array or several.
    """
    arrays = _read(path, () if variable is None else (variable,), _REMEDY)
    fitting = {name: people for name, array in arrays.items() if (people := _predictions(array)) is not None}
    if not fitting:
        content = ", ".join(f"{name} {array.dtype.name} {array.shape}" for name, array in list(arrays.items())[:8])
        raise UserError(f"{path}: no predictions (it holds {content or 'no array of numbers'}); {_REMEDY}")
    usual = [name for name in NAMES if name in fitting]
    if not usual and len(fitting) > 1:
        names = " or ".join(sorted(fitting))
        raise UserError(f"{path}: several arrays could be the predictions; choose one with --variable {names}")
    people = fitting[usual[0] if usual else next(iter(fitting))].astype(np.float64)
    return np.where(np.abs(people) < MAX_COORDINATE, people, np.nan) - _OFFSET


def predictions_mat(positions: NDArray[np.floating[Any]], images: Sequence[str], joints: Sequence[str]) -> bytes:
    """Encode predictions as a MATLAB file of version 5.

    Args:
        positions: (N, J, 2), original pixels in this project's coordinates.
        images: names of the N images.
        joints: names of the J joints.

    Returns:
        The content of the file: ``preds`` float64 (N, J, 2), 1-based; ``images`` cell (N, 1); ``joints`` cell (J, 1).
    """
    assert positions.shape == (len(images), len(joints), 2), f"predictions of shape {positions.shape}"
    buffer = io.BytesIO()
    content: Mapping[str, object] = {
        "preds": positions.astype(np.float64) + _OFFSET,
        "images": np.array(list(images), object)[:, None],
        "joints": np.array(list(joints), object)[:, None],
    }
    scipy.io.savemat(buffer, content, do_compression=True)
    return buffer.getvalue()


def _read(path: Path, names: Sequence[str], remedy: str) -> dict[str, NDArray[Any]]:
    """Read arrays of a MATLAB file of any version; all numeric arrays if none is named."""
    try:
        with open(path, "rb") as file:
            is_hdf5 = file.read(10) == b"MATLAB 7.3"
    except OSError:
        is_hdf5 = False  # read_arrays raises the error
    if not is_hdf5:
        return read_arrays(path, "MATLAB", names, remedy)
    return {name: array.T for name, array in read_arrays(path, "HDF5", names, remedy).items()}


def _predictions(array: NDArray[Any]) -> NDArray[Any] | None:
    """The array as (N, 16, 2), or None. The two layouts exclude each other: the middle axis has 16 entries or 2."""
    if array.dtype.kind not in "iuf":
        return None
    if array.shape == (JOINTS, 2):
        return array[None]
    if array.ndim != 3 or not array.size:
        return None
    if array.shape[1:] == (JOINTS, 2):
        return array
    return array.transpose(2, 0, 1) if array.shape[:2] == (JOINTS, 2) else None
