"""Files of a study: found by name, read and written, with errors that name the file and what is allowed."""

from __future__ import annotations

import tomllib
import uuid
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from upath import UPath

from nas.console import writable_directory
from nas.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
"""The root of the source checkout; where the package is installed from a wheel, the folder that it lies in."""


def packaged(folder: str) -> Path:
    """The folder ``search_spaces`` or ``studies`` that comes with the package."""
    return Path(str(resources.files("nas"))).joinpath(folder).resolve()  # resolved: a checkout holds a link


def find(name: str | Path, folder: str) -> Path:
    """Return the file that a path or a bare name refers to (``quickstart`` in ``studies``).

    Args:
        name: a path, or the name of a TOML file in ``folder``; the ending ``.toml`` may be left out.
        folder: ``search_spaces`` or ``studies``. One in the working directory goes before the package's.

    Raises:
        UserError: there is no such file; the message lists the packaged ones.
    """
    given = Path(name)
    if given.name:
        for path in (given, Path(folder) / given, packaged(folder) / given):
            for candidate in (path, path.with_name(path.name + ".toml")):
                if candidate.is_file():
                    return candidate
    names = ", ".join(sorted(path.stem for path in packaged(folder).glob("*.toml")))
    raise UserError(f"{name}: no such file; give a path to a TOML file, or one of {folder}/: {names}")


def study_database(name: str, runs: Path) -> Path:
    """The SQLite database of a study that names no other storage."""
    return runs / name / "study.db"


def check_study_exists(name: str, runs: Path, storage: str | None = None) -> None:
    """Check that a study has a database, without opening it: quick, for the start of a command.

    Args:
        name: the study's.
        runs: folder of all studies.
        storage: database URL; it is not looked at.

    Raises:
        UserError: the study's own database file is missing.
    """
    if storage is None and not study_database(name, runs).is_file():
        raise no_study(name, study_database(name, runs))


def no_study(name: str, database: Path) -> UserError:
    """The error for a study whose database file is missing."""
    return UserError(f"--study {name}: there is no {database}; run `python -m nas.search` first")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises UserError on anything that is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors write a byte order mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def write_file(path: Path, data: bytes, flag: str) -> None:
    """Write a file named by a flag, atomically.

    Raises:
        UserError: it cannot be written; the message names ``flag``.
    """
    from nas.training.checkpoint import write_atomically  # imports torch

    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(f"{flag} {path}: {wrong}; give the path of a file in an existing one")
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written: {error.strerror}; choose another path") from error


_UNUSABLE_SCHEMES = {
    "memory": "other processes cannot see it",
    "http": "it cannot be written to",
    "https": "it cannot be written to",
    "data": "it cannot be written to",
}


def check_checkpoint_url(url: str, flag: str) -> None:
    """Check that a URL is of a kind that workers can share, and holds no password, which would be stored.

    Raises:
        UserError: it is of another kind, or holds one.
    """
    for part in url.split("::"):
        scheme, separator, rest = part.partition("://")
        if separator and scheme.lower() in _UNUSABLE_SCHEMES:
            reason = _UNUSABLE_SCHEMES[scheme.lower()]
            raise UserError(f"{flag} {url}: {reason}; give a folder or a URL that all workers can read and write")
        user, at, _ = rest.partition("/")[0].rpartition("@")
        if at and ":" in user:
            shown = url.replace(f"{user}@", f"{user.partition(':')[0]}:***@")
            raise UserError(
                f"{flag} {shown}: a password here would be stored with the study; leave it out, and give it in the "
                "environment or in fsspec's configuration (~/.config/fsspec)"
            )


def checkpoint_folder(given: str, flag: str) -> str:
    """Check that checkpoints can be written to a folder, on a disk or at a URL that fsspec understands.

    Returns:
        The URL, or the absolute path of the folder.

    Raises:
        UserError: the kind of URL is unknown, its driver is missing, or nothing can be written there.
    """
    if "://" not in given:
        return str(writable_directory(Path(given), flag).resolve())
    check_checkpoint_url(given, flag)
    try:
        folder = UPath(given)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{uuid.uuid4().hex[:8]}"
        probe.write_bytes(b"")
        probe.unlink()
    except ImportError as error:
        raise UserError(f"{flag} {given}: {error}, a Python package, to use such a URL") from error
    except (OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{flag} {given}: cannot be written to: {error}; give a folder or URL that can") from error
    return given


def first_problem(path: Path, error: ValidationError, model: type[BaseModel]) -> UserError:
    """Turn pydantic's first error about a model into one line: file, key, value, what is allowed."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "file"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return UserError(f"{path}: {where}: unknown key; allowed: {', '.join(_keys(model, problem['loc'][:-1]))}")
    value = problem.get("input")
    shown = "" if isinstance(value, dict) else f" (is {value!r})"
    return UserError(f"{path}: {where}: {message}{shown}")


def _keys(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """The keys of a model, or of a table inside it."""
    for part in where:
        inner = model.model_fields[str(part)].annotation
        assert isinstance(inner, type), f"{part} is not a table"
        assert issubclass(inner, BaseModel), f"{part} is not a table"
        model = inner
    return list(model.model_fields)
