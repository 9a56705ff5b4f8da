"""Waiting for a database that is away: stopped and started again, or out of reach for some minutes."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from nas.errors import UserError

RETRY_SECONDS = float(os.environ.get("HOURGLASS_PATIENCE", "300"))
"""Seconds after which a database that stays away is given up."""

_LONGEST = 5.0  # seconds between two attempts

T = TypeVar("T")


def is_unavailable(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a server that cannot be reached just now.

    A server's errors only: an SQLite file is there or it is not, and waits for its own locks.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DBAPIError) and not isinstance(cause.orig, sqlite3.Error):
            return isinstance(cause, (OperationalError, InterfaceError)) or cause.connection_invalidated
        # Optuna tries some queries again over the connection that is lost: that error is the second one's context.
        cause = cause.__cause__ or cause.__context__
    return False


def _sqlite_failure(error: BaseException) -> str | None:
    """What SQLite says of a file that it cannot use: full, read-only, removed; None for any other error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, sqlite3.OperationalError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def retry_while_unavailable(url: str, do: Callable[[], T], patience: float | None = None) -> T:
    """Do something with the database; again, ever more slowly, while it is away.

    Nothing may be done twice by doing it again: an error may come after the database has done what it was asked to.

    Args:
        url: of the database, without its password.
        do: what to do.
        patience: seconds, by default :data:`PATIENCE`.

    Raises:
        UserError: it stays away, or is a file that cannot be used.
    """
    began, pause = time.monotonic(), 0.1
    allowed = RETRY_SECONDS if patience is None else patience
    while True:
        try:
            return do()
        except Exception as error:
            if not is_unavailable(error):
                if wrong := _sqlite_failure(error):
                    raise UserError(
                        f"--storage {url}: {wrong}; see to the file and its disk and give the same command again, "
                        "which goes on"
                    ) from error
                raise
            waited = time.monotonic() - began
            if waited + pause > allowed:
                raise UserError(
                    f"--storage {url}: away for {waited:.0f} s; start the database and give the same command again, "
                    "which goes on"
                ) from error
        time.sleep(pause)
        pause = min(_LONGEST, 2 * pause)
