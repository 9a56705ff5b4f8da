"""Search spaces: what a file may say, and which networks its points describe."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nas.architecture.cost import network_cost
from nas.architecture.spec import Architecture
from nas.consent import allow_code
from nas.errors import UserError
from nas.study.config import StudyConfig
from nas.study.files import packaged
from nas.study.space.candidate import Candidate
from nas.study.space.cardinality import count_architectures
from nas.study.space.choices import members
from nas.study.space.published import published
from nas.study.space.search_space import OutsideSpaceError, SearchSpace
from nas.study.space.space_file import read_space
from nas.training.losses import Losses

HOURGLASS = read_space(packaged("search_spaces") / "hourglass.toml")

RANGES = """
[choices]
block = ["bottleneck", "dilated"]
stem = { low = 8, high = 32, step = 8 }
width = { low = 4, high = 64, log = true }
stacks = { low = 1, high = 3 }
depth = [2]
weight_ratio = { low = 0.5, high = 2.0, log = true }
alpha = { low = 0.5, high = 1.0, step = 0.25 }
lambda = { low = 0.5, high = 2.0 }

[options]
dilation = { low = 1, high = 4 }
"""

LIMITED = ("[options]", "[limits]\nmax_params = 11_000\n\n[options]")
"""Of the tiny space."""

OWN_BLOCK = """
from torch import nn

class Stray(nn.Module):
    def __init__(self, in_channels, width, *, needed):
        super().__init__()

class Clash(nn.Module):
    def __init__(self, in_channels, width, *, depth=2):
        super().__init__()
"""


def test_the_tiny_space_is_read(space: SearchSpace, space_file: Path) -> None:
    assert list(space.choices)[:3] == ["block", "trunk", "stem"]
    assert space.path == space_file
    assert space.size == 3 * 2 * 2 * 2 * 2 * 1 * 2 * 2 * 2 * 2 * 2 * 2 * 2


def test_the_projects_own_files_are_readable() -> None:
    quickstart = StudyConfig.read("quickstart")
    space = quickstart.search_space()
    assert space.content == HOURGLASS.content
    assert {"block", "width", "dilation", "stacks", "stem", "junction", "narrow_res"} <= set(space.choices)
    assert {"weight_ratio", "alpha", "lambda"} <= set(space.choices)
    for seed in range(200):
        assert space.candidate(space.random(Random(seed)), quickstart.width_scale).architecture.width % 4 == 0


SPACES = [file for file in sorted((packaged("search_spaces")).glob("*.toml")) if file.stem != "published"]


@pytest.mark.slow
@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_every_space_of_the_project_is_readable(file: Path) -> None:
    assert read_space(file).size > 1


# Every way in which a file can be wrong: (what replaces what, or a whole text; what the line must say)

WRONG: dict[str, tuple[tuple[str, str], list[str]]] = {
    "unknown table": (("[options]", "[optionen]"), ["[optionen]", "[choices], [options] and [limits]"]),
    "unknown name": (("width =", "widths ="), ["choices.widths", "unknown name", "width", "stacks", "level_1"]),
    "unknown option": (
        ("dilation =", "dilatation ="),
        ["options.dilatation", "no block of this space has it", "dilation, rates"],
    ),
    "option of a block that is not in the space": (
        ("rates =", "groups = [2]\nrates ="),
        ["options.groups", "no block of this space has it"],
    ),
    "text for an integer": (("width = [4, 8]", 'width = [4, "8"]'), ["choices.width", "'8'", "integer from 4 to 1024"]),
    "real for an integer": (("width = [4, 8]", "width = [4, 8.5]"), ["choices.width", "8.5", "integer from 4 to 1024"]),
    "truth for an integer": (("stacks = [1, 2]", "stacks = [true]"), ["choices.stacks", "True", "integer from 1 to"]),
    "integer for truth": (("[false, true]", "[0, 1]"), ["choices.narrow_res", "0", "true or false"]),
    "integer for a name": (('["add", "resconcat"]', '["add", 3]'), ["choices.junction", "3", "add, resconcat, dense"]),
    "names where lists are": (("[[1, 2], [1, 2, 3]]", '["1-2"]'), ["options.rates", "list of lists", "'1-2'"]),
    "integers where lists are": (("[[1, 2], [1, 2, 3]]", "[1, 2]"), ["options.rates", "list of lists", "[1, 2]"]),
    "list where names are": (("stem = [4, 8]", "stem = [[4, 8]]"), ["choices.stem", "[4, 8]", "integer from 4"]),
    "list where block names are": (('["same", "bottleneck"]', '[["same"]]'), ["choices.trunk", "['same']", "name"]),
    "bare value": (("width = [4, 8]", "width = 8"), ["choices.width", "8", "list of values or a range { low"]),
    "bare name": (('["add", "resconcat"]', '"add"'), ["choices.junction", "'add'", "list of values"]),
    "below": (("width = [4, 8]", "width = [0, 8]"), ["choices.width", "0", "from 4 to 1024"]),
    "above": (("alpha = [0.7, 1.0]", "alpha = [1.5]"), ["choices.alpha", "1.5", "from 0.01 to 1"]),
    "not a number": (("alpha = [0.7, 1.0]", "alpha = [nan]"), ["choices.alpha", "nan", "from 0.01 to 1"]),
    "option below": (("dilation = [1, 2]", "dilation = [0]"), ["options.dilation", "0", "at least 1"]),
    "rate below": (("[[1, 2], [1, 2, 3]]", "[[0, 1]]"), ["options.rates", "at least 1", "[[0, 1]]"]),
    "no rates": (("[[1, 2], [1, 2, 3]]", "[[]]"), ["options.rates", "list of lists", "[[]]"]),
    "unknown junction": (('"resconcat"', '"concat"'), ["choices.junction", "'concat'", "add, resconcat, dense"]),
    "twice": (("width = [4, 8]", "width = [4, 8, 4]"), ["choices.width", "twice", "[4, 8, 4]"]),
    "twice in two ways": (("alpha = [0.7, 1.0]", "alpha = [1, 1.0]"), ["choices.alpha", "twice", "[1, 1.0]"]),
    "rates twice": (("[[1, 2], [1, 2, 3]]", "[[1, 2], [1, 2]]"), ["options.rates", "twice", "[[1, 2], [1, 2]]"]),
    "empty list": (("width = [4, 8]", "width = []"), ["choices.width", "list of values", "[]"]),
    "unknown block": (
        ('"multidilated"]', '"bottelneck"]'),
        ["choices.block", "'bottelneck'", "choose one of bottleneck"],
    ),
    "unknown trunk": (('"same", "bottleneck"', '"some"'), ["choices.trunk", "'some'", "choose one of bottleneck"]),
    "same is no block of hourglasses": (('["bottleneck", "separable",', '["same",'), ["choices.block", "'same'"]),
    "module that is not there": (('"multidilated"]', '"no_such:Block"]'), ["choices.block", "no_such", "--allow-code"]),
    "relative module": (('"multidilated"]', '"..blocks:Block"]'), ["choices.block", "..blocks", "module:Class"]),
    "class that is no module": (('"multidilated"]', '"os:sep"]'), ["choices.block", "'os:sep'", "--allow-code"]),
    "range reversed": (("width = [4, 8]", "width = { low = 8, high = 4 }"), ["choices.width", "low=8", "high=4"]),
    "range half": (("width = [4, 8]", "width = { low = 8 }"), ["choices.width", "low and high", "{'low': 8}"]),
    "range with more": (
        ("width = [4, 8]", "width = { low = 4, high = 8, by = 2 }"),
        ["choices.width", "low and high, and step or log", "'by': 2"],
    ),
    "range of text": (("width = [4, 8]", 'width = { low = "4", high = 8 }'), ["choices.width.low", "'4'", "integer"]),
    "range beyond": (("width = [4, 8]", "width = { low = 4, high = 2048 }"), ["choices.width.high", "2048", "to 1024"]),
    "step of nothing": (("width = [4, 8]", "width = { low = 4, high = 8, step = 0 }"), ["choices.width", "step=0"]),
    "step of text": (
        ("width = [4, 8]", 'width = { low = 4, high = 8, step = "2" }'),
        ["choices.width.step", "'2'", "integer"],
    ),
    "step of a fraction": (
        ("width = [4, 8]", "width = { low = 4, high = 8, step = 1.5 }"),
        ["choices.width.step", "1.5", "integer"],
    ),
    "step past the end": (
        ("width = [4, 8]", "width = { low = 4, high = 9, step = 2 }"),
        ["choices.width", "steps of 2 from 4 do not reach 9", "8"],
    ),
    "log of text": (
        ("width = [4, 8]", 'width = { low = 4, high = 8, log = "no" }'),
        ["choices.width.log", "'no'", "true or false"],
    ),
    "range of names": (('["add", "resconcat"]', "{ low = 1, high = 2 }"), ["choices.junction", "add, resconcat"]),
    "range of truth": (("[false, true]", "{ low = 0, high = 1 }"), ["choices.narrow_res", "true or false"]),
    "block and levels": (
        ("stem =", 'level_1 = ["separable"]\nlevel_2 = ["separable"]\nneck = ["separable"]\nstem ='),
        ["choices", "neck", "instead of block"],
    ),
    "not TOML": (("width = [4, 8]", "width = [4, 8"), ["not valid TOML", "line"]),
    "a key twice": (("width = [4, 8]", "width = [4]\nwidth = [8]"), ["not valid TOML", "line"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_gets_one_line_that_says_where_and_what_is_allowed(
    case: str, write_space: Callable[..., Path]
) -> None:
    replacement, expected = WRONG[case]
    path = write_space(replacement)
    with pytest.raises(UserError) as caught:
        read_space(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["[choices]", "missing or empty", "block", "lambda"]),
        ("[choices]", ["[choices]", "missing or empty"]),
        ("choices = 3", ["choices", "expected a table", "3"]),
        ("options = [1]\n[choices]\nwidth = [4]", ["options", "expected a table", "[1]"]),
        ("choices = { block = ['bottleneck'] }\nname = 'x'", ["[name]", "allowed"]),
    ],
)
def test_a_file_without_choices_is_refused(text: str, expected: list[str], write_space: Callable[..., Path]) -> None:
    path = write_space(text=text)
    with pytest.raises(UserError) as caught:
        read_space(path)
    for part in (str(path), *expected):
        assert part in str(caught.value)


LEVELS = """
[choices]
depth = [2]
level_1 = ["bottleneck", "separable"]
level_2 = ["bottleneck", "dilated"]
neck = ["bottleneck", "separable"]
trunk = ["same"]
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('neck = ["bottleneck", "separable"]', "", "neck"),
        ('level_1 = ["bottleneck", "separable"]', "", "level_1"),
        ("depth = [2]", "depth = [2, 3]", "depth = [2]"),
        ("depth = [2]", "depth = [3]", "depth = [2]"),
        ("depth = [2]", "", "depth = [2]"),
        ("depth = [2]", "depth = { low = 2, high = 2 }", "depth = [2]"),
    ],
)
def test_levels_and_neck_go_together(old: str, new: str, expected: str, write_space: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        read_space(write_space((old, new), text=LEVELS))
    assert expected in str(caught.value)


def test_a_neck_alone_is_told_what_it_lacks(write_space: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"level_1, … and neck go together"):
        read_space(write_space(text='[choices]\nneck = ["bottleneck"]'))


def test_a_block_per_level(write_space: Callable[..., Path]) -> None:
    space = read_space(write_space(text=LEVELS))
    point = {
        "depth": 2,
        "level_1": "separable",
        "level_2": "dilated",
        "neck": "bottleneck",
        "trunk": "same",
    }
    architecture = space.candidate(point).architecture
    assert [block.kind for block in architecture.level_blocks()] == ["separable", "dilated", "bottleneck"]
    assert architecture.trunk.kind == "separable"
    alike = space.candidate({**point, "level_1": "bottleneck", "level_2": "bottleneck"})
    assert alike == HOURGLASS.candidate({"depth": 2, "block": "bottleneck", "trunk": "same"})


def test_a_block_of_ones_own_that_cannot_be_used_is_told_why(
    tmp_path: Path, write_space: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_blocks_of_test_space.py").write_text(OWN_BLOCK)
    monkeypatch.syspath_prepend(tmp_path)
    allow_code(f"own_blocks_of_test_space:{name}" for name in ("Stray", "Clash"))
    stray = write_space(('"multidilated"]', '"own_blocks_of_test_space:Stray"]'))
    with pytest.raises(UserError, match=r"choices\.block: .*'needed' needs a default"):
        read_space(stray)
    clash = write_space(
        ('"multidilated"]', '"multidilated", "own_blocks_of_test_space:Clash"]'), ("rates =", "depth = [3]\nrates =")
    )
    with pytest.raises(UserError, match=r"options\.depth: .*the name of a choice"):
        read_space(clash)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "space.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid TOML"):
        read_space(binary)
    with pytest.raises(UserError, match="cannot be read"):
        read_space(tmp_path / "none.toml")


# What a point describes

POINT = {
    "block": "separable",
    "trunk": "bottleneck",
    "stem": 32,
    "width": 48,
    "stacks": 2,
    "junction": "add",
    "narrow_res": False,
    "weight_ratio": 1.0,
    "alpha": 1.0,
    "lambda": 1.0,
    "dilation": 2,
    "rates": "1-2",
}


def test_a_point_is_the_network_that_it_names() -> None:
    candidate = HOURGLASS.candidate(POINT)
    a = candidate.architecture
    assert (a.stem, a.width, a.stacks, a.depth, a.junction, a.narrow_res) == (32, 48, 2, 4, "add", False)
    assert str(a.block) == "separable(dilation=2)"
    assert str(a.trunk) == "bottleneck"  # the options are the hourglasses'; a trunk of its own has their defaults
    assert (candidate.losses.weights, candidate.losses.alpha, candidate.losses.scale) == ((), 1.0, 1.0)


def test_what_a_space_leaves_out_is_the_published_two_stack_network() -> None:
    assert HOURGLASS.candidate({}) == Candidate.from_dict({"architecture": {}, "losses": {}})
    assert HOURGLASS.candidate({}).architecture.stacks == 2


def test_coded_rates() -> None:
    multidilated = {**POINT, "block": "multidilated"}
    assert dict(HOURGLASS.candidate({**multidilated, "rates": "1-3"}).architecture.block.options) == {"rates": (1, 3)}
    assert HOURGLASS.candidate({**multidilated, "rates": "1-2-3"}).architecture.block.options == ()  # the default


def test_trunk_same_is_the_hourglasses_own_block() -> None:
    same = HOURGLASS.candidate({**POINT, "trunk": "same"}).architecture
    assert same.trunk == same.block
    written_out = {**POINT, "block": "bottleneck", "trunk": "bottleneck", "dilation": 1}
    assert HOURGLASS.candidate({**written_out, "trunk": "same"}) == HOURGLASS.candidate(written_out)
    dilated = HOURGLASS.candidate({**written_out, "trunk": "same", "dilation": 2}).architecture
    assert str(dilated.trunk) == str(dilated.block) == "bottleneck(dilation=2)"


def test_supervision_of_the_last_hourglass_only() -> None:
    last = HOURGLASS.candidate({**POINT, "stacks": 3, "supervision": "last", "weight_ratio": 2.0})
    assert last.losses.weights == (0, 0, 3)
    assert HOURGLASS.candidate({**POINT, "stacks": 1, "supervision": "last"}).losses == Losses()


@pytest.mark.parametrize(
    ("scale", "stem", "width"), [(1.0, 32, 84), (0.25, 8, 20), (0.5, 16, 40), (0.01, 4, 4), (2.0, 64, 168)]
)
def test_width_scale_multiplies_channels(scale: float, stem: int, width: int) -> None:
    a = HOURGLASS.candidate({**POINT, "width": 84}, scale).architecture
    assert (a.stem, a.width) == (stem, width)
    assert HOURGLASS.candidate({**POINT, "width": 84}).architecture.block == a.block


@settings(deadline=None)
@given(ratio=st.floats(0.01, 100), stacks=st.integers(2, 16))
def test_weight_ratio_gives_mean_weight_one_and_that_ratio(ratio: float, stacks: int) -> None:
    weights = HOURGLASS.candidate({**POINT, "stacks": stacks, "weight_ratio": ratio}).losses.weights or (1.0,) * stacks
    assert math.isclose(sum(weights) / stacks, 1, abs_tol=1e-5)
    assert weights[-1] > 0
    assert math.isclose(weights[1], weights[0] * ratio, rel_tol=1e-4, abs_tol=1e-4)


def test_weight_ratio_of_document_b() -> None:
    weights = HOURGLASS.candidate({**POINT, "weight_ratio": 7 / 3}).losses.weights
    assert weights == pytest.approx((2 * 0.3, 2 * 0.7), abs=1e-6)


DILATABLE = {"bottleneck", "no_skip", "separable", "separable_3x3", "dilated", "dilated_separable", "two_separable"}


def meaning(point: dict[str, Any]) -> dict[str, Any]:
    """What a point of the hourglass space says, once more in other words than the code's."""
    block = [point["block"]]
    if point["block"] in DILATABLE:
        block += [point["dilation"]]
    if block == ["dilated", 1]:
        block = ["double_conv"]
    if block == ["dilated_separable", 1]:
        block = ["two_separable", 1]
    block += [point["rates"]] if point["block"] == "multidilated" else []
    block += [point["groups"]] if point["block"] == "shuffle" else []
    said = {name: point[name] for name in ("stem", "stem_kernel", "width", "stacks", "depth")}
    said |= {"block": block, "trunk": block if point["trunk"] == "same" else ["bottleneck", 1]}
    if point["stacks"] == 1:
        return said
    said["junction"] = point["junction"]
    if point["junction"] == "dense":
        seen = [min(i, point["reach"] or i) for i in range(1, point["stacks"])]
        said["junction"] = "add" if max(seen) == 1 else seen
    said["narrow_res"] = point["narrow_res"]
    said["weights"] = "last" if point["supervision"] == "last" else point["weight_ratio"]
    if point["alpha"] < 1:
        said["perceptual"] = [point[name] for name in ("alpha", "lambda", "perceptual")]
    return said


def values(d: BaseDistribution) -> st.SearchStrategy[Any]:
    if isinstance(d, CategoricalDistribution):
        return st.sampled_from(d.choices)
    if isinstance(d, IntDistribution):
        return st.integers(0, (d.high - d.low) // d.step).map(lambda i: d.low + i * d.step)
    assert isinstance(d, FloatDistribution)
    return st.floats(d.low, d.high)


points = st.fixed_dictionaries({name: values(d) for name, d in HOURGLASS.choices.items()})


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(point=points, other=points, changed=st.sets(st.sampled_from(list(HOURGLASS.choices)), max_size=5))
def test_two_points_have_one_id_exactly_when_they_mean_one_network(
    point: dict[str, Any], other: dict[str, Any], changed: set[str]
) -> None:
    near = {**point, **{name: other[name] for name in changed}}
    before, after = HOURGLASS.candidate(point), HOURGLASS.candidate(near)
    assert (before.id == after.id) == (meaning(point) == meaning(near))
    assert (before == after) == (before.id == after.id)
    assert before != after or hash(before) == hash(after)


@settings(max_examples=300, deadline=None)
@given(point=points)
def test_a_candidate_of_the_space_is_found_again_as_a_point(point: dict[str, Any]) -> None:
    candidate = HOURGLASS.candidate(point)
    found = HOURGLASS.point_of(candidate)
    if found is None:  # what is dropped may leave another block's name, of which this space offers no such trunk
        assert point["block"] in ("dilated", "dilated_separable")
        assert point["dilation"] == 1
    else:
        assert HOURGLASS.candidate(found) == candidate


@pytest.mark.parametrize("name", published())
def test_the_hourglass_space_holds_every_published_network(name: str) -> None:
    point = HOURGLASS.point_of(published()[name].candidate)
    assert point is not None
    assert set(point) == set(HOURGLASS.choices)
    assert all(value in values_of(HOURGLASS, choice) for choice, value in point.items())


def values_of(space: SearchSpace, name: str) -> list[Any]:
    distribution = space.choices[name]
    assert isinstance(distribution, CategoricalDistribution)
    return list(distribution.choices)


def test_a_candidate_outside_the_space_is_no_point_of_it(space: SearchSpace) -> None:
    assert space.point_of(Candidate(Architecture())) is None  # too wide
    assert space.point_of(Candidate(Architecture(stem=4, width=4, depth=2, stacks=1))) is not None
    assert space.point_of(Candidate(Architecture(stem=4, width=4, depth=3, stacks=1))) is None


# Limits, and how much a space holds


def test_nothing_beyond_the_limits_is_a_candidate(write_space: Callable[..., Path]) -> None:
    space = read_space(write_space(LIMITED))
    free = read_space(write_space(name="free.toml"))
    kept = 0
    for seed in range(200):
        point = free.random(Random(seed))
        if network_cost(free.candidate(point).architecture, 16, (256, 256)).params <= 11_000:
            assert space.candidate(point) == free.candidate(point)
            kept += 1
        else:
            with pytest.raises(OutsideSpaceError, match="max_params, 11,000"):
                space.candidate(point)
    assert 0 < kept < 200
    assert space.hash != free.hash


def test_limits_hold_before_widths_are_scaled(write_space: Callable[..., Path]) -> None:
    space = read_space(write_space(LIMITED))
    rng = Random(0)
    for _ in range(50):
        point = space.random(rng)
        try:
            candidate = space.candidate(point, 4.0)
        except OutsideSpaceError:
            continue
        assert network_cost(space.candidate(point).architecture, 16, (256, 256)).params <= 11_000
        assert candidate.architecture.width == 4 * int(point["width"])


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("max_layers = 3", ["limits.max_layers", "unknown name", "max_params, max_madds"]),
        ('max_params = "3M"', ["limits.max_params", "'3M'", "integer"]),
        ("max_params = 0", ["limits.max_params", "0", "at least 1"]),
        ("max_params = 3", ["limits", "none of 1,000 random points"]),
    ],
)
def test_wrong_limits_get_one_line(limits: str, expected: list[str], write_space: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        read_space(write_space(("[options]", f"[limits]\n{limits}\n[options]")))
    for part in ["space.toml", *expected]:
        assert part in str(caught.value)


ODD = """
[choices]
block = ["ghost", "dilated", "shuffle"]
trunk = ["same", "double_conv"]
stem = [4, 8]
width = [4, 5, 6]
stacks = { low = 1, high = 4 }
depth = [2, 3]
junction = ["add", "dense"]
reach = [0, 1, 2]
[options]
dilation = [1, 2]
groups = [1, 2, 4]
"""
SOME_LEVELS = """
[choices]
level_1 = ["bottleneck", "separable", "multidilated"]
level_2 = ["bottleneck", "dilated"]
neck = ["bottleneck", "double_conv", "shuffle"]
trunk = ["same", "bottleneck"]
depth = [2]
stem = [4]
width = [4, 6]
stacks = [1, 2]
[options]
dilation = [1, 2]
rates = [[1, 2], [1, 2, 3]]
groups = [1, 2, 4]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"text": ODD},
        {"text": SOME_LEVELS},
        {"text": SOME_LEVELS + "[limits]\nmax_madds = 28_000_000\n"},
        {"replacements": ()},
        {"replacements": [LIMITED]},
    ],
    ids=["odd widths", "levels", "levels with limits", "tiny", "tiny with limits"],
)
def test_the_count_of_architectures_is_that_of_all_points(
    how: dict[str, Any], write_space: Callable[..., Path]
) -> None:
    space = read_space(write_space(*how.get("replacements", ()), **{k: v for k, v in how.items() if k == "text"}))
    ids = set()
    names = list(space.choices)
    for values in product(*(members(space.choices[name]) or () for name in names)):
        try:
            architecture = space.candidate(dict(zip(names, values, strict=True))).architecture
            network_cost(architecture, 16, (256, 256))
        except ValueError:
            continue
        ids.add(architecture.id)
    assert count_architectures(space) == len(ids)


@pytest.mark.slow
def test_losses_and_real_ranges_do_not_add_architectures(write_space: Callable[..., Path]) -> None:
    with_losses = read_space(write_space(text=RANGES))
    without = "\n".join(line for line in RANGES.splitlines() if not line.startswith(("weight", "alpha", "lambda")))
    assert count_architectures(with_losses) == count_architectures(read_space(write_space(text=without)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hourglass", "lightweight", "levels"])
def test_a_space_file_states_how_many_architectures_it_holds(name: str) -> None:
    path = packaged("search_spaces") / f"{name}.toml"
    stated = re.search(r"It holds ([\d,]+) different architectures", path.read_text())
    assert stated is not None
    assert count_architectures(read_space(path)) == int(stated[1].replace(",", ""))


def test_the_lightweight_space_is_the_region_below_three_million() -> None:
    space = read_space(packaged("search_spaces") / "lightweight.toml")
    light = ("ghost", "separable", "separable_all", "separable_3x3", "low_channels", "shuffle", "dilated_separable")
    light += ("separable_resconcat_narrowres", "separable_resconcat_narrowres_perceptual", "two_separable")
    for name, row in published().items():
        assert (space.point_of(row.candidate) is not None) == (name in {*light, "two_separable_dilated"}), name


@settings(max_examples=100, deadline=None)
@given(point=points)
def test_a_candidate_comes_back_from_plain_values(point: dict[str, Any]) -> None:
    candidate = HOURGLASS.candidate(point, 0.25)
    back = Candidate.from_dict(candidate.to_dict())
    assert back == candidate
    assert back.id == candidate.id
    assert str(back) == str(candidate)


# Drawing


def inside(space: SearchSpace, point: dict[str, Any]) -> bool:
    return set(point) == set(space.choices) and all(
        d._contains(d.to_internal_repr(point[name])) for name, d in space.choices.items()
    )


@pytest.fixture
def ranges(write_space: Callable[..., Path]) -> SearchSpace:
    return read_space(write_space(text=RANGES))


def test_random_and_mutated_points_stay_inside(ranges: SearchSpace) -> None:
    rng = Random(0)
    for space in (ranges, HOURGLASS):
        for _ in range(1000):
            point = space.random(rng)
            assert inside(space, point)
            changes = rng.randrange(1, 20)
            mutated = space.mutate(point, rng, changes)
            assert inside(space, mutated)
            assert sum(point[name] != mutated[name] for name in point) <= changes


def test_every_value_of_a_choice_is_drawn(ranges: SearchSpace) -> None:
    rng = Random(0)
    drawn = [ranges.random(rng) for _ in range(4000)]
    assert {p["stem"] for p in drawn} == {8, 16, 24, 32}
    assert {p["stacks"] for p in drawn} == {1, 2, 3}
    assert {p["alpha"] for p in drawn} == {0.5, 0.75, 1.0}
    assert {min(p["width"] for p in drawn), max(p["width"] for p in drawn)} == {4, 64}
    assert 0.4 < sum(p["width"] < 16 for p in drawn) / 4000 < 0.6  # even on a log scale


@pytest.mark.parametrize(
    "narrow",
    [
        "width = { low = 5, high = 5, log = true }",
        "alpha = { low = 0.7, high = 0.7, log = true }",
        "lambda = { low = 0.7, high = 0.7, step = 0.1 }",
    ],
)
def test_a_range_of_one_value_gives_that_value(narrow: str, write_space: Callable[..., Path]) -> None:
    space = read_space(write_space(text=f"[choices]\n{narrow}"))
    assert all(inside(space, space.random(Random(seed))) for seed in range(100))
    assert len({tuple(space.random(Random(seed)).values()) for seed in range(100)}) == 1


def test_size(ranges: SearchSpace, write_space: Callable[..., Path]) -> None:
    assert ranges.size == math.inf
    text = "[choices]\nstacks = { low = 1, high = 3 }\nstem = { low = 8, high = 32, step = 8 }\nwidth = [32, 64]"
    assert read_space(write_space(text=text)).size == 3 * 4 * 2


# Its hash


def test_the_hash_is_of_the_content_alone(space: SearchSpace, write_space: Callable[..., Path]) -> None:
    reordered = write_space(
        ("stem = [4, 8]\nwidth = [4, 8]\n", "width = [4,8]   # a comment\n\nstem = [\n 4,\n 8,\n]\n"), name="other.toml"
    )
    assert read_space(reordered).hash == space.hash
    assert len(space.hash) == 12


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width = [4, 8]", "width = [4, 8, 12]"),
        ("width = [4, 8]", "width = [4, 12]"),
        ("width = [4, 8]", "width = { low = 4, high = 8 }"),
        ("narrow_res = [false, true]\n", ""),
        ("[[1, 2], [1, 2, 3]]", "[[1, 2], [1, 3]]"),
        ("alpha = [0.7, 1.0]", "alpha = [0.8, 1.0]"),
    ],
)
def test_the_hash_changes_with_the_content(
    old: str, new: str, space: SearchSpace, write_space: Callable[..., Path]
) -> None:
    assert read_space(write_space((old, new))).hash != space.hash


def test_ranges_with_and_without_log_differ(ranges: SearchSpace, write_space: Callable[..., Path]) -> None:
    plain = write_space(("width = { low = 4, high = 64, log = true }", "width = { low = 4, high = 64 }"), text=RANGES)
    assert read_space(plain).hash != ranges.hash
