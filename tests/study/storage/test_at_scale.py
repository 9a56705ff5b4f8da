"""What lets hundreds of workers share a study: few connections, and a lock that is requested only with a reason."""

from __future__ import annotations

import pickle
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from postgres import Server

from nas.architecture import cost
from nas.data.augmentation import fit_to_input
from nas.study.config import StudyConfig
from nas.study.execution import trial_session
from nas.study.execution.trial_session import TrialSession
from nas.study.execution.worker_pool import SAMPLED_NETWORKS
from nas.study.experiment import prepare
from nas.study.storage.backend import create_study, open_storage
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
    counts: list[int] = []

    def connections() -> int:
        name = {"name": sqlalchemy.make_url(url).database}
        query = sqlalchemy.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
        with outside.connect() as connection:
            return int(connection.execute(query, name).scalar_one())

    def after_step(_: int) -> None:
        # The server's process ends a moment after its client.
        deadline = time.monotonic() + 5
        while (open_now := connections()) and time.monotonic() < deadline:
            time.sleep(0.02)
        counts.append(open_now)

    def train_observed(*arguments: Any, **options: Any) -> TrainingResult:
        options["hooks"] = replace(options["hooks"], after_step=after_step)
        return train(*arguments, **options)

    monkeypatch.setattr(trial_session, "train", train_observed)
    people, held_out = (fit_to_input(experiment.load_people(split, "cpu"), 32) for split in ("train", "holdout"))
    trial = claim(study, 1, experiment.space.choices, lease)
    assert trial is not None
    assert connections() > 0
    outcome = TrialSession(study, trial, experiment, people, held_out, lease=lease).run()
    assert counts == [0] * config.short_schedule().steps
    assert study.trials[0].state == TrialState.COMPLETE
    assert outcome.pckh is not None
    lease.end()
    for engine in (outside, StudyStore(study).engine):
        engine.dispose()


def test_claims_do_not_wait_for_the_lock_if_no_trial_is_left(url: str) -> None:
    study = create_study(open_storage(url), "tiny", ("pckh", "params", "madds"), RandomSampler(seed=0))
    own, other = lease_of(study, "cpu"), lease_of(study, "cpu")
    own.renew()
    other.renew()
    trial = claim(study, 1, CHOICES, other)
    answers: list[object] = []
    claiming = threading.Thread(target=lambda: answers.append(claim(study, 1, CHOICES, own)))
    with StudyStore(study).lock():
        claiming.start()
        claiming.join(timeout=10)
        assert answers == [None]
    # A stale trial is a reason to wait.
    other.end()
    taken = claim(study, 1, CHOICES, own)
    assert trial is not None
    assert taken is not None
    assert taken.params == trial.params
    own.end()
    StudyStore(study).engine.dispose()


def test_workers_receive_the_costs_of_blocks(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = prepare(config, tmp_path / "runs")
    monkeypatch.setattr(cost, "_cache", {})
    experiment.sample(SAMPLED_NETWORKS)
    costs = pickle.loads(pickle.dumps(cost.cached_costs()))
    monkeypatch.setattr(cost, "_cache", {})
    rng = random.Random(1)
    candidate = experiment.problem.candidate(experiment.space.random(rng))
    counted = experiment.cost(candidate)
    monkeypatch.setattr(cost, "_cache", {})
    monkeypatch.delattr(cost, "_count")  # counting now fails
    cost.add_to_cache(costs)
    assert experiment.cost(candidate) == counted
    for _ in range(100):
        experiment.cost(experiment.problem.candidate(experiment.space.random(rng)))
