"""Fixtures for tests with several workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from optuna.samplers import RandomSampler
from optuna.study import Study
from worker_processes import OBJECTIVES, REPOSITORY, SHORT, StartLease, StartProcesses, read_line

from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.heartbeat import Lease
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import lease_of


@pytest.fixture
def study(url: str) -> Iterator[Study]:
    """An empty study."""
    study = create_study(open_storage(url), "tiny", OBJECTIVES, RandomSampler(seed=0))
    yield study
    StudyStore(study).engine.dispose()


@pytest.fixture
def start_lease(study: Study) -> Iterator[StartLease]:
    """Creates leases of workers of this process; one that is not alive has a single heartbeat."""
    leases: list[Lease] = []

    def start(alive: bool = True, **seconds: float) -> Lease:
        lease = lease_of(study, "cpu", **{**SHORT, **seconds})
        if alive:
            lease.start()
        else:
            lease.renew()
        leases.append(lease)
        return lease

    yield start
    for lease in leases:
        lease.end()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[StartProcesses]:
    """Starts processes that run a script on one database at the same moment; kills them after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        script: str, url: str, number: int, *arguments: object, prefix: Sequence[str] = ()
    ) -> list[subprocess.Popen[str]]:
        start_file = tmp_path / f"start-{len(started)}"
        new = [
            subprocess.Popen(
                [*prefix, sys.executable, "-c", script, url, str(start_file), str(i), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HOURGLASS_PATIENCE": "60"},
            )
            for i in range(number)
        ]
        started.extend(new)
        for process in new:
            assert read_line(process) == "ready"
        start_file.touch()
        return new

    yield start
    for process in started:
        process.kill()
        process.communicate()
