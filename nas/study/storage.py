"""Where studies are kept: SQLite on one machine, PostgreSQL on many, through Optuna's RDB storage.

Everything that must not happen twice (proposing, claiming, handing back) happens inside :func:`exclusive`, a lock that
all workers of a study share: a file lock beside an SQLite database, an advisory lock in PostgreSQL.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
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
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nas.errors import UserError

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"pckh": "maximize", "params": "minimize", "madds": "minimize"}
METRIC_NAMES = {"pckh": "PCKh", "params": "params", "madds": "MAdds"}
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
LIVE = (TrialState.RUNNING, TrialState.WAITING)


def masked(url: str) -> str:
    """A storage URL that may be shown: without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return re.sub(r":(?!//).*@", ":***@", url)  # not a URL, but a password may stand where one has it


def masked_url(storage: BaseStorage) -> str:
    """A storage's URL without its password."""
    return engine_of(storage).url.render_as_string(hide_password=True)


def default_url(folder: Path) -> str:
    """The SQLite database of a study's folder."""
    return f"sqlite:///{folder / 'study.db'}"


def open_storage(url: str) -> RDBStorage:
    """Open or create a database.

    Raises:
        UserError: not a database URL, no driver for it, or the database cannot be reached or written.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UserError(
            f"--storage {masked(url)}: not a database URL; "
            "use sqlite:///path/study.db or postgresql+psycopg://user@host/db"
        ) from error
    sqlite = parsed.get_backend_name() == "sqlite"
    if not sqlite and parsed.get_backend_name() != "postgresql":
        raise UserError(
            f"--storage {masked(url)}: studies are kept in SQLite or PostgreSQL; "
            "use sqlite:///path/study.db or postgresql+psycopg://user@host/db"
        )
    if sqlite and parsed.database in (None, "", ":memory:"):
        raise UserError(f"--storage {url}: workers cannot share a database in memory; use sqlite:///path/study.db")
    if sqlite:
        try:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--storage {url}: folder cannot be made: {error.strerror}; choose a writable path"
            ) from error
    arguments: dict[str, Any] = (
        {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 4}
    )
    if parsed.drivername in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        arguments["connect_args"] = {"connect_timeout": 15}  # seconds; a silent host would else be waited for minutes
    try:
        # Two workers that start together would both create the tables.
        if sqlite:
            with _file_lock(str(parsed.database)):
                storage = RDBStorage(url, engine_kwargs=arguments)
                _write_ahead(storage.engine)
        else:
            engine = sqlalchemy.create_engine(url, **arguments)
            with _server_lock(engine):
                storage = RDBStorage(url, engine_kwargs=arguments)
            engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        first = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        missing = isinstance(error, ImportError) or isinstance(cause, ImportError)
        remedy = "install the driver of this database" if missing else "check the path or the server, user and database"
        raise UserError(f"--storage {masked(url)}: cannot be opened: {first}; {remedy}") from error
    return storage


def _write_ahead(engine: sqlalchemy.Engine) -> None:
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


@contextmanager
def _server_lock(engine: sqlalchemy.Engine) -> Iterator[None]:
    key = zlib.crc32(f"hourglass-nas {engine.url.database}".encode())
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


@contextmanager
def exclusive(storage: BaseStorage) -> Iterator[None]:
    """Hold the lock that all workers on this database share. Not reentrant."""
    engine = engine_of(storage)
    if engine.dialect.name == "sqlite":
        database = engine.url.database
        assert database, "SQLite databases are files here"
        with _file_lock(database):
            yield
    else:
        with _server_lock(engine):
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
    """Create a study with named objectives, or load the one of that name."""
    study = optuna.create_study(
        storage=storage,
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


@dataclass(frozen=True)
class Owner:
    """The process that runs a trial: enough to tell whether it is still there."""

    host: str
    pid: int
    born: float

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), round(psutil.Process().create_time(), 2))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a user attribute."""
        return {"host": self.host, "pid": self.pid, "born": self.born}

    @classmethod
    def of(cls, trial: FrozenTrial) -> Owner | None:
        """Who claimed a trial, if anybody said so."""
        raw = trial.user_attrs.get("owner")
        return cls(str(raw["host"]), int(raw["pid"]), float(raw["born"])) if raw else None

    def gone(self) -> bool:
        """Whether it certainly has ended: a process of this machine that is not there any more."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            born: float = process.create_time()
            ended = process.status() == psutil.STATUS_ZOMBIE  # killed, and nobody has waited for it
        except psutil.NoSuchProcess:
            return True
        return ended or abs(born - self.born) > 1


GIVEN = ("given", "published", "candidate", "times", "seed")
"""User attributes with which a trial is queued whose network is given, not proposed: what it tries, under what."""

ATTEMPTS = 5
"""How often a trial's worker may die before it is given up: a network that kills its worker must not do so for ever."""


def hand_back_orphans(study: Study, ended_by_us: bool = False) -> list[int]:
    """Hand back the trials whose process has died: each runs again, from its checkpoint. Call inside :func:`exclusive`.

    Args:
        study: whose trials.
        ended_by_us: its process was ended on purpose (Ctrl-C), which is no fault of the trial's.

    Returns:
        numbers of the trials that had been left running.
    """
    handed = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = Owner.of(trial)
        if owner is None or owner.gone():
            hand_back(study, trial, ended_by_us)
            handed.append(trial.number)
    return handed


def hand_back(study: Study, trial: FrozenTrial, ended_by_us: bool = False) -> None:
    """End a running trial unfinished and queue its parameters for whoever asks next."""
    attempt = int(trial.user_attrs.get("attempt", 1)) - ended_by_us
    storage = study._storage
    if attempt >= ATTEMPTS:
        storage.set_trial_user_attr(trial._trial_id, "reason", f"its worker died {ATTEMPTS} times; given up")
        storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
        return
    # Ended before it is queued: a crash in between loses a proposal, never trains one twice.
    storage.set_trial_user_attr(trial._trial_id, "reason", "its worker ended; handed back")
    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    given = "given" in trial.user_attrs
    kept = {name: value for name, value in trial.user_attrs.items() if given and name in GIVEN}
    params = trial.params or trial.system_attrs.get("fixed_params", {})
    if params or kept:
        study.enqueue_trial(params, user_attrs={**kept, "attempt": attempt + 1, "first_number": first_number(trial)})


def first_number(trial: FrozenTrial) -> int:
    """The number under which a trial's work was first begun; checkpoints are kept under it."""
    return int(trial.user_attrs.get("first_number", trial.number))


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
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return Counts(
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        running=states.count(TrialState.RUNNING),
        waiting=states.count(TrialState.WAITING),
    )


def claim(study: Study, total: int, distributions: Mapping[str, BaseDistribution]) -> optuna.Trial | None:
    """Take the next trial, its parameters drawn and its owner noted, so that at most ``total`` are ever done.

    Returns:
        the trial; None when so many are done, running or queued elsewhere that none is left to begin.
    """
    with exclusive(study._storage):
        hand_back_orphans(study)
        counts = count(study)
        if counts.done + counts.running >= total:
            return None
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        # A given network that the space does not hold is trained without parameters of the space.
        bare = bool(waiting) and not waiting[0].system_attrs.get("fixed_params")
        trial = study.ask({} if bare else dict(distributions))
        trial.set_user_attr("owner", Owner.me().to_dict())
        trial.set_user_attr("claimed_at", round(time.time(), 1))
        return trial
