"""Where a result comes from: commit, package versions, machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from nas import __version__
from nas.architecture.latency import device_name
from nas.study.files import CHECKOUT


def record() -> Mapping[str, Any]:
    """Commit, package versions, Python version and device of this process, as plain values."""
    packages = {"hourglass-nas": __version__}
    for name in ("torch", "optuna", "optuna-dashboard", "numpy", "h5py", "opencv-python", "fvcore", "sqlalchemy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    device = device_name("cuda" if torch.cuda.is_available() else "cpu")
    return {"commit": _commit(), "packages": packages, "python": platform.python_version(), "device": device}


def _commit() -> str:
    if not (CHECKOUT / ".git").exists():
        return "unknown"  # installed: git would describe whatever repository lies around the package
    try:
        found = subprocess.run(
            ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
