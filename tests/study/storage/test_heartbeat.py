"""Leases: who gives no sign of life loses its trial, and what it then finds is dropped. On SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from effort import examples
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import TrialState
from postgres import PASSWORD, Server
from rich.console import Console

from nas.data.augmentation import fit_to_input
from nas.errors import UserError
from nas.study.config import StudyConfig
from nas.study.execution.trial_checkpoint import adopt_checkpoint, checkpoint_path
from nas.study.execution.trial_session import TrialSession
from nas.study.experiment import prepare
from nas.study.reporting.progress import SearchProgress
from nas.study.storage import heartbeat as leases
from nas.study.storage.backend import create_study, load_study, open_storage
from nas.study.storage.engine import mask_password
from nas.study.storage.heartbeat import TABLE, Lease, worker_heartbeats
from nas.study.storage.retry import is_unavailable, retry_while_unavailable
from nas.study.storage.study_store import StudyStore, TrialLostError
from nas.study.storage.trial_queue import (
    Counts,
    Owner,
    claim,
    count,
    earlier_numbers,
    lease_of,
    purge_dead_workers,
    report,
    requeue,
    requeue_stale_trials,
    stale_trials,
)

REPOSITORY = Path(__file__).resolve().parents[3]
OBJECTIVES = ("pckh", "params", "madds")
CHOICES = {"width": IntDistribution(4, 1_000_000)}
SHORT = {"beat": 0.1, "lease": 0.5}

START = f"""
import sys, time
from pathlib import Path
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.engine import mask_password
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore, TrialLostError
from nas.study.storage.trial_queue import Owner, claim, count, lease_of, report

url, go, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
choices = {{"width": IntDistribution(4, 1_000_000)}}
print("ready", flush=True)
while not go.exists():
    time.sleep(0.005)
study = retry_while_unavailable(
    mask_password(url), lambda: create_study(open_storage(url), "tiny", {OBJECTIVES!r}, RandomSampler(seed=number))
)
lease = lease_of(study, "cpu", beat=0.1, lease=float(sys.argv[5]))
store = StudyStore(study)
store.retry(lease.start)


def tell(trial, values):
    owner = Owner.me(lease)
    try:
        store.record(trial, {{"network": "two stacks", "cost": 1}})
        report(study, trial, owner, values, lambda: {{"images_so_far": 1}})
        print(trial.number, flush=True)
    except TrialLostError:
        print("dropped", trial.number, flush=True)
"""

WORK = (
    START
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
    tell(trial, None if trial.number % 4 == 3 else [trial.params["width"], 1, 1])
lease.end()
"""
)

FREEZE = (
    START
    + """
trial = claim(study, 10, choices, lease)
lease.hold(trial._trial_id)
print("claimed", trial.number, flush=True)
sys.stdin.readline()  # frozen and let go meanwhile
noticed = [lease.lost() or time.sleep(0.02) for _ in range(100) if not lease.lost()]
print("lost" if lease.lost() else "mine", flush=True)
tell(trial, [99, 1, 1])
time.sleep(600)
"""
)


@pytest.fixture
def study(url: str) -> Iterator[Study]:
    study = create_study(open_storage(url), "tiny", OBJECTIVES, RandomSampler(seed=0))
    yield study
    StudyStore(study).engine.dispose()


@pytest.fixture
def begin(study: Study) -> Iterator[Callable[..., Lease]]:
    """Begins leases for workers of one's own; a lost machine's does not beat."""
    begun: list[Lease] = []

    def start(alive: bool = True, **seconds: float) -> Lease:
        lease = lease_of(study, "cpu", **{**SHORT, **seconds})
        if alive:
            lease.start()
        else:
            lease.renew()
        begun.append(lease)
        return lease

    yield start
    for lease in begun:
        lease.end()


Begin = Callable[..., Lease]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Starts processes that run a script on one database, let go at the same moment; kills what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, url: str, number: int, *arguments: object) -> list[subprocess.Popen[str]]:
        go = tmp_path / f"go-{len(started)}"
        fresh = [
            subprocess.Popen(
                [sys.executable, "-c", script, url, str(go), str(i), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HOURGLASS_PATIENCE": "60"},
            )
            for i in range(number)
        ]
        started.extend(fresh)
        for process in fresh:
            assert line_of(process) == "ready"
        go.touch()
        return fresh

    yield start
    for process in started:
        process.kill()
        process.communicate()


Start = Callable[..., list[subprocess.Popen[str]]]


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


# A worker's row


def test_a_worker_gives_signs_of_life(study: Study, begin: Begin) -> None:
    began = time.time()
    lease = begin(lease=10)
    (sign,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    me = Owner.me(lease)
    assert (sign.id, sign.host, sign.pid, sign.born, sign.device) == (me.worker, me.host, me.pid, me.born, "cpu")
    assert abs(sign.started - began) < 5
    assert not sign.expired
    time.sleep(1)
    (later,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    assert 0 <= later.age < 0.9, "it was not renewed"
    assert later.started == sign.started
    assert worker_heartbeats(StudyStore(study).engine, "another") == {}
    lease.end()
    assert worker_heartbeats(StudyStore(study).engine, "tiny") == {}


def test_a_row_that_somebody_removed_is_written_again(study: Study, begin: Begin) -> None:
    lease = begin(alive=False)
    leases.remove_workers(StudyStore(study).engine, [lease.id])
    lease.renew()
    assert list(worker_heartbeats(StudyStore(study).engine, "tiny")) == [lease.id]


def test_dead_workers_are_forgotten(study: Study, begin: Begin) -> None:
    alive, silent = begin(lease=60), begin(alive=False)
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    me = Owner.me()
    gone = Lease(StudyStore(study).engine, "tiny", me.host, dead.pid, me.born, "cpu", **SHORT)
    gone.renew()
    time.sleep(0.6)
    purge_dead_workers(study)
    # The silent one's process is this one, which lives: it may have been frozen.
    assert set(worker_heartbeats(StudyStore(study).engine, "tiny")) == {alive.id, silent.id}


def test_the_clock_of_this_machine_does_no_harm(study: Study, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(lease=60)
    for jump in (-86_400, 86_400):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda now=now, jump=jump: now + jump)
        (sign,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
        assert not sign.expired
        begin(lease=60).end()
        monkeypatch.undo()


def test_signs_of_before_the_last_start_of_the_machine_have_expired() -> None:
    for age, expired in ((-61.0, True), (-1.0, False), (0.0, False), (59.0, False), (61.0, True)):
        assert leases.WorkerHeartbeat("w", "h", 1, 0.0, "cpu", 0.0, age, 60.0).expired == expired


# Trials


def elsewhere(study: Study, trial: optuna.Trial, lease: Lease) -> None:
    """Make a trial that of a machine whose processes cannot be seen from here."""
    trial.set_user_attr("owner", {**Owner.me(lease).to_dict(), "host": "elsewhere"})


@pytest.mark.slow
def test_the_trial_of_a_machine_that_fell_silent_is_handed_to_the_next(study: Study, begin: Begin) -> None:
    silent, mine = begin(alive=False), begin()
    trial = claim(study, 1, CHOICES, silent)
    assert trial is not None
    elsewhere(study, trial, silent)
    assert claim(study, 1, CHOICES, mine) is None
    time.sleep(0.6)
    assert [t.number for t in stale_trials(study)] == [trial.number]
    again = claim(study, 1, CHOICES, mine)
    assert again is not None
    assert again.params == trial.params
    assert earlier_numbers(study.trials[again.number]) == [trial.number]
    assert Owner.of(study.trials[again.number]) == Owner.me(mine)
    assert study.trials[trial.number].state == TrialState.FAIL
    assert stale_trials(study) == []


def test_a_trial_whose_worker_has_no_row_is_an_orphan(study: Study, begin: Begin) -> None:
    silent = begin(alive=False, lease=60)
    trial = claim(study, 1, CHOICES, silent)
    assert trial is not None
    elsewhere(study, trial, silent)
    assert stale_trials(study) == []
    leases.remove_workers(StudyStore(study).engine, [silent.id])
    assert [t.number for t in stale_trials(study)] == [trial.number]


def test_nothing_is_told_about_a_trial_that_was_taken_over(study: Study, begin: Begin) -> None:
    silent, mine = begin(alive=False), begin()
    trial = claim(study, 2, CHOICES, silent)
    assert trial is not None
    silent.hold(trial._trial_id)
    owner = Owner.me(silent)
    elsewhere(study, trial, silent)
    time.sleep(0.6)
    again = claim(study, 1, CHOICES, mine)
    assert again is not None
    with pytest.raises(TrialLostError):
        report(study, trial, owner, [99, 1, 1], dict)
    with pytest.raises(TrialLostError):
        StudyStore(study).record(trial, {"rungs": {}})
    assert not silent.lost()  # it has not looked yet
    silent.renew()
    assert silent.lost()
    StudyStore(study).record(again, {"rungs": {}})
    report(study, again, Owner.me(mine), [50, 1, 1], lambda: {"images_so_far": 7})
    with pytest.raises(TrialLostError):
        report(study, trial, owner, [99, 1, 1], dict)
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[1].values == [50, 1, 1]
    assert study.trials[1].user_attrs["images_so_far"] == 7
    assert "rungs" not in study.trials[0].user_attrs


def test_a_claim_whose_answer_was_lost_is_not_made_twice(study: Study, begin: Begin) -> None:
    lease = begin()
    first = claim(study, 5, CHOICES, lease)
    again = claim(study, 5, CHOICES, lease)
    assert first is not None
    assert again is not None
    assert again.number == first.number
    assert again.params == first.params
    assert len(study.trials) == 1


class Interrupted:
    """A connection that breaks: at the n-th commit from now on, before or after it has taken effect."""

    def __init__(self, study: Study, at: int, after: bool) -> None:
        self.engine, self.left, self.after = StudyStore(study).engine, at, after

    def __enter__(self) -> Interrupted:
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
def test_a_connection_that_breaks_anywhere_loses_and_doubles_nothing(study: Study, begin: Begin, after: bool) -> None:
    lease = begin(lease=600)
    done = 0
    for at in range(1, 200):
        with Interrupted(study, at, after) as interrupted:
            trial = claim(study, done + 1, CHOICES, lease)
            assert trial is not None
            StudyStore(study).record(trial, {"network": "two stacks"})
            report(study, trial, Owner.me(lease), [1, 1, 1] if at % 2 else None, lambda: {"images_so_far": 1})
        done += 1
        with StudyStore(study).lock():
            requeue_stale_trials(
                study
            )  # a trial may have been begun and its number lost: it has no owner, nor parameters
        counts = count(study)
        assert (counts.done, counts.running, counts.waiting) == (done, 0, 0), f"broken at commit {at}"
        if interrupted.left > 0:
            break
    assert at > 10
    finished = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len({t.params["width"] for t in finished}) == done


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_who_has_lost_the_lock_commits_nothing(study: Study, server: Server) -> None:
    """The server is stopped and started inside the lock: what comes after must not be done under nobody's lock."""

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


def test_who_was_handed_back_but_not_queued_is_queued_by_the_next(
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


# Checkpoints


def test_a_checkpoint_moves_with_its_trial(study: Study, tmp_path: Path) -> None:
    numbers = []
    for _ in range(3):
        trial = claim(study, 1, CHOICES)
        assert trial is not None
        numbers.append(trial.number)
        requeue(study, study.trials[trial.number])
    last = claim(study, 1, CHOICES)
    assert last is not None
    folder = tmp_path / "kept"
    frozen = study.trials[last.number]
    assert earlier_numbers(frozen) == numbers
    mine = adopt_checkpoint(folder, frozen)
    assert mine == checkpoint_path(folder, last.number)
    assert not mine.exists()
    for number in numbers[:2]:
        checkpoint_path(folder, number).write_text(str(number))
    assert adopt_checkpoint(folder, frozen).read_text() == str(numbers[1])  # the latest that there is
    checkpoint_path(folder, numbers[1]).write_text("of who was only frozen")
    assert adopt_checkpoint(folder, frozen).read_text() == str(numbers[1])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--checkpoints .*file/kept: cannot be written"):
        adopt_checkpoint(tmp_path / "file" / "kept", frozen)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_checkpoints_are_kept_where_the_study_says_and_their_loss_is_told(
    write_study: Callable[..., Path], tmp_path: Path, url: str
) -> None:
    config = StudyConfig.read(write_study())
    kept = tmp_path / "shared"
    first = prepare(config, tmp_path / "runs", url, str(kept))
    study = first.open_study(RandomSampler(seed=0))
    second = prepare(config, tmp_path / "elsewhere", url)  # another machine, without the flag
    assert second.checkpoints_of(second.open_study()) == kept / "tiny"
    people, held_out = (fit_to_input(first.load_people(split, "cpu"), 32) for split in ("train", "holdout"))

    class KilledError(Exception):
        pass

    def die(step: int) -> None:
        if step == 2 * steps // 4 + 1:
            raise KilledError

    steps = config.short_schedule().steps
    for lost in (False, True):
        lease = lease_of(study, "cpu", beat=60, lease=60)
        lease.start()
        trial = claim(study, 9, first.space.choices, lease)
        assert trial is not None
        with pytest.raises(KilledError):
            TrialSession(study, trial, first, people, held_out, after_step=die, lease=lease).run()
        file = checkpoint_path(kept / "tiny", trial.number)
        assert file.is_file()
        if lost:
            file.unlink()
        else:
            with pytest.raises(UserError, match="trials are running whose checkpoints are kept in"):
                prepare(config, tmp_path / "runs", url, str(tmp_path / "other")).open_study()
        with StudyStore(study).lock():
            requeue(study, study.trials[trial.number])
        other = second.open_study()
        again = claim(other, 9, second.space.choices, lease)
        assert again is not None
        outcome = TrialSession(other, again, second, people, held_out, lease=lease).run()
        seen = other.trials[again.number].user_attrs
        assert seen.get("started_again", False) == lost
        assert seen.get("resumed_after_epoch", 0) == (0 if lost else 2)
        progress = SearchProgress(second, other, 9, False, Console())
        line = progress.trial_line(again.number, outcome.pckh, outcome.reason)
        assert ("restarted from the first epoch" in line) == lost
        lease.end()
    assert list((kept / "tiny").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_trial_of_many_epochs_writes_no_more(write_study: Callable[..., Path], tmp_path: Path, url: str) -> None:
    """Storage traffic does not grow with epochs: signs of life apart, one in :data:`leases.BEAT` seconds."""
    written = {}
    for epochs in (4, 8):
        config = StudyConfig.read(write_study(("epochs = 4", f"epochs = {epochs}"), ('"tiny"', f'"tiny-{epochs}"')))
        experiment = prepare(config, tmp_path / "runs", url)
        study = experiment.open_study(RandomSampler(seed=0))
        people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 32) for split in ("train", "holdout"))
        trial = claim(study, 1, experiment.space.choices)
        assert trial is not None
        statements: list[str] = []
        engine = StudyStore(study).engine

        def note(_connection: object, _cursor: object, statement: str, *_: object, to: list[str] = statements) -> None:
            if statement.split()[0] != "SELECT":
                to.append(statement)

        sqlalchemy.event.listen(engine, "before_cursor_execute", note)
        TrialSession(study, trial, experiment, people, held_out).run()
        written[epochs] = sum(s.split()[0] in ("INSERT", "UPDATE", "DELETE") for s in statements)
    # Seven of them are the note and four artifacts; a long note takes one more.
    assert written[8] == written[4] <= 24


# Processes


@pytest.mark.slow
def test_processes_do_exactly_as_many_trials_as_wanted(processes: Start, url: str) -> None:
    told = []
    total = examples(20, 40)
    for worker in processes(WORK, url, examples(2, 4), total, 60, 0):
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
        told += [int(line) for line in out.split()]
    study = load_study(open_storage(url), "tiny")
    assert sorted(told) == list(range(total))
    assert count(study) == Counts(complete=3 * total // 4, pruned=total // 4, running=0, waiting=0)
    assert worker_heartbeats(StudyStore(study).engine, "tiny") == {}


@pytest.mark.slow
def test_a_frozen_worker_loses_its_trial_and_drops_its_result(processes: Start, url: str) -> None:
    (worker,) = processes(FREEZE, url, 1, 10, 1)
    number = int(line_of(worker).removeprefix("claimed "))
    study = load_study(open_storage(url), "tiny")
    assert claim(study, 1, CHOICES) is None
    worker.send_signal(signal.SIGSTOP)
    mine = lease_of(study, "cpu", **SHORT)
    mine.start()
    again = until(lambda: claim(study, 1, CHOICES, mine))
    report(study, again, Owner.me(mine), [50, 1, 1], dict)
    before = study.trials
    worker.send_signal(signal.SIGCONT)
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    assert line_of(worker) == "lost"
    assert line_of(worker) == f"dropped {number}"
    after = load_study(open_storage(url), "tiny").trials
    assert [(t.state, t.values, t.user_attrs) for t in after] == [(t.state, t.values, t.user_attrs) for t in before]
    assert count(study) == Counts(complete=1, pruned=0, running=0, waiting=0)
    mine.end()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_database_that_is_stopped_and_started_loses_nothing(processes: Start, server: Server, how: str) -> None:
    url = server.new_database()
    total = examples(40, 80)
    workers = processes(WORK, url, examples(2, 4), total, 2, 0.01)
    study = until(lambda: _there(url))
    until(lambda: count(study).done >= 10)
    server.stop(how)
    time.sleep(3)  # longer than a lease
    server.start()
    told = []
    for worker in workers:
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
        told += out.splitlines()
    study = load_study(open_storage(url), "tiny")
    counts = count(study)
    assert (counts.done, counts.running, counts.waiting) == (total, 0, 0)
    done = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert sorted(map(int, told)) == [t.number for t in done]
    assert len({t.params["width"] for t in done}) == total


def _there(url: str) -> Study | None:
    try:
        return load_study(open_storage(url), "tiny")
    except UserError:
        return None


@pytest.mark.slow
def test_who_is_frozen_inside_the_lock_does_not_hold_it(
    server: Server, processes: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.new_database()
    study = create_study(open_storage(url), "tiny", OBJECTIVES)
    script = START + "\nwith store.lock():\n    print('inside', flush=True)\n    time.sleep(600)\n"
    monkeypatch.setenv("HOURGLASS_LEASE", "1")
    (worker,) = processes(script, url, 1, 10, 1)
    assert line_of(worker) == "inside"
    worker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with StudyStore(study).lock():
        assert time.monotonic() - began < 10


WRITE = (
    START
    + """
from sqlalchemy import text

trial = claim(study, 10, choices, lease)
def write():
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE trials SET datetime_start = now()"))
        print(trial.number, flush=True)
        sys.stdin.readline()  # frozen and let go meanwhile, once
store.retry(write)
tell(trial, [99, 1, 1])
"""
)


@pytest.mark.slow
def test_who_is_frozen_while_it_writes_keeps_no_row_from_others(
    server: Server, processes: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.new_database()
    study = create_study(open_storage(url), "tiny", OBJECTIVES)
    monkeypatch.setenv("HOURGLASS_LEASE", "1")
    (worker,) = processes(WRITE, url, 1, 10, 1)
    assert line_of(worker) == "0"
    worker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert until(lambda: requeue_stale_trials(study)) == [0]
    assert time.monotonic() - began < 10
    worker.send_signal(signal.SIGCONT)
    assert worker.stdin is not None
    worker.stdin.write("\n\n")
    worker.stdin.flush()
    assert [line_of(worker), line_of(worker)] == ["0", "dropped 0"]


# Patience


@pytest.mark.slow
def test_a_database_that_stays_away_is_given_up(server: Server) -> None:
    url = server.over_tcp(server.new_database())
    study = create_study(open_storage(url), "tiny", OBJECTIVES)
    server.stop()
    try:
        with pytest.raises(UserError) as caught:
            retry_while_unavailable(StudyStore(study).url, lambda: count(study), 0.5)
    finally:
        server.start()
    assert "unavailable for" in str(caught.value)
    assert "postgres:***@127.0.0.1" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert count(study) == Counts(0, 0, 0, 0)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_reading_waits_as_well(study: Study, server: Server) -> None:
    for _ in range(3):
        study.enqueue_trial({"width": 5})
    engine = StudyStore(study).engine
    broken = []

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def _break(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        # In the middle of a transaction, where no connection is tried before it is used.
        if "FROM trials" in statement and not broken:
            broken.append(statement)
            connection.connection.dbapi_connection.close()

    assert retry_while_unavailable(StudyStore(study).url, lambda: count(study)).waiting == 3
    assert broken


def test_faults_of_ours_are_not_waited_out() -> None:
    calls = []

    def wrong() -> None:
        calls.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retry_while_unavailable("", wrong)
    assert len(calls) == 1
    for error in (sqlalchemy.exc.ProgrammingError("", {}, Exception()), UserError("no"), OSError()):
        assert not is_unavailable(error)


def test_a_beat_outlives_a_database_that_is_away(server: Server) -> None:
    study = create_study(open_storage(server.new_database()), "tiny", OBJECTIVES)
    lease = lease_of(study, "cpu", **SHORT)
    lease.start()
    server.stop()
    until(lambda: not lease.fresh())
    server.start()
    until(lease.fresh)
    (sign,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    assert not sign.expired
    lease.end()


def test_a_lease_begins_anew_with_the_database(server: Server) -> None:
    """Workers could not give a sign of life while it was stopped: their trials are not handed over at once."""
    study = create_study(open_storage(server.new_database()), "tiny", OBJECTIVES)
    lease = lease_of(study, "cpu", beat=60, lease=2)
    lease.renew()
    server.stop()
    time.sleep(2.5)
    server.start()
    (sign,) = worker_heartbeats(StudyStore(study).engine, "tiny").values()
    assert sign.age < 2.4
    lease.end()


# Credentials


def test_passwords_reach_a_server_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = server.new_database()
    url = server.over_tcp(plain)
    storage = open_storage(url)
    study = create_study(storage, "tiny", OBJECTIVES)
    lease = lease_of(study, "cpu")
    lease.start()
    assert claim(study, 1, CHOICES, lease) is not None
    assert StudyStore(study).url == url.replace(PASSWORD, "***")
    with storage.engine.connect() as connection:
        inspected = sqlalchemy.inspect(connection).get_table_names()
        for table in inspected:
            stored = connection.execute(sqlalchemy.text(f"SELECT * FROM {table}")).all()
            assert PASSWORD not in repr(stored)
    assert TABLE.name in inspected
    lease.end()

    without = server.over_tcp(plain, password=None)
    with pytest.raises(UserError, match="no password supplied"):
        open_storage(without)
    with pytest.raises(UserError) as caught:
        open_storage(server.over_tcp(plain, password="not-" + PASSWORD))
    assert PASSWORD not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert load_study(open_storage(without), "tiny").study_name == "tiny"
    monkeypatch.delenv("PGPASSWORD")
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:postgres:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert load_study(open_storage(without), "tiny").study_name == "tiny"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql+psycopg://me@host/db?password=secret", "postgresql+psycopg://me@host/db?password=***"),
        (
            "postgresql+psycopg://me@/db?host=h&password=secret&sslpassword=secret",
            "postgresql+psycopg://me@/db?host=h&password=***&sslpassword=***",
        ),
        ("postgresql+psycopg://me@/db?passfile=mine", "postgresql+psycopg://me@/db?passfile=mine"),
        ("postgresql//me@host/db?password=secret", "postgresql//me@host/db?password=***"),
    ],
)
def test_passwords_among_the_options_are_not_shown_either(given: str, shown: str) -> None:
    assert mask_password(given) == shown


# The command


def test_workers_are_listed_and_stale_trials_handed_back(
    study: Study, url: str, begin: Begin, in_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    alive, silent = begin(lease=60), begin(alive=False)
    first, second = claim(study, 9, CHOICES, alive), claim(study, 9, CHOICES, silent)
    assert first is not None
    assert second is not None
    elsewhere(study, second, silent)
    time.sleep(0.6)

    def listed(*flags: str) -> dict[str, Any]:
        done = in_process("workers", "--study", "tiny", "--storage", url, "--json", *flags)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    found = listed()
    by_id = {worker["worker"]: worker for worker in found["workers"]}
    assert by_id[alive.id]["trial"] == first.number
    assert not by_id[alive.id]["lost"]
    assert by_id[alive.id]["pid"] == os.getpid()
    assert 0 <= by_id[alive.id]["last_sign"] < 10
    assert by_id[silent.id]["lost"]
    assert [(one["trial"], one["machine"]) for one in found["stale"]] == [(second.number, "elsewhere")]
    assert found["handed_back"] == []

    shown = in_process("workers", "--study", "tiny", "--storage", url)
    assert "study tiny: 1 worker, 1 lost; 1 stale trial" in shown.stdout
    assert "with --reap" in shown.stdout
    assert "\x1b" not in shown.stdout

    assert listed("--reap")["handed_back"] == [second.number]
    assert listed()["stale"] == []
    assert count(study) == Counts(complete=0, pruned=0, running=1, waiting=1)


def test_a_password_is_not_printed_by_commands(
    server: Server, in_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    url = server.over_tcp(server.new_database())
    open_storage(url)
    for flags in (("workers", "--study", "none"), ("report", "--study", "none")):
        done = in_process(*flags, "--storage", url)
        assert done.returncode == 2
        assert "postgres:***@127.0.0.1" in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
