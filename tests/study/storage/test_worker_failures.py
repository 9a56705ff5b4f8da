"""Workers that lose their trial, their connection or the server: no trial is lost or run twice."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from effort import examples
from optuna.study import Study
from optuna.trial import TrialState
from postgres import Server
from worker_processes import (
    CHOICES,
    SHORT,
    START_WORKER,
    StartLease,
    StartProcesses,
    move_to_another_machine,
    read_line,
    wait_until,
)

from nas.errors import UserError
from nas.study.storage.backend import load_study, open_storage
from nas.study.storage.heartbeat import remove_workers, worker_heartbeats
from nas.study.storage.owner import Owner
from nas.study.storage.study_store import StudyStore, TrialLostError
from nas.study.storage.trial_queue import (
    Counts,
    claim,
    count,
    earlier_numbers,
    lease_of,
    report,
    requeue,
    requeue_stale_trials,
    stale_trials,
)

WORK = (
    START_WORKER
    + """
total, seconds = int(sys.argv[4]), float(sys.argv[6])
while True:
    trial = claim(study, total, choices, lease)
    if trial is None:
        if store.retry(lambda: count(study)).done >= total:
            break
        time.sleep(0.01)
        continue
    time.sleep(seconds)
    report_result(trial, None if trial.number % 4 == 3 else [trial.params["width"], 1, 1])
lease.end()
"""
)


CLAIM_AND_WAIT = (
    START_WORKER
    + """
trial = claim(study, 10, choices, lease)
lease.hold(trial._trial_id)
print("claimed", trial.number, flush=True)
sys.stdin.readline()  # suspended and resumed meanwhile
_ = [lease.lost() or time.sleep(0.02) for _ in range(100) if not lease.lost()]
print("lost" if lease.lost() else "kept", flush=True)
report_result(trial, [99, 1, 1])
time.sleep(600)
"""
)


@pytest.mark.slow
def test_a_trial_with_an_expired_lease_is_requeued(study: Study, start_lease: StartLease) -> None:
    lost, own = start_lease(alive=False), start_lease()
    trial = claim(study, 1, CHOICES, lost)
    assert trial is not None
    move_to_another_machine(trial, lost)
    assert claim(study, 1, CHOICES, own) is None
    time.sleep(0.6)
    assert [t.number for t in stale_trials(study)] == [trial.number]
    again = claim(study, 1, CHOICES, own)
    assert again is not None
    assert again.params == trial.params
    assert earlier_numbers(study.trials[again.number]) == [trial.number]
    assert Owner.of(study.trials[again.number]) == Owner.me(own.id)
    assert study.trials[trial.number].state == TrialState.FAIL
    assert stale_trials(study) == []


def test_a_trial_whose_worker_has_no_row_is_stale(study: Study, start_lease: StartLease) -> None:
    lost = start_lease(alive=False, lease=60)
    trial = claim(study, 1, CHOICES, lost)
    assert trial is not None
    move_to_another_machine(trial, lost)
    assert stale_trials(study) == []
    remove_workers(StudyStore(study).engine, [lost.id])
    assert [t.number for t in stale_trials(study)] == [trial.number]


def test_a_lost_trial_cannot_be_reported(study: Study, start_lease: StartLease) -> None:
    lost, own = start_lease(alive=False), start_lease()
    trial = claim(study, 2, CHOICES, lost)
    assert trial is not None
    lost.hold(trial._trial_id)
    owner = Owner.me(lost.id)
    move_to_another_machine(trial, lost)
    time.sleep(0.6)
    again = claim(study, 1, CHOICES, own)
    assert again is not None
    with pytest.raises(TrialLostError):
        report(study, trial, owner, [99, 1, 1], dict)
    with pytest.raises(TrialLostError):
        StudyStore(study).set_running_attrs(trial, {"rungs": {}})
    assert not lost.lost()  # no heartbeat since
    lost.renew()
    assert lost.lost()
    StudyStore(study).set_running_attrs(again, {"rungs": {}})
    report(study, again, Owner.me(own.id), [50, 1, 1], lambda: {"images_so_far": 7})
    with pytest.raises(TrialLostError):
        report(study, trial, owner, [99, 1, 1], dict)
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[1].values == [50, 1, 1]
    assert study.trials[1].user_attrs["images_so_far"] == 7
    assert "rungs" not in study.trials[0].user_attrs


def test_repeating_a_claim_returns_the_same_trial(study: Study, start_lease: StartLease) -> None:
    lease = start_lease()
    first = claim(study, 5, CHOICES, lease)
    again = claim(study, 5, CHOICES, lease)
    assert first is not None
    assert again is not None
    assert again.number == first.number
    assert again.params == first.params
    assert len(study.trials) == 1


class BrokenConnection:
    """Breaks the connection at the n-th commit from now on, before or after the commit takes effect."""

    def __init__(self, study: Study, at: int, after: bool) -> None:
        self.engine, self.left, self.after = StudyStore(study).engine, at, after

    def __enter__(self) -> BrokenConnection:
        self.original = self.engine.dialect.do_commit
        self.engine.dialect.do_commit = self.commit  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.dialect.do_commit = self.original  # type: ignore[method-assign]

    def commit(self, connection: Any) -> None:
        import psycopg

        self.left -= 1
        if self.left != 0:
            return self.original(connection)
        if self.after:
            self.original(connection)
        connection.dbapi_connection.close()
        raise psycopg.OperationalError("the connection is lost")


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_broken_connection_neither_loses_nor_duplicates_trials(
    study: Study, start_lease: StartLease, after: bool
) -> None:
    lease = start_lease(lease=600)
    done = 0
    for at in range(1, 200):
        with BrokenConnection(study, at, after) as broken:
            trial = claim(study, done + 1, CHOICES, lease)
            assert trial is not None
            StudyStore(study).set_running_attrs(trial, {"network": "two stacks"})
            report(study, trial, Owner.me(lease.id), [1, 1, 1] if at % 2 else None, lambda: {"images_so_far": 1})
        done += 1
        with StudyStore(study).lock():
            requeue_stale_trials(study)  # a half-claimed trial, whose number was lost with the connection
        counts = count(study)
        assert (counts.done, counts.running, counts.waiting) == (done, 0, 0), f"broken at commit {at}"
        if broken.left > 0:
            break
    assert at > 10
    finished = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len({t.params["width"] for t in finished}) == done


def test_a_trial_whose_requeueing_was_interrupted_is_enqueued_later(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = claim(study, 1, CHOICES)
    assert trial is not None
    with monkeypatch.context() as patch:
        patch.setattr(study, "enqueue_trial", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            requeue(study, study.trials[0])
    assert count(study) == Counts(0, 0, 0, 0)
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert again.params == trial.params
    with StudyStore(study).lock():
        requeue_stale_trials(study)
    assert len(study.trials) == 2


@pytest.mark.slow
def test_processes_run_exactly_the_requested_number_of_trials(processes: StartProcesses, url: str) -> None:
    reported = []
    total = examples(20, 40)
    for worker in processes(WORK, url, examples(2, 4), total, 60, 0):
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
        reported += [int(line) for line in out.split()]
    study = load_study(open_storage(url), "tiny")
    assert sorted(reported) == list(range(total))
    assert count(study) == Counts(complete=3 * total // 4, pruned=total // 4, running=0, waiting=0)
    assert worker_heartbeats(StudyStore(study).engine, "tiny") == {}


@pytest.mark.slow
def test_a_suspended_worker_loses_its_trial_and_drops_its_result(processes: StartProcesses, url: str) -> None:
    (worker,) = processes(CLAIM_AND_WAIT, url, 1, 10, 1)
    number = int(read_line(worker).removeprefix("claimed "))
    study = load_study(open_storage(url), "tiny")
    assert claim(study, 1, CHOICES) is None
    worker.send_signal(signal.SIGSTOP)
    own = lease_of(study, "cpu", **SHORT)
    own.start()
    again = wait_until(lambda: claim(study, 1, CHOICES, own))
    report(study, again, Owner.me(own.id), [50, 1, 1], dict)
    before = study.trials
    worker.send_signal(signal.SIGCONT)
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    assert read_line(worker) == "lost"
    assert read_line(worker) == f"dropped {number}"
    after = load_study(open_storage(url), "tiny").trials
    assert [(t.state, t.values, t.user_attrs) for t in after] == [(t.state, t.values, t.user_attrs) for t in before]
    assert count(study) == Counts(complete=1, pruned=0, running=0, waiting=0)
    own.end()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_restarting_the_server_loses_no_trial(processes: StartProcesses, server: Server, how: str) -> None:
    url = server.new_database()
    total = examples(40, 80)
    workers = processes(WORK, url, examples(2, 4), total, 2, 0.01)
    study = wait_until(lambda: _load(url))
    wait_until(lambda: count(study).done >= 10)
    server.stop(how)
    time.sleep(3)  # longer than a lease
    server.start()
    reported = []
    for worker in workers:
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
        reported += out.splitlines()
    study = load_study(open_storage(url), "tiny")
    counts = count(study)
    assert (counts.done, counts.running, counts.waiting) == (total, 0, 0)
    done = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert sorted(map(int, reported)) == [t.number for t in done]
    assert len({t.params["width"] for t in done}) == total


def _load(url: str) -> Study | None:
    try:
        return load_study(open_storage(url), "tiny")
    except UserError:
        return None
