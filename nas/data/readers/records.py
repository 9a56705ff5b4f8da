"""What the readers share: telling formats apart, JSON that others wrote, and sizes that a format does not give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from nas.data.packed.packing import image_split, read_arrays
from nas.data.people import Person
from nas.errors import UserError

LARGEST = 1e5
"""Beyond any picture, in pixels."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=-LARGEST, lt=LARGEST)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]

_T = TypeVar("_T")


def file_format(path: Path, remedy: str) -> Literal["HDF5", "MATLAB", "JSON"]:
    """The format of a file, from its first bytes.

    Raises:
        UserError: the file is missing, unreadable or none of these.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {remedy}")
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if start.startswith(b"MATLAB 7.3"):
        raise UserError(f"{path}: saved by MATLAB as version 7.3; load it there and save it with '-v7'")
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5"
    if start[126:128] in (b"IM", b"MI"):
        return "MATLAB"
    if start.lstrip()[:1] in (b"[", b"{"):
        return "JSON"
    raise UserError(f"{path}: neither HDF5 nor MATLAB nor JSON, or damaged; {remedy}")


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing, unreadable or no JSON.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {remedy}")
    try:
        return from_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not JSON, truncated or damaged ({error}); {remedy}") from error


def validated(path: Path, kind: TypeAdapter[_T], value: Any, remedy: str) -> _T:
    """The value of a JSON file, as the kind of records that it should hold.

    Raises:
        UserError: it holds something else; the message names the first wrong key and its value.
    """
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        if first["type"] == "missing":
            message = "is missing"
        else:
            message = f"is {short(first['input'])}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise UserError(f"{path}: {key or 'the content'} {message}; {remedy}") from error


def short(value: object) -> str:
    """A value for a message: on one line, and not a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_hourglass(
    path: Path, joints: int, remedy: str
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Read what the hourglass code's HDF5 holds of N people.

    Args:
        path: HDF5 with ``imgname``, ``part`` (N, J, 2), ``center`` (N, 2), ``scale`` and ``normalize`` (N,).
        joints: J.
        remedy: what a person should do about a wrong file; ends the error's line.

    Returns:
        The pictures' names, and the arrays in the order above, float64, every value that of a picture.

    Raises:
        UserError: the file is missing, damaged or of another layout.
    """
    found = read_arrays(path, "HDF5", ["imgname", "part", "center", "scale", "normalize"], remedy)
    names = found["imgname"]
    if names.ndim != 1 or not len(names) or names.dtype.kind not in "SU":
        raise UserError(f"{path}: 'imgname' is {names.dtype.name} {names.shape}, expected texts (N,); {remedy}")
    images = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
    count = len(images)

    def numbers(name: str, *shape: int) -> NDArray[np.float64]:
        values = found[name]
        if values.shape != shape or values.dtype.kind not in "fiu":
            wrong = f"{values.dtype.name} {values.shape}, expected numbers {shape}"
            raise UserError(f"{path}: {name!r} is {wrong}; {remedy}")
        if not (np.abs(values) < LARGEST).all():
            raise UserError(f"{path}: {name!r} holds values beyond any picture; {remedy}")
        return values.astype(np.float64)

    part, center = numbers("part", count, joints, 2), numbers("center", count, 2)
    return images, part, center, numbers("scale", count), numbers("normalize", count)


def hourglass_people(
    images: Sequence[str],
    joints: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    centers: NDArray[np.float64],
    scales: NDArray[np.float64],
    head_sizes: NDArray[np.float64],
    no_head_size: str,
    splits: Mapping[str, float],
) -> tuple[list[Person], dict[str, int], NDArray[np.bool_]]:
    """The N people of a file in the hourglass layout, read by :func:`read_hourglass`.

    Args:
        images: their pictures' names.
        joints: (N, J, 2), in this project's coordinates.
        labelled: bool (N, J).
        centers: (N, 2), counted from 1, as the layout has them.
        scales: (N,), boxes over 200 pixels.
        head_sizes: (N,); whoever has none is left out,
        no_head_size: for this reason.
        splits: split → share of the pictures.

    Returns:
        The people in the file's order, how many were left out by reason, and bool (N,): who was not.
    """
    people = []
    dropped: dict[str, int] = {}
    kept = np.zeros(len(images), np.bool_)
    for i, image in enumerate(images):
        reason = None
        if not labelled[i].any():
            reason = "no labelled joint"
        elif not scales[i] > 0:
            reason = "no scale"
        elif not head_sizes[i] > 0:
            reason = no_head_size
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        kept[i] = True
        people.append(
            Person(
                image=image,
                joints=joints[i].astype(np.float32),
                labelled=labelled[i],
                center=(centers[i] - 0.5).astype(np.float32),
                size=200 * float(scales[i]),
                head_size=float(head_sizes[i]),
                split=image_split(image, splits),
            )
        )
    return people, dropped, kept


def distance(
    points: NDArray[np.floating[Any]], known: NDArray[np.bool_], a: tuple[int, ...], b: tuple[int, ...]
) -> float | None:
    """Distance between the middles of some joints and some others; None if one of them is not labelled.

    Args:
        points: (J, 2).
        known: bool (J,), which are labelled.
        a: indices of some joints.
        b: and of the others.
    """
    if not known[[*a, *b]].all():
        return None
    return float(np.linalg.norm(points[list(a)].mean(0) - points[list(b)].mean(0)))
