"""Where studies are kept: SQLite on one machine, PostgreSQL on many, through Optuna's RDB storage.

Everything that must not happen twice (proposing, claiming, telling, handing back) happens inside :func:`exclusive`, a
lock that all workers of a study share: a file lock beside an SQLite database, an advisory lock in PostgreSQL.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import re
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import psutil
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from nas.errors import UserError
from nas.study.storage.cached_storage import CachedTrialStorage
from nas.study.storage.heartbeat import (
    FORGET_SECONDS,
    LEASE_SECONDS,
    Lease,
    create_table,
    remove_workers,
    worker_heartbeats,
)
from nas.study.storage.retry import retry_while_unavailable

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
# Connections that a stopped server has ended: whoever waits for it says so.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"pckh": "maximize", "params": "minimize", "madds": "minimize"}
METRIC_NAMES = {"pckh": "PCKh", "params": "params", "madds": "MAdds"}
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
LIVE = (TrialState.RUNNING, TrialState.WAITING)


def mask_password(url: str) -> str:
    """A storage URL that may be shown: without its password."""
    try:
        return _masked(make_url(url))
    except (ArgumentError, ValueError):
        hidden = re.sub(r":(?!//).*@", ":***@", url)  # not a URL, but a password may stand where one has it
        return re.sub(r"(?i)(pass\w*=)[^&\s]*", r"\1***", hidden)


def _masked(url: URL) -> str:
    # libpq takes a password among the options too.
    secret = [key for key in url.query if "pass" in key.lower() and key.lower() != "passfile"]
    shown = url.update_query_dict(dict.fromkeys(secret, "***")).render_as_string(hide_password=True)
    return shown.replace("%2A%2A%2A", "***")


def masked_url(storage: BaseStorage) -> str:
    """A storage's URL without its password."""
    return _masked(engine_of(storage).url)


def default_url(folder: Path) -> str:
    """The SQLite database of a study's folder."""
    return f"sqlite:///{folder / 'study.db'}"


def database_url(url: str) -> URL:
    """The parts of a URL under which a study can be kept.

    Raises:
        UserError: not a database URL, or not of a database that workers can share.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UserError(
            f"--storage {mask_password(url)}: not a database URL; "
            "use sqlite:///path/study.db or postgresql+psycopg://user@host/db"
        ) from error
    if parsed.get_backend_name() == "grpc":
        raise UserError(
            f"--storage {mask_password(url)}: Optuna's gRPC proxy passes on neither locks nor heartbeats, which "
            "workers need; give the URL of the database behind it"
        )
    sqlite = parsed.get_backend_name() == "sqlite"
    if not sqlite and parsed.get_backend_name() != "postgresql":
        raise UserError(
            f"--storage {mask_password(url)}: studies are kept in SQLite or PostgreSQL; "
            "use sqlite:///path/study.db or postgresql+psycopg://user@host/db"
        )
    if sqlite and parsed.database in (None, "", ":memory:"):
        raise UserError(f"--storage {url}: workers cannot share a database in memory; use sqlite:///path/study.db")
    return parsed


def open_storage(url: str) -> RDBStorage:
    """Open or create a database.

    Raises:
        UserError: not a database URL, no driver for it, or the database cannot be reached or written.
    """
    parsed = database_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite:
        try:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--storage {url}: folder cannot be made: {error.strerror}; choose a writable path"
            ) from error
    arguments = _engine_arguments(parsed)
    try:
        # Two workers that start together would both create the tables.
        if sqlite:
            with _file_lock(str(parsed.database)):
                storage = RDBStorage(url, engine_kwargs=arguments)
                _use_wal(storage.engine)
                create_table(storage.engine)
        else:
            engine = sqlalchemy.create_engine(url, **arguments)
            with _server_lock(engine):
                storage = RDBStorage(url, engine_kwargs=arguments)
                create_table(storage.engine)
            engine.dispose()
            _verify_lock_on_commit(storage.engine)
            _set_idle_timeout(storage.engine)
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        first = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        missing = isinstance(error, ImportError) or isinstance(cause, ImportError)
        remedy = "install the driver of this database" if missing else "check the path or the server, user and database"
        raise UserError(f"--storage {mask_password(url)}: cannot be opened: {first}; {remedy}") from error
    return storage


def _engine_arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    return {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 4, "connect_args": _connection_timeouts(url)}


def _connection_timeouts(url: URL) -> dict[str, int]:
    """How long a PostgreSQL server that fell silent is waited for: libpq would wait for minutes."""
    if url.drivername not in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        return {}
    seconds = {"connect_timeout": 15, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return {**seconds, "tcp_user_timeout": 30_000}  # milliseconds


def release_connections(storage: BaseStorage) -> None:
    """Close the connections to a server that are not in use: while it trains, a worker needs none."""
    engine = engine_of(storage)
    if engine.dialect.name != "sqlite":
        engine.dispose()


def lease_of(study: Study, device: str, **seconds: float) -> Lease:
    """A lease on a study's trials for this process, over connections of its own; not begun.

    Args:
        study: whose trials.
        device: what this process trains on.
        seconds: ``beat`` and ``lease``, if others than everybody's.
    """
    url = engine_of(study._storage).url
    if url.get_backend_name() == "sqlite":
        engine = sqlalchemy.create_engine(url, **_engine_arguments(url))
        _use_wal(engine)
    else:
        # A connection for each sign of life: a server has a hundred for all workers.
        engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=_connection_timeouts(url))
        _set_idle_timeout(engine)
    me = Owner.me()
    return Lease(engine, study.study_name, me.host, me.pid, me.born, device, **seconds)


def _use_wal(engine: sqlalchemy.Engine) -> None:
    """Settings under which eight writers never see "database is locked" (shared/optuna-facts.md)."""

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
    engine.connect().close()  # now, under the caller's lock: the change to WAL does not wait for other writers


@contextmanager
def _file_lock(database: str) -> Iterator[None]:
    with open(f"{database}.lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, as does the end of the process


_held = threading.local()
"""The connection over which this thread holds the lock."""


QUEUE_SLOTS = """
SELECT place
FROM generate_series(1, greatest(16, (current_setting('max_connections')::int - 40) / 4)) AS place
WHERE pg_try_advisory_lock(:line, place)
LIMIT 1
"""
"""Takes a place in line. A server that has the usual hundred connections for all has 16, one that has more has more."""


def _lock_over(engine: sqlalchemy.Engine, keys: Sequence[int]) -> sqlalchemy.Connection:
    """Wait for advisory locks, one after the other; gives the connection that holds them.

    The server lets waiting ones in first come, first served. So that who has the lock finds a connection to work over
    where hundreds wait, only so many wait in line for the first one, each with a place of its own (an advisory lock as
    well); the others ask for a place now and then, without a connection in between.
    """
    while True:
        engine.dispose()
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            # Who is stopped (SIGSTOP) with the lock in hand would stop all others: the server (14 on) ends its session.
            if (connection.dialect.server_version_info or (0,)) >= (14,):
                connection.execute(text(f"SET idle_session_timeout = {round(1000 * LEASE_SECONDS)}"))
            if connection.execute(text(QUEUE_SLOTS), {"line": keys[0] - 2**31}).scalar() is not None:
                for key in keys:
                    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
                return connection
        except BaseException:
            connection.invalidate()  # what it holds ends with it
            connection.close()
            raise
        connection.close()
        engine.dispose()
        time.sleep(_uneven.uniform(2.0, 6.0))


_uneven = random.Random()


@contextmanager
def _server_lock(engine: sqlalchemy.Engine, claiming: bool = False) -> Iterator[None]:
    keys = [zlib.crc32(f"hourglass-nas {engine.url.database}".encode())]
    if claiming:
        # One after the other, so that who only has to tell a trial's end waits for one proposal, not for all.
        keys.insert(0, zlib.crc32(f"hourglass-nas claims {engine.url.database}".encode()))
    with _lock_over(engine, keys) as connection:
        _held.connection = connection
        try:
            yield
        finally:
            _held.connection = None
            try:
                connection.execute(text("SELECT pg_advisory_unlock_all()"))
                connection.execute(text("RESET idle_session_timeout"))
            except SQLAlchemyError:
                connection.invalidate()  # the lock ended with its session; what was done inside stays done


def _verify_lock_on_commit(engine: sqlalchemy.Engine) -> None:
    """Let nothing be committed inside the lock by who has lost it.

    The lock ends with its connection, when the server is stopped for instance. Others may then hold it while this
    thread still writes over another connection, made since. A lock that is found alive during a transaction was so
    when the transaction began.
    """

    @event.listens_for(engine, "commit")
    def _commit(_connection: sqlalchemy.Connection) -> None:
        lock = getattr(_held, "connection", None)
        if lock is not None:
            try:
                lock.execute(text("SELECT 1"))
            except SQLAlchemyError as error:
                cause = ConnectionError("the lock ended with its connection")
                raise OperationalError("SELECT 1", {}, cause) from error


def _set_idle_timeout(engine: sqlalchemy.Engine) -> None:
    """Let the server end transactions in which nothing happens.

    Who is stopped (SIGSTOP) or cut off in the middle of one would keep its rows from all others. It finds its
    connection lost, and does it again if it may.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET idle_in_transaction_session_timeout = {round(1000 * LEASE_SECONDS)}")
        cursor.close()
        connection.commit()

    engine.dispose()


@contextmanager
def study_lock(storage: BaseStorage, claiming: bool = False) -> Iterator[None]:
    """Hold the lock that all workers on this database share. Not reentrant.

    Args:
        storage: the database.
        claiming: a proposal, which takes long, is to be made: those who want that wait in a line of their own before
            (with a server; at a file there are few).
    """
    engine = engine_of(storage)
    if engine.dialect.name == "sqlite":
        database = engine.url.database
        assert database, "SQLite databases are files here"
        if not Path(database).is_file():
            raise UserError(f"--storage {engine.url}: {database} was removed while it was in use; search anew")
        with _file_lock(database):
            yield
    else:
        with _server_lock(engine, claiming):
            yield


def engine_of(storage: BaseStorage) -> sqlalchemy.Engine:
    """The SQLAlchemy engine under a storage."""
    return database_of(storage).engine


def database_of(storage: BaseStorage) -> RDBStorage:
    """The database under a storage, Optuna's cache in front of it or not."""
    backend = getattr(storage, "_backend", storage)
    assert isinstance(backend, RDBStorage)
    return backend


def create_study(storage: RDBStorage, name: str, objectives: Sequence[str], sampler: Any = None) -> Study:
    """Create a study with named objectives, or load the one of that name.

    Args:
        storage: the database.
        name: of the study.
        objectives: keys of :data:`DIRECTIONS`.
        sampler: of a worker, who lists the trials often: its lists are a :class:`RememberingStorage`'s.
    """
    study = optuna.create_study(
        storage=storage if sampler is None else CachedTrialStorage(storage),
        study_name=name,
        directions=[DIRECTIONS[o] for o in objectives],
        load_if_exists=True,
        sampler=sampler,
    )
    names = [METRIC_NAMES[o] for o in objectives]
    if study.metric_names != names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)
    return study


def load_study(storage: RDBStorage, name: str) -> Study:
    """Load a study.

    Raises:
        UserError: there is none of that name; lists those that there are.
    """
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except KeyError as error:
        names = optuna.get_all_study_names(storage)
        there = ", ".join(names) if names else "none yet"
        raise UserError(
            f"study {name!r}: not in {masked_url(storage)} (there: {there}); run `python -m nas.search`"
        ) from error


def companion_of(study: Study, name: str) -> Study | None:
    """A study of that name beside another one in its storage; None if there is none."""
    if name not in optuna.get_all_study_names(study._storage):
        return None
    return optuna.load_study(study_name=name, storage=study._storage)


@dataclass(frozen=True)
class Owner:
    """The process that runs a trial, and its lease: enough to tell whether it is still there.

    Attributes:
        host: its machine.
        pid: its process there.
        born: when that process was, in seconds since the machine was started.
        worker: id of its lease; empty if it has none.
    """

    host: str
    pid: int
    born: float
    worker: str = ""

    @classmethod
    def me(cls, lease: Lease | None = None) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _process_start_time(psutil.Process()), lease.id if lease else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a user attribute."""
        about: dict[str, Any] = {"host": self.host, "pid": self.pid, "born": self.born}
        return about | ({"worker": self.worker} if self.worker else {})

    @classmethod
    def of(cls, trial: FrozenTrial) -> Owner | None:
        """Who claimed a trial, if anybody said so."""
        raw = trial.user_attrs.get("owner")
        if not raw:
            return None
        return cls(str(raw["host"]), int(raw["pid"]), float(raw["born"]), str(raw.get("worker", "")))

    def gone(self) -> bool:
        """Whether it certainly has ended: a process of this machine that is not there any more."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            born = _process_start_time(process)
            ended = process.status() == psutil.STATUS_ZOMBIE  # killed, and nobody has waited for it
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            return True
        return ended or abs(born - self.born) > 1


def _process_start_time(process: psutil.Process) -> float:
    """When a process was begun: since the machine was, for the time of day may be set while it runs."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        born: float = process.create_time()
        return round(born, 2)
    # The 22nd field; the second one, a name in parentheses, may hold anything.
    fields = Path(f"/proc/{process.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return round(int(fields[19]) / os.sysconf("SC_CLK_TCK"), 2)


GIVEN_ATTRS = ("given", "published", "candidate", "times", "seed")
"""User attributes with which a trial is queued whose network is given, not proposed: what it tries, under what."""

ATTEMPTS = 5
"""How often a trial's worker may die, without an epoch done in between, before the trial is given up: a network that
kills its worker must not do so for ever."""


def stale_trials(study: Study) -> list[FrozenTrial]:
    """The trials that are left running: their process is gone, or their worker has given no sign of life for long."""
    return _stale(study, study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def _stale(study: Study, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    signs = worker_heartbeats(engine_of(study._storage), study.study_name) if running else {}

    def left(owner: Owner | None) -> bool:
        if owner is None or owner.gone():
            return True
        return bool(owner.worker) and (owner.worker not in signs or signs[owner.worker].expired)

    return [trial for trial in running if left(Owner.of(trial))]


def requeue_stale_trials(study: Study, ended_by_us: bool = False) -> list[int]:
    """Hand back the trials that are left running: each runs again, from its checkpoint. Call inside :func:`exclusive`.

    Args:
        study: whose trials.
        ended_by_us: processes of this machine were ended on purpose (Ctrl-C), which is no fault of the trial's.

    Returns:
        numbers of the trials that had been left running.
    """
    here = socket.gethostname()
    handed = []
    for trial in stale_trials(study):
        owner = Owner.of(trial)
        requeue(study, trial, ended_by_us and (owner is None or owner.host == here))
        handed.append(trial.number)
    _enqueue_missing(study)
    return handed


def requeue(study: Study, running: FrozenTrial | optuna.Trial, ended_by_us: bool = False) -> None:
    """End a running trial unfinished and queue its parameters for whoever asks next."""
    trial = study._storage.get_trial(running._trial_id)  # as it is now: lists may tell what it was when it was claimed
    attempt = attempt_of(trial) - ended_by_us
    storage = study._storage
    if attempt >= ATTEMPTS:
        storage.set_trial_user_attr(trial._trial_id, "reason", f"its worker died {ATTEMPTS} times; given up")
        storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
        return
    # Ended before it is queued, so that a crash in between never trains one twice; what it was to be queued as is noted
    # before, so that it is not lost either.
    storage.set_trial_user_attr(trial._trial_id, "reason", "its worker ended; handed back")
    storage.set_trial_user_attr(trial._trial_id, "next_attempt", attempt + 1)
    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    _enqueue_again(study, trial, attempt + 1)


def _enqueue_again(study: Study, trial: FrozenTrial, attempt: int) -> None:
    given = "given" in trial.user_attrs
    kept = {name: value for name, value in trial.user_attrs.items() if given and name in GIVEN_ATTRS}
    # One without an owner was left while it was being claimed and may lack some of its parameters, which, drawn anew,
    # would make another network of it. If it was queued, it is queued as it was; else its place is proposed for again.
    params = trial.params if Owner.of(trial) is not None else trial.system_attrs.get("fixed_params", {})
    if params or kept:
        before = {"first_number": first_number(trial), "earlier": [*earlier_numbers(trial), trial.number]}
        study.enqueue_trial(params, user_attrs={**kept, "attempt": attempt, **before})


def _enqueue_missing(study: Study) -> None:
    """Queue what was handed back by somebody who ended, or lost the database, before it was queued."""
    trials = study.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state == TrialState.FAIL and "next_attempt" in t.user_attrs]
    queued = {number for t in trials for number in earlier_numbers(t)} if ended else set()
    for trial in ended:
        if trial.number not in queued:
            _enqueue_again(study, trial, int(trial.user_attrs["next_attempt"]))


def attempt_of(trial: FrozenTrial) -> int:
    """How often it was begun since it last did an epoch, this time counted."""
    return int(trial.user_attrs.get("attempt", 1))


def first_number(trial: FrozenTrial) -> int:
    """The number under which a trial's work was first begun."""
    return int(trial.user_attrs.get("first_number", trial.number))


def earlier_numbers(trial: FrozenTrial) -> list[int]:
    """The numbers under which a trial's work was done before, the first one first."""
    before = trial.user_attrs.get("earlier")
    if before is None:
        return [first_number(trial)] if "first_number" in trial.user_attrs else []
    return [int(number) for number in before]


def purge_dead_workers(study: Study) -> None:
    """Remove the rows of workers whose process is certainly gone, or that gave no sign of life for a day."""
    engine = engine_of(study._storage)
    signs = worker_heartbeats(engine, study.study_name).values()
    remove_workers(engine, [s.id for s in signs if s.age > FORGET_SECONDS or Owner(s.host, s.pid, s.born).gone()])


@dataclass(frozen=True)
class Counts:
    """How many trials are in which state."""

    complete: int
    pruned: int
    running: int
    waiting: int

    @property
    def done(self) -> int:
        """Trials that count towards the study's total."""
        return self.complete + self.pruned


def count(study: Study) -> Counts:
    """Count a study's trials."""
    return _counts(study.get_trials(deepcopy=False))


def _counts(trials: Sequence[FrozenTrial]) -> Counts:
    states = [trial.state for trial in trials]
    return Counts(
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        running=states.count(TrialState.RUNNING),
        waiting=states.count(TrialState.WAITING),
    )


def polling_interval(waited: float) -> float:
    """Seconds after which a worker that has found no trial to begin for so long asks again.

    At most a tenth longer than it waits anyhow, so that the hundreds who are done do not keep the last ones from the
    database.
    """
    return min(10.0, max(1.0, waited / 10))


def claim(
    study: Study, total: int, distributions: Mapping[str, BaseDistribution], lease: Lease | None = None
) -> optuna.Trial | None:
    """Take the next trial, its parameters drawn and its owner noted, so that at most ``total`` are ever done.

    A database that is away is waited for.

    Args:
        study: whose trial.
        total: trials that are to be done.
        distributions: of its parameters.
        lease: this worker's, begun. With one, a worker has one trial at a time.

    Returns:
        the trial; None when so many are done, running or queued elsewhere that none is left to begin.
    """
    return retry_while_unavailable(masked_url(study._storage), lambda: _claim(study, total, distributions, lease))


def _claim(
    study: Study, total: int, distributions: Mapping[str, BaseDistribution], lease: Lease | None
) -> optuna.Trial | None:
    if lease is not None and not lease.fresh():
        lease.renew()
    me = Owner.me(lease)
    if not _trials_left(study, total, me):
        return None
    with study_lock(study._storage, claiming=True):
        if lease is not None:
            # Claimed already, though the answer was lost with the connection.
            for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if Owner.of(running) == me:
                    return optuna.Trial(study, running._trial_id)
        requeue_stale_trials(study)
        counts = count(study)
        if counts.done + counts.running >= total:
            return None
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        # A given network that the space does not hold is trained without parameters of the space.
        bare = bool(waiting) and not waiting[0].system_attrs.get("fixed_params")
        trial = study.ask({} if bare else dict(distributions))
        trial.set_user_attr("claimed_at", round(time.time(), 1))
        trial.set_user_attr("owner", me.to_dict())  # last: from then on it is nobody else's
        return trial


def _trials_left(study: Study, total: int, me: Owner) -> bool:
    """Whether it is worth waiting for the lock: at the end of a study many workers ask, again and again."""
    trials = study.get_trials(deepcopy=False)
    counts = _counts(trials)
    if counts.done + counts.running < total:
        return True
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    return any(Owner.of(trial) == me for trial in running) or bool(_stale(study, running))


def owns_trial(study: Study, trial: optuna.Trial, owner: Owner | None) -> bool:
    """Whether a trial runs and is its owner's."""
    frozen = study._storage.get_trial(trial._trial_id)
    return frozen.state == TrialState.RUNNING and Owner.of(frozen) == owner
