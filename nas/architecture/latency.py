"""Latency of a network on this machine: the median of many runs, with their spread."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.architecture.hourglass import build_network
from nas.architecture.spec import Architecture


@dataclass(frozen=True)
class Timing:
    """Distribution of the duration of a run, in milliseconds.

    Attributes:
        median: of the runs.
        low: first decile.
        high: ninth decile.
        runs: number of runs.
    """

    median: float
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Latency:
    """Latency of a network.

    Attributes:
        forward: of prediction, in evaluation mode.
        batch: images per prediction.
        step: of a training step's forward and backward passes, without the optimizer.
        step_batch: images per training step, at least 2: batch norm cannot be trained on one value.
        device: its name.
        threads: of the CPU; 0 on a GPU.
    """

    forward: Timing
    batch: int
    step: Timing
    step_batch: int
    device: str
    threads: int


def measure_latency(
    architecture: Architecture,
    joints: int,
    input_size: tuple[int, int],
    device: str,
    batch: int = 1,
    seconds: float = 1.0,
) -> Latency:
    """Time a new network in single precision: the forward pass, and forward with backward.

    Training time depends more on the number of layers than on the number of parameters (Asokan et al.).

    Args:
        architecture: of the network.
        joints: J.
        input_size: (H, W) of the images.
        device: "cpu" or "cuda".
        batch: images per forward pass.
        seconds: to spend on each of the two, without warm-up; at least 10 runs.

    Raises:
        ValueError: the network cannot be built at this input size.
    """
    step_batch = max(2, batch)
    network, images = _build(architecture, joints, input_size, device, step_batch)
    first = images[:batch]

    def forward() -> None:
        with torch.inference_mode():
            network(first)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        torch.stack([maps.float().square().mean() for maps in network(images).heatmaps]).sum().backward()

    network.eval()
    forward_timing = time_runs(forward, device, seconds)
    network.train()
    step_timing = time_runs(step, device, seconds)
    on_cpu = device == "cpu"
    name = "CPU" if on_cpu else torch.cuda.get_device_name()
    return Latency(forward_timing, batch, step_timing, step_batch, name, torch.get_num_threads() if on_cpu else 0)


def forward_latency(
    architecture: Architecture, joints: int, input_size: tuple[int, int], device: str, seconds: float = 0.4
) -> Timing:
    """Time the prediction of one image, on a CPU with one thread, as :func:`measure_latency` does.

    Args:
        architecture: of the network.
        joints: J.
        input_size: (H, W) of the images.
        device: "cpu" or "cuda", or one of several, such as "cuda:1".
        seconds: to spend, without warm-up; at least 10 runs.
    """
    network, image = _build(architecture, joints, input_size, device, 1)
    network.eval()

    def forward() -> None:
        with torch.inference_mode():
            network(image)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return time_runs(forward, device, seconds)
    finally:
        torch.set_num_threads(threads)


def _build(
    architecture: Architecture, joints: int, input_size: tuple[int, int], device: str, batch: int
) -> tuple[nn.Module, Tensor]:
    """A new network and images for it, channels last."""
    network: nn.Module = build_network(architecture, joints, input_size, seed=0).to(device)
    images = torch.rand((batch, 3, *input_size), device=device).to(memory_format=torch.channels_last)
    return network.to(memory_format=torch.channels_last), images  # type: ignore[call-overload]


def device_name(device: str) -> str:
    """The model name of a device.

    Args:
        device: "cpu" or "cuda", or one of several, such as "cuda:1".
    """
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        cpuinfo = ""
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def time_runs(run: Callable[[], object], device: str, seconds: float) -> Timing:
    """Time a function repeatedly, at least 10 and at most 1,000 times, after two untimed calls.

    Args:
        run: to time.
        device: "cpu" or "cuda"; runs end when the device has finished.
        seconds: to spend, without warm-up.
    """

    def once() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - started)

    for _ in range(2):  # warm-up of allocators and kernel selection
        once()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < 10 or (time.perf_counter() < end and len(durations) < 1000):
        durations.append(once())
    deciles = statistics.quantiles(durations, n=10, method="inclusive")
    return Timing(statistics.median(durations), deciles[0], deciles[-1], len(durations))
