"""A worker's view of its study's trials: what cannot have changed is not read again."""

from __future__ import annotations

from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text


class CachedTrialStorage(_CachedStorage):
    """Optuna's cache of finished trials, which remembers queued and claimed ones as well.

    Optuna reads all parameters and attributes of all unfinished trials for each list of trials. With 256 workers that
    takes 0.1 to 0.5 s, twenty times a trial, and mostly inside the lock for which all others wait. Here a list asks
    for the trials' states, and reads those whose state has changed, those that are being claimed, and those of which
    this process has noted something itself.

    What lists tell of others' running trials is as it was soon after they were claimed: their owner and parameters,
    which stay; not what their workers have noted since. ``get_trial`` reads all of it.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._written: set[int] = set()
        self._owned: set[int] = set()  # found to be claimed when they were last read
        self._whole: set[int] = set()  # … and already before that

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As in any storage."""
        super().set_trial_user_attr(trial_id, key, value)
        self._written.add(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As in any storage."""
        super().set_trial_system_attr(trial_id, key, value)
        self._written.add(trial_id)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As in any storage."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._written.add(trial_id)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            there = self._studies.setdefault(study_id, _StudyInfo()).trials
            states = self._states(study_id)
            known = {trial._trial_id: trial for trial in there.values()}
            written = set(self._written)
            wanted = {
                each for each, state in states.items() if each in written or not self._stays(known.get(each), state)
            }
            if wanted or not states:  # no trial, and perhaps no such study: for Optuna to say
                first = len(wanted) == len(states)
                trials = self._backend._get_trials(
                    study_id,
                    states=None,
                    included_trial_ids=set() if first else wanted,
                    trial_id_greater_than=-1 if first else max(states),
                )
                self._add_trials_to_cache(study_id, trials)
                self._written -= written
                # Parameters and owner are not read at the same moment: who reads while a trial is being claimed might
                # find its owner, which is noted last, and not all of its parameters. Read once more, it is whole.
                claimed = {trial._trial_id for trial in trials if "owner" in trial.user_attrs}
                self._whole |= claimed & self._owned
                self._owned |= claimed

    def _stays(self, known: FrozenTrial | None, state: TrialState) -> bool:
        """Whether a trial is still as it was read."""
        if known is None or known.state != state:
            return False
        return state != TrialState.RUNNING or known._trial_id in self._whole

    def _states(self, study_id: int) -> dict[int, TrialState]:
        query = text("SELECT trial_id, state FROM trials WHERE study_id = :study")
        with self._backend.engine.connect() as connection:
            return {row.trial_id: TrialState[row.state] for row in connection.execute(query, {"study": study_id})}
