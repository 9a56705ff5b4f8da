"""File names outside of this process: on terminals, in JSON and for libraries that take fewer names than the system."""

from __future__ import annotations

import codecs
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRINTABLE = "printable"
"""Name of the error handler of streams under which every text can be printed; see :func:`printable`."""


def printable(name: str | Path) -> str:
    r"""Return a name as text that can be encoded: bytes that are not UTF-8, as old archives have, become ``\xe9``.

    Args:
        name: a path, of which the system's bytes count, or a text that may hold parts of such.
    """
    text = str(name)
    try:
        data = os.fsencode(name) if isinstance(name, Path) else text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair of surrogates, from JSON
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = printable(error.object[error.start : error.end])
    return part.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(PRINTABLE, _replace)


@contextmanager
def plain_name(path: Path) -> Iterator[str]:
    """Yield a name under which FFmpeg, OpenCV and TensorBoard open a file or folder, or write one that does not exist.

    They take ``12:`` for a protocol and ``%d`` for a number, and names must be UTF-8: an absolute path avoids the
    first, a symbolic link in a temporary folder the others.
    """
    name = os.path.abspath(path)
    if "%" not in name and printable(name) == name and _is_utf8(name):
        yield name
        return
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        link = os.path.join(
            folder, f"file{path.suffix}" if path.suffix.isascii() and "%" not in path.suffix else "file"
        )
        os.symlink(name, link)
        yield link


def _is_utf8(name: str) -> bool:
    """Whether the system's bytes of a name are UTF-8: in some locales, they are not what libraries are given."""
    return os.fsencode(name) == name.encode("utf-8", "surrogateescape")
