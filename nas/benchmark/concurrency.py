"""Finds the number of workers that one device serves best, by running them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from nas.benchmark.interleaved import Turn, take_turns
from nas.benchmark.measure import startup_steps
from nas.benchmark.subprocess_workload import ConcurrentWorkloads
from nas.benchmark.task import Task
from nas.benchmark.workloads import TrainingLoop, TrialStartup
from nas.training.devices import free_memory, out_of_memory

COUNTS = (1, 2, 4, 8)
"""Numbers of workers to try on one device."""

_MIN_GAIN = 1.05
"""More workers are worth their memory only if they run this many times as many trials."""


@dataclass(frozen=True)
class ConcurrencyMeasurement:
    """The throughput of a number of workers.

    Attributes:
        workers: that run at the same time on one device.
        images_per_second: of all of them, in training.
        beginning: seconds of a trial's start-up while all of them start one.
        trials_per_hour: of all of them.
    """

    workers: int
    images_per_second: float
    beginning: float
    trials_per_hour: float


def trials_per_hour(workers: int, images_per_second: float, startup_seconds: float, trial_images: int) -> float:
    """Throughput of workers whose trials first start up and then train at their share of the rate.

    Args:
        workers: that run at the same time.
        images_per_second: of all of them.
        startup_seconds: of each trial.
        trial_images: of each trial.
    """
    return 3600 * workers / (startup_seconds + trial_images * workers / images_per_second)


def measure_concurrency(
    task: Task, trial_images: int, *, counts: Sequence[int] = COUNTS, seconds: float = 5.0, rounds: int = 3
) -> list[ConcurrencyMeasurement]:
    """Train the same network in several processes on one device; with one thread each on a CPU.

    Args:
        task: what every worker trains.
        trial_images: images of a trial.
        counts: numbers of workers, ascending; the first one that does not fit in the device's memory is the last tried.
        seconds: of training for each count, over all rounds.
        rounds: of which the median counts.
    """
    device = torch.device(task.device)
    worker_bytes = task.process_bytes + task.people.crops.nbytes
    measurements: list[ConcurrencyMeasurement] = []
    for count in counts:
        if count * worker_bytes > free_memory(device):
            break
        try:
            startup, rate = _measure_count(task, count, seconds, rounds)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            break
        throughput = trials_per_hour(count, rate, startup, trial_images)
        measurements.append(ConcurrencyMeasurement(count, rate, startup, throughput))
    return measurements


def _measure_count(task: Task, count: int, seconds: float, rounds: int) -> tuple[float, float]:
    """Seconds of a trial's start-up, and images per second of all workers."""
    warm = count * startup_steps(task.device)
    startup = ConcurrentWorkloads(partial(TrialStartup, task), count)
    try:
        startup.wait_until_ready()
        startup.run(warm)  # the first trial of a process takes longer
        startup_seconds = median(startup.run(warm) for _ in range(rounds))
    finally:
        startup.close()
    training = ConcurrentWorkloads(partial(TrainingLoop, task), count)
    try:
        training.wait_until_ready()
        rates = take_turns({"all": Turn(training, task.schedule.batch, warm, count)}, seconds, rounds)["all"]
    finally:
        training.close()
    return startup_seconds, median(rates)


def best_workers(measurements: Sequence[ConcurrencyMeasurement]) -> ConcurrencyMeasurement:
    """The smallest number of workers whose throughput is near the best."""
    best = max(one.trials_per_hour for one in measurements)
    return next(one for one in measurements if one.trials_per_hour * _MIN_GAIN >= best)
