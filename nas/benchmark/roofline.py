"""What a device can do at best, and so the least time that a training step could take on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from nas.training.devices import training_dtype

BACKWARD = 3
"""Multiply-adds of a training step over those of a forward pass: a gradient for the input, and one for the weights."""

_COPIES = 5  # of each run, the median of which counts


@dataclass(frozen=True)
class Rates:
    """What a device was seen to do.

    Attributes:
        madds: multiply-adds a second in a large matrix product of the dtype that networks are trained in.
        bytes: a second, read and written together, in a copy too large for any cache.
        dtype: of the product.
    """

    madds: float
    bytes: float
    dtype: str


@dataclass(frozen=True)
class Roofline:
    """The least time of a training step.

    Attributes:
        madds_seconds: multiply-adds of forward and backward over the device's matrix rate.
        bytes_seconds: bytes of convolutions over the device's copy rate.
        seconds: the larger one.
    """

    madds_seconds: float
    bytes_seconds: float

    @property
    def seconds(self) -> float:
        """The larger one."""
        return max(self.madds_seconds, self.bytes_seconds)


def measure_rates(device: torch.device) -> Rates:
    """Measure the device at hand, with as many threads as PyTorch has now; takes about a second."""
    dtype = training_dtype(device)
    side, long = (8192, 2**29) if device.type == "cuda" else (1536, 2**26)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty(side, side, device=device, dtype=dtype)
    source = torch.zeros(long, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    return Rates(
        side**3 / _seconds(lambda: torch.mm(a, b, out=product), device),
        2 * 4 * long / _seconds(lambda: target.copy_(source), device),
        str(dtype).removeprefix("torch."),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        return time.perf_counter() - began

    once()
    return median(once() for _ in range(_COPIES))


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def convolution_bytes(network: nn.Module, images: Tensor, dtype: torch.dtype) -> int:
    """Bytes that the convolutions of one training step read and write, were all else done on the way for nothing.

    The forward pass reads the input and writes the output; the backward pass reads the output's gradient twice (for
    the input's gradient and for the weights') and the input again, and writes the input's gradient: three times each.
    Weights are three reads or writes too.

    Args:
        network: to look at; run once, without gradients, in evaluation mode, and left in the mode it was in.
        images: (N, 3, H, W), normalised.
        dtype: of activations in training.
    """
    elements = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal elements
        elements += given[0].numel() + made.numel() + sum(p.numel() for p in module.parameters())

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


def roofline(madds: int, moved: int, rates: Rates) -> Roofline:
    """The least time of a step.

    Args:
        madds: of the forward pass of a whole batch.
        moved: bytes, see :func:`convolution_bytes`.
        rates: of the device.
    """
    return Roofline(BACKWARD * madds / rates.madds, moved / rates.bytes)
