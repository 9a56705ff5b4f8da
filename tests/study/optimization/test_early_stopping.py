"""When a trial is stopped early."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.study.optimization.early_stopping import Finished, StoppingRule


def finished(number: int, pckh: float, cost: int, rungs: Mapping[int, float] | None = None) -> Finished:
    return Finished(number, pckh, params=cost, madds=10 * cost, rungs=rungs or {})


GAINS = [finished(i, pckh=30 + i, cost=100 + i, rungs={2: 20.0, 4: 25.0}) for i in range(5)]
"""Gains 10 … 14 from epoch 2 and 5 … 9 from epoch 4; the cheapest costs 100 and reached 30, the dearest 104 and 34."""


@pytest.mark.parametrize(
    ("quantile", "pckh", "stops"),
    [
        (1.0, 19.9, True),  # 19.9 + 14 < 34
        (1.0, 20.1, False),
        (0.5, 21.9, True),  # 21.9 + 12 < 34
        (0.5, 22.1, False),
        (0.0, 23.9, True),  # 23.9 + 10 < 34
        (0.0, 24.0, False),  # as good as the rival: it may go on
        (0.875, 20.4, True),  # between the fourth and the fifth gain: 13.5
        (0.875, 20.6, False),
    ],
)
def test_the_rule_by_hand(quantile: float, pckh: float, stops: bool) -> None:
    reason = StoppingRule(quantile, least=5).reason(2, pckh, params=200, madds=2000, finished=GAINS)
    assert (reason is not None) == stops


@pytest.mark.parametrize(
    ("quantile", "expected"),
    [
        (0.5, "22.0 PCKh expected at the end (median gain"),
        (1.0, "24.0 PCKh expected at the end (1 quantile of the gain"),
    ],
)
def test_the_reason_says_why(quantile: float, expected: str) -> None:
    reason = StoppingRule(quantile, least=5).reason(2, 10.0, params=200, madds=2000, finished=GAINS)
    assert reason == (
        f"stopped after epoch 2: {expected} of 5 finished trials), and trial 4 has 34.0 at no more params and MAdds"
    )


def test_rungs_are_compared_with_equal_rungs_only() -> None:
    rule = StoppingRule(1.0, least=5)
    assert rule.reason(2, 22.0, 200, 2000, GAINS) is None  # 22 + 14 > 34
    assert rule.reason(4, 22.0, 200, 2000, GAINS) is not None  # 22 + 9 < 34
    assert rule.reason(3, 0.0, 200, 2000, GAINS) is None  # nobody was looked at there


@settings(deadline=None)
@given(count=st.integers(0, 5), pckh=st.floats(0, 100))
def test_nothing_is_stopped_while_too_few_have_finished(count: int, pckh: float) -> None:
    rule = StoppingRule(0.0, least=count + 1)
    assert rule.reason(2, pckh, 10**6, 10**7, GAINS[:count]) is None


def test_finished_trials_without_that_rung_do_not_count_as_evidence() -> None:
    blind = [finished(i, 90, 1) for i in range(20)]
    assert StoppingRule(0.0, least=1).reason(2, 0.0, 10**6, 10**7, blind) is None
    # … but they are rivals: what they reached is known, whatever rungs they had.
    assert StoppingRule(1.0, least=5).reason(2, 50.0, 10**6, 10**7, [*blind, *GAINS]) is not None


finished_trials = st.lists(
    st.builds(
        lambda number, pckh, params, madds, rung: Finished(number, pckh, params, madds, {2: rung}),
        st.integers(0, 100),
        st.floats(0, 100),
        st.integers(10, 50),
        st.integers(10, 50),
        st.floats(0, 100),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(trials=finished_trials, pckh=st.floats(0, 100))
def test_the_cheapest_network_is_never_stopped(trials: list[Finished], pckh: float) -> None:
    rule = StoppingRule(0.0, least=1)
    assert rule.reason(2, pckh, params=9, madds=9, finished=trials) is None
    assert rule.reason(2, pckh, params=9, madds=100, finished=trials) is None  # cheapest in one of the costs
    assert rule.reason(2, pckh, params=100, madds=9, finished=trials) is None


@settings(deadline=None)
@given(trials=finished_trials, pckh=st.floats(0, 100), params=st.integers(10, 60), madds=st.integers(10, 60))
def test_only_a_better_network_that_costs_no_more_stops_a_trial(
    trials: list[Finished], pckh: float, params: int, madds: int
) -> None:
    hopeful, strict = StoppingRule(1.0, least=3), StoppingRule(0.0, least=3)
    stopped = hopeful.reason(2, pckh, params, madds, trials)
    if stopped:
        assert len(trials) >= 3
        assert strict.reason(2, pckh, params, madds, trials)  # what the hopeful stop, the strict stop too
        hoped = pckh + max(t.pckh - t.rungs[2] for t in trials)
        assert any(t.params <= params and t.madds <= madds and t.pckh > hoped for t in trials)
