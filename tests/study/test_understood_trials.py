"""Trials that other people made: left out, counted, named once; nothing that reads or searches ends over them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState, create_trial

from nas.study.analysis.results import load_results
from nas.study.config import StudyConfig
from nas.study.experiment import Experiment, load, prepare
from nas.study.optimization.problem import evaluated_ids
from nas.study.reporting.csv_export import write_csv
from nas.study.reporting.html_report import render_html
from nas.study.reporting.study_report import study_record
from nas.study.storage.backend import open_storage
from nas.study.storage.tolerant_study import LEFT_OUT, left_out_of
from nas.study.storage.trial_queue import claim, count

POINT = {
    **{"block": "bottleneck", "trunk": "same", "stem": 4, "width": 4, "stacks": 1, "depth": 2, "junction": "add"},
    **{"narrow_res": False, "weight_ratio": 1.0, "alpha": 1.0, "lambda": 1.0, "dilation": 1, "rates": "1-2"},
}


@pytest.fixture
def experiment(config: StudyConfig, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The tiny study with two finished trials. Its people are drawn once."""
    people = tmp_path_factory.getbasetemp() / "people-of-the-tiny-study"
    if people.is_dir():
        shutil.copytree(people, tmp_path / "runs" / "data")
    made = prepare(config, tmp_path / "runs")
    if not people.is_dir():
        shutil.copytree(tmp_path / "runs" / "data", people)
    study = made.open_study()
    for stem in (4, 8):
        study.add_trial(create_trial(**finished(made, {**POINT, "stem": stem})))
    return made


def finished(experiment: Experiment, point: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A trial as this project stores it, with some attributes changed."""
    candidate = experiment.problem.candidate(point)
    cost = experiment.cost(candidate)
    attributes = {"candidate": candidate.to_dict(), "network": str(candidate), "cost": vars(cost), "images": 64}
    return {
        "params": point,
        "distributions": dict(experiment.space.choices),
        "values": [20.0, cost.params, cost.madds],
        "user_attrs": {**attributes, "rungs": {"1": 10.0}, "curve": [], **changes},
    }


def raw_study(experiment: Experiment) -> optuna.Study:
    """The study as Optuna alone opens it."""
    return optuna.load_study(study_name="tiny", storage=experiment.url)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": "lots"}, "attribute images is 'lots', not a number"),
        ({"rungs": [1, 2]}, "attribute rungs"),
        ({"rungs": {"1": math.inf}}, "attribute rungs"),
        ({"cost": None}, "attribute cost is None"),
        ({"cost": {"params": 1, "madds": 1, "layers": 1}}, "its values say"),
        ({"candidate": {"architecture": {"depth": "two"}}}, "its network cannot be built"),
        ({"candidate": {"architecture": {"block": "nothing_of_ours"}}}, "its network cannot be built"),
        ({"network": 3}, "attribute network is 3, not text"),
        ({"seed": -1}, "attribute seed"),
        ({"latency": {"ms": 1}}, "attribute latency"),
    ],
)
def test_results_that_are_not_understood_are_left_out_of_everything(
    experiment: Experiment, changes: dict[str, Any], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw_study(experiment).add_trial(create_trial(**finished(experiment, {**POINT, "stacks": 2}, **changes)))
    loaded, study = load("tiny", tmp_path / "runs")
    results = load_results(loaded, study)
    assert list(results.left_out) == [2]
    assert said in results.left_out[2]
    assert capfd.readouterr().err.count("trial 2: ") == 1
    record = study_record(results)
    assert record["finished"] == 2
    assert list(record["left_out"]) == [2]
    assert "tiny" in render_html(results)
    write_csv(results, tmp_path / "trials.csv")
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 3
    assert len(evaluated_ids(study, loaded.problem)) == 2  # samplers may propose its network


def test_a_result_with_the_exact_costs_of_its_network_counts(experiment: Experiment, tmp_path: Path) -> None:
    trial = {**finished(experiment, {**POINT, "stacks": 2}), "user_attrs": {}}
    raw_study(experiment).add_trial(create_trial(**trial))
    wrong = {**trial, "values": [9.0, 30_000, 6_000_000]}
    raw_study(experiment).add_trial(create_trial(**wrong))
    loaded, study = load("tiny", tmp_path / "runs")
    results = load_results(loaded, study)
    assert results.counts.complete == 3
    assert list(results.left_out) == [3]
    assert json.dumps(study_record(results))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({**POINT, "block": "botleneck"}, "block = 'botleneck' is not of the space"),
        ({**POINT, "width": "8"}, "width = '8' is not of the space"),
        ({**POINT, "alpha": math.nan}, "alpha = nan"),
        ({"blok": "separable"}, "choice 'blok' is not of the space"),
        ({"block": None}, "block = None"),
        ({"block": ["bottleneck"]}, "block = ['bottleneck']"),
    ],
)
def test_a_queued_network_that_is_not_of_the_space_does_not_stop_the_queue(
    experiment: Experiment, params: dict[str, Any], said: str
) -> None:
    raw_study(experiment).enqueue_trial(params)
    raw_study(experiment).enqueue_trial({**POINT, "width": 8})
    study = experiment.open_study(experiment.sampler())
    trial = claim(study, 3, experiment.space.choices)
    assert trial is not None
    assert trial.params["width"] == 8
    ended = raw_study(experiment).trials[2]
    assert ended.state == TrialState.FAIL
    assert said in ended.user_attrs[LEFT_OUT]
    assert list(left_out_of(study)) == [2]


def test_a_trial_that_was_told_by_hand_is_left_out(experiment: Experiment, tmp_path: Path) -> None:
    other = raw_study(experiment)
    other.enqueue_trial(POINT)
    storage = other._storage
    storage.set_trial_state_values(other.trials[2]._trial_id, TrialState.COMPLETE, [9, 30_000, 6_000_000])
    loaded, study = load("tiny", tmp_path / "runs")
    assert list(load_results(loaded, study).left_out) == [2]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM trial_values WHERE trial_id = 2",
        "DELETE FROM trial_values WHERE trial_id = 2 AND objective = 1",
        "UPDATE trial_values SET value = NULL, value_type = 'INF_POS' WHERE trial_id = 2 AND objective = 0",
        "UPDATE trial_params SET param_value = 7 WHERE trial_id = 2",
        "UPDATE trial_user_attributes SET value_json = '{' WHERE trial_id = 2 AND key = 'network'",
    ],
)
def test_rows_that_optuna_cannot_read_are_left_out(experiment: Experiment, damage: str, tmp_path: Path) -> None:
    with open_storage(experiment.url).engine.begin() as connection:
        connection.execute(sqlalchemy.text(damage))
    loaded, study = load("tiny", tmp_path / "runs")
    results = load_results(loaded, study)
    assert (results.counts.complete, list(results.left_out)) == (1, [1])
    assert claim(loaded.open_study(loaded.sampler()), 2, loaded.space.choices) is not None
    assert count(study).running == 1
