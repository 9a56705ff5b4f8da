"""One training step: from the indices of a batch to the averaged weights.

The step works on tensors at fixed addresses and never waits for the device, so that on CUDA it becomes one graph
(:mod:`nas.training.cuda_graph`). On a CPU, and with several processes, the same code runs eagerly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.architecture.hourglass import STRIDE
from nas.data.augmentation import cut_batch, jitter_colours, random_maps
from nas.data.packed.reader import PackedPeople
from nas.training.cuda_graph import CudaGraph
from nas.training.devices import mixed_precision, out_of_memory, release_memory
from nas.training.distributed import DistributedContext
from nas.training.heatmaps import encode, inside
from nas.training.host_prefetch import HostPrefetcher, crops_on_host
from nas.training.losses import HeatmapLoss, Losses, total_loss
from nas.training.optimizer import set_learning_rate
from nas.training.schedule import ScheduleConfig
from nas.training.state import TrainingState

MIN_MICRO_BATCH = 4
"""Smallest micro-batch, in images: with fewer, batch norm statistics are noise."""


class TrainingStep:
    """A training step, to be called once for every batch.

    Where the device's memory is too small for a batch, gradients are accumulated over micro-batches: a half, a quarter
    and so on, down to :data:`MIN_MICRO_BATCH` images. The step is the same except for batch norm, whose statistics come
    from fewer images, and for unlabelled joints: the loss is the mean over the micro-batches.

    Attributes:
        generator: random generator of the augmentation, on the device; to be seeded by the caller.
        loss_sum: () sum of the losses of all steps since it was last zeroed, on the device.
        micro_batch: images per forward pass; less than this process's part of a batch where memory was too small.
        context: the processes that train together.

    Args:
        state: to train; its network on the device.
        losses: weights of the loss terms.
        schedule: the hyperparameters.
        people: to train on, fitted to the input size; their crops on the device or on the host.
        input_size: H = W.
        context: several processes train without a CUDA graph and cannot reduce their micro-batch.
    """

    def __init__(
        self,
        state: TrainingState,
        losses: Losses,
        schedule: ScheduleConfig,
        people: PackedPeople,
        input_size: int,
        context: DistributedContext = DistributedContext(),
    ) -> None:
        device = people.joints.device
        batch = context.divide(schedule.batch)
        self.generator = torch.Generator(device)
        self.loss_sum = torch.zeros((), device=device)
        self.micro_batch = batch
        self.context = context
        network = state.network
        self._network = nn.parallel.DistributedDataParallel(network) if context.is_distributed else network
        self._parameters = list(network.parameters())  # iterating over a network's modules takes a millisecond
        self._average, self._optimizer = state.average, state.optimizer
        self._losses, self._schedule, self._people, self._input_size = losses, schedule, people, input_size
        self._indices = torch.zeros(batch, dtype=torch.long, device=device)
        # With crops on the host, the prefetcher's batch takes the place of all people.
        self._prefetcher = HostPrefetcher(people, batch) if crops_on_host(people) else None
        if self._prefetcher is not None:
            self._people = self._prefetcher.batch
            self._indices.copy_(torch.arange(batch))
        self._graph = CudaGraph(self._run, device, (self.generator,), allowed=not context.is_distributed)

    def __call__(self, indices: Tensor, number: int, next_indices: Tensor | None = None) -> None:
        """Run one step.

        Args:
            indices: (B,) of the people, on the device of their crops.
            number: of the step in the schedule, from 0: determines learning rate and averaging.
            next_indices: (B,) of the next step, if known.
        """
        if self._prefetcher is None:
            self._indices.copy_(indices)
        else:
            self._prefetcher.load(indices)
        set_learning_rate(self._optimizer, self._schedule.learning_rate * self._schedule.lr_factor(number))
        self._average.set_decay(number)
        self._graph()
        if self._prefetcher is not None and next_indices is not None:
            self._prefetcher.fetch(next_indices)  # while the device is busy

    def _run(self) -> None:
        images, target, labelled = self._batch()
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                loss = accumulate_gradients(
                    self._network, images, target, labelled, self._losses, self._schedule.loss, self.micro_batch
                )
                break
            except (RuntimeError, MemoryError) as error:
                if not (out_of_memory(error) and self._can_halve()):
                    raise
            release_memory()
            self.micro_batch //= 2
        if self._schedule.clip:
            nn.utils.clip_grad_norm_(self._parameters, self._schedule.clip, foreach=True)
        self._optimizer.step()
        self._average.update()
        self.loss_sum += loss

    def _can_halve(self) -> bool:
        """Whether the step may be repeated with half the micro-batch."""
        # Other processes would wait for one that repeats its step. A step that fails while it is recorded as a graph is
        # first repeated without one.
        recording = self.loss_sum.is_cuda and torch.cuda.is_current_stream_capturing()
        return not (self.context.is_distributed or recording) and self.micro_batch // 2 >= MIN_MICRO_BATCH

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images (B, 3, H, W), target heatmaps (B, J, H/4, W/4), and which joints count (B, J)."""
        people, size, augmentation = self._people, self._input_size, self._schedule.augmentation
        to_crop, mirrored = random_maps(people, len(self._indices), size, augmentation, self.generator)
        batch = cut_batch(people, self._indices, size, to_crop, mirrored)
        images = jitter_colours(batch.images, augmentation.colour, self.generator)
        cells, map_size = batch.joints / STRIDE, (size // STRIDE, size // STRIDE)  # (B, J, 2)
        target = encode(cells, map_size, self._schedule.sigma)
        return images, target, batch.labelled & inside(cells, map_size)


def accumulate_gradients(
    network: nn.Module,
    images: Tensor,
    target: Tensor,
    labelled: Tensor,
    losses: Losses,
    kind: HeatmapLoss,
    micro_batch: int,
) -> Tensor:
    """Add the gradients of a batch to the network's, one micro-batch after another.

    Args:
        network: to differentiate.
        images: (B, 3, H, W).
        target: (B, J, H/4, W/4).
        labelled: (B, J) bool.
        losses: weights of the loss terms.
        kind: of heatmap loss.
        micro_batch: images per forward pass.

    Returns:
        () the batch's loss, detached.
    """
    batch_loss = torch.zeros((), device=images.device)
    for start in range(0, len(images), micro_batch):
        part = slice(start, start + micro_batch)
        with mixed_precision(images.device):
            output = network(images[part])
        loss = total_loss(output, target[part], labelled[part], losses, kind) * (len(images[part]) / len(images))
        loss.backward()
        batch_loss += loss.detach()
    return batch_loss
