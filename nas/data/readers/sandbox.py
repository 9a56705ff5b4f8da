"""Read annotation files in a child process.

Damaged MATLAB and HDF5 files can crash the libraries that read them (scipy 1.17, on an unknown element type), hang them
(HDF5 2.0), or make them allocate any amount of memory. Files from outside are therefore read in a child process with
limits on time and memory.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.errors import UserError

Array = NDArray[Any]

_READER_SCRIPT = """
import io, sys
import numpy as np
kind, path, *names = sys.argv[1:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
except (ImportError, ValueError, OSError):
    pass  # not on this system
try:
    if kind == "MATLAB":
        import scipy.io
        content = scipy.io.loadmat(path, variable_names=names or None)
    else:
        import h5py
        with h5py.File(path, "r", locking=False) as file:
            content = {}
            for name in names or file:
                link = file.get(name, getlink=True)
                if isinstance(link, (h5py.ExternalLink, h5py.SoftLink)):
                    raise ValueError(f"{name!r} is a link to another place")
                if isinstance(file.get(name), h5py.Dataset):
                    if file[name].external or file[name].is_virtual:
                        raise ValueError(f"the values of {name!r} are stored in another file")
                    content[name] = file[name][()]
    usable = {name: value for name, value in content.items() if isinstance(value, (np.ndarray, np.generic))}
    names = names or [name for name, value in usable.items() if value.dtype.kind in "biuf"]
    arrays = {name: np.asarray(content[name]) for name in names if name in content}
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            arrays[name] = np.array(array.tolist())
        if arrays[name].dtype.hasobject:
            raise TypeError(f"{name!r} holds neither numbers nor texts")
    buffer = io.BytesIO()
    np.savez(buffer, **{f"@{name}": array for name, array in arrays.items()})  # an array may be called "file"
except Exception as error:
    sys.exit(f"not {kind}, truncated or damaged ({type(error).__name__}: {error})".replace("\\n", " ")[:200])
sys.stdout.buffer.write(buffer.getvalue())
"""
_READ_SECONDS = 60


def read_arrays(path: Path, kind: Literal["MATLAB", "HDF5"], names: Sequence[str], remedy: str) -> dict[str, Array]:
    """Read arrays of numbers or texts from an untrusted file, in a child process.

    Args:
        path: the file.
        kind: its format; MATLAB up to version 7.2.
        names: the arrays, all required; if empty, every numeric array of the file.
        remedy: what to do about a wrong file; the end of error messages.

    Returns:
        The arrays by name, in their own shapes and types; texts are bytes or str.

    Raises:
        UserError: the file is missing, of another format, damaged, or lacks an array.
    """
    content = read_in_subprocess(path, kind, _READER_SCRIPT, [kind, str(path), *names], remedy)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name.removeprefix("@"): archive[name] for name in archive.files}
    for name in names:
        if name not in arrays:
            raise UserError(f"{path}: holds no {name!r}; {remedy}")
    return arrays


def read_in_subprocess(
    path: Path, kind: str, script: str, arguments: Sequence[str], remedy: str, seconds: float = _READ_SECONDS
) -> bytes:
    """Run a Python script that reads an untrusted file, in a child process, and return its standard output.

    Args:
        path: the file.
        kind: its format, for messages.
        script: writes its result to standard output, or exits with a one-line error.
        arguments: of the script.
        remedy: what to do about a wrong file; the end of error messages.
        seconds: time limit.

    Raises:
        UserError: the file is missing, or the script failed, crashed or took too long.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {remedy}")
    command = [sys.executable, "-c", script, *arguments]
    try:
        reader = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{path}: damaged, not read within {seconds:.0f} s; {remedy}") from error
    if reader.returncode:
        errors = reader.stderr.decode(errors="replace").strip().splitlines() if reader.returncode > 0 else []
        raise UserError(f"{path}: {errors[-1] if errors else f'damaged, it crashes the {kind} reader'}; {remedy}")
    return reader.stdout
