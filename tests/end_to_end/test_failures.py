"""A short search under faults, on both databases; ``python tests/stress/failures.py`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from failures import Faults, Run
from postgres import Server

pytestmark = pytest.mark.slow


def test_postgresql_workers_killed_one_frozen_and_the_database_stopped_lose_nothing(
    tmp_path: Path, server: Server
) -> None:
    run = Run(tmp_path, server.new_database(), server, workers=3, trials=10, seed=1)
    report = run.go(Faults(kills=2, every=5, stops=1), seconds=300)
    assert report.losses == []
    assert report.injected["killed"] >= 1
    assert sum(n for what, n in report.injected.items() if what.startswith("stopped")) == 1


def test_sqlite_workers_killed_and_one_frozen_lose_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, f"sqlite:///{tmp_path / 'study.db'}", None, workers=2, trials=6, seed=2)
    report = run.go(Faults(kills=2, every=5), seconds=300)
    assert report.losses == []
    assert report.injected["killed"] >= 1
