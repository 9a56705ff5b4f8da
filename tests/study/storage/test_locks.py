"""The lock that workers share, on SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Sequence

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.study import Study
from postgres import Server
from worker_processes import OBJECTIVES, START_WORKER, StartProcesses, read_line, wait_until

from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.locks import database_lock
from nas.study.storage.retry import is_unavailable, retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import requeue_stale_trials


def test_the_lock_is_exclusive(url: str) -> None:
    storage, other = open_storage(url), open_storage(url)
    order = []

    def wait() -> None:
        with database_lock(other.engine):
            order.append("second")

    thread = threading.Thread(target=wait)
    with database_lock(storage.engine):
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    with pytest.raises(ZeroDivisionError), database_lock(storage.engine):
        raise ZeroDivisionError
    with database_lock(other.engine):  # released after an error
        pass


def order_of_entry(url: str, names: Sequence[str]) -> list[str]:
    """Request the lock for each name, one after the other, while it is held; return the order in which they get it."""
    order: list[str] = []

    def wait(name: str, each: RDBStorage) -> None:
        with database_lock(each.engine, claiming=name.startswith("claim")):
            order.append(name)

    storage, *storages = [open_storage(url) for _ in range(1 + len(names))]
    waiting = [threading.Thread(target=wait, args=pair) for pair in zip(names, storages, strict=True)]
    with database_lock(storage.engine, claiming=True):
        for thread in waiting:
            thread.start()
            time.sleep(0.5)
        assert order == []
    for thread in waiting:
        thread.join(timeout=30)
    for each in (storage, *storages):
        each.engine.dispose()
    return order


def test_the_lock_is_granted_in_order_of_requests(server: Server) -> None:
    names = ["report 0", "report 1", "report 2", "report 3", "report 4"]
    assert order_of_entry(server.new_database(), names) == names


def test_a_report_waits_for_one_claim_only(server: Server) -> None:
    names = ["claim 0", "claim 1", "claim 2", "report 0", "report 1"]
    assert order_of_entry(server.new_database(), names) == ["report 0", "report 1", "claim 0", "claim 1", "claim 2"]


@pytest.mark.slow
def test_more_workers_can_wait_for_the_lock_than_the_server_has_connections() -> None:
    with contextlib.closing(Server(max_connections=20)) as server:
        url = server.new_database()
        storages = [open_storage(url) for _ in range(34)]
        entered: list[int] = []

        def once(number: int) -> None:
            with database_lock(storages[number].engine):
                storages[number].get_all_studies()  # over another connection
                entered.append(number)

        def work(number: int) -> None:
            for _ in range(2):
                retry_while_unavailable(url, lambda: once(number))
                storages[number].engine.dispose()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(34)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert sorted(entered) == sorted([*range(34)] * 2)
        for each in storages:
            each.engine.dispose()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_commits_without_the_lost_lock_are_refused(study: Study, server: Server) -> None:
    """Restarting the server releases the lock, so that a thread inside it must not commit anymore."""

    def queue_two() -> None:
        with StudyStore(study).lock():
            study.enqueue_trial({"width": 5})
            server.stop()
            server.start()
            study.enqueue_trial({"width": 6})

    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        queue_two()
    assert is_unavailable(caught.value)
    assert [t.system_attrs["fixed_params"]["width"] for t in study.trials] == [5]
    with StudyStore(study).lock():
        study.enqueue_trial({"width": 7})
    assert len(study.trials) == 2


@pytest.mark.slow
def test_a_suspended_process_loses_the_lock(
    server: Server, processes: StartProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.new_database()
    study = create_study(open_storage(url), "tiny", OBJECTIVES)
    script = START_WORKER + "\nwith store.lock():\n    print('inside', flush=True)\n    time.sleep(600)\n"
    monkeypatch.setenv("HOURGLASS_LEASE", "1")
    (worker,) = processes(script, url, 1, 10, 1)
    assert read_line(worker) == "inside"
    worker.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    with StudyStore(study).lock():
        assert time.monotonic() - started < 10


WRITE = (
    START_WORKER
    + """
from sqlalchemy import text

trial = claim(study, 10, choices, lease)
def write():
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE trials SET datetime_start = now()"))
        print(trial.number, flush=True)
        sys.stdin.readline()  # suspended and resumed meanwhile, once
store.retry(write)
report_result(trial, [99, 1, 1])
"""
)


@pytest.mark.slow
def test_a_suspended_transaction_releases_its_rows(
    server: Server, processes: StartProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.new_database()
    study = create_study(open_storage(url), "tiny", OBJECTIVES)
    monkeypatch.setenv("HOURGLASS_LEASE", "1")
    (worker,) = processes(WRITE, url, 1, 10, 1)
    assert read_line(worker) == "0"
    worker.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    assert wait_until(lambda: requeue_stale_trials(study)) == [0]
    assert time.monotonic() - started < 10
    worker.send_signal(signal.SIGCONT)
    assert worker.stdin is not None
    worker.stdin.write("\n\n")
    worker.stdin.flush()
    assert [read_line(worker), read_line(worker)] == ["0", "dropped 0"]
