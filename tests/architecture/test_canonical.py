"""Architectures as values: equal networks have equal ids, different networks different ones."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from effort import examples
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.architecture.blocks import block_kinds
from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import JUNCTIONS, STEMS, Architecture, BlockChoice

JOINTS = 2
Fields = dict[str, Any]


@st.composite
def blocks(draw: st.DrawFn) -> BlockChoice:
    options = {
        "dilation": draw(st.sampled_from([1, 2, 3])),
        "rates": draw(st.sampled_from([(1,), (1, 2), (2, 1), (1, 3), (1, 2, 3), (3, 1, 2)])),
        "groups": draw(st.sampled_from([1, 2, 4, 8])),
    }
    return BlockChoice.using(draw(st.sampled_from(block_kinds())), options)


EACH: dict[str, st.SearchStrategy[Any]] = {
    "stem": st.sampled_from([4, 6]),
    "width": st.sampled_from([4, 6]),
    "stacks": st.integers(1, 4),
    "depth": st.integers(1, 2),
    "block": blocks(),
    "trunk": blocks(),
    "levels": st.one_of(st.just(()), blocks().map(lambda b: (b,)), st.tuples(blocks(), blocks(), blocks())),
    "stem_kernel": st.sampled_from(STEMS),
    "junction": st.sampled_from(JUNCTIONS),
    "reach": st.integers(0, 4),
    "narrow_res": st.booleans(),
}


def fitted(fields: Fields) -> Fields:
    """The fields with as many levels as the depth asks for."""
    levels = fields["levels"]
    return {**fields, "levels": tuple(levels[i % len(levels)] for i in range(fields["depth"] + 1)) if levels else ()}


ANY = st.fixed_dictionaries(EACH).map(fitted)


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Fields, Fields]:
    """Two sets of fields that differ in at most one."""
    fields = draw(ANY)
    name = draw(st.sampled_from(list(EACH)))
    return fields, fitted({**fields, name: draw(EACH[name])})


@st.composite
def spellings(draw: st.DrawFn) -> tuple[Fields, dict[str, Any]]:
    """Fields, and plain values that write the same network in another way."""
    fields = draw(ANY)
    architecture = Architecture(**fields)
    raw = architecture.to_dict()
    if architecture.levels:
        raw["block"] = draw(blocks()).to_dict()
    elif draw(st.booleans()):
        raw["levels"] = [raw["block"]] * (architecture.depth + 1)
    if architecture.junction == "add" and architecture.stacks <= 2:
        raw |= {"junction": "dense", "reach": draw(st.integers(0, 4))}
    elif architecture.junction == "add":
        raw |= draw(st.sampled_from([{"reach": 3}, {"junction": "dense", "reach": 1}]))
    elif architecture.junction == "dense" and not architecture.reach:
        raw["reach"] = draw(st.integers(architecture.stacks - 1, 9))
    if architecture.stacks == 1:
        raw |= {"junction": draw(st.sampled_from(JUNCTIONS)), "narrow_res": draw(st.booleans())}
    for key in ("block", "trunk"):
        if key in raw:
            raw[key] = draw(respelled(raw[key]))
    return fields, raw


@st.composite
def respelled(draw: st.DrawFn, block: Mapping[str, Any]) -> dict[str, Any]:
    raw = dict(block)
    twins = {"double_conv": "dilated", "two_separable": "dilated_separable"}
    if raw["kind"] in twins and "dilation" not in raw and draw(st.booleans()):
        return {"kind": twins[raw["kind"]], "dilation": 1}
    if raw["kind"] == "multidilated":
        raw["rates"] = draw(st.permutations(raw.get("rates", [1, 2, 3])))
    if raw["kind"] == "bottleneck":
        raw = {"dilation": 1, **raw, "kind": "nas.architecture.blocks.bottleneck:Bottleneck"}
    return raw


def as_written(fields: Fields) -> Architecture:
    """The architecture with nothing dropped or rewritten, as no one outside can make it."""
    architecture = object.__new__(Architecture)
    for name, value in fields.items():
        object.__setattr__(architecture, name, value)
    return architecture


def network_of(architecture: Architecture) -> HourglassNetwork:
    side = 16 * 2**architecture.depth  # the neck's maps are 4×4, so that all dilations make a difference
    return build_network(architecture, JOINTS, (side, side), seed=1).double()


def shapes(network: HourglassNetwork) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in network.parameters()]


def answers(network: HourglassNetwork) -> list[Tensor]:
    """Heatmaps and necks while training: batch norm keeps what deep blocks do from fading."""
    images = torch.randn(2, 3, *network.input_size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        output = network(images)
    return [*output.heatmaps, *output.necks]


def same(one: HourglassNetwork, other: HourglassNetwork) -> bool:
    """Whether two networks have the same parameters and, from the same seed, the same function."""
    if sorted(shapes(one)) != sorted(shapes(other)) or one.input_size != other.input_size:
        return False
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(answers(one), answers(other), strict=True))


def derandomized(count: int) -> settings:
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


def check_nothing_that_matters_is_dropped(fields: Fields) -> None:
    assert same(network_of(as_written(fields)), network_of(Architecture(**fields)))


def check_neighbours(pair: tuple[Fields, Fields]) -> None:
    one, other = (Architecture(**fields) for fields in pair)
    assert (one.id == other.id) == (one == other) == same(network_of(one), network_of(other))


@pytest.mark.slow
@given(ANY)
@derandomized(20)
def test_fields_with_an_effect_are_not_dropped(fields: Fields) -> None:
    check_nothing_that_matters_is_dropped(fields)


@pytest.mark.slow
@given(neighbours())
@derandomized(30)
def test_equal_ids_mean_equal_networks(pair: tuple[Fields, Fields]) -> None:
    check_neighbours(pair)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(examples(1, 4)))
def test_among_thousands(part: int) -> None:
    for count, some, check in (
        (examples(15, 150), ANY, check_nothing_that_matters_is_dropped),
        (examples(50, 500), neighbours(), check_neighbours),
    ):
        seed(part)(settings(derandomized(count), derandomize=False)(given(some)(check)))()


@given(spellings())
@derandomized(200)
def test_descriptions_of_one_network_are_equal(spelling: tuple[Fields, dict[str, Any]]) -> None:
    fields, raw = spelling
    one, other = Architecture(**fields), Architecture.from_dict(raw)
    assert one == other
    assert (one.id, one.to_json(), hash(one), str(one)) == (other.id, other.to_json(), hash(other), str(other))


@given(ANY)
@derandomized(200)
def test_json_round_trip(fields: Fields) -> None:
    architecture = Architecture(**fields)
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.id == architecture.id
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_ids_do_not_change() -> None:
    # Studies on disk name networks by them.
    assert Architecture().to_json() == (
        '{"block":{"kind":"bottleneck"},"depth":4,"junction":"add","narrow_res":false,"stacks":2,"stem":64,'
        '"stem_kernel":"7x7","trunk":{"kind":"bottleneck"},"width":128}'
    )
    assert re.fullmatch(r"[0-9a-f]{10}", Architecture().id)
    assert Architecture().id == "af00f577ef"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"stacks": 1, "junction": "resconcat", "narrow_res": True}, {"stacks": 1}),
        ({"stacks": 2, "junction": "dense", "reach": 1}, {"stacks": 2}),
        ({"stacks": 4, "junction": "dense", "reach": 3}, {"stacks": 4, "junction": "dense"}),
        ({"stacks": 4, "junction": "dense", "reach": 9}, {"stacks": 4, "junction": "dense", "reach": 0}),
        ({"stacks": 4, "junction": "dense", "reach": 1}, {"stacks": 4}),
        ({"stacks": 4, "junction": "resconcat", "reach": 2}, {"stacks": 4, "junction": "resconcat"}),
        ({"levels": ["ghost"] * 5}, {"block": "ghost"}),
        ({"levels": ["ghost"] * 4 + ["dice"], "block": "no_skip"}, {"levels": ["ghost"] * 4 + ["dice"]}),
        ({"block": {"kind": "dilated", "dilation": 1}}, {"block": "double_conv"}),
        ({"trunk": {"kind": "dilated_separable", "dilation": 1}}, {"trunk": "two_separable"}),
        ({"block": {"kind": "dilated", "dilation": 2}}, {"block": "dilated"}),
        ({"block": {"kind": "shuffle", "groups": 8}, "width": 84}, {"block": "shuffle", "width": 84}),
        ({"block": {"kind": "multidilated", "rates": [3, 1, 2]}}, {"block": "multidilated"}),
        ({"block": "nas.architecture.blocks.ghost:Ghost"}, {"block": "ghost"}),
    ],
)
def test_equal_networks_have_one_id(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Architecture.from_dict(one) == Architecture.from_dict(other)
    assert Architecture.from_dict(one).id == Architecture.from_dict(other).id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"stacks": 3, "junction": "dense"}, {"stacks": 3}),
        ({"stacks": 4, "junction": "dense", "reach": 2}, {"stacks": 4, "junction": "dense"}),
        ({"stacks": 2, "narrow_res": True}, {"stacks": 2}),
        ({"block": "dilated"}, {"block": "double_conv"}),
        ({"block": {"kind": "shuffle", "groups": 8}}, {"block": "shuffle"}),
        ({"block": {"kind": "multidilated", "rates": [1, 1]}}, {"block": {"kind": "multidilated", "rates": [1]}}),
        ({"block": "ghost"}, {"trunk": "ghost"}),
    ],
)
def test_different_networks(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Architecture.from_dict(one).id != Architecture.from_dict(other).id


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"stack": 2}, "unknown key 'stack'; allowed: block, depth, junction"),
        ({"stacks": 0}, "stacks must be an integer of at least 1, not 0"),
        ({"stacks": True}, "stacks must be an integer of at least 1, not True"),
        ({"width": 1.5}, "width must be an integer of at least 1, not 1.5"),
        ({"reach": -1}, "reach must be an integer of at least 0, not -1"),
        ({"narrow_res": 1}, "narrow_res must be true or false, not 1"),
        ({"junction": "sum"}, "junction must be one of add, resconcat, dense, not 'sum'"),
        ({"stem_kernel": "5x5"}, "stem_kernel must be one of 7x7, patchify, not '5x5'"),
        ({"levels": ["ghost"]}, "levels needs 5 blocks (depth 4 and the neck), not 1"),
        ({"levels": "ghost"}, "levels must be a list of blocks, not 'ghost'"),
        ({"block": "bottle"}, "unknown block 'bottle'; choose one of bottleneck, no_skip"),
        ({"block": 3}, "a block is a name or a table with a `kind`, not 3"),
        ({"trunk": {"dilation": 2}}, "a block is a name or a table with a `kind`, not {'dilation': 2}"),
        ({"block": {"kind": "ghost", "dilation": 2}}, "block 'ghost' has no option 'dilation'; its options: none"),
        ({"block": {"kind": "dilated", "rates": [1]}}, "block 'dilated' has no option 'rates'; its options: dilation"),
        ({"block": {"kind": "dilated", "dilation": 0}}, "option 'dilation': expected an integer of at least 1, not 0"),
        ({"block": {"kind": "multidilated", "rates": 2}}, "option 'rates': expected a list of integers of at least 1"),
        ({"block": {"kind": "multidilated", "rates": []}}, "option 'rates': expected a list of integers of at least 1"),
        ([], "architecture: expected a table, not []"),
    ],
)
def test_errors_say_what_is_allowed(raw: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Architecture.from_dict(raw)


def test_scaling_keeps_the_structure() -> None:
    architecture = Architecture(stem=48, width=84, stacks=3, junction="resconcat", block=BlockChoice("ghost"))
    assert architecture.scaled(1) is architecture
    half = architecture.scaled(0.5)
    assert (half.stem, half.width, half.junction, half.block) == (24, 40, "resconcat", BlockChoice("ghost"))
    assert (architecture.scaled(0.01).stem, architecture.scaled(0.01).width) == (4, 4)


def test_str() -> None:
    assert str(Architecture()) == "2×bottleneck, width 128, stem 64"
    block = BlockChoice.of("multidilated", rates=(1, 3))
    text = str(Architecture(stacks=4, depth=3, block=block, junction="dense", reach=2, narrow_res=True))
    assert text == (
        "4×multidilated(rates=1-3), width 128, stem 64, trunk bottleneck, depth 3, dense reach 2, NarrowRes"
    )
