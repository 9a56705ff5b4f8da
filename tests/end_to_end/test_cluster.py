"""The array script under a Slurm of the test's own; ``python tests/stress/cluster.py`` does it with more tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster, Search, present
from postgres import Server

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not present(), reason="no Slurm here: as root, apt-get install slurm-wlm munge")
def test_tasks_that_are_ended_and_requeued_lose_nothing(tmp_path: Path, server: Server) -> None:
    cluster = Cluster(cpus=2)
    try:
        report = Search(cluster, server, tmp_path, tasks=2, trials=4).go()
    finally:
        cluster.close()
    assert report.losses == []
    assert report.restarts == {0: 1, 1: 1}
    # A trial may finish between the check and the end of its task; requeued ones resume.
    assert 1 <= report.requeued == report.resumed <= 2
