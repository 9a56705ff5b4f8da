"""What was found beside the published networks: trade-offs, and where the search stands against each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.study.analysis.baselines import Baseline, compare, tradeoffs
from nas.study.pareto import Point, tradeoff
from nas.study.space.published import named, published

HG2 = Baseline("hg2", Point(0, 50.0, 1000, 8000), False)

points = st.lists(
    st.builds(
        Point,
        number=st.integers(1, 10**6),
        pckh=st.sampled_from([0.0, 30.0, 49.9, 50.0, 50.1, 80.0]),
        params=st.sampled_from([1, 400, 500, 501, 1000, 3000]),
        madds=st.sampled_from([1, 3000, 4000, 4001, 8000, 9000]),
    ),
    max_size=8,
    unique_by=lambda p: p.number,
)


def test_the_tradeoff_is_document_as() -> None:
    assert named("hg2").printed_tradeoff == 0
    # The two rows whose printed scores are misprints, as they should read (shared/published.md).
    assert named("dilated").printed_tradeoff == pytest.approx(-20.0, abs=0.05)
    assert named("separable").printed_tradeoff == pytest.approx(14.87, abs=0.005)


def test_tradeoffs_of_printed_figures_are_there_where_all_three_are_printed() -> None:
    scored = {name for name, row in published().items() if row.printed_tradeoff is not None}
    all_three = {n for n, r in published().items() if "A" in r.printed_pckh and r.printed_params and r.printed_madds}
    assert scored == all_three
    assert len(scored) == 14  # hg2 and the thirteen scored rows of Samadh & Al Khatib 2023


def test_the_tradeoff_weighs_accuracy_eight_times_as_much_as_each_cost() -> None:
    base = (50.0, 1000, 8000)
    assert tradeoff(*base, against=base) == 0
    assert tradeoff(55.0, 1000, 8000, against=base) == pytest.approx(8)
    assert tradeoff(50.0, 900, 8000, against=base) == pytest.approx(1)
    assert tradeoff(50.0, 1000, 16000, against=base) == pytest.approx(-10)


def test_a_study_without_its_own_hg2_has_no_tradeoffs() -> None:
    found = [Point(3, 60.0, 100, 100)]
    assert tradeoffs(found, []) == {}
    assert tradeoffs(found, [Baseline("separable", Point(1, 50.0, 10, 10), False)]) == {}
    assert tradeoffs(found, [HG2]) == {3: pytest.approx(0.8 * 20 + 0.1 * 90 + 0.1 * 98.75)}
    assert tradeoffs(found, [Baseline("hg2", Point(0, 0.0, 1000, 8000), False)]) == {}


@given(found=points)
def test_where_the_search_stands(found: list[Point]) -> None:
    (one,) = compare([HG2], [HG2.point, *found])
    half = [p for p in found if 2 * p.params <= 1000 and 2 * p.madds <= 8000]
    aim = [p for p in half if p.pckh >= 50]
    accurate = [p for p in found if p.pckh >= 50]
    assert one.met == bool(aim)
    if aim:
        assert one.closest in aim
        assert one.closest.pckh == max(p.pckh for p in aim)
    elif accurate:
        assert one.closest in accurate
        assert one.ratios is not None
        assert max(one.ratios) == min(max(p.params / 1000, p.madds / 8000) for p in accurate)
    elif half:
        assert one.closest in half
        assert one.closest.pckh == max(p.pckh for p in half)
    else:
        assert one.closest is None
        assert one.ratios is None


def test_baselines_do_not_count_as_found() -> None:
    light = Baseline("separable", Point(1, 60.0, 100, 100), False)
    for one in compare([HG2, light], [HG2.point, light.point]):
        assert not one.met
        assert one.closest is None
