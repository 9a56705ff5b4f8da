"""Measures how fast one network trains on this machine: ways of training alternate, next to the device's roofline."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from nas.architecture.cost import network_cost
from nas.benchmark.interleaved import Spread, Turn, ratio, take_turns
from nas.benchmark.roofline import Rates, Roofline, convolution_bytes, roofline
from nas.benchmark.subprocess_workload import ConcurrentWorkloads, SubprocessWorkload
from nas.benchmark.task import Task
from nas.benchmark.workloads import (
    DataLoaderLoop,
    EvaluationWorkload,
    FixedBatchStep,
    TrainingLoop,
    TrialStartup,
    Workload,
)
from nas.training.devices import free_memory, out_of_memory, release_memory, training_dtype
from nas.training.memory_estimate import process_memory

EVALUATED = 3000
"""People whose evaluation is compared with a short trial."""

_LATER_TRIALS, _LATER_SECONDS = 3, 10.0  # trials started after the first one; none is started after these seconds
_SLOW_STEP = 1.0  # seconds by the roofline above which start-up ends at the first forward pass
_PREFETCHED = 2  # batches that each worker of a DataLoader prepares in advance


def plain_loop(threads: int) -> str:
    """The name of the DataLoader baseline with a number of PyTorch threads, as records store it."""
    return f"plain loop, {threads} thread{'s'[: threads > 1]}"


def ratios_of(timed: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """The ratios that have targets, round by round.

    Args:
        timed: images per second, see :attr:`Case.rates`.

    Returns:
        "full / bare"; "bare / plain step"; and "full / plain loop", where the plain loop is the fastest one measured,
        and full training runs on all cores if it was measured so.
    """
    full = timed.get("full on all cores", timed["full"])
    plain = max((values for name, values in timed.items() if name.startswith("plain loop")), key=statistics.median)
    return {
        "full / bare": ratio(timed["full"], timed["bare"]),
        "bare / plain step": ratio(timed["bare"], timed["plain step"]),
        "full / plain loop": ratio(full, plain),
    }


@dataclass(frozen=True)
class Case:
    """The measurements of one network, input size and batch.

    Attributes:
        name: of the network.
        input_size: H = W.
        width_scale: factor of its channel widths.
        batch: images per step.
        params: number of parameters.
        madds: multiply-adds of one image's forward pass.
        rates: images per second of each workload: "bare", "plain step", "full", "full on all cores", "plain loop, …
            threads" and "evaluation".
        ratios: "full / bare", "bare / plain step", "full / plain loop": round by round, the last on equal cores.
        floor: the roofline of a training step.
        first: seconds from the start of a process's first trial to its steady pace; where a step takes a second or more
            by the roofline, to its first forward pass.
        later: the same of later trials.
        trial_images: of a short trial at this size, with whose time the evaluation is compared.
        skipped: why nothing was measured, or None.
    """

    name: str
    input_size: int
    width_scale: float
    batch: int
    params: int
    madds: int
    rates: Mapping[str, Spread]
    ratios: Mapping[str, Spread]
    floor: Roofline | None
    first: float | None
    later: Spread | None
    trial_images: int
    skipped: str | None = None

    @property
    def floor_rate(self) -> float | None:
        """Images per second at the roofline."""
        return self.batch / self.floor.seconds if self.floor is not None else None

    @property
    def evaluation_seconds(self) -> float | None:
        """Seconds to evaluate 3,000 people."""
        return EVALUATED / self.rates["evaluation"].median if "evaluation" in self.rates else None

    @property
    def evaluation_share(self) -> float | None:
        """Time to evaluate 3,000 people, relative to the training time of a short trial."""
        if self.evaluation_seconds is None:
            return None
        return self.evaluation_seconds / (self.trial_images / self.rates["full"].median)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        derived = {
            "evaluation_seconds": self.evaluation_seconds,
            "evaluation_share": self.evaluation_share,
            "floor_rate": self.floor_rate,
        }
        return {**asdict(self), **derived}


def startup_steps(device: str) -> int:
    """Steps until a trial runs at its steady pace: on CUDA, until a graph has been recorded and replayed."""
    return 2 if device == "cpu" else 8


def measure(
    name: str,
    task: Task,
    width_scale: float,
    rates: Rates,
    trial_images: int,
    *,
    seconds: float,
    rounds: int,
    cores: int,
) -> Case:
    """Measure one network.

    These workloads alternate on the same device: the bare step; the bare step in plain PyTorch; full training; the
    DataLoader baseline with ``cores`` workers; evaluation. On a CPU, full training also runs in ``cores`` processes of
    one thread each, as a search uses the cores, or in one process of ``cores`` threads where memory is too small for
    that; and the DataLoader baseline runs with one thread and with ``cores``, of which the faster one counts.

    Args:
        name: of the network, for the record.
        task: what to train; its architecture already has its final widths.
        width_scale: for the record.
        rates: of the device.
        trial_images: images of a short trial.
        seconds: for each workload.
        rounds: in which the workloads alternate.
        cores: of this machine to use.
    """
    release_memory()
    device = torch.device(task.device)
    batch, size = task.schedule.batch, (task.input_size, task.input_size)
    cost = network_cost(task.architecture, len(task.people.skeleton.joints), size)
    case = partial(Case, name, task.input_size, width_scale, batch, cost.params, cost.madds, trial_images=trial_images)
    skipped = case(rates={}, ratios={}, floor=None, first=None, later=None)
    memory = _MemoryBudget.of(task, cores)
    if not memory.fits(1):
        return replace(
            skipped, skipped=f"needs about {memory.needed / 1e9:.1f} GB, {memory.free / 1e9:.1f} GB are free"
        )
    images = torch.empty((batch, 3, *size), device="meta")
    moved_bytes = convolution_bytes(task.network().to("meta"), images, training_dtype(device))
    step_roofline = roofline(cost.madds * batch, moved_bytes, rates)
    try:
        first, later = _measure_startup(task, slow=step_roofline.seconds > _SLOW_STEP)
        with ExitStack() as stack:
            timed = take_turns(_create_turns(task, cores, memory, stack), seconds, rounds)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return replace(skipped, skipped=f"out of memory: {str(error).strip().splitlines()[-1]}")
    return case(
        rates={workload: Spread.of(values) for workload, values in timed.items()},
        ratios=ratios_of(timed),
        floor=step_roofline,
        first=first,
        later=later,
    )


@dataclass(frozen=True)
class _MemoryBudget:
    """Attributes:
    needed: bytes of one training process.
    free: bytes for training.
    """

    needed: int
    free: int

    @classmethod
    def of(cls, task: Task, cores: int) -> _MemoryBudget:
        device = torch.device(task.device)
        free = free_memory(device)
        if device.type == "cpu":  # idle workloads and their DataLoaders' workers hold hardly any tensors
            free -= (1 + 2 * (1 + cores)) * process_memory(0, device)
        return cls(task.process_bytes, free)

    def fits(self, processes: int) -> bool:
        return processes * self.needed <= self.free


def _measure_startup(task: Task, slow: bool) -> tuple[float, Spread]:
    """Seconds until the first trial of a process runs at its steady pace, and the same of later trials.

    Args:
        task: what to train.
        slow: measure the time until the first forward pass instead, where steps take too long.
    """
    steps = 0 if slow else startup_steps(task.device)
    workload = SubprocessWorkload(partial(TrialStartup, task), torch.get_num_threads())
    try:
        workload.wait_until_ready()
        first = workload.run(steps)
        started, later = time.monotonic(), [workload.run(steps)]
        while len(later) < _LATER_TRIALS and time.monotonic() - started < _LATER_SECONDS:
            later.append(workload.run(steps))
        return first, Spread.of(later)
    finally:
        workload.close()


def _create_turns(task: Task, cores: int, memory: _MemoryBudget, stack: ExitStack) -> dict[str, Turn]:
    """Create all workloads of :func:`measure`; the stack closes them."""
    on_cpu, batch = task.device == "cpu", task.schedule.batch
    # The bare step and full training in this process, and each of the other processes, keep their memory.
    large = on_cpu and not memory.fits(3 + cores)
    concurrent = memory.fits(cores)
    subprocesses: dict[str, SubprocessWorkload | ConcurrentWorkloads] = {}
    if on_cpu:
        training = partial(TrainingLoop, task)
        subprocesses["full on all cores"] = (
            ConcurrentWorkloads(training, cores, trim=large)
            if concurrent
            else SubprocessWorkload(training, cores, trim=large)
        )
    for threads in sorted({1, cores}) if on_cpu else [cores]:
        loop = partial(DataLoaderLoop, task, cores)
        subprocesses[plain_loop(threads)] = SubprocessWorkload(loop, threads, retain_memory=False, trim=large)
    for process in subprocesses.values():
        stack.callback(process.close)
    for process in subprocesses.values():
        process.wait_until_ready()

    def here(create: Callable[[], Workload]) -> Workload:
        workload = create()
        stack.callback(workload.close)
        return workload

    warm = 1 if on_cpu else 5  # a CUDA graph is recorded in the fourth step
    turn = partial(Turn, images=batch, large=large)
    turns = {
        "bare": turn(here(lambda: FixedBatchStep(task, plain=False)), warm=warm),
        "plain step": turn(here(lambda: FixedBatchStep(task, plain=True)), warm=warm),
        "full": turn(here(lambda: TrainingLoop(task)), warm=warm),
    }
    for name, process in subprocesses.items():
        if name == "full on all cores":
            turns[name] = turn(process, warm=cores, multiple=cores if concurrent else 1)
        else:
            turns[name] = turn(process, warm=_PREFETCHED * cores, multiple=1 if large else cores)
    evaluated = min(len(task.people), 32) if on_cpu else len(task.people)
    turns["evaluation"] = turn(here(lambda: EvaluationWorkload(task, evaluated)), images=evaluated)
    return turns
