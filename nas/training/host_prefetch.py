"""People whose crops are too many for the device: they stay in the host's memory, and a batch of them comes over."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nas.data.packed.format import PackedPeople
from nas.training.devices import free_memory

_KEPT_FREE = 0.05
"""Of a device's free memory: what allocators lose between blocks."""


def place_people(people: PackedPeople, device: torch.device, reserve: int) -> PackedPeople:
    """People on a device; their crops stay on the host if the device would not have enough memory left.

    Args:
        people: on the host.
        device: to train on.
        reserve: bytes to leave free for the network, see :class:`nas.training.memory_estimate.Footprint`.
    """
    if people.crops.nbytes + reserve > (1 - _KEPT_FREE) * free_memory(device):
        return people.to(device, crops="cpu")
    return people.to(device)


def kept_on_host(people: PackedPeople) -> bool:
    """Whether the crops are elsewhere than the rest."""
    return people.crops.device != people.joints.device


class HostPrefetcher:
    """A batch of people on the device, whose crops come from the host while the one before is being trained on.

    On a CPU there is no other memory to copy to: the same code runs without streams.

    Attributes:
        batch: the people asked for last, at fixed addresses, all on the device.

    Args:
        people: crops on the host, all else on the device.
        size: people of a batch.
    """

    def __init__(self, people: PackedPeople, size: int) -> None:
        device = people.joints.device
        self._people, self._device = people, device
        self._on_cuda = device.type == "cuda"

        def crops(**where: object) -> Tensor:
            side = people.crops.shape[-1]
            return torch.empty((size, side, side, 3), dtype=torch.uint8, **where)  # type: ignore[call-overload,no-any-return]

        chosen = torch.zeros(size, dtype=torch.long, device=device)
        self.batch = replace(
            people,
            crops=crops(device=device).permute(0, 3, 1, 2),
            joints=people.joints[chosen],
            labelled=people.labelled[chosen],
        )
        self._hosts = [crops(pin_memory=self._on_cuda) for _ in range(2)]
        self._next = crops(device=device)
        self._stream = torch.cuda.Stream(device) if self._on_cuda else None
        self._copied: list[torch.cuda.Event | None] = [None, None]  # out of each host buffer
        self._taken: torch.cuda.Event | None = None  # over from `_next` into the batch
        self._ahead: Tensor | None = None  # who is in, or on the way to, `_next`

    def load(self, chosen: Tensor) -> None:
        """Put the chosen people, (size,) on the host, into the batch; without waiting if they were fetched before."""
        if self._ahead is None or not torch.equal(self._ahead, chosen):
            self.fetch(chosen)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self.batch.crops.permute(0, 2, 3, 1).copy_(self._next)
        if self._stream is not None:
            self._taken = torch.cuda.current_stream(self._device).record_event()
        there = chosen.to(self._device, non_blocking=True)
        self.batch.joints.copy_(self._people.joints[there])
        self.batch.labelled.copy_(self._people.labelled[there])
        self._ahead = None

    def fetch(self, chosen: Tensor) -> None:
        """Begin to bring the people who are asked for next, (size,) on the host."""
        self._hosts.reverse()
        self._copied.reverse()
        host, copied = self._hosts[0], self._copied[0]
        if copied is not None:
            copied.synchronize()  # of the batch before the last: long done, unless the host is far ahead
        torch.index_select(self._people.crops.permute(0, 2, 3, 1), 0, chosen, out=host)
        if self._stream is None:
            self._next.copy_(host)
        else:
            if self._taken is not None:
                self._stream.wait_event(self._taken)  # not the main stream, which has a whole step to do by now
            with torch.cuda.stream(self._stream):
                self._next.copy_(host, non_blocking=True)
                self._copied[0] = self._stream.record_event()
        self._ahead = chosen
