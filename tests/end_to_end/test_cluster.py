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
    # A trial may come to its end between the look at it and its task's end; what was handed back goes on where it was.
    assert 1 <= report.handed_back == report.resumed <= 2
