"""Recognise, parse and validate annotation files."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from nas.data.people import Person
from nas.errors import UserError

MAX_COORDINATE = 1e5
"""Larger values, in pixels, are not positions in an image."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=-MAX_COORDINATE, lt=MAX_COORDINATE)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
_T = TypeVar("_T")


def file_format(path: Path, remedy: str) -> Literal["HDF5", "MATLAB", "JSON"]:
    """Detect the format of a file from its first bytes.

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
    if start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"[", b"{"):
        return "JSON"
    raise UserError(f"{path}: neither HDF5 nor MATLAB nor JSON, or damaged; {remedy}")


def read_json(path: Path, remedy: str) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: the file is missing, unreadable or not JSON.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {remedy}")
    try:
        return from_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not JSON, truncated or damaged ({error}); {remedy}") from error


def validate_json(path: Path, kind: TypeAdapter[_T], value: Any, remedy: str) -> _T:
    """Validate the value of a JSON or TOML file.

    Raises:
        UserError: it does not match; the message names the first wrong key and its value.
    """
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        if first["type"] == "missing":
            message = "is missing"
        else:
            message = f"is {shorten(first['input'])}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise UserError(f"{path}: {key or 'the content'} {message}; {remedy}") from error


def shorten(value: object) -> str:
    """A value for a message: on one line, of at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def joint_distance(
    points: NDArray[np.floating[Any]], labelled: NDArray[np.bool_], a: tuple[int, ...], b: tuple[int, ...]
) -> float | None:
    """Distance between the mean positions of two groups of joints; None if one of these joints is not labelled.

    Args:
        points: (J, 2).
        labelled: bool (J,).
        a: indices of the first group.
        b: indices of the second group.
    """
    if not labelled[[*a, *b]].all():
        return None
    return float(np.linalg.norm(points[list(a)].mean(0) - points[list(b)].mean(0)))


def require_people(path: Path, people: Sequence[Person], dropped: Mapping[str, int], remedy: str) -> None:
    """Raise :class:`UserError` if nobody in a file can be used."""
    if not people:
        raise UserError(f"{path}: nobody in it can be used ({', '.join(dropped) or 'it holds no people'}); {remedy}")
