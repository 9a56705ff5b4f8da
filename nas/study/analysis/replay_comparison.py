"""Policies (a sampler with a stopping rule) replayed on one record over many seeds, in parallel processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from nas.consent import allow_code, allowed_code
from nas.errors import UserError
from nas.study.analysis.replay import STOPPINGS, BenchmarkTable, Replayed, TabularBenchmark, stopping_named
from nas.study.config import SAMPLERS
from nas.study.space.search_space import SearchSpace
from nas.study.space.space_file import read_space


@dataclass(frozen=True)
class ReplaySettings:
    """How every policy is replayed.

    Attributes:
        trials: of each replay.
        seeds: replays of each policy, with seeds from 0 on.
        quantile: of the gains that the stopping rule "reach" expects.
        workers: processes.
    """

    trials: int
    seeds: int
    quantile: float
    workers: int


def parse_policy(policy: str) -> tuple[str, str]:
    """The sampler and the stopping rule of a policy such as ``tpe`` or ``front+reach``.

    Raises:
        UserError: one of them is unknown.
    """
    sampler, _, stopping = policy.partition("+")
    if sampler not in SAMPLERS or (stopping or "never") not in STOPPINGS:
        raise UserError(
            f"--policy {policy}: must be one of {', '.join(SAMPLERS)}, "
            f"alone or with +{' or +'.join(s for s in STOPPINGS if s != 'never')}"
        )
    return sampler, stopping or "never"


def replay_policies(
    record: BenchmarkTable,
    space: SearchSpace,
    policies: Sequence[str],
    settings: ReplaySettings,
    after_replay: Callable[[int], None] = lambda done: None,
) -> dict[str, list[Replayed]]:
    """Replay each policy under each seed.

    Args:
        record: recorded results.
        space: the one that they were drawn from.
        policies: as :func:`parse_policy` takes them.
        settings: trials, seeds, processes.
        after_replay: called with the number of replays that have ended.

    Returns:
        The replays of each policy, by seed.
    """
    jobs = [(policy, seed, settings) for policy in policies for seed in range(settings.seeds)]
    results: dict[str, list[Replayed]] = {policy: [] for policy in policies}
    with ProcessPoolExecutor(
        settings.workers, get_context("spawn"), _initialize_worker, (record, space.path, allowed_code())
    ) as pool:  # fmt: skip
        for done, (job, replayed) in enumerate(zip(jobs, pool.map(_replay, jobs), strict=True), start=1):
            results[job[0]].append(replayed)
            after_replay(done)
    return results


_benchmark: TabularBenchmark | None = None
"""What a worker process replays."""


def _initialize_worker(record: BenchmarkTable, space: Path, allowed: Sequence[str]) -> None:
    global _benchmark
    allow_code(allowed)
    torch.set_num_threads(1)
    _benchmark = TabularBenchmark(record, read_space(space))


def _replay(job: tuple[str, int, ReplaySettings]) -> Replayed:
    policy, seed, settings = job
    assert _benchmark is not None
    sampler, stopping = parse_policy(policy)
    rule = stopping_named(stopping, _benchmark.record, settings.quantile)
    return _benchmark.replay(sampler, rule, seed, settings.trials)
