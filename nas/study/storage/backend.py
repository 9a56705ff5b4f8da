"""Databases of studies: SQLite on one machine, PostgreSQL for many, through Optuna's RDB storage."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nas.errors import UserError
from nas.study.storage.cached_storage import CachedTrialStorage
from nas.study.storage.engine import engine_arguments, mask_password, mask_url, set_idle_timeout, use_wal
from nas.study.storage.heartbeat import create_table
from nas.study.storage.locks import file_lock, server_lock, verify_lock_on_commit
from nas.study.storage.tolerant_study import TolerantStorage

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
# Lost connections are reported by nas.study.storage.retry.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"pckh": "maximize", "params": "minimize", "madds": "minimize"}
COMPANIONS: dict[str, tuple[str, ...]] = {
    "full": ("label",),
    "repeats": ("given", "seed"),
    "calibration": ("given", "times"),
}
"""Studies that are kept beside one under its name, a dash and this; with attributes that all of their trials have."""
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
                storage = TolerantStorage(url, engine_kwargs=arguments)
                use_wal(storage.engine)
                create_table(storage.engine)
        else:
            engine = sqlalchemy.create_engine(url, **arguments)
            with server_lock(engine):
                storage = TolerantStorage(url, engine_kwargs=arguments)
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


def check_name(storage: RDBStorage, name: str) -> None:
    """Raise UserError for the name of a new study that is kept for the companions of another."""
    for kind in COMPANIONS:
        if name.endswith(f"-{kind}") and name not in optuna.get_all_study_names(storage):
            raise UserError(f"--name {name}: names that end in -{kind} are kept for companion studies; choose another")


def is_companion(study: Study, kind: str) -> bool:
    """Whether a study holds a companion's trials; earlier versions did not mark it, but their trials tell."""
    marked = study.user_attrs.get("companion")
    if marked is not None:
        return bool(marked == kind)
    if ("identity" in study.user_attrs) == (kind == "full"):
        return False
    needed = COMPANIONS[kind]
    return all(set(needed) <= set(trial.user_attrs) for trial in study.get_trials(deepcopy=False))


def check_ours(study: Study, kind: str | None = None) -> None:
    """Refuse to add trials to a study that somebody else began, or that is kept for something else.

    Args:
        study: of the name that is wanted.
        kind: of a companion, a key of :data:`COMPANIONS`; None for a study of its own.

    Raises:
        UserError: says what the study is, and what to do.
    """
    name, where = study.study_name, mask_url(_engine_url(study))
    remedy = "choose another --name or --storage"
    if [direction.name.lower() for direction in study.directions] != list(DIRECTIONS.values()):
        found = ", ".join(direction.name.lower() for direction in study.directions)
        raise UserError(f"study {name!r} in {where} is not of nas.search: its objectives are {found}; {remedy}")
    if kind is None:
        if "companion" in study.user_attrs:
            raise UserError(f"study {name!r} in {where} holds the {study.user_attrs['companion']} trials of another")
        # Every trial that a worker of ours has claimed names its owner.
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
        trials = sum("owner" not in trial.user_attrs for trial in ended)
        if "identity" not in study.user_attrs and trials:
            raise UserError(f"study {name!r} in {where} is not of nas.search: {trials} trials of others; {remedy}")
    elif not is_companion(study, kind) and (study.user_attrs or study.get_trials(deepcopy=False)):
        base = name.removesuffix(f"-{kind}")
        raise UserError(
            f"study {name!r} in {where} is one of its own, but the {kind} trials of {base!r} are kept under that name; "
            f"rename it, or search {base!r} again under another --name"
        )


def _engine_url(study: Study) -> URL:
    backend = getattr(study._storage, "_backend", study._storage)
    assert isinstance(backend, RDBStorage)
    url: URL = backend.engine.url
    return url


def open_read_only(url: str) -> RDBStorage:
    """Open a database for reading; one that cannot be written, as on a read-only share, as a copy of it.

    SQLite cannot open a database in WAL mode without writing beside it. What is written to the copy is lost when the
    process ends.

    Raises:
        UserError: as :func:`open_storage`.
    """
    file = database_file(url)
    if file is None or not file.is_file() or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return open_storage(url)
    folder = tempfile.mkdtemp(prefix="nas-read-only-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        for name in (file.name, f"{file.name}-wal"):
            if file.with_name(name).is_file():
                shutil.copyfile(file.with_name(name), Path(folder, name))  # without its mode, which forbids writing
    except OSError as error:
        raise UserError(f"--storage {url}: cannot be read: {error.strerror}; check its permissions") from error
    return open_storage(f"sqlite:///{Path(folder, file.name)}")


def create_study(
    storage: RDBStorage,
    name: str,
    objectives: Sequence[str],
    sampler: BaseSampler | None = None,
    kind: str | None = None,
) -> Study:
    """Create a study with named objectives, or load the one of that name.

    Args:
        storage: the database.
        name: of the study.
        objectives: keys of :data:`DIRECTIONS`.
        sampler: of a worker, which lists trials often and therefore reads them through a
            :class:`CachedTrialStorage`; None outside workers.
        kind: of a companion, a key of :data:`COMPANIONS`; None for a study of its own.

    Raises:
        UserError: the study of that name is another project's, or kept for something else.
    """
    if name in optuna.get_all_study_names(storage):
        check_ours(optuna.load_study(study_name=name, storage=storage), kind)
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
    if kind is not None and "companion" not in study.user_attrs:
        study.set_user_attr("companion", kind)
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
