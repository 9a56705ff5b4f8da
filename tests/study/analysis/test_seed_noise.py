"""Which networks are on the front when seeds are noisy, and which are trained again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from scipy.stats import norm

from nas.study.analysis.results import load_results
from nas.study.analysis.seed_noise import (
    ASSUMED,
    SEEDS,
    WEIGHT,
    front_probabilities,
    least_certain,
    mean_points,
    noise,
    queue,
    repeats_experiment,
    repeats_of,
    seed_statistics,
)
from nas.study.analysis.selection import pick
from nas.study.config import StudyConfig
from nas.study.experiment import Experiment, prepare
from nas.study.pareto import Point, front
from nas.study.reporting.tables import front_records, near_front_records
from nas.study.storage.trial_queue import claim, count


@pytest.fixture
def experiment(config: StudyConfig, tmp_path: Path) -> Experiment:
    """The tiny study."""
    return prepare(config, tmp_path / "runs")


def filled(experiment: Experiment, pckh: Sequence[float]) -> optuna.Study:
    """The study with finished trials of networks each of which costs more than the one before, of both kinds."""
    study = experiment.open_study()
    rng, chain = Random(0), []
    drawn = [experiment.space.random(rng) for _ in range(400)]
    costs = [experiment.cost(experiment.problem.candidate(point)) for point in drawn]
    for point, cost in sorted(zip(drawn, costs, strict=True), key=lambda pair: pair[1].params):
        if not chain or (cost.params > chain[-1][1].params and cost.madds > chain[-1][1].madds):
            chain.append((point, cost))
    for (point, cost), value in zip(chain, pckh, strict=False):
        candidate = experiment.problem.candidate(point)
        study.add_trial(
            create_trial(
                params=point,
                distributions=dict(experiment.space.choices),
                values=[value, cost.params, cost.madds],
                user_attrs={"candidate": candidate.to_dict(), "network": str(candidate)},
            )
        )
    assert len(study.trials) == len(pckh)
    return study


def finish(experiment: Experiment, values: Sequence[float]) -> None:
    """Tell made-up PCKh of the next repeats."""
    study = repeats_experiment(experiment).open_study()
    for value in values:
        trial = claim(study, 1000, experiment.space.choices)
        assert trial is not None
        cost = experiment.cost(experiment.candidate_of(study._storage.get_trial(trial._trial_id)))
        study.tell(trial, [value, cost.params, cost.madds])


def test_the_chance_of_two_is_known() -> None:
    costs = np.array([[10.0, 10.0], [20.0, 20.0]])
    errors = np.array([1.0, 0.5])
    for ahead in (-3.0, -1.0, 0.0, 0.4, 2.0):
        found = front_probabilities(np.array([50.0, 50.0 + ahead]), errors, costs)
        assert found[0] == 1, "nothing is cheaper"
        assert found[1] == pytest.approx(norm.cdf(ahead / math.hypot(1, 0.5)), abs=0.03)


def test_what_costs_less_of_one_thing_is_on_the_front() -> None:
    costs = np.array([[10.0, 20.0], [20.0, 10.0]])
    assert front_probabilities(np.array([70.0, 10.0]), np.array([1.0, 1.0]), costs).tolist() == [1, 1]


def test_equal_costs_share_the_front() -> None:
    found = front_probabilities(np.full(4, 50.0), np.full(4, 1.0), np.full((4, 2), 7.0))
    assert np.allclose(found, 0.25, atol=0.03)
    assert found.sum() == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(20, 70), st.integers(1, 6), st.integers(1, 6)),
        min_size=1,
        max_size=12,
        unique_by=lambda row: row[0],
    )
)
def test_without_noise_the_chances_are_the_front(rows: list[tuple[int, int, int]]) -> None:
    values = np.array(rows, dtype=np.float64)
    found = front_probabilities(values[:, 0], np.full(len(rows), 1e-6), values[:, 1:])
    points = [Point(i, float(pckh), params, madds) for i, (pckh, params, madds) in enumerate(rows)]
    assert {i for i, chance in enumerate(found) if chance == 1} == {p.number for p in front(points)}
    assert set(found) <= {0.0, 1.0}


def test_noise_is_pooled_and_assumed_where_unknown() -> None:
    assert noise([(50.0,), (60.0,)]) == ASSUMED
    many = [(50.0 + 3 * a, 50.0 + 3 * b) for a, b in np.random.default_rng(0).standard_normal((2000, 2))]
    assert noise(many) == pytest.approx(3, rel=0.05)
    once = noise([(50.0, 54.0)])
    assert once == pytest.approx(math.sqrt((WEIGHT * ASSUMED**2 + 8) / (WEIGHT + 1)))


def test_the_least_certain_are_trained_under_seeds_of_their_own(experiment: Experiment) -> None:
    study = filled(experiment, [30, 45, 44.7, 60, 20, 59.8])
    chosen = least_certain(seed_statistics(experiment, study), 2)
    assert queue(experiment, study, 2) == 2 * SEEDS
    assert queue(experiment, study, 2) == 2 * SEEDS, "what is queued comes first"
    queued = repeats_experiment(experiment).open_study().get_trials()
    wanted = [study.trials[m.number].user_attrs["candidate"] for m in chosen]
    assert [t.user_attrs["candidate"] for t in queued] == [c for c in wanted for _ in range(SEEDS)]
    assert [t.user_attrs["seed"] for t in queued] == [1, 2, 1, 2], "the study's own seed is 0"
    finish(experiment, [44, 45, 46, 47])
    assert queue(experiment, study, 1) == 2 * SEEDS + SEEDS, "asked again, it goes on"
    seeds = [
        (str(t.user_attrs["candidate"]), t.user_attrs["seed"])
        for t in repeats_experiment(experiment).open_study().trials
    ]
    assert len(set(seeds)) == len(seeds)
    assert count(study).complete == 6


def test_a_certain_front_needs_no_repeats(experiment: Experiment) -> None:
    study = filled(experiment, [10, 30, 50])
    measured = seed_statistics(experiment, study)
    assert all(m.chance in (0, 1) for m in measured)
    assert queue(experiment, study, 5) == 0


def test_a_lucky_network_leaves_the_front(experiment: Experiment) -> None:
    study = filled(experiment, [40, 52, 51.5])
    trials = study.get_trials()
    lucky = {m.number: m for m in seed_statistics(experiment, study)}
    assert lucky[1].chance == 1
    assert 0.2 < lucky[2].chance < 0.5
    assert [r["trial"] for r in near_front_records(load_results(experiment, study))] == [2]
    beside = repeats_experiment(experiment).open_study()
    for seed, values in ((1, (48.0, 53.0)), (2, (47.0, 52.0))):
        for number, value in zip((1, 2), values, strict=True):
            given = {"given": True, "candidate": trials[number].user_attrs["candidate"], "seed": seed}
            beside.enqueue_trial({}, user_attrs=given)
            finish(experiment, [value])
    known = {m.number: m for m in seed_statistics(experiment, study)}
    assert known[1].values == (52, 48, 47)
    assert known[1].mean == pytest.approx(49)
    assert known[1].spread == pytest.approx(np.std([52, 48, 47], ddof=1))
    assert known[2].chance > 0.95
    assert near_front_records(load_results(experiment, study)) == []
    assert pick(experiment, study, "best").number == 2
    assert [p.pckh for p in mean_points(experiment, study)] == pytest.approx([40, 49, 52.1666], abs=1e-3)
    record = next(r for r in front_records(load_results(experiment, study)) if r["trial"] == 2)
    assert record["pckh_of_seeds"] == (51.5, 53, 52)


def test_a_repeat_that_diverged_is_no_value(experiment: Experiment) -> None:
    study = filled(experiment, [40, 52, 51.5])
    queue(experiment, study, 1)
    beside = repeats_experiment(experiment).open_study()
    trial = claim(beside, 10, experiment.space.choices)
    assert trial is not None
    beside.tell(trial, state=TrialState.PRUNED)
    assert repeats_of(experiment, study) == {}
    assert [len(m.values) for m in seed_statistics(experiment, study)] == [1, 1, 1]


def test_nothing_has_finished(experiment: Experiment) -> None:
    study = experiment.open_study()
    assert seed_statistics(experiment, study) == []
    results = load_results(experiment, study)
    assert front_records(results) == near_front_records(results) == []
