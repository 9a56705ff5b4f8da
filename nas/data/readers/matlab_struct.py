"""Nested MATLAB structs as plain Python values."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.data.readers.sandbox import read_in_subprocess
from nas.errors import UserError

_READ_STRUCTS = """
import gc, json, sys
import numpy as np
gc.disable()  # no cycles here, and looking for them takes most of the time
path, name, *keep = sys.argv[1:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
except (ImportError, ValueError, OSError):
    pass  # not on this system

def plain(value):
    if not isinstance(value, np.ndarray):
        raise TypeError(f"holds a {type(value).__name__}")
    if value.dtype.names is not None:
        names = [field for field in value.dtype.names if field in keep]
        if not names:
            return [{} for _ in range(value.size)]
        columns = [[plain(item) for item in value[field].ravel("F").tolist()] for field in names]
        return [dict(zip(names, row)) for row in zip(*columns)]
    if value.dtype.kind in "biuf":
        return value.item() if value.size == 1 else value.tolist() if value.size else []
    if value.dtype.kind == "O":
        return [plain(item) for item in value.ravel("F").tolist()]
    if value.dtype.kind == "U":
        return "".join(value.ravel().tolist())
    raise TypeError(f"holds {value.dtype.name}")

try:
    import scipy.io
    found = scipy.io.loadmat(path, variable_names=[name])
    text = json.dumps(plain(found[name]) if name in found else None)
except Exception as error:
    sys.exit(f"not MATLAB, truncated or damaged ({type(error).__name__}: {error})".replace("\\n", " ")[:200])
sys.stdout.write(text)
"""
# A release of MPII's size, 6 MiB compressed, takes 20 s of a busy core.
_SECONDS, _SECONDS_PER_MIB = 60.0, 20.0


def read_structs(path: Path, name: str, fields: Sequence[str], remedy: str) -> list[dict[str, Any]]:
    """Read a struct array from an untrusted file.

    Args:
        path: the file; MATLAB up to version 7.2.
        name: the variable.
        fields: the fields to keep, at any depth; others are skipped.
        remedy: what to do about a wrong file; the end of error messages.

    Returns:
        One dictionary per element. At any depth, a struct or struct array is a list of dictionaries, a cell array a
        list, a text a str, a single number a number, a matrix a list of rows, and anything empty an empty list or str.
        All elements of a struct array have the same fields.

    Raises:
        UserError: the file is missing, of another format, damaged, or lacks the variable or its fields.
    """
    size = path.stat().st_size / 2**20 if path.is_file() else 0
    arguments = [str(path), name, *fields]
    text = read_in_subprocess(path, "MATLAB", _READ_STRUCTS, arguments, remedy, _SECONDS + _SECONDS_PER_MIB * size)
    gc_was_enabled = gc.isenabled()
    gc.disable()  # avoids scans of millions of small live objects
    try:
        content = json.loads(text)
    finally:
        if gc_was_enabled:
            gc.enable()
    if content is None:
        raise UserError(f"{path}: holds no {name!r}; {remedy}")
    if not isinstance(content, list) or not content or not all(isinstance(element, dict) for element in content):
        raise UserError(f"{path}: {name!r} is not a struct; {remedy}")
    return content


def single(value: Any) -> Any:
    """Unwrap a field's value from cell arrays of one element; None if it is empty."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return None if value in ([], "") else value
