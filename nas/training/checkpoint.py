"""Checkpoint files: written atomically, and loaded without executing code from the file."""

from __future__ import annotations

import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from upath import UPath

from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture
from nas.consent import CodeNotAllowedError
from nas.data.skeletons import Skeleton
from nas.errors import UserError
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

FORMAT = "hourglass-nas checkpoint 1"

AnyPath = Path | UPath
"""A path on this machine, or a URL that fsspec understands."""


def write_atomically(path: AnyPath, data: bytes | memoryview) -> None:
    """Write a file so that readers see the old content or the new one; on a local disk, even after a power failure.

    Raises:
        OSError: it cannot be written.
    """
    part: Any = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        if isinstance(path, Path):
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        else:
            part.write_bytes(bytes(data))
            part.rename(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            part.unlink(missing_ok=True)
        raise


def save_checkpoint(path: AnyPath, content: dict[str, Any]) -> None:
    """Save tensors and plain values atomically; a missing folder is created.

    Raises:
        OSError: it cannot be written.
    """
    buffer = io.BytesIO()  # torch.save to a file raises an unspecific error when the disk is full
    torch.save({"format": FORMAT, **content}, buffer)
    try:
        write_atomically(path, buffer.getbuffer())
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: AnyPath, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Load the content of a checkpoint: tensors and plain values only.

    Raises:
        UserError: there is no such file, or it is not a checkpoint of this project.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give the path of a .pt file written by nas.retrain")
    try:
        data = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(data) as archive:
            damaged = archive.testzip()  # torch.load does not verify checksums
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        data.seek(0)
        content = torch.load(data, map_location=device, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged files raise errors of any kind
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "give a .pt file written by nas.retrain; if this is one, delete it and train again"
        raise UserError(f"{path}: not a readable checkpoint ({first}); {remedy}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version ({FORMAT}); train again with this version")
    return content


def load_network(path: Path, device: str | torch.device = "cpu") -> tuple[HourglassNetwork, dict[str, Any]]:
    """Load a network with its averaged weights, in evaluation mode, and the checkpoint's content.

    Raises:
        UserError: the checkpoint cannot be read, or its content does not make a network.
    """
    content = load_checkpoint(path, device)
    try:
        height, width = content["input_size"]
        skeleton = Skeleton.from_json(content["skeleton"])
        network = build_network(Architecture.from_dict(content["architecture"]), len(skeleton.joints), (height, width))
        network.load_state_dict(content["average"])
        ScheduleConfig.from_dict(content["schedule"])  # validated here for the callers
    except CodeNotAllowedError as error:
        raise UserError(f"{path}: {error}") from error
    except (AttributeError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its content does not make a network ({reason}); train again") from error
    return network.to(device).eval(), content


def checkpoint_metadata(
    architecture: Architecture, losses: Losses, schedule: ScheduleConfig, skeleton: Skeleton, input_size: int
) -> dict[str, Any]:
    """The metadata that makes a checkpoint self-contained: how to build the network and decode its heatmaps."""
    return {
        "architecture": architecture.to_dict(),
        "losses": losses.to_dict(),
        "schedule": schedule.to_dict(),
        "skeleton": skeleton.to_json(),
        "input_size": [input_size, input_size],
    }
