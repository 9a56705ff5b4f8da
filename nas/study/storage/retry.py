"""Retrying while the database is unavailable: it was stopped, or cannot be reached for some minutes."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from nas.errors import UserError

RETRY_SECONDS = float(os.environ.get("HOURGLASS_PATIENCE", "300"))
"""Seconds after which an unavailable database is given up."""

_MAX_PAUSE = 5.0  # seconds between two attempts

T = TypeVar("T")


def is_unavailable(error: BaseException) -> bool:
    """Whether an error, or its cause, says that a server cannot be reached.

    Errors of SQLite do not count: its file is there or not, and it waits for its locks itself.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DBAPIError) and not isinstance(cause.orig, sqlite3.Error):
            return isinstance(cause, (OperationalError, InterfaceError)) or cause.connection_invalidated
        # Optuna repeats some queries over the lost connection; the first error is the context of the second.
        cause = cause.__cause__ or cause.__context__
    return False


def _sqlite_failure(error: BaseException) -> str | None:
    """SQLite's message about a file that it cannot use (full, read-only, removed); None for other errors."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, sqlite3.OperationalError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def retry_while_unavailable(url: str, function: Callable[[], T], seconds: float | None = None) -> T:
    """Call a function that uses the database, again with growing pauses while the database is unavailable.

    The function must be safe to repeat: an error may occur after the database has done what was asked.

    Args:
        url: of the database, without its password, for messages.
        function: to call.
        seconds: after which to give up; by default :data:`RETRY_SECONDS`.

    Raises:
        UserError: the database stays unavailable, or is a file that cannot be used.
    """
    started, pause = time.monotonic(), 0.1
    allowed = RETRY_SECONDS if seconds is None else seconds
    while True:
        try:
            return function()
        except Exception as error:
            if not is_unavailable(error):
                if failure := _sqlite_failure(error):
                    raise UserError(
                        f"--storage {url}: {failure}; check the file and its disk and give the same command again "
                        "to continue"
                    ) from error
                raise
            waited = time.monotonic() - started
            if waited + pause > allowed:
                raise UserError(
                    f"--storage {url}: unavailable for {waited:.0f} s; start the database and give the same command "
                    "again to continue"
                ) from error
        time.sleep(pause)
        pause = min(_MAX_PAUSE, 2 * pause)
