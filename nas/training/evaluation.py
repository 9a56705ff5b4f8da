"""A network's accuracy on people, in the pixels of the original pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.architecture.hourglass import STRIDE
from nas.data.batches import centred, cut, to_original
from nas.data.packed import PackedPeople
from nas.training.heatmaps import decode, flip_maps
from nas.training.losses import as_maps
from nas.training.metrics import Accuracy, pckh
from nas.training.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Attributes:
    accuracy: PCKh@0.5 of the last hourglass.
    stages: PCKh@0.5 mean of every hourglass.
    predictions: (N, J, 2) positions of the last hourglass in original pixels.
    confidence: (N, J) peak values.
    spread: how far a joint's predictions differ between people, in box sides (root mean square); near 0, the
        network says the same of everybody.
    """

    accuracy: Accuracy
    stages: tuple[float, ...]
    predictions: Tensor
    confidence: Tensor
    spread: float


@torch.no_grad()
def evaluate(
    network: nn.Module,
    people: PackedPeople,
    schedule: Schedule,
    input_size: int,
    *,
    flip: bool = False,
    batch: int = 128,
) -> Evaluation:
    """Predict every person once and score the predictions.

    Args:
        network: returns :class:`~nas.architecture.hourglass.Output`; left in the mode that it was in.
        people: on the network's device, fitted to the input size.
        schedule: says how heatmaps were trained and how they are decoded.
        input_size: H = W of the pictures.
        flip: average the maps with those of the mirrored picture (Newell et al. 2016, section 4.1).
        batch: pictures at a time.
    """
    training = network.training
    network.eval()
    device = people.crops.device
    found: list[list[Tensor]] = []
    peaks, spreads = [], []
    for indices in torch.arange(len(people), device=device).split(batch):
        to_crop = centred(people, len(indices), input_size)
        images = cut(people, indices, input_size, to_crop).images
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            maps = [as_maps(raw, schedule.loss) for raw in network(images).heatmaps]
            if flip:
                mirrored = network(images.flip(-1)).heatmaps
                order = people.skeleton.flip_order
                maps = [
                    (a + flip_maps(as_maps(b, schedule.loss), order)) / 2 for a, b in zip(maps, mirrored, strict=True)
                ]
        stages = []
        for heatmaps in maps:
            cells, peak = decode(heatmaps, schedule.decoder)
            stages.append(to_original(people, indices, cells * STRIDE, to_crop))
        found.append(stages)
        peaks.append(peak)
        spreads.append(cells * STRIDE / input_size)
    network.train(training)
    by_stage = [torch.cat(parts) for parts in zip(*found, strict=True)]
    truth = people.original_joints()
    scores = [pckh(positions, truth, people.labelled, people.head_size, people.skeleton) for positions in by_stage]
    spread = float(torch.cat(spreads).std(dim=0, correction=0).square().sum(-1).mean().sqrt())
    return Evaluation(scores[-1], tuple(s.mean for s in scores), by_stage[-1], torch.cat(peaks), spread)
