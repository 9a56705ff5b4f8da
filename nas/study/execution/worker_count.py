"""Measures how many workers a study should run on one device."""

from __future__ import annotations

from nas.benchmark.concurrency import COUNTS, ConcurrencyMeasurement, best_workers, measure_concurrency
from nas.benchmark.task import Task
from nas.console import default_workers
from nas.study.experiment import Experiment
from nas.study.people_file import people_file


def measure_worker_count(
    experiment: Experiment, device: str, *, seconds: float = 5.0, rounds: int = 3
) -> ConcurrencyMeasurement | None:
    """Train one network in 1, 2, 4, … processes on one device, and return the count that trains most trials per hour.

    The network is the one with median MAdds of a sample of the space. Each count takes about half a minute. On a CPU,
    counts above the number of cores are left out.

    Args:
        experiment: the study.
        device: "cpu", or a CUDA device that no other process uses.
        seconds: of training for each count and round.
        rounds: of which the median is taken.

    Returns:
        the measurement of the best count; None if the device has too little memory for a single worker.
    """
    config = experiment.config
    candidates = experiment.sample()
    candidate = candidates[len(candidates) // 2]
    schedule = config.short_schedule()
    task = Task(
        candidate.architecture,
        candidate.losses,
        schedule,
        people_file(config, experiment.folder),
        None,
        config.data.input_size,
        device,
    )
    counts = [count for count in COUNTS if device != "cpu" or count <= default_workers()]
    measurements = measure_concurrency(task, schedule.images, counts=counts, seconds=seconds, rounds=rounds)
    return best_workers(measurements) if measurements else None
