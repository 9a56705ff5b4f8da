"""Checkpoints: written whole or not at all, readable without running code from the file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture
from nas.data.people import Skeleton
from nas.errors import UserError
from nas.training.losses import Losses
from nas.training.schedule import Schedule

FORMAT = "hourglass-nas checkpoint 1"


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` once it is whole and on the disk."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a power cut."""
    with _replacing(path) as file:
        file.write(data)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Save tensors and plain values; atomic."""
    with _replacing(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this project; only tensors and plain values are accepted.

    Raises:
        UserError: no such file, or not one of our checkpoints.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give the path of a .pt file that nas.retrain wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not compare checksums
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        content = torch.load(path, map_location=device, weights_only=True)
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
        Schedule.from_dict(content["schedule"])  # what callers read from it is there
    except (AttributeError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its parts do not make a network ({reason}); train again") from error
    return network.to(device).eval(), content


def description(
    architecture: Architecture, losses: Losses, schedule: Schedule, skeleton: Skeleton, input_size: int
) -> dict[str, Any]:
    """What makes a checkpoint usable on its own: the network's structure and how its maps are read."""
    return {
        "architecture": architecture.to_dict(),
        "losses": losses.to_dict(),
        "schedule": schedule.to_dict(),
        "skeleton": skeleton.to_json(),
        "input_size": [input_size, input_size],
    }
