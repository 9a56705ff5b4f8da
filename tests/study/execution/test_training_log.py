"""The log of a full training, in a folder of any name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nas.study.execution.training_log import TrainingLog
from nas.training.schedule import ScheduleConfig


@pytest.mark.parametrize("name", [b"plain", b"caf\xe9", b"100%d"])
def test_events_are_written_into_a_folder_of_any_name(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    log = TrainingLog(folder, ScheduleConfig(16, epochs=1))
    log.rewrite([{"epoch": 1, "seconds": 1.0}])
    log.board.add_scalar("pckh", 50.0, 16)
    log.close()
    events, metrics = sorted(path.name for path in folder.iterdir())
    assert events.startswith("events.out.tfevents.")
    assert metrics == "metrics.jsonl"
    assert (folder / events).stat().st_size > 100
