"""Heartbeats and leases, on SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from optuna.study import Study
from postgres import Server
from worker_processes import OBJECTIVES, SHORT, StartLease, wait_until

from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.heartbeat import Lease, WorkerHeartbeat, remove_workers, worker_heartbeats
from nas.study.storage.owner import Owner, system_tag
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import lease_of, purge_dead_workers


def test_a_worker_sends_heartbeats(study: Study, start_lease: StartLease) -> None:
    started = time.time()
    lease = start_lease(lease=10)
    (worker,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    me = Owner.me(lease.id)
    assert (worker.id, worker.host, worker.pid, worker.born) == (me.worker, me.host, me.pid, me.born)
    assert worker.device == "cpu"
    assert abs(worker.started - started) < 5
    assert not worker.expired
    time.sleep(1)
    (later,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    assert 0 <= later.age < 0.9, "it was not renewed"
    assert later.started == worker.started
    assert worker_heartbeats(StudyStore(study).engine, "another") == {}
    lease.end()
    assert worker_heartbeats(StudyStore(study).engine, "tiny") == {}


def test_a_removed_row_is_written_again(study: Study, start_lease: StartLease) -> None:
    lease = start_lease(alive=False)
    remove_workers(StudyStore(study).engine, [lease.id])
    lease.renew()
    assert list(worker_heartbeats(StudyStore(study).engine, "tiny")) == [lease.id]


def test_purging_removes_dead_workers_only(study: Study, start_lease: StartLease) -> None:
    alive, lost = start_lease(lease=60), start_lease(alive=False)
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    me = Owner.me()
    ended = Lease(StudyStore(study).engine, "tiny", me.host, dead.pid, me.born, "cpu", tag=system_tag(), **SHORT)
    ended.renew()
    time.sleep(0.6)
    purge_dead_workers(study)
    # The process of the lost worker is this one, which is alive: the worker may have been suspended.
    assert set(worker_heartbeats(StudyStore(study).engine, "tiny")) == {alive.id, lost.id}


def test_clock_changes_do_not_expire_leases(
    study: Study, start_lease: StartLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_lease(lease=60)
    for jump in (-86_400, 86_400):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda now=now, jump=jump: now + jump)
        (worker,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
        assert not worker.expired
        start_lease(lease=60).end()
        monkeypatch.undo()


def test_heartbeats_from_before_the_last_boot_have_expired() -> None:
    for age, expired in ((-61.0, True), (-1.0, False), (0.0, False), (59.0, False), (61.0, True)):
        assert WorkerHeartbeat("w", "h", 1, 0.0, "cpu", 0.0, age, 60.0).expired == expired


def test_heartbeats_survive_an_unavailable_database(server: Server) -> None:
    study = create_study(open_storage(server.new_database()), "tiny", OBJECTIVES)
    lease = lease_of(study, "cpu", **SHORT)
    lease.start()
    server.stop()
    wait_until(lambda: not lease.fresh())
    server.start()
    wait_until(lease.fresh)
    (worker,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    assert not worker.expired
    lease.end()


def test_a_restarted_server_renews_leases(server: Server) -> None:
    """No heartbeat arrives while the server is stopped; leases do not expire at once when it starts again."""
    study = create_study(open_storage(server.new_database()), "tiny", OBJECTIVES)
    lease = lease_of(study, "cpu", beat=60, lease=2)
    lease.renew()
    server.stop()
    time.sleep(2.5)
    server.start()
    (worker,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    assert worker.age < 2.4
    lease.end()
