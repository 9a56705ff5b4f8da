"""Costs without building equal fvcore's count of the whole network."""

import random
from dataclasses import replace

import pytest
import torch
from effort import examples
from torch import nn

from nas.architecture.blocks import block_kinds, registry
from nas.architecture.cost import block_cost, cost_by_part, count_module, network_cost
from nas.architecture.hourglass import build_network, make_block
from nas.architecture.spec import Architecture, BlockChoice

JOINTS = 5


def some_block(rng: random.Random) -> BlockChoice:
    options = {
        "dilation": rng.choice((1, 2, 3)),
        "rates": rng.choice(((1, 2), (1, 3, 5))),
        "groups": rng.choice((2, 4)),
    }
    return BlockChoice.using(rng.choice(block_kinds()), options)


def sample(seed: int) -> tuple[Architecture, tuple[int, int]]:
    """An architecture and an input size that fits it; every third has a block per level."""
    rng = random.Random(seed)
    depth = rng.choice((1, 2, 3))
    levels = tuple(some_block(rng) for _ in range(depth + 1)) if seed % 3 == 0 else ()
    architecture = Architecture(
        stem=rng.choice((4, 8, 12)),
        width=rng.choice((4, 8, 12)),
        stacks=rng.choice((1, 2, 3)),
        depth=depth,
        block=some_block(rng),
        trunk=some_block(rng),
        levels=levels,
        stem_kernel=rng.choice(("7x7", "patchify")),
        junction=("add", "resconcat", "dense")[seed % 3],
        reach=rng.choice((0, 2)),
        narrow_res=rng.random() < 0.5,
    )
    return architecture, (64 * rng.choice((1, 2)), 64)


def assert_equal_to_fvcore(architecture: Architecture, size: tuple[int, int]) -> None:
    network = build_network(architecture, JOINTS, size)
    cost, traced = network_cost(architecture, JOINTS, size), count_module(network, (1, 3, *size))
    assert cost.params == traced.params, architecture
    assert cost.madds == traced.madds, architecture
    assert network.training  # restored after counting


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_sampled_networks(seed: int) -> None:
    assert_equal_to_fvcore(*sample(seed))


@pytest.mark.parametrize("reach", [0, 2])
def test_dense_junctions(reach: int) -> None:
    assert_equal_to_fvcore(Architecture(stem=4, width=4, stacks=5, depth=1, junction="dense", reach=reach), (16, 8))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, examples(24, 100)))
def test_more_sampled_networks(seed: int) -> None:
    assert_equal_to_fvcore(*sample(seed))


@pytest.mark.parametrize("kind", block_kinds())
@pytest.mark.parametrize(("in_channels", "width", "resolution"), [(8, 4, (1, 1)), (16, 8, (8, 4)), (8, 16, (6, 6))])
def test_blocks(kind: str, in_channels: int, width: int, resolution: tuple[int, int]) -> None:
    choice = BlockChoice(kind)
    traced = count_module(make_block(choice, in_channels, width, resolution), (1, in_channels, *resolution))
    assert block_cost(choice, in_channels, width, resolution) == traced


def test_counting_does_not_use_the_global_generator() -> None:
    before = torch.get_rng_state()
    network_cost(Architecture(stem=20, width=20, block=BlockChoice("dice")), JOINTS, (64, 64))
    assert torch.equal(before, torch.get_rng_state())


def test_operations_without_a_rule_are_counted_by_fvcore(monkeypatch) -> None:
    class Grown(nn.Module):
        """Transposed convolution, upsampling and a linear layer."""

        def __init__(self, in_channels: int, width: int) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(in_channels, 2 * width, 2, stride=2)
            self.down = nn.AdaptiveAvgPool2d(4)
            self.mix = nn.Linear(2 * width, 2 * width)

        def forward(self, x):
            x = nn.functional.interpolate(self.up(x), scale_factor=2.0)
            return self.mix(self.down(x).transpose(1, 3)).transpose(1, 3)

    monkeypatch.setitem(registry._BLOCKS, "grown", Grown)
    traced = count_module(Grown(8, 4), (1, 8, 4, 4))
    assert traced.madds > 8 * 8 * 8 * 8
    assert block_cost(BlockChoice("grown"), 8, 4, (4, 4)) == traced


def test_parts_add_up() -> None:
    architecture = Architecture(stem=8, width=8, stacks=3, junction="resconcat")
    parts = cost_by_part(architecture, JOINTS, (64, 64))
    assert list(parts) == ["stem", "hourglasses", "heads", "junctions"]
    total = network_cost(architecture, JOINTS, (64, 64))
    for what in ("params", "madds", "layers"):
        assert sum(getattr(cost, what) for cost in parts.values()) == getattr(total, what)


def test_layers_run_in_a_forward_pass() -> None:
    architecture = Architecture(stem=8, width=8, stacks=2)
    network = build_network(architecture, JOINTS, (64, 64))
    ran: list[nn.Module] = []
    for module in network.modules():
        if not any(module.children()) and not isinstance(module, nn.Identity):
            module.register_forward_hook(lambda m, args, out: ran.append(m))
    network(torch.zeros(2, 3, 64, 64))
    functional = 2 * architecture.depth * architecture.stacks  # pooling and upsampling are functions
    assert network_cost(architecture, JOINTS, (64, 64)).layers == len(ran) + functional


def test_madds_follow_the_pixels_and_params_do_not() -> None:
    architecture = replace(Architecture(stem=8, width=8), block=BlockChoice("multidilated"))
    one, four = (network_cost(architecture, JOINTS, (side, side)) for side in (64, 128))
    assert (four.params, four.madds) == (one.params, 4 * one.madds)
