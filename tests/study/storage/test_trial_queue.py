"""The queue of trials on SQLite: claiming, counting, requeueing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from effort import examples
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import TrialState
from worker_processes import OBJECTIVES, OPEN_STUDY, StartProcesses, read_line, wait_until

from nas.study.storage.backend import create_study, default_url, load_study, open_storage
from nas.study.storage.owner import Owner, this_system
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import (
    MAX_ATTEMPTS,
    Counts,
    claim,
    count,
    earlier_numbers,
    first_number,
    lease_of,
    requeue,
    requeue_stale_trials,
)

CHOICES = {"width": IntDistribution(4, 64), "block": CategoricalDistribution(["bottleneck", "separable"])}


OPEN_WITH_CHOICES = (
    OPEN_STUDY
    + """
choices = {"width": IntDistribution(4, 64), "block": CategoricalDistribution(["bottleneck", "separable"])}
"""
)


WORK = (
    OPEN_WITH_CHOICES
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
    OPEN_WITH_CHOICES
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


@pytest.mark.slow
def test_processes_run_exactly_the_requested_number_of_trials(processes: StartProcesses, url: str) -> None:
    total = examples(24, 60)
    workers = processes(WORK, url, examples(4, 8), total)
    reported: list[int] = []
    for worker in workers:
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err
        assert "locked" not in err
        reported += [int(line) for line in out.split()]
    study = load_study(open_storage(url), "tiny")
    assert count(study) == Counts(complete=3 * total // 4, pruned=total // 4, running=0, waiting=0)
    assert sorted(reported) == list(range(total))  # no trial was run twice
    assert len(study.trials) == total


def test_nothing_is_claimed_beyond_the_total(study: Study) -> None:
    first, second = claim(study, 2, CHOICES), claim(study, 2, CHOICES)
    assert first is not None
    assert second is not None
    assert set(first.params) == set(CHOICES)
    assert Owner.of(study.trials[0]) == Owner.me()
    assert claim(study, 2, CHOICES) is None  # two are running in a living process
    study.tell(first, [1, 1, 1])
    assert claim(study, 2, CHOICES) is None
    study.tell(second, state=TrialState.PRUNED)
    assert claim(study, 2, CHOICES) is None
    assert count(study) == Counts(complete=1, pruned=1, running=0, waiting=0)
    assert claim(study, 3, CHOICES) is not None  # a larger total continues the study


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


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_requeued(processes: StartProcesses, url: str) -> None:
    (worker,) = processes(CLAIM_AND_HANG, url, 1)
    number = int(read_line(worker))
    study = load_study(open_storage(url), "tiny")
    first = study.trials[number]
    assert first.state == TrialState.RUNNING
    assert claim(study, 1, CHOICES) is None  # its worker is alive

    worker.send_signal(signal.SIGKILL)
    wait_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE)  # dead, and not yet waited for
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert again.number != number
    assert again.params == first.params
    second = study.trials[again.number]
    assert first_number(second) == number
    assert second.user_attrs["attempt"] == 2
    assert Owner.of(second) == Owner.me()
    assert study.trials[number].state == TrialState.FAIL
    assert "handed back" in study.trials[number].user_attrs["reason"]
    study.tell(again, [1, 1, 1])
    assert count(study) == Counts(complete=1, pruned=0, running=0, waiting=0)


def dead_owner() -> dict[str, Any]:
    """The owner attribute of a process that has ended."""
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
def test_stopping_on_purpose_is_no_failed_attempt(study: Study) -> None:
    owner = dead_owner()
    for _ in range(MAX_ATTEMPTS + 2):  # Ctrl-C
        trial = claim(study, 1, CHOICES)
        assert trial is not None
        trial.set_user_attr("owner", owner)
        with StudyStore(study).lock():
            assert requeue_stale_trials(study, stopped_on_purpose=True) == [trial.number]
    assert claim(study, 1, CHOICES) is not None


def test_stale_trials_are_requeued_once_and_others_left_alone(study: Study) -> None:
    trials = [claim(study, 9, CHOICES) for _ in range(4)]
    assert all(trials)
    owner = dead_owner()
    trials[1].set_user_attr("owner", owner)  # type: ignore[union-attr]
    trials[2].set_user_attr("owner", {**Owner.me().to_dict(), "host": "elsewhere", "pid": owner["pid"]})  # type: ignore[union-attr]
    with StudyStore(study).lock():
        assert requeue_stale_trials(study) == [1]
        assert requeue_stale_trials(study) == []
    assert [t.state.name for t in study.trials] == ["RUNNING", "FAIL", "RUNNING", "RUNNING", "WAITING"]


def test_a_half_claimed_trial_is_dropped(study: Study) -> None:
    half_claimed = [study.ask(CHOICES), study.ask()]  # with and without parameters, both without an owner
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert [study.trials[trial.number].state for trial in half_claimed] == [TrialState.FAIL] * 2
    assert "first_number" not in study.trials[again.number].user_attrs
    assert count(study) == Counts(complete=0, pruned=0, running=1, waiting=0)


def test_a_half_claimed_queued_trial_is_enqueued_unchanged(study: Study) -> None:
    history = {"attempt": 2, "first_number": 0, "earlier": [0]}
    study.enqueue_trial({"block": "separable", "width": 7}, user_attrs=history)
    half_claimed = study.ask()
    half_claimed.suggest_categorical("block", ["bottleneck", "separable"])  # then its worker died
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert again.params == {"block": "separable", "width": 7}
    assert earlier_numbers(study.trials[again.number]) == [0, half_claimed.number]


def test_requeue_keeps_parameters(study: Study) -> None:
    trial = claim(study, 1, CHOICES)
    assert trial is not None
    requeue(study, study.trials[0])
    assert count(study) == Counts(complete=0, pruned=0, running=0, waiting=1)
    again = claim(study, 1, CHOICES)
    assert again is not None
    assert again.params == trial.params


def test_owner_gone() -> None:
    me = Owner.me()
    assert not me.gone()
    assert Owner(me.host, me.pid, me.born - 100).gone()  # the pid was reused
    assert Owner(**dead_owner()).gone()
    assert not Owner("elsewhere", dead_owner()["pid"], 0.0).gone()  # cannot be known here


def test_a_process_of_another_boot_or_pid_namespace_counts_by_its_lease_only(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not Owner(**{**dead_owner(), "system": "another boot pid:[1]"}).gone()
    owner = {**dead_owner(), "worker": "w"}
    del owner["system"]  # as 0.7.0 stored it: a name that containers may share
    assert not Owner(**owner).gone()
    monkeypatch.setattr("os.readlink", lambda path: "1" if str(path) == "/proc/self" else "pid:[1]")
    assert this_system() == ""  # /proc shows the processes of another namespace
    assert not Owner(**{**dead_owner(), "worker": "w"}).gone()


@pytest.mark.slow
@pytest.mark.skipif(subprocess.run(["unshare", "--pid", "--fork", "true"]).returncode != 0, reason="needs root")
@pytest.mark.parametrize("mount", [True, False])
def test_containers_of_one_host_name_leave_each_others_trials_alone(
    processes: StartProcesses, url: str, mount: bool
) -> None:
    study = create_study(open_storage(url), "tiny", OBJECTIVES, RandomSampler(seed=0))
    lease = lease_of(study, "cpu", beat=0.1, lease=60)
    lease.start()
    trial = claim(study, 2, CHOICES, lease)
    assert trial is not None
    script = OPEN_WITH_CHOICES + "lease = lease_of(study, 'cpu'); lease.start(); print(claim(study, 1, choices, lease))"
    prefix = ["unshare", "--pid", "--fork", "--kill-child", *(["--mount-proc"] if mount else [])]
    (other,) = processes(script, url, 1, prefix=prefix)
    out, err = other.communicate(timeout=60)
    assert out.split() == ["None"], err
    assert study.trials[trial.number].state == TrialState.RUNNING
    assert next(iter(StudyStore(study).heartbeats())) == lease.id
    lease.end()


def test_an_interrupted_trial_comes_before_those_that_were_queued_after_it(study: Study) -> None:
    for width in (10, 20, 30):
        study.enqueue_trial({"width": width, "block": "separable"})
    first = claim(study, 2, CHOICES)
    assert first is not None
    first.set_user_attr("owner", dead_owner())
    widths = []
    while (trial := claim(study, 2, CHOICES)) is not None:
        widths.append(trial.params["width"])
        study.tell(trial, [1, 1, 1])
    assert widths == [10, 20]
    assert count(study) == Counts(complete=2, pruned=0, running=0, waiting=1)


def test_owner_is_recognized_after_clock_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        me = Owner.me()
        # psutil's start times depend on the time of day.
        create_time = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 3600)
        monkeypatch.setattr("time.time", lambda: 0.0)
        assert not me.gone()
        assert Owner.me() == me
        assert Owner(me.host, me.pid, me.born + 5).gone()  # another process with the same pid
        process.communicate(b"\n")
    assert Owner(me.host, process.pid, me.born).gone()
