"""How many workers a study should run on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nas.benchmark.concurrency import ConcurrencyMeasurement
from nas.benchmark.workloads import Task
from nas.study.config import StudyConfig
from nas.study.execution.worker_count import measure_worker_count
from nas.study.experiment import prepare
from nas.study.space.candidate import Candidate


def test_the_median_network_of_the_study_is_measured(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = prepare(StudyConfig.read(write_study(("size = 32", "size = 64"))), tmp_path / "runs")
    calls: list[tuple[Task, int, Sequence[int]]] = []
    measurements = [ConcurrencyMeasurement(1, 100.0, 1.0, 50.0), ConcurrencyMeasurement(2, 180.0, 1.0, 90.0)]

    def measure(
        task: Task, images: int, *, counts: Sequence[int], seconds: float, rounds: int
    ) -> list[ConcurrencyMeasurement]:
        calls.append((task, images, counts))
        return measurements

    monkeypatch.setattr("nas.study.execution.worker_count.measure_concurrency", measure)
    monkeypatch.setattr("nas.study.execution.worker_count.default_workers", lambda: 2)
    assert measure_worker_count(experiment, "cpu") == measurements[1]
    ((task, images, counts),) = calls
    assert (images, task.schedule.batch, task.input_size) == (64, 8, 64)
    madds = [experiment.cost(candidate).madds for candidate in experiment.sample()]
    assert experiment.cost(Candidate(task.architecture, task.losses)).madds == sorted(madds)[len(madds) // 2]
    assert len(task.people) == 48
    assert list(counts) == [1, 2]
    measurements.clear()
    assert measure_worker_count(experiment, "cpu") is None
    monkeypatch.setattr("nas.study.execution.worker_count.default_workers", lambda: 1)
    measure_worker_count(experiment, "cuda")
    assert list(calls[-1][2]) == [1, 2, 4, 8]
