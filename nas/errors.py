"""What ends a command without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input from outside (a flag, a file, a database).

    The message is one line that names the file or flag, the value and the remedy. Commands print it
    without a traceback and exit with code 2 (:func:`nas.console.run`).
    """


class TerminatedError(Exception):
    """A scheduler asked the command to end (SIGTERM), and everything that it did is kept: exit code 143."""

    def __init__(self) -> None:
        super().__init__("stopped by SIGTERM; the same command goes on where it was")
