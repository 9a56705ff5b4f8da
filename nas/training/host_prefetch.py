"""People whose crops exceed the device's memory: the crops stay on the host and are copied batch by batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nas.data.packed.reader import PackedPeople
from nas.training.devices import free_memory

_FRAGMENTATION = 0.05
"""Fraction of a device's free memory that allocators lose between blocks."""


def place_people(people: PackedPeople, device: torch.device, reserve: int) -> PackedPeople:
    """Move people to a device, but leave their crops on the host if the device's memory is too small.

    Args:
        people: on the host.
        device: to train on.
        reserve: bytes to leave free for training, see :class:`nas.training.memory_estimate.MemoryEstimate`.
    """
    if people.crops.nbytes + reserve > (1 - _FRAGMENTATION) * free_memory(device):
        return people.to(device, crops="cpu")
    return people.to(device)


def crops_on_host(people: PackedPeople) -> bool:
    """Whether the crops are on another device than everything else."""
    return people.crops.device != people.joints.device


class HostPrefetcher:
    """Copies batches of crops from the host to the device, each one while the previous batch is being trained on.

    Two pinned host buffers alternate; a side stream copies them into a device buffer, from where :meth:`load` copies
    them into the batch. On a CPU the same code runs without streams.

    Attributes:
        batch: the people loaded last, at fixed addresses, all on the device.

    Args:
        people: crops on the host, everything else on the device.
        batch_size: people per batch.
    """

    def __init__(self, people: PackedPeople, batch_size: int) -> None:
        device = people.joints.device
        self._people, self._device = people, device
        self._on_cuda = device.type == "cuda"

        def empty_crops(**options: object) -> Tensor:
            side = people.crops.shape[-1]
            return torch.empty((batch_size, side, side, 3), dtype=torch.uint8, **options)  # type: ignore[call-overload,no-any-return]

        indices = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.batch = replace(
            people,
            crops=empty_crops(device=device).permute(0, 3, 1, 2),
            joints=people.joints[indices],
            labelled=people.labelled[indices],
        )
        self._host_buffers = [empty_crops(pin_memory=self._on_cuda) for _ in range(2)]
        self._device_buffer = empty_crops(device=device)
        self._stream = torch.cuda.Stream(device) if self._on_cuda else None
        self._host_copied: list[torch.cuda.Event | None] = [None, None]  # host buffer → device buffer
        self._device_copied: torch.cuda.Event | None = None  # device buffer → batch
        self._fetched: Tensor | None = None  # indices of the people in the device buffer

    def load(self, indices: Tensor) -> None:
        """Load people into the batch; without waiting if they have been fetched.

        Args:
            indices: (batch_size,) on the host.
        """
        if self._fetched is None or not torch.equal(self._fetched, indices):
            self.fetch(indices)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self.batch.crops.permute(0, 2, 3, 1).copy_(self._device_buffer)
        if self._stream is not None:
            self._device_copied = torch.cuda.current_stream(self._device).record_event()
        on_device = indices.to(self._device, non_blocking=True)
        self.batch.joints.copy_(self._people.joints[on_device])
        self.batch.labelled.copy_(self._people.labelled[on_device])
        self._fetched = None

    def fetch(self, indices: Tensor) -> None:
        """Start to copy the people of the next :meth:`load` to the device.

        Args:
            indices: (batch_size,) on the host.
        """
        self._host_buffers.reverse()
        self._host_copied.reverse()
        buffer, copied = self._host_buffers[0], self._host_copied[0]
        if copied is not None:
            copied.synchronize()  # of the batch before the previous one: rarely waits
        torch.index_select(self._people.crops.permute(0, 2, 3, 1), 0, indices, out=buffer)
        if self._stream is None:
            self._device_buffer.copy_(buffer)
        else:
            if self._device_copied is not None:
                # Not for the main stream, which has a whole step queued by now.
                self._stream.wait_event(self._device_copied)
            with torch.cuda.stream(self._stream):
                self._device_buffer.copy_(buffer, non_blocking=True)
                self._host_copied[0] = self._stream.record_event()
        self._fetched = indices
