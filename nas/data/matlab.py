"""MATLAB structs, nested as annotations nest them, as plain Python values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.data.packing import read_apart
from nas.errors import UserError

_READ_STRUCTS = """
import json, sys
import numpy as np
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
        columns = {field: [plain(item) for item in value[field].flat] for field in value.dtype.names if field in keep}
        return [{field: column[i] for field, column in columns.items()} for i in range(value.size)]
    if value.dtype.kind == "O":
        return [plain(item) for item in value.flat]
    if value.dtype.kind == "U":
        return "".join(value.flat)
    if value.dtype.kind in "biuf":
        return value.tolist() if value.size else []
    raise TypeError(f"holds {value.dtype.name}")

try:
    import scipy.io
    found = scipy.io.loadmat(path, variable_names=[name])
    text = json.dumps(plain(found[name]) if name in found else None)
except Exception as error:
    sys.exit(f"not MATLAB, truncated or damaged ({type(error).__name__}: {error})".replace("\\n", " ")[:200])
sys.stdout.write(text)
"""


def read_structs(path: Path, name: str, fields: Sequence[str], remedy: str) -> list[dict[str, Any]]:
    """Read one variable that is a struct array, from a file whose content cannot be trusted.

    Args:
        path: the file; MATLAB up to version 7.2.
        name: the variable.
        fields: the fields to keep, at whatever depth they stand; the others are skipped.
        remedy: what a person should do about a wrong file; ends the error's line.

    Returns:
        One dictionary for each element. In them, as everywhere below: a struct or struct array is a list of
        dictionaries, a cell array a list, a text a str, a matrix of numbers a list of rows, and whatever is empty an
        empty list or str. A field that an element lacks is one that all of the struct array lack.

    Raises:
        UserError: the file is missing, of another format, damaged, or lacks the variable or its fields.
    """
    text = read_apart(path, "MATLAB", _READ_STRUCTS, [str(path), name, *fields], remedy)
    found = json.loads(text)
    if found is None:
        raise UserError(f"{path}: holds no {name!r}; {remedy}")
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise UserError(f"{path}: {name!r} is not a struct; {remedy}")
    return found


def single(value: Any) -> Any:
    """What an element of a struct holds, out of the 1 × 1 matrix or struct array that it stands in; None if empty."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return None if value in ([], "") else value
