"""How far a short schedule can be trusted: which networks are compared, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from nas.study.analysis.rank_correlation import (
    TIMES,
    Estimate,
    calibration_experiment,
    calibration_of,
    queue,
    spread,
    store_calibration,
    stored_calibration,
)
from nas.study.config import StudyConfig
from nas.study.experiment import Experiment, prepare
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, count, requeue


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.study.analysis.rank_correlation._DRAWS", 300)
    monkeypatch.setattr("nas.study.analysis.rank_correlation._RESAMPLES", 100)


@pytest.fixture
def experiment(config: StudyConfig, tmp_path: Path) -> Experiment:
    """The tiny study."""
    return prepare(config, tmp_path / "runs")


def finish(experiment: Experiment, study: optuna.Study, pckh: Callable[[optuna.trial.FrozenTrial], float]) -> None:
    """Tell a made-up PCKh of the next queued trial."""
    trial = claim(study, 1000, experiment.space.choices)
    assert trial is not None
    frozen = study._storage.get_trial(trial._trial_id)
    candidate = experiment.candidate_of(frozen)
    cost = experiment.cost(candidate)
    trial.set_user_attr("network", str(candidate))
    trial.set_user_attr("cost", {"params": cost.params, "madds": cost.madds, "layers": cost.layers})
    trial.set_user_attr("rungs", {"1": 1.0})
    study.tell(trial, [pckh(frozen), cost.params, cost.madds])


def test_the_architectures_are_spread_from_small_to_large(experiment: Experiment) -> None:
    chosen = spread(experiment, 6)
    assert len({candidate.architecture.id for candidate in chosen}) == 6
    costs = [experiment.cost(candidate) for candidate in chosen]
    sizes = [cost.params * cost.madds for cost in costs]
    assert sizes == sorted(sizes)
    assert spread(experiment, 6) == chosen
    random = [experiment.cost(experiment.problem.candidate(experiment.space.random(Random(i)))) for i in range(300)]
    quantiles = np.quantile([c.params * c.madds for c in random], [0.1, 0.9])
    assert sizes[0] < quantiles[0]
    assert sizes[-1] > quantiles[1]


def test_each_architecture_is_queued_once_for_each_schedule(experiment: Experiment) -> None:
    beside = calibration_experiment(experiment)
    assert beside.config.name == "tiny-calibration"
    assert queue(beside, 4) == queue(beside, 4) == 8
    study = beside.open_study()
    assert count(study).waiting == 8
    short = experiment.config.short_schedule()
    lengths = [beside.schedule_of(trial).images for trial in study.trials]
    assert sorted(lengths) == [short.images] * 4 + [TIMES * short.images] * 4
    assert queue(beside, 5) > 8, "another number is another spread; what is there stays"


def test_what_a_dead_worker_had_keeps_its_schedule(experiment: Experiment) -> None:
    beside = calibration_experiment(experiment)
    queue(beside, 3)
    study = beside.open_study()
    trial = claim(study, 100, beside.space.choices)
    assert trial is not None
    before = study.trials[trial.number].user_attrs
    with StudyStore(study).lock():
        requeue(study, study.trials[trial.number])
    again = study.trials[-1]
    assert again.state == TrialState.WAITING
    assert {name: again.user_attrs[name] for name in ("given", "candidate", "times")} == {
        name: before[name] for name in ("given", "candidate", "times")
    }
    assert queue(beside, 3) == 6


def test_the_correlations_are_scipys(experiment: Experiment) -> None:
    beside = calibration_experiment(experiment)
    total = queue(beside, 9)
    study = beside.open_study()
    rng = Random(1)
    for i in range(total):
        assert (calibration_of(study) is None) == (i < 6)
        finish(beside, study, lambda trial: rng.uniform(0, 60))
    found = calibration_of(study)
    assert found is not None
    short, long, params = (np.array([row[key] for row in found.rows]) for key in ("pckh_short", "pckh_long", "params"))
    assert len(found.rows) == 9
    assert found.spearman.value == pytest.approx(spearmanr(short, long).statistic)
    assert found.kendall.value == pytest.approx(kendalltau(short, long).statistic)

    def without_params(values: np.ndarray) -> np.ndarray:
        ranks, size = rankdata(values), rankdata(params)
        slope, intercept = np.polyfit(size, ranks, 1)
        return ranks - slope * size - intercept

    assert found.partial.value == pytest.approx(pearsonr(without_params(short), without_params(long)).statistic)
    for one in (found.spearman, found.kendall, found.partial):
        assert -1 <= one.low <= one.value <= one.high <= 1
    assert "9 architectures" in str(found)
    itself = experiment.open_study()
    assert stored_calibration(itself) is None
    store_calibration(itself, replace(found, spearman=Estimate(0.9, 0.5, 1.0)))
    assert "Spearman 0.90 (0.50 to 1.00)" in str(stored_calibration(experiment.open_study()))
    assert "poor" not in str(stored_calibration(itself))
    for poor in (Estimate(0.5, 0.2, 0.9), Estimate(math.nan, math.nan, math.nan)):
        store_calibration(itself, replace(found, spearman=poor))
        assert str(stored_calibration(itself)).endswith("; poor: train longer before believing differences")


def test_the_same_order_is_a_correlation_of_one_and_equal_values_none(experiment: Experiment) -> None:
    beside = calibration_experiment(experiment)
    total = queue(beside, 5)
    study = beside.open_study()
    costs = [beside.cost(beside.candidate_of(trial)).params for trial in study.trials]
    for _ in range(total):
        finish(beside, study, lambda trial: 10 + beside.cost(beside.candidate_of(trial)).params / max(costs))
    found = calibration_of(study)
    assert found is not None
    assert found.spearman.value == found.kendall.value == pytest.approx(1)
    assert math.isnan(found.partial.value), "at equal params nothing is left to correlate"
    assert all(math.isnan(end) for end in (found.spearman.low, found.spearman.high)), "five are too few"
    assert "Spearman 1.00, Kendall 1.00" in str(found)
    assert "too few for an interval" in str(found)
    itself = experiment.open_study()
    store_calibration(itself, found)
    assert str(stored_calibration(itself)).startswith("calibrated with 5 architectures, too few to judge")
    old = "rank correlation with 4 times the schedule, 3 architectures: Spearman 1.00 (1.00 to 1.00), Kendall 1.00"
    itself.set_user_attr("calibration", {"text": old, "spearman": 1.0})
    assert str(stored_calibration(itself)).startswith("calibrated with 3 architectures, too few to judge")
