"""Lists of trials through the cache of a worker, compared with lists that are read without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import TrialState
from postgres import Server
from sqlalchemy.engine import Engine

from nas.study.storage.backend import create_study, load_study, open_storage
from nas.study.storage.owner import Owner
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import Counts, claim, count, lease_of, requeue_stale_trials

CHOICES = {"width": IntDistribution(4, 10**9)}
OBJECTIVES = ("pckh", "params", "madds")


def worker(url: str, seed: int = 0) -> Study:
    return create_study(open_storage(url), "tiny", OBJECTIVES, RandomSampler(seed=seed))


def read_uncached(url: str) -> list[tuple[object, ...]]:
    """All trials, read without a cache."""
    study = load_study(open_storage(url), "tiny")
    contents = listed(study)
    StudyStore(study).engine.dispose()
    return contents


def listed(study: Study) -> list[tuple[object, ...]]:
    trials = study.get_trials(deepcopy=False)
    return [(t.number, t._trial_id, t.state, t.values, t.params, t.user_attrs, t.system_attrs) for t in trials]


@contextmanager
def statements() -> Iterator[list[str]]:
    recorded: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        recorded.append(statement)

    sqlalchemy.event.listen(Engine, "before_cursor_execute", record)
    try:
        yield recorded
    finally:
        sqlalchemy.event.remove(Engine, "before_cursor_execute", record)


def test_lists_show_what_other_workers_do(url: str) -> None:
    one, other = worker(url), worker(url, seed=1)
    assert listed(one) == []
    for step in (
        lambda: claim(one, 99, CHOICES),
        lambda: claim(other, 99, CHOICES),
        lambda: other.ask(CHOICES),  # a worker that dies during a claim
        lambda: claim(one, 99, CHOICES),  # ends that trial
        lambda: other.enqueue_trial({"width": 5}, user_attrs={"given": True}),
        lambda: claim(other, 99, CHOICES),
        lambda: other.tell(1, [50.0, 1.0, 2.0]),
        lambda: other.tell(4, state=TrialState.PRUNED),
        lambda: one.tell(0, [40.0, 2.0, 3.0]),
        lambda: claim(other, 99, CHOICES),
    ):
        step()
        expected = read_uncached(url)
        assert listed(one) == listed(other) == expected
        assert listed(one) == expected  # again, without changes
    assert count(one) == Counts(complete=2, pruned=1, running=2, waiting=0)
    for study in (one, other):
        StudyStore(study).engine.dispose()


def test_lists_show_what_the_worker_itself_writes(url: str) -> None:
    study = worker(url)
    trial = claim(study, 9, CHOICES)
    assert trial is not None
    assert listed(study) == read_uncached(url)
    trial.set_user_attr("network", "hg2")
    study._storage.set_trial_system_attr(trial._trial_id, "note", "fast")
    assert listed(study) == read_uncached(url)
    assert study.trials[0].user_attrs["network"] == "hg2"
    trial.set_user_attr("network", "hg8")
    assert study.trials[0].user_attrs["network"] == "hg8"
    StudyStore(study).engine.dispose()


def test_lists_query_only_states_of_running_trials(url: str) -> None:
    study, other = worker(url), worker(url, seed=1)
    for _ in range(6):
        claim(other, 99, CHOICES)
    other.enqueue_trial({"width": 5})
    for _ in range(2):
        study.get_trials(deepcopy=False)
    with statements() as recorded:
        assert len(study.get_trials(deepcopy=False)) == 7
    queries = [s for s in recorded if "FROM trial" in s or "JOIN" in s]
    assert [s.partition(" WHERE")[0] for s in queries] == ["SELECT trial_id, state FROM trials"]
    for each in (study, other):
        StudyStore(each).engine.dispose()


def test_a_trial_claimed_during_a_read_is_read_again(server: Server) -> None:
    # On a server, where others can write between the queries of one list.
    url = server.new_database()
    study, other = worker(url), worker(url, seed=1)
    assert listed(study) == []
    trial = other.ask()
    claimed = []

    def claim_meanwhile(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FROM trial_user_attributes" in statement and not claimed:
            claimed.append(True)
            trial.set_user_attr("owner", Owner.me().to_dict())

    engine = StudyStore(study).engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", claim_meanwhile)
    incomplete = study.get_trials(deepcopy=False)[0]
    assert "owner" in incomplete.user_attrs
    assert incomplete.params == {}
    trial.suggest_int("width", 4, 10**9)
    assert listed(study) == read_uncached(url)
    assert study.trials[0].params == trial.params != {}
    for each in (study, other):
        StudyStore(each).engine.dispose()


def test_requeueing_uses_current_attributes(url: str) -> None:
    study, other = worker(url), worker(url, seed=1)
    lease = lease_of(other, "cpu", beat=600, lease=600)
    lease.renew()
    theirs = claim(other, 9, CHOICES, lease)
    assert theirs is not None
    theirs.set_user_attr("attempt", 3)
    assert [t.number for t in study.get_trials(deepcopy=False)] == [0]  # now cached, with its third attempt
    theirs.set_user_attr("attempt", 1)  # it made progress
    lease.end()
    with StudyStore(study).lock():
        assert requeue_stale_trials(study) == [0]
    again = claim(study, 9, CHOICES)
    assert again is not None
    assert again.user_attrs["attempt"] == 2
    assert Owner.of(study.trials[again.number]) == Owner.me()
    for each in (study, other):
        StudyStore(each).engine.dispose()
