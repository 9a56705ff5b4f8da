"""Errors that end a command without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input from outside (a flag, a file, a database).

    The message is one line that names the file or flag, the value and the remedy. Commands print it
    without a traceback and exit with code 2 (:func:`nas.console.run`).
    """


def describe_error(error: BaseException) -> str:
    """Return an error's type and message on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class TerminatedError(Exception):
    """A command was stopped by a SIGTERM and has saved its state; it exits with code 143."""

    def __init__(self) -> None:
        super().__init__("stopped by SIGTERM; the same command resumes")
