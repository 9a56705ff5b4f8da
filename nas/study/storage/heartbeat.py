"""Signs of life: each worker renews a row in the study's database, from which machines that cannot see each other's
processes tell who is still there.

Times are those of the database, so that clocks of machines may differ or jump. An SQLite database is used on one
machine, whose steady clock serves instead: it does not jump, nor run on while the machine sleeps.
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
"""Seconds between two signs of life."""

LEASE_SECONDS = float(os.environ.get("HOURGLASS_LEASE", "60"))
"""Seconds without a sign of life after which a worker's trial is handed to another."""

FORGET_SECONDS = 86_400.0
"""Seconds after which a worker that gave no sign of life is listed no more."""

_metadata = MetaData()
TABLE = Table(
    "nas_workers",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("study", String(512), nullable=False, index=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", Double, nullable=False),  # when the process was, by its machine
    Column("device", String(64), nullable=False),
    Column("lease", Double, nullable=False),  # seconds; its own, so that machines under other settings judge alike
    Column("started", Double, nullable=False),  # seconds since 1970
    Column("beat", Double, nullable=False),  # by the clock of _now
)


@dataclass(frozen=True)
class WorkerHeartbeat:
    """A worker as its row tells.

    Attributes:
        id: of the worker.
        host: its machine.
        pid: its process there.
        born: when that process was.
        device: what it trains on.
        started: seconds since 1970.
        age: seconds since its last sign of life, not counting those before the database was last started.
        lease: seconds after which it has lost its trial.
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
        """Whether its trial may be handed to another.

        An age below 0 is of a sign given while this was asked, or of before the machine was last started.
        """
        return abs(self.age) > self.lease


def create_table(engine: sqlalchemy.Engine) -> None:
    """Create the table if it is absent. Call under the lock that the creation of Optuna's tables is under."""
    _metadata.create_all(engine)


def _seconds(moment: Any) -> Any:
    return sqlalchemy.cast(sqlalchemy.extract("epoch", moment), Double)


def _now(engine: sqlalchemy.Engine) -> Any:
    """Now, as an expression of the database's."""
    if engine.dialect.name == "sqlite":
        return literal(time.monotonic(), Double)
    return _seconds(func.clock_timestamp())


def worker_heartbeats(engine: sqlalchemy.Engine, study: str) -> dict[str, WorkerHeartbeat]:
    """The workers of a study, by their ids, the oldest first."""
    now: Any = _now(engine)
    known: Any = TABLE.c.beat
    if engine.dialect.name == "postgresql":
        # While it was stopped nobody could give one: a lease begins anew with the database.
        known = func.greatest(known, _seconds(func.pg_postmaster_start_time()))
    columns = [TABLE.c[name] for name in ("id", "host", "pid", "born", "device", "started")]
    query = select(*columns, (now - known).label("age"), TABLE.c.lease).where(TABLE.c.study == study)
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(TABLE.c.started)).all()
    return {row.id: WorkerHeartbeat(**row._mapping) for row in rows}


def remove_workers(engine: sqlalchemy.Engine, workers: list[str]) -> None:
    """Remove the rows of workers that are known to have ended."""
    if workers:
        with engine.begin() as connection:
            connection.execute(delete(TABLE).where(TABLE.c.id.in_(workers)))


class Lease:
    """This process's row, renewed by a thread of its own over a connection of its own.

    The thread outlives a database that is away: it tries again at every beat. It also looks whether the trial that is
    being trained still runs, so that training can ask at every step what costs nothing: :meth:`lost`.
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
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._engine, self._beat, self._lease = engine, beat, lease
        self._about = {"study": study, "host": host, "pid": pid, "born": born, "device": device, "lease": lease}
        self._renewed = -float("inf")
        self._trial: int | None = None
        self._lost: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def start(self) -> None:
        """Write the row and go on renewing it."""
        self.renew()
        self._thread.start()

    def renew(self) -> None:
        """Give a sign of life; the row is written again if somebody removed it."""
        sent = _steady()
        with self._engine.begin() as connection:
            mine = TABLE.c.id == self.id
            if not connection.execute(TABLE.update().where(mine).values(beat=_now(self._engine))).rowcount:
                sqlite = self._engine.dialect.name == "sqlite"
                started = literal(time.time(), Double) if sqlite else _now(self._engine)
                connection.execute(
                    insert(TABLE).values(id=self.id, **self._about, started=started, beat=_now(self._engine))
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
        """Whether nobody can have taken the trial because of missing signs of life."""
        return _steady() - self._renewed < self._lease

    def hold(self, trial: int | None) -> None:
        """Say which trial (its id in the database) is being trained, or none."""
        self._trial, self._lost = trial, None

    def lost(self) -> bool:
        """Whether the trial that is being trained was found to be no longer this worker's."""
        return self._lost is not None and self._lost == self._trial

    def end(self) -> None:
        """Stop giving signs of life and take the row away; a database that is away keeps it until it is forgotten."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        try:
            remove_workers(self._engine, [self.id])
            self._engine.dispose()
        except SQLAlchemyError:
            return

    def _keep(self) -> None:
        pause = self._beat
        while not self._stop.wait(pause):
            try:
                self.renew()
                pause = self._beat
            except SQLAlchemyError:
                # The database is away. What is lost meanwhile is noticed at the next renewal, or when telling.
                pause = min(self._beat, 1.0 if pause >= self._beat else 2 * pause)


def _steady() -> float:
    """Seconds that a process cannot sleep through, stopped or suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
