"""Searches replayed on recorded results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import create_trial

from nas.architecture.cost import network_cost
from nas.errors import UserError
from nas.study.analysis.replay import (
    BenchmarkRow,
    BenchmarkTable,
    NeverStop,
    ReachabilityStopping,
    SuccessiveHalving,
    TabularBenchmark,
    stopping_named,
)
from nas.study.config import SAMPLERS, StudyConfig
from nas.study.experiment import prepare
from nas.study.optimization.early_stopping import StoppingRule
from nas.study.pareto import HypervolumeScale, Point, hypervolume
from nas.study.space.search_space import SearchSpace
from nas.study.space.space_file import read_space
from nas.study.storage.trial_queue import claim

EPOCHS, IMAGES = 4, 400


@pytest.fixture
def record(space: SearchSpace) -> BenchmarkTable:
    """60 made-up results over the tiny space: separable blocks are far better, large networks a little."""
    rng = Random(0)
    rows: dict[str, BenchmarkRow] = {}
    while len(rows) < 60:
        point = space.random(rng)
        candidate = space.candidate(point)
        cost = network_cost(candidate.architecture, 16, (32, 32))
        final = 20 + 40 * (candidate.architecture.block.kind == "separable") + 3 * math.log10(cost.params)
        rungs = {1: final - 30, 2: final - 10, EPOCHS: final}
        rows.setdefault(candidate.id, BenchmarkRow(point, final, cost.params, cost.madds, cost.layers, rungs))
    scale = HypervolumeScale((1_000, 100_000), (100_000, 10_000_000))
    about = {"what": "made up", "how": "here"}
    return BenchmarkTable(about, str(space.path), space.hash, 1.0, 32, 16, EPOCHS, IMAGES, scale, tuple(rows.values()))


def test_a_record_comes_back_from_its_file(record: BenchmarkTable, tmp_path: Path) -> None:
    first, *others = record.rows
    kept = replace(record, rows=(replace(first, repeats=(1.0, 2.5)), *others))
    (tmp_path / "r.json").write_text(kept.to_json())
    assert BenchmarkTable.read(tmp_path / "r.json") == kept
    assert len(kept.to_json().splitlines()) == len(kept.rows) + 2, "a line for each network"


@settings(max_examples=40, deadline=None)
@given(cut=st.floats(0, 0.98), flip=st.integers(0, 10**6))
def test_a_damaged_record_is_refused(cut: float, flip: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    row = BenchmarkRow({"width": 4}, 1.0, 10, 10, 5, {1: 1.0})
    text = (
        BenchmarkTable({}, "s", "h", 1.0, 32, 16, 1, 8, HypervolumeScale((1, 2), (1, 2)), (row, row)).to_json().encode()
    )
    path = tmp_path_factory.mktemp("damaged") / "r.json"
    path.write_bytes(text[: int(cut * len(text))])
    with pytest.raises(UserError, match=r"r\.json"):
        BenchmarkTable.read(path)
    changed = bytearray(text)
    changed[flip % len(changed)] ^= 1 << (flip % 8)
    path.write_bytes(changed)
    with suppress(UserError):  # some changes leave a record, of other values
        BenchmarkTable.read(path)


def test_a_space_that_has_changed_is_refused(record: BenchmarkTable, write_space: Callable[..., Path]) -> None:
    other = read_space(write_space(("width = [4, 8]", "width = [4, 8, 12]")))
    with pytest.raises(UserError, match=r"has changed since the record was made.*restore it"):
        TabularBenchmark(record, other)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_searches_it_without_trying_anything_twice(
    sampler: str, record: BenchmarkTable, space: SearchSpace
) -> None:
    landscape = TabularBenchmark(record, space)
    trials = 14 if sampler == "gp" else 60
    found = landscape.replay(sampler, NeverStop(), 3, trials)
    assert len(found.hypervolume) == len(found.images) == len(found.seconds) == trials
    assert (np.diff(found.hypervolume) >= -1e-12).all()
    assert found.images.tolist() == [IMAGES * (i + 1) for i in range(trials)]
    if trials == len(record.rows):  # whoever tries everything has found everything
        everything = [Point(i, r.pckh, r.params, r.madds) for i, r in enumerate(record.rows)]
        assert found.hypervolume[-1] == pytest.approx(hypervolume(everything, record.scale))


@pytest.mark.slow
def test_a_seed_is_a_search(record: BenchmarkTable, space: SearchSpace) -> None:
    landscape = TabularBenchmark(record, space)
    one, again, other = (landscape.replay("front", NeverStop(), seed, 20).hypervolume.tolist() for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.slow
def test_a_model_is_better_than_chance(record: BenchmarkTable, space: SearchSpace) -> None:
    landscape = TabularBenchmark(record, space)

    def mean(sampler: str) -> float:
        return float(np.mean([landscape.replay(sampler, NeverStop(), seed, 24).hypervolume[-1] for seed in range(8)]))

    assert mean("front") > mean("random")


def test_what_is_stopped_costs_less_and_is_no_result(record: BenchmarkTable, space: SearchSpace) -> None:
    class AfterTheFirst:
        def stops(self, epoch: int, pckh: float, row: BenchmarkRow, begun: object) -> bool:
            assert epoch < EPOCHS, "the end is no rung"
            assert pckh == row.rungs[epoch]
            return bool(begun) and epoch == 2

    found = TabularBenchmark(record, space).replay("random", AfterTheFirst(), 0, 5)
    assert found.images.tolist() == [400, 600, 800, 1000, 1200]
    assert len(set(found.hypervolume)) == 1


def test_the_studys_rule_is_replayed_as_it_is(record: BenchmarkTable) -> None:
    rule = StoppingRule(quantile=0.5, least=2)
    reach = stopping_named("reach", record, 0.5)
    assert isinstance(reach, ReachabilityStopping)
    assert reach.rungs == (1, 2)
    reach = replace(reach, rule=rule)
    good = BenchmarkRow({}, 60.0, 10, 10, 1, {1: 40.0, 2: 50.0, 4: 60.0})
    bad = BenchmarkRow({}, 30.0, 20, 20, 1, {1: 5.0, 2: 10.0, 4: 30.0})
    light = replace(bad, params=1, madds=1)
    assert not reach.stops(1, 5.0, bad, [(good, 4)]), "too few have finished"
    assert reach.stops(1, 5.0, bad, [(good, 4), (good, 4)])
    assert not reach.stops(1, 5.0, bad, [(good, 4), (good, 2)]), "one has not finished"
    assert not reach.stops(1, 5.0, light, [(good, 4), (good, 4)]), "nothing lighter has finished"
    assert not reach.stops(3, 5.0, bad, [(good, 4), (good, 4)]), "no rung"


def test_halving_keeps_the_better_half_by_fronts(record: BenchmarkTable) -> None:
    halving = stopping_named("halving", record)
    assert isinstance(halving, SuccessiveHalving)

    def row(pckh: float, cost: int = 10) -> BenchmarkRow:
        return BenchmarkRow({}, pckh, cost, cost, 1, {1: pckh, 4: pckh})

    assert not halving.stops(1, 10.0, row(10.0), []), "the first goes on"
    begun = [(row(40.0), 4), (row(30.0), 4), (row(20.0), 1)]
    assert not halving.stops(1, 50.0, row(50.0), begun)
    assert not halving.stops(1, 35.0, row(35.0), begun), "one of four is better"
    assert halving.stops(1, 25.0, row(25.0), begun), "two of four are better"
    assert not halving.stops(1, 1.0, row(1.0, cost=5), begun), "nothing as light is better"
    assert not halving.stops(3, 1.0, row(1.0), begun), "no rung"


def test_noise_is_pooled_over_the_networks_that_were_repeated(record: BenchmarkTable) -> None:
    assert record.noise is None
    first, second, *others = record.rows
    first, second = replace(first, pckh=1.0, repeats=(3.0,)), replace(second, pckh=5.0, repeats=(5.0, 8.0))
    noise = replace(record, rows=(first, second, *others)).noise
    assert noise == pytest.approx(math.sqrt((1 * 2.0 + 2 * 3.0) / 3))


def test_a_study_becomes_a_record_with_its_repeats(config: StudyConfig, tmp_path: Path) -> None:
    experiment = prepare(config, tmp_path / "runs")
    study = experiment.open_study(experiment.sampler())
    with pytest.raises(UserError, match="no finished trial to replay"):
        BenchmarkTable.of(experiment, study, {})
    values = [31.0, 42.5]
    for value in values:
        trial = claim(study, 10, experiment.space.choices)
        assert trial is not None
        candidate = experiment.problem.candidate(trial.params)
        cost = experiment.cost(candidate)
        trial.set_user_attr("candidate", candidate.to_dict())
        trial.set_user_attr("cost", {"params": cost.params, "madds": cost.madds, "layers": cost.layers})
        trial.set_user_attr("rungs", {"1": 7.0, "4": value})
        study.tell(trial, [value, cost.params, cost.madds])
    study.add_trial(create_trial(values=[1.0, 1, 1]))  # a network that the space does not hold
    beside = experiment.beside("repeats").open_study()
    given = study.trials[1].user_attrs["candidate"]
    costs = study.trials[1].values[1:]
    beside.add_trial(create_trial(values=[44.0, *costs], user_attrs={"given": True, "candidate": given, "seed": 1}))
    record = BenchmarkTable.of(experiment, study, {"what": "x"})
    assert [row.pckh for row in record.rows] == values
    assert [row.repeats for row in record.rows] == [(), (44.0,)]
    assert record.rows[0].rungs == {1: 7.0, 4: 31.0}
    assert dict(record.rows[0].point) == study.trials[0].params
    assert json.loads(record.to_json())["space_hash"] == experiment.space.hash
