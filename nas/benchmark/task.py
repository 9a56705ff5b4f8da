"""What the benchmark trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture
from nas.data.packed.reader import PackedPeople
from nas.training.devices import training_dtype
from nas.training.losses import Losses
from nas.training.memory_estimate import estimate_memory, process_memory
from nas.training.schedule import ScheduleConfig

STEPS_PER_EPOCH = 250
"""As in a short trial."""

ENDLESS = 1_000_000
"""Epochs of a schedule that does not end before a workload is closed."""


@dataclass(frozen=True, eq=False)
class Task:
    """A network and the people to train it on. Picklable; people are loaded in the process that uses them.

    Attributes:
        architecture: of the network.
        losses: weights of the loss terms, canonical for it.
        schedule: optimizer, loss, sigma, batch and so on; its length does not matter.
        packed: packed people, of which the split "train" is used.
        images: folder of the same kind of people as JPEG files, for the DataLoader baseline.
        input_size: H = W.
        device: "cpu" or "cuda".
    """

    architecture: Architecture
    losses: Losses
    schedule: ScheduleConfig
    packed: Path
    images: Path | None
    input_size: int
    device: str

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # without the cached people

    @cached_property
    def people(self) -> PackedPeople:
        """The people, on the device; loaded once per process."""
        return PackedPeople.load(self.packed, "train", self.device)

    def network(self) -> HourglassNetwork:
        """A new network, on the CPU."""
        size = (self.input_size, self.input_size)
        return build_network(self.architecture, len(self.people.skeleton.joints), size, seed=0)

    @cached_property
    def process_bytes(self) -> int:
        """Predicted memory of a process that trains the network, in bytes on the device, without the people."""
        device, joints = torch.device(self.device), len(self.people.skeleton.joints)
        dtype = training_dtype(device)
        estimate = estimate_memory(self.network(), self.losses, self.schedule, self.input_size, joints, dtype)
        return process_memory(estimate.peak(self.schedule.batch), device)

    def endless_schedule(self) -> ScheduleConfig:
        """The schedule, with more epochs than anybody waits for."""
        images = STEPS_PER_EPOCH * ENDLESS * self.schedule.batch
        return replace(self.schedule, images=images, epochs=ENDLESS)
