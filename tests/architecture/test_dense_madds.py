"""Multiply-adds of blocks of one's own: each spelling of an operation counts the same, against a closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.architecture.cost import UncountableBlockError, block_cost, count_module
from nas.architecture.spec import BlockChoice
from nas.consent import allow_code

CHANNELS, HEIGHT, WIDTH, OUT, HEADS = 8, 12, 10, 16, 2
PIXELS = HEIGHT * WIDTH
SHAPE = (1, CHANNELS, HEIGHT, WIDTH)
CONVOLUTION = 9 * CHANNELS * OUT * PIXELS
ATTENTION = 2 * PIXELS * PIXELS * CHANNELS
PROJECTIONS = 4 * CHANNELS * CHANNELS * PIXELS


class OnTokens(nn.Module):
    """A function of the pixels as tokens (1, H·W, C)."""

    def __init__(self, function: Callable[[OnTokens, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.attention = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x.flatten(2).transpose(1, 2))


class Own(torch.autograd.Function):
    """A convolution as a function with a gradient of its own."""

    @staticmethod
    def forward(ctx: object, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=1)


class OwnConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(OUT, CHANNELS, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return Own.apply(x, self.weight)  # type: ignore[no-any-return]


def heads(tokens: Tensor) -> Tensor:
    return tokens.view(1, PIXELS, HEADS, CHANNELS // HEADS).transpose(1, 2)


def matrices(_: OnTokens, t: Tensor) -> Tensor:
    return (heads(t) @ heads(t).mT).softmax(-1) @ heads(t)


def einsums(_: OnTokens, t: Tensor) -> Tensor:
    weights = torch.einsum("nhqd,nhkd->nhqk", heads(t), heads(t)).softmax(-1)
    return torch.einsum("nhqk,nhkd->nhqd", weights, heads(t))


SPELLINGS: dict[str, tuple[nn.Module, int]] = {
    "padding 1": (nn.Conv2d(CHANNELS, OUT, 3, padding=1), CONVOLUTION),
    "padding same": (nn.Conv2d(CHANNELS, OUT, 3, padding="same"), CONVOLUTION),
    "padding same, dilated": (nn.Conv2d(CHANNELS, OUT, 3, padding="same", dilation=2), CONVOLUTION),
    "padding reflected": (nn.Conv2d(CHANNELS, OUT, 3, padding=1, padding_mode="reflect"), CONVOLUTION),
    "padding valid": (nn.Conv2d(CHANNELS, OUT, 3, padding="valid"), 9 * CHANNELS * OUT * (HEIGHT - 2) * (WIDTH - 2)),
    "depthwise": (nn.Conv2d(CHANNELS, CHANNELS, 3, padding="same", groups=CHANNELS), 9 * CHANNELS * PIXELS),
    "transposed": (nn.ConvTranspose2d(CHANNELS, OUT, 2, stride=2), 4 * CHANNELS * OUT * PIXELS),
    "autograd function": (OwnConvolution(), CONVOLUTION),
    "unfolded": (nn.Sequential(nn.Unfold(3, padding=1), nn.Linear(PIXELS, 4)), 9 * CHANNELS * PIXELS * 4),
    "multi-head attention": (OnTokens(lambda m, t: m.attention(t, t, t)[0]), ATTENTION + PROJECTIONS),
    "the same without weights": (
        OnTokens(lambda m, t: m.attention(t, t, t, need_weights=False)[0]),
        ATTENTION + PROJECTIONS,
    ),
    "scaled dot product": (
        OnTokens(lambda m, t: F.scaled_dot_product_attention(heads(t), heads(t), heads(t))),
        ATTENTION,
    ),
    "matrix products": (OnTokens(matrices), ATTENTION),
    "einsum": (OnTokens(einsums), ATTENTION),
    "linear": (OnTokens(lambda m, t: F.linear(t, torch.zeros(5, CHANNELS), torch.zeros(5))), PIXELS * CHANNELS * 5),
    "tensordot": (OnTokens(lambda m, t: torch.tensordot(t, torch.zeros(CHANNELS, 5), dims=1)), PIXELS * CHANNELS * 5),
}


@pytest.mark.parametrize(("module", "madds"), SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_counts_the_same(module: nn.Module, madds: int) -> None:
    assert count_module(module, SHAPE).madds == madds
    assert module.training, "it is left in the mode that it was in"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.normalize(x, dim=1),
        lambda x: x / (x.norm(dim=(2, 3), keepdim=True) + 1),
        lambda x: x / (torch.linalg.vector_norm(x) + 1),
        lambda x: torch.lgamma(x + 1),
    ],
    ids=["normalize", "norm", "vector norm", "lgamma"],
)
def test_operations_that_do_little_for_each_value_are_free(function: Callable[[Tensor], Tensor]) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(CHANNELS, OUT, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.convolution(function(x))  # type: ignore[no-any-return]

    assert count_module(Block(), SHAPE).madds == CONVOLUTION


BLOCKS = """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    def __init__(self, in_channels, width):
        super().__init__()
        self.body = nn.Conv2d(in_channels, 2 * width, 1)

    def forward(self, x):
        return self.body(x)


class Spectrum(Block):
    def forward(self, x):
        return self.body(torch.fft.fft2(x).real)


class Declared(Spectrum):
    def madds(self, height, width):
        return 1000 * height * width


class Scripted(Block):
    def __init__(self, in_channels, width):
        super().__init__(in_channels, width)
        self.body = torch.jit.script(self.body)


class Reentrant(Block):
    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=True)


class Broken(Block):
    def forward(self, x):
        return self.body(x[:, 1:])
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Callable[[str], BlockChoice]:
    (tmp_path / "counted_blocks.py").write_text(BLOCKS)
    monkeypatch.syspath_prepend(tmp_path)

    def choice(name: str) -> BlockChoice:
        allow_code([f"counted_blocks:{name}"])
        return BlockChoice(f"counted_blocks:{name}")

    return choice


def test_a_block_may_declare_its_own(own: Callable[[str], BlockChoice]) -> None:
    assert block_cost(own("Declared"), CHANNELS, 4, (HEIGHT, WIDTH)).madds == 1000 * PIXELS


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Spectrum", r"multiply-adds of aten::_fft\w+ are not known; give the block a method madds"),
        ("Scripted", r"cannot be counted .*unscripted"),
        ("Reentrant", r"cannot be counted .*without reentrant checkpointing"),
        ("Broken", r"cannot be counted \(RuntimeError: .*expected input"),
    ],
)
def test_what_cannot_be_counted_is_named(own: Callable[[str], BlockChoice], name: str, reason: str) -> None:
    with pytest.raises(UncountableBlockError, match=rf"^block 'counted_blocks:{name}': .*{reason}") as caught:
        block_cost(own(name), CHANNELS, 4, (HEIGHT, WIDTH))
    assert "\n" not in str(caught.value)
