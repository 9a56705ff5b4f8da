"""How many workers one device serves best, by trying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from nas.benchmark.measure import Turn, beginning_steps, take_turns
from nas.benchmark.workloads import ConcurrentWorkloads, FullTraining, Task, TrialStartup
from nas.training.devices import free_memory, out_of_memory

COUNTS = (1, 2, 4, 8)
"""Workers that are tried together on one device."""

_WORTH = 1.05
"""More workers are only worth their memory if they do this much more."""


@dataclass(frozen=True)
class ConcurrencyMeasurement:
    """Attributes:
    workers: side by side on one device.
    images_per_second: of all of them together, training.
    beginning: seconds that a trial takes to begin, all of them beginning at once.
    trials_per_hour: of all of them together.
    """

    workers: int
    images_per_second: float
    beginning: float
    trials_per_hour: float


def trials_per_hour(workers: int, images_per_second: float, beginning: float, trial_images: int) -> float:
    """What so many workers get done, each spending ``beginning`` seconds and then training its share.

    Args:
        workers: side by side.
        images_per_second: of all of them together.
        beginning: seconds of each trial before it trains.
        trial_images: of a trial.
    """
    return 3600 * workers / (beginning + trial_images * workers / images_per_second)


def measure_concurrency(
    task: Task, trial_images: int, *, counts: Sequence[int] = COUNTS, seconds: float = 5.0, rounds: int = 3
) -> list[ConcurrencyMeasurement]:
    """Train the same network in several processes side by side on one device; one thread each on a CPU.

    Args:
        task: what every worker trains.
        trial_images: of a trial.
        counts: of workers, ascending; one that does not fit into the device's memory ends the trying.
        seconds: of training for each count, over all rounds.
        rounds: whose median counts.
    """
    device = torch.device(task.device)
    each = task.memory + task.people.crops.nbytes
    found: list[ConcurrencyMeasurement] = []
    for count in counts:
        if count * each > free_memory(device):
            break
        try:
            beginning, pace = _tried(task, count, seconds, rounds)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            break
        found.append(
            ConcurrencyMeasurement(count, pace, beginning, trials_per_hour(count, pace, beginning, trial_images))
        )
    return found


def _tried(task: Task, count: int, seconds: float, rounds: int) -> tuple[float, float]:
    """Seconds that a trial takes to begin, and pictures a second, of so many workers together."""
    warm = count * beginning_steps(task.device)
    begin = ConcurrentWorkloads(partial(TrialStartup, task), count)
    try:
        begin.settle()
        begin.seconds(warm)  # the first trial of a process takes longer
        beginning = median(begin.seconds(warm) for _ in range(rounds))
    finally:
        begin.close()
    training = ConcurrentWorkloads(partial(FullTraining, task), count)
    try:
        training.settle()
        rates = take_turns({"all": Turn(training, task.schedule.batch, warm, count)}, seconds, rounds)["all"]
    finally:
        training.close()
    return beginning, median(rates)


def best_workers(found: Sequence[ConcurrencyMeasurement]) -> ConcurrencyMeasurement:
    """The fewest workers that come near the most trials an hour."""
    most = max(each.trials_per_hour for each in found)
    return next(each for each in found if each.trials_per_hour * _WORTH >= most)
