"""The processes that train one network together, if there are several (``torch.distributed``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from nas.errors import UserError


@dataclass(frozen=True)
class DistributedContext:
    """This process's position among the processes that train together; the default is a process on its own.

    Attributes:
        rank: from 0; rank 0 writes files and decides.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> DistributedContext:
        """The context of the default process group, or of a single process where none is initialized."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_distributed(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1

    def divide(self, batch: int) -> int:
        """This process's part of a batch.

        Raises:
            UserError: the batch cannot be divided equally.
        """
        if batch % self.world_size:
            raise UserError(
                f"batch {batch} cannot be divided among {self.world_size} processes; "
                f"choose a multiple of {self.world_size}"
            )
        return batch // self.world_size

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.is_distributed:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes; the tensor itself may be overwritten."""
        if self.is_distributed:
            dist.all_reduce(value)
            value = value / self.world_size
        return value

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace floating-point tensors by their means over all processes, in place."""
        if self.is_distributed:
            for tensor in tensors:
                if tensor.is_floating_point():
                    tensor.copy_(self.mean(tensor.clone()))

    def from_rank_0(self, text: str | None) -> str | None:
        """Rank 0's text, in all processes."""
        texts = [text]
        if self.is_distributed:
            dist.broadcast_object_list(texts)
        return texts[0]
