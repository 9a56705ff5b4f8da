"""The log of a full training: a JSON line for each epoch, and TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nas.names import plain_name
from nas.training.checkpoint import write_atomically
from nas.training.loop import Epoch
from nas.training.schedule import ScheduleConfig


class TrainingLog:
    """``metrics.jsonl`` and TensorBoard events of a training.

    Args:
        folder: to write to.
        schedule: of the training.
    """

    def __init__(self, folder: Path, schedule: ScheduleConfig) -> None:
        self.path, self.schedule = folder / "metrics.jsonl", schedule
        self._names = ExitStack()
        self.board = SummaryWriter(self._names.enter_context(plain_name(folder)))

    def append(self, epoch: Epoch) -> None:
        """Write an epoch, in place of what a killed process wrote beyond its last checkpoint."""
        record = self._record(epoch.to_dict())
        earlier = self.path.read_text().splitlines() if self.path.is_file() else []
        lines = [line for line in earlier if line and json.loads(line)["epoch"] < epoch.number]
        write_atomically(self.path, ("\n".join([*lines, json.dumps(record)]) + "\n").encode())
        for name in ("loss", "learning_rate", "pckh"):
            if name in record:
                self.board.add_scalar(name, record[name], record["images"])
        for group, value in record.get("groups", {}).items():
            self.board.add_scalar(f"pckh/{group}", value, record["images"])
        self.board.flush()

    def rewrite(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write all epochs: a process killed between a checkpoint and its line leaves that line out."""
        lines = "".join(json.dumps(self._record(epoch)) + "\n" for epoch in history)
        write_atomically(self.path, lines.encode())

    def close(self) -> None:
        """Close the TensorBoard file."""
        self.board.close()
        self._names.close()

    def _record(self, epoch: Mapping[str, Any]) -> dict[str, Any]:
        steps = epoch["epoch"] * self.schedule.steps_per_epoch
        learning_rate = self.schedule.learning_rate * self.schedule.lr_factor(steps - 1)
        return {**epoch, "learning_rate": learning_rate, "seconds": round(epoch["seconds"], 2)}
