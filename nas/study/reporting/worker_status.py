"""What ``nas.workers`` prints: the workers of a study and its stale trials, as plain values and as tables."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from nas.study.storage.heartbeat import worker_heartbeats
from nas.study.storage.owner import Owner, heartbeat_process_gone
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import requeue_stale_trials, stale_trials


@dataclass(frozen=True)
class WorkerStatus:
    """Workers and stale trials, as plain values for JSON.

    Attributes:
        workers: machine, process, device and trial of each, and the age of its last heartbeat.
        stale: running trials whose worker is gone.
    """

    workers: list[dict[str, Any]]
    stale: list[dict[str, Any]]

    def summary(self) -> str:
        """Numbers of workers and stale trials in words."""
        lost = sum(worker["lost"] for worker in self.workers)
        alive, stale = len(self.workers) - lost, len(self.stale)
        return (
            f"{alive} worker{'' if alive == 1 else 's'}{f', {lost} lost' if lost else ''}; "
            f"{stale} stale trial{'' if stale == 1 else 's'}"
        )


def worker_status(study: Study) -> WorkerStatus:
    """Read the workers and the stale trials of a study from its storage."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    owners = {trial.number: Owner.of(trial) for trial in running}
    trials = {owner.worker: number for number, owner in owners.items() if owner is not None and owner.worker}
    workers = [
        {
            "worker": beat.id,
            "machine": beat.host,
            "pid": beat.pid,
            "device": beat.device,
            "since": beat.started,
            "last_sign": max(0.0, round(beat.age, 1)),
            "lost": beat.expired or heartbeat_process_gone(beat),
            "trial": trials.get(beat.id),
        }
        for beat in worker_heartbeats(StudyStore(study).engine, study.study_name).values()
    ]
    return WorkerStatus(workers, [_stale_record(trial) for trial in stale_trials(study)])


def requeue(study: Study) -> list[int]:
    """Requeue the stale trials of a study; returns their numbers."""
    with StudyStore(study).lock():
        return requeue_stale_trials(study)


def _stale_record(trial: FrozenTrial) -> dict[str, Any]:
    owner = Owner.of(trial)
    return {
        "trial": trial.number,
        "machine": owner.host if owner else None,
        "pid": owner.pid if owner else None,
        "since": trial.user_attrs.get("claimed_at"),
        "network": trial.user_attrs.get("network"),
    }


def worker_table(status: WorkerStatus) -> Table | None:
    """The workers; None where there are none."""
    if not status.workers:
        return None
    table = _table("worker", "machine", "pid", "device", "since", "last heartbeat", "trial")
    for worker in status.workers:
        heartbeat = f"{worker['last_sign']:.0f} s ago" + (", lost" if worker["lost"] else "")
        trial = "–" if worker["trial"] is None else str(worker["trial"])
        process = (worker["worker"], worker["machine"], str(worker["pid"]), worker["device"])
        table.add_row(*process, _local_time(worker["since"]), heartbeat, trial)
    return table


def stale_table(status: WorkerStatus) -> Table | None:
    """The stale trials; None where there are none."""
    if not status.stale:
        return None
    table = _table("stale trial", "machine", "pid", "since", "network")
    for trial in status.stale:
        since = _local_time(trial["since"]) if trial["since"] else "–"
        machine, pid, network = (trial[key] or "–" for key in ("machine", "pid", "network"))
        table.add_row(str(trial["trial"]), machine, str(pid), since, network)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
