"""A benchmark of several networks at several sizes and batches on one device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

from nas.architecture.spec import Architecture
from nas.benchmark.concurrency import COUNTS, ConcurrencyMeasurement, measure_concurrency
from nas.benchmark.dataloader_baseline import write_images
from nas.benchmark.measure import Case, measure
from nas.benchmark.roofline import Rates, measure_rates
from nas.benchmark.targets import Target, targets
from nas.benchmark.task import Task
from nas.data.packed.options import PackOptions
from nas.data.packed.synthetic import pack_synthetic
from nas.data.synthetic.scene import SceneConfig
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

PEOPLE, IMAGES = 256, 64
"""Numbers of packed people, and of JPEG files for the DataLoader baseline."""
FULL_WIDTH = 256
"""Images of this side have the papers' widths; smaller ones have narrower networks, as in the quickstart."""


@dataclass(frozen=True)
class SuiteSettings:
    """What is measured, and how.

    Attributes:
        networks: by name, at the papers' widths.
        sizes: H = W of the images.
        batches: images per step.
        seconds: for each workload.
        rounds: in which the workloads alternate.
        device: "cpu" or "cuda".
        threads: CPU threads of each process.
        cores: of this machine to use.
        concurrency: measure only how many workers a device serves best.
    """

    networks: Mapping[str, tuple[Architecture, Losses]]
    sizes: Sequence[int]
    batches: Sequence[int]
    seconds: float
    rounds: int
    device: str
    threads: int
    cores: int
    concurrency: bool = False

    @property
    def cases(self) -> int:
        """How many there are to measure."""
        return len(self.networks) * len(self.sizes) * len(self.batches)

    @property
    def device_name(self) -> str:
        """The name of the GPU, or "cpu"."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "cpu"


@dataclass(frozen=True)
class ConcurrencyCase:
    """How well workers share the device when they train one network.

    Attributes:
        network: its name.
        input_size: H = W.
        batch: images per step.
        tried: one measurement for each number of workers.
    """

    network: str
    input_size: int
    batch: int
    tried: list[ConcurrencyMeasurement]


@dataclass
class SuiteResults:
    """What has been measured so far.

    Attributes:
        settings: of the suite.
        rates: of the device.
        cases: networks that were measured.
        targets: of those cases.
        concurrency: where that was measured instead.
    """

    settings: SuiteSettings
    rates: Rates
    cases: list[Case] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    concurrency: list[ConcurrencyCase] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of cases that have been measured."""
        return len(self.cases) + len(self.concurrency)

    def to_dict(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Plain values for JSON; ``record`` describes the machine and the code."""
        settings = self.settings
        return {
            "date": date.today().isoformat(),
            "record": dict(record),
            "device": settings.device_name,
            "threads": settings.threads,
            "cores": settings.cores,
            "seconds": settings.seconds,
            "rounds": settings.rounds,
            "rates": asdict(self.rates),
            "cases": [case.to_dict() for case in self.cases],
            "goals": [asdict(target) for target in self.targets],
            "sharing": [asdict(case) for case in self.concurrency],
        }


def run_suite(
    settings: SuiteSettings, after_case: Callable[[SuiteResults], None] = lambda results: None
) -> SuiteResults:
    """Measure every network at every size and batch.

    Args:
        settings: of the suite.
        after_case: called with the results so far after each case; a large network takes minutes.
    """
    results = SuiteResults(settings, measure_rates(torch.device(settings.device)))
    counts = [number for number in COUNTS if settings.device != "cpu" or number <= settings.cores]
    seconds, rounds, cores = settings.seconds, settings.rounds, settings.cores
    with tempfile.TemporaryDirectory(prefix="nas-bench-") as folder:
        for name, scale, task in _tasks(Path(folder), settings):
            images = _trial_images(task.input_size)
            if settings.concurrency:
                tried = measure_concurrency(task, images, counts=counts, seconds=seconds, rounds=rounds)
                results.concurrency.append(ConcurrencyCase(name, task.input_size, task.schedule.batch, tried))
            else:
                rates = results.rates
                case = measure(name, task, scale, rates, images, seconds=seconds, rounds=rounds, cores=cores)
                results.cases.append(case)
                results.targets += targets(case, settings.device_name, cores)
            after_case(results)
    return results


def _tasks(folder: Path, settings: SuiteSettings) -> Iterator[tuple[str, float, Task]]:
    """Every network at every size and batch, with rendered people: name, width scale, task."""
    images = folder / "pictures"
    images.mkdir()
    write_images(images, IMAGES)
    for side in settings.sizes:
        packed, scale = folder / f"{side}.h5", side / FULL_WIDTH
        pack_synthetic(packed, {"train": PEOPLE}, 0, SceneConfig(), PackOptions(side, settings.cores))
        for name, (architecture, losses) in settings.networks.items():
            for batch in settings.batches:
                schedule = _schedule(side, batch)
                yield (
                    name,
                    scale,
                    Task(architecture.scaled(scale), losses, schedule, packed, images, side, settings.device),
                )


def _schedule(side: int, batch: int) -> ScheduleConfig:
    """The schedule of studies/quickstart.toml, and above its size that of studies/mpii.toml; of any length."""
    rate, sigma = (6e-3, 0.6) if side <= 64 else (2e-3, 1.5)
    return ScheduleConfig(batch, 1, batch, learning_rate=rate, loss="cross_entropy", sigma=sigma)


def _trial_images(side: int) -> int:
    """Images of a short trial, as in the same studies."""
    return 4_000 if side <= 64 else 44_000
