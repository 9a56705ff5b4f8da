"""How many workers a study should run on one device, found by running them."""

from __future__ import annotations

from nas.benchmark.concurrency import COUNTS, ConcurrencyMeasurement, measure_concurrency
from nas.benchmark.concurrency import best_workers as best_of
from nas.benchmark.task import Task
from nas.console import default_workers
from nas.study.experiment import Experiment, people_file


def measure_worker_count(
    experiment: Experiment, device: str, *, seconds: float = 5.0, rounds: int = 3
) -> ConcurrencyMeasurement | None:
    """Train a network of the space with median MAdds side by side on one device, and see what gets most trials done.

    It takes about half a minute for each count that is tried. On a CPU no more workers are tried than there are cores.

    Args:
        experiment: says network, people and schedule.
        device: "cpu", or a CUDA device, which nobody else uses meanwhile.
        seconds: of training for each count.
        rounds: whose median counts.

    Returns:
        The best one, or None if the device has too little memory for a single worker.
    """
    config = experiment.config
    sample = experiment.sample()
    candidate = sample[len(sample) // 2]
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
    found = measure_concurrency(task, schedule.images, counts=counts, seconds=seconds, rounds=rounds)
    return best_of(found) if found else None
