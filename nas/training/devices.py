"""Which device a command trains and predicts on."""

from __future__ import annotations

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
