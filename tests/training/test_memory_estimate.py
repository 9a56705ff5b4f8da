"""Predicted memory beside what PyTorch's own records show."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture, BlockChoice
from nas.training.losses import Losses, total_loss
from nas.training.memory_estimate import estimate_memory
from nas.training.optimizer import optimizer_for
from nas.training.schedule import Optimizer, ScheduleConfig
from nas.training.weight_ema import WeightEMA


def measured_peak(network: HourglassNetwork, schedule: ScheduleConfig) -> int:
    """Bytes that PyTorch's CPU allocator holds at most during two steps."""
    size, batch = network.input_size[0], schedule.batch
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        learner = deepcopy(network).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        average, optimizer = WeightEMA(learner, 10.0), optimizer_for(learner, schedule)
        images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        target, labelled = torch.rand(batch, 16, size // 4, size // 4), torch.ones(batch, 16, dtype=torch.bool)
        for step in range(2):
            optimizer.zero_grad(set_to_none=True)
            total_loss(learner(images), target, labelled, Losses(), schedule.loss).backward()
            optimizer.step()
            average.set_decay(step)
            average.update()
    result = profiled.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in result.events() if e.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("kind", "optimizer", "batch"), [("bottleneck", "adamw", 2), ("shuffle", "rmsprop", 16), ("dice", "adamw", 8)]
)
def test_the_estimate_is_at_most_30_percent_too_high(kind: str, optimizer: Optimizer, batch: int) -> None:
    network = build_network(Architecture(stem=16, width=32, stacks=1, block=BlockChoice(kind)), 16, (64, 64), seed=0)
    schedule = ScheduleConfig(2 * batch, 1, batch, optimizer=optimizer)
    predicted = estimate_memory(network, Losses(), schedule, 64, 16, torch.float32).peak(batch)
    assert 1.0 <= predicted / measured_peak(network, schedule) <= 1.3


def test_estimating_leaves_the_network_unchanged(tiny: Architecture) -> None:
    network = build_network(tiny, 16, (32, 32), seed=0)
    before = deepcopy(network.state_dict())
    full = estimate_memory(network, Losses(), ScheduleConfig(8, 1, 8), 32, 16, torch.float32)
    half = estimate_memory(network, Losses(), ScheduleConfig(8, 1, 8), 32, 16, torch.bfloat16)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (half.fixed, half.per_image < 0.6 * full.per_image) == (full.fixed, True)
