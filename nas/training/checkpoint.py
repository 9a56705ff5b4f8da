"""Checkpoints: written whole or not at all, readable without running code from the file."""

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
from nas.data.skeletons import Skeleton
from nas.errors import UserError
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

FORMAT = "hourglass-nas checkpoint 1"


AnyPath = Path | UPath
"""On a disk of this machine, or at a URL that fsspec understands."""


def write_atomically(path: AnyPath, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees the old one or the new one, on a disk also after a power cut."""
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
        with suppress(OSError):  # the first error says what is wrong
            part.unlink(missing_ok=True)
        raise


def save_checkpoint(path: AnyPath, content: dict[str, Any]) -> None:
    """Save tensors and plain values; atomic. A folder that was removed is made again.

    Raises:
        OSError: it cannot be written.
    """
    buffer = io.BytesIO()  # torch's own writer turns a disk that is full into an error without a name
    torch.save({"format": FORMAT, **content}, buffer)
    try:
        write_atomically(path, buffer.getbuffer())
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: AnyPath, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this project; only tensors and plain values are accepted.

    Raises:
        UserError: no such file, or not one of our checkpoints.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give the path of a .pt file that nas.retrain wrote")
    try:
        data = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(data) as archive:
            damaged = archive.testzip()  # torch does not compare checksums
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        data.seek(0)
        content = torch.load(data, map_location=device, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged bytes make the unpickler stumble in any way
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "give a .pt file that nas.retrain wrote; if this is one, delete it and train again"
        raise UserError(f"{path}: not a readable checkpoint ({first}); {remedy}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version ({FORMAT}); train again with this version")
    return content


def load_network(path: Path, device: str | torch.device = "cpu") -> tuple[HourglassNetwork, dict[str, Any]]:
    """The network of a checkpoint with its averaged weights, in evaluation mode, and the checkpoint's content.

    Raises:
        UserError: the checkpoint cannot be read, or what it holds does not make a network.
    """
    content = load_checkpoint(path, device)
    try:
        height, width = content["input_size"]
        skeleton = Skeleton.from_json(content["skeleton"])
        network = build_network(Architecture.from_dict(content["architecture"]), len(skeleton.joints), (height, width))
        network.load_state_dict(content["average"])
        ScheduleConfig.from_dict(content["schedule"])  # what callers read from it is there
    except (AttributeError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its parts do not make a network ({reason}); train again") from error
    return network.to(device).eval(), content


def checkpoint_metadata(
    architecture: Architecture, losses: Losses, schedule: ScheduleConfig, skeleton: Skeleton, input_size: int
) -> dict[str, Any]:
    """What makes a checkpoint usable on its own: the network's structure and how its maps are read."""
    return {
        "architecture": architecture.to_dict(),
        "losses": losses.to_dict(),
        "schedule": schedule.to_dict(),
        "skeleton": skeleton.to_json(),
        "input_size": [input_size, input_size],
    }
