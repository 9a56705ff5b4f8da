"""How fast one network trains here: ways of training it take turns, beside the least time the device would need."""

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
from nas.benchmark.roofline import Rates, Roofline, convolution_bytes, roofline
from nas.benchmark.workloads import (
    ConcurrentWorkloads,
    DataLoaderLoop,
    EvaluationWorkload,
    FixedBatchStep,
    FullTraining,
    SubprocessWorkload,
    Task,
    TrialStartup,
    Workload,
)
from nas.training.devices import free_memory, out_of_memory, release_memory, training_dtype
from nas.training.memory_estimate import process_memory

EVALUATED = 3000
"""People whose evaluation is compared with a short trial."""

_LATER, _LONG = 3, 10.0  # trials begun after the first; no further one after so many seconds
_SLOW = 1.0  # seconds of a step, at best
_AHEAD = 2  # batches that each worker of a DataLoader makes in advance


@dataclass(frozen=True)
class Spread:
    """Attributes:
    median: of the rounds.
    low: a tenth of the rounds lie below it.
    high: a tenth lie above it.
    rounds: how many there were.
    """

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value a round."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), tenths[0], tenths[-1], len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Turn:
    """One who takes turns.

    Attributes:
        rival: does the work.
        images: pictures of one of its steps.
        warm: steps before it is timed.
        multiple: it does multiples of so many steps.
        large: it takes turns with the memory, too: each time it begins with the fewest steps, which are not timed, and
            what its process kept is given back.
    """

    rival: Workload
    images: int
    warm: int = 1
    multiple: int = 1
    large: bool = False


def take_turns(turns: Mapping[str, Turn], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Time rivals round by round, one after the other within each, so that what disturbs one round disturbs all.

    Args:
        turns: whoever takes part, in this order.
        seconds: for each of them, over all rounds; every round is one step at least.
        rounds: how many.

    Returns:
        Pictures a second of each, one value a round.
    """

    def in_a_round(turn: Turn, pace: float) -> int:
        return turn.multiple * max(1, round(seconds / rounds / pace / turn.multiple))

    steps = {}
    for name, turn in turns.items():
        if turn.large:
            continue
        pace = turn.rival.seconds(1)
        done, spent = 0, 0.0
        while done < turn.warm and spent < seconds:  # what is slow is warm sooner
            pace = turn.rival.seconds(1)
            done, spent = done + 1, spent + pace
        steps[name] = in_a_round(turn, pace)
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            if turn.large:
                steps[name] = in_a_round(turn, turn.rival.seconds(turn.multiple) / turn.multiple)
            rates[name].append(steps[name] * turn.images / turn.rival.seconds(steps[name]))
            if turn.large:
                release_memory()
    return rates


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of two rivals' rates, round by round."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def plain_loop(threads: int) -> str:
    """What the plain loop is called when PyTorch has so many threads."""
    return f"plain loop, {threads} thread{'s'[: threads > 1]}"


def ratios_of(timed: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """The ratios that goals are set for, round by round.

    Args:
        timed: pictures a second, see :attr:`Case.rates`.

    Returns:
        "full / bare"; "bare / plain step"; and "full / plain loop", where the plain loop is the fastest there is, and
        full training runs on all cores if it was measured so.
    """
    full = timed.get("full on all cores", timed["full"])
    plain = max((values for way, values in timed.items() if way.startswith("plain loop")), key=statistics.median)
    return {
        "full / bare": ratio(timed["full"], timed["bare"]),
        "bare / plain step": ratio(timed["bare"], timed["plain step"]),
        "full / plain loop": ratio(full, plain),
    }


@dataclass(frozen=True)
class Case:
    """One network, size and batch, measured.

    Attributes:
        name: of the network.
        input_size: H = W.
        width_scale: that its channels were multiplied by.
        batch: pictures a step.
        params: of the network.
        madds: of one picture's forward pass.
        rates: pictures a second by way of training: "bare", "plain step", "full", "full on all cores", and "plain loop,
            … threads"; and of "evaluation".
        ratios: "full / bare", "bare / plain step", "full / plain loop": round by round, the last on equal cores.
        floor: the least time of a step.
        first: seconds that the first trial of a process needs until it runs; where a step takes a second at best or
            more, until its first forward pass.
        later: seconds that later ones need.
        trial_images: of a short trial at this size, whose time the evaluation is compared with.
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
        """Pictures a second at the floor."""
        return self.batch / self.floor.seconds if self.floor is not None else None

    @property
    def evaluation_seconds(self) -> float | None:
        """Seconds for 3,000 people."""
        return EVALUATED / self.rates["evaluation"].median if "evaluation" in self.rates else None

    @property
    def evaluation_share(self) -> float | None:
        """Time of evaluating 3,000 people over that of training a short trial."""
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


def beginning_steps(device: str) -> int:
    """How many steps show that a trial runs at its pace: on CUDA, until a graph is recorded and has been replayed."""
    return 2 if device == "cpu" else 8


def _beginnings(task: Task, slow: bool) -> tuple[float, Spread]:
    """Seconds that the first trial of a process needs until it runs, and those of the later ones.

    Args:
        task: what to begin.
        slow: whether a step takes too long to be done for it: it is the time until the first forward pass.
    """
    steps = 0 if slow else beginning_steps(task.device)
    apart = SubprocessWorkload(partial(TrialStartup, task), torch.get_num_threads())
    try:
        apart.settle()
        first = apart.seconds(steps)
        began, later = time.monotonic(), [apart.seconds(steps)]
        while len(later) < _LATER and time.monotonic() - began < _LONG:
            later.append(apart.seconds(steps))
        return first, Spread.of(later)
    finally:
        apart.close()


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

    In turns, on one and the same device: the bare step; the bare step in plain PyTorch; full training; the plain loop,
    with ``cores`` DataLoader workers; evaluation. On a CPU, full training also runs in ``cores`` processes of one
    thread each, as a search uses the cores, or in one of ``cores`` threads where memory is not enough for them; and the
    plain loop with one thread and with ``cores``: of the two, the faster one counts.

    Args:
        name: of the network, for the record.
        task: what to train; its architecture already has its final widths.
        width_scale: for the record.
        rates: of the device.
        trial_images: of a short trial.
        seconds: for each way of training.
        rounds: that they take turns.
        cores: of this machine that are used.
    """
    release_memory()
    device = torch.device(task.device)
    batch, size = task.schedule.batch, (task.input_size, task.input_size)
    joints = len(task.people.skeleton.joints)
    cost = network_cost(task.architecture, joints, size)
    case = partial(Case, name, task.input_size, width_scale, batch, cost.params, cost.madds, trial_images=trial_images)
    nothing = case(rates={}, ratios={}, floor=None, first=None, later=None)
    on_cpu = device.type == "cpu"
    need, free = task.memory, free_memory(device)
    if on_cpu:  # those who stand by, with their DataLoaders' workers, hold little else than a process without tensors
        free -= (1 + 2 * (1 + cores)) * process_memory(0, device)
    if need > free:
        return replace(nothing, skipped=f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    together = cores * need <= free
    images = torch.empty((batch, 3, *size), device="meta")
    moved = convolution_bytes(task.network().to("meta"), images, training_dtype(device))
    least = roofline(cost.madds * batch, moved, rates)
    # What bare step and full training keep here, and each of the processes beside them.
    large = on_cpu and (3 + cores) * need > free
    try:
        first, later = _beginnings(task, slow=least.seconds > _SLOW)
        with ExitStack() as stack:
            apart: list[SubprocessWorkload | ConcurrentWorkloads] = []
            if on_cpu:
                training = partial(FullTraining, task)
                apart.append(
                    ConcurrentWorkloads(training, cores, trimmed=large)
                    if together
                    else SubprocessWorkload(training, cores, trimmed=large)
                )
            loops = sorted({1, cores}) if on_cpu else [cores]
            apart += [
                SubprocessWorkload(partial(DataLoaderLoop, task, cores), threads, ours=False, trimmed=large)
                for threads in loops
            ]
            for each in apart:
                stack.callback(each.close)
            for each in apart:
                each.settle()

            def here(make: Callable[[], Workload]) -> Workload:
                rival = make()
                stack.callback(rival.close)
                return rival

            warm = 1 if on_cpu else 5  # a CUDA graph is recorded in the fourth
            turn = partial(Turn, images=batch, large=large)
            turns = {
                "bare": turn(here(lambda: FixedBatchStep(task, plain=False)), warm=warm),
                "plain step": turn(here(lambda: FixedBatchStep(task, plain=True)), warm=warm),
                "full": turn(here(lambda: FullTraining(task)), warm=warm),
            }
            if on_cpu:
                turns["full on all cores"] = turn(apart[0], warm=cores, multiple=cores if together else 1)
            for threads, loop in zip(loops, apart[-len(loops) :], strict=True):
                turns[plain_loop(threads)] = turn(loop, warm=_AHEAD * cores, multiple=1 if large else cores)
            shown = min(len(task.people), 32) if on_cpu else len(task.people)
            turns["evaluation"] = turn(here(lambda: EvaluationWorkload(task, shown)), images=shown)
            timed = take_turns(turns, seconds, rounds)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return replace(nothing, skipped=f"out of memory: {str(error).strip().splitlines()[-1]}")
    return case(
        rates={way: Spread.of(values) for way, values in timed.items()},
        ratios=ratios_of(timed),
        floor=least,
        first=first,
        later=later,
    )
