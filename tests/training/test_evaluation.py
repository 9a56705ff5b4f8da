from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nas.architecture.hourglass import STRIDE, Output, build_network
from nas.architecture.spec import Architecture
from nas.data.augmentation import centred_maps, cut_batch, fit_to_input
from nas.data.packed.reader import PackedPeople
from nas.training.evaluation import evaluate, predict
from nas.training.heatmaps import Decoder, encode
from nas.training.losses import HeatmapLoss
from nas.training.schedule import ScheduleConfig


class Oracle(nn.Module):
    """Recognizes every person by the image, mirrored or not, and returns perfect heatmaps.

    Its first hourglass always predicts the middle of the image.
    """

    def __init__(self, people: PackedPeople, size: int, kind: HeatmapLoss, noise: float = 0.0) -> None:
        super().__init__()
        batch = cut_batch(people, torch.arange(len(people)), size, centred_maps(people, len(people), size))
        mirrored = torch.stack([size - batch.joints[..., 0], batch.joints[..., 1]], dim=-1)
        self.images_of_people = torch.cat([batch.images, batch.images.flip(-1)]).flatten(1)
        self.joints = torch.cat([batch.joints, mirrored[:, list(people.skeleton.flip_order)]])
        self.cells, self.kind, self.noise = size // STRIDE, kind, noise
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Output:
        assert not self.training
        people = torch.cdist(images.flatten(1), self.images_of_people).argmin(dim=1)
        self.seen += people.tolist()
        joints = self.joints[people] + self.noise * torch.randn(self.joints[people].shape)
        maps = encode(joints / STRIDE, (self.cells, self.cells), 1.0)
        middle = encode(torch.full_like(joints, self.cells / 2), (self.cells, self.cells), 1.0)
        if self.kind == "cross_entropy":
            maps, middle = maps.log(), middle.log()
        return Output((middle, maps), ())


def in_rotated_images(people: PackedPeople) -> PackedPeople:
    """The same people in rotated images, 3.7 times as large."""
    affine = torch.tensor([[3.7 * 0.8, -3.7 * 0.6, 200.0], [3.7 * 0.6, 3.7 * 0.8, -35.0]])
    return replace(people, to_original=affine.expand(len(people), 2, 3), head_size=people.head_size * 3.7)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("decoder", ["dark", "quarter"])
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_an_oracle_is_always_correct(held_out: PackedPeople, kind: HeatmapLoss, decoder: Decoder, flip: bool) -> None:
    people = in_rotated_images(held_out)
    oracle = Oracle(people, 64, kind).train()
    result = evaluate(oracle, people, ScheduleConfig(16, 1, loss=kind, decoder=decoder), 64, flip=flip, batch=25)
    assert result.accuracy.mean > 99.7
    assert result.accuracy.by_count > 99.7
    assert min(result.accuracy.groups.values()) > 99.7
    assert result.accuracy.people == len(people)
    assert result.stages[0] < 50
    assert result.stages[1] == result.accuracy.mean
    assert oracle.training  # as before
    assert sorted(oracle.seen) == list(range(120 if flip else 60))


def test_predictions_are_in_pixels_of_the_original_image(held_out: PackedPeople) -> None:
    people = in_rotated_images(held_out)
    result = evaluate(Oracle(people, 64, "mse"), people, ScheduleConfig(16, 1), 64)
    assert result.predictions.shape == (60, 16, 2)
    error = (result.predictions - people.original_joints()).norm(dim=-1)[people.labelled]
    assert error.max() < 0.1 * STRIDE * 3.7
    assert result.confidence.shape == (60, 16)
    assert result.confidence[people.labelled].min() > 0.7


def test_an_oracle_on_reduced_images_is_always_correct(held_out: PackedPeople) -> None:
    people = in_rotated_images(fit_to_input(held_out, 48))
    people = replace(people, head_size=held_out.head_size * 3.7 * 48 / 64)
    assert evaluate(Oracle(people, 48, "mse"), people, ScheduleConfig(16, 1), 48).accuracy.mean > 99.7


def test_an_oracle_on_enlarged_images_is_always_correct(held_out: PackedPeople) -> None:
    assert evaluate(Oracle(held_out, 96, "mse"), held_out, ScheduleConfig(16, 1), 96).accuracy.mean > 99.7


def test_averaging_with_the_mirrored_image_reduces_errors(held_out: PackedPeople) -> None:
    torch.manual_seed(0)
    oracle = Oracle(held_out, 64, "mse", noise=2.0)
    plain, flipped = (evaluate(oracle, held_out, ScheduleConfig(16, 1), 64, flip=flip) for flip in (False, True))
    assert flipped.accuracy.mean > plain.accuracy.mean + 3


def test_spread_is_zero_for_a_constant_prediction(held_out: PackedPeople) -> None:
    class Middle(nn.Module):
        def forward(self, images: Tensor) -> Output:
            return Output((encode(torch.full((len(images), 16, 2), 8.0), (16, 16), 1.0),), ())

    assert evaluate(Middle(), held_out, ScheduleConfig(16, 1), 64).spread < 1e-6
    assert evaluate(Oracle(held_out, 64, "mse"), held_out, ScheduleConfig(16, 1), 64).spread > 0.05


def test_both_flips_together_equal_each_one_separately(held_out: PackedPeople, tiny: Architecture) -> None:
    network = build_network(tiny, 16, (64, 64), seed=0)
    schedule = ScheduleConfig(16, 1, loss="cross_entropy")
    done: list[int] = []
    both = predict(network, held_out, schedule, 64, flips=(False, True), batch=25, after_batch=done.append)
    assert done == [25, 50, 60]
    for flip, predictions in zip((False, True), both, strict=True):
        alone = evaluate(network, held_out, schedule, 64, flip=flip, batch=25)
        assert len(predictions.positions) == 2
        assert torch.equal(predictions.positions[-1], alone.predictions)
        assert torch.equal(predictions.confidence, alone.confidence)
        assert predictions.spread == alone.spread
    assert not torch.equal(both[0].positions[-1], both[1].positions[-1])
