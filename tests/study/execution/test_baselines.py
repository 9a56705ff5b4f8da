"""Published networks as baselines of a study: queued first, trained to the end, counted, and never lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from nas.data.augmentation import fit_to_input
from nas.errors import UserError
from nas.study.analysis.baselines import baselines_of
from nas.study.analysis.selection import pick
from nas.study.config import StudyConfig
from nas.study.execution.trial_session import TrialSession
from nas.study.experiment import Experiment, prepare
from nas.study.optimization.problem import evaluated_ids
from nas.study.space.published import named
from nas.study.storage.study_store import StudyStore
from nas.study.storage.trial_queue import claim, count, requeue

SPACE = """
[choices]
block = ["bottleneck", "separable"]
trunk = ["same", "bottleneck"]
stem = [32, 64]
width = [64, 128]
stacks = [1, 2]
"""
MORE = """
[sampler]
startup = 4
pool = 40
[stopping]
least = 1
quantile = 0.0
rungs = [0.25, 0.5]
"""


@pytest.fixture
def make(tmp_path: Path, write_study: Callable[..., Path]) -> Callable[..., Experiment]:
    """Makes a study whose space contains hg2 and separable_all, but not shuffle."""

    def experiment(baselines: tuple[str, ...], **changes: Any) -> Experiment:
        (tmp_path / "space.toml").write_text(SPACE)
        file = write_study(
            ("width_scale = 1", "width_scale = 0.0625"), ("input_size = 32", "input_size = 64"), more=MORE
        )
        raw = StudyConfig.read(file).model_dump(exclude_none=True) | {"baselines": baselines} | changes
        return prepare(StudyConfig.model_validate(raw), tmp_path / "runs")

    return experiment


def begin(experiment: Experiment) -> optuna.Study:
    return experiment.open_study(experiment.sampler())


def next_trial(experiment: Experiment, study: optuna.Study, total: int = 100) -> optuna.Trial:
    trial = claim(study, total, experiment.space.choices)
    assert trial is not None
    return trial


def finish(experiment: Experiment, study: optuna.Study, trial: optuna.Trial, pckh: float = 40.0) -> None:
    """Report a made-up PCKh."""
    candidate = experiment.candidate_of(study._storage.get_trial(trial._trial_id))
    cost = experiment.cost(candidate)
    trial.set_user_attr("candidate", candidate.to_dict())
    study.tell(trial, [pckh, cost.params, cost.madds])


@pytest.mark.slow
def test_baselines_come_first_with_parameters_where_the_space_contains_them(
    make: Callable[..., Experiment],
) -> None:
    experiment = make(("shuffle", "hg2", "separable_all"))
    study = begin(experiment)
    seen = []
    for name in experiment.config.baselines:
        trial = next_trial(experiment, study)
        assert trial.user_attrs["published"] == name
        frozen = study._storage.get_trial(trial._trial_id)
        assert bool(frozen.params) == (name != "shuffle")
        assert experiment.candidate_of(frozen) == experiment.published(name)
        if frozen.params:
            assert experiment.problem.candidate(frozen.params) == experiment.published(name)
        seen.append(experiment.published(name).id)
        finish(experiment, study, trial)
    assert evaluated_ids(study, experiment.problem) == set(seen)
    trial = next_trial(experiment, study)
    assert "published" not in trial.user_attrs
    assert set(trial.params) == set(experiment.space.choices)
    assert [b.name for b in baselines_of(experiment, study)] == list(experiment.config.baselines)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["front", "tpe", "nsga2", "gp", "random"])
def test_every_sampler_continues_after_baselines_outside_the_space(
    sampler: str, make: Callable[..., Experiment]
) -> None:
    experiment = make(("shuffle", "hg1", "low_channels"), sampler={"name": sampler, "startup": 3, "pool": 20})
    study = begin(experiment)
    ids = set()
    for i in range(9):
        trial = next_trial(experiment, study)
        ids.add(experiment.candidate_of(study._storage.get_trial(trial._trial_id)).id)
        assert (set(trial.params) == set(experiment.space.choices)) == (i == 1 or i >= 3)
        finish(experiment, study, trial, 30.0 + i)
    assert len(ids) == 9


@pytest.mark.slow
def test_baselines_count_towards_the_total(make: Callable[..., Experiment]) -> None:
    experiment = make(("hg2", "shuffle", "separable_all"))
    study = begin(experiment)
    for _ in range(2):
        finish(experiment, study, next_trial(experiment, study, total=2))
    assert claim(study, 2, experiment.space.choices) is None


@pytest.mark.slow
def test_reopening_a_study_queues_missing_baselines_only(make: Callable[..., Experiment]) -> None:
    first = make(("hg2",))
    study = begin(first)
    assert count(begin(first)).waiting == count(study).waiting == 1
    finish(first, study, next_trial(first, study))
    assert count(begin(first)).waiting == 0

    more = make(("hg2", "separable_all", "shuffle"))  # baselines may be added later
    study = begin(more)
    assert [t.user_attrs.get("published") for t in study.trials] == ["hg2", "separable_all", "shuffle"]
    study._storage.set_trial_state_values(study.trials[1]._trial_id, TrialState.FAIL)  # lost in a crash
    assert [t.user_attrs.get("published") for t in begin(more).trials] == [
        "hg2",
        "separable_all",
        "shuffle",
        "separable_all",
    ]


@pytest.mark.slow
def test_a_baseline_that_the_search_has_trained_is_not_queued(make: Callable[..., Experiment]) -> None:
    experiment = make(())
    study = begin(experiment)
    point = experiment.space.point_of(named("separable_all").candidate)
    assert point is not None
    study.enqueue_trial(point)
    finish(experiment, study, next_trial(experiment, study), 33.0)
    later = make(("separable_all",))
    study = begin(later)
    assert len(study.trials) == 1
    (baseline,) = baselines_of(later, study)
    assert (baseline.name, baseline.point.number, baseline.point.pckh) == ("separable_all", 0, 33.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hg2", "shuffle"])
def test_a_requeued_baseline_stays_a_baseline(name: str, make: Callable[..., Experiment]) -> None:
    experiment = make((name,))
    study = begin(experiment)
    trial = next_trial(experiment, study)
    with StudyStore(study).lock():
        requeue(study, study.trials[trial.number])
    again = next_trial(experiment, study)
    frozen = study.trials[again.number]
    assert (frozen.number, frozen.user_attrs["published"], frozen.user_attrs["attempt"]) == (1, name, 2)
    assert frozen.user_attrs["first_number"] == 0
    assert experiment.candidate_of(frozen) == experiment.published(name)
    finish(experiment, study, again)
    assert [b.point.number for b in baselines_of(experiment, study)] == [1]
    assert count(begin(experiment)).waiting == 0


@pytest.mark.slow
def test_baselines_train_to_the_end_and_are_pruned_over_the_budget(
    make: Callable[..., Experiment],
) -> None:
    free = make(("hg2", "shuffle"))
    large, small = (free.cost(free.published(name)).params for name in ("hg2", "shuffle"))
    experiment = make(("hg2", "shuffle"), budget={"max_params": (large + small) // 2})
    study = begin(experiment)
    people, held_out = experiment.load_people("train", "cpu"), experiment.load_people("holdout", "cpu")
    people, held_out = fit_to_input(people, 64), fit_to_input(held_out, 64)
    # A finished trial without costs or errors, because of which any candidate would be stopped at its first rung.
    for _ in range(2):
        study.add_trial(
            optuna.trial.create_trial(
                values=[100.0, 1, 1],
                user_attrs={
                    "rungs": {"1": 99.0, "2": 99.0},
                    "published": "x",
                    "candidate": free.published("hg1").to_dict(),
                },
            )
        )
    outcomes = [
        TrialSession(study, next_trial(experiment, study), experiment, people, held_out).run() for _ in range(2)
    ]
    large_trial, small_trial = study.trials[0], study.trials[1]
    assert large_trial.state == TrialState.PRUNED
    assert (
        outcomes[0].reason
        == large_trial.user_attrs["reason"]
        == "over the budget: trained to the end for comparison only"
    )
    assert small_trial.state == TrialState.COMPLETE
    assert all(
        len(t.user_attrs["curve"]) == experiment.config.short_schedule().epochs for t in (large_trial, small_trial)
    )
    assert large_trial.number not in {t.number for t in study.best_trials}

    by_name = {b.name: b for b in baselines_of(experiment, study)}
    assert by_name["hg2"].over_budget
    assert by_name["hg2"].point.pckh == large_trial.user_attrs["final_pckh"] == outcomes[0].pckh
    assert (by_name["hg2"].point.params, by_name["shuffle"].point.params) == (large, small)
    assert not by_name["shuffle"].over_budget
    if by_name["hg2"].point.pckh:
        assert pick(experiment, study, "tradeoff").number in {p.number for p in study.best_trials}


def test_a_tradeoff_needs_the_studys_own_hg2(make: Callable[..., Experiment]) -> None:
    experiment = make(("separable_all",))
    study = begin(experiment)
    with pytest.raises(UserError, match="no finished trial yet"):
        pick(experiment, study, "knee")
    finish(experiment, study, next_trial(experiment, study))
    with pytest.raises(UserError, match=r"has not trained hg2.*baselines = \[\"hg2\"\]"):
        pick(experiment, study, "tradeoff")
    with pytest.raises(UserError, match=r"--pick cheapest: must be one of knee, best, tradeoff"):
        pick(experiment, study, "cheapest")
    assert pick(experiment, study, "knee").number == pick(experiment, study, "best").number == 0


def test_a_baseline_that_cannot_be_built_is_rejected_at_once(make: Callable[..., Experiment]) -> None:
    with pytest.raises(UserError, match=r"published network hg2: cannot be built for this study: .*multiples of 64"):
        make(("hg2",), data={"input_size": 32, "synthetic": {"people": 4, "holdout": 4, "valid": 4, "seed": 0}})
