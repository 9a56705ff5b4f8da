"""What lets hundreds of workers share a study: few connections, and a lock asked for only with a reason."""

from __future__ import annotations

import contextlib
import pickle
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from postgres import Server

from nas.architecture import cost
from nas.data.augmentation import fit_to_input
from nas.study.config import StudyConfig
from nas.study.execution import trial_session as objective
from nas.study.execution.trial_session import TrialSession
from nas.study.execution.worker_pool import SAMPLED_NETWORKS
from nas.study.experiment import prepare
from nas.study.storage.backend import create_study, open_storage
from nas.study.storage.locks import database_lock
from nas.study.storage.retry import retry_while_unavailable
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, lease_of
from nas.training.loop import TrainingResult, train

CHOICES = {"width": IntDistribution(4, 64)}


def test_a_worker_holds_no_connection_while_it_trains(
    server: Server, config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.new_database()
    experiment = prepare(config, tmp_path / "runs", url)
    study = experiment.open_study(RandomSampler(seed=0))
    lease = lease_of(study, "cpu", beat=600, lease=600)
    lease.start()
    outside = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(database="postgres"))
    held: list[int] = []

    def connections() -> int:
        about = {"name": sqlalchemy.make_url(url).database}
        asked = sqlalchemy.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
        with outside.connect() as connection:
            return int(connection.execute(asked, about).scalar_one())

    def look(_: int) -> None:
        # A server's process ends a moment after its client has gone.
        deadline = time.monotonic() + 5
        while (there := connections()) and time.monotonic() < deadline:
            time.sleep(0.02)
        held.append(there)

    def observed(*arguments: Any, **given: Any) -> TrainingResult:
        given["hooks"] = replace(given["hooks"], after_step=look)
        return train(*arguments, **given)

    monkeypatch.setattr(objective, "train", observed)
    people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 32) for split in ("train", "holdout"))
    trial = claim(study, 1, experiment.space.choices, lease)
    assert trial is not None
    assert connections() > 0
    outcome = TrialSession(study, trial, experiment, people, held_out, lease=lease).run()
    assert held == [0] * config.short_schedule().steps
    assert study.trials[0].state == TrialState.COMPLETE
    assert outcome.pckh is not None
    lease.end()
    for engine in (outside, StudyStore(study).engine):
        engine.dispose()


def let_in(url: str, names: Sequence[str]) -> list[str]:
    """In which order some are let in that ask one after the other while the lock is held; claims by their names."""
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


def test_who_waits_for_the_lock_is_let_in_first_come_first_served(server: Server) -> None:
    names = ["tell 0", "tell 1", "tell 2", "tell 3", "tell 4"]
    assert let_in(server.new_database(), names) == names


def test_who_tells_waits_for_one_claim_and_not_for_all(server: Server) -> None:
    names = ["claim 0", "claim 1", "claim 2", "tell 0", "tell 1"]
    assert let_in(server.new_database(), names) == ["tell 0", "tell 1", "claim 0", "claim 1", "claim 2"]


@pytest.mark.slow
def test_more_may_wait_for_the_lock_than_the_server_has_connections() -> None:
    with contextlib.closing(Server(max_connections=20)) as server:
        url = server.new_database()
        storages = [open_storage(url) for _ in range(34)]
        let_in: list[int] = []

        def once(number: int) -> None:
            with database_lock(storages[number].engine):
                storages[number].get_all_studies()  # over another connection
                let_in.append(number)

        def work(number: int) -> None:
            for _ in range(2):
                retry_while_unavailable(url, lambda: once(number))
                storages[number].engine.dispose()

        working = [threading.Thread(target=work, args=(number,)) for number in range(34)]
        for thread in working:
            thread.start()
        for thread in working:
            thread.join(timeout=120)
        assert sorted(let_in) == sorted([*range(34)] * 2)
        for each in storages:
            each.engine.dispose()


def test_where_nothing_is_left_the_lock_is_not_waited_for(url: str) -> None:
    study = create_study(open_storage(url), "tiny", ("pckh", "params", "madds"), RandomSampler(seed=0))
    mine, other = lease_of(study, "cpu"), lease_of(study, "cpu")
    mine.renew()
    other.renew()
    trial = claim(study, 1, CHOICES, other)
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(claim(study, 1, CHOICES, mine)))
    with StudyStore(study).lock():
        asking.start()
        asking.join(timeout=10)
        assert answers == [None]
    # But a trial whose worker is gone is a reason.
    other.end()
    taken = claim(study, 1, CHOICES, mine)
    assert trial is not None
    assert taken is not None
    assert taken.params == trial.params
    mine.end()
    StudyStore(study).engine.dispose()


def test_workers_know_what_blocks_cost_before_a_proposal_holds_the_lock(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = prepare(config, tmp_path / "runs")
    monkeypatch.setattr(cost, "_cache", {})
    experiment.sample(SAMPLED_NETWORKS)
    known = pickle.loads(pickle.dumps(cost.cached_costs()))
    monkeypatch.setattr(cost, "_cache", {})
    rng = random.Random(1)
    candidate = experiment.problem.candidate(experiment.space.random(rng))
    counted = experiment.cost(candidate)
    monkeypatch.setattr(cost, "_cache", {})
    monkeypatch.delattr(cost, "_count")  # who counts now fails
    cost.add_to_cache(known)
    assert experiment.cost(candidate) == counted
    for _ in range(100):
        experiment.cost(experiment.problem.candidate(experiment.space.random(rng)))
