"""Where studies are kept: many workers at once, dead workers, and databases that cannot be opened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import sqlalchemy
from effort import examples
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import TrialState

from nas.errors import UserError
from nas.study.storage.backend import create_study, default_url, load_study, open_storage
from nas.study.storage.engine import mask_password, mask_url
from nas.study.storage.locks import database_lock
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import (
    MAX_ATTEMPTS,
    Counts,
    Owner,
    claim,
    count,
    earlier_numbers,
    first_number,
    requeue,
    requeue_stale_trials,
)

REPOSITORY = Path(__file__).resolve().parents[3]
OBJECTIVES = ("pckh", "params", "madds")
CHOICES = {"width": IntDistribution(4, 64), "block": CategoricalDistribution(["bottleneck", "separable"])}

START = f"""
import sys, time
from pathlib import Path
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.trial_queue import claim, count

url, go, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
choices = {{"width": IntDistribution(4, 64), "block": CategoricalDistribution(["bottleneck", "separable"])}}
print("ready", flush=True)
while not go.exists():
    time.sleep(0.005)
study = create_study(open_storage(url), "tiny", {OBJECTIVES!r}, RandomSampler(seed=number))
"""

WORK = (
    START
    + """
total = int(sys.argv[4])
while True:
    trial = claim(study, total, choices)
    if trial is None:
        if count(study).done >= total:
            break
        time.sleep(0.01)
    elif trial.number % 4 == 3:
        study.tell(trial, state=TrialState.PRUNED)
        print(trial.number, flush=True)
    else:
        study.tell(trial, [trial.params["width"], 1, 1])
        print(trial.number, flush=True)
"""
)

CLAIM_AND_HANG = (
    START
    + """
trial = claim(study, 10, choices)
print(trial.number, flush=True)
time.sleep(600)
"""
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return default_url(tmp_path)


@pytest.fixture
def study(url: str) -> Study:
    return create_study(open_storage(url), "tiny", OBJECTIVES, RandomSampler(seed=0))


@pytest.fixture
def processes(tmp_path: Path, url: str) -> Any:
    """Starts processes that run a script on one database, all let go at the same moment; kills what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, number: int = 1, *arguments: object) -> list[subprocess.Popen[str]]:
        go = tmp_path / f"go-{len(started)}"
        fresh = [
            subprocess.Popen(
                [sys.executable, "-c", script, url, str(go), str(i), *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
            for i in range(number)
        ]
        started.extend(fresh)
        for process in fresh:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        go.touch()
        return fresh

    yield start
    for process in started:
        process.kill()
        process.communicate()


Start = Callable[..., list[subprocess.Popen[str]]]


# Many workers


@pytest.mark.slow
def test_processes_do_exactly_as_many_trials_as_wanted(processes: Start, url: str) -> None:
    total = examples(24, 60)
    workers = processes(WORK, examples(4, 8), total)
    told: list[int] = []
    for worker in workers:
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
        assert "locked" not in err
        told += [int(line) for line in out.split()]
    study = load_study(open_storage(url), "tiny")
    assert count(study) == Counts(complete=3 * total // 4, pruned=total // 4, running=0, waiting=0)
    assert sorted(told) == list(range(total))  # nobody did another's trial, and none was done twice
    assert len(study.trials) == total


@pytest.mark.slow
def test_a_fresh_database_may_be_created_by_several_at_once(processes: Start, url: str) -> None:
    for process in processes(START, 2):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    storage = open_storage(url)
    assert [s.study_name for s in storage.get_all_studies()] == ["tiny"]
    assert load_study(storage, "tiny").metric_names == ["PCKh", "params", "MAdds"]


def test_nothing_is_claimed_beyond_the_total(study: Study) -> None:
    first, second = claim(study, 2, CHOICES), claim(study, 2, CHOICES)
    assert first is not None
    assert second is not None
    assert set(first.params) == set(CHOICES)
    assert Owner.of(study.trials[0]) == Owner.me()
    assert claim(study, 2, CHOICES) is None  # two are running, by a process that is there
    study.tell(first, [1, 1, 1])
    assert claim(study, 2, CHOICES) is None
    study.tell(second, state=TrialState.PRUNED)
    assert claim(study, 2, CHOICES) is None
    assert count(study) == Counts(complete=1, pruned=1, running=0, waiting=0)
    assert claim(study, 3, CHOICES) is not None  # a larger total goes on


def test_failed_trials_do_not_count(study: Study) -> None:
    failed = claim(study, 1, CHOICES)
    assert failed is not None
    study.tell(failed, state=TrialState.FAIL)
    assert count(study) == Counts(0, 0, 0, 0)
    assert claim(study, 1, CHOICES) is not None


def test_queued_trials_come_first_and_count(study: Study) -> None:
    study.enqueue_trial({"width": 63, "block": "separable"})
    assert count(study) == Counts(complete=0, pruned=0, running=0, waiting=1)
    assert count(study).done == 0
    trial = claim(study, 1, CHOICES)
    assert trial is not None
    assert trial.params == {"width": 63, "block": "separable"}


def test_the_lock_lets_one_in_at_a_time(url: str) -> None:
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
    with database_lock(other.engine):  # an error inside lets go of it
        pass


def test_the_database_is_written_ahead(study: Study) -> None:
    with StudyStore(study).engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("PRAGMA journal_mode")).scalar() == "wal"


# Dead workers


def started_by(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_handed_to_the_next(processes: Start, url: str) -> None:
    (worker,) = processes(CLAIM_AND_HANG)
    number = started_by(worker)
    study = load_study(open_storage(url), "tiny")
    begun = study.trials[number]
    assert begun.state == TrialState.RUNNING
    assert claim(study, 1, CHOICES) is None  # its worker is alive

    worker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while psutil.Process(worker.pid).status() != psutil.STATUS_ZOMBIE:  # dead, though its parent has not waited for it
        assert time.monotonic() < deadline
        time.sleep(0.01)
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert again.number != number
    assert again.params == begun.params
    frozen = study.trials[again.number]
    assert first_number(frozen) == number
    assert frozen.user_attrs["attempt"] == 2
    assert Owner.of(frozen) == Owner.me()
    assert study.trials[number].state == TrialState.FAIL
    assert "handed back" in study.trials[number].user_attrs["reason"]
    study.tell(again, [1, 1, 1])
    assert count(study) == Counts(complete=1, pruned=0, running=0, waiting=0)


def dead_owner() -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    born = psutil.Process(process.pid).create_time()
    process.wait()
    return {**Owner.me().to_dict(), "pid": process.pid, "born": round(born, 2)}


def test_a_trial_that_kills_its_workers_is_given_up(study: Study) -> None:
    owner = dead_owner()
    numbers = []
    for _ in range(MAX_ATTEMPTS):
        trial = claim(study, 1, CHOICES)
        assert trial is not None
        numbers.append(trial.number)
        assert first_number(study.trials[trial.number]) == numbers[0]
        trial.set_user_attr("owner", owner)
    assert claim(study, 1, CHOICES) is None
    last = study.trials[numbers[-1]]
    assert last.state == TrialState.PRUNED
    assert f"died {MAX_ATTEMPTS} times" in last.user_attrs["reason"]
    assert [study.trials[n].state for n in numbers[:-1]] == [TrialState.FAIL] * (MAX_ATTEMPTS - 1)
    assert count(study) == Counts(complete=0, pruned=1, running=0, waiting=0)
    assert len(study.trials) == MAX_ATTEMPTS


@pytest.mark.slow
def test_ending_a_trial_on_purpose_is_not_held_against_it(study: Study) -> None:
    owner = dead_owner()
    for _ in range(MAX_ATTEMPTS + 2):  # so many times Ctrl-C
        trial = claim(study, 1, CHOICES)
        assert trial is not None
        trial.set_user_attr("owner", owner)
        with StudyStore(study).lock():
            assert requeue_stale_trials(study, stopped_on_purpose=True) == [trial.number]
    assert claim(study, 1, CHOICES) is not None


def test_orphans_are_handed_back_once_and_others_left_alone(study: Study) -> None:
    trials = [claim(study, 9, CHOICES) for _ in range(4)]
    assert all(trials)
    owner = dead_owner()
    trials[1].set_user_attr("owner", owner)  # type: ignore[union-attr]
    trials[2].set_user_attr("owner", {**Owner.me().to_dict(), "host": "elsewhere", "pid": owner["pid"]})  # type: ignore[union-attr]
    with StudyStore(study).lock():
        assert requeue_stale_trials(study) == [1]
        assert requeue_stale_trials(study) == []
    assert [t.state.name for t in study.trials] == ["RUNNING", "FAIL", "RUNNING", "RUNNING", "WAITING"]


def test_a_trial_that_was_left_while_it_was_being_claimed_is_an_orphan(study: Study) -> None:
    left = [study.ask(CHOICES), study.ask()]  # with parameters, without; nothing was trained
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert [study.trials[trial.number].state for trial in left] == [TrialState.FAIL] * 2
    assert "first_number" not in study.trials[again.number].user_attrs
    assert count(study) == Counts(complete=0, pruned=0, running=1, waiting=0)


def test_a_queued_trial_that_was_left_while_it_was_being_claimed_is_the_same_again(study: Study) -> None:
    before = {"attempt": 2, "first_number": 0, "earlier": [0]}
    study.enqueue_trial({"block": "separable", "width": 7}, user_attrs=before)
    left = study.ask()
    left.suggest_categorical("block", ["bottleneck", "separable"])  # … and then its worker, or the database, was gone
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert again.params == {"block": "separable", "width": 7}
    assert earlier_numbers(study.trials[again.number]) == [0, left.number]


def test_handing_back_by_hand(study: Study) -> None:
    trial = claim(study, 1, CHOICES)
    assert trial is not None
    requeue(study, study.trials[0])
    assert count(study) == Counts(complete=0, pruned=0, running=0, waiting=1)
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert again.params == trial.params


def test_owners() -> None:
    me = Owner.me()
    assert not me.gone()
    assert Owner(me.host, me.pid, me.born - 100).gone()  # the number was given to another process since
    assert Owner(**dead_owner()).gone()
    assert not Owner("elsewhere", dead_owner()["pid"], 0.0).gone()  # nobody here can know


# Studies by name


def test_a_study_that_is_not_there(url: str) -> None:
    storage = open_storage(url)
    with pytest.raises(UserError, match=r"'mpii': not in .*study\.db \(it holds: none\); run `python -m nas\.search`"):
        load_study(storage, "mpii")
    for name in ("one", "two"):
        create_study(storage, name, OBJECTIVES)
    with pytest.raises(UserError, match=r"\(it holds: one, two\)"):
        load_study(storage, "mpii")


def test_a_study_is_created_once(url: str) -> None:
    first = create_study(open_storage(url), "tiny", OBJECTIVES)
    first.set_user_attr("kept", 1)
    second = create_study(open_storage(url), "tiny", OBJECTIVES)
    assert second.user_attrs == {"kept": 1}
    assert second.metric_names == ["PCKh", "params", "MAdds"]
    assert [d.name for d in second.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]


# Databases that cannot be opened


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:secret@host:5433/db?sslmode=require", "postgresql://me:***@host:5433/db?sslmode=require"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///runs/tiny/study.db", "sqlite:///runs/tiny/study.db"),
        ("postgresql//me:secret@host/db", "postgresql//me:***@host/db"),
        ("postgresql://me:secret@host:port/db", "postgresql://me:***@host:port/db"),
        ("postgresql//me:s:e/c@ret@host/db", "postgresql//me:***@host/db"),
        ("not a URL", "not a URL"),
        ("", ""),
    ],
)
def test_passwords_are_not_shown(given: str, shown: str) -> None:
    assert mask_password(given) == shown


def refused(url: str) -> str:
    with pytest.raises(UserError) as caught:
        open_storage(url)
    message = str(caught.value)
    assert message.startswith("--storage ")
    assert "\n" not in message
    assert "secret" not in message
    return message


def test_a_server_that_does_not_answer() -> None:
    pytest.importorskip("psycopg")
    message = refused("postgresql+psycopg://me:secret@127.0.0.1:1/db")
    assert "postgresql+psycopg://me:***@127.0.0.1:1/db: cannot be opened" in message
    assert "refused" in message
    assert "check the path or the server" in message


def test_a_host_that_does_not_exist() -> None:
    pytest.importorskip("psycopg")
    assert "cannot be opened" in refused("postgresql+psycopg://me:secret@no-such-host.invalid/db")


@pytest.mark.parametrize(
    "url", ["", "study.db", "postgresql//me:secret@host/db", "postgresql://me:secret@host:port/db", "sqlite:/"]
)
def test_not_a_url(url: str) -> None:
    assert "not a database URL; use sqlite:///" in refused(url)


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = refused("postgresql+psycopg://me:secret@host/db")
    assert "psycopg" in message
    assert "install its driver" in message


def test_a_grpc_proxy_is_refused_with_its_reason() -> None:
    message = refused("grpc://me:secret@host:13000")
    assert "--storage grpc://me:***@host:13000: " in message
    assert "locks" in message
    assert "give the URL of the database behind it" in message


def test_another_kind_of_database() -> None:
    for url in ("oracel://me:secret@host/db", "mysql://me:secret@host/db"):
        assert "SQLite or PostgreSQL" in refused(url)


def test_a_database_in_memory_cannot_be_shared() -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        assert "in memory" in refused(url)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(f"sqlite:///{tmp_path}/file/runs/study.db")
    assert "folder cannot be created" in message
    assert "choose a writable path" in message


def test_a_path_that_is_a_folder_or_another_file(tmp_path: Path) -> None:
    (tmp_path / "study.db").mkdir()
    assert "cannot be opened" in refused(default_url(tmp_path))
    other = tmp_path / "notes.txt"
    other.write_text("not a database " * 100)
    assert "cannot be opened: file is not a database" in refused(f"sqlite:///{other}")
    assert other.read_text().startswith("not a database")


def test_missing_folders_are_made(tmp_path: Path) -> None:
    storage = open_storage(default_url(tmp_path / "runs" / "deep"))
    assert (tmp_path / "runs" / "deep" / "study.db").is_file()
    assert mask_url(storage.engine.url) == f"sqlite:///{tmp_path}/runs/deep/study.db"
    assert StudyStore(optuna.create_study(storage=storage)).url == mask_url(storage.engine.url)
