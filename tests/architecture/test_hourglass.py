"""Networks: junctions, NarrowRes, seeds, input sizes, blocks from outside the package."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nas.architecture.blocks import block_kinds
from nas.architecture.cost import count_module, network_cost
from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture, BlockChoice
from nas.consent import allow_code

SMALL = Architecture(stem=4, width=4, stacks=3, depth=2)
JOINTS = 3


def images(side: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def outputs(architecture: Architecture, seed: int = 0) -> list[Tensor]:
    return list(build_network(architecture, JOINTS, (32, 32), seed)(images()).heatmaps)


def parameters(architecture: Architecture) -> int:
    return sum(p.numel() for p in build_network(architecture, JOINTS, (32, 32)).parameters())


def test_the_seed_determines_the_weights_and_not_the_global_generator() -> None:
    before = torch.get_rng_state()
    one, same, other = (build_network(SMALL, JOINTS, (32, 32), seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_without_a_seed_the_global_generator_is_used() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn = build_network(SMALL, JOINTS, (32, 32)).state_dict()
    seeded = build_network(SMALL, JOINTS, (32, 32), 5).state_dict()
    assert all(torch.equal(drawn[key], seeded[key]) for key in drawn)


def test_narrow_res_adds_no_parameters_and_changes_all_hourglasses_after_the_first() -> None:
    with_it = replace(SMALL, narrow_res=True)
    assert parameters(with_it) == parameters(SMALL)
    first, *later = zip(outputs(SMALL), outputs(with_it), strict=True)
    assert torch.equal(*first)
    assert not any(torch.allclose(a, b) for a, b in later)


def test_necks_are_returned_before_narrow_res_is_added() -> None:
    network = build_network(replace(SMALL, narrow_res=True), JOINTS, (32, 32), 0)
    seen: list[Tensor] = []
    for hourglass in network.hourglasses:
        hourglass.neck.register_forward_hook(lambda module, args, out: seen.append(out))
    output = network(images())
    assert all(torch.equal(a, b) for a, b in zip(seen, output.necks, strict=True))


def test_resconcat_junctions_share_one_convolution() -> None:
    network = build_network(replace(SMALL, junction="resconcat"), JOINTS, (32, 32))
    first, second = network.junctions
    assert first.combine is second.combine
    fuse = 2 * SMALL.features * SMALL.features + SMALL.features
    assert sum(p.numel() for p in network.parameters()) == parameters(SMALL) + fuse
    more = replace(SMALL, stacks=4, junction="resconcat")
    assert parameters(more) == parameters(replace(SMALL, stacks=4)) + fuse


def test_reach_limits_the_dense_connections() -> None:
    f = SMALL.features
    four = replace(SMALL, stacks=4)
    extra = {
        reach: parameters(replace(four, junction="dense", reach=reach)) - parameters(four) for reach in (0, 1, 2, 3)
    }
    both, triple = 2 * f * f + f, 3 * f * f + f
    assert extra == {0: both + triple, 1: 0, 2: 2 * both, 3: both + triple}


def test_dense_junctions_use_earlier_hourglasses() -> None:
    network = build_network(replace(SMALL, junction="dense"), JOINTS, (32, 32), 0)
    tensors: list[Tensor] = []
    for junction in network.junctions:
        junction.register_forward_hook(lambda module, args, out: tensors.append(out))
    network.dense[0].register_forward_pre_hook(lambda module, args: tensors.append(args[0]))
    network(images())
    first, second, seen = tensors
    assert torch.equal(seen, torch.cat([first, second], dim=1))


@pytest.mark.parametrize("side", [16, 48, 72, 0])
def test_input_sizes_that_cannot_be_halved_are_rejected(side: int) -> None:
    architecture = replace(SMALL, depth=3)
    for call in (build_network, network_cost):
        with pytest.raises(ValueError, match=r"both sides must be multiples of 32 at depth 3"):
            call(architecture, JOINTS, (64, side))


@pytest.mark.parametrize("kind", block_kinds())
@pytest.mark.parametrize("size", [(16, 16), (32, 64), (96, 48)])
def test_every_block_works_as_block_and_trunk_at_any_size(kind: str, size: tuple[int, int]) -> None:
    block = BlockChoice(kind)
    network = build_network(replace(SMALL, block=block, trunk=block, stacks=2), JOINTS, size, 0)
    output = network(torch.randn(2, 3, *size))
    assert output.heatmaps[-1].shape == (2, JOINTS, size[0] // 4, size[1] // 4)
    assert output.necks[-1].shape == (2, SMALL.features, size[0] // 16, size[1] // 16)


def test_dice_has_weights_for_one_input_size_and_resizes_others_to_it() -> None:
    architecture = replace(SMALL, block=BlockChoice("dice"))
    sizes = [(32, 32), (64, 64), (64, 32)]
    counts = [network_cost(architecture, JOINTS, size).params for size in sizes]
    assert counts[0] < counts[2] < counts[1]
    network = build_network(architecture, JOINTS, (32, 32)).eval()
    with torch.no_grad():
        for size in ((64, 64), (48, 96)):
            heatmaps = network(torch.randn(2, 3, *size)).heatmaps[-1]
            assert heatmaps.shape == (2, JOINTS, size[0] // 4, size[1] // 4)
            assert heatmaps.isfinite().all()
        # On constant images, the output far from the edges must not depend on the size.
        flat = torch.full((1, 3, 1, 1), 0.3)
        small = network(flat.expand(1, 3, 32, 32)).heatmaps[-1][0, :, 4, 4]
        large = network(flat.expand(1, 3, 64, 64)).heatmaps[-1][0, :, 8, 8]
    assert torch.allclose(small, large, atol=0.5 * small.abs().max().item())


def test_blocks_per_level_are_at_their_level() -> None:
    kinds = ("bottleneck", "separable", "ghost")
    levels = tuple(BlockChoice(kind) for kind in kinds)
    hourglass = build_network(replace(SMALL, levels=levels), JOINTS, (32, 32)).hourglasses[1]
    for blocks in (hourglass.skips, hourglass.downs, hourglass.ups):
        assert [type(block).__name__ for block in blocks] == ["Bottleneck", "Separable"]
    assert type(hourglass.neck).__name__ == "Ghost"


OWN_BLOCK = '''
from torch import nn

from nas.architecture.blocks.layers import Residual, conv3x3, preactivated


class Scaled(Residual):
    """One 3x3 and an attention over channels, with a linear layer that only fvcore can count."""

    def __init__(self, in_channels, width, *, squeeze: int = 2, gain: float = 1.0):
        super().__init__(in_channels, 2 * width, preactivated(conv3x3(in_channels, 2 * width), in_channels))
        self.gate = nn.Sequential(nn.Linear(2 * width, width // squeeze), nn.Linear(width // squeeze, 2 * width))
        self.gain = gain

    def forward(self, x):
        out = super().forward(x)
        return out * self.gain * self.gate(out.mean(dim=(2, 3)))[:, :, None, None]


class NoBlock:
    pass


class Undecided(nn.Module):
    def __init__(self, in_channels, width, *, squeeze):
        super().__init__()
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> str:
    """A module outside the package, importable during one test."""
    (tmp_path / "outside_blocks.py").write_text(OWN_BLOCK)
    monkeypatch.syspath_prepend(tmp_path)
    allow_code(f"outside_blocks:{name}" for name in ("Scaled", "Missing", "NoBlock", "Undecided"))
    return "outside_blocks"


def test_a_block_from_outside_builds_counts_and_trains(own_module: str) -> None:
    block = {"kind": f"{own_module}:Scaled", "squeeze": 4}
    architecture = replace(Architecture.from_dict({"block": block, "trunk": block}), stem=4, width=8, depth=2)
    assert Architecture.from_json(architecture.to_json()) == architecture
    network = build_network(architecture, JOINTS, (32, 32), 0)
    cost, whole = network_cost(architecture, JOINTS, (32, 32)), count_module(network, (1, 3, 32, 32))
    assert (cost.params, cost.madds) == (whole.params, whole.madds)

    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    errors = []
    for _ in range(2):
        loss = network(images()).heatmaps[-1].sub(1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[1] < errors[0]


def test_bad_blocks_from_outside_are_named(own_module: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be imported: .*Missing"):
        BlockChoice(f"{own_module}:Missing")
    allow_code(["nobodys_blocks:Block"])
    with pytest.raises(ValueError, match=r"cannot be imported: .*No module named 'nobodys_blocks'"):
        BlockChoice("nobodys_blocks:Block")
    with pytest.raises(ValueError, match=r"is not a torch.nn.Module class"):
        BlockChoice(f"{own_module}:NoBlock")
    with pytest.raises(ValueError, match=r"option 'squeeze' needs a default"):
        BlockChoice.of(f"{own_module}:Undecided", squeeze=1)
    with pytest.raises(ValueError, match=r"has no option 'rates'; its options: squeeze, gain"):
        BlockChoice.of(f"{own_module}:Scaled", rates=(1, 2))


def test_a_subclass_is_another_block(tmp_path, monkeypatch) -> None:
    (tmp_path / "derived_blocks.py").write_text(
        "from nas.architecture.blocks.dilated import Dilated\n\n\nclass Mine(Dilated):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    allow_code(["derived_blocks:Mine"])
    mine = BlockChoice.of("derived_blocks:Mine", dilation=1)
    assert replace(SMALL, block=mine).block == mine


def test_ghost_needs_an_even_width() -> None:
    odd = replace(SMALL, width=5, block=BlockChoice("ghost"))
    for call in (build_network, network_cost):
        with pytest.raises(ValueError, match=r"ghost: width 5 is odd"):
            call(odd, JOINTS, (32, 32))


def test_networks_are_ordinary_modules() -> None:
    network = build_network(SMALL, JOINTS, (32, 32))
    assert isinstance(network, nn.Module)
    assert next(network.parameters()).dtype == torch.float32
