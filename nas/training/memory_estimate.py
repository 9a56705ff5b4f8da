"""Predicts how much memory training a network takes, without training it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.training.losses import Losses, total_loss
from nas.training.schedule import ScheduleConfig

_TRANSIENT = 3
"""Tensors of the largest activation's size that exist besides those saved for the backward pass: a layer's input,
output and gradient."""

_PROCESS_BYTES = {"cuda": 0.5e9, "cpu": 0.4e9}
"""Approximate memory of a process before it allocates a tensor: of the CUDA context, or of the libraries."""

_HEAP_OVERHEAD = 1.25
"""Size of a CPU process's heap relative to the most that is allocated in it: fragmentation."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of training, in bytes.

    Attributes:
        fixed: independent of the batch: weights, gradients, optimizer, averaged weights.
        per_image: for every image of a batch.
    """

    fixed: int
    per_image: int

    def peak(self, batch: int) -> int:
        """Bytes in training with ``batch`` images per forward pass, without the packed people."""
        return self.fixed + self.per_image * batch


def estimate_memory(
    network: nn.Module, losses: Losses, schedule: ScheduleConfig, input_size: int, joints: int, dtype: torch.dtype
) -> MemoryEstimate:
    """Predict the memory of training from a forward pass on the meta device.

    Counts what autograd saves for the backward pass, each storage once, and :data:`_TRANSIENT` times the largest.

    Args:
        network: to train; left unchanged.
        losses: weights of the loss terms.
        schedule: says which optimizer and which loss.
        input_size: H = W.
        joints: J.
        dtype: of activations in training, float32 or bfloat16.
    """
    copy = deepcopy(network).to("meta").train()
    own_storages = {p.untyped_storage()._cdata for p in (*copy.parameters(), *copy.buffers())}
    saved: dict[int, Tensor] = {}  # holds the tensors, so that no storage address is used twice

    def save(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own_storages:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    cells = (input_size // 4, input_size // 4)
    batch = 2  # batch norm needs at least two values
    images = torch.empty((batch, 3, input_size, input_size), device="meta")
    target = torch.empty((batch, joints, *cells), device="meta")
    labelled = torch.empty((batch, joints), dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = total_loss(copy(images), target, labelled, losses, schedule.loss)
    del loss
    sizes = [tensor.untyped_storage().nbytes() for tensor in saved.values()]
    activations = (sum(sizes) + _TRANSIENT * max(sizes)) * dtype.itemsize // torch.float32.itemsize
    inputs = images.nbytes + target.nbytes

    weights = sum(p.nbytes for p in copy.parameters())
    buffers = sum(b.nbytes for b in copy.buffers())
    moments = 2 if schedule.optimizer == "adamw" else 1
    fixed = (3 + moments) * weights + 2 * buffers  # weights, gradients, average, moments
    return MemoryEstimate(fixed, (activations + inputs) // batch)


def process_memory(training_bytes: int, device: torch.device) -> int:
    """Bytes of a device's memory that a training process takes.

    Args:
        training_bytes: from :meth:`MemoryEstimate.peak`; 0 for a process that allocates no tensors.
        device: to train on.
    """
    return int(training_bytes * (_HEAP_OVERHEAD if device.type == "cpu" else 1) + _PROCESS_BYTES[device.type])
