"""Who works on a study: ``python -m nas.workers --study quickstart``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from nas.console import console, print_tables, run
from nas.options import command, new_app
from nas.study.experiment import stored_study
from nas.study.storage.heartbeat import worker_heartbeats
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import Owner, requeue_stale_trials, stale_trials

app = new_app()


@command(app)
def main(
    study: Annotated[str, typer.Option(help="Name of a study that was searched.")] = "quickstart",
    storage: Annotated[str | None, typer.Option(help="Database URL; by default the study's own SQLite.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("runs"),
    reap: Annotated[bool, typer.Option("--reap", help="Hand stale trials back: each goes on elsewhere.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the workers of a study, on all machines, and its stale trials.

    A trial is stale that is left running: its worker's process is gone, or gave
    no sign of life for a minute. The next worker that asks for a trial hands it
    back; --reap does so at once.

    Example: python -m nas.workers --study mpii --storage postgresql+psycopg://me@host/nas
    """
    opened = stored_study(study, runs, storage)
    url = StudyStore(opened).url
    workers, stale = retry_while_unavailable(url, lambda: _standing(opened))
    reaped: list[int] = []
    if reap:
        reaped = retry_while_unavailable(url, lambda: _reap(opened))
        workers, stale = retry_while_unavailable(url, lambda: _standing(opened))
    if as_json:
        print(json.dumps({"study": study, "workers": workers, "stale": stale, "handed_back": reaped}))
        return
    lost = sum(worker["lost"] for worker in workers)
    there = len(workers) - lost
    console.print(
        f"study {study}: {there} worker{'' if there == 1 else 's'}{f', {lost} lost' if lost else ''}; "
        f"{len(stale)} stale trial{'' if len(stale) == 1 else 's'}",
        soft_wrap=True,
    )
    print_tables(_workers_table(workers), _stale_table(stale))
    if reap:
        which = ", ".join(map(str, reaped))
        console.print(
            f"handed back: trial{'' if len(reaped) == 1 else 's'} {which}" if reaped else "nothing to hand back"
        )
    elif stale:
        console.print("with --reap, the same command hands them back", soft_wrap=True)


def _reap(study: Study) -> list[int]:
    with StudyStore(study).lock():
        return requeue_stale_trials(study)


def _standing(study: Study) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Workers and stale trials, as plain values."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    signs = worker_heartbeats(StudyStore(study).engine, study.study_name)
    owners = {trial.number: Owner.of(trial) for trial in running}
    current = {owner.worker: number for number, owner in owners.items() if owner is not None and owner.worker}
    workers = [
        {
            "worker": sign.id,
            "machine": sign.host,
            "pid": sign.pid,
            "device": sign.device,
            "since": sign.started,
            "last_sign": max(0.0, round(sign.age, 1)),
            "lost": sign.expired or Owner(sign.host, sign.pid, sign.born).gone(),
            "trial": current.get(sign.id),
        }
        for sign in signs.values()
    ]
    return workers, [_stale(trial) for trial in stale_trials(study)]


def _stale(trial: FrozenTrial) -> dict[str, Any]:
    owner = Owner.of(trial)
    return {
        "trial": trial.number,
        "machine": owner.host if owner else None,
        "pid": owner.pid if owner else None,
        "since": trial.user_attrs.get("claimed_at"),
        "network": trial.user_attrs.get("network"),
    }


def _workers_table(workers: list[dict[str, Any]]) -> Table | None:
    if not workers:
        return None
    table = _table(["worker", "machine", "pid", "device", "since", "last sign of life", "trial"])
    for one in workers:
        sign = f"{one['last_sign']:.0f} s ago"
        trial = "–" if one["trial"] is None else str(one["trial"])
        where = (one["worker"], one["machine"], str(one["pid"]), one["device"])
        table.add_row(*where, _moment(one["since"]), sign + (", lost" if one["lost"] else ""), trial)
    return table


def _stale_table(stale: list[dict[str, Any]]) -> Table | None:
    if not stale:
        return None
    table = _table(["stale trial", "machine", "pid", "since", "network"])
    for one in stale:
        pid, since = (one["pid"] or "–", _moment(one["since"]) if one["since"] else "–")
        table.add_row(str(one["trial"]), one["machine"] or "–", str(pid), since, one["network"] or "–")
    return table


def _table(columns: list[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    for name in columns:
        table.add_column(name)
    return table


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


if __name__ == "__main__":
    run(app)
