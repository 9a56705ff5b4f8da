"""A study and the database below it.

Optuna has no public name for a study's storage and for the ids of studies and trials in it. :class:`StudyStore` is the
only place outside this package's storage classes that uses the private ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.artifacts import ArtifactMeta, get_all_artifact_meta
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.study.storage.engine import mask_url
from nas.study.storage.heartbeat import WorkerHeartbeat, remove_workers, worker_heartbeats
from nas.study.storage.locks import database_lock
from nas.study.storage.retry import retry_while_unavailable

T = TypeVar("T")


class TrialLostError(Exception):
    """The trial no longer runs for this worker, so that its result must be dropped."""


@dataclass(frozen=True)
class StudyStore:
    """A study in its database.

    Attributes:
        study: as Optuna opened it.
    """

    study: Study

    @cached_property
    def database(self) -> RDBStorage:
        """The RDB storage, without the cache that Optuna or a worker has in front of it."""
        storage = self.study._storage
        backend = getattr(storage, "_backend", storage)
        assert isinstance(backend, RDBStorage)
        return backend

    @property
    def engine(self) -> sqlalchemy.Engine:
        """The SQLAlchemy engine of the database."""
        return self.database.engine

    @property
    def url(self) -> str:
        """The URL of the database, without its password."""
        return mask_url(self.engine.url)

    @property
    def dashboard_path(self) -> str:
        """The path of the study's page on optuna-dashboard."""
        return f"/dashboard/studies/{self.study._study_id}"

    def lock(self, claiming: bool = False) -> AbstractContextManager[None]:
        """Hold the lock that all workers of this database share; see :func:`~nas.study.storage.locks.database_lock`."""
        return database_lock(self.engine, claiming)

    def retry(self, function: Callable[[], T], seconds: float | None = None) -> T:
        """Call a function again while the database is unavailable; see :func:`retry_while_unavailable`."""
        return retry_while_unavailable(self.url, function, seconds)

    def release_connections(self) -> None:
        """Close idle connections to a server. A worker needs none while it trains."""
        if self.engine.dialect.name != "sqlite":
            self.engine.dispose()

    def companion(self, name: str) -> Study | None:
        """Load the study of that name from the same storage; None if there is none."""
        if name not in optuna.get_all_study_names(self.study._storage):
            return None
        return optuna.load_study(study_name=name, storage=self.study._storage)

    def heartbeats(self) -> dict[str, WorkerHeartbeat]:
        """Workers of this study by id, the oldest first."""
        return worker_heartbeats(self.engine, self.study.study_name)

    def remove_workers(self, ids: Sequence[str]) -> None:
        """Remove the heartbeats of workers that have ended."""
        remove_workers(self.engine, list(ids))

    def trial_id(self, trial: FrozenTrial | optuna.Trial) -> int:
        """The id of a trial in the database, which is not its number."""
        return trial._trial_id

    def read_trial(self, trial: FrozenTrial | optuna.Trial) -> FrozenTrial:
        """Read a trial as it is now; lists may show running trials as they were when they were claimed."""
        return self.study._storage.get_trial(trial._trial_id)

    def open_trial(self, trial: FrozenTrial) -> optuna.Trial:
        """Return a trial as an :class:`optuna.Trial`, through which attributes and artifacts can be written."""
        return optuna.Trial(self.study, trial._trial_id)

    def start_waiting(self, waiting: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> optuna.Trial | None:
        """Start a certain queued trial, where :meth:`optuna.Study.ask` starts the one with the lowest number.

        Returns:
            the trial with its parameters; None if somebody else has started or ended it.
        """
        self.study._thread_local.cached_all_trials = None  # as in ask
        try:
            if not self.study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        trial = optuna.Trial(self.study, waiting._trial_id)
        for name, distribution in distributions.items():
            trial._suggest(name, distribution)
        return trial

    def set_attrs(self, trial: FrozenTrial | optuna.Trial, attributes: Mapping[str, Any]) -> None:
        """Write user attributes of an unfinished trial, in their order.

        Raises:
            UpdateFinishedTrialError: the trial is finished.
        """
        for name, value in attributes.items():
            self.study._storage.set_trial_user_attr(trial._trial_id, name, value)

    def set_running_attrs(self, trial: FrozenTrial | optuna.Trial, attributes: Mapping[str, Any]) -> None:
        """Write user attributes of a running trial, waiting for the database while it is unavailable.

        Raises:
            TrialLostError: the trial no longer runs.
        """
        for name, value in attributes.items():

            def write(name: str = name, value: Any = value) -> None:
                self.set_attrs(trial, {name: value})

            try:
                self.retry(write)
            except UpdateFinishedTrialError as error:
                raise TrialLostError from error

    def set_state(self, trial: FrozenTrial, state: TrialState) -> None:
        """Set the state of an unfinished trial, without values."""
        self.study._storage.set_trial_state_values(trial._trial_id, state)

    def artifacts(self, trial: FrozenTrial | optuna.Trial) -> list[ArtifactMeta]:
        """The artifacts of a trial."""
        return get_all_artifact_meta(trial, storage=self.study._storage)
