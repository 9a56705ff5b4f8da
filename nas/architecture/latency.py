"""How long a network takes on the device at hand: the median of many runs, with their spread."""

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
    """Attributes:
    median: milliseconds of one run.
    low: milliseconds; a tenth of the runs were faster.
    high: milliseconds; a tenth were slower.
    runs: that were timed.
    """

    median: float
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Latency:
    """Attributes:
    forward: prediction, in evaluation mode.
    batch: pictures in it.
    step: forward and backward of a training step, without the optimiser.
    step_batch: pictures in it, at least 2: batch norm cannot train on one value.
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
    """Time a freshly built network in single precision, forward and forward with backward.

    Training time follows the number of layers that are launched rather than the parameters (document B): measure it.

    Args:
        architecture: what to build.
        joints: J.
        input_size: (H, W) of the picture in pixels.
        device: "cpu" or "cuda".
        batch: pictures at a time.
        seconds: to spend on each of the two, warming up not counted; at least 10 runs.

    Raises:
        ValueError: the network cannot be built at this input size.
    """
    step_batch = max(2, batch)
    network, pictures = _ready(architecture, joints, input_size, device, step_batch)
    few = pictures[:batch]

    def forward() -> None:
        with torch.inference_mode():
            network(few)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        torch.stack([maps.float().square().mean() for maps in network(pictures).heatmaps]).sum().backward()

    network.eval()
    predicting = time_runs(forward, device, seconds)
    network.train()
    training = time_runs(step, device, seconds)
    on_cpu = device == "cpu"
    name = "CPU" if on_cpu else torch.cuda.get_device_name()
    return Latency(predicting, batch, training, step_batch, name, torch.get_num_threads() if on_cpu else 0)


def forward_latency(
    architecture: Architecture, joints: int, input_size: tuple[int, int], device: str, seconds: float = 0.4
) -> Timing:
    """Time the prediction of one picture, on a CPU with one thread, as :func:`measure_latency` does.

    Args:
        architecture: what to build.
        joints: J.
        input_size: (H, W) of the picture in pixels.
        device: "cpu" or "cuda", or one of several such as "cuda:1".
        seconds: to spend, warming up not counted; at least 10 runs.
    """
    network, picture = _ready(architecture, joints, input_size, device, 1)
    network.eval()

    def forward() -> None:
        with torch.inference_mode():
            network(picture)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return time_runs(forward, device, seconds)
    finally:
        torch.set_num_threads(threads)


def _ready(
    architecture: Architecture, joints: int, input_size: tuple[int, int], device: str, batch: int
) -> tuple[nn.Module, Tensor]:
    """A freshly built network and pictures for it, as they are fastest."""
    network: nn.Module = build_network(architecture, joints, input_size, seed=0).to(device)
    pictures = torch.rand((batch, 3, *input_size), device=device).to(memory_format=torch.channels_last)
    return network.to(memory_format=torch.channels_last), pictures  # type: ignore[call-overload]


def device_name(device: str) -> str:
    """What a device calls itself.

    Args:
        device: "cpu" or "cuda", or one of several such as "cuda:1".
    """
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        about = ""
    models = [line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def time_runs(run: Callable[[], object], device: str, seconds: float) -> Timing:
    """Time something again and again, for so many seconds and at least 10 times; the warming up is not counted.

    Args:
        run: what to time.
        device: "cpu" or "cuda", which is waited for.
        seconds: to spend.
    """

    def once() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began)

    for _ in range(2):  # allocators and kernel choices settle
        once()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 10 or (time.perf_counter() < end and len(took) < 1000):
        took.append(once())
    tenths = statistics.quantiles(took, n=10, method="inclusive")
    return Timing(statistics.median(took), tenths[0], tenths[-1], len(took))
