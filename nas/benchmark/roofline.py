"""Roofline model: the peak rates of a device, and the least time of a training step at these rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from nas.training.devices import training_dtype

BACKWARD = 3
"""Multiply-adds of a training step relative to a forward pass: the gradients of input and weights take as many each."""

_REPEATS = 5  # of which the median counts


@dataclass(frozen=True)
class Rates:
    """Measured peak rates of a device.

    Attributes:
        madds: multiply-adds per second in a large matrix product of the dtype that networks are trained in.
        bytes: read and written per second in a copy too large for any cache.
        dtype: of the product.
    """

    madds: float
    bytes: float
    dtype: str


@dataclass(frozen=True)
class Roofline:
    """The least time of a training step.

    Attributes:
        madds_seconds: multiply-adds of forward and backward, at the device's rate.
        bytes_seconds: bytes that convolutions read and write, at the device's rate.
        seconds: the larger of both.
    """

    madds_seconds: float
    bytes_seconds: float

    @property
    def seconds(self) -> float:
        """The larger of both."""
        return max(self.madds_seconds, self.bytes_seconds)


def measure_rates(device: torch.device) -> Rates:
    """Measure a device, with PyTorch's current number of threads; takes about a second."""
    dtype = training_dtype(device)
    side, elements = (8192, 2**29) if device.type == "cuda" else (1536, 2**26)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty(side, side, device=device, dtype=dtype)
    source = torch.zeros(elements, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    return Rates(
        side**3 / _seconds(lambda: torch.mm(a, b, out=product), device),
        2 * 4 * elements / _seconds(lambda: target.copy_(source), device),
        str(dtype).removeprefix("torch."),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - started

    once()
    return median(once() for _ in range(_REPEATS))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def convolution_bytes(network: nn.Module, images: Tensor, dtype: torch.dtype) -> int:
    """Bytes that the convolutions of one training step read and write, as if everything else were fused into them.

    The forward pass reads the input and writes the output; the backward pass reads the output's gradient twice (for
    the input's gradient and for the weights') and the input again, and writes the input's gradient: three transfers
    each. The weights are three transfers, too.

    Args:
        network: run once, without gradients, in evaluation mode; its mode is restored.
        images: (N, 3, H, W), normalized.
        dtype: of activations in training.
    """
    elements = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elements
        elements += inputs[0].numel() + output.numel() + sum(p.numel() for p in module.parameters())

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return 3 * elements * dtype.itemsize


def roofline(madds: int, moved_bytes: int, rates: Rates) -> Roofline:
    """The least time of a training step.

    Args:
        madds: of the forward pass of a whole batch.
        moved_bytes: see :func:`convolution_bytes`.
        rates: of the device.
    """
    return Roofline(BACKWARD * madds / rates.madds, moved_bytes / rates.bytes)
