"""Who proposes: what is proposed is new and within budget, and the proposals of "front" are worth their while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState, create_trial
from scipy.stats import norm

from nas.study.config import SAMPLERS, SamplerName, StudyConfig
from nas.study.optimization import gaussian_process
from nas.study.optimization.acquisition import expected_improvement, extrapolate_final
from nas.study.optimization.affordable import count_affordable
from nas.study.optimization.ehvi_sampler import EHVISampler
from nas.study.optimization.features import features
from nas.study.optimization.gaussian_process import GaussianProcess
from nas.study.optimization.optuna_samplers import make_sampler
from nas.study.optimization.problem import NoCandidateLeftError, Problem, check_unseen, evaluated_ids, sample_unseen
from nas.study.pareto import HypervolumeScale, Point, hypervolume
from nas.study.space.choices import members
from nas.study.space.search_space import SearchSpace
from nas.study.space.space_file import read_space

Floats = NDArray[np.float64]
MakeProblem = Callable[..., Problem]
Landscape = Callable[[Problem, Mapping[str, Any]], float]
ALL = ("front", "tpe", "nsga2", "random", pytest.param("gp", marks=pytest.mark.slow))

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def new_study(sampler: BaseSampler | None = None) -> Study:
    return optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=sampler)


def smooth(problem: Problem, point: Mapping[str, Any]) -> float:
    """A made-up PCKh: dearer networks do better, with less and less gain, and some choices do better than others."""
    cost = problem.cost(problem.candidate(point))
    saved = problem.scale.normalized_savings(cost.params, cost.madds)
    liked = 8 * (point["block"] == "multidilated") + 4 * (point.get("junction") == "resconcat")
    return float(70 - 50 * saved[0] ** 2 - 20 * saved[1] ** 2 + liked)


def add(problem: Problem, study: Study, point: Mapping[str, Any], pckh: float) -> None:
    cost = problem.cost(problem.candidate(point))
    distributions = dict(problem.space.choices)
    study.add_trial(
        create_trial(params=dict(point), distributions=distributions, values=[pckh, cost.params, cost.madds])
    )


def fill(problem: Problem, study: Study, count: int, seed: int = 0, landscape: Landscape = smooth) -> None:
    """Finished trials of random networks, each another one."""
    rng = Random(seed)
    for _ in range(count):
        point = sample_unseen(problem, evaluated_ids(study, problem), lambda: problem.space.random(rng))
        add(problem, study, point, landscape(problem, point))


def search(problem: Problem, study: Study, trials: int, landscape: Landscape = smooth) -> None:
    """Ask and tell, with an instant objective."""
    for _ in range(trials):
        trial = study.ask(dict(problem.space.choices))
        cost = problem.cost(problem.candidate(trial.params))
        study.tell(trial, [landscape(problem, trial.params), cost.params, cost.madds])


def ids(problem: Problem, study: Study) -> list[str]:
    return [problem.candidate(t.params).id for t in study.get_trials(deepcopy=False)]


# Expected improvement


def fronts() -> st.SearchStrategy[tuple[Floats, Floats]]:
    unit = st.floats(0, 1).map(lambda v: round(v, 3))
    point = st.tuples(unit, unit, unit)
    return st.lists(point, max_size=8).map(
        lambda rows: (np.array([r[0] for r in rows]), np.array([r[1:] for r in rows]).reshape(-1, 2))
    )


SCALE = HypervolumeScale((1, 10**9), (1, 10**9))


def as_point(number: int, height: float, saved: Sequence[float]) -> Point:
    """A point that saves these fractions on SCALE."""
    costs = [10 ** (9 * (1 - s)) for s in saved]
    return Point(number, 100 * height, costs[0], costs[1])  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    front=fronts(),
    mean=st.floats(-0.1, 1.1),
    sd=st.floats(0.01, 0.5),
    saved=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_expected_improvement_is_the_mean_gain_of_hypervolume(
    front: tuple[Floats, Floats], mean: float, sd: float, saved: tuple[float, float]
) -> None:
    heights, corners = front
    got = expected_improvement(np.array([mean]), np.array([sd]), np.array([saved]), heights, corners)
    points = [as_point(i, h, c) for i, (h, c) in enumerate(zip(heights, corners, strict=True))]
    before = hypervolume(points, SCALE)
    # The definition; the outcomes are drawn evenly from all quantiles.
    draws = mean + sd * norm.ppf((np.arange(400) + 0.5) / 400)
    gains = [hypervolume([*points, as_point(99, y, saved)], SCALE) - before for y in draws]
    assert got[0] == pytest.approx(np.mean(gains), rel=0.02, abs=0.02 * sd)
    assert got[0] >= -1e-12


def test_expected_improvement_by_hand() -> None:
    none = np.zeros(0), np.zeros((0, 2))
    certain = np.array([1e-9])
    assert expected_improvement(np.array([0.5]), certain, np.array([[0.5, 0.8]]), *none)[0] == pytest.approx(0.2)
    one = np.array([0.4]), np.array([[0.5, 0.8]])
    assert expected_improvement(np.array([0.5]), certain, np.array([[0.5, 0.8]]), *one)[0] == pytest.approx(0.04)
    assert expected_improvement(np.array([0.3]), certain, np.array([[0.5, 0.8]]), *one)[0] == pytest.approx(0)
    assert expected_improvement(np.array([0.4]), certain, np.array([[1.0, 0.8]]), *one)[0] == pytest.approx(0.16)
    half_chance = expected_improvement(np.array([0.4]), np.array([0.1]), np.array([[0.5, 0.8]]), *one)[0]
    assert half_chance == pytest.approx(0.4 * 0.1 / np.sqrt(2 * np.pi))


def test_the_worth_of_many_is_the_worth_of_each() -> None:
    rng = np.random.default_rng(0)
    heights, corners = rng.uniform(size=6), rng.uniform(size=(6, 2))
    mean, sd, saved = rng.uniform(size=9), rng.uniform(0.1, 0.3, size=9), rng.uniform(size=(9, 2))
    together = expected_improvement(mean, sd, saved, heights, corners)
    alone = [expected_improvement(mean[[i]], sd[[i]], saved[[i]], heights, corners)[0] for i in range(9)]
    assert together == pytest.approx(alone)
    shuffled = rng.permutation(6)
    assert expected_improvement(mean, sd, saved, heights[shuffled], corners[shuffled]) == pytest.approx(together)


# The model


def plane(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    x = np.random.default_rng(seed).uniform(size=(count, 2))
    return x, 40 + 20 * np.sin(3 * x[:, 0]) + 10 * x[:, 1]


def test_the_model_interpolates_and_knows_where_it_knows() -> None:
    x, y = plane(40)
    model = GaussianProcess.fit(x, y, np.zeros(40))
    mean, sd = model.predict(x)
    assert np.abs(mean - y).max() < 0.2 * y.std()
    new, truth = plane(200, seed=1)
    assert np.sqrt(np.mean((model.predict(new)[0] - truth) ** 2)) < 0.15 * y.std()
    far = model.predict(np.array([[4.0, -3.0]]))
    assert far[1][0] > 3 * sd.max()
    assert far[0][0] == pytest.approx(y.mean(), abs=2 * y.std())


def test_of_many_values_some_are_fitted_and_all_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = plane(150)
    new, truth = plane(200, seed=1)
    whole = GaussianProcess.fit(x, y, np.zeros(150))
    monkeypatch.setattr(gaussian_process, "MAX_FITTED", 30)
    sizes = []
    matern = gaussian_process._matern

    def noting(a: torch.Tensor, b: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        sizes.append(len(a))
        return matern(a, b, *scales)

    monkeypatch.setattr(gaussian_process, "_matern", noting)
    model = GaussianProcess.fit(x, y, np.zeros(150))
    assert max(sizes) == 30
    every = np.linspace(0, 149, 30).round().astype(int)
    few = GaussianProcess.fit(x[every], y[every], np.zeros(30))

    def error(of: GaussianProcess) -> float:
        return float(np.sqrt(np.mean((of.predict(new)[0] - truth) ** 2)))

    assert error(model) < 0.5 * error(few)
    assert error(model) < 1.5 * error(whole) + 0.05
    assert len(model.noise) == 150


def test_a_noisy_value_counts_less() -> None:
    x, y = plane(30)
    wrong, here = y.copy(), x[[0]]
    wrong[0] += 30
    variance = np.zeros(30)
    believed = GaussianProcess.fit(x, wrong, variance).predict(here)
    variance[0] = 30.0**2
    doubted = GaussianProcess.fit(x, wrong, variance).predict(here)
    assert abs(doubted[0][0] - y[0]) < 0.5 * abs(believed[0][0] - y[0])
    clean = GaussianProcess.fit(x, y, np.zeros(30)).predict(here)
    assert abs(doubted[0][0] - y[0]) < 6
    assert doubted[1][0] > clean[1][0]


def test_conditioning_on_the_mean_keeps_the_mean_and_reduces_the_variance() -> None:
    x, y = plane(20)
    model = GaussianProcess.fit(x, y, np.zeros(20))
    new = np.array([[1.3, 1.2]])
    conditioned = model.condition_on_mean(new)
    everywhere = np.random.default_rng(2).uniform(-0.5, 1.5, size=(50, 2))
    assert conditioned.predict(everywhere)[0] == pytest.approx(model.predict(everywhere)[0], abs=1e-3)
    assert (conditioned.predict(everywhere)[1] <= model.predict(everywhere)[1] + 1e-9).all()
    assert conditioned.predict(new)[1][0] < 0.6 * model.predict(new)[1][0]


@pytest.mark.parametrize("case", ["constant", "three", "duplicates", "contradictions", "huge", "tiny", "one feature"])
def test_the_model_fits_what_comes(case: str) -> None:
    x, y = plane(20)
    if case == "constant":
        y[:] = 33.3
    elif case == "three":
        x, y = x[:3], y[:3]
    elif case in ("duplicates", "contradictions"):
        x = np.repeat(x[:4], 5, axis=0)
        y = np.repeat(y[:4], 5) if case == "duplicates" else y
    elif case == "huge":
        y[3] = 1e9
    elif case == "tiny":
        y = 50 + 1e-9 * y
    else:
        x[:, 1] = 0.5
    mean, sd = GaussianProcess.fit(x, y, np.zeros(len(y))).predict(np.vstack([x, x + 0.3, x + 100]))
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert (sd > 0).all()


# What "front" proposes


def front_sampler(problem: Problem, seed: int = 0, startup: int = 6, pool: int = 60) -> EHVISampler:
    return EHVISampler(problem, seed, startup, pool)


@pytest.mark.slow
def test_proposals_are_untried_and_within_budget(space: SearchSpace, make_problem: MakeProblem) -> None:
    problem = make_problem(space, max_params=9_000, max_madds=700_000)
    drawn = [problem.cost(problem.candidate(space.random(Random(i)))) for i in range(200)]
    assert 0.1 < np.mean([problem.within(cost) for cost in drawn]) < 0.9  # the budget matters
    study = new_study(front_sampler(problem))
    search(problem, study, 30)
    assert len(set(ids(problem, study))) == 30
    assert all(problem.within(problem.cost(problem.candidate(t.params))) for t in study.trials)
    assert all(t.distributions == space.choices for t in study.trials)


@pytest.mark.slow
def test_proposals_are_reproducible_by_seed(problem: Problem) -> None:
    def proposals(seed: int) -> list[str]:
        study = new_study(front_sampler(problem, seed))
        search(problem, study, 12)
        return ids(problem, study)

    assert proposals(3) == proposals(3)
    assert proposals(3)[0] != proposals(4)[0]
    assert set(proposals(3)) != set(proposals(4))


def test_two_streams_on_one_study_do_not_propose_the_same(problem: Problem) -> None:
    study = new_study()
    fill(problem, study, 12)
    asked = []
    for seed in (1, 2, 3):  # three workers that see the same: none knows of the others' trials yet
        copy = new_study(front_sampler(problem, seed))
        copy.add_trials(study.get_trials())
        asked.append(problem.candidate(copy.ask(dict(problem.space.choices)).params).id)
    assert len(set(asked)) > 1


def test_what_is_running_is_not_proposed_again(problem: Problem) -> None:
    study = new_study(front_sampler(problem))
    fill(problem, study, 10)
    batch = [study.ask(dict(problem.space.choices)) for _ in range(8)]
    assert len(set(ids(problem, study))) == 18
    assert {t.state for t in study.trials[10:]} == {TrialState.RUNNING}
    kinds = {tuple(sorted(trial.params.items())) for trial in batch}
    assert len(kinds) == 8


def test_the_first_proposals_are_spread_over_the_costs(problem: Problem) -> None:
    def least_distance(sampler: BaseSampler) -> float:
        study = new_study(sampler)
        for _ in range(6):
            study.ask(dict(problem.space.choices))
        costs = [problem.cost(problem.candidate(t.params)) for t in study.trials]
        saved = [np.array(problem.scale.normalized_savings(c.params, c.madds)) for c in costs]
        return min(float(np.linalg.norm(a - b)) for i, a in enumerate(saved) for b in saved[:i])

    spread = np.mean([least_distance(front_sampler(problem, seed)) for seed in range(5)])
    drawn = np.mean([least_distance(make_sampler("random", problem, seed)) for seed in range(5)])
    assert spread > 2 * drawn


def test_failed_networks_may_be_proposed_again(space: SearchSpace, make_problem: MakeProblem) -> None:
    problem = make_problem(space)
    study = new_study(front_sampler(problem))
    fill(problem, study, 1)
    failed = study.ask(dict(space.choices))
    study.tell(failed, state=TrialState.FAIL)
    assert evaluated_ids(study, problem) == set(ids(problem, study)[:1])


def with_pruned(problem: Problem, pckh_at_rung: float) -> Study:
    """16 finished separables that gain 10 after their first rung, and 8 bottlenecks stopped at that rung."""
    study = new_study()
    rng = Random(0)
    kinds = ["separable"] * 16 + ["bottleneck"] * 8
    for i, kind in enumerate(kinds):
        draw = partial(_of_kind, problem, kind, rng)
        point = sample_unseen(problem, evaluated_ids(study, problem), draw)
        common = {"params": point, "distributions": dict(problem.space.choices)}
        if i < 16:
            cost = problem.cost(problem.candidate(point))
            final = 50 + i / 4
            rungs = {"1": final - 10, "4": final}
            study.add_trial(
                create_trial(**common, values=[final, cost.params, cost.madds], user_attrs={"rungs": rungs})
            )
        else:
            rungs = {"1": pckh_at_rung + i / 4}
            study.add_trial(create_trial(**common, state=TrialState.PRUNED, user_attrs={"rungs": rungs}))
    return study


def _of_kind(problem: Problem, kind: str, rng: Random) -> dict[str, Any]:
    return {**problem.space.random(rng), "block": kind, "trunk": "same"}


def test_what_was_stopped_early_is_evidence(write_space: Callable[..., Path], make_problem: MakeProblem) -> None:
    space = read_space(
        write_space(('"separable", "multidilated"]', '"separable"]'), ("rates = [[1, 2], [1, 2, 3]]\n", ""))
    )
    problem = make_problem(space)

    def share_of_bottlenecks(pckh_at_rung: float) -> float:
        study = with_pruned(problem, pckh_at_rung)
        proposed = []
        for seed in range(6):
            study.sampler = front_sampler(problem, seed, pool=100)
            trial = study.ask(dict(space.choices))
            proposed.append(trial.params["block"] == "bottleneck")
            study.tell(trial, state=TrialState.FAIL)
        return float(np.mean(proposed))

    assert share_of_bottlenecks(70) >= 0.8  # looked far better at the rung than the others did
    assert share_of_bottlenecks(5) <= 0.2


def test_what_was_stopped_is_extrapolated_along_the_line_of_those_that_went_on() -> None:
    ended = [(10.0 + i, 40.0 + 0.5 * i) for i in range(40)]  # who is behind gains more
    final, variance = extrapolate_final(4.0, ended)
    assert final == pytest.approx(37, abs=1)
    assert variance < 0.5
    noisy = [(x, y + (3 if i % 2 else -3)) for i, (x, y) in enumerate(ended)]
    final, near = extrapolate_final(30.0, noisy)
    assert final == pytest.approx(50, abs=1)
    assert near == pytest.approx(9, rel=0.2)
    assert extrapolate_final(-60.0, noisy)[1] > near + 1, "far from all that is known"


def test_few_that_went_on_tell_a_gain_and_no_slope() -> None:
    final, variance = extrapolate_final(20.0, [(30.0, 50.0), (30.0, 52.0)])
    assert final == pytest.approx(41)
    assert variance >= 2


@given(
    st.floats(0, 100),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=12),
)
def test_extrapolations_are_numbers(value: float, ended: list[tuple[float, float]]) -> None:
    final, variance = extrapolate_final(value, ended)
    assert math.isfinite(final)
    assert math.isfinite(variance)
    assert variance >= 0


def test_trials_that_ended_without_a_score_do_no_harm(problem: Problem) -> None:
    study = new_study(front_sampler(problem))
    fill(problem, study, 8)
    distributions = dict(problem.space.choices)
    rng = Random(5)
    for attributes in ({}, {"rungs": {}}, {"rungs": {"3": 20.0}}, {"reason": "diverged"}):
        point = sample_unseen(problem, evaluated_ids(study, problem), lambda: problem.space.random(rng))
        study.add_trial(
            create_trial(params=point, distributions=distributions, state=TrialState.PRUNED, user_attrs=attributes)
        )
    study.add_trial(create_trial(state=TrialState.PRUNED))
    study.add_trial(create_trial(state=TrialState.FAIL))
    search(problem, study, 3)
    with_params = [t for t in study.trials if t.params]
    assert len({problem.candidate(t.params).id for t in with_params}) == len(with_params) == 15


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equal_networks_have_equal_features(seed: int) -> None:
    config = StudyConfig.read("quickstart")
    rng = Random(seed)
    problem = _quickstart(config)
    point = _SPACE.random(rng)
    alike = dict(point)
    for name in rng.sample(list(_SPACE.choices), len(_SPACE.choices)):
        drawn = {**alike, name: _SPACE.random(rng)[name]}
        if problem.candidate(drawn).id == problem.candidate(point).id:
            alike = drawn
    assert features(problem, alike) == pytest.approx(features(problem, point))


_SPACE = StudyConfig.read("quickstart").search_space()


def _quickstart(config: StudyConfig) -> Problem:
    from nas.architecture.cost import Cost

    return Problem(
        space=_SPACE,
        candidate=lambda point: _SPACE.candidate(point, config.width_scale),
        cost=lambda candidate: Cost(params=50_000, madds=5_000_000, layers=100),
        within=lambda cost: True,
        scale=HypervolumeScale(config.reference.params, config.reference.madds),
    )


def test_features_are_of_one_length_and_near_the_unit_cube(problem: Problem) -> None:
    rows = np.stack([features(problem, problem.space.random(Random(i))) for i in range(200)])
    assert np.isfinite(rows).all()
    assert rows.min() >= 0
    assert rows.max() <= 2  # costs count twice


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_space_of_ranges(write_space: Callable[..., Path], make_problem: MakeProblem) -> None:
    text = """
    [choices]
    block = ["bottleneck", "dilated"]
    depth = [2]
    stem = { low = 4, high = 8, step = 4 }
    width = { low = 4, high = 12, log = true }
    stacks = { low = 1, high = 2 }
    weight_ratio = { low = 0.5, high = 2.0, log = true }
    alpha = { low = 0.5, high = 1.0, step = 0.25 }
    lambda = { low = 0.7, high = 0.7 }
    [options]
    dilation = { low = 1, high = 3 }
    """
    space = read_space(write_space(text=text))
    problem = make_problem(space)
    for name in ("front", "tpe", "nsga2", "random"):
        study = new_study(make_sampler(name, problem, seed=0, startup=4, pool=30))
        search(problem, study, 10)
        assert len(set(ids(problem, study))) == 10


# All samplers


@pytest.mark.parametrize("name", ALL)
def test_all_samplers_stay_within_budget_and_never_repeat(
    name: str, space: SearchSpace, make_problem: MakeProblem
) -> None:
    problem = make_problem(space, max_params=9_000)
    study = new_study(make_sampler(name, problem, seed=0, startup=8, pool=60))
    search(problem, study, 25)
    assert len(set(ids(problem, study))) == 25
    costs = [problem.cost(problem.candidate(t.params)) for t in study.trials]
    assert all(problem.within(cost) for cost in costs)
    # Stored as they are, whatever the sampler sees.
    assert [t.values[1:] for t in study.trials] == [[c.params, c.madds] for c in costs]
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("before", [0, 10])
def test_an_enqueued_trial_passes_through(name: str, before: int, problem: Problem) -> None:
    study = new_study(make_sampler(name, problem, seed=0, startup=4, pool=30))
    fill(problem, study, before)
    wanted = problem.space.random(Random(77))
    study.enqueue_trial(wanted)
    trial = study.ask(dict(problem.space.choices))
    assert trial.params == wanted
    search(problem, study, 1)
    assert problem.candidate(study.trials[-1].params).id != problem.candidate(wanted).id


def test_every_sampler_that_a_study_may_name_is_made_and_described(problem: Problem) -> None:
    assert tuple(SAMPLERS) == get_args(SamplerName)
    assert all(isinstance(make_sampler(name, problem, seed=0), BaseSampler) for name in SAMPLERS)


@pytest.mark.parametrize("name", ["front", "tpe", "random"])
def test_an_enqueued_trial_may_leave_choices_open(name: str, problem: Problem) -> None:
    study = new_study(make_sampler(name, problem, seed=0, startup=4))
    study.enqueue_trial({"width": 8, "stacks": 2})
    trial = study.ask(dict(problem.space.choices))
    assert (trial.params["width"], trial.params["stacks"]) == (8, 2)
    assert set(trial.params) == set(problem.space.choices)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["front", "tpe", "nsga2", "random", "gp"])
def test_an_exhausted_space_is_said_to_be(
    name: str, write_space: Callable[..., Path], make_problem: MakeProblem
) -> None:
    text = '[choices]\nblock = ["bottleneck"]\nwidth = [4, 8]\nstacks = [1, 2]\ndepth = [2]\nstem = [4]'
    problem = make_problem(read_space(write_space(text=text)))
    study = new_study(make_sampler(name, problem, seed=0, startup=2, pool=10))
    search(problem, study, 4)
    assert len(set(ids(problem, study))) == 4
    with pytest.raises(NoCandidateLeftError):
        study.ask(dict(problem.space.choices))


@pytest.mark.parametrize("name", ["front", "random"])
def test_a_budget_that_nothing_meets(name: str, space: SearchSpace, make_problem: MakeProblem) -> None:
    problem = make_problem(space, max_params=1)
    with pytest.raises(NoCandidateLeftError):
        new_study(make_sampler(name, problem, seed=0)).ask(dict(space.choices))


def test_drawing_passes_over_what_cannot_be_built(problem: Problem) -> None:
    good = problem.space.random(Random(0))
    draws = iter([{**good, "junction": "no such"}, {**good, "stem": 0}, good])
    assert sample_unseen(problem, set(), lambda: next(draws)) == good


# On the project's own space


@pytest.fixture
def quickstart(make_problem: MakeProblem) -> Problem:
    config = StudyConfig.read("quickstart")
    return make_problem(config.search_space(), config)


@pytest.mark.slow
def test_a_proposal_takes_little_time(quickstart: Problem) -> None:
    study = new_study(EHVISampler(quickstart, seed=0))
    fill(quickstart, study, 60)
    search(quickstart, study, 1)  # every block's costs are counted once
    began = time.process_time()
    search(quickstart, study, 1)
    assert time.process_time() - began < 10  # 0.3 s on an idle core


@pytest.mark.slow
def test_front_beats_random(quickstart: Problem) -> None:
    def reached(name: str, seed: int) -> float:
        study = new_study(make_sampler(name, quickstart, seed, pool=400))
        search(quickstart, study, 30)
        points = [Point(t.number, t.values[0], int(t.values[1]), int(t.values[2])) for t in study.trials]
        return hypervolume(points, quickstart.scale)

    ours = [reached("front", seed) for seed in range(3)]
    chance = [reached("random", seed) for seed in range(3)]
    assert np.mean(ours) > np.mean(chance) + 0.01, (ours, chance)


# Optuna's own test cases for samplers


class _Case:
    @pytest.fixture
    def sampler(self, problem: Problem) -> Callable[[], BaseSampler]:
        return lambda: front_sampler(problem)


class TestBasic(_Case, BasicSamplerTestCase):
    """Parameters that are not of the space are drawn at random: within their distribution, fixed ones as fixed."""


class TestMultiObjective(_Case, MultiObjectiveSamplerTestCase):
    """The same in a study of several objectives."""


class TestRelative(_Case, RelativeSamplerTestCase):
    """The others of this case hand ``sample_relative`` a space of their own; this sampler knows its own space only."""

    test_sample_relative_numerical = None  # type: ignore[assignment]
    test_sample_relative_categorical = None  # type: ignore[assignment]
    test_sample_relative_mixed = None  # type: ignore[assignment]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_counting_finds_exactly_the_candidates_within_the_budget(
    make_problem: MakeProblem, space: SearchSpace, share: float
) -> None:
    free = make_problem(space)
    names = list(space.choices)
    points = [dict(zip(names, values, strict=True)) for values in product(*(members(space.choices[n]) for n in names))]  # type: ignore[arg-type]
    params = {free.candidate(point).id: free.cost(free.candidate(point)).params for point in points}
    limit = sorted(params.values())[round(share * (len(params) - 1))] - (share == 0.0)
    affordable = count_affordable(make_problem(space, max_params=limit), 10**6)
    assert set(affordable.points) == {key for key, value in params.items() if value <= limit}
    assert affordable.complete
    assert affordable.smallest is not None
    assert affordable.smallest.params == min(params.values())


@pytest.mark.parametrize("name", ALL)
def test_every_network_within_a_tight_budget_is_proposed_once(
    name: SamplerName, make_problem: MakeProblem, space: SearchSpace
) -> None:
    free = make_problem(space)
    smallest = free.affordable.smallest
    assert smallest is not None
    problem = make_problem(space, max_params=smallest.params)
    study = new_study(make_sampler(name, problem, seed=0))
    wanted = set(problem.affordable.points)
    assert wanted
    for _ in wanted:
        check_unseen(problem, study)
        trial = study.ask(dict(space.choices))
        cost = problem.cost(problem.candidate(trial.params))
        study.tell(trial, [50.0, cost.params, cost.madds])
    assert evaluated_ids(study, problem) == wanted
    with pytest.raises(NoCandidateLeftError):
        check_unseen(problem, study)
