"""Finding, reading and writing files, with errors that say where and what is allowed."""

from __future__ import annotations

import tomllib
import uuid
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from upath import UPath

from nas.console import writable_directory
from nas.errors import UserError
from nas.training.checkpoint import write_atomically

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder: search_spaces/ and studies/ lie in it."""


def find(name: str | Path, folder: str) -> Path:
    """The file meant by a path, or by a bare name in one of the project's folders (``quickstart`` in ``studies``).

    Raises:
        UserError: there is none; lists those that there are.
    """
    given = Path(name)
    if given.name:
        for path in (given, Path(folder) / given, ROOT / folder / given):
            for candidate in (path, path.with_name(path.name + ".toml")):
                if candidate.is_file():
                    return candidate
    there = sorted(p.stem for p in (ROOT / folder).glob("*.toml"))
    raise UserError(f"{name}: no such file; give a path to a TOML file, or one of {folder}/: {', '.join(there)}")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises UserError on anything that is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def write_file(path: Path, data: bytes, flag: str) -> None:
    """Write a file that a flag names, atomically.

    Raises:
        UserError: it cannot be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(f"{flag} {path}: {wrong}; give the path of a file in an existing one")
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written: {error.strerror}; choose another place") from error


def checkpoint_folder(given: str, flag: str) -> str:
    """A folder for checkpoints, on a disk (made absolute) or at a URL that fsspec understands, if it can be used.

    Raises:
        UserError: no such kind of URL, a driver is missing, or nothing can be written there.
    """
    if "://" not in given:
        return str(writable_directory(Path(given), flag).resolve())
    try:
        folder = UPath(given)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{uuid.uuid4().hex[:8]}"
        probe.write_bytes(b"")
        probe.unlink()
    except ImportError as error:
        raise UserError(f"{flag} {given}: {error}, a Python package, to use such a URL") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{flag} {given}: cannot be written to: {error}; give a folder or URL that can") from error
    return given


def first_problem(path: Path, error: ValidationError, model: type[BaseModel]) -> UserError:
    """One line for pydantic's first complaint about a model: file, key, value, what is allowed."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "file"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return UserError(f"{path}: {where}: unknown key; allowed: {', '.join(_keys(model, problem['loc'][:-1]))}")
    value = problem.get("input")
    shown = "" if isinstance(value, dict) else f" (is {value!r})"
    return UserError(f"{path}: {where}: {message}{shown}")


def _keys(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """The keys that a model, or a table inside it, has."""
    for part in where:
        inner = model.model_fields[str(part)].annotation
        assert isinstance(inner, type), f"{part} is no table"
        assert issubclass(inner, BaseModel), f"{part} is no table"
        model = inner
    return list(model.model_fields)
