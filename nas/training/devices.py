"""Which device a command trains and predicts on."""

from __future__ import annotations

import gc

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


def release_memory() -> None:
    """Give back what nobody holds any more, so that something smaller can be tried."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
