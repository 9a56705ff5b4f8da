from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.architecture.hourglass import Output
from nas.training.heatmaps import encode
from nas.training.losses import HeatmapLoss, Losses, as_maps, heatmap_loss, perceptual_loss, total_loss

KINDS: tuple[HeatmapLoss, ...] = ("mse", "cross_entropy")


def maps(*values: float) -> Tensor:
    """One person; per value a joint whose 2×2 map holds it everywhere."""
    return torch.tensor(values).view(1, -1, 1, 1).expand(1, len(values), 2, 2)


def test_squared_error_by_hand() -> None:
    target = maps(0.0, 0.0, 0.0)
    labelled = torch.tensor([[True, True, False]])
    # Over four cells: 4 · 1² and 4 · 3², averaged over the two labelled joints; the third does not count.
    assert heatmap_loss(maps(1.0, 3.0, 50.0), target, labelled, "mse") == (4 + 36) / 2


def test_cross_entropy_by_hand() -> None:
    target = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]]]])  # wanted: 3/4 and 1/4
    logits = torch.tensor([[[[math.log(2), 0.0], [0.0, 0.0]]]])  # predicted: 2/5 and 1/5 three times
    want = -(0.75 * math.log(0.4) + 0.25 * math.log(0.2))
    assert heatmap_loss(logits, target, torch.tensor([[True]]), "cross_entropy") == pytest.approx(want)


def test_cross_entropy_is_minimal_at_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    target = encode(torch.rand((4, 3, 2), generator=generator) * 8, (8, 8), 1.0)
    labelled = torch.ones(4, 3, dtype=torch.bool)
    best = target.log().requires_grad_()
    loss = heatmap_loss(best, target, labelled, "cross_entropy")
    loss.backward()
    assert best.grad is not None
    assert best.grad.abs().max() < 1e-6
    for size in (0.01, 0.1, 1.0):
        other = best.detach() + size * torch.randn(target.shape, generator=generator)
        assert heatmap_loss(other, target, labelled, "cross_entropy") > loss


def test_squared_error_is_zero_at_the_target() -> None:
    target = encode(torch.rand((4, 3, 2)) * 8, (8, 8), 1.0)
    assert heatmap_loss(target, target, torch.ones(4, 3, dtype=torch.bool), "mse") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_unlabelled_joints_change_neither_loss_nor_gradient(kind: HeatmapLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    target = encode(torch.rand((2, 3, 2), generator=generator) * 8, (8, 8), 1.0)
    labelled = torch.tensor([[True, False, True], [False, False, False]])
    predicted = torch.randn((2, 3, 8, 8), generator=generator)
    altered = torch.where(labelled[..., None, None], predicted, 7 * predicted + 1).requires_grad_()
    loss = heatmap_loss(altered, target, labelled, kind)
    assert loss == heatmap_loss(predicted, target, labelled, kind)
    loss.backward()
    assert altered.grad is not None
    assert not altered.grad[~labelled].any()
    assert altered.grad[labelled].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("perceptual", ["mse", "kl"])
def test_gradients_are_finite_without_labels(kind: HeatmapLoss, perceptual: str) -> None:
    far = torch.full((2, 3, 2), -500.0)  # targets of zero everywhere
    predicted = torch.zeros(2, 3, 8, 8, requires_grad=True)
    necks = tuple(torch.zeros(2, 4, 2, 2, requires_grad=True) for _ in range(2))
    for labelled in (torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)):
        output = Output((predicted, predicted), necks)
        loss = total_loss(output, encode(far, (8, 8), 0.5), labelled, Losses((), 0.7, 2.0, perceptual), kind)
        loss.backward()
        assert loss == 0
        assert predicted.grad is not None
        assert torch.isfinite(predicted.grad).all()
        assert all(neck.grad is not None and torch.isfinite(neck.grad).all() for neck in necks)


def test_loss_of_half_precision_output_is_computed_in_float32() -> None:
    target = encode(torch.full((1, 1, 2), 4.0), (64, 64), 1.0)
    predicted = torch.full((1, 1, 64, 64), 0.1, dtype=torch.bfloat16)
    loss = heatmap_loss(predicted, target, torch.ones(1, 1, dtype=torch.bool), "mse")
    assert loss.dtype == torch.float32
    assert loss == pytest.approx(float((predicted.float() - target).square().sum()))


def test_perceptual_terms_by_hand() -> None:
    a = torch.tensor([0.0, 0.0]).view(1, 1, 1, 2)
    b = torch.tensor([0.0, math.log(3)]).view(1, 1, 1, 2)  # softmax: 1/4, 3/4
    c = torch.tensor([2.0, 2.0]).view(1, 1, 1, 2)
    assert perceptual_loss((a,), "mse") == 0
    assert perceptual_loss((a, b), "mse") == pytest.approx(math.log(3) ** 2 / 2)
    assert perceptual_loss((a, b, c), "mse") == pytest.approx(math.log(3) ** 2 / 2 + (4 + (2 - math.log(3)) ** 2) / 2)
    later_to_earlier = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert perceptual_loss((a, b), "kl") == pytest.approx(later_to_earlier)
    earlier_to_later = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert perceptual_loss((b, a), "kl") == pytest.approx(earlier_to_later)
    assert perceptual_loss((a, c), "kl") == pytest.approx(0, abs=1e-6)


def test_total_by_hand() -> None:
    target, labelled = maps(0.0), torch.tensor([[True]])
    output = Output((maps(1.0), maps(2.0)), (torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 3.0)))

    def total(losses: Losses) -> float:
        return float(total_loss(output, target, labelled, losses, "mse"))

    first, second, perceptual = 4.0, 16.0, 9.0
    assert total(Losses()) == first + second
    assert total(Losses(weights=(0.3, 0.7))) == pytest.approx(0.3 * first + 0.7 * second)
    assert total(Losses(weights=(0, 1))) == second
    assert total(Losses(alpha=0.7, scale=2)) == pytest.approx(2 * (0.7 * (first + second) + 0.3 * perceptual))
    assert total(Losses((0.5, 1), 0.9, 1)) == pytest.approx(0.9 * (0.5 * first + second) + 0.1 * perceptual)


def test_canonical_forms() -> None:
    assert Losses((1, 1)).of_stacks(2) == Losses().of_stacks(2) == Losses()
    assert Losses((0.3, 0.7)).of_stacks(2) == Losses((0.3, 0.7))
    assert Losses((0.3,), 0.7, 2.0, "kl").of_stacks(1) == Losses()
    assert Losses(alpha=1, perceptual="kl") == Losses()
    assert Losses(alpha=0.7, perceptual="kl").of_stacks(2) != Losses(alpha=0.7).of_stacks(2)
    with pytest.raises(ValueError, match="2 weights for 3 hourglasses"):
        Losses((0.3, 0.7)).of_stacks(3)


def test_equal_losses_have_one_id() -> None:
    same = [Losses((1, 2), 0.5, 2), Losses((1.0, 2.0), 0.5, 2.0), Losses.from_dict(Losses((1, 2), 0.5, 2).to_dict())]
    assert len({losses.id for losses in same}) == len(set(same)) == 1
    assert Losses(alpha=1, scale=1).id == Losses().id
    assert Losses((1, 2)).id != Losses((2, 1)).id


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"weights": (1.0, -0.5)}, "-0.5"),
        ({"weights": (1.0, 0.0)}, "0.0"),
        ({"weights": (math.nan, 1.0)}, "nan"),
        ({"weights": (1.0, math.inf)}, "inf"),
        ({"alpha": 0.0}, "0.0"),
        ({"alpha": 1.5}, "1.5"),
        ({"alpha": math.nan}, "nan"),
        ({"scale": 0.0}, "0.0"),
        ({"scale": -2.0}, "-2.0"),
        ({"scale": math.inf}, "inf"),
        ({"perceptual": "l1"}, "'l1'"),
    ],
)
def test_bad_values_are_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"losses: .*{next(iter(values))}.*{named}"):
        Losses(**values)  # type: ignore[arg-type]


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'lambda'.*weights, alpha, scale, perceptual"):
        Losses.from_dict({"lambda": 2})


def test_as_maps() -> None:
    raw = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_maps(raw, "mse"), raw)
    probabilities = as_maps(raw, "cross_entropy")
    assert torch.allclose(probabilities.sum(dim=(2, 3)), torch.ones(2, 3))
    assert torch.allclose(probabilities[1, 2].flatten(), F.softmax(raw[1, 2].flatten(), dim=0))
    assert as_maps(raw.bfloat16(), "cross_entropy").dtype == torch.float32
