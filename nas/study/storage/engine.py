"""SQLAlchemy engines and their settings: SQLite in WAL mode, PostgreSQL with timeouts; URLs without passwords."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from nas.study.storage.heartbeat import LEASE_SECONDS


def mask_password(url: str) -> str:
    """Return a storage URL without its password, for messages."""
    try:
        return mask_url(make_url(url))
    except (ArgumentError, ValueError):
        # Not a URL, but it may contain a password where a URL has one.
        hidden = re.sub(r":(?!//).*@", ":***@", url)
        return re.sub(r"(?i)(pass\w*=)[^&\s]*", r"\1***", hidden)


def mask_url(url: URL) -> str:
    """Return a parsed URL as text, without its password."""
    # libpq also accepts the password as a query parameter.
    secret = [key for key in url.query if "pass" in key.lower() and key.lower() != "passfile"]
    masked = url.update_query_dict(dict.fromkeys(secret, "***")).render_as_string(hide_password=True)
    return masked.replace("%2A%2A%2A", "***")


def engine_arguments(url: URL) -> dict[str, Any]:
    """Arguments of ``sqlalchemy.create_engine`` for the database behind a URL."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    return {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 4, "connect_args": _connection_timeouts(url)}


def heartbeat_engine(url: URL) -> sqlalchemy.Engine:
    """Create an engine for heartbeats, which use connections of their own."""
    if url.get_backend_name() == "sqlite":
        engine = sqlalchemy.create_engine(url, **engine_arguments(url))
        use_wal(engine)
    else:
        # Connect for every heartbeat: the connections of a server (often a hundred) are shared by all workers.
        engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=_connection_timeouts(url))
        set_idle_timeout(engine)
    return engine


def _connection_timeouts(url: URL) -> dict[str, int]:
    """Timeouts for a PostgreSQL server that stops answering; libpq's defaults are minutes."""
    if url.drivername not in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        return {}
    seconds = {"connect_timeout": 15, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return {**seconds, "tcp_user_timeout": 30_000}  # milliseconds


def use_wal(engine: sqlalchemy.Engine) -> None:
    """Set SQLite up so that eight writers never see "database is locked". Call inside the file lock."""

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()
    engine.connect().close()  # now: changing to WAL mode does not wait for other writers


def set_idle_timeout(engine: sqlalchemy.Engine) -> None:
    """Let PostgreSQL end idle transactions.

    A process that is suspended or cut off within a transaction would otherwise keep its rows locked. When it
    continues, its connection is lost, and it repeats the transaction if it still may.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET idle_in_transaction_session_timeout = {round(1000 * LEASE_SECONDS)}")
        cursor.close()
        connection.commit()

    engine.dispose()
