"""Prediction of packed people, and the accuracy of a network on them, in pixels of the original images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.architecture.hourglass import STRIDE
from nas.data.augmentation import as_images, centred_maps, cut_batch, cut_boxes, to_original
from nas.data.packed.reader import PackedPeople
from nas.training.devices import mixed_precision, out_of_memory
from nas.training.heatmaps import decode, flip_maps
from nas.training.losses import as_maps
from nas.training.metrics import Accuracy, pckh
from nas.training.schedule import ScheduleConfig


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of all hourglasses of a network.

    Attributes:
        positions: one (N, J, 2) tensor per hourglass, in pixels of the original images.
        confidence: (N, J) peak values of the last hourglass's heatmaps.
        spread: standard deviation of the last hourglass's predictions over people, in box sides (root mean square over
            joints); near 0 for a network that ignores its input.
    """

    positions: tuple[Tensor, ...]
    confidence: Tensor
    spread: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The accuracy of a network on some people.

    Attributes:
        accuracy: PCKh@0.5 of the last hourglass.
        stages: mean PCKh@0.5 of every hourglass.
        predictions: (N, J, 2) positions of the last hourglass, in pixels of the original images.
        confidence: (N, J) peak values.
        spread: as in :class:`Predictions`.
    """

    accuracy: Accuracy
    stages: tuple[float, ...]
    predictions: Tensor
    confidence: Tensor
    spread: float


@torch.no_grad()
def predict(
    network: nn.Module,
    people: PackedPeople,
    schedule: ScheduleConfig,
    input_size: int,
    *,
    flips: Sequence[bool] = (False,),
    batch: int = 128,
    after_batch: Callable[[int], None] = lambda done: None,
) -> list[Predictions]:
    """Predict the joints of every person, with and without averaging over the mirrored image.

    Args:
        network: returns :class:`~nas.architecture.hourglass.Output`; its training mode is restored.
        people: on the network's device, fitted to the input size.
        schedule: says how heatmaps were trained and how they are decoded.
        input_size: H = W of the images.
        flips: for each result, whether to average the heatmaps with those of the mirrored image (Newell et al. 2016,
            section 4.1). (False, True) costs no more than (True,).
        batch: images per forward pass; halved where memory is too small.
        after_batch: called with the number of people done.

    Returns:
        One result for each of ``flips``.
    """
    training = network.training
    network.eval()
    device = people.crops.device
    positions: list[list[list[Tensor]]] = [[] for _ in flips]  # per flip, batch and hourglass
    peaks: list[list[Tensor]] = [[] for _ in flips]
    relative: list[list[Tensor]] = [[] for _ in flips]  # positions in box sides
    done = 0
    while done < len(people):
        indices = torch.arange(done, min(done + batch, len(people)), device=device)
        to_crop = centred_maps(people, len(indices), input_size)
        images = cut_boxes(people, indices, input_size)
        try:
            maps, averaged = _maps(network, images, schedule, people.skeleton.flip_order if any(flips) else None)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or batch == 1:
                raise
            batch //= 2
            continue
        for index, flip in enumerate(flips):
            stages = []
            for heatmaps in averaged if flip else maps:
                cells, peak = decode(heatmaps, schedule.decoder)
                stages.append(to_original(people, indices, cells * STRIDE, to_crop))
            positions[index].append(stages)
            peaks[index].append(peak)
            relative[index].append(cells * STRIDE / input_size)
        done += len(indices)
        after_batch(done)
    network.train(training)
    return [_concatenate(*batches) for batches in zip(positions, peaks, relative, strict=True)]


def _concatenate(positions: list[list[Tensor]], peaks: list[Tensor], relative: list[Tensor]) -> Predictions:
    """The predictions of all batches; ``relative`` are the last hourglass's positions in box sides."""
    spread = torch.cat(relative).std(dim=0, correction=0).square().sum(-1).mean().sqrt()
    stages = tuple(torch.cat(parts) for parts in zip(*positions, strict=True))
    return Predictions(stages, torch.cat(peaks), float(spread))


def _maps(
    network: nn.Module, images: Tensor, schedule: ScheduleConfig, flip_order: tuple[int, ...] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Heatmaps of every hourglass; and averaged with those of the mirrored images, if there is a flip order."""
    with mixed_precision(images.device):
        maps = [as_maps(raw, schedule.loss) for raw in network(images).heatmaps]
        if flip_order is None:
            return maps, maps
        mirrored = network(images.flip(-1)).heatmaps
        return maps, [
            (a + flip_maps(as_maps(b, schedule.loss), flip_order)) / 2 for a, b in zip(maps, mirrored, strict=True)
        ]


def evaluate(
    network: nn.Module,
    people: PackedPeople,
    schedule: ScheduleConfig,
    input_size: int,
    *,
    flip: bool = False,
    batch: int = 128,
) -> Evaluation:
    """Predict every person once and score the predictions; arguments as for :func:`predict`."""
    (predictions,) = predict(network, people, schedule, input_size, flips=(flip,), batch=batch)
    truth = people.original_joints()
    scores = [
        pckh(positions, truth, people.labelled, people.head_size, people.skeleton)
        for positions in predictions.positions
    ]
    stages = tuple(score.mean for score in scores)
    return Evaluation(scores[-1], stages, predictions.positions[-1], predictions.confidence, predictions.spread)


@torch.no_grad()
def predict_heatmaps(
    network: nn.Module, people: PackedPeople, person: int, schedule: ScheduleConfig, input_size: int
) -> tuple[Tensor, Tensor]:
    """Heatmaps of the last hourglass for one person, and the network's input.

    Args:
        network: in evaluation mode.
        people: on the network's device, fitted to the input size.
        person: index.
        schedule: says how heatmaps were trained.
        input_size: H = W of the image.

    Returns:
        heatmaps (J, H/4, W/4), and the image, uint8 (H, W, 3), both on the CPU.
    """
    index = torch.tensor([person], device=people.crops.device)
    images = cut_batch(people, index, input_size, centred_maps(people, 1, input_size)).images
    return as_maps(network(images).heatmaps[-1], schedule.loss)[0].cpu(), as_images(images)[0]
