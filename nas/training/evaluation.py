"""A network's accuracy on people, in the pixels of the original pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.architecture.hourglass import STRIDE
from nas.data.augmentation import as_images, box_centres, centred, cut, to_original
from nas.data.packed.reader import PackedPeople
from nas.training.devices import mixed_precision, out_of_memory
from nas.training.heatmaps import decode, flip_maps
from nas.training.losses import as_maps
from nas.training.metrics import Accuracy, pckh
from nas.training.schedule import ScheduleConfig


@dataclass(frozen=True, eq=False)
class Predictions:
    """What every hourglass of a network says of everybody.

    Attributes:
        positions: one (N, J, 2) for each hourglass, in original pixels.
        confidence: (N, J) peak values of the last hourglass's maps.
        spread: how far a joint's predictions of the last hourglass differ between people, in box sides (root mean
            square); near 0, the network says the same of everybody.
    """

    positions: tuple[Tensor, ...]
    confidence: Tensor
    spread: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Attributes:
    accuracy: PCKh@0.5 of the last hourglass.
    stages: PCKh@0.5 mean of every hourglass.
    predictions: (N, J, 2) positions of the last hourglass in original pixels.
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
    """Show every person to the network once, and its mirrored picture too where that is wanted.

    Args:
        network: returns :class:`~nas.architecture.hourglass.Output`; left in the mode that it was in.
        people: on the network's device, fitted to the input size.
        schedule: says how heatmaps were trained and how they are decoded.
        input_size: H = W of the pictures.
        flips: one answer for each: whether to average the maps with those of the mirrored picture (Newell et al.
            2016, section 4.1). Both together cost no more than the second alone.
        batch: pictures at a time; fewer where memory is too small for them.
        after_batch: called with the number of people done.
    """
    training = network.training
    network.eval()
    device = people.crops.device
    positions: list[list[list[Tensor]]] = [[] for _ in flips]  # of each flip, batch and hourglass
    peaks: list[list[Tensor]] = [[] for _ in flips]
    answers: list[list[Tensor]] = [[] for _ in flips]
    done = 0
    while done < len(people):
        indices = torch.arange(done, min(done + batch, len(people)), device=device)
        to_crop = centred(people, len(indices), input_size)
        images = box_centres(people, indices, input_size)
        try:
            maps, both = _maps(network, images, schedule, people.skeleton.flip_order if any(flips) else None)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or batch == 1:
                raise
            batch //= 2
            continue
        for of_flip, flip in enumerate(flips):
            stages = []
            for heatmaps in both if flip else maps:
                cells, peak = decode(heatmaps, schedule.decoder)
                stages.append(to_original(people, indices, cells * STRIDE, to_crop))
            positions[of_flip].append(stages)
            peaks[of_flip].append(peak)
            answers[of_flip].append(cells * STRIDE / input_size)
        done += len(indices)
        after_batch(done)
    network.train(training)
    return [
        Predictions(
            tuple(torch.cat(parts) for parts in zip(*batches, strict=True)),
            torch.cat(peak),
            float(torch.cat(answer).std(dim=0, correction=0).square().sum(-1).mean().sqrt()),
        )
        for batches, peak, answer in zip(positions, peaks, answers, strict=True)
    ]


def _maps(
    network: nn.Module, images: Tensor, schedule: ScheduleConfig, flip_order: tuple[int, ...] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Each hourglass's maps of some pictures; and averaged with those of the mirrored ones, if there is an order."""
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
    (said,) = predict(network, people, schedule, input_size, flips=(flip,), batch=batch)
    truth = people.original_joints()
    scores = [pckh(at, truth, people.labelled, people.head_size, people.skeleton) for at in said.positions]
    stages = tuple(score.mean for score in scores)
    return Evaluation(scores[-1], stages, said.positions[-1], said.confidence, said.spread)


@torch.no_grad()
def predict_heatmaps(
    network: nn.Module, people: PackedPeople, person: int, schedule: ScheduleConfig, input_size: int
) -> tuple[Tensor, Tensor]:
    """What the last hourglass says of one person, and the picture that it was shown.

    Args:
        network: in evaluation mode.
        people: on the network's device, fitted to the input size.
        person: which of them.
        schedule: says how heatmaps were trained.
        input_size: H = W of the picture.

    Returns:
        maps (J, H/4, W/4) and picture uint8 (H, W, 3), both on the CPU.
    """
    index = torch.tensor([person], device=people.crops.device)
    images = cut(people, index, input_size, centred(people, 1, input_size)).images
    return as_maps(network(images).heatmaps[-1], schedule.loss)[0].cpu(), as_images(images)[0]
