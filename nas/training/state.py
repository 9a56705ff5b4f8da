"""The state of a training run, and the checkpoint file that it is saved to and resumed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.training.checkpoint import AnyPath, load_checkpoint, save_checkpoint
from nas.training.distributed import DistributedContext
from nas.training.optimizer import optimizer_for, restore_optimizer
from nas.training.schedule import ScheduleConfig
from nas.training.weight_ema import WeightEMA


@dataclass(frozen=True)
class PartialEpoch:
    """Position in an epoch that was interrupted.

    Attributes:
        steps: of the epoch that are done.
        loss_sum: () sum of their losses.
        generator: state of the augmentation's random generator.
        seconds: that they took.
    """

    steps: int
    loss_sum: Tensor
    generator: Tensor
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, as checkpoints store them."""
        return {"step": self.steps, "summed": self.loss_sum, "generator": self.generator, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> PartialEpoch:
        """Inverse of :meth:`to_dict`."""
        return cls(stored["step"], stored["summed"], stored["generator"], stored["seconds"])


class TrainingState:
    """What training changes: the content of a checkpoint.

    Attributes:
        network: being trained.
        average: of its weights; what is evaluated.
        optimizer: of its weights.
        history: one record per completed epoch, from :meth:`nas.training.loop.Epoch.to_dict`.
        partial_epoch: the position in the epoch after those, if it was interrupted.

    Args:
        network: on the device to train on.
        schedule: says which optimizer and which average.
    """

    def __init__(self, network: nn.Module, schedule: ScheduleConfig) -> None:
        self.network = network
        self.average = WeightEMA(network, schedule.ema * schedule.steps)
        self.optimizer = optimizer_for(network, schedule)
        self.history: list[dict[str, Any]] = []
        self.partial_epoch: PartialEpoch | None = None
        self._steps_per_epoch = schedule.steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps done."""
        within = self.partial_epoch.steps if self.partial_epoch else 0
        return len(self.history) * self._steps_per_epoch + within

    @property
    def seconds(self) -> float:
        """Seconds of training in all completed epochs."""
        return float(self.history[-1]["seconds"]) if self.history else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, as checkpoints store them."""
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        if self.partial_epoch is not None:
            state["within"] = self.partial_epoch.to_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.history = state["history"]
        self.partial_epoch = PartialEpoch.from_dict(state["within"]) if state.get("within") else None


@dataclass(frozen=True)
class RunCheckpoint:
    """The checkpoint file of one training run. All processes read it; rank 0 writes it.

    Attributes:
        path: of the file; None to keep none.
        identity: of the run; a file with another identity is not resumed from but removed.
        context: the processes.
        on_failure: called with what is wrong when the file cannot be read or written; None to raise an error.
    """

    path: AnyPath | None
    identity: dict[str, Any]
    context: DistributedContext
    on_failure: Callable[[str], None] | None

    def restore(self, state: TrainingState, device: torch.device) -> None:
        """Resume from the file, if there is one of this run.

        Raises:
            UserError: it cannot be read, and there is no ``on_failure``.
        """
        if self.path is None:
            return
        exists = self.path.exists()
        stored = self._read(self.path, device) if exists else None
        if stored is not None:
            state.load_state_dict(stored)
        self.context.barrier()  # all have read the file before it is removed or replaced
        if exists and stored is None and self.context.rank == 0:
            self.path.unlink(missing_ok=True)

    def _read(self, path: AnyPath, device: torch.device) -> dict[str, Any] | None:
        try:
            stored = load_checkpoint(path, device)
        except UserError as error:
            if self.on_failure is None:
                raise
            self.on_failure(str(error))
            return None
        matches = all(stored.get(key) == value for key, value in self.identity.items())
        return stored if matches else None

    def save(self, state: TrainingState) -> None:
        """Replace the file by the current state.

        Raises:
            UserError: it cannot be written, and there is no ``on_failure``.
        """
        if self.path is None or self.context.rank:
            return
        try:
            save_checkpoint(self.path, {**self.identity, **state.state_dict()})
        except OSError as error:
            problem = f"{self.path}: cannot be written: {error.strerror or error}"
            if self.on_failure is None:
                remedy = "free some space and repeat the command, which resumes from the last checkpoint"
                raise UserError(f"{problem}; {remedy}") from error
            self.on_failure(problem)
