"""Checkpoint files: written atomically, and loaded without executing code from the file."""

from __future__ import annotations

import io
import os
import pickle
import stat
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from upath import UPath

from nas.architecture.hourglass import HourglassNetwork, build_network
from nas.architecture.spec import Architecture
from nas.consent import CodeNotAllowedError
from nas.data.skeletons import Skeleton
from nas.errors import UserError
from nas.training.losses import Losses
from nas.training.schedule import ScheduleConfig

FORMAT = "hourglass-nas checkpoint 1"
MAX_INPUT = 8192
"""Largest height and width of a network's input, in pixels."""

AnyPath = Path | UPath
"""A path on this machine, or a URL that fsspec understands."""


def is_special(path: Path) -> bool:
    """Whether something other than a regular file or a directory has this path: a device, a pipe, a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_atomically(path: AnyPath, data: bytes | memoryview) -> None:
    """Write a file so that readers see the old content or the new one; on a local disk, even after a power failure.

    A symbolic link stays one: the file that it names is replaced. A device or a pipe is written to, not replaced.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Path):
        if is_special(path):
            with open(path, "wb") as file:
                file.write(data)
            return
        path = Path(os.path.realpath(path))
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
            _check_entries(archive)
            damaged = archive.testzip()  # torch.load does not verify checksums
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        data.seek(0)
        content = torch.load(data, map_location=device, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged files raise errors of any kind
        if isinstance(error, pickle.UnpicklingError):
            # PyTorch's own message is a page of advice on how to load such a file nevertheless.
            first = "it holds Python objects other than tensors and plain values, or is damaged"
        else:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "give a .pt file written by nas.retrain; if this is one, delete it and train again"
        raise UserError(f"{path}: not a readable checkpoint ({first}); {remedy}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version ({FORMAT}); train again with this version")
    return content


def _check_entries(archive: zipfile.ZipFile) -> None:
    """Check that no entry is compressed: torch.save compresses none, and a small file cannot become a large one.

    Raises:
        zipfile.BadZipFile: an entry is compressed.
    """
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise zipfile.BadZipFile(f"{entry.filename!r} is compressed, which torch.save never does")


def _check_weights(stored: Any, architecture: Architecture, joints: int, input_size: tuple[int, int]) -> None:
    """Check that stored tensors are the weights of an architecture, before anything of its size is allocated.

    Raises:
        ValueError: a tensor is missing, not expected, of another shape, without its data, or not finite.
    """
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise ValueError("its weights are not tensors by name")
    # Every hourglass has a head, and maps cannot be halved more often than this: not even modules are built for more.
    if architecture.stacks > len(stored) or architecture.depth > max(input_size).bit_length():
        raise ValueError(
            f"{architecture.stacks} stacks of depth {architecture.depth} are declared, {len(stored)} tensors stored"
        )
    if all(":" not in block.kind for block in (*architecture.level_blocks(), architecture.trunk)):
        with torch.device("meta"):  # a block of one's own need not support it
            declared = build_network(architecture, joints, input_size).state_dict()
        for name in [*declared, *stored]:
            if name not in stored or name not in declared:
                raise ValueError(f"{name!r} is {'declared but not stored' if name in declared else 'not declared'}")
            if (given := tuple(stored[name].shape)) != (wanted := tuple(declared[name].shape)):
                raise ValueError(f"{name!r} is declared with shape {wanted} and stored with {given}")
            if stored[name].is_floating_point() != declared[name].is_floating_point():
                raise ValueError(f"{name!r} is declared as {declared[name].dtype} and stored as {stored[name].dtype}")
    for name, tensor in stored.items():
        _check_tensor(name, tensor)


def _check_tensor(name: str, tensor: Tensor) -> None:
    """Check that a stored tensor holds all of its values, and that they are finite.

    Raises:
        ValueError: it does not.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError(f"{name!r} is not a plain tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name!r} has more values than are stored")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name!r} has values that are not finite")


def load_network(path: Path, device: str | torch.device = "cpu") -> tuple[HourglassNetwork, dict[str, Any]]:
    """Load a network with its averaged weights, in evaluation mode, and the checkpoint's content.

    Raises:
        UserError: the checkpoint cannot be read, or its content does not make a network.
    """
    content = load_checkpoint(path, device)
    try:
        height, width = content["input_size"]
        skeleton = Skeleton.from_json(content["skeleton"])
        if not (type(height) is type(width) is int and 0 < height == width <= MAX_INPUT):
            raise ValueError(f"input_size must be two equal integers from 1 to {MAX_INPUT}, not {[height, width]!r}")
        architecture = Architecture.from_dict(content["architecture"])
        _check_weights(content["average"], architecture, len(skeleton.joints), (height, width))
        network = build_network(architecture, len(skeleton.joints), (height, width))
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
