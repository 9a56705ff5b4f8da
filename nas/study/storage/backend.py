"""Databases of studies: SQLite on one machine, PostgreSQL for many, through Optuna's RDB storage."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nas.errors import UserError
from nas.study.storage.cached_storage import CachedTrialStorage
from nas.study.storage.engine import engine_arguments, mask_password, mask_url, set_idle_timeout, use_wal
from nas.study.storage.heartbeat import create_table
from nas.study.storage.locks import file_lock, server_lock, verify_lock_on_commit

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
# Lost connections are reported by nas.study.storage.retry.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"pckh": "maximize", "params": "minimize", "madds": "minimize"}
METRIC_NAMES = {"pckh": "PCKh", "params": "params", "madds": "MAdds"}


def default_url(folder: Path) -> str:
    """The SQLite database in a study's folder."""
    # Quoted where the text of a URL would be read otherwise: ? begins a query, and % an escape.
    return URL.create("sqlite", database=str(folder / "study.db")).render_as_string(hide_password=False)


def database_file(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases, and for text that is no URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None  # open_storage reports what is wrong with it
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def database_url(url: str) -> URL:
    """Parse the URL of a database that can hold a study.

    Raises:
        UserError: not a database URL, or a database that workers cannot share.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: the port is not a number
        raise UserError(
            f"--storage {mask_password(url)}: not a database URL; "
            "use sqlite:///path/study.db or postgresql+psycopg://user@host/db"
        ) from error
    if parsed.get_backend_name() == "grpc":
        raise UserError(
            f"--storage {mask_password(url)}: Optuna's gRPC proxy forwards neither locks nor heartbeats, which "
            "workers need; give the URL of the database behind it"
        )
    sqlite = parsed.get_backend_name() == "sqlite"
    if not sqlite and parsed.get_backend_name() != "postgresql":
        raise UserError(
            f"--storage {mask_password(url)}: studies are stored in SQLite or PostgreSQL; "
            "use sqlite:///path/study.db or postgresql+psycopg://user@host/db"
        )
    if sqlite and (("?" in url and not parsed.query) or parsed.host):
        wrong = "what follows ? is not part of the path; write %3F for it" if not parsed.host else "a slash is missing"
        raise UserError(f"--storage {url}: {wrong}; use sqlite:///path/study.db")
    if sqlite and parsed.database in (None, "", ":memory:"):
        raise UserError(f"--storage {url}: workers cannot share a database in memory; use sqlite:///path/study.db")
    return parsed


def open_storage(url: str) -> RDBStorage:
    """Open a database, or create it.

    Raises:
        UserError: not a database URL, its driver is not installed, or the database cannot be reached or written.
    """
    parsed = database_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite:
        try:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--storage {url}: folder cannot be created: {error.strerror}; choose a writable path"
            ) from error
    arguments = engine_arguments(parsed)
    try:
        # Locked: two workers that start together would both create the tables.
        if sqlite:
            with file_lock(str(parsed.database)):
                storage = RDBStorage(url, engine_kwargs=arguments)
                use_wal(storage.engine)
                create_table(storage.engine)
        else:
            engine = sqlalchemy.create_engine(url, **arguments)
            with server_lock(engine):
                storage = RDBStorage(url, engine_kwargs=arguments)
                create_table(storage.engine)
            engine.dispose()
            verify_lock_on_commit(storage.engine)
            set_idle_timeout(storage.engine)
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        first_line = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        missing = isinstance(error, ImportError) or isinstance(cause, ImportError)
        remedy = "install its driver" if missing else "check the path or the server, user and database"
        raise UserError(f"--storage {mask_password(url)}: cannot be opened: {first_line}; {remedy}") from error
    return storage


def create_study(
    storage: RDBStorage, name: str, objectives: Sequence[str], sampler: BaseSampler | None = None
) -> Study:
    """Create a study with named objectives, or load the one of that name.

    Args:
        storage: the database.
        name: of the study.
        objectives: keys of :data:`DIRECTIONS`.
        sampler: of a worker, which lists trials often and therefore reads them through a
            :class:`CachedTrialStorage`; None outside workers.
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
        UserError: there is none of that name; the message lists the studies of the storage.
    """
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except KeyError as error:
        names = optuna.get_all_study_names(storage)
        raise UserError(
            f"study {name!r}: not in {mask_url(storage.engine.url)} "
            f"(it holds: {', '.join(names) if names else 'none'}); run `python -m nas.search`"
        ) from error
