"""The lock that all workers of a database share: a file lock beside SQLite, an advisory lock in PostgreSQL."""

from __future__ import annotations

import fcntl
import random
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from nas.errors import UserError
from nas.study.storage.heartbeat import LEASE_SECONDS

QUEUE_SLOTS = """
SELECT slot
FROM generate_series(1, greatest(16, (current_setting('max_connections')::int - 40) / 4)) AS slot
WHERE pg_try_advisory_lock(:queue, slot)
LIMIT 1
"""
"""Takes a free slot of a queue. A server with the usual 100 connections has 16 slots; one with more has more."""

_local = threading.local()
"""``connection``: the one over which this thread holds the advisory lock."""

_random = random.Random()


@contextmanager
def database_lock(engine: sqlalchemy.Engine, claiming: bool = False) -> Iterator[None]:
    """Hold the lock of a database. It is not reentrant.

    Args:
        engine: of the database.
        claiming: whether a proposal will be made, which takes long. On a server, those who claim wait in a queue of
            their own first; an SQLite file has few workers.

    Raises:
        UserError: the SQLite file was removed.
    """
    if engine.dialect.name == "sqlite":
        database = engine.url.database
        assert database, "an SQLite storage is always a file"
        if not Path(database).is_file():
            raise UserError(f"--storage {engine.url}: {database} was removed while in use; start a new search")
        with file_lock(database):
            yield
    else:
        with server_lock(engine, claiming):
            yield


@contextmanager
def file_lock(database: str) -> Iterator[None]:
    """Hold the file lock beside an SQLite database."""
    with open(f"{database}.lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, and so does the end of the process


@contextmanager
def server_lock(engine: sqlalchemy.Engine, claiming: bool = False) -> Iterator[None]:
    """Hold the advisory lock of a PostgreSQL database."""
    keys = [zlib.crc32(f"hourglass-nas {engine.url.database}".encode())]
    if claiming:
        # A queue of its own for claims: reporting a trial's end then waits for one proposal at most, not for all.
        keys.insert(0, zlib.crc32(f"hourglass-nas claims {engine.url.database}".encode()))
    with _acquire(engine, keys) as connection:
        _local.connection = connection
        try:
            yield
        finally:
            _local.connection = None
            try:
                connection.execute(text("SELECT pg_advisory_unlock_all()"))
                connection.execute(text("RESET idle_session_timeout"))
            except SQLAlchemyError:
                connection.invalidate()  # the lock ended with its session; what was written before stays


def _acquire(engine: sqlalchemy.Engine, keys: Sequence[int]) -> sqlalchemy.Connection:
    """Wait for advisory locks, one after the other, and return the connection that holds them.

    The server serves waiting sessions first come, first served. With hundreds of workers, the waiting ones would use
    up all connections. So only as many wait as there are queue slots (each an advisory lock as well); the others ask
    for a slot now and then and hold no connection in between.
    """
    while True:
        engine.dispose()
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            # A process suspended while it holds the lock would block all others: the server (14 or later) ends its
            # session.
            if (connection.dialect.server_version_info or (0,)) >= (14,):
                connection.execute(text(f"SET idle_session_timeout = {round(1000 * LEASE_SECONDS)}"))
            if connection.execute(text(QUEUE_SLOTS), {"queue": keys[0] - 2**31}).scalar() is not None:
                for key in keys:
                    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
                return connection
        except BaseException:
            connection.invalidate()  # what it holds ends with it
            connection.close()
            raise
        connection.close()
        engine.dispose()
        time.sleep(_random.uniform(2.0, 6.0))


def verify_lock_on_commit(engine: sqlalchemy.Engine) -> None:
    """Refuse commits of a thread that has lost the advisory lock.

    The lock ends with its connection, for example when the server is stopped. Others may then hold it while this
    thread still writes over another, newer connection. If the lock's connection is alive at a commit, it was alive
    during the whole transaction.
    """

    @event.listens_for(engine, "commit")
    def _commit(_connection: sqlalchemy.Connection) -> None:
        lock = getattr(_local, "connection", None)
        if lock is not None:
            try:
                lock.execute(text("SELECT 1"))
            except SQLAlchemyError as error:
                cause = ConnectionError("the lock ended with its connection")
                raise OperationalError("SELECT 1", {}, cause) from error
