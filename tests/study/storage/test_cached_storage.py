"""What a worker's lists of trials tell, and what they cost: the database is read by another view beside it."""

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
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import Counts, Owner, claim, count, lease_of, requeue_stale_trials

CHOICES = {"width": IntDistribution(4, 10**9)}
OBJECTIVES = ("pckh", "params", "madds")


def worker(url: str, seed: int = 0) -> Study:
    return create_study(open_storage(url), "tiny", OBJECTIVES, RandomSampler(seed=seed))


def stored(url: str) -> list[tuple[object, ...]]:
    """All trials, as somebody reads them who has read nothing before."""
    study = load_study(open_storage(url), "tiny")
    found = told(study)
    StudyStore(study).engine.dispose()
    return found


def told(study: Study) -> list[tuple[object, ...]]:
    trials = study.get_trials(deepcopy=False)
    return [(t.number, t._trial_id, t.state, t.values, t.params, t.user_attrs, t.system_attrs) for t in trials]


@contextmanager
def statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sqlalchemy.event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sqlalchemy.event.remove(Engine, "before_cursor_execute", note)


def test_a_workers_list_tells_what_others_do(url: str) -> None:
    one, other = worker(url), worker(url, seed=1)
    assert told(one) == []
    for step in (
        lambda: claim(one, 99, CHOICES),
        lambda: claim(other, 99, CHOICES),
        lambda: other.ask(CHOICES),  # a worker that dies in the middle of a claim
        lambda: claim(one, 99, CHOICES),  # … whose trial is ended here
        lambda: other.enqueue_trial({"width": 5}, user_attrs={"given": True}),
        lambda: claim(other, 99, CHOICES),
        lambda: other.tell(1, [50.0, 1.0, 2.0]),
        lambda: other.tell(4, state=TrialState.PRUNED),
        lambda: one.tell(0, [40.0, 2.0, 3.0]),
        lambda: claim(other, 99, CHOICES),
    ):
        step()
        now = stored(url)
        assert told(one) == told(other) == now
        assert told(one) == now  # read once more: nothing has changed
    assert count(one) == Counts(complete=2, pruned=1, running=2, waiting=0)
    for study in (one, other):
        StudyStore(study).engine.dispose()


def test_what_a_worker_notes_itself_is_in_its_lists(url: str) -> None:
    study = worker(url)
    trial = claim(study, 9, CHOICES)
    assert trial is not None
    assert told(study) == stored(url)
    trial.set_user_attr("network", "hg2")
    study._storage.set_trial_system_attr(trial._trial_id, "note", "fast")
    assert told(study) == stored(url)
    assert study.trials[0].user_attrs["network"] == "hg2"
    trial.set_user_attr("network", "hg8")
    assert study.trials[0].user_attrs["network"] == "hg8"
    StudyStore(study).engine.dispose()


def test_a_list_asks_for_states_only_however_many_are_running(url: str) -> None:
    study, other = worker(url), worker(url, seed=1)
    for _ in range(6):
        claim(other, 99, CHOICES)
    other.enqueue_trial({"width": 5})
    for _ in range(2):
        study.get_trials(deepcopy=False)
    with statements() as seen:
        assert len(study.get_trials(deepcopy=False)) == 7
    asked = [s for s in seen if "FROM trial" in s or "JOIN" in s]
    assert [s.partition(" WHERE")[0] for s in asked] == ["SELECT trial_id, state FROM trials"]
    for each in (study, other):
        StudyStore(each).engine.dispose()


def test_a_trial_that_is_claimed_while_it_is_read_is_read_again(server: Server) -> None:
    # At a server, which lets others write between the statements of one list.
    url = server.new_database()
    study, other = worker(url), worker(url, seed=1)
    assert told(study) == []
    trial = other.ask()
    claimed = []

    def claim_meanwhile(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FROM trial_user_attributes" in statement and not claimed:
            claimed.append(True)
            trial.set_user_attr("owner", Owner.me().to_dict())

    engine = StudyStore(study).engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", claim_meanwhile)
    half = study.get_trials(deepcopy=False)[0]
    assert "owner" in half.user_attrs
    assert half.params == {}
    trial.suggest_int("width", 4, 10**9)
    assert told(study) == stored(url)
    assert study.trials[0].params == trial.params != {}
    for each in (study, other):
        StudyStore(each).engine.dispose()


def test_a_trial_is_handed_back_as_it_is_now(url: str) -> None:
    study, other = worker(url), worker(url, seed=1)
    lease = lease_of(other, "cpu", beat=600, lease=600)
    lease.renew()
    theirs = claim(other, 9, CHOICES, lease)
    assert theirs is not None
    theirs.set_user_attr("attempt", 3)
    assert [t.number for t in study.get_trials(deepcopy=False)] == [0]  # read: on its third attempt
    theirs.set_user_attr("attempt", 1)  # it went forward
    lease.end()
    with StudyStore(study).lock():
        assert requeue_stale_trials(study) == [0]
    again = claim(study, 9, CHOICES)
    assert again is not None
    assert again.user_attrs["attempt"] == 2
    assert Owner.of(study.trials[again.number]) == Owner.me()
    for each in (study, other):
        StudyStore(each).engine.dispose()
