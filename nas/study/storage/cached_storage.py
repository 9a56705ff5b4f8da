"""Optuna's RDB storage with a cache for workers: trials that cannot have changed are not read again."""

from __future__ import annotations

from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text


class CachedTrialStorage(_CachedStorage):
    """Optuna's cache of finished trials, extended to queued and running ones.

    For each list of trials, Optuna reads all parameters and attributes of all unfinished trials. With 256 workers this
    takes 0.1 to 0.5 s, about twenty times per trial, and mostly inside the lock that all workers share. Here, a list
    queries the states of all trials. It reads only those whose state has changed, those that are being claimed, and
    those to which this process has written.

    Lists show running trials of other workers as they were soon after they were claimed: with their owner and
    parameters, which do not change, but not with attributes written since. ``get_trial`` reads everything.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._written: set[int] = set()
        self._owned: set[int] = set()  # had an owner when they were last read
        self._complete: set[int] = set()  # had an owner already before that

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        super().set_trial_user_attr(trial_id, key, value)
        self._written.add(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        super().set_trial_system_attr(trial_id, key, value)
        self._written.add(trial_id)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See :class:`optuna.storages.BaseStorage`."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._written.add(trial_id)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            cached = self._studies.setdefault(study_id, _StudyInfo()).trials
            states = self._states(study_id)
            by_id = {trial._trial_id: trial for trial in cached.values()}
            written = set(self._written)
            outdated = {
                trial_id
                for trial_id, state in states.items()
                if trial_id in written or not self._is_current(by_id.get(trial_id), state)
            }
            if outdated or not states:  # without trials there may be no such study, which Optuna reports
                read_all = len(outdated) == len(states)
                trials = self._backend._get_trials(
                    study_id,
                    states=None,
                    included_trial_ids=set() if read_all else outdated,
                    trial_id_greater_than=-1 if read_all else max(states),
                )
                self._add_trials_to_cache(study_id, trials)
                self._written -= written
                # Parameters and attributes are read by separate queries: while a trial is being claimed, its owner,
                # which is written last, may be read without all of its parameters. A second read is complete.
                claimed = {trial._trial_id for trial in trials if "owner" in trial.user_attrs}
                self._complete |= claimed & self._owned
                self._owned |= claimed

    def _is_current(self, cached: FrozenTrial | None, state: TrialState) -> bool:
        """Whether a cached trial need not be read again."""
        if cached is None or cached.state != state:
            return False
        return state != TrialState.RUNNING or cached._trial_id in self._complete

    def _states(self, study_id: int) -> dict[int, TrialState]:
        query = text("SELECT trial_id, state FROM trials WHERE study_id = :study")
        with self._backend.engine.connect() as connection:
            return {row.trial_id: TrialState[row.state] for row in connection.execute(query, {"study": study_id})}
