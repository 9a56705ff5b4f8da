"""Heartbeats: each worker renews a row in the study's database.

They tell machines that cannot see each other's processes which workers are alive. Times come from the database, so that
clocks of machines may differ or jump. An SQLite database is used on one machine, whose monotonic clock serves instead:
it does not jump, and stands still while the machine sleeps.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Double, Integer, MetaData, String, Table, delete, func, insert, literal, select, text
from sqlalchemy.exc import SQLAlchemyError

BEAT_SECONDS = float(os.environ.get("HOURGLASS_BEAT", "15"))
"""Seconds between two heartbeats."""

LEASE_SECONDS = float(os.environ.get("HOURGLASS_LEASE", "60"))
"""Seconds without a heartbeat after which a worker's trial may be given to another worker."""

FORGET_SECONDS = 86_400.0
"""Seconds without a heartbeat after which a worker is no longer listed."""

_metadata = MetaData()
TABLE = Table(
    "nas_workers",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("study", String(512), nullable=False, index=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", Double, nullable=False),  # start of the process, in seconds since its machine was booted
    Column("device", String(64), nullable=False),
    Column("lease", Double, nullable=False),  # seconds; stored, so that machines with other settings agree
    Column("started", Double, nullable=False),  # seconds since 1970
    Column("beat", Double, nullable=False),  # time of the last heartbeat, by the clock of _now
)


@dataclass(frozen=True)
class WorkerHeartbeat:
    """A worker, as its row describes it.

    Attributes:
        id: of the worker.
        host: name of its machine.
        pid: its process id there.
        born: start time of the process, in seconds since the machine was booted.
        device: that it trains on.
        started: time of its first heartbeat, in seconds since 1970.
        age: seconds since its last heartbeat, or since the database was last started if that was later.
        lease: seconds without a heartbeat after which its trial may be given to another worker.
    """

    id: str
    host: str
    pid: int
    born: float
    device: str
    started: float
    age: float
    lease: float

    @property
    def expired(self) -> bool:
        """Whether its trial may be given to another worker.

        The age is below 0 if the heartbeat was sent during the query, or before the machine was last booted.
        """
        return abs(self.age) > self.lease


def create_table(engine: sqlalchemy.Engine) -> None:
    """Create the table of workers if it does not exist. Call inside the lock that guards Optuna's tables."""
    _metadata.create_all(engine)


def _seconds(moment: Any) -> Any:
    """An SQL expression of a time in seconds since 1970."""
    return sqlalchemy.cast(sqlalchemy.extract("epoch", moment), Double)


def _now(engine: sqlalchemy.Engine) -> Any:
    """An SQL expression of the current time."""
    if engine.dialect.name == "sqlite":
        return literal(time.monotonic(), Double)
    return _seconds(func.clock_timestamp())


def worker_heartbeats(engine: sqlalchemy.Engine, study: str) -> dict[str, WorkerHeartbeat]:
    """Workers of a study by id, the oldest first."""
    now: Any = _now(engine)
    last: Any = TABLE.c.beat
    if engine.dialect.name == "postgresql":
        # No heartbeat can arrive while the server is stopped: leases start anew with the server.
        last = func.greatest(last, _seconds(func.pg_postmaster_start_time()))
    columns = [TABLE.c[name] for name in ("id", "host", "pid", "born", "device", "started")]
    query = select(*columns, (now - last).label("age"), TABLE.c.lease).where(TABLE.c.study == study)
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(TABLE.c.started)).all()
    return {row.id: WorkerHeartbeat(**row._mapping) for row in rows}


def remove_workers(engine: sqlalchemy.Engine, workers: list[str]) -> None:
    """Remove the rows of workers that have ended."""
    if workers:
        with engine.begin() as connection:
            connection.execute(delete(TABLE).where(TABLE.c.id.in_(workers)))


class Lease:
    """A worker's claim to its trial, renewed by heartbeats from a thread with a database connection of its own.

    The thread survives an unavailable database: it tries again at every heartbeat. It also checks whether the trial
    that is being trained still runs, so that :meth:`lost` costs nothing and can be called at every step.
    """

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        study: str,
        host: str,
        pid: int,
        born: float,
        device: str,
        beat: float = BEAT_SECONDS,
        lease: float = LEASE_SECONDS,
        tag: str = "",
    ) -> None:
        self.id = uuid.uuid4().hex[:12] + (f"-{tag}" if tag else "")
        self._engine, self._beat, self._lease = engine, beat, lease
        self._row = {"study": study, "host": host, "pid": pid, "born": born, "device": device, "lease": lease}
        self._renewed = -float("inf")
        self._trial: int | None = None
        self._lost: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="lease", daemon=True)

    def start(self) -> None:
        """Write the row and start renewing it."""
        self.renew()
        self._thread.start()

    def renew(self) -> None:
        """Send a heartbeat. The row is written again if it was removed."""
        sent = _monotonic()
        with self._engine.begin() as connection:
            own_row = TABLE.c.id == self.id
            if not connection.execute(TABLE.update().where(own_row).values(beat=_now(self._engine))).rowcount:
                sqlite = self._engine.dialect.name == "sqlite"
                started = literal(time.time(), Double) if sqlite else _now(self._engine)
                connection.execute(
                    insert(TABLE).values(id=self.id, **self._row, started=started, beat=_now(self._engine))
                )
            trial = self._trial
            if trial is not None:
                state = connection.execute(
                    text("SELECT state FROM trials WHERE trial_id = :trial"), {"trial": trial}
                ).scalar()
                if state != "RUNNING":
                    self._lost = trial
        self._renewed = sent

    def fresh(self) -> bool:
        """Whether the lease has not expired since the last heartbeat."""
        return _monotonic() - self._renewed < self._lease

    def hold(self, trial: int | None) -> None:
        """Set the trial (its id in the database) that is being trained, or None."""
        self._trial, self._lost = trial, None

    def lost(self) -> bool:
        """Whether a heartbeat has found that the trial no longer runs for this worker."""
        return self._lost is not None and self._lost == self._trial

    def end(self) -> None:
        """Stop the heartbeats and remove the row. If the database is unavailable, the row stays until it is purged."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        try:
            remove_workers(self._engine, [self.id])
            self._engine.dispose()
        except SQLAlchemyError:
            return

    def _send_heartbeats(self) -> None:
        pause = self._beat
        while not self._stop.wait(pause):
            try:
                self.renew()
                pause = self._beat
            except SQLAlchemyError:
                # The database is unavailable. A lost trial is noticed at the next heartbeat, or when it is reported.
                pause = min(self._beat, 1.0 if pause >= self._beat else 2 * pause)


def _monotonic() -> float:
    """A clock in seconds that also runs while the process or the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
