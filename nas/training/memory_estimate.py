"""How much memory training a network takes, told without training it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.training.losses import Losses, total_loss
from nas.training.schedule import ScheduleConfig

_TRANSIENT = 3
"""Of the largest activation, how many there are at once besides what is kept for the backward pass: a layer's input,
output and gradient."""


_PROCESS = {"cuda": 0.5e9, "cpu": 0.4e9}
"""Bytes that a process takes of a device's memory before it holds any tensor, about."""

_HEAP = 1.25
"""On a CPU, what the heap holds over the most that lies in it: not every aligned block finds its place again."""


@dataclass(frozen=True)
class Footprint:
    """Attributes:
    fixed: bytes whatever the batch: weights, gradients, optimiser, averaged weights.
    each: bytes of every picture in a batch.
    """

    fixed: int
    each: int

    def peak(self, batch: int) -> int:
        """Bytes in training with so many pictures at a time. The packed people are not in it."""
        return self.fixed + self.each * batch

    def largest_batch(self, room: int) -> int:
        """Most pictures at a time in so many bytes; 0 if not even one fits."""
        return max(0, (room - self.fixed) // self.each)


def footprint(
    network: nn.Module, losses: Losses, schedule: ScheduleConfig, input_size: int, joints: int, dtype: torch.dtype
) -> Footprint:
    """Predict the memory of training, by a forward pass of tensors that have no content.

    What counts is what autograd keeps for the backward pass, each storage once, and a few of the largest map while a
    layer is at work.

    Args:
        network: to train; left as it is.
        losses: its terms.
        schedule: says which optimiser there is and which loss.
        input_size: H = W.
        joints: J.
        dtype: of activations in training, float32 or bfloat16.
    """
    copy = deepcopy(network).to("meta").train()
    own = {p.untyped_storage()._cdata for p in (*copy.parameters(), *copy.buffers())}
    kept: dict[int, Tensor] = {}  # the tensor keeps the storage, whose address might be given again

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    cells = (input_size // 4, input_size // 4)
    batch = 2  # batch norm wants two values at least
    images = torch.empty((batch, 3, input_size, input_size), device="meta")
    target = torch.empty((batch, joints, *cells), device="meta")
    labelled = torch.empty((batch, joints), dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = total_loss(copy(images), target, labelled, losses, schedule.loss)
    del loss
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    activations = (sum(sizes) + _TRANSIENT * max(sizes)) * dtype.itemsize // torch.float32.itemsize
    inputs = images.nbytes + target.nbytes

    weights = sum(p.nbytes for p in copy.parameters())
    buffers = sum(b.nbytes for b in copy.buffers())
    moments = 2 if schedule.optimizer == "adamw" else 1
    fixed = (3 + moments) * weights + 2 * buffers  # weights, gradients, average, moments
    return Footprint(fixed, (activations + inputs) // batch)


def of_process(trained: int, device: torch.device) -> int:
    """Bytes of a device's memory that a process takes.

    Args:
        trained: what training takes, from :meth:`Footprint.peak`.
        device: where.
    """
    return int(trained * (_HEAP if device.type == "cpu" else 1) + _PROCESS[device.type])
