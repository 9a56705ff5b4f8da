"""Helpers for tests with several workers: scripts for processes, and waiting for them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution

from nas.study.storage.heartbeat import Lease
from nas.study.storage.owner import Owner

REPOSITORY = Path(__file__).resolve().parents[3]
OBJECTIVES = ("pckh", "params", "madds")
CHOICES = {"width": IntDistribution(4, 1_000_000)}
SHORT = {"beat": 0.1, "lease": 0.5}  # seconds

OPEN_STUDY = f"""
import sys, time
from pathlib import Path
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.engine import mask_password
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore, TrialLostError
from nas.study.storage.owner import Owner
from nas.study.storage.trial_queue import claim, count, lease_of, report

url, start_file, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
while not start_file.exists():
    time.sleep(0.005)
study = retry_while_unavailable(
    mask_password(url), lambda: create_study(open_storage(url), "tiny", {OBJECTIVES!r}, RandomSampler(seed=number))
)
store = StudyStore(study)
"""
"""Arguments: URL, file whose creation starts all processes together, number of the process."""

START_WORKER = (
    OPEN_STUDY
    + """
choices = {"width": IntDistribution(4, 1_000_000)}
lease = lease_of(study, "cpu", beat=0.1, lease=float(sys.argv[5]))
store.retry(lease.start)


def report_result(trial, values):
    owner = Owner.me(lease.id)
    try:
        store.set_running_attrs(trial, {"network": "two stacks", "cost": 1})
        report(study, trial, owner, values, lambda: {"images_so_far": 1})
        print(trial.number, flush=True)
    except TrialLostError:
        print("dropped", trial.number, flush=True)
"""
)
"""Further arguments: total of trials, lease in seconds."""

StartLease = Callable[..., Lease]
StartProcesses = Callable[..., list[subprocess.Popen[str]]]


def read_line(process: subprocess.Popen[str]) -> str:
    """Wait for a line of a process's output."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until a function returns a true value, and return it."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


def move_to_another_machine(trial: optuna.Trial, lease: Lease) -> None:
    """Change the owner of a trial to a process of another machine, which cannot be observed from here."""
    trial.set_user_attr("owner", {**Owner.me(lease.id).to_dict(), "host": "elsewhere"})
