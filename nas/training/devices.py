"""Which device a command trains and predicts on, and how it treats its memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import psutil
import torch

from nas.errors import UserError


def device_named(name: str) -> str:
    """The device that ``--device`` means.

    Args:
        name: "cpu", "cuda", or "auto": CUDA where there is one.

    Returns:
        "cpu" or "cuda".

    Raises:
        UserError: another name, or there is no CUDA device here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device here; use --device cpu")
    return "cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda"


def training_dtype(device: torch.device) -> torch.dtype:
    """What convolutions compute in during training: bfloat16 on CUDA, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """In which networks are trained and evaluated: :func:`training_dtype` where that is a lower precision."""
    dtype = training_dtype(device)
    # No cache: a weight that was cast before a CUDA graph was recorded would be no part of it.
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, or on this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory, or the machine's, is full."""
    full = "not enough memory" in str(error) or "can't allocate memory" in str(error)  # torch's, on a CPU
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (isinstance(error, RuntimeError) and full)


_KEEP = {
    -4: 0,  # M_MMAP_MAX: nothing beside the heap
    -1: -1,  # M_TRIM_THRESHOLD: never give back unasked
    -2: 64 << 20,  # M_TOP_PAD: grow by so much at least
    -8: 1,  # M_ARENA_MAX: one heap for all threads
}


def use_threads(threads: int) -> None:
    """Make this process ready to compute on a CPU: PyTorch's threads, and a heap that keeps what is freed.

    By default glibc takes every tensor above 32 MB from the system and gives it back, so that each step touches all its
    pages anew; and threads have heaps of their own, from 64 MB on. Kept, a step of ``shuffle`` takes 0.86 of the time
    at 64×64 and 0.68 at 256×256, one of ``hg2`` 0.66 to 0.85 there (measured in a virtual machine, where a page fault
    costs 2 to 3 µs). :func:`trim_heap` gives back what is kept. Other C libraries are left as they are.
    """
    torch.set_num_threads(threads)
    mallopt = _c_library("mallopt")
    if mallopt is not None:
        for parameter, value in _KEEP.items():
            mallopt(parameter, value)


def release_memory() -> None:
    """Give back what nobody holds any more, so that something smaller can be tried."""
    gc.collect()
    trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trim_heap(above: int = 0) -> None:
    """Give back what the heap keeps, if the process holds more than so many bytes; the next step pays for new pages."""
    trim = _c_library("malloc_trim")
    if trim is not None and psutil.Process().memory_info().rss > above:
        trim(0)


def _c_library(name: str) -> Callable[..., int] | None:
    """A function that glibc has and other C libraries may not."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # Windows has no library without a name
        return None
