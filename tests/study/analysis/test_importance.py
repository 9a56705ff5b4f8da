"""Which choices matter at equal cost, on made-up results whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from optuna.trial import create_trial

from nas.study.analysis.importance import Importance, active, importance_of, judge
from nas.study.config import StudyConfig
from nas.study.experiment import prepare
from nas.study.space.search_space import SearchSpace

NOISE = 1.5


def made_up(seed: int, n: int = 120, gain: float = 5.0) -> dict[str, Importance]:
    """Choices judged over networks whose PCKh is a curve of their costs, noise, and +gain for one block.

    The choice "width" decides the costs, and PCKh through them alone; "idle" decides nothing.
    """
    rng = np.random.default_rng(seed)
    width = rng.choice([8, 16, 32], n)
    block = rng.choice(["good", "plain", "other"], n)
    params = 100.0 * width**2 * rng.uniform(0.7, 1.4, n)
    madds = 50.0 * params * rng.uniform(0.5, 2.0, n)
    pckh = 8 * np.log(params) - 0.3 * np.log(params) ** 2 + rng.normal(0, NOISE, n) + gain * (block == "good")
    columns: dict[str, Sequence[Any]] = {
        "block": block.tolist(),
        "width": width.tolist(),
        "idle": rng.choice([False, True], n).tolist(),
    }
    return {one.name: one for one in judge(pckh, np.column_stack([params, madds]), columns)}


def test_an_effect_of_five_points_is_found_with_its_size() -> None:
    found = made_up(0)
    block = found["block"]
    assert next(iter(found)) == "block"
    assert block.matters
    assert block.chance < 0.01
    assert block.effects[0].value == "good"
    values = {e.value: e for e in block.effects}
    assert values["good"].mean - values["plain"].mean == pytest.approx(5, abs=1)
    assert values["good"].low > 2
    assert values["plain"].high < 0
    # All but the noise: 5 points for a third of the networks have a variance of 50/9.
    assert block.share == pytest.approx((50 / 9) / (50 / 9 + NOISE**2), abs=0.12)
    assert sum(e.networks for e in block.effects) == 120


def test_what_works_through_cost_alone_does_not_matter() -> None:
    assert all(not made_up(seed)["width"].matters for seed in range(5))


def test_chance_alone_is_seldom_called_more() -> None:
    called = [one for seed in range(40) for one in made_up(seed, n=60, gain=0.0).values() if one.matters]
    assert len(called) <= 6, "5 % of 40 studies would be 2"


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = [
        e.low <= (10 / 3 if e.value == "good" else -5 / 3) <= e.high
        for seed in range(40)
        for e in _relative_to_equal_parts(made_up(seed))
    ]
    assert 0.86 <= np.mean(held) <= 1.0


def _relative_to_equal_parts(found: dict[str, Importance]) -> list[Any]:
    """Effects of the block, the average being taken over equal parts of its values instead of those drawn."""
    block = found["block"]
    shift = sum(e.mean for e in block.effects) / 3
    return [type(e)(e.value, e.networks, e.mean - shift, e.low - shift, e.high - shift) for e in block.effects]


def test_a_choice_is_judged_only_where_it_makes_a_difference() -> None:
    rng = np.random.default_rng(3)
    n = 80
    costs = np.exp(rng.normal(10, 1, (n, 2)))
    pckh = rng.normal(50, 1, n)
    used = rng.random(n) < 0.5
    reach = np.where(rng.random(n) < 0.5, 2, 0)
    pckh[used & (reach == 2)] += 5
    pckh[~used & (reach == 0)] += 20  # would drown the effect, were they judged
    (one,) = judge(pckh, costs, {"reach": [int(r) if u else None for r, u in zip(reach, used, strict=True)]})
    assert one.networks == int(used.sum())
    assert one.matters
    assert one.effects[0].value == "2"


def test_too_few_networks_are_not_judged() -> None:
    costs = np.exp(np.random.default_rng(0).normal(10, 1, (9, 2)))
    assert judge(np.arange(9.0), costs, {"block": ["a"] * 6 + ["b"] * 3, "one": ["a"] * 9}) == []
    assert judge(np.zeros(0), np.zeros((0, 2)), {"block": []}) == []


def test_a_range_is_judged_in_equal_parts() -> None:
    rng = np.random.default_rng(0)
    costs, alpha = np.exp(rng.normal(10, 1, (90, 2))), rng.uniform(0.5, 1.0, 90)
    (one,) = judge(10 * alpha + rng.normal(0, 0.5, 90), costs, {"alpha": alpha.tolist()})
    assert one.matters
    assert sorted(e.networks for e in one.effects) == [30, 30, 30]
    assert [e.mean for e in one.effects] == sorted((e.mean for e in one.effects), reverse=True)
    assert one.effects[0].value.endswith(" to 1") or " to 0.9" in one.effects[0].value


def test_which_choices_make_a_difference(space: SearchSpace) -> None:
    one = dict.fromkeys(space.choices)
    one |= {"block": "bottleneck", "trunk": "bottleneck", "stem": 4, "width": 4, "stacks": 1, "depth": 2}
    one |= {"junction": "add", "narrow_res": False, "weight_ratio": 1.0, "alpha": 1.0, "lambda": 1.0}
    one |= {"dilation": 1, "rates": "1-2"}
    assert active(space, one) == {"block", "stem", "width", "stacks", "dilation"}, "its own trunk is a bottleneck too"
    two = active(space, {**one, "stacks": 2, "alpha": 0.7, "block": "multidilated"})
    assert two == set(space.choices) - {"depth", "dilation"}


def test_of_a_study(config: StudyConfig, tmp_path: Path) -> None:
    experiment = prepare(config, tmp_path / "runs")
    study = experiment.open_study()
    rng, noise = Random(1), np.random.default_rng(1)
    for _ in range(80):
        point = experiment.space.random(rng)
        candidate = experiment.problem.candidate(point)
        cost = experiment.cost(candidate)
        pckh = 3 * np.log(cost.params) + noise.normal() + (5 if point["block"] == "separable" else 0)
        study.add_trial(
            create_trial(
                params=point,
                distributions=dict(experiment.space.choices),
                values=[float(pckh), cost.params, cost.madds],
                user_attrs={"candidate": candidate.to_dict()},
            )
        )
    found = importance_of(experiment, study)
    assert [one.name for one in found if one.matters] == ["block"]
    assert found[0].effects[0].value == "separable"
    assert found[0].networks == 80
    assert "depth" not in {one.name for one in found}, "it has one value"
