"""Devices: by name, their precision, and their memory."""

from __future__ import annotations

import gc
import os

import psutil
import torch

from nas.errors import UserError
from nas.training.allocator import retain_freed_memory, trim_heap


def resolve_device(name: str) -> str:
    """Resolve the value of ``--device``.

    Args:
        name: "cpu", "cuda", or "auto" for CUDA where available.

    Returns:
        "cpu" or "cuda".

    Raises:
        UserError: another name, or CUDA is not available.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    return "cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda"


def training_dtype(device: torch.device) -> torch.dtype:
    """The dtype of activations in training: bfloat16 on CUDA, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocast to :func:`training_dtype`, for training and evaluation; disabled where that is float32."""
    dtype = training_dtype(device)
    # Without the cache: a weight that was cast before a CUDA graph is recorded would not be cast again by the graph.
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False)


def free_memory(device: torch.device) -> int:
    """Free bytes of a CUDA device, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error was raised because the memory of a device or of the machine is exhausted."""
    cpu_allocation = "not enough memory" in str(error) or "can't allocate memory" in str(error)  # PyTorch's messages
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and cpu_allocation
    )


def use_threads(threads: int) -> None:
    """Prepare this process to compute on a CPU: PyTorch's number of threads, and a heap that keeps freed memory.

    Raises:
        UserError: far more threads than this machine has cores.
    """
    cores = os.cpu_count() or 1
    if threads > max(16, 4 * cores):  # some more than there are cores do no harm; thousands end the process
        raise UserError(f"--threads {threads}: this machine has {cores} cores; use at most as many threads")
    torch.set_num_threads(threads)
    retain_freed_memory()


def release_memory() -> None:
    """Return unused memory of this process, on the CPU and on CUDA, so that a smaller allocation can be tried."""
    gc.collect()
    trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
