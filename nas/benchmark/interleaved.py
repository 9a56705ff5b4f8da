"""Interleaved timing: workloads alternate in rounds, so that what slows the machine down slows all of them down."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.benchmark.workloads import Workload
from nas.training.devices import release_memory


@dataclass(frozen=True)
class Spread:
    """Distribution of a value over the rounds.

    Attributes:
        median: of the rounds.
        low: first decile.
        high: ninth decile.
        rounds: number of rounds.
    """

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The distribution of one value per round."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), deciles[0], deciles[-1], len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Turn:
    """A workload that takes part in :func:`take_turns`.

    Attributes:
        workload: to time.
        images: per step.
        warm: warm-up steps, in addition to the first one.
        multiple: it runs multiples of this many steps.
        large: the workloads do not fit in memory together. Each turn then starts with ``multiple`` untimed steps and
            ends with the release of unused memory.
    """

    workload: Workload
    images: int
    warm: int = 1
    multiple: int = 1
    large: bool = False


def take_turns(turns: Mapping[str, Turn], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Time workloads one after the other, round by round.

    Args:
        turns: the workloads, in this order.
        seconds: for each workload, over all rounds; every round is at least one step.
        rounds: number of rounds.

    Returns:
        Images per second of each workload, one value per round.
    """

    def steps_per_round(turn: Turn, step_seconds: float) -> int:
        return turn.multiple * max(1, round(seconds / rounds / step_seconds / turn.multiple))

    steps = {}
    for name, turn in turns.items():
        if turn.large:
            continue
        step_seconds = turn.workload.run(1)
        done, spent = 0, 0.0
        while done < turn.warm and spent < seconds:  # slow workloads need fewer warm-up steps
            step_seconds = turn.workload.run(1)
            done, spent = done + 1, spent + step_seconds
        steps[name] = steps_per_round(turn, step_seconds)
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            if turn.large:
                steps[name] = steps_per_round(turn, turn.workload.run(turn.multiple) / turn.multiple)
            rates[name].append(steps[name] * turn.images / turn.workload.run(steps[name]))
            if turn.large:
                release_memory()
    return rates


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The ratio of two workloads' rates, round by round."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])
